"""Networks for the modules of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import queues
from testbed.netns import Rig
from testbed.network import Network

BRIDGE_FILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")


@pytest.fixture(scope="session")
def interop_tools(root_tools: None) -> None:
    """Fails where the real flanneld could not run."""
    # flanneld calls both at its start, whichever firewall it is told to use.
    missing = [tool for tool in ("iptables", "ip6tables") if shutil.which(tool) is None]
    if missing:
        pytest.fail(f"missing on the PATH: {', '.join(missing)}; `make setup` installs them")
    if not BRIDGE_FILTER.exists():
        pytest.fail(f"flanneld demands {BRIDGE_FILTER}: run `modprobe br_netfilter`")


@pytest.fixture(scope="module")
def mixed(interop_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Two flanneld and two tunneld hosts whose containers reach each other."""
    with Rig("interop", tmp_path_factory.mktemp("mixed")) as rig:
        network = Network(rig)
        for name in ("f1", "t1", "f2", "t2"):
            network.add(name)
        network.wait_connected()
        for host in network.of("flanneld"):
            queues.lengthen(host.space.run, host.running.pid)
        yield network

"""An IPv6 address of the underlay of which the kernel still asks whether another host has it.

Duplicate address detection (RFC 4862 §5.4) does not begin before the link has had a carrier since
it was set up, so that a test can hold it for as long as it wants.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from testbed.process import Process
from testbed.wait import wait_until
from tests.e2e.manager import Manager
from tests.e2e.single_host import SingleHost
from tunneld.control.status import render_text

pytestmark = pytest.mark.root

ADDRESS = "2001:db8::11"
WAITING = "waiting for an underlay address"


def config(backend: str) -> str:
    ipv6 = {"EnableIPv6": True, "IPv6Network": "fd00:10:5::/48"}
    return json.dumps({"Network": "10.5.0.0/16", **ipv6, "Backend": {"Type": backend}})


def start(
    host: SingleHost,
    tmp_path: Path,
    backend: str = "udp",
    datapath: str = "",
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Starts a daemon on a store that needs no link."""
    store = ("--store", f"sqlite:{tmp_path / 'store.db'}")
    path = tmp_path / "network.json"
    path.write_text(config(backend))
    assert host.tunneld("network", "set", str(path), *store).returncode == 0
    by = ("--datapath", datapath) if datapath else ()
    return host.start_daemon(*store, "--iface", "eth0", *by, environment=environment)


def is_tentative(host: SingleHost, address: str = ADDRESS) -> bool:
    return address in host.space.run("ip", "-6", "address", "show", "dev", "eth0", "tentative")


def hold(host: SingleHost) -> None:
    """Lets no detection begin on the underlay, from which all IPv6 addresses go, until `let_go`."""
    host.switch.run("ip", "link", "set", "port1", "down")
    host.space.run("ip", "link", "set", "eth0", "down")
    host.space.run("ip", "link", "set", "eth0", "up")


def let_go(host: SingleHost) -> None:
    host.switch.run("ip", "link", "set", "port1", "up")


@pytest.mark.parametrize(
    ("backend", "datapath"),
    [("udp", ""), ("vxlan", ""), ("vxlan", "kernel"), ("host-gw", "")],
)
def test_a_daemon_started_at_once_waits_for_the_address(
    host: SingleHost, manager: Manager, tmp_path: Path, backend: str, datapath: str
) -> None:
    hold(host)
    host.space.run("ip", "-6", "address", "add", f"{ADDRESS}/64", "dev", "eth0")
    daemon = start(host, tmp_path, backend, datapath, manager.environment)
    daemon.wait_for_output(WAITING)
    assert ADDRESS in daemon.output()
    assert is_tentative(host)
    problem = f"underlay address {ADDRESS} on eth0 is still tentative"
    # Without a program of its own: it might be up when the daemon's half minute is over.
    status = host.status()
    assert (status["state"], status["problems"]) == ("starting", [problem])
    assert f": starting\n  {problem}\n" in render_text(status)
    manager.wait_for(rf"^STATUS={WAITING}: {problem}$")
    assert not host.subnet_file.exists()

    let_go(host)
    status = host.wait_ready()
    assert status["problems"] == []
    assert not is_tentative(host)
    assert status["lease"]["public_ipv6"] == ADDRESS
    assert daemon.output().count(WAITING) == 1
    assert daemon.stop() == 0


def test_the_kernels_own_pace_is_waited_for(host: SingleHost, tmp_path: Path) -> None:
    wait_until(lambda: not is_tentative(host, "fe80::"), what="the link-local address")
    host.space.sysctl("net/ipv6/conf/eth0/dad_transmits", 5)
    host.space.run("ip", "-6", "address", "add", f"{ADDRESS}/64", "dev", "eth0")
    daemon = start(host, tmp_path)
    assert host.wait_ready()["lease"]["public_ipv6"] == ADDRESS
    assert daemon.stop() == 0


def test_a_running_daemon_moves_to_an_address_once_that_is_settled(
    host: SingleHost, tmp_path: Path
) -> None:
    host.space.run("ip", "-6", "address", "add", f"{ADDRESS}/64", "dev", "eth0", "nodad")
    daemon = start(host, tmp_path)
    host.wait_ready()
    hold(host)
    host.space.run("ip", "-6", "address", "add", "2001:db8::12/64", "dev", "eth0")
    daemon.wait_for_output(WAITING)

    def says_why() -> bool:
        status = host.status()
        said = "2001:db8::12 on eth0 is still tentative" in " ".join(status["problems"])
        return said and bool(status["state"] == "degraded")

    wait_until(says_why, 20.0, "a daemon that says why")

    let_go(host)
    wait_until(
        lambda: (host.status()["lease"] or {}).get("public_ipv6") == "2001:db8::12",
        20.0,
        "a lease with the new address",
    )
    assert host.wait_ready()["problems"] == []
    assert daemon.stop() == 0


def test_an_address_another_host_has_is_named_until_there_is_one_of_its_own(
    host: SingleHost, tmp_path: Path
) -> None:
    host.switch.run("ip", "-6", "address", "add", f"{ADDRESS}/64", "dev", "port1", "nodad")
    host.space.run("ip", "-6", "address", "add", f"{ADDRESS}/64", "dev", "eth0")
    daemon = start(host, tmp_path)
    daemon.wait_for_output(f"IPv6 address {ADDRESS}, but so has another host")
    assert host.status()["state"] == "starting"
    host.space.run("ip", "-6", "address", "del", f"{ADDRESS}/64", "dev", "eth0")
    host.space.run("ip", "-6", "address", "add", "2001:db8::12/64", "dev", "eth0", "nodad")
    assert host.wait_ready()["lease"]["public_ipv6"] == "2001:db8::12"
    assert daemon.stop() == 0

"""Labs of this folder's modules: whole hosts in namespaces, with real daemons on a real etcd."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from testbed.etcd import Etcd
from testbed.netns import Rig
from tests.e2e.manager import Manager
from tests.e2e.single_host import SingleHost
from tests.e2e.site import Site
from tunneld.lab import build
from tunneld.lab.topology import Topology

_numbers = itertools.count(1)


def new_lab_name() -> str:
    return f"t{os.getpid()}x{next(_numbers)}"


@pytest.fixture
def lab_name(root_tools: None) -> Iterator[str]:
    """A name of its own for a lab, which is down afterwards whatever happened."""
    name = new_lab_name()
    yield name
    build.take_down(name)


@contextmanager
def standing(topology: Topology) -> Iterator[Site]:
    """A lab that is up."""
    lab = build.Lab(topology)
    try:
        lab.build(print)
        yield Site(lab)
        lab.stop_daemons()
    finally:
        lab.take_down()


@pytest.fixture(scope="module")
def site(root_tools: None) -> Iterator[Site]:
    """Three hosts on etcd, up for all tests of a module."""
    with standing(Topology(name=new_lab_name(), size=3, store="etcd")) as site:
        yield site


@pytest.fixture(scope="module")
def dual_site(root_tools: None) -> Iterator[Site]:
    """The same over both families."""
    with standing(Topology(name=new_lab_name(), size=3, store="etcd", ipv6="1")) as site:
        yield site


@pytest.fixture(scope="module")
def vxlan_site(root_tools: None) -> Iterator[Site]:
    """The same with vxlan in user space, over both families."""
    topology = Topology(name=new_lab_name(), size=3, store="etcd", backend="vxlan", ipv6="1")
    with standing(topology) as site:
        yield site


@pytest.fixture
def host(rig: Rig) -> SingleHost:
    """One host and a switch, no daemon yet."""
    return SingleHost(rig)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """The service manager of a daemon."""
    with closing(Manager(tmp_path / "notify")) as made:
        yield made


@pytest.fixture
def etcd(host: SingleHost) -> Etcd:
    """A running etcd that `host` reaches."""
    etcd = Etcd(host.switch, str(host.switch_address))
    etcd.start()
    return etcd

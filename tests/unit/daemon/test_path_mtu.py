"""Paths that carry less than the link, as the kernel learns of them, in both families."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from tests.support.narrow_path import FAR, FAR_V6, NEAR, NEAR_V6, narrow_path
from tests.support.netns import Namespace, Rig, inside
from tests.support.wait import wait_until
from tests.unit.backend.values import HERE, PEER_MAC, backend
from tunneld.backend.base import Adjacency, Reach
from tunneld.daemon.path_mtu import PathMtus
from tunneld.host.path_mtu import path_mtu
from tunneld.host.sockets import open_underlay_sockets
from tunneld.lease.model import IPAddress, IPNetwork

pytestmark = pytest.mark.root

SUBNET, SUBNET_V6 = ip_network("10.5.2.0/24"), ip_network("fd00:10:5:2::/64")


def to(endpoint: IPAddress) -> Adjacency:
    return Adjacency(
        encapsulation="vxlan", endpoint=endpoint, port=8472, mtu_bytes=1430, vtep_mac=PEER_MAC
    )


REACHES: dict[IPNetwork, Reach] = {
    SUBNET: Reach(adjacency=to(FAR)),
    SUBNET_V6: Reach(adjacency=to(FAR_V6)),
}


@pytest.fixture
def narrow(rig: Rig) -> Namespace:
    """A host behind a router whose other link carries 1,400 bytes."""
    return narrow_path(rig)


def path_mtus() -> tuple[PathMtus, list[None]]:
    here = replace(HERE, address=NEAR, address_v6=NEAR_V6)
    made = PathMtus(here=here, overhead_bytes=backend("vxlan", "dual").overhead_bytes)
    changes: list[None] = []
    made.on_change = lambda: changes.append(None)
    return made, changes


def learn(endpoint: IPAddress, source: IPAddress) -> None:
    """Sends a datagram of 1,500 bytes, so that the router answers it."""
    (worker,) = open_underlay_sockets([source], 8472, 1)
    (opened,) = worker.ipv4 or worker.ipv6
    with closing(worker):
        opened.sendto(bytes(1500 - 48), (str(endpoint), 8472))
        wait_until(lambda: path_mtu(source, endpoint, 8472) == 1400, what="the learned MTU")


def mtus(limited: dict[IPNetwork, Reach]) -> dict[IPNetwork, int]:
    return {
        prefix: reach.adjacency.mtu_bytes
        for prefix, reach in limited.items()
        if reach.adjacency is not None
    }


def test_each_family_loses_what_its_own_headers_take(narrow: Namespace) -> None:
    with inside(narrow):
        found, changes = path_mtus()
        assert mtus(found.limit(REACHES)) == {SUBNET: 1430, SUBNET_V6: 1430}
        learn(FAR, NEAR)
        found.refused(to(FAR), None)
        assert mtus(found.limit(REACHES)) == {SUBNET: 1350, SUBNET_V6: 1430}
        learn(FAR_V6, NEAR_V6)
        found.refused(to(FAR_V6), None)
        assert mtus(found.limit(REACHES)) == {SUBNET: 1350, SUBNET_V6: 1330}
        assert len(changes) == 2
        found.refused(to(FAR), None)
        assert len(changes) == 2
        # Forgotten by the kernel, the path is as wide as the link again.
        narrow.run("ip", "route", "flush", "cache")
        found.refused(to(FAR), None)
        assert mtus(found.limit(REACHES)) == {SUBNET: 1430, SUBNET_V6: 1330}


@pytest.mark.parametrize(("path_bytes", "inner"), [(1351, 1281), (1350, 1280), (1349, 1280)])
def test_mtu_inside_never_falls_below_the_least_of_ipv6(
    narrow: Namespace, path_bytes: int, inner: int
) -> None:
    route = ("ip", "-6", "route", "add", f"{FAR_V6}", "via", "2001:db8:1::ff")
    narrow.run(*route, "mtu", str(path_bytes))
    with inside(narrow):
        found, _ = path_mtus()
        found.refused(to(FAR_V6), None)
        assert mtus(found.limit(REACHES))[SUBNET_V6] == inner


def test_path_too_narrow_for_ipv6_is_told_and_left_at_the_least(
    narrow: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    route = ("ip", "-6", "route", "replace", f"{FAR_V6}", "via", "2001:db8:1::ff")
    narrow.run(*route, "mtu", "1350")
    with inside(narrow), caplog.at_level(logging.WARNING, "tunneld.daemon"):
        found, _ = path_mtus()
        found.refused(to(FAR_V6), None)
        assert caplog.text == "", "vxlan takes 70 bytes of it: 1,280 fit"
        narrow.run(*route, "mtu", "1300")
        found.refused(to(FAR_V6), None)
        assert mtus(found.limit(REACHES))[SUBNET_V6] == 1280
    assert "too narrow" in caplog.text
    # With IPv4 the least is 68 bytes, and the path is wide enough.
    assert mtus(found.limit(REACHES))[SUBNET] == 1430


def test_endpoint_without_a_route_keeps_what_is_known(narrow: Namespace) -> None:
    with inside(narrow):
        found, changes = path_mtus()
        learn(FAR, NEAR)
        found.refused(to(FAR), None)
        narrow.run("ip", "route", "del", "default")
        found.refused(to(FAR), None)
        assert mtus(found.limit(REACHES))[SUBNET] == 1350
        assert len(changes) == 1


def test_what_has_no_adjacency_is_left_alone() -> None:
    found, _ = path_mtus()
    plain = {SUBNET: Reach(gateway=ip_address("192.0.2.9"))}
    assert found.limit(plain) == plain

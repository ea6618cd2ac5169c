from __future__ import annotations

import errno
from ipaddress import IPv4Address, IPv6Address

import pytest

from tests.support.netns import Rig
from tests.support.wait import wait_until
from tests.unit.host.conftest import inside
from tunneld.errors import HostError
from tunneld.host.path_mtu import path_mtu
from tunneld.host.sockets import open_underlay_sockets

pytestmark = pytest.mark.root

HERE = IPv4Address("192.0.2.1")
THERE = IPv4Address("198.51.100.2")


def test_path_mtu_follows_what_the_kernel_learns_and_forgets(rig: Rig) -> None:
    near, router, far = (rig.namespace(label) for label in ("near", "router", "far"))
    rig.link(
        near, "eth0", router, "eth1", first_address=f"{HERE}/24", second_address="192.0.2.254/24"
    )
    rig.link(
        router,
        "eth2",
        far,
        "eth0",
        first_address="198.51.100.254/24",
        second_address=f"{THERE}/24",
        mtu_bytes=1400,
    )
    router.sysctl("net/ipv4/ip_forward", 1)
    near.run("ip", "route", "add", "default", "via", "192.0.2.254")
    far.run("ip", "route", "add", "default", "via", "198.51.100.254")
    near.wait_for_answer(str(THERE))
    with inside(near):
        assert path_mtu(HERE, THERE, 8285) == 1500
        (worker,) = open_underlay_sockets([HERE], 8285, 1)
        (opened,) = worker.ipv4
        with opened:
            opened.sendto(bytes(1472), (str(THERE), 8285))
            wait_until(lambda: path_mtu(HERE, THERE, 8285) == 1400, what="the learned MTU")
            with pytest.raises(OSError, match="Message too long") as refused:
                opened.sendto(bytes(1373), (str(THERE), 8285))
            assert refused.value.errno == errno.EMSGSIZE
            opened.sendto(bytes(1372), (str(THERE), 8285))
        near.run("ip", "route", "flush", "cache")
        assert path_mtu(HERE, THERE, 8285) == 1500
        near.run("ip", "link", "set", "eth0", "mtu", "1300")
        assert path_mtu(HERE, THERE, 8285) == 1300


def test_ipv6_path_mtu_follows_what_the_kernel_learns(rig: Rig) -> None:
    here, there = IPv6Address("2001:db8:1::1"), IPv6Address("2001:db8:2::2")
    near, router, far = (rig.namespace(label) for label in ("near", "router", "far"))
    rig.link(near, "eth0", router, "eth1")
    rig.link(router, "eth2", far, "eth0", mtu_bytes=1400)
    router.sysctl("net/ipv6/conf/all/forwarding", 1)
    for space, device, address in (
        (near, "eth0", f"{here}/64"),
        (router, "eth1", "2001:db8:1::fe/64"),
        (router, "eth2", "2001:db8:2::fe/64"),
        (far, "eth0", f"{there}/64"),
    ):
        space.run("ip", "address", "add", address, "dev", device, "nodad")
    near.run("ip", "route", "add", "default", "via", "2001:db8:1::fe")
    far.run("ip", "route", "add", "default", "via", "2001:db8:2::fe")
    near.wait_for_answer(str(there))
    with inside(near):
        assert path_mtu(here, there, 8285) == 1500
        (worker,) = open_underlay_sockets([here], 8285, 1)
        (opened,) = worker.ipv6
        with opened:
            opened.sendto(bytes(1452), (str(there), 8285))
            wait_until(lambda: path_mtu(here, there, 8285) == 1400, what="the learned MTU")
            with pytest.raises(OSError, match="Message too long") as refused:
                opened.sendto(bytes(1353), (str(there), 8285))
            assert refused.value.errno == errno.EMSGSIZE
            opened.sendto(bytes(1352), (str(there), 8285))


def test_endpoint_without_a_route_is_an_error(rig: Rig) -> None:
    space = rig.namespace("host")
    with inside(space), pytest.raises(HostError, match=r"127\.0\.0\.1 to 203\.0\.113\.9"):
        path_mtu(IPv4Address("127.0.0.1"), IPv4Address("203.0.113.9"), 8285)

"""Routes of every kind and family beside each other: overlay, gateway, onlink, unreachable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from testbed.netns import Namespace
from tests.unit.host.conftest import overlay, run_inside
from tests.unit.host.routes import (
    ADDRESS,
    ADDRESS_V6,
    NARROW,
    NETWORK,
    NETWORK_V6,
    OWN,
    POLL_S,
    WHOLE,
)
from tunneld.errors import HostError
from tunneld.fib.state import Route
from tunneld.host.routes import Exits, Routes, Sources

pytestmark = pytest.mark.root

WHOLE_V6 = Route(destination=NETWORK_V6, kind="overlay")
OWN_V6 = Route(destination=IPv6Network("fd00:5:0:1::/64"), kind="unreachable", metric=4294967295)
NARROW_V6 = Route(destination=IPv6Network("fd00:5:0:2::/64"), kind="overlay", mtu_bytes=1300)
GATEWAY = Route(
    destination=IPv4Network("10.5.3.0/24"), kind="gateway", gateway=IPv4Address("192.0.2.3")
)
GATEWAY_V6 = Route(
    destination=IPv6Network("fd00:5:0:3::/64"), kind="gateway", gateway=IPv6Address("2001:db8::3")
)
ONLINK = Route(
    destination=IPv4Network("10.5.4.0/24"),
    kind="onlink",
    gateway=IPv4Address("10.5.4.0"),
    device="flannel.1",
)
ONLINK_V6 = Route(
    destination=IPv6Network("fd00:5:0:4::/64"),
    kind="onlink",
    gateway=IPv6Address("fd00:5:0:4::"),
    device="flannel-v6.1",
)
IPV6 = {WHOLE_V6, OWN_V6, NARROW_V6}
PLAIN = {GATEWAY, GATEWAY_V6, ONLINK, ONLINK_V6}


@pytest.fixture
def host(host: Namespace) -> Namespace:
    """An underlay interface of both families, and two vxlan devices."""
    for name, local in (("flannel.1", "192.0.2.1"), ("flannel-v6.1", "2001:db8::1")):
        settings = f"id 1 local {local} dev eth0 dstport 8472 nolearning"
        host.run("ip", "link", "add", name, "type", "vxlan", *settings.split())
        host.run("ip", "link", "set", name, "up")
    return host


def with_all_exits(
    space: Namespace, work: Callable[[Routes, Exits], Coroutine[Any, Any, None]]
) -> None:
    """Runs `work` with the routes of a host that has every kind of device."""

    async def main() -> None:
        async with overlay() as (tun, netlink):
            space.run("ip", "address", "add", f"{ADDRESS}/32", "dev", tun.name)
            space.run("ip", "link", "set", tun.name, "up")
            space.add_ipv6(f"{ADDRESS_V6}/128", tun.name)
            there = {link.name: link.index for link in await netlink.links()}
            exits = Exits(
                overlay=there[tun.name],
                sources=Sources(ipv4=ADDRESS, ipv6=ADDRESS_V6),
                underlay=there["eth0"],
                vxlan={name: there[name] for name in ("flannel.1", "flannel-v6.1")},
            )
            await work(Routes(netlink, [NETWORK, NETWORK_V6]), exits)

    run_inside(space, main)


def ours(space: Namespace, family: str) -> list[str]:
    shown = space.run("ip", family, "route", "show", "proto", "116")
    return [line.strip() for line in shown.splitlines()]


def test_every_kind_is_put_as_flannel_has_it_and_observed_as_put(host: Namespace) -> None:
    async def work(routes: Routes, exits: Exits) -> None:
        wanted = {WHOLE, OWN, NARROW} | IPV6 | PLAIN
        for _ in range(2):
            await routes.apply(exits, put=wanted, drop=())
            assert await routes.observe(exits) == wanted
        assert ours(host, "-4") == [
            "10.5.0.0/16 dev flannel0 scope link src 10.5.1.0",
            "unreachable 10.5.1.0/24 metric 4294967295",
            "10.5.2.0/24 dev flannel0 scope link src 10.5.1.0 mtu 1300",
            "10.5.3.0/24 via 192.0.2.3 dev eth0",
            "10.5.4.0/24 via 10.5.4.0 dev flannel.1 onlink",
        ]
        assert ours(host, "-6") == [
            "unreachable fd00:5:0:1::/64 dev lo metric 4294967295 pref medium",
            "fd00:5:0:2::/64 dev flannel0 src fd00:5:0:1:: metric 1024 mtu 1300 pref medium",
            "fd00:5:0:3::/64 via 2001:db8::3 dev eth0 metric 1024 pref medium",
            "fd00:5:0:4::/64 via fd00:5:0:4:: dev flannel-v6.1 metric 1024 onlink pref medium",
            "fd00:5::/48 dev flannel0 src fd00:5:0:1:: metric 1024 pref medium",
        ]
        await routes.apply(exits, put={WHOLE_V6}, drop=wanted)
        assert await routes.observe(exits) == {WHOLE_V6}
        await routes.clear(exits)
        assert await routes.observe(exits) == frozenset()

    before = host.run("ip", "-6", "route"), host.run("ip", "route")
    with_all_exits(host, work)
    assert (host.run("ip", "-6", "route"), host.run("ip", "route")) == before


CHANGES = {
    "mtu": (NARROW_V6, replace(NARROW_V6, mtu_bytes=1290)),
    "tunnel to plain": (
        ONLINK_V6,
        replace(ONLINK_V6, kind="gateway", gateway=IPv6Address("2001:db8::4"), device=None),
    ),
    "plain to tunnel": (
        replace(ONLINK_V6, kind="gateway", gateway=IPv6Address("2001:db8::4"), device=None),
        ONLINK_V6,
    ),
    "another host": (GATEWAY_V6, replace(GATEWAY_V6, gateway=IPv6Address("2001:db8::9"))),
    "overlay to plain": (
        replace(GATEWAY_V6, kind="overlay", gateway=None, mtu_bytes=1300),
        GATEWAY_V6,
    ),
    "IPv4 tunnel to plain": (
        ONLINK,
        replace(ONLINK, kind="gateway", gateway=IPv4Address("192.0.2.4"), device=None),
    ),
}


@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES)
def test_route_that_changes_its_way_is_replaced_and_never_doubled(
    host: Namespace, before: Route, after: Route
) -> None:
    async def work(routes: Routes, exits: Exits) -> None:
        await routes.apply(exits, put={before}, drop=())
        assert await routes.observe(exits) == {before}
        watch = host.start("ip", "monitor", "route")
        waits = [
            Route(destination=IPv4Network("10.5.7.0/24"), kind="overlay"),
            Route(destination=IPv6Network("fd00:5:0:7::/64"), kind="overlay"),
        ]
        while not all(str(wait.destination) in watch.output() for wait in waits):
            await routes.apply(exits, put=waits, drop=())
            await routes.apply(exits, put=(), drop=waits)
            await asyncio.sleep(POLL_S)
        await routes.apply(exits, put={after}, drop={before})
        assert await routes.observe(exits) == {after}
        family = "-6" if after.destination.version == 6 else "-4"
        assert len(ours(host, family)) == 1
        await routes.apply(exits, put={OWN}, drop=())
        watch.wait_for_output(f"unreachable {OWN.destination}")  # and all that was before it
        assert f"Deleted {before.destination}" not in watch.output()

    with_all_exits(host, work)


def test_ipv6_route_of_somebody_else_is_named_and_left_alone(host: Namespace) -> None:
    host.run("ip", "route", "add", "fd00:5:0:3::/64", "via", "2001:db8::77", "dev", "eth0")
    before = host.run("ip", "-6", "route")

    async def work(routes: Routes, exits: Exits) -> None:
        said = r"fd00:5:0:3::/64 via 2001:db8::77 dev eth0 proto 3 is in its place"
        with pytest.raises(HostError, match=said):
            await routes.apply(exits, put={GATEWAY_V6}, drop=())
        await routes.apply(exits, put=(), drop={GATEWAY_V6})
        await routes.clear(exits)

    with_all_exits(host, work)
    assert host.run("ip", "-6", "route") == before


def test_route_that_somebody_put_beside_ours_is_never_replaced(host: Namespace) -> None:
    """The kernel takes two IPv6 routes of one prefix and metric; a replacement hits the first."""

    async def work(routes: Routes, exits: Exits) -> None:
        foreign = "fd00:5:0:2::/64 dev eth0 metric 1024"
        await routes.apply(exits, put={NARROW_V6}, drop=())
        host.run(*f"ip -6 route append {foreign}".split())
        changed = replace(NARROW_V6, mtu_bytes=1290)
        with pytest.raises(HostError, match=r"fd00:5:0:2::/64 dev eth0 proto 3 is in its place"):
            await routes.apply(exits, put={changed}, drop={NARROW_V6})
        assert foreign in host.run("ip", "-6", "route")
        assert await routes.observe(exits) == {NARROW_V6}

    with_all_exits(host, work)


def test_route_of_ours_that_nobody_can_have_asked_for_goes_with_the_next_change(
    host: Namespace,
) -> None:
    """A daemon that was killed had another underlay interface, or another address."""
    host.bridge("eth1", "198.51.100.1/24")
    stale = "ip route add 10.5.8.0/24 via 198.51.100.2 dev eth1 proto 116"
    host.run(*stale.split())

    async def work(routes: Routes, exits: Exits) -> None:
        host.run("ip", "route", "add", "10.5.9.0/24", "dev", "flannel0", "proto", "116")
        assert await routes.observe(exits) == frozenset()
        await routes.apply(exits, put={WHOLE}, drop=())
        assert ours(host, "-4") == ["10.5.0.0/16 dev flannel0 scope link src 10.5.1.0"]

    with_all_exits(host, work)


def test_route_out_of_a_device_that_is_gone_is_an_error_with_its_name(host: Namespace) -> None:
    async def work(routes: Routes, exits: Exits) -> None:
        with pytest.raises(HostError, match=r"10\.5\.4\.0/24: the flannel\.1 device .* is gone"):
            await routes.apply(replace(exits, vxlan={}), put={ONLINK}, drop=())
        with pytest.raises(HostError, match=r"10\.5\.3\.0/24: the underlay device .* is gone"):
            await routes.apply(replace(exits, underlay=None), put={GATEWAY}, drop=())

    with_all_exits(host, work)

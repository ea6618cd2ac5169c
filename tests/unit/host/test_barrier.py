"""Packets that may not travel stay here, whatever the store says next and whoever else starts."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Network, IPv6Network

import pytest

from testbed.netns import Namespace
from tests.unit.host.conftest import eventually, run_inside
from tunneld.errors import HostError
from tunneld.host.barrier import Barrier
from tunneld.host.netlink import Netlink
from tunneld.host.netlink.model import KernelRoute
from tunneld.host.remains import living, remove_devices_and_routes
from tunneld.host.routes import Exits, Routes

pytestmark = pytest.mark.root

FIRST, SECOND = IPv4Network("10.5.0.0/16"), IPv4Network("10.6.0.0/16")
THIRD = IPv6Network("fd05::/48")


def held(space: Namespace) -> list[str]:
    lines = space.run("ip", "route", "show", "proto", "116").splitlines()
    return sorted(line.partition(" metric")[0].strip() for line in lines)


def held_v6(space: Namespace) -> list[str]:
    lines = space.run("ip", "-6", "route", "show", "proto", "116").splitlines()
    return sorted(line.partition(" dev")[0].strip() for line in lines)


def test_another_network_opens_no_way_for_the_one_before(space: Namespace) -> None:
    async def work() -> None:
        async with Netlink.opened() as netlink:
            barrier = Barrier(netlink)
            await barrier.put([FIRST])
            await barrier.put([SECOND])
            assert held(space) == [f"unreachable {FIRST}", f"unreachable {SECOND}"]
            await barrier.put([])
            assert held(space) == [f"unreachable {FIRST}", f"unreachable {SECOND}"]
            await barrier.lift()
            assert held(space) == []

    run_inside(space, work)


def test_another_daemon_that_starts_does_not_take_it_for_left_over(space: Namespace) -> None:
    async def work() -> None:
        async with Netlink.opened() as netlink:
            barrier = Barrier(netlink)
            await barrier.put([FIRST])
            await barrier.put([SECOND])
            await remove_devices_and_routes(netlink, keep=(), networks=())
            assert held(space) == [f"unreachable {FIRST}", f"unreachable {SECOND}"]
            await barrier.lift()
            assert living() == ()

    run_inside(space, work)


def test_who_takes_it_away_takes_it_for_a_moment(space: Namespace) -> None:
    """As systemd-networkd does with routes it does not know, and a sysctl with all of IPv6."""

    async def work() -> None:
        async with Netlink.opened() as netlink:
            barrier = Barrier(netlink)
            await barrier.put([THIRD, FIRST])
            keeping = asyncio.create_task(barrier.keep())
            space.run("ip", "route", "flush", "proto", "116")
            await eventually(lambda: held(space) == [f"unreachable {FIRST}"], "IPv4 kept back")
            for value in (1, 0):
                space.sysctl("net/ipv6/conf/all/disable_ipv6", value)
            await eventually(lambda: held_v6(space) == [f"unreachable {THIRD}"], "IPv6 kept back")
            space.run("ip", "-6", "route", "flush", "proto", "116")
            await eventually(lambda: held_v6(space) == [f"unreachable {THIRD}"], "IPv6 kept back")
            await barrier.lift()
            space.run("ip", "route", "add", "unreachable", str(SECOND), "proto", "116")
            keeping.cancel()
            await asyncio.wait([keeping])
            assert held(space) == [f"unreachable {SECOND}"], "what was lifted does not come back"

    run_inside(space, work)


def test_a_family_that_the_kernel_refuses_opens_no_way_in_the_other(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Netlink.replace_route

    async def refuse(netlink: Netlink, route: KernelRoute) -> None:
        if route.destination in (FIRST, THIRD):
            raise HostError(f"cannot replace route {route.destination}")
        await put(netlink, route)

    monkeypatch.setattr(Netlink, "replace_route", refuse)

    async def work() -> None:
        async with Netlink.opened() as netlink:
            barrier = Barrier(netlink)
            with pytest.raises(HostError, match=r"10\.5.*fd05"):
                await barrier.put([THIRD, FIRST, SECOND])
            assert held(space) == [f"unreachable {SECOND}"]
            barrier.close()

    run_inside(space, work)


def test_it_outlives_its_daemon_until_plain_is_allowed_or_the_host_leaves(
    space: Namespace,
) -> None:
    async def work() -> None:
        async with Netlink.opened() as netlink:
            first = Barrier(netlink)
            await first.put([FIRST, SECOND])
            first.close()
            # A data path of the same network comes and goes: its routes are no barrier.
            await remove_devices_and_routes(netlink, keep=(), networks=[FIRST])
            await Routes(netlink, [FIRST, SECOND]).clear(Exits())
            assert held(space) == [f"unreachable {FIRST}", f"unreachable {SECOND}"]
            await Barrier(netlink).lift([FIRST])
            assert held(space) == [f"unreachable {SECOND}"]
            other = Barrier(netlink)
            await other.put([FIRST])
            # Who leaves spares those of a daemon that lives.
            await Barrier(netlink).end()
            assert held(space) == [f"unreachable {FIRST}"]
            await other.end()
            assert held(space) == []

    run_inside(space, work)

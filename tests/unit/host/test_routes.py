"""Routes out of the TUN device, and the own subnet's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import pytest

from testbed.netns import Namespace, inside
from tests.unit.host.conftest import overlay, run_inside
from tests.unit.host.routes import ADDRESS, NARROW, NETWORK, NETWORK_V6, OWN, POLL_S, WHOLE
from tunneld.errors import HostError
from tunneld.fib.state import Route
from tunneld.host.routes import Exits, Routes, Sources

pytestmark = pytest.mark.root


def with_routes(
    space: Namespace, work: Callable[[Routes, Exits], Coroutine[Any, Any, None]]
) -> None:
    """Runs `work` with the routes of a TUN device that is up and has its address."""

    async def main() -> None:
        async with overlay() as (tun, netlink):
            space.run("ip", "address", "add", f"{ADDRESS}/32", "dev", tun.name)
            space.run("ip", "link", "set", tun.name, "up")
            link = await netlink.link(tun.name)
            assert link is not None
            await work(
                Routes(netlink, [NETWORK, NETWORK_V6]),
                Exits(overlay=link.index, sources=Sources(ipv4=ADDRESS)),
            )

    run_inside(space, main)


def shown(space: Namespace) -> list[str]:
    return [line.strip() for line in space.run("ip", "route").splitlines()]


def test_routes_are_put_marked_and_observed_as_put(space: Namespace) -> None:
    async def work(routes: Routes, exits: Exits) -> None:
        wanted = {WHOLE, OWN, NARROW}
        await routes.apply(exits, put=wanted, drop=())
        assert shown(space) == [
            "10.5.0.0/16 dev flannel0 proto 116 scope link src 10.5.1.0",
            "unreachable 10.5.1.0/24 proto 116 metric 4294967295",
            "10.5.2.0/24 dev flannel0 proto 116 scope link src 10.5.1.0 mtu 1300",
        ]
        assert await routes.observe(exits) == wanted
        await routes.apply(exits, put=wanted, drop=())
        assert await routes.observe(exits) == wanted
        await routes.apply(exits, put={WHOLE}, drop={WHOLE})
        assert await routes.observe(exits) == wanted
        await routes.apply(exits, put=(), drop={NARROW, OWN})
        await routes.apply(exits, put=(), drop={NARROW, OWN})
        assert await routes.observe(exits) == {WHOLE}

    with_routes(space, work)


def test_route_that_changes_is_replaced_and_never_missing(space: Namespace) -> None:
    async def work(routes: Routes, exits: Exits) -> None:
        await routes.apply(exits, put={NARROW}, drop=())
        changed = Route(destination=NARROW.destination, kind="overlay", mtu_bytes=1200)
        watch = space.start("ip", "monitor", "route")
        wait = Route(destination=IPv4Network("10.5.3.0/24"), kind="overlay")
        while "10.5.3.0/24" not in watch.output():  # the monitor is listening
            await routes.apply(exits, put={wait}, drop=())
            await routes.apply(exits, put=(), drop={wait})
            await asyncio.sleep(POLL_S)
        await routes.apply(exits, put={changed}, drop={NARROW})
        assert await routes.observe(exits) == {changed}
        await routes.apply(exits, put={OWN}, drop=())
        watch.wait_for_output(f"unreachable {OWN.destination}")  # and all that was before it
        assert "mtu 1200" in watch.output()
        assert "Deleted 10.5.2.0/24" not in watch.output()

    with_routes(space, work)


def test_own_subnet_is_unreachable_only_while_no_bridge_holds_it(space: Namespace) -> None:
    async def work(routes: Routes, exits: Exits) -> None:
        await routes.apply(exits, put={WHOLE, OWN}, drop=())
        refused = space.try_run("ip", "route", "get", "10.5.1.7")
        assert "No route to host" in refused.stderr
        assert "dev flannel0" in space.run("ip", "route", "get", "10.5.2.7")
        space.bridge("docker0", "10.5.1.1/24")
        assert "dev docker0" in space.run("ip", "route", "get", "10.5.1.7")
        space.run("ip", "link", "del", "docker0")
        refused = space.try_run("ip", "route", "get", "10.5.1.7")
        assert "No route to host" in refused.stderr

    with_routes(space, work)


def test_route_of_somebody_else_is_named_and_left_alone(space: Namespace) -> None:
    space.bridge("br0", "192.0.2.1/24")
    space.run("ip", "route", "add", "10.5.0.0/16", "via", "192.0.2.9")
    before = shown(space)

    async def work(routes: Routes, exits: Exits) -> None:
        said = r"10\.5\.0\.0/16 via 192\.0\.2\.9 dev br0 proto 3 is in its place"
        with pytest.raises(HostError, match=said):
            await routes.apply(exits, put={WHOLE}, drop=())
        await routes.apply(exits, put=(), drop={WHOLE})
        assert await routes.observe(exits) == frozenset()
        await routes.clear(exits)

    with_routes(space, work)
    assert shown(space) == before


def test_route_of_an_address_is_not_advised_to_be_removed(space: Namespace) -> None:
    space.bridge("br0", "10.5.0.9/16")

    async def work(routes: Routes, exits: Exits) -> None:
        said = r"10\.5\.0\.0/16 dev br0 proto 2 is in its place; expected it free: choose another"
        with pytest.raises(HostError, match=said):
            await routes.apply(exits, put={WHOLE}, drop=())

    with_routes(space, work)


def test_route_in_the_way_keeps_no_other_from_its_place(space: Namespace) -> None:
    peers = [Route(destination=IPv4Network(f"10.5.{i}.0/24"), kind="overlay") for i in range(2, 6)]
    space.bridge("br0", "192.0.2.1/24")
    for taken in ("10.5.3.0/24", "10.5.4.0/24"):
        space.run("ip", "route", "add", taken, "via", "192.0.2.9")

    async def work(routes: Routes, exits: Exits) -> None:
        await routes.apply(exits, put={OWN}, drop=())
        said = r"10\.5\.3\.0/24 via 192\.0\.2\.9 dev br0 proto 3 is .*; 1 more have failed$"
        with pytest.raises(HostError, match=said):
            await routes.apply(exits, put=peers, drop={OWN})
        assert await routes.observe(exits) == {peers[0], peers[3]}

    with_routes(space, work)


def test_routes_with_our_mark_but_of_another_device_or_network_are_not_ours(
    space: Namespace,
) -> None:
    space.bridge("br0", "192.0.2.1/24")
    space.run("ip", "route", "add", "10.5.7.0/24", "dev", "br0", "proto", "116")
    space.run("ip", "route", "add", "unreachable", "10.9.1.0/24", "proto", "116")
    before = shown(space)

    async def work(routes: Routes, exits: Exits) -> None:
        assert await routes.observe(exits) == frozenset()
        await routes.clear(exits)

    with_routes(space, work)
    assert shown(space) == before


def test_unreachable_route_of_a_killed_daemon_is_adopted(space: Namespace) -> None:
    with inside(space):
        stale = "10.5.9.0/24"
        space.run(
            "ip", "route", "add", "unreachable", stale, "proto", "116", "metric", "4294967295"
        )

    async def work(routes: Routes, exits: Exits) -> None:
        (left,) = await routes.observe(exits)
        assert left == Route(destination=IPv4Network(stale), kind="unreachable", metric=4294967295)
        await routes.apply(exits, put={OWN}, drop={left})
        assert await routes.observe(exits) == {OWN}

    with_routes(space, work)


def test_route_with_a_wrong_source_counts_as_missing_and_is_put_right(space: Namespace) -> None:
    async def work(routes: Routes, exits: Exits) -> None:
        await routes.apply(replace(exits, sources=Sources()), put={WHOLE}, drop=())
        assert await routes.observe(exits) == frozenset()
        await routes.apply(exits, put={WHOLE}, drop=())
        assert await routes.observe(exits) == {WHOLE}

    with_routes(space, work)

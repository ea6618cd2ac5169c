"""The actuator where the kernel carries the packets, and where the overlay has both families."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from testbed.netns import Namespace
from tests.unit.host.actuator.conftest import everything
from tests.unit.host.actuator.states import (
    HOST_GW,
    KERNEL_VXLAN,
    NETWORK_V6,
    STATES,
    UNREACHABLE,
    actuated,
    reconcile,
    run_actuated,
)
from tests.unit.host.actuator.tun import NETWORK
from tests.unit.host.conftest import eventually, run_inside
from tests.unit.host.vxlan import PEER_MAC
from tunneld.backend.mac import MacAddress
from tunneld.daemon.reconcile import Reconciler
from tunneld.fib.diff import host_difference
from tunneld.fib.state import EngineState, HostState, State
from tunneld.host.actuator import Actuator, HostEvent
from tunneld.host.netlink import Netlink
from tunneld.host.underlay import Selection, find_underlay

pytestmark = pytest.mark.root


@pytest.mark.parametrize("wanted", STATES.values(), ids=STATES)
def test_state_is_applied_at_once_observed_and_taken_away(
    dual: Namespace, tmp_path: Path, wanted: HostState
) -> None:
    before = everything(dual)

    async def work(actuator: Actuator) -> None:
        assert await actuator.observe() == HostState()
        assert await reconcile(actuator, wanted) == 1
        assert await actuator.observe() == wanted
        assert await reconcile(actuator, wanted) == 0
        assert everything(dual) != before
        assert dual.run("sysctl", "-n", "net.ipv4.ip_forward") == "1\n"

    run_actuated(dual, tmp_path, wanted, work)
    assert everything(dual) == before


@pytest.mark.parametrize(
    ("state", "spoiling", "event"),
    [
        ("kernel vxlan", "ip link delete flannel.1", "device"),
        ("kernel vxlan", "ip link set flannel-v6.1 down", "device"),
        ("kernel vxlan", "ip link set flannel.1 address 0e:00:00:00:00:99", "device"),
        ("kernel vxlan", "ip link set flannel.1 type vxlan id 1 learning", "device"),
        ("kernel vxlan", "ip address flush dev flannel-v6.1", "device"),
        ("kernel vxlan", "ip neigh flush dev flannel.1 nud permanent", "neighbours"),
        ("kernel vxlan", "ip neigh del fd00:5:0:2:: dev flannel-v6.1", "neighbours"),
        (
            "kernel vxlan",
            "ip neigh change 10.5.2.0 dev flannel.1 lladdr 0e:00:00:00:00:77 nud permanent",
            "neighbours",
        ),
        (
            "kernel vxlan",
            "ip neigh add 10.5.7.0 dev flannel.1 lladdr 0e:00:00:00:00:77 nud permanent",
            "neighbours",
        ),
        ("kernel vxlan", f"bridge fdb del {PEER_MAC} dev flannel.1", "neighbours"),
        (
            "kernel vxlan",
            f"bridge fdb replace {PEER_MAC} dev flannel-v6.1 dst 2001:db8::7 self permanent",
            "neighbours",
        ),
        (
            "kernel vxlan",
            "bridge fdb add 0e:00:00:00:00:77 dev flannel.1 dst 192.0.2.7 self permanent",
            "neighbours",
        ),
        ("kernel vxlan", "ip route del 10.5.2.0/24", "routes"),
        ("kernel vxlan", "ip -6 route flush proto 116", "routes"),
        ("host-gw", "ip route del 10.5.2.0/24", "routes"),
        ("host-gw", "ip -6 route change fd00:5:0:2::/64 via 2001:db8::7 proto 116", "routes"),
        ("host-gw", "sysctl -w net.ipv4.ip_forward=0", "device"),
        ("host-gw", "sysctl -w net.ipv6.conf.all.forwarding=0", "device"),
        ("TUN of both families", "ip -6 route del fd00:5::/48", "routes"),
        ("TUN of both families", "ip -6 address flush dev flannel.1", "device"),
        ("TUN of both families", "sysctl -w net.ipv6.conf.flannel/1.disable_ipv6=1", "device"),
    ],
)
def test_what_somebody_spoils_is_told_and_mended(
    dual: Namespace, tmp_path: Path, state: str, spoiling: str, event: HostEvent
) -> None:
    events: list[HostEvent] = []
    wanted = STATES[state]

    async def work(actuator: Actuator) -> None:
        await reconcile(actuator, wanted)
        actuator.on_change(events.append)
        events.clear()
        dual.run(*spoiling.split())
        await eventually(lambda: event in events, f"{event} after {spoiling}")
        assert await actuator.observe() != wanted
        assert await reconcile(actuator, wanted) >= 1
        assert await actuator.observe() == wanted

    run_actuated(dual, tmp_path, wanted, work)


def test_peer_that_comes_on_link_is_moved_and_moved_back_without_a_gap(
    dual: Namespace, tmp_path: Path
) -> None:
    near = replace(KERNEL_VXLAN, routes=HOST_GW.routes)

    async def work(actuator: Actuator) -> None:
        for wanted in (KERNEL_VXLAN, near, KERNEL_VXLAN):
            assert await reconcile(actuator, wanted) == 1
        other_mac = MacAddress("0e:2a:00:00:00:03")
        moved = replace(
            KERNEL_VXLAN,
            neighbours=frozenset(replace(n, mac=other_mac) for n in KERNEL_VXLAN.neighbours),
            fdb=frozenset(replace(f, mac=other_mac) for f in KERNEL_VXLAN.fdb),
        )
        assert await reconcile(actuator, moved) == 1
        alone = replace(KERNEL_VXLAN, neighbours=frozenset(), fdb=frozenset(), routes=UNREACHABLE)
        assert await reconcile(actuator, alone) == 1

    run_actuated(dual, tmp_path, KERNEL_VXLAN, work)


def test_device_that_must_be_another_is_changed_and_not_removed(
    dual: Namespace, tmp_path: Path
) -> None:
    smaller = replace(
        KERNEL_VXLAN,
        vxlan_devices=frozenset(replace(one, mtu_bytes=1400) for one in KERNEL_VXLAN.vxlan_devices),
    )

    async def work(actuator: Actuator) -> None:
        await reconcile(actuator, KERNEL_VXLAN)
        before = dual.run("ip", "-o", "link", "show", "flannel.1").split(":")[0]
        assert await reconcile(actuator, smaller) == 1
        assert await actuator.observe() == smaller
        assert dual.run("ip", "-o", "link", "show", "flannel.1").split(":")[0] == before

    run_actuated(dual, tmp_path, smaller, work)


def test_successor_of_a_killed_daemon_finds_its_device_and_clears_what_is_stale(
    dual: Namespace, tmp_path: Path
) -> None:
    before = everything(dual)

    async def killed() -> None:
        async with Netlink.opened() as netlink:
            underlay = await find_underlay(
                Selection(interfaces=("eth0",)), netlink, frozenset({4, 6})
            )
            actuator = Actuator(
                netlink,
                device=None,
                networks=[NETWORK, NETWORK_V6],
                subnet_file=tmp_path / "subnet.env",
                underlay=underlay,
                forwarding="never",
            )
            await reconcile(actuator, KERNEL_VXLAN)

    alone = replace(KERNEL_VXLAN, neighbours=frozenset(), fdb=frozenset(), routes=UNREACHABLE)

    async def work(actuator: Actuator) -> None:
        before = dual.run("ip", "-o", "link", "show", "flannel.1").split(":")[0]
        await reconcile(actuator, alone)
        assert await actuator.observe() == alone
        assert dual.run("ip", "-o", "link", "show", "flannel.1").split(":")[0] == before

    run_inside(dual, killed)
    run_actuated(dual, tmp_path, alone, work)
    assert everything(dual) == before


def test_change_of_the_way_to_a_peer_is_told_but_not_once_for_each_route(
    dual: Namespace, tmp_path: Path
) -> None:
    events: list[HostEvent] = []

    async def work(actuator: Actuator) -> None:
        actuator.on_change(events.append)
        routes = [f"route add 10.{100 + i}.0.0/16 via 192.0.2.9" for i in range(100)]
        dual.run("ip", "-batch", "-", stdin="\n".join(routes))
        await eventually(lambda: "on_link" in events, "the change of routes")
        assert events.count("on_link") < 10

    run_actuated(dual, tmp_path, HOST_GW, work)


@pytest.mark.parametrize(
    "change",
    [
        "ip route add 10.9.0.0/16 via 192.0.2.9",
        "ip -6 route add 2001:db8:9::/64 via 2001:db8::9",
        "ip link set eth0 down",
    ],
)
def test_each_change_of_the_way_to_a_peer_is_told(
    dual: Namespace, tmp_path: Path, change: str
) -> None:
    """With the interface its IPv4 routes go, and of those the kernel says nothing."""
    if "link" in change:
        dual.sysctl("net/ipv6/conf/all/disable_ipv6", 1)
    events: list[HostEvent] = []

    async def main() -> None:
        async with Netlink.opened() as netlink:
            underlay = await find_underlay(Selection(interfaces=("eth0",)), netlink)
            actuator = Actuator(
                netlink,
                device=None,
                networks=[NETWORK],
                subnet_file=tmp_path / "subnet.env",
                underlay=underlay,
            )
            actuator.on_change(events.append)
            dual.run(*change.split())
            await eventually(lambda: "on_link" in events, change)
            await actuator.close()

    run_inside(dual, main)


@pytest.mark.timeout(900)  # some thirty starts and stops, on a machine that may be busy
@pytest.mark.parametrize("wanted", STATES.values(), ids=STATES)
def test_cancelled_change_goes_on_after_no_stop(
    dual: Namespace, tmp_path: Path, wanted: HostState
) -> None:
    before = everything(dual)
    whole = host_difference(wanted, HostState())

    async def main(turns: int) -> bool:
        async with actuated(tmp_path, wanted) as actuator:
            change = asyncio.create_task(actuator.apply(whole))
            for _ in range(turns):
                await asyncio.sleep(0)
                await asyncio.to_thread(lambda: None)
            change.cancel()
            (outcome,) = await asyncio.gather(change, return_exceptions=True)
            return outcome is None

    is_whole = False
    turns = 0
    while not is_whole:
        is_whole = run_inside(dual, partial(main, turns))
        assert everything(dual) == before, f"cancelled after {turns} turns"
        turns += max(1, turns // 2)


@pytest.mark.parametrize("state", ["kernel vxlan", "host-gw"])
def test_route_of_others_in_one_peers_place_withholds_nothing_from_the_rest(
    dual: Namespace, tmp_path: Path, state: str
) -> None:
    """Nor subnet.env, nor that the data path forwards: containers are started by these."""
    wanted = STATES[state]
    (foreign,) = {route for route in wanted.routes if str(route.destination) == "10.5.2.0/24"}
    dual.run("ip", "route", "add", "10.5.2.0/24", "via", "192.0.2.9")

    async def work(actuator: Actuator) -> None:
        reconciler = Reconciler([actuator], lambda: State(engine=EngineState(), host=wanted))
        running = asyncio.create_task(reconciler.run())
        reconciler.wake()
        await reconciler.settled()
        assert actuator.known_routes == wanted.routes - {foreign}
        assert "10.5.2.0/24 via 192.0.2.9 dev eth0 proto 3 is in its place" in str(
            reconciler.problem
        )
        assert (tmp_path / "subnet.env").exists()
        dual.run("ip", "route", "del", "10.5.2.0/24")
        await eventually(lambda: actuator.known_routes == wanted.routes, "the route put at last")
        await eventually(lambda: reconciler.problem is None, "no problem any more")
        running.cancel()

    run_actuated(dual, tmp_path, wanted, work)

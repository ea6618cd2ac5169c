"""The actuator where the kernel carries the packets, and where the overlay has both families."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from tests.support.netns import Namespace
from tests.unit.host.conftest import eventually, run_inside
from tests.unit.host.test_actuator import everything
from tunneld.backend.base import VxlanDevice
from tunneld.backend.mac import MacAddress
from tunneld.fib.diff import difference
from tunneld.fib.state import (
    Device,
    EngineState,
    FdbEntry,
    Firewall,
    HostState,
    Neighbour,
    OverlayNet,
    Route,
    State,
    SubnetEnv,
)
from tunneld.host.actuator import Actuator, HostEvent
from tunneld.host.netlink import Netlink
from tunneld.host.tun import open_tun
from tunneld.host.underlay import Selection, find_underlay

pytestmark = pytest.mark.root

NETWORK = IPv4Network("10.5.0.0/16")
SUBNET = IPv4Network("10.5.1.0/24")
NETWORK_V6 = IPv6Network("fd00:5::/48")
SUBNET_V6 = IPv6Network("fd00:5:0:1::/64")
UNREACHABLE = frozenset(
    {
        Route(destination=SUBNET, kind="unreachable", metric=4294967295),
        Route(destination=SUBNET_V6, kind="unreachable", metric=4294967295),
    }
)
RULES = Firewall(
    ipv4=OverlayNet(network=NETWORK, subnet=SUBNET),
    ipv6=OverlayNet(network=NETWORK_V6, subnet=SUBNET_V6),
    masquerade=True,
)
ENV = SubnetEnv(
    network=NETWORK,
    subnet=SUBNET,
    network_v6=NETWORK_V6,
    subnet_v6=SUBNET_V6,
    mtu_bytes=1430,
    ip_masq=True,
)

MAC = MacAddress("0e:2a:00:00:00:01")
PEER_MAC = MacAddress("0e:2a:00:00:00:02")
FLANNEL_1 = VxlanDevice(
    name="flannel.1",
    vni=1,
    port=8472,
    local=IPv4Address("192.0.2.1"),
    mac=MAC,
    gbp=False,
    learning=False,
    mtu_bytes=1430,
    address=IPv4Address("10.5.1.0"),
)
FLANNEL_V6_1 = replace(
    FLANNEL_1,
    name="flannel-v6.1",
    local=IPv6Address("2001:db8::1"),
    address=IPv6Address("fd00:5:0:1::"),
)
KERNEL_VXLAN = HostState(
    vxlan_devices=frozenset({FLANNEL_1, FLANNEL_V6_1}),
    neighbours=frozenset(
        {
            Neighbour(device="flannel.1", address=IPv4Address("10.5.2.0"), mac=PEER_MAC),
            Neighbour(device="flannel-v6.1", address=IPv6Address("fd00:5:0:2::"), mac=PEER_MAC),
        }
    ),
    fdb=frozenset(
        {
            FdbEntry(device="flannel.1", mac=PEER_MAC, endpoint=IPv4Address("192.0.2.2")),
            FdbEntry(device="flannel-v6.1", mac=PEER_MAC, endpoint=IPv6Address("2001:db8::2")),
        }
    ),
    routes=UNREACHABLE
    | {
        Route(
            destination=IPv4Network("10.5.2.0/24"),
            kind="onlink",
            gateway=IPv4Address("10.5.2.0"),
            device="flannel.1",
        ),
        Route(
            destination=IPv6Network("fd00:5:0:2::/64"),
            kind="onlink",
            gateway=IPv6Address("fd00:5:0:2::"),
            device="flannel-v6.1",
        ),
    },
    firewall=replace(RULES, devices=frozenset({"flannel.1", "flannel-v6.1"})),
    subnet_env=ENV,
)
HOST_GW = HostState(
    routes=UNREACHABLE
    | {
        Route(
            destination=IPv4Network("10.5.2.0/24"),
            kind="gateway",
            gateway=IPv4Address("192.0.2.2"),
        ),
        Route(
            destination=IPv6Network("fd00:5:0:2::/64"),
            kind="gateway",
            gateway=IPv6Address("2001:db8::2"),
        ),
    },
    firewall=RULES,
    subnet_env=ENV,
)
DUAL_TUN = HostState(
    device=Device(
        address=IPv4Address("10.5.1.0"),
        address_v6=IPv6Address("fd00:5:0:1::"),
        mtu_bytes=1430,
        txqueuelen=1000,
        forwarding=True,
    ),
    routes=HOST_GW.routes
    | {
        Route(destination=NETWORK, kind="overlay"),
        Route(destination=NETWORK_V6, kind="overlay"),
    },
    firewall=replace(RULES, devices=frozenset({"flannel.1"})),
    subnet_env=ENV,
)
STATES = {"kernel vxlan": KERNEL_VXLAN, "host-gw": HOST_GW, "TUN of both families": DUAL_TUN}


@pytest.fixture
def host(space: Namespace) -> Namespace:
    """A host with an underlay interface of both families, a bridge, and things of others."""
    space.sysctl("net/ipv4/ip_forward", 0)
    for device in ("all", "default"):
        # The kernel makes link-local addresses in its own time, which no comparison can know.
        space.sysctl(f"net/ipv6/conf/{device}/addr_gen_mode", 1)
    space.sysctl("net/ipv6/conf/all/forwarding", 1)
    space.bridge("eth0", "192.0.2.1/24")
    space.run("ip", "address", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
    space.bridge("br0", "10.5.1.1/24")
    space.run("ip", "route", "add", "default", "via", "192.0.2.254")
    space.run("ip", "route", "add", "fd00:5:0:77::/64", "via", "2001:db8::9")
    space.run("ip", "route", "add", "10.6.0.0/16", "dev", "eth0", "proto", "116")
    entry = "192.0.2.9 lladdr 0e:00:00:00:00:09 dev eth0"
    space.run(*f"ip neigh add {entry} nud permanent".split())
    return space


@asynccontextmanager
async def actuated(directory: Path, wanted: HostState) -> AsyncIterator[Actuator]:
    async with Netlink.opened() as netlink:
        tun = await open_tun("flannel.1", 1) if wanted.device is not None else None
        actuator = Actuator(
            netlink,
            device=None if tun is None else tun.name,
            networks=[NETWORK, NETWORK_V6],
            subnet_file=directory / "subnet.env",
            underlay=await find_underlay(
                Selection(interfaces=("eth0",)), netlink, frozenset({4, 6})
            ),
            forwarding="always",
        )
        try:
            yield actuator
        finally:
            await actuator.close(keep_subnet_env=False)
            if tun is not None:
                tun.close()


def run_actuated(
    space: Namespace,
    directory: Path,
    wanted: HostState,
    work: Callable[[Actuator], Coroutine[Any, Any, None]],
) -> None:
    async def main() -> None:
        async with actuated(directory, wanted) as actuator:
            await work(actuator)

    run_inside(space, main)


async def reconcile(actuator: Actuator, wanted: HostState) -> int:
    """Does what the daemon does, until nothing is left to do; returns how often it changed."""
    for rounds in range(4):
        actual = State(engine=EngineState(), host=await actuator.observe())
        change = difference(State(engine=EngineState(), host=wanted), actual).host
        if not change:
            return rounds
        await actuator.apply(change)
    raise AssertionError(f"still to do after {rounds} changes: {change}")


@pytest.mark.parametrize("wanted", STATES.values(), ids=STATES)
def test_state_is_applied_at_once_observed_and_taken_away(
    host: Namespace, tmp_path: Path, wanted: HostState
) -> None:
    before = everything(host)

    async def work(actuator: Actuator) -> None:
        assert await actuator.observe() == HostState()
        assert await reconcile(actuator, wanted) == 1
        assert await actuator.observe() == wanted
        assert await reconcile(actuator, wanted) == 0
        assert everything(host) != before
        assert host.run("sysctl", "-n", "net.ipv4.ip_forward") == "1\n"

    run_actuated(host, tmp_path, wanted, work)
    assert everything(host) == before


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
    host: Namespace, tmp_path: Path, state: str, spoiling: str, event: HostEvent
) -> None:
    events: list[HostEvent] = []
    wanted = STATES[state]

    async def work(actuator: Actuator) -> None:
        await reconcile(actuator, wanted)
        actuator.on_change(events.append)
        events.clear()
        host.run(*spoiling.split())
        await eventually(lambda: event in events, f"{event} after {spoiling}")
        assert await actuator.observe() != wanted
        assert await reconcile(actuator, wanted) >= 1
        assert await actuator.observe() == wanted

    run_actuated(host, tmp_path, wanted, work)


def test_peer_that_comes_on_link_is_moved_and_moved_back_without_a_gap(
    host: Namespace, tmp_path: Path
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

    run_actuated(host, tmp_path, KERNEL_VXLAN, work)


def test_successor_of_a_killed_daemon_finds_its_device_and_clears_what_is_stale(
    host: Namespace, tmp_path: Path
) -> None:
    before = everything(host)

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
        before = host.run("ip", "-o", "link", "show", "flannel.1").split(":")[0]
        await reconcile(actuator, alone)
        assert await actuator.observe() == alone
        assert host.run("ip", "-o", "link", "show", "flannel.1").split(":")[0] == before

    run_inside(host, killed)
    run_actuated(host, tmp_path, alone, work)
    assert everything(host) == before


def test_change_of_the_way_to_a_peer_is_told_but_not_once_for_each_route(
    host: Namespace, tmp_path: Path
) -> None:
    events: list[HostEvent] = []

    async def work(actuator: Actuator) -> None:
        actuator.on_change(events.append)
        routes = [f"route add 10.{100 + i}.0.0/16 via 192.0.2.9" for i in range(100)]
        host.run("ip", "-batch", "-", stdin="\n".join(routes))
        await eventually(lambda: "on_link" in events, "the change of routes")
        assert events.count("on_link") < 10

    run_actuated(host, tmp_path, HOST_GW, work)


@pytest.mark.parametrize(
    "change",
    [
        "ip route add 10.9.0.0/16 via 192.0.2.9",
        "ip -6 route add 2001:db8:9::/64 via 2001:db8::9",
        "ip link set eth0 down",
    ],
)
def test_each_change_of_the_way_to_a_peer_is_told(
    host: Namespace, tmp_path: Path, change: str
) -> None:
    """With the interface its IPv4 routes go, and of those the kernel says nothing."""
    if "link" in change:
        host.sysctl("net/ipv6/conf/all/disable_ipv6", 1)
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
            host.run(*change.split())
            await eventually(lambda: "on_link" in events, change)
            await actuator.close()

    run_inside(host, main)


@pytest.mark.parametrize("wanted", STATES.values(), ids=STATES)
def test_cancelled_change_goes_on_after_no_stop(
    host: Namespace, tmp_path: Path, wanted: HostState
) -> None:
    before = everything(host)
    empty = State(engine=EngineState(), host=HostState())
    whole = difference(State(engine=EngineState(), host=wanted), empty).host

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
        is_whole = run_inside(host, partial(main, turns))
        assert everything(host) == before, f"cancelled after {turns} turns"
        turns += max(1, turns // 2)

"""States of every kind of data path, and an actuator that is brought to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from testbed.netns import Namespace
from tests.unit.host.actuator.tun import NETWORK, SUBNET
from tests.unit.host.conftest import run_inside
from tests.unit.host.vxlan import PEER_MAC, WANTED, WANTED_V6
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
from tunneld.host.actuator import Actuator
from tunneld.host.netlink import Netlink
from tunneld.host.tun import open_tun
from tunneld.host.underlay import Selection, find_underlay

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

FLANNEL_1 = replace(WANTED, mtu_bytes=1430)
FLANNEL_V6_1 = replace(WANTED_V6, address=IPv6Address("fd00:5:0:1::"))
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
        desired = State(engine=EngineState(), host=wanted)
        change = actuator.difference(desired, await actuator.observe())
        if not change:
            return rounds
        await actuator.apply(change)
    raise AssertionError(f"still to do after {rounds} changes: {change}")

"""An actuator with a TUN device, and the state it is asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from testbed.netns import Namespace
from tests.unit.host.conftest import overlay, run_inside
from tunneld.fib.state import Device, Firewall, HostChange, HostState, OverlayNet, Route, SubnetEnv
from tunneld.host.actuator import Actuator
from tunneld.host.netlink import Netlink
from tunneld.host.tun import Tun
from tunneld.host.underlay import Selection, find_underlay

NETWORK = IPv4Network("10.5.0.0/16")
SUBNET = IPv4Network("10.5.1.0/24")
WANTED = HostState(
    device=Device(
        address=IPv4Address("10.5.1.0"), mtu_bytes=1472, txqueuelen=1000, forwarding=True
    ),
    routes=frozenset(
        {
            Route(destination=NETWORK, kind="overlay"),
            Route(destination=SUBNET, kind="unreachable", metric=4294967295),
            Route(destination=IPv4Network("10.5.9.0/24"), kind="overlay", mtu_bytes=1300),
        }
    ),
    firewall=Firewall(ipv4=OverlayNet(network=NETWORK, subnet=SUBNET), masquerade=True),
    subnet_env=SubnetEnv(network=NETWORK, subnet=SUBNET, mtu_bytes=1472, ip_masq=True),
)


def whole(state: HostState) -> HostChange:
    """Returns the change that brings an empty host to `state`."""
    return HostChange(
        device=state.device,
        put_routes=state.routes,
        firewall=state.firewall,
        subnet_env=state.subnet_env,
    )


def missing(actual: HostState) -> HostChange:
    """Returns the change from `actual` to `WANTED`, in whole parts."""
    return HostChange(
        device=None if actual.device == WANTED.device else WANTED.device,
        put_routes=WANTED.routes - actual.routes,
        drop_routes=actual.routes - WANTED.routes,
        firewall=None if actual.firewall == WANTED.firewall else WANTED.firewall,
        subnet_env=None if actual.subnet_env == WANTED.subnet_env else WANTED.subnet_env,
    )


@asynccontextmanager
async def actuated(
    subnet_file: Path,
) -> AsyncIterator[tuple[Actuator, Tun, Netlink]]:
    async with overlay(queues=2) as (tun, netlink):
        actuator = Actuator(
            netlink,
            device=tun.name,
            networks=[NETWORK],
            subnet_file=subnet_file,
            underlay=await find_underlay(Selection(interfaces=("eth0",)), netlink),
            forwarding="always",
            tun=tun,
        )
        try:
            yield actuator, tun, netlink
        finally:
            await actuator.close()


def run_actuated(
    space: Namespace,
    directory: Path,
    work: Callable[[Actuator], Coroutine[Any, Any, None]],
) -> None:
    async def main() -> None:
        async with actuated(directory / "subnet.env") as (actuator, _, _):
            await work(actuator)

    run_inside(space, main)

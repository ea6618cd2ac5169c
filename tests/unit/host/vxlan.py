"""The kernel's vxlan devices that the tests of this folder ask for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from testbed.netns import Namespace
from tests.unit.host.conftest import run_inside
from tunneld.backend.base import VxlanDevice
from tunneld.backend.mac import MacAddress
from tunneld.fib.state import FdbEntry, Neighbour
from tunneld.host.netlink import Netlink
from tunneld.host.vxlan import VxlanDevices, VxlanState

MAC = MacAddress("0e:2a:00:00:00:01")
PEER_MAC = MacAddress("0e:2a:00:00:00:02")
OTHER_MAC = MacAddress("0e:2a:00:00:00:03")
WANTED = VxlanDevice(
    name="flannel.1",
    vni=1,
    port=8472,
    local=IPv4Address("192.0.2.1"),
    mac=MAC,
    gbp=False,
    learning=False,
    mtu_bytes=1450,
    address=IPv4Address("10.5.1.0"),
)
WANTED_V6 = replace(
    WANTED,
    name="flannel-v6.1",
    local=IPv6Address("2001:db8::1"),
    mtu_bytes=1430,
    address=IPv6Address("fd00:5:1::"),
)
BOTH = (WANTED, WANTED_V6)
NEIGHBOURS = (
    Neighbour(device="flannel.1", address=IPv4Address("10.5.2.0"), mac=PEER_MAC),
    Neighbour(device="flannel-v6.1", address=IPv6Address("fd00:5:2::"), mac=PEER_MAC),
)
FDB = (
    FdbEntry(device="flannel.1", mac=PEER_MAC, endpoint=IPv4Address("192.0.2.2")),
    FdbEntry(device="flannel-v6.1", mac=PEER_MAC, endpoint=IPv6Address("2001:db8::2")),
)


def with_devices(
    space: Namespace, work: Callable[[VxlanDevices, Netlink], Coroutine[Any, Any, None]]
) -> None:
    async def main() -> None:
        async with Netlink.opened() as netlink:
            underlay = await netlink.link("eth0")
            assert underlay is not None
            devices = VxlanDevices(netlink, underlay.index)
            try:
                await work(devices, netlink)
            finally:
                await devices.clear()

    run_inside(space, main)


async def observe(devices: VxlanDevices, netlink: Netlink) -> VxlanState:
    return await devices.observe(await netlink.links())


async def indices(netlink: Netlink) -> dict[str, int]:
    return {link.name: link.index for link in await netlink.links()}

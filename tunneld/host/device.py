"""Settings of the TUN device: addresses, MTU, queue length, forwarding, and which families.

Path of a lease: `host.actuator` -> **`host.device`** -> the kernel.

Forwarding is switched on for this device alone. `rp_filter` stays as the operator has it: the
network route leads to this device, so that also the strict check lets overlay traffic pass.
IPv6 is on only where the network has it, and quiet also there: no address of the kernel's making,
hence no router solicitation, and no multicast, hence no report of who listens to what.

Source: flannel `pkg/backend/udp/udp_network_amd64.go` (address `<subnet base>/32`, MTU, up).
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from tunneld.errors import HostError
from tunneld.fib.state import Device
from tunneld.host import families
from tunneld.host.finish import finish
from tunneld.host.netlink import Address, Link, Netlink
from tunneld.host.routes import Routes, Sources
from tunneld.lease.model import IPAddress

_AnyAddress = TypeVar("_AnyAddress", IPv4Address, IPv6Address)


class OverlayDevice:
    """The TUN device, found by its name. The device itself was made by `host.tun`."""

    def __init__(self, name: str, netlink: Netlink) -> None:
        self.name = name
        self._netlink = netlink
        self._wanted: Device | None = None

    async def link(self) -> Link | None:
        """Returns the kernel's view of the device, or None when it is gone."""
        return await self._netlink.link(self.name)

    async def sources(self, link: Link) -> Sources:
        """Returns our addresses; of each family None while there is none."""
        return self._own(await self._addresses(link.index))

    async def observe(self, link: Link) -> Device | None:
        """Returns the settings; None while the device is down or has no address of ours."""
        own = await self.sources(link)
        if own == Sources() or not link.is_up:
            return None
        forwards = own.ipv4 is None or link.forwarding
        if own.ipv6 is not None:
            forwards = forwards and await asyncio.to_thread(families.forwards_ipv6, link)
        return Device(
            address=own.ipv4,
            address_v6=own.ipv6,
            mtu_bytes=link.mtu_bytes,
            txqueuelen=link.txqueuelen,
            forwarding=forwards,
        )

    async def apply(self, link: Link, wanted: Device, routes: Routes) -> None:
        """Brings the device to the wanted settings, and up.

        A new address comes before the old one goes, and the routes move to it in between.
        """
        old = await self.sources(link)
        if link.is_multicast:
            await finish(asyncio.to_thread(families.leave_router_group, link))
            await self._netlink.disable_multicast(link.index)
        await finish(asyncio.to_thread(_set_families, link, wanted))
        new = Sources(ipv4=wanted.address, ipv6=wanted.address_v6)
        for address in new:
            await self._netlink.add_address(
                link.index, address, address.max_prefixlen, checked=False
            )
        await self._netlink.set_link(
            link.index, mtu_bytes=wanted.mtu_bytes, txqueuelen=wanted.txqueuelen
        )
        self._wanted = wanted
        gone = [address for address in old if address not in new]
        if gone:
            await routes.change_source(link.index, new)
            for address in gone:
                await self._netlink.remove_address(link.index, address, address.max_prefixlen)

    def gone(self) -> HostError:
        """Returns the error for a device that somebody removed."""
        return HostError(
            f"overlay device {self.name} is gone; expected it while the daemon runs: somebody "
            "deleted it (`ip link del`), start the daemon again"
        )

    async def _addresses(self, index: int) -> list[Address]:
        there = [*await self._netlink.addresses(4), *await self._netlink.addresses(6)]
        return [one for one in there if one.index == index]

    def _own(self, there: list[Address]) -> Sources:
        """Returns our addresses: those set last, or the first of each kind on a new device."""
        whole = [one.address for one in there if one.prefix_length == one.address.max_prefixlen]
        return Sources(ipv4=self._chosen(IPv4Address, whole), ipv6=self._chosen(IPv6Address, whole))

    def _chosen(self, kind: type[_AnyAddress], whole: list[IPAddress]) -> _AnyAddress | None:
        own = [address for address in whole if isinstance(address, kind)]
        if self._wanted is None:
            return own[0] if own else None
        wanted = self._wanted.address if kind is IPv4Address else self._wanted.address_v6
        return next((address for address in own if address == wanted), None)


def _set_families(link: Link, wanted: Device) -> None:
    families.set_ipv6(link, wanted.address_v6 is not None)
    if wanted.address is not None:
        families.set_ipv4_forwarding(link, wanted.forwarding)
    if wanted.address_v6 is not None:
        families.set_ipv6_forwarding(link, wanted.forwarding)

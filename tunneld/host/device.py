"""Settings of the TUN device: addresses, MTU, queue length, forwarding, and which families.

Path of a lease: `host.actuator` -> **`host.device`** -> the kernel.

Forwarding is switched on for this device alone. `rp_filter` stays as the operator has it: the
network route leads to this device, so that also the strict check lets overlay traffic pass.
IPv6 is on only where the network has it, and quiet also there: no address of the kernel's making,
hence no router solicitation, and no multicast, hence no report of who listens to what.

What others set on it is put back; it is lost when it is not here, or not ours alone.

Source: flannel `pkg/backend/udp/udp_network_amd64.go` (address `<subnet base>/32`, MTU, up).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from tunneld.errors import DeviceLostError, HostError
from tunneld.fib.state import Device
from tunneld.host import families
from tunneld.host.finish import finish
from tunneld.host.netlink import Address, Link, Netlink
from tunneld.host.routes import Routes, Sources
from tunneld.host.tun import Tun
from tunneld.lease.model import IPAddress

_AnyAddress = TypeVar("_AnyAddress", IPv4Address, IPv6Address)


CALM_S = 10.0
"""How old a device is at least before a queue of another program has it made anew: a program that
comes back each time must not keep the data path from working."""

_log = logging.getLogger("tunneld.host")


def tell_put_back(device: str, done: str) -> None:
    """Says what somebody has done to a device of the overlay, now that it is undone."""
    _log.warning(
        "put back what was done to the overlay device",
        extra={"fields": {"device": device, "detail": done}},
    )


class OverlayDevice:
    """The TUN device. The device itself was made by `host.tun`."""

    def __init__(
        self,
        name: str,
        netlink: Netlink,
        tun: Tun | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without `tun`, its descriptors, the device is known by its name alone."""
        self.name = name
        self._netlink = netlink
        self._tun = tun
        self._clock = clock
        self._made_s = clock()
        self._wanted: Device | None = None

    async def link(self) -> Link | None:
        """Returns the kernel's view of the device, or None when it is gone."""
        return self.among(await self._netlink.links())

    def among(self, links: Iterable[Link]) -> Link | None:
        """Returns it out of all devices, whatever its name is now; None when it is gone."""
        if self._tun is None:
            return next((link for link in links if link.name == self.name), None)
        index = self._tun.index
        found = next((link for link in links if link.index == index and link.kind == "tun"), None)
        return found if self._tun.is_there() else None

    async def sources(self, link: Link) -> Sources:
        """Returns our addresses; of each family None while there is none."""
        return self._own(await self._addresses(link.index))

    async def observe(self, link: Link) -> Device | None:
        """Returns the settings; None while the device is down or has no address of ours."""
        own = await self.sources(link)
        if own == Sources() or not link.is_up or self._foreign(link):
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
        link = await self._put_back(link)
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

    def gone(self) -> DeviceLostError:
        """Returns the error for a device that somebody removed."""
        return DeviceLostError(
            f"overlay device {self.name} is gone; expected it while the daemon runs: somebody "
            "deleted it or moved it to another namespace (`ip link`), it is made again"
        )

    def differs(self) -> bool:
        """Says, without asking anybody but the device itself, whether it is not as it was made."""
        return self._tun is not None and (not self._tun.is_there() or bool(self._tun.differences()))

    def _foreign(self, link: Link) -> str:
        """Returns in words what others did to the device; empty: nothing."""
        tun, found = self._tun, []
        if link.name != self.name:
            found.append(f"its name is {link.name}")
        if tun is not None:
            found.append(tun.differences())
            if link.is_up and not link.has_carrier:
                found.append("it has no carrier")
            if link.tun is not None and (link.tun.owner, link.tun.group) != (tun.owner, tun.group):
                found.append(f"its owner is user {link.tun.owner}, group {link.tun.group}")
            if link.tun is not None and link.tun.queues > len(tun.fds):
                found.append(f"{link.tun.queues - len(tun.fds)} queues are another program's")
        return ", ".join(text for text in found if text)

    async def _put_back(self, link: Link) -> Link:
        """Undoes what others did to the device itself, and returns it by its own name.

        Raises:
            DeviceLostError: another program takes part of its packets.
            HostError: the kernel refuses.
        """
        tun = self._tun
        if not (foreign := self._foreign(link)):
            return link
        if tun is not None and link.tun is not None and link.tun.queues > len(tun.fds):
            cause = (
                f"overlay device {self.name} is not tunneld's alone: another program with "
                "CAP_NET_ADMIN has attached a queue to it, and takes packets; expected none: end "
                f"that program (see `lsof /dev/net/tun`)"
            )
            if self._clock() - self._made_s >= CALM_S:
                raise DeviceLostError(f"{cause}; it is made again")
            raise HostError(cause)
        tell_put_back(self.name, foreign)
        if tun is not None:
            tun.put_back(has_carrier=link.has_carrier or not link.is_up)
        if link.name != self.name:
            await self._netlink.rename(link.index, self.name)
        return replace(link, name=self.name)

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

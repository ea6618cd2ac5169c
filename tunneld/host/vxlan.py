"""The kernel's own vxlan devices, as flanneld makes them, with their neighbours and FDB.

Path of a lease: `host.actuator` -> **`host.vxlan`** -> the kernel.

A device is found by its name and is ours once it was put. What was left there by a flanneld, or
by a daemon that was killed, has the same VNI, port and address: it is taken over. What somebody
changes or deletes is put back: MAC, MTU, address and state in place, all else by a new device.
Every permanent entry of a device of ours is ours: nobody else knows what would belong there.

Source: flannel `pkg/backend/vxlan/device.go` (settings, and when a device is made anew),
`vxlan_network.go` (entries); Linux drivers/net/vxlan/vxlan_core.c.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace

from tunneld.backend.base import VxlanDevice
from tunneld.errors import HostError, PeerRouteError, PortInUseError
from tunneld.fib.state import FdbEntry, Neighbour
from tunneld.host import families
from tunneld.host.device import tell_put_back
from tunneld.host.finish import finish
from tunneld.host.leftover import require_leftover
from tunneld.host.netlink import (
    Address,
    BridgeEntry,
    DeviceCounters,
    Link,
    NeighbourEntry,
    Netlink,
    VxlanSettings,
    refused,
)
from tunneld.host.port_holder import port_holder

_TXQUEUELEN_PACKETS = 0
"""As flanneld leaves it; the kernel's own choice would be 1000. No queue is in use."""

OWN_ALIAS = "tunneld"
"""Marks a device as ours for daemons with another config, once this one is gone."""

_log = logging.getLogger("tunneld.host")


@dataclass(frozen=True, slots=True, kw_only=True)
class VxlanState:
    """What is in place of our vxlan devices."""

    devices: frozenset[VxlanDevice] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    fdb: frozenset[FdbEntry] = frozenset()


class VxlanDevices:
    """The kernel vxlan devices of one daemon."""

    def __init__(self, netlink: Netlink, underlay: int) -> None:
        """`underlay` is the index of the interface that carries the datagrams."""
        self._netlink = netlink
        self.underlay = underlay
        self._wanted: dict[str, VxlanDevice] = {}
        """By name, what was put and not dropped."""
        self._indices: dict[str, int] = {}
        """By name, the device that was put last: by this it is known also under another name."""

    @property
    def names(self) -> Collection[str]:
        """Names of our devices, whether they are there or not."""
        return self._wanted.keys()

    async def observe(self, links: Iterable[Link]) -> VxlanState:
        """Returns the devices that are fully as they were put, and the entries in all of ours."""
        addresses = [*await self._netlink.addresses(4), *await self._netlink.addresses(6)]
        devices: set[VxlanDevice] = set()
        neighbours: set[Neighbour] = set()
        fdb: set[FdbEntry] = set()
        for link in links:
            wanted = self._wanted.get(link.name)
            if wanted is None or link.vxlan is None:
                continue
            if self._is_whole(link, wanted, addresses):
                devices.add(wanted)
            for entry in await self._netlink.neighbours(link.index, wanted.address.version):
                neighbours.add(Neighbour(device=link.name, address=entry.address, mac=entry.mac))
            for forward in await self._netlink.bridge_entries(link.index):
                fdb.add(FdbEntry(device=link.name, mac=forward.mac, endpoint=forward.endpoint))
        return VxlanState(
            devices=frozenset(devices), neighbours=frozenset(neighbours), fdb=frozenset(fdb)
        )

    async def counters(self) -> list[DeviceCounters]:
        """Returns what the kernel has counted on those of our devices that are there."""
        if not self._wanted:
            return []
        return [one for one in await self._netlink.device_counters() if one.device in self._wanted]

    async def put(self, wanted: VxlanDevice) -> None:
        """Brings a device to what is wanted, and up; makes it where there is none that fits.

        Raises:
            PortInUseError: somebody else has its port, or its VNI there.
            HostError: a device of that name is somebody else's; the message says why.
        """
        link = await self._netlink.link(wanted.name) or await self._renamed_back(wanted)
        settings = self._settings(wanted)
        before = self._wanted.get(wanted.name)
        if link is not None and (before is None or link.vxlan is None):
            await require_leftover(self._netlink, link, wanted.vni, wanted.port, (wanted.local,))
            _log.warning(
                "took over a vxlan device that was left behind",
                extra={"fields": {"device": link.name}},
            )
        # From here on it is ours, also should this be cut short.
        self._wanted[wanted.name] = wanted
        if link is not None and link.vxlan is not None and link.vxlan != settings:
            _log.warning(
                "a vxlan device is not as it must be and is made anew",
                extra={"fields": {"device": link.name, "detail": difference(link.vxlan, settings)}},
            )
            await self._netlink.remove_link(link.index)
            link = None
        if link is None:
            link = await self._make(wanted, settings)
        self._indices[wanted.name] = link.index
        await self._set_up(link, wanted, before)

    async def drop(self, wanted: VxlanDevice) -> None:
        """Deletes a device of ours."""
        link = await self._netlink.link(wanted.name)
        if self._wanted.pop(wanted.name, None) is not None and link is not None and link.vxlan:
            await self._netlink.remove_link(link.index)

    async def clear(self) -> None:
        """Deletes all our devices, and with them their addresses, entries and routes."""
        for wanted in list(self._wanted.values()):
            await self.drop(wanted)

    async def put_entries(
        self,
        indices: Mapping[str, int],
        neighbours: Iterable[Neighbour],
        fdb: Iterable[FdbEntry],
    ) -> None:
        """Puts neighbours and FDB entries, in flannel's order.

        Raises:
            PeerRouteError: some are refused; all others are there.
            HostError: a device is gone.
        """
        wanted = [
            NeighbourEntry(index=_index(indices, one.device), address=one.address, mac=one.mac)
            for one in neighbours
        ]
        forwards = [_bridge_entry(indices, one) for one in fdb]
        refusals = [
            refused(f"set neighbour {entry.address}", code)
            for entry, code in zip(wanted, await self._netlink.put_neighbours(wanted), strict=True)
            if code
        ]
        codes = await self._netlink.put_bridge_entries(forwards)
        refusals += [
            refused(f"set forwarding entry {entry.mac}", code)
            for entry, code in zip(forwards, codes, strict=True)
            if code
        ]
        if refusals:
            more = f"; {len(refusals) - 1} more have failed" if len(refusals) > 1 else ""
            raise PeerRouteError(f"{refusals[0]}{more}")

    async def drop_entries(
        self,
        indices: Mapping[str, int],
        neighbours: Iterable[Neighbour],
        fdb: Iterable[FdbEntry],
    ) -> None:
        """Removes entries; a neighbour whatever its MAC."""
        await self._netlink.remove_neighbours(
            (indices[one.device], one.address) for one in neighbours if one.device in indices
        )
        await self._netlink.remove_bridge_entries(
            _bridge_entry(indices, one) for one in fdb if one.device in indices
        )

    def _settings(self, wanted: VxlanDevice) -> VxlanSettings:
        return VxlanSettings(
            vni=wanted.vni,
            port=wanted.port,
            local=wanted.local,
            underlay=self.underlay,
            gbp=wanted.gbp,
            learning=wanted.learning,
        )

    def _is_whole(self, link: Link, wanted: VxlanDevice, addresses: Iterable[Address]) -> bool:
        own = [
            one.address
            for one in addresses
            if one.index == link.index and one.prefix_length == one.address.max_prefixlen
        ]
        forwards = link.forwarding if wanted.address.version == 4 else families.forwards_ipv6(link)
        return (
            link.vxlan == self._settings(wanted)
            and link.is_up
            and not link.master
            and (link.mac, link.mtu_bytes) == (wanted.mac, wanted.mtu_bytes)
            and link.txqueuelen == _TXQUEUELEN_PACKETS
            and wanted.address in own
            and forwards
            and not families.accepts_router_advertisements(link)
        )

    async def _renamed_back(self, wanted: VxlanDevice) -> Link | None:
        """Gives our device its name again, if it has another; returns it, or None.

        It is the one that was put last, or, after a start, the one with our Ethernet address.
        """
        index = self._indices.get(wanted.name)
        ours = (wanted.mac, self._settings(wanted))
        for link in await self._netlink.links():
            if link.vxlan is None or link.name in self._wanted:
                continue
            if link.index == index or (link.mac, link.vxlan) == ours:
                tell_put_back(wanted.name, f"its name is {link.name}")
                await self._netlink.rename(link.index, wanted.name)
                return replace(link, name=wanted.name)
        return None

    async def _taken_back(self, wanted: VxlanDevice) -> bool:
        """Deletes our device where somebody moved it to another namespace; says whether it did.

        Its Ethernet address is ours alone.
        """
        ours = (wanted.mac, wanted.vni, wanted.port)
        for one in await self._netlink.vxlan_elsewhere():
            if (one.mac, one.vni, one.port) == ours:
                tell_put_back(wanted.name, "it was moved to another namespace")
                await self._netlink.remove_elsewhere(one)
                return True
        return False

    async def _make(self, wanted: VxlanDevice, settings: VxlanSettings) -> Link:
        made = await self._netlink.add_vxlan(
            wanted.name, settings, mac=wanted.mac, mtu_bytes=wanted.mtu_bytes
        )
        if not made and await self._taken_back(wanted):
            made = await self._netlink.add_vxlan(
                wanted.name, settings, mac=wanted.mac, mtu_bytes=wanted.mtu_bytes
            )
        link = await self._netlink.link(wanted.name)
        if not made or link is None:
            del self._wanted[wanted.name]
            raise PortInUseError(await self._taken(wanted))
        return link

    async def _set_up(self, link: Link, wanted: VxlanDevice, before: VxlanDevice | None) -> None:
        if link.master:
            await self._netlink.free(link.index)
        if link.alias != OWN_ALIAS:
            await self._netlink.set_alias(link.index, OWN_ALIAS)
        if link.mac != wanted.mac:
            await self._netlink.set_mac(link.index, wanted.mac)
        await finish(asyncio.to_thread(_set_families, link, wanted))
        await self._netlink.add_address(link.index, wanted.address, wanted.address.max_prefixlen)
        for old in await self._old_addresses(link, wanted, before):
            await self._netlink.remove_address(link.index, old.address, old.prefix_length)
        try:
            await self._netlink.set_link(
                link.index, mtu_bytes=wanted.mtu_bytes, txqueuelen=_TXQUEUELEN_PACKETS
            )
        except HostError as error:
            if getattr(error.__cause__, "code", None) != errno.EADDRINUSE:
                raise
            raise PortInUseError(await self._taken(wanted)) from error

    async def _old_addresses(
        self, link: Link, wanted: VxlanDevice, before: VxlanDevice | None
    ) -> list[Address]:
        """Returns our address of before; of a device just taken over all that can have been."""
        return [
            one
            for one in await self._netlink.addresses(wanted.address.version)
            if one.index == link.index
            and one.prefix_length == one.address.max_prefixlen
            and one.address != wanted.address
            and (before is None or one.address == before.address)
        ]

    async def _taken(self, wanted: VxlanDevice) -> str:
        ours = {wanted.name, *self._wanted}
        others = [
            f"{link.name} (VNI {link.vxlan.vni})"
            for link in await self._netlink.links()
            if link.vxlan is not None and link.vxlan.port == wanted.port and link.name not in ours
        ]
        if others:
            holder = f"the vxlan device {', '.join(others)}"
        else:
            holder = await asyncio.to_thread(port_holder, wanted.port)
        return (
            f"cannot bring up device {wanted.name}, VNI {wanted.vni}, UDP port {wanted.port}: "
            f"{holder} holds the port; expected it free: remove that, or give the network another "
            "Backend.Port"
        )


def difference(there: VxlanSettings, wanted: VxlanSettings) -> str:
    """Returns in words what of a device's settings is not as wanted. Pure."""
    before, after = asdict(there), asdict(wanted)
    return ", ".join(
        f"{name} {value} instead of {after[name]}"
        for name, value in before.items()
        if value != after[name]
    )


def _set_families(link: Link, wanted: VxlanDevice) -> None:
    families.ignore_router_advertisements(link)
    if wanted.address.version == 4:
        families.set_ipv4_forwarding(link, True)
    else:
        families.switch_ipv6(link, True)
        families.set_ipv6_forwarding(link, True)


def _index(indices: Mapping[str, int], device: str) -> int:
    if device not in indices:
        raise HostError(
            f"vxlan device {device} is gone; expected it while the daemon runs: it is made again"
        )
    return indices[device]


def _bridge_entry(indices: Mapping[str, int], entry: FdbEntry) -> BridgeEntry:
    return BridgeEntry(index=_index(indices, entry.device), mac=entry.mac, endpoint=entry.endpoint)

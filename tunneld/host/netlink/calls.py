"""The calls: what is listed, set, added and removed, one method each.

Source: Linux rtnetlink(7).
"""

from __future__ import annotations

import errno
from socket import AF_BRIDGE

from tunneld.backend.mac import MacAddress
from tunneld.host.netlink import messages
from tunneld.host.netlink.channel import Channel
from tunneld.host.netlink.messages import FAMILIES
from tunneld.host.netlink.model import (
    MAIN_TABLE,
    Address,
    BridgeEntry,
    DeviceCounters,
    Family,
    KernelRoute,
    Link,
    NeighbourEntry,
    VxlanSettings,
)
from tunneld.lease.model import IPAddress

_IFA_F_NODAD = 0x02
_IFF_MULTICAST = 0x1000


class Netlink(Channel):
    """An open routing socket in the network namespace of the thread that opened it.

    Every call raises HostError for what the kernel refuses, and CapabilityError without
    CAP_NET_ADMIN.
    """

    async def links(self) -> list[Link]:
        """Returns all devices, in the order of their index."""
        found = await self._dump("list the devices", self._ip.get_links)
        return sorted((messages.link(message) for message in found), key=lambda link: link.index)

    async def link(self, name: str) -> Link | None:
        """Returns the device of that name, or None."""
        return next((link for link in await self.links() if link.name == name), None)

    async def device_counters(self) -> list[DeviceCounters]:
        """Returns what the kernel has counted on each device, in the order of their index."""
        found = await self._dump("list the devices", self._ip.get_links)
        return [
            messages.device_counters(message)
            for message in sorted(found, key=lambda message: int(message["index"]))
        ]

    async def addresses(self, family: Family = 4) -> list[Address]:
        """Returns all addresses of a family; on each device the primary IPv4 ones first."""
        found = await self._dump("list the addresses", self._ip.get_addr, family=FAMILIES[family])
        addresses = (messages.address(message) for message in found)
        # Without IPv6 the kernel answers a question for it with IPv4.
        return [one for one in addresses if one.address.version == family]

    async def routes(self, family: Family = 4) -> list[KernelRoute]:
        """Returns the main table's routes, strongest metric first per destination."""
        found = await self._dump(
            "list the routes", self._ip.get_routes, family=FAMILIES[family], table=MAIN_TABLE
        )
        routes = (messages.route(message) for message in found if not messages.is_cached(message))
        return [route for route in routes if route.destination.version == family]

    async def route_to(self, destination: IPAddress) -> KernelRoute:
        """Returns the route a packet of this host to `destination` takes.

        Raises:
            HostError: there is none.
        """
        found = await self._dump(
            f"find a route to {destination}",
            self._ip.route,
            "get",
            dst=str(destination),
            family=FAMILIES[destination.version],
        )
        return messages.route(found[0])

    async def neighbours(self, index: int, family: Family) -> list[NeighbourEntry]:
        """Returns a device's permanent neighbour entries."""
        found = await self._dump(
            "list the neighbours", self._ip.get_neighbours, family=FAMILIES[family], ifindex=index
        )
        entries = (messages.neighbour(message) for message in found)
        return [entry for entry in entries if entry is not None and entry.index == index]

    async def bridge_entries(self, index: int) -> list[BridgeEntry]:
        """Returns a vxlan device's permanent forwarding entries."""
        found = await self._dump("list the forwarding entries", self._ip.fdb, "dump", ifindex=index)
        entries = (messages.bridge_entry(message) for message in found)
        return [entry for entry in entries if entry is not None and entry.index == index]

    async def set_link(
        self,
        index: int,
        *,
        mtu_bytes: int,
        txqueuelen: int,
        is_up: bool = True,
    ) -> None:
        """Sets a device's MTU, queue length and administrative state."""
        await self._call(
            f"set device {index}",
            self._ip.link,
            "set",
            index=index,
            mtu=mtu_bytes,
            state="up" if is_up else "down",
            txqlen=txqueuelen,
        )

    async def rename(self, index: int, name: str) -> None:
        """Gives a device another name. It is down afterwards: a kernel before 6.2 wants that."""
        await self._call(
            f"name device {index} {name}", self._ip.link, "set", index=index, state="down"
        )
        await self._call(
            f"name device {index} {name}", self._ip.link, "set", index=index, ifname=name
        )

    async def set_mac(self, index: int, mac: MacAddress) -> None:
        """Sets a device's Ethernet address."""
        await self._call(
            f"set the address of device {index}", self._ip.link, "set", index=index, address=mac
        )

    async def disable_multicast(self, index: int) -> None:
        """Takes the multicast flag from a device, so that the kernel joins no router group."""
        await self._call(
            f"set device {index}", self._ip.link, "set", index=index, flags=0, mask=_IFF_MULTICAST
        )

    async def add_vxlan(
        self, name: str, settings: VxlanSettings, *, mac: MacAddress, mtu_bytes: int
    ) -> bool:
        """Makes a vxlan device, down; False when its name, or VNI and port, are taken."""
        return await self._call(
            f"make device {name}",
            self._ip.link,
            "add",
            ignored=(errno.EEXIST,),
            ifname=name,
            address=mac,
            mtu=mtu_bytes,
            txqlen=0,  # as flanneld's: the device has no queue
            **messages.vxlan_request(settings),
        )

    async def remove_link(self, index: int) -> None:
        """Deletes a device; one that is gone already is no error."""
        await self._call(
            f"delete device {index}",
            self._ip.link,
            "del",
            index=index,
            ignored=(errno.ENODEV,),
        )

    async def add_address(
        self, index: int, address: IPAddress, prefix_length: int, *, checked: bool = True
    ) -> None:
        """Gives a device an address; one that is there already is no error.

        `checked`: with duplicate address detection, where the device does such.
        """
        flags: dict[str, object] = (
            {} if checked or address.version == 4 else {"flags": _IFA_F_NODAD}
        )
        await self._call(
            f"add address {address}/{prefix_length}",
            self._ip.addr,
            "add",
            index=index,
            address=str(address),
            prefixlen=prefix_length,
            ignored=(errno.EEXIST,),
            **flags,
        )

    async def remove_address(self, index: int, address: IPAddress, prefix_length: int) -> None:
        """Takes an address from a device; one that is gone already is no error."""
        await self._call(
            f"remove address {address}/{prefix_length}",
            self._ip.addr,
            "del",
            index=index,
            address=str(address),
            prefixlen=prefix_length,
            ignored=(errno.EADDRNOTAVAIL,),
        )

    async def add_route(self, route: KernelRoute) -> bool:
        """Adds a route to the main table; returns False when its place is taken."""
        return await self._call(
            f"add route {route.destination}",
            self._ip.route,
            "add",
            ignored=(errno.EEXIST,),
            **messages.route_request(route),
        )

    async def replace_route(self, route: KernelRoute) -> None:
        """Puts a route in the place of the one with the same destination, TOS and metric."""
        await self._call(
            f"replace route {route.destination}",
            self._ip.route,
            "replace",
            **messages.route_request(route),
        )

    async def remove_route(self, route: KernelRoute) -> None:
        """Removes exactly this route; one that is gone already is no error."""
        await self._call(
            f"remove route {route.destination}",
            self._ip.route,
            "del",
            ignored=(errno.ESRCH,),
            **messages.route_request(route),
        )

    async def put_neighbour(self, entry: NeighbourEntry) -> None:
        """Makes a permanent neighbour entry, in the place of whatever is there."""
        await self._call(
            f"set neighbour {entry.address}",
            self._ip.neigh,
            "replace",
            ifindex=entry.index,
            family=FAMILIES[entry.address.version],
            dst=str(entry.address),
            lladdr=entry.mac,
            state=messages.NUD_PERMANENT,
        )

    async def remove_neighbour(self, index: int, address: IPAddress) -> None:
        """Removes a neighbour entry; one that is gone already is no error."""
        await self._call(
            f"remove neighbour {address}",
            self._ip.neigh,
            "del",
            ifindex=index,
            family=FAMILIES[address.version],
            dst=str(address),
            ignored=(errno.ENOENT, errno.ENODEV),
        )

    async def put_bridge_entry(self, entry: BridgeEntry) -> None:
        """Makes a permanent forwarding entry, in the place of the one for the same address."""
        await self._call(
            f"set forwarding entry {entry.mac}",
            self._ip.fdb,
            "replace",
            ifindex=entry.index,
            family=AF_BRIDGE,
            lladdr=entry.mac,
            dst=str(entry.endpoint),
            state=messages.NUD_PERMANENT,
            flags=messages.NTF_SELF,
        )

    async def remove_bridge_entry(self, entry: BridgeEntry) -> None:
        """Removes exactly this forwarding entry; one that is gone already is no error."""
        await self._call(
            f"remove forwarding entry {entry.mac}",
            self._ip.fdb,
            "del",
            ifindex=entry.index,
            family=AF_BRIDGE,
            lladdr=entry.mac,
            dst=str(entry.endpoint),
            flags=messages.NTF_SELF,
            ignored=(errno.ENOENT, errno.ENODEV),
        )

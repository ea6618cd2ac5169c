"""The calls: what is listed, set, added and removed, one method each.

Source: Linux rtnetlink(7).
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Sequence
from functools import partial

from tunneld.backend.mac import MacAddress
from tunneld.host.netlink import elsewhere, messages, wire
from tunneld.host.netlink.channel import Channel, refused
from tunneld.host.netlink.elsewhere import Elsewhere
from tunneld.host.netlink.messages import FAMILIES
from tunneld.host.netlink.model import (
    Address,
    BridgeEntry,
    DeviceCounters,
    Family,
    KernelRoute,
    Link,
    NeighbourEntry,
    VxlanSettings,
)
from tunneld.lease.model import IPAddress, IPNetwork

_IFA_F_NODAD = 0x02
_IFF_MULTICAST = 0x1000

Prefixes = list[tuple[int, int, int]]

Places = frozenset[tuple[int, bytes]]
"""Destinations, as messages have them."""


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

    async def routes(
        self, family: Family = 4, *, protocol: int = 0, oif: int | None = None
    ) -> list[KernelRoute]:
        """Returns routes of the main table, strongest metric first per destination.

        `protocol`, `oif`: only those of that protocol number, and out of that device; the kernel
        hands out no others. Without either this may be a hundred thousand: see `default_routes`
        and `routes_to`.
        """
        body = wire.routes_request(family, protocol, oif)
        found = await self._listing("list the routes", wire.RTM_GETROUTE, body, wire.route)
        return [
            route
            for route in found
            if route.destination.version == family
            and protocol in (0, route.protocol)  # an older kernel hands out all
            and oif in (None, route.oif)
        ]

    async def default_routes(self, family: Family = 4) -> list[KernelRoute]:
        """Returns the main table's default routes, strongest metric first."""
        body = wire.routes_request(family, 0, None)
        found = await self._listing(
            "list the routes", wire.RTM_GETROUTE, body, wire.route, lengths=(0,)
        )
        return [route for route in found if route.destination.version == family]

    async def any_route_by(
        self, oif: int, family: Family = 4, *, besides: int = 0
    ) -> KernelRoute | None:
        """Returns one of the main table's routes out of a device; None: there is none.

        `besides`: a protocol number whose routes do not count.
        """

        def read(body: bytes) -> KernelRoute | None:
            found = wire.route(body)
            if found is None or found.protocol == besides:
                return None
            # An older kernel hands out all, and without IPv6 those of IPv4.
            is_out = oif in (found.oif, *found.hops) and found.destination.version == family
            return found if is_out else None

        body = wire.routes_request(family, 0, oif)
        return await self._first("list the routes", wire.RTM_GETROUTE, body, read)

    async def routes_to(self, destinations: Collection[IPNetwork]) -> list[KernelRoute]:
        """Returns the main table's routes to exactly these destinations, of whomever."""
        found: list[KernelRoute] = []
        for family in (4, 6):
            wanted = [net for net in destinations if net.version == family]
            places = frozenset(map(wire.place, wanted))
            lengths = frozenset(net.prefixlen for net in wanted)

            def read(body: bytes, places: Places = places) -> KernelRoute | None:
                return wire.route(body) if wire.is_to(body, places) else None

            if wanted:
                body = wire.routes_request(4 if family == 4 else 6, 0, None)
                found += await self._listing(
                    "list the routes", wire.RTM_GETROUTE, body, read, lengths
                )
        return [route for route in found if route.destination in destinations]

    async def routes_within(self, networks: Collection[IPNetwork]) -> list[KernelRoute]:
        """Returns the main table's routes to parts of these networks, of whomever."""
        found: list[KernelRoute] = []
        for family in (4, 6):
            nets = [net for net in networks if net.version == family]
            prefixes = [wire.prefix(net) for net in nets]

            def read(body: bytes, prefixes: Prefixes = prefixes) -> KernelRoute | None:
                return wire.route(body) if wire.is_within(body, prefixes) else None

            if nets:
                body = wire.routes_request(4 if family == 4 else 6, 0, None)
                lengths = range(min(net.prefixlen for net in nets), nets[0].max_prefixlen + 1)
                found += await self._listing(
                    "list the routes", wire.RTM_GETROUTE, body, read, lengths
                )
        return found

    async def routes_by(self, addresses: Sequence[IPAddress]) -> list[KernelRoute | None]:
        """Returns for each address the route a packet of this host to it takes, of any table.

        None: the kernel has none, or refuses the packet.
        """
        requests = [wire.lookup_request(address) for address in addresses]
        answers = await self._answers("look routes up", requests)
        return [None if body is None else wire.any_route(body) for body in answers]

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

    async def configured_mtu(self, destination: IPAddress) -> int | None:
        """Returns the MTU that somebody has given the route to `destination`; None: nobody has.

        What the kernel has learned of the path is not that: it runs out.

        Raises:
            HostError: there is no route.
        """
        found = await self._dump(
            f"find a route to {destination}",
            self._ip.route,
            "get",
            dst=str(destination),
            family=FAMILIES[destination.version],
        )
        return messages.configured_mtu(found[0])

    async def neighbours(self, index: int, family: Family) -> list[NeighbourEntry]:
        """Returns a device's permanent neighbour entries."""
        body = wire.neighbours_request(index, family)
        found = await self._listing("list the neighbours", wire.RTM_GETNEIGH, body, wire.neighbour)
        return [one for one in found if one.index == index and one.address.version == family]

    async def bridge_entries(self, index: int) -> list[BridgeEntry]:
        """Returns a vxlan device's permanent forwarding entries."""
        body = wire.bridge_request(index)
        found = await self._listing(
            "list the forwarding entries", wire.RTM_GETNEIGH, body, wire.bridge_entry
        )
        return [entry for entry in found if entry.index == index]

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

    async def free(self, index: int) -> None:
        """Takes a device out of the bridge, bond or VRF it belongs to."""
        await self._call(f"set device {index}", self._ip.link, "set", index=index, master=0)

    async def set_mac(self, index: int, mac: MacAddress) -> None:
        """Sets a device's Ethernet address."""
        await self._call(
            f"set the address of device {index}", self._ip.link, "set", index=index, address=mac
        )

    async def set_alias(self, index: int, alias: str) -> None:
        """Writes on a device whose it is."""
        await self._call(
            f"set the alias of device {index}", self._ip.link, "set", index=index, ifalias=alias
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

    async def vxlan_elsewhere(self) -> list[Elsewhere]:
        """Returns the vxlan devices in all namespaces that this one has to do with."""
        what, request = "list the devices of other namespaces", elsewhere.namespaces_request()
        found = []
        for number in await self._listing(
            what, elsewhere.RTM_GETNSID, request, elsewhere.namespace
        ):
            body = elsewhere.devices_request(number)
            read = partial(elsewhere.device, number)
            found += await self._listing(what, elsewhere.RTM_GETLINK, body, read)
        return found

    async def remove_elsewhere(self, one: Elsewhere) -> None:
        """Deletes a device in another namespace; one that is gone already is no error."""
        what = f"delete device {one.name} in another namespace"
        await self._change_one(what, elsewhere.remove(one), errno.ENODEV)

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
        request = wire.put_route(route, replace=False)
        return await self._change_one(f"add route {route.destination}", request, errno.EEXIST)

    async def replace_route(self, route: KernelRoute) -> None:
        """Puts a route in the place of the one with the same destination, TOS and metric."""
        request = wire.put_route(route, replace=True)
        await self._change_one(f"replace route {route.destination}", request)

    async def put_routes(self, steps: Sequence[tuple[KernelRoute, bool]]) -> list[int]:
        """Puts routes in their order, many at a time; returns for each 0 or an errno.

        Each comes with whether it takes the place of one; else that must be free (EEXIST).
        """
        requests = [wire.put_route(route, replace=replace) for route, replace in steps]
        return await self._change("put routes", requests)

    async def remove_route(self, route: KernelRoute) -> None:
        """Removes exactly this route; one that is gone already is no error."""
        await self.remove_routes([route])

    async def remove_routes(self, routes: Iterable[KernelRoute]) -> None:
        """Removes exactly these routes; one that is gone already is no error."""
        routes = list(routes)
        codes = await self._change("remove routes", [wire.remove_route(one) for one in routes])
        for route, code in zip(routes, codes, strict=True):
            if code not in (0, errno.ESRCH, errno.ENODEV):
                raise refused(f"remove route {route.destination}", code)

    async def put_neighbours(self, entries: Sequence[NeighbourEntry]) -> list[int]:
        """Makes permanent neighbour entries, in the place of whatever is there.

        Returns for each 0 or an errno.
        """
        return await self._change("set neighbours", [wire.put_neighbour(one) for one in entries])

    async def remove_neighbours(self, entries: Iterable[tuple[int, IPAddress]]) -> None:
        """Removes neighbour entries of devices; one that is gone already is no error."""
        await self._remove(
            "remove neighbours", [wire.remove_neighbour(index, ip) for index, ip in entries]
        )

    async def put_bridge_entries(self, entries: Sequence[BridgeEntry]) -> list[int]:
        """Makes permanent forwarding entries, each in the place of the one for the same address.

        Returns for each 0 or an errno.
        """
        requests = [wire.put_bridge_entry(one) for one in entries]
        return await self._change("set forwarding entries", requests)

    async def remove_bridge_entries(self, entries: Iterable[BridgeEntry]) -> None:
        """Removes exactly these forwarding entries; one that is gone already is no error."""
        await self._remove(
            "remove forwarding entries", [wire.remove_bridge_entry(one) for one in entries]
        )

    async def put_neighbour(self, entry: NeighbourEntry) -> None:
        """Makes a permanent neighbour entry, in the place of whatever is there."""
        await self._change_one(f"set neighbour {entry.address}", wire.put_neighbour(entry))

    async def put_bridge_entry(self, entry: BridgeEntry) -> None:
        """Makes a permanent forwarding entry, in the place of the one for the same address."""
        await self._change_one(f"set forwarding entry {entry.mac}", wire.put_bridge_entry(entry))

    async def _remove(self, what: str, requests: Sequence[wire.Request]) -> None:
        for code in await self._change(what, requests):
            if code not in (0, errno.ENOENT, errno.ENODEV):
                raise refused(what, code)

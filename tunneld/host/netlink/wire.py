"""Routes, neighbours and forwarding entries as bytes of the routing netlink. Pure.

Path of a lease: `netlink.calls` -> **`netlink.wire`** -> `netlink.bulk` -> the kernel.

What there may be ten thousands of is written and read here, without pyroute2: its parser takes a
millisecond for each message.

Source: Linux rtnetlink(7); include/uapi/linux/{netlink,rtnetlink,neighbour}.h; for strict dumps
net/ipv4/fib_frontend.c (ip_valid_fib_dump_req), net/core/neighbour.c (neigh_valid_dump_req) and
net/core/rtnetlink.c (valid_fdb_dump_strict).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from socket import AF_BRIDGE, AF_INET, AF_INET6
from typing import NamedTuple

from tunneld.backend.mac import MacAddress
from tunneld.host.netlink.model import (
    MAIN_TABLE,
    RTN_UNREACHABLE,
    BridgeEntry,
    Family,
    KernelRoute,
    NeighbourEntry,
)
from tunneld.lease.model import IPAddress, IPNetwork

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400

_FAMILIES = {4: AF_INET, 6: AF_INET6}
_VERSIONS = {AF_INET: 4, AF_INET6: 6}

_ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags."""
_NEIGHBOUR = struct.Struct("=BBHiHBB")
"""struct ndmsg: family, two pads, ifindex, state, flags, type."""
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_NEXT_HOP = struct.Struct("=HBBi")
"""struct rtnexthop: length, flags, hops, ifindex."""

_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC = 1, 4, 5, 6, 7
_RTA_METRICS, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA = 8, 9, 15, 18
_RTAX_MTU = 2
_RTNH_F_ONLINK = 4
_RTM_F_CLONED = 0x200
_RTM_F_FIB_MATCH = 0x2000
_NDA_DST, _NDA_LLADDR, _NDA_IFINDEX = 1, 2, 8
_NUD_PERMANENT = 0x80
_NTF_SELF = 0x02
_TYPE_MASK = 0x3FFF


class Request(NamedTuple):
    """One message to the kernel, without its header."""

    kind: int
    flags: int
    body: bytes


def routes_request(family: Family, protocol: int, oif: int | None) -> bytes:
    """Returns the body of a listing of the main table's routes; 0 and None: of any."""
    head = _ROUTE.pack(_FAMILIES[family], 0, 0, 0, MAIN_TABLE, protocol, 0, 0, 0)
    return head + (b"" if oif is None else _attribute(_RTA_OIF, _U32.pack(oif)))


def neighbours_request(index: int, family: Family) -> bytes:
    """Returns the body of a listing of a device's neighbours."""
    head = _NEIGHBOUR.pack(_FAMILIES[family], 0, 0, 0, 0, 0, 0)
    return head + _attribute(_NDA_IFINDEX, _U32.pack(index))


def bridge_request(index: int) -> bytes:
    """Returns the body of a listing of a device's forwarding entries."""
    return _NEIGHBOUR.pack(AF_BRIDGE, 0, 0, index, 0, 0, 0)


def put_route(route: KernelRoute, *, replace: bool) -> Request:
    """Returns what adds a route, or puts it in the place of one with its TOS and metric."""
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    return Request(RTM_NEWROUTE, flags, _route_body(route))


def remove_route(route: KernelRoute) -> Request:
    """Returns what removes exactly this route."""
    return Request(RTM_DELROUTE, 0, _route_body(route))


def put_neighbour(entry: NeighbourEntry) -> Request:
    """Returns what makes a permanent entry, in the place of whatever is there."""
    family = _FAMILIES[entry.address.version]
    body = _NEIGHBOUR.pack(family, 0, 0, entry.index, _NUD_PERMANENT, 0, 0)
    body += _attribute(_NDA_DST, entry.address.packed) + _attribute(_NDA_LLADDR, _mac(entry.mac))
    return Request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def remove_neighbour(index: int, address: IPAddress) -> Request:
    """Returns what removes an entry, whatever its Ethernet address."""
    body = _NEIGHBOUR.pack(_FAMILIES[address.version], 0, 0, index, 0, 0, 0)
    return Request(RTM_DELNEIGH, 0, body + _attribute(_NDA_DST, address.packed))


def put_bridge_entry(entry: BridgeEntry) -> Request:
    """Returns what makes a permanent entry, in the place of the one for the same address."""
    body = _bridge_body(entry, _NUD_PERMANENT)
    return Request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def remove_bridge_entry(entry: BridgeEntry) -> Request:
    """Returns what removes exactly this entry."""
    return Request(RTM_DELNEIGH, 0, _bridge_body(entry, 0))


def _bridge_body(entry: BridgeEntry, state: int) -> bytes:
    body = _NEIGHBOUR.pack(AF_BRIDGE, 0, 0, entry.index, state, _NTF_SELF, 0)
    return (
        body
        + _attribute(_NDA_LLADDR, _mac(entry.mac))
        + _attribute(_NDA_DST, entry.endpoint.packed)
    )


def _route_body(route: KernelRoute) -> bytes:
    is_unreachable = route.type == RTN_UNREACHABLE
    body = _ROUTE.pack(
        _FAMILIES[route.destination.version],
        route.destination.prefixlen,
        0,
        0,
        MAIN_TABLE,
        route.protocol,
        route.scope,
        route.type,
        _RTNH_F_ONLINK if route.onlink else 0,
    )
    body += _attribute(_RTA_DST, route.destination.network_address.packed)
    body += _attribute(_RTA_PRIORITY, _U32.pack(route.metric))
    if route.oif is not None and not is_unreachable:
        body += _attribute(_RTA_OIF, _U32.pack(route.oif))
    if route.gateway is not None:
        if route.gateway.version == route.destination.version:
            body += _attribute(_RTA_GATEWAY, route.gateway.packed)
        else:
            family = struct.pack("=H", _FAMILIES[route.gateway.version])
            body += _attribute(_RTA_VIA, family + route.gateway.packed)
    if route.source is not None:
        body += _attribute(_RTA_PREFSRC, route.source.packed)
    if route.mtu_bytes:
        metric = _attribute(_RTAX_MTU, _U32.pack(route.mtu_bytes))
        body += _attribute(_RTA_METRICS, metric)
    return body


def route(body: bytes) -> KernelRoute | None:
    """Returns a listed route; None for one of another table, or made for one destination alone."""
    _, _, _, _, table, _, _, _, flags = _ROUTE.unpack_from(body)
    if flags & _RTM_F_CLONED:
        return None
    if table != MAIN_TABLE:
        found = dict(_attributes(body, _ROUTE.size))
        if _number(found.get(_RTA_TABLE, b"")) != MAIN_TABLE:
            return None
    return any_route(body)


def any_route(body: bytes) -> KernelRoute | None:
    """Returns a route of whatever table; None for one of an unknown family."""
    family, length, _, tos, _, protocol, scope, kind, flags = _ROUTE.unpack_from(body)
    version = _VERSIONS.get(family)
    if version is None:
        return None
    found = dict(_attributes(body, _ROUTE.size))
    gateway = found.get(_RTA_GATEWAY) or found.get(_RTA_VIA, b"")[2:]
    source = found.get(_RTA_PREFSRC)
    metrics = dict(_attributes(found.get(_RTA_METRICS, b""), 0))
    return KernelRoute(
        destination=_network(found.get(_RTA_DST) or bytes(4 if version == 4 else 16), length),
        type=kind,
        protocol=protocol,
        metric=_number(found[_RTA_PRIORITY]) if _RTA_PRIORITY in found else 0,
        tos=tos,
        scope=scope,
        oif=_number(found[_RTA_OIF]) if _RTA_OIF in found else None,
        gateway=_address(gateway) if gateway else None,
        onlink=bool(flags & _RTNH_F_ONLINK),
        source=_address(source) if source else None,
        mtu_bytes=_number(metrics[_RTAX_MTU]) if _RTAX_MTU in metrics else 0,
        hops=tuple(_hops(found.get(_RTA_MULTIPATH, b""))),
    )


def lookup_request(address: IPAddress) -> Request:
    """Returns the question which route a packet to an address takes."""
    family = _FAMILIES[address.version]
    length = address.max_prefixlen
    head = _ROUTE.pack(family, length, 0, 0, 0, 0, 0, 0, _RTM_F_FIB_MATCH)
    return Request(RTM_GETROUTE, 0, head + _attribute(_RTA_DST, address.packed))


def is_within(body: bytes, networks: Sequence[tuple[int, int, int]]) -> bool:
    """Says whether a listed route leads into one of these, each as `prefix` returns it."""
    offset = _ROUTE.size
    while offset + 4 <= len(body):
        size, kind = _ATTRIBUTE.unpack_from(body, offset)
        if kind == _RTA_DST:
            destination = int.from_bytes(body[offset + 4 : offset + size])
            return any(
                size - 4 == width and destination & mask == value for width, mask, value in networks
            )
        offset += (size + 3) & ~3 if size >= 4 else len(body)
    return False


def prefix(network: IPNetwork) -> tuple[int, int, int]:
    """Returns a network as `is_within` knows it: bytes of an address, mask, value."""
    return network.max_prefixlen // 8, int(network.netmask), int(network.network_address)


def is_to(body: bytes, destinations: frozenset[tuple[int, bytes]]) -> bool:
    """Says whether a listed route leads to one of these: prefix length and address."""
    offset = _ROUTE.size
    length = body[1]
    while offset + 4 <= len(body):
        size, kind = _ATTRIBUTE.unpack_from(body, offset)
        if kind == _RTA_DST:
            return (length, body[offset + 4 : offset + size]) in destinations
        offset += (size + 3) & ~3 if size >= 4 else len(body)
    return False


def place(network: IPNetwork) -> tuple[int, bytes]:
    """Returns a destination as `is_to` knows it."""
    return network.prefixlen, network.network_address.packed


def neighbour(body: bytes) -> NeighbourEntry | None:
    """Returns a listed neighbour; None for an entry that is not permanent."""
    _, _, _, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
    found = dict(_attributes(body, _NEIGHBOUR.size))
    mac, address = found.get(_NDA_LLADDR, b""), found.get(_NDA_DST)
    if not state & _NUD_PERMANENT or len(mac) != 6 or address is None:
        return None
    return NeighbourEntry(index=index, address=_address(address), mac=_mac_of(mac))


def bridge_entry(body: bytes) -> BridgeEntry | None:
    """Returns a listed forwarding entry; None for one that is not permanent, or not a tunnel's."""
    _, _, _, index, state, flags, _ = _NEIGHBOUR.unpack_from(body)
    found = dict(_attributes(body, _NEIGHBOUR.size))
    mac, endpoint = found.get(_NDA_LLADDR, b""), found.get(_NDA_DST)
    if not state & _NUD_PERMANENT or not flags & _NTF_SELF or len(mac) != 6 or endpoint is None:
        return None
    return BridgeEntry(index=index, mac=_mac_of(mac), endpoint=_address(endpoint))


def _attribute(kind: int, payload: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def _attributes(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > len(data):
            return
        yield kind & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _hops(data: bytes) -> Iterator[int]:
    offset = 0
    while offset + _NEXT_HOP.size <= len(data):
        length, _, _, index = _NEXT_HOP.unpack_from(data, offset)
        if length < _NEXT_HOP.size:
            return
        yield index
        offset += (length + 3) & ~3


def _number(payload: bytes) -> int:
    return int.from_bytes(payload[:4], "little" if _IS_LITTLE else "big")


_IS_LITTLE = _U32.pack(1)[0] == 1


@lru_cache(maxsize=65536)
def _address(packed: bytes) -> IPAddress:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


@lru_cache(maxsize=65536)
def _network(packed: bytes, length: int) -> IPNetwork:
    if len(packed) == 4:
        return IPv4Network((packed, length))
    return IPv6Network((packed, length))


def _mac(mac: MacAddress) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


@lru_cache(maxsize=65536)
def _mac_of(packed: bytes) -> MacAddress:
    return MacAddress(packed.hex(":"))

"""Watches the kernel for changes of devices, addresses, neighbours, routes and firewall rules.

Says only *that* something of a kind changed, and where: whoever listens looks at the whole
again. So a message lost to a full buffer costs nothing but one more look.

Source: Linux rtnetlink(7), netlink(7); include/uapi/linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from tunneld.errors import HostError
from tunneld.host.netlink import route_filter
from tunneld.host.sockets import attach_filter
from tunneld.host.xtables_lock import XtablesLock
from tunneld.lease.model import IPNetwork
from tunneld.log import Condition

NoticeKind = Literal[
    "link",
    "address",
    "neighbour",
    "route",
    "forwarding",
    "firewall",
    "iptables",
    "lost routes",
    "lost",
]
"""`lost routes`: notices of routes were lost, and no others. `neighbour`: also a forwarding (FDB)
entry. `firewall`: tables of nftables, hence of iptables-nft. `iptables`:
a run of iptables-legacy."""

_RECEIVE_BYTES = 65536
_AT_ONCE = 50
"""Datagrams read before others get their turn on the loop."""
_BUFFER_BYTES = 4 * 1024 * 1024
"""Holds some ten thousand notices: a session of BGP that comes up makes as many at once."""
_SO_RCVBUFFORCE = 33
_HEADER = struct.Struct("=IHHII")

# include/uapi/linux/rtnetlink.h
_RTM_LINK = (16, 17)
_RTM_ADDRESS = (20, 21)
_RTM_ROUTE = (24, 25)
_RTM_NEIGHBOUR = (28, 29)
_RTM_NETCONF = (80, 81)
_RTNLGRP_LINK = 1
_RTNLGRP_NEIGH = 3
_RTNLGRP_IPV4_IFADDR = 5
_RTNLGRP_IPV4_ROUTE = 7
_RTNLGRP_IPV6_IFADDR = 9
_RTNLGRP_IPV6_ROUTE = 11
_RTNLGRP_IPV4_NETCONF = 24
_RTNLGRP_IPV6_NETCONF = 25
_ROUTING_GROUPS = (
    _RTNLGRP_LINK,
    _RTNLGRP_NEIGH,
    _RTNLGRP_IPV4_IFADDR,
    _RTNLGRP_IPV6_IFADDR,
    _RTNLGRP_IPV4_NETCONF,
    _RTNLGRP_IPV6_NETCONF,
)
_ROUTE_GROUPS = (_RTNLGRP_IPV4_ROUTE, _RTNLGRP_IPV6_ROUTE)
_RT_TABLE_LOCAL = 255
_RTM_F_CLONED = 0x200
_IFLA_IFNAME = 3
_RTA_OIF = 4
_NETCONFA_IFINDEX = 1

# include/uapi/linux/netfilter/nfnetlink.h
_NFNLGRP_NFTABLES = 7
_NFNL_SUBSYS_NFTABLES = 10
# include/uapi/linux/netfilter/nf_tables.h
_NFT_MSG_NEWCHAIN = 3
_NFTA_CHAIN_TYPE = 7

# include/uapi/linux/netlink.h; not in Python's socket module.
_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1

_log = logging.getLogger("tunneld.host")


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something changed. `lost`: messages were lost, so that anything may have changed."""

    kind: NoticeKind
    index: int = 0
    """Device; 0: none, or all."""
    name: str = ""
    """Of a `link`: the device's name."""
    protocol: int = 0
    """Of a `route`: its protocol number."""
    is_default: bool = False
    """Of a `route`: whether it is a default route. Those of table `local` are left out, and those
    the kernel makes for one destination."""
    tables: frozenset[str] = frozenset()
    """Of `firewall`: the tables it touches."""
    makes_nat: bool = False
    """Of `firewall`: whether a chain is made in which addresses may be translated."""


class Monitor:
    """Netlink sockets on the running loop, and a watched file.

    One is of devices and addresses, one of routes, which may come in floods, one of nftables.
    """

    def __init__(
        self,
        callback: Callable[[Notice], None],
        *,
        firewall: bool = True,
        routes_within: Collection[IPNetwork] | None = None,
        protocol: int = 0,
    ) -> None:
        """Starts watching; `callback` runs on the loop.

        Args:
            callback: takes what has changed.
            firewall: whether the packet filter is watched too.
            routes_within: of routes that are neither default routes nor of `protocol`, only those
                inside these networks are told of; None: all are.
            protocol: a protocol number whose routes are told of in any case.

        Raises:
            HostError: the kernel refuses a socket.
        """
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._sockets: list[socket.socket] = []
        self._lock: XtablesLock | None = None
        try:
            self._watch(socket.NETLINK_ROUTE, _ROUTING_GROUPS, routing_notices)
            routes = self._watch(
                socket.NETLINK_ROUTE, _ROUTE_GROUPS, routing_notices, lost="lost routes"
            )
            attach_filter(routes, route_filter.program(protocol, routes_within))
            if firewall:
                self._watch(_NETLINK_NETFILTER, (_NFNLGRP_NFTABLES,), firewall_notices)
        except OSError as error:
            self.close()
            raise HostError(
                f"cannot watch the kernel's network settings: {error.strerror}; expected netlink "
                "sockets"
            ) from error
        self._no_inotify = Condition(
            _log,
            "runs of iptables-legacy are not noticed at once",
            "runs of iptables-legacy are noticed again",
        )
        if firewall:
            self.watch_lock()

    @property
    def problem(self) -> str | None:
        """What is not watched, in one line; None: nothing."""
        return self._no_inotify.problem

    def watch_lock(self) -> None:
        """Watches for runs of iptables-legacy, if that is not done yet: it may not be possible."""
        if self._lock is not None or not self._sockets:
            return
        try:
            self._lock = XtablesLock(lambda: self._callback(Notice(kind="iptables")))
        except OSError as error:
            self._no_inotify.set(
                self._loop.time(),
                f"no inotify instance for the lock of iptables: {error.strerror}; expected one: "
                "raise fs.inotify.max_user_instances, or LimitNOFILE= of the unit. What "
                "iptables-legacy changes is put back within a minute instead of at once",
            )
        else:
            self._no_inotify.clear()

    def close(self) -> None:
        """Stops watching."""
        for opened in self._sockets:
            self._loop.remove_reader(opened.fileno())
            opened.close()
        self._sockets.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _watch(
        self,
        family: int,
        groups: tuple[int, ...],
        parse: Callable[[bytes], Iterator[Notice]],
        lost: NoticeKind = "lost",
    ) -> socket.socket:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
        self._sockets.append(opened)
        opened.setblocking(False)
        opened.bind((0, 0))
        with contextlib.suppress(PermissionError):
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        for group in groups:
            opened.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        self._loop.add_reader(opened.fileno(), self._receive, opened, parse, lost)
        return opened

    def _receive(
        self,
        opened: socket.socket,
        parse: Callable[[bytes], Iterator[Notice]],
        lost: NoticeKind,
    ) -> None:
        for _ in range(_AT_ONCE):
            try:
                data = opened.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._callback(Notice(kind=lost))
                if error.errno == errno.ENOBUFS:
                    # libuv stops polling a descriptor that had an error pending.
                    self._loop.remove_reader(opened.fileno())
                    self._loop.add_reader(opened.fileno(), self._receive, opened, parse, lost)
                    continue
                _log.error(
                    "watching the kernel failed", extra={"fields": {"error": error.strerror}}
                )
                return
            for notice in parse(data):
                self._callback(notice)


def routing_notices(data: bytes) -> Iterator[Notice]:
    """Returns what a datagram of the routing netlink says."""
    for kind, body in _messages(data):
        if kind in _RTM_LINK and len(body) >= 16:
            (index,) = struct.unpack_from("=i", body, 4)
            name = _attributes(body[16:]).get(_IFLA_IFNAME, b"").split(b"\0")[0]
            yield Notice(kind="link", index=index, name=name.decode(errors="replace"))
        elif kind in _RTM_ADDRESS and len(body) >= 8:
            (index,) = struct.unpack_from("=I", body, 4)
            yield Notice(kind="address", index=index)
        elif kind in _RTM_ROUTE and len(body) >= 12:
            (flags,) = struct.unpack_from("=I", body, 8)
            if body[4] == _RT_TABLE_LOCAL or flags & _RTM_F_CLONED:
                continue
            oif = _number(_attributes(body[12:]).get(_RTA_OIF))
            yield Notice(kind="route", index=oif, protocol=body[5], is_default=body[1] == 0)
        elif kind in _RTM_NEIGHBOUR and len(body) >= 12:
            (index,) = struct.unpack_from("=i", body, 4)
            yield Notice(kind="neighbour", index=index)
        elif kind in _RTM_NETCONF and len(body) >= 4:
            # struct netconfmsg is one byte, padded to four; index -1 and -2 are `all`, `default`.
            index = _number(_attributes(body[4:]).get(_NETCONFA_IFINDEX))
            yield Notice(kind="forwarding", index=max(index, 0))


def firewall_notices(data: bytes) -> Iterator[Notice]:
    """Returns the tables that a datagram of the nftables netlink names, if it names any.

    Every message about a table, chain or rule carries its table's name as attribute 1.
    """
    tables = set()
    makes_nat = False
    for kind, body in _messages(data):
        if kind >> 8 == _NFNL_SUBSYS_NFTABLES and len(body) >= 4:
            attributes = _attributes(body[4:])
            name = attributes.get(1, b"")
            if name.endswith(b"\0"):
                tables.add(name[:-1].decode(errors="replace"))
            is_chain = kind & 0xFF == _NFT_MSG_NEWCHAIN
            makes_nat |= is_chain and attributes.get(_NFTA_CHAIN_TYPE) == b"nat\0"
    if tables:
        yield Notice(kind="firewall", tables=frozenset(tables), makes_nat=makes_nat)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Splits a datagram into message types and bodies; a torn tail is left out."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            return
        yield kind, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4 or offset + length > len(data):
            return found
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _number(payload: bytes | None) -> int:
    if payload is None or len(payload) != 4:
        return 0
    (number,) = struct.unpack("=i", payload)
    return int(number)

"""Opens the sockets of the data path: UDP on the underlay, and raw ones for ICMP errors.

Path of a packet: native `io` -> **sockets of this module** -> the underlay. No packet is sent
or read here.

Each worker has, in each family, one socket on the backend's port, and where flows are to be spread,
as VXLAN asks for, others that only send, each from a port of its own; on the port of encryption one
does, but for the first worker. Beside them are sidings, for peers whose way is full (ADR 10).
Datagrams carry a checksum and are not fragmented: a path that is too narrow is noticed.

Source: flannel `pkg/backend/udp/udp_network_amd64.go` (socket bound to the interface's
address and the backend's port); RFC 7348 §4.3, §5; Linux ip(7), ipv6(7), udp(7), socket(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TypedDict

from tunneld.errors import CapabilityError, HostError, PortInUseError
from tunneld.fib.state import DATAGRAM_MARK
from tunneld.host.port_holder import port_holder
from tunneld.host.steering import steer_by_lane
from tunneld.lease.model import IPAddress

_log = logging.getLogger("tunneld.host")

SEND_BUFFER_BYTES = 512 * 1024
"""Of a socket that all peers share, before the kernel doubles it: what waits in it is anybody's, so
that a peer that meets it full is set aside.
"""
SIDING_BUFFER_BYTES = 8 * 1024 * 1024
"""Of a siding's, which the engine keeps emptier itself: by what its peer's way moves."""
RECEIVE_BUFFER_BYTES = 32 * 1024 * 1024
"""Of an underlay socket that receives. The kernel doubles it for its book-keeping, and takes the
memory only for what waits. Where hosts outrun a receiver the queue of all their TCP windows is
here: a window has 4 MiB at most by default (tcp_wmem), so that this holds about eight, headers
included.
"""

SIDING_SOCKETS = 64
"""On each port, in each family, for all workers together: few enough for the usual limit of
descriptors."""

_SIDINGS = IPv4Network("127.83.0.0/16")
_SIDINGS_V6 = IPv6Network("100::53:0/112")
"""What sidings are bound to: of the loopback's addresses, and of those that lead nowhere
(RFC 6666)."""

# include/uapi/linux/in.h, in6.h, asm-generic/socket.h, filter.h; not in Python's socket module.
IP_MTU_DISCOVER = 10
IPV6_MTU_DISCOVER = 23
PMTUDISC_DO = 2
"""IP_PMTUDISC_DO and IPV6_PMTUDISC_DO."""
_IP_FREEBIND = 15
_IPV6_FREEBIND = 78
_ICMP6_FILTER = 1
_SO_ATTACH_FILTER = 26
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_BPF_RET_K = 0x06
_BPF_INSTRUCTION_BYTES = 8


class Descriptors(TypedDict):
    """The descriptors of one worker, as the engine takes them."""

    ipv4: list[int]
    ipv6: list[int]
    ipv4_sidings: list[int]
    ipv6_sidings: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSockets:
    """The underlay sockets of one worker: of each family none, or the one that receives first."""

    ipv4: list[socket.socket] = field(default_factory=list)
    ipv6: list[socket.socket] = field(default_factory=list)
    ipv4_sidings: list[socket.socket] = field(default_factory=list)
    """For each siding one socket on each port that `ipv4` sends from."""
    ipv6_sidings: list[socket.socket] = field(default_factory=list)

    def descriptors(self) -> Descriptors:
        """Returns them for the engine, which takes duplicates."""
        return {
            "ipv4": [opened.fileno() for opened in self.ipv4],
            "ipv6": [opened.fileno() for opened in self.ipv6],
            "ipv4_sidings": [opened.fileno() for opened in self.ipv4_sidings],
            "ipv6_sidings": [opened.fileno() for opened in self.ipv6_sidings],
        }

    def close(self) -> None:
        """Closes all of them."""
        for opened in (*self.ipv4, *self.ipv6, *self.ipv4_sidings, *self.ipv6_sidings):
            opened.close()


def open_underlay_sockets(
    addresses: Iterable[IPAddress], port: int, workers: int, *, source_ports: int = 0
) -> list[WorkerSockets]:
    """Opens the non-blocking UDP sockets of each worker on the backend's port.

    The kernel spreads arriving flows over the workers when there are several.

    Args:
        addresses: the underlay address of each family; at most one each.
        port: where datagrams arrive.
        workers: how many workers there are.
        source_ports: sockets per worker and family that only send; 0: none.

    Raises:
        PortInUseError: another program, or the kernel itself, holds the port.
        CapabilityError: the port is a privileged one and CAP_NET_BIND_SERVICE is missing.
        HostError: an address is not on this host, or the kernel refuses a socket.
    """
    senders = [source_ports] * workers
    return _open_on(addresses, port, senders, option="Backend.Port")


def open_encryption_sockets(
    addresses: Iterable[IPAddress], port: int, workers: int
) -> list[WorkerSockets]:
    """Opens the non-blocking UDP sockets of each worker on the port of encryption.

    The lane of a worker leaves by one port: the first one's by the port itself, so that peers
    behind a translation of addresses are answered from where they sent to. A peer's lane arrives at
    one worker (`steering`).

    Args and errors are those of `open_underlay_sockets`.
    """
    senders = [min(number, 1) for number in range(workers)]
    opened = _open_on(addresses, port, senders, option="Backend.Encryption.Port")
    try:
        for family in ("ipv4", "ipv6"):
            steer_by_lane([one for worker in opened for one in getattr(worker, family)[:1]])
    except BaseException:
        for worker in opened:
            worker.close()
        raise
    return opened


def _open_on(
    addresses: Iterable[IPAddress], port: int, senders: Sequence[int], *, option: str
) -> list[WorkerSockets]:
    """Opens the sockets of one port; `senders`: how many further ones each worker has."""
    workers = len(senders)
    opened = [WorkerSockets() for _ in senders]
    try:
        for address in addresses:
            for number, worker in enumerate(opened):
                sockets = worker.ipv4 if address.version == 4 else worker.ipv6
                try:
                    _open_receiver(sockets, address, port, number, shared=workers > 1)
                except OSError as error:
                    raise _explain_bind(address, port, option, error) from error
                for _ in range(senders[number]):
                    _open_sender(sockets, address)
                sidings = worker.ipv4_sidings if address.version == 4 else worker.ipv6_sidings
                _open_sidings(sidings, sockets, address, number, SIDING_SOCKETS // workers)
    except BaseException:
        for worker in opened:
            worker.close()
        raise
    return opened


def open_icmp_socket() -> socket.socket:
    """Opens the raw IPv4 socket by which ICMP errors leave: whole packets, header included.

    Nothing is delivered to it: IPPROTO_RAW only sends.

    Raises:
        CapabilityError: CAP_NET_RAW is missing.
        HostError: the kernel refuses the socket.
    """
    # With IPPROTO_RAW the header is part of what is sent (raw(7)).
    return _open_raw(socket.AF_INET, "IPv4", socket.IPPROTO_RAW)


def open_icmp6_socket() -> socket.socket:
    """Opens the raw socket by which ICMPv6 errors leave: messages, without their IP header.

    Their source is the kernel's choice, their checksum its work (RFC 3542 §3.1). Nothing is
    delivered to it.

    Raises:
        CapabilityError: CAP_NET_RAW is missing.
        HostError: the kernel refuses the socket.
    """
    opened = _open_raw(socket.AF_INET6, "IPv6", socket.IPPROTO_ICMPV6)
    # Every type is blocked (RFC 3542 §3.2).
    opened.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, b"\xff" * 32)
    return opened


def mark_as_ours(opened: socket.socket) -> None:
    """Marks what a socket sends as the data path's: only such may go to the peers' port.

    Every socket that sends to a peer's port needs it, in whatever way it was opened: the firewall
    drops what else this host sends there (`fib.state.UnderlayGuard`).

    Raises:
        CapabilityError: CAP_NET_ADMIN is missing.
    """
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, DATAGRAM_MARK.value)
    except PermissionError as error:
        raise CapabilityError(
            "cannot mark a socket of the underlay: not permitted; expected CAP_NET_ADMIN: run as "
            "root or grant the capability"
        ) from error


def _open_raw(family: socket.AddressFamily, name: str, protocol: int) -> socket.socket:
    try:
        opened = socket.socket(family, socket.SOCK_RAW, protocol)
        opened.setblocking(False)
    except PermissionError as error:
        raise CapabilityError(
            f"cannot open a raw {name} socket: not permitted; expected CAP_NET_RAW: run as root "
            "or grant the capability"
        ) from error
    except OSError as error:
        raise HostError(
            f"cannot open a raw {name} socket: {error.strerror}; expected one, to send ICMP errors"
        ) from error
    return opened


def _open_receiver(
    sockets: list[socket.socket], address: IPAddress, port: int, number: int, *, shared: bool
) -> None:
    opened = _open_udp(sockets, address)
    _enlarge(opened, _SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    if number:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    opened.bind((str(address), port))
    # The first socket binds alone, so that a port in use is noticed also when its
    # holder shares it; only then is it opened to our own further sockets.
    if shared and not number:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _open_sender(sockets: list[socket.socket], address: IPAddress) -> None:
    try:
        opened = _open_udp(sockets, address)
        _refuse_all(opened)
        opened.bind((str(address), 0))
    except OSError as error:
        raise HostError(
            f"cannot open a socket that sends from {address}: {os.strerror(error.errno or 0)}; "
            "expected a free port: see net.ipv4.ip_local_port_range"
        ) from error


def _open_sidings(
    sidings: list[socket.socket],
    sockets: list[socket.socket],
    address: IPAddress,
    worker: int,
    most: int,
) -> None:
    """Opens whole sidings beside the `sockets` of a worker, with at most `most` sockets in all.

    Each is bound to a port that `sockets` send from, so that this is their datagrams' port too, and
    to an address that no datagram can have as destination: the kernel, looking up whom an arriving
    one is for, does not come by. The engine names the real source with each datagram. Without
    sidings the data path works; who is slow then holds up the others for a moment.
    """
    ports = [opened.getsockname()[1] for opened in sockets[1:] or sockets]
    try:
        for number in range(max(1, most // len(ports))):
            for port in ports:
                _open_siding(sidings, address, port, worker << 8 | number)
    except OSError as error:
        # A half of one is none.
        while len(sidings) % len(ports):
            sidings.pop().close()
        facts = {"address": str(address), "error": os.strerror(error.errno or 0)}
        _log.warning("too few sockets to set slow peers aside", extra={"fields": facts})


def _open_siding(sidings: list[socket.socket], address: IPAddress, port: int, number: int) -> None:
    opened = _open_udp(sidings, address, SIDING_BUFFER_BYTES)
    _refuse_all(opened)
    # Several daemons may have the same port on different addresses.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if address.version == 4:
        opened.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        elsewhere = ip_address(int(_SIDINGS.network_address) + number)
    else:
        opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        elsewhere = ip_address(int(_SIDINGS_V6.network_address) + number)
    opened.bind((str(elsewhere), port))


def _open_udp(
    sockets: list[socket.socket], address: IPAddress, send_buffer_bytes: int = SEND_BUFFER_BYTES
) -> socket.socket:
    """Opens an unbound UDP socket and puts it among `sockets`, whose owner closes it."""
    is_ipv4 = address.version == 4
    opened = socket.socket(socket.AF_INET if is_ipv4 else socket.AF_INET6, socket.SOCK_DGRAM)
    sockets.append(opened)
    opened.setblocking(False)
    mark_as_ours(opened)
    if is_ipv4:
        opened.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
    else:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO)
    _enlarge(opened, _SO_SNDBUFFORCE, socket.SO_SNDBUF, send_buffer_bytes)
    return opened


def _refuse_all(opened: socket.socket) -> None:
    """Lets nothing into a socket that nobody reads."""
    attach_filter(opened, struct.pack("=HBBI", _BPF_RET_K, 0, 0, 0))


def attach_filter(opened: socket.socket, program: bytes) -> None:
    """Lets the kernel choose what gets into a socket, by instructions of classic BPF."""
    buffer = bytearray(program)
    view = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    whole = struct.pack("@HP", len(program) // _BPF_INSTRUCTION_BYTES, ctypes.addressof(view))
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, whole)


def _enlarge(opened: socket.socket, force: int, plain: int, size_bytes: int) -> None:
    """Sets a buffer past the system's limit, or up to it without CAP_NET_ADMIN."""
    with contextlib.suppress(PermissionError):
        opened.setsockopt(socket.SOL_SOCKET, force, size_bytes)
        return
    opened.setsockopt(socket.SOL_SOCKET, plain, size_bytes)


def _explain_bind(address: IPAddress, port: int, option: str, error: OSError) -> HostError:
    name = f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"
    where = f"cannot bind UDP {name}"
    match error.errno:
        case errno.EADDRINUSE:
            return PortInUseError(
                f"{where}: {port_holder(port)} holds the port; expected it free: see who with "
                f"`ss -ulpn 'sport = :{port}'` and stop it, or give the network another {option}"
            )
        case errno.EADDRNOTAVAIL:
            return HostError(
                f"{where}: this host does not have the address; expected that of the underlay "
                "interface: see `ip address`, and --iface"
            )
        case errno.EACCES | errno.EPERM:
            return CapabilityError(
                f"{where}: not permitted; expected CAP_NET_BIND_SERVICE for a port below 1024: "
                f"grant it, or give the network another {option}"
            )
    return HostError(f"{where}: {os.strerror(error.errno or 0)}; expected a UDP socket there")

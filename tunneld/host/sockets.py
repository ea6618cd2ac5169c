"""Opens the sockets of the data path: UDP on the underlay, and the raw one for ICMP errors.

Path of a packet: native `io` -> **sockets of this module** -> the underlay. No packet is sent
or read here.

Source: flannel `pkg/backend/udp/udp_network_amd64.go` (socket bound to the interface's
address and the backend's port); Linux ip(7), udp(7), socket(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from ipaddress import IPv4Address

from tunneld.errors import CapabilityError, HostError, PortInUseError

SEND_BUFFER_BYTES = 8 * 1024 * 1024
RECEIVE_BUFFER_BYTES = 32 * 1024 * 1024
"""Of an underlay socket. The kernel doubles them for its book-keeping, and takes the memory only
for what waits. Where hosts outrun a receiver the queue of all their TCP windows is here: a window
has 4 MiB at most by default (tcp_wmem), so that this holds about eight, headers included.
"""

# include/uapi/linux/in.h, include/uapi/asm-generic/socket.h; not in Python's socket module.
IP_MTU_DISCOVER = 10
IP_PMTUDISC_DO = 2
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33


def open_underlay_sockets(address: IPv4Address, port: int, count: int) -> list[socket.socket]:
    """Opens `count` non-blocking UDP sockets on one address and port, DF set on what they send.

    The kernel spreads arriving flows over the sockets when there are several.

    Raises:
        PortInUseError: another program holds the port, whatever options it uses.
        CapabilityError: the port is a privileged one and CAP_NET_BIND_SERVICE is missing.
        HostError: the address is not on this host, or the kernel refuses a socket.
    """
    sockets: list[socket.socket] = []
    try:
        for number in range(count):
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sockets.append(opened)
            opened.setblocking(False)
            opened.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
            _enlarge(opened, _SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            _enlarge(opened, _SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            if number:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            opened.bind((str(address), port))
            # The first socket binds alone, so that a port in use is noticed also when its
            # holder shares it; only then is it opened to our own further sockets.
            if count > 1 and not number:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise _explain_bind(address, port, error) from error
    return sockets


def open_icmp_socket() -> socket.socket:
    """Opens the raw IPv4 socket by which ICMP errors leave: whole packets, header included.

    Nothing is delivered to it: IPPROTO_RAW only sends.

    Raises:
        CapabilityError: CAP_NET_RAW is missing.
        HostError: the kernel refuses the socket.
    """
    try:
        opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        opened.setblocking(False)
        opened.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
    except PermissionError as error:
        raise CapabilityError(
            "cannot open a raw IPv4 socket: not permitted; expected CAP_NET_RAW: run as root or "
            "grant the capability"
        ) from error
    except OSError as error:
        raise HostError(
            f"cannot open a raw IPv4 socket: {error.strerror}; expected one, to send ICMP errors"
        ) from error
    return opened


def _enlarge(opened: socket.socket, force: int, plain: int, size_bytes: int) -> None:
    """Sets a buffer past the system's limit, or up to it without CAP_NET_ADMIN."""
    with contextlib.suppress(PermissionError):
        opened.setsockopt(socket.SOL_SOCKET, force, size_bytes)
        return
    opened.setsockopt(socket.SOL_SOCKET, plain, size_bytes)


def _explain_bind(address: IPv4Address, port: int, error: OSError) -> HostError:
    where = f"cannot bind UDP {address}:{port}"
    match error.errno:
        case errno.EADDRINUSE:
            return PortInUseError(
                f"{where}: another program holds the port; expected it free: see who with "
                f"`ss -ulpn 'sport = :{port}'` and stop it, or give the network another "
                "Backend.Port"
            )
        case errno.EADDRNOTAVAIL:
            return HostError(
                f"{where}: this host does not have the address; expected that of the underlay "
                "interface: see `ip -4 address`, and --iface"
            )
        case errno.EACCES | errno.EPERM:
            return CapabilityError(
                f"{where}: not permitted; expected CAP_NET_BIND_SERVICE for a port below 1024: "
                "grant it, or give the network another Backend.Port"
            )
    return HostError(f"{where}: {os.strerror(error.errno or 0)}; expected a UDP socket there")

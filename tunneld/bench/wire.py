"""Sockets that listen."""

from __future__ import annotations

import socket

from tunneld.errors import BenchError

_BACKLOG = 128


def listening(address: str | None, port: int) -> socket.socket:
    """Opens a TCP socket that listens; port 0: one that is free; None: at every address.

    Raises:
        BenchError: it cannot be had.
    """
    try:
        [(family, kind, protocol, _, place), *_] = socket.getaddrinfo(
            address or ("::" if socket.has_dualstack_ipv6() else "0.0.0.0"),  # noqa: S104
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
        opened = socket.socket(family, kind, protocol)
        if family == socket.AF_INET6 and address is None:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    except OSError as error:
        msg = f"bench: {address}: {error.strerror}; expected an address of this host"
        raise BenchError(msg) from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(place)
        opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        msg = f"bench: cannot listen at {address} port {port}: {error.strerror}; expected a free "
        raise BenchError(f"{msg}port of this host, chosen by --port") from error
    return opened

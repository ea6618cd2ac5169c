"""Asks the kernel for the path MTU it holds for an endpoint.

Needed twice: when a datagram was refused for its size (EMSGSIZE), to learn what fits, and
later, to learn that the limit has gone up again. Sends nothing.

Source: Linux ip(7), IP_MTU; RFC 1191.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address

from tunneld.errors import HostError

_IP_MTU = 14
"""include/uapi/linux/in.h; only valid on a connected socket."""


def path_mtu(source: IPv4Address, endpoint: IPv4Address, port: int) -> int:
    """Returns the largest IP packet, in bytes, that fits the path as the kernel knows it.

    Raises:
        HostError: there is no route to the endpoint, or `source` is not on this host.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(source), 0))
            probe.connect((str(endpoint), port))
            return probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        except OSError as error:
            raise HostError(
                f"cannot read the path MTU from {source} to {endpoint}: {error.strerror}; "
                "expected a route: see `ip route get`"
            ) from error

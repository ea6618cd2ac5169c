"""Asks the kernel for the path MTU it holds for an endpoint.

Needed twice: when a datagram was refused for its size (EMSGSIZE), to learn what fits, and
later, to learn that the limit has gone up again. Sends nothing.

Source: Linux ip(7), IP_MTU; ipv6(7), IPV6_MTU; RFC 1191, RFC 8201.
"""

from __future__ import annotations

import socket

from tunneld.errors import HostError
from tunneld.lease.model import IPAddress

_IP_MTU = 14
_IPV6_MTU = 24
"""include/uapi/linux/in.h, in6.h; only valid on a connected socket."""


def path_mtu(source: IPAddress, endpoint: IPAddress, port: int) -> int:
    """Returns the largest IP packet, in bytes, that fits the path as the kernel knows it.

    Raises:
        HostError: there is no route to the endpoint, or `source` is not on this host.
    """
    is_ipv4 = endpoint.version == 4
    family = socket.AF_INET if is_ipv4 else socket.AF_INET6
    level, option = (socket.IPPROTO_IP, _IP_MTU) if is_ipv4 else (socket.IPPROTO_IPV6, _IPV6_MTU)
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(source), 0))
            probe.connect((str(endpoint), port))
            return probe.getsockopt(level, option)
    except OSError as error:
        raise HostError(
            f"cannot read the path MTU from {source} to {endpoint}: {error.strerror}; "
            "expected a route: see `ip route get`"
        ) from error

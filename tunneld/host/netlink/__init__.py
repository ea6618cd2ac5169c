"""The routing netlink of the kernel, in small typed calls.

Path of a lease: `host` -> **`host.netlink`** -> the kernel. It decides nothing.

`model` holds the values, `channel` the sockets and their thread, `messages` what stands between
values and pyroute2's messages, `calls` the calls themselves. What there may be thousands of goes by
`wire` (messages of our own) and `bulk` (a socket for them).
"""

from __future__ import annotations

from tunneld.host.netlink.calls import Netlink
from tunneld.host.netlink.channel import refused
from tunneld.host.netlink.model import (
    DEFAULT_METRIC_V6,
    INSIDE_KINDS,
    MAIN_TABLE,
    PROTOCOL_KERNEL,
    RTN_UNICAST,
    RTN_UNREACHABLE,
    SCOPE_HOST,
    SCOPE_LINK,
    SCOPE_UNIVERSE,
    Address,
    BridgeEntry,
    DeviceCounters,
    Family,
    KernelRoute,
    Link,
    NeighbourEntry,
    TunSettings,
    VxlanSettings,
)

__all__ = [
    "DEFAULT_METRIC_V6",
    "INSIDE_KINDS",
    "MAIN_TABLE",
    "PROTOCOL_KERNEL",
    "RTN_UNICAST",
    "RTN_UNREACHABLE",
    "SCOPE_HOST",
    "SCOPE_LINK",
    "SCOPE_UNIVERSE",
    "Address",
    "BridgeEntry",
    "DeviceCounters",
    "Family",
    "KernelRoute",
    "Link",
    "NeighbourEntry",
    "Netlink",
    "TunSettings",
    "VxlanSettings",
    "refused",
]

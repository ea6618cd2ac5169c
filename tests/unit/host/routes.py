"""Routes that a host with a TUN device asks for."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from tunneld.fib.state import Route

NETWORK = IPv4Network("10.5.0.0/16")
NETWORK_V6 = IPv6Network("fd00:5::/48")
ADDRESS = IPv4Address("10.5.1.0")
ADDRESS_V6 = IPv6Address("fd00:5:0:1::")
WHOLE = Route(destination=NETWORK, kind="overlay")
OWN = Route(destination=IPv4Network("10.5.1.0/24"), kind="unreachable", metric=4294967295)
NARROW = Route(destination=IPv4Network("10.5.2.0/24"), kind="overlay", mtu_bytes=1300)

POLL_S = 0.05
"""Between two looks at what `ip monitor` says: it loses what comes faster than it reads."""

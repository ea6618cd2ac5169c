"""The address families of a network: what they ask of the host, and what their headers take.

Path of a lease: `lease.network` -> **`backend.families`** -> the backends. Pure.

Source: RFC 791 section 3.2 (68 bytes), RFC 8200 section 5 (1,280 bytes).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from tunneld.backend.base import Family, Here
from tunneld.errors import InterfaceError
from tunneld.lease.network import NetworkConfig

IP_HEADER_BYTES: dict[Family, int] = {4: 20, 6: 40}
UDP_HEADER_BYTES = 8

MIN_MTU_BYTES: dict[Family, int] = {4: 68, 6: 1280}
"""Smallest MTU of a link."""


MAX_OUTER_BYTES = 65_535
"""Longest IP packet (RFC 791 section 3.1); a loopback device has an MTU of one byte more. What is
longer no datagram holds, and no bridge or container takes as its MTU."""


def families_of(config: NetworkConfig) -> tuple[Family, ...]:
    """Returns the families of a network, IPv4 first."""
    ipv4: tuple[Family, ...] = (4,) if config.enable_ipv4 else ()
    return (*ipv4, 6) if config.enable_ipv6 else ipv4


def require_addresses(here: Here, families: Collection[Family]) -> None:
    """Refuses a host without an underlay address in each of the families.

    Raises:
        InterfaceError: names the family.
    """
    for family, address, option in (
        (4, here.address, "EnableIPv4"),
        (6, here.address_v6, "EnableIPv6"),
    ):
        if family in families and address is None:
            raise InterfaceError(
                f"the underlay interface has no IPv{family} address, over which the network's "
                f"IPv{family} packets travel; expected one: give the interface one, choose another "
                f"with --iface, or set {option} to false in the network config"
            )


def overlay_mtu_bytes(
    outer_mtu_bytes: int, overhead_bytes: Callable[[Family], int], families: Collection[Family]
) -> int:
    """Returns the MTU that the encapsulation of the dearest family leaves.

    Raises:
        InterfaceError: it is too small for a family of the network.
    """
    overhead = max(overhead_bytes(family) for family in families)
    mtu_bytes = min(outer_mtu_bytes, MAX_OUTER_BYTES) - overhead
    least = max(MIN_MTU_BYTES[family] for family in families)
    if mtu_bytes < least:
        raise InterfaceError(
            f"underlay MTU {outer_mtu_bytes} leaves {mtu_bytes} bytes for a packet; "
            f"expected at least {least + overhead}, for the overlay needs {least}; "
            "raise the interface's MTU or choose another one with --iface"
        )
    return mtu_bytes

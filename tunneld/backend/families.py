"""What every backend asks of the two address families of the underlay.

Path of a lease: `peer` -> **`backend.families`** -> the backends. Pure.

Source: flannel `pkg/backend/common.go` (ExternalInterface), RFC 791, RFC 8200 section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv6Address

from tunneld.backend.base import Family, Here, Unusable
from tunneld.errors import InterfaceError
from tunneld.lease.model import NO_IPV4_SUBNET, UNSPECIFIED, IPAddress, IPNetwork
from tunneld.lease.network import NetworkConfig
from tunneld.peer import Peer

IP_HEADER_BYTES: dict[Family, int] = {4: 20, 6: 40}
UDP_HEADER_BYTES = 8

MIN_MTU_BYTES: dict[Family, int] = {4: 68, 6: 1280}
"""Smallest MTU of a link."""


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


def public_addresses(
    here: Here, families: Collection[Family]
) -> tuple[IPv4Address, IPv6Address | None]:
    """Returns what a lease says: only addresses of the network's families, as flannel's."""
    ipv4 = here.public_ip if 4 in families else None
    return ipv4 or UNSPECIFIED, here.public_ipv6 if 6 in families else None


def subnet_of(peer: Peer, family: Family) -> IPNetwork | None:
    """Returns the subnet of a peer; None: it has none in that family."""
    if family == 6:
        return peer.key.ipv6
    return None if peer.key.ipv4 == NO_IPV4_SUBNET else peer.key.ipv4


def underlay_address(peer: Peer, family: Family) -> IPAddress | None:
    """Returns the underlay address of a peer, if its lease says one."""
    address = peer.public_ip if family == 4 else peer.public_ipv6
    return None if address == UNSPECIFIED else address


def endpoint(peer: Peer, family: Family) -> IPAddress:
    """Returns the underlay address of a peer.

    Raises:
        Unusable: its lease has none in that family.
    """
    address = underlay_address(peer, family)
    if address is None:
        name = "PublicIP" if family == 4 else "PublicIPv6"
        raise Unusable(
            "no_underlay_address",
            f"lease of {peer.key} has no {name}, over which its IPv{family} subnet is reached",
        )
    return address


def overlay_mtu_bytes(
    outer_mtu_bytes: int, overhead_bytes: Callable[[Family], int], families: Collection[Family]
) -> int:
    """Returns the MTU that the encapsulation of the dearest family leaves.

    Raises:
        InterfaceError: it is too small for a family of the network.
    """
    overhead = max(overhead_bytes(family) for family in families)
    mtu_bytes = outer_mtu_bytes - overhead
    least = max(MIN_MTU_BYTES[family] for family in families)
    if mtu_bytes < least:
        raise InterfaceError(
            f"underlay MTU {outer_mtu_bytes} leaves {mtu_bytes} bytes for a packet; "
            f"expected at least {least + overhead}, for the overlay needs {least}; "
            "raise the interface's MTU or choose another one with --iface"
        )
    return mtu_bytes

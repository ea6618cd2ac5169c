"""ESP around the packets for a peer with keys, whatever the backend of the network.

Path of a lease: `peer`, `trust.policy` -> **`backend.esp`** -> `fib`. Pure.
Both inner families of a peer travel over one endpoint: its IPv4 address if both hosts have one,
else its IPv6 address. The port is the one that the peer's record names.

Source: RFC 4303 section 2 (header, trailer), RFC 4106 section 3 and RFC 7634 section 2 (IV of 8
bytes, ICV of 16), RFC 3948 section 2.1 (UDP around it).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Final

from tunneld.backend.base import Adjacency, Backend, Family, Here, Reach, Unusable
from tunneld.backend.families import (
    IP_HEADER_BYTES,
    MAX_OUTER_BYTES,
    MIN_MTU_BYTES,
    UDP_HEADER_BYTES,
    families_of,
)
from tunneld.backend.leases import underlay_address
from tunneld.backend.options import outer_mtu
from tunneld.errors import InterfaceError
from tunneld.lease.model import IPAddress, IPNetwork, RecordEncryption
from tunneld.lease.network import NetworkConfig
from tunneld.peer import Peer

ENCAPSULATION: Final = "esp"

NOBODY: Final = base64.b64encode(bytes(32)).decode()
"""A key that no host has: it agrees nothing (RFC 7748 section 6.1)."""
_DISCARD_PORT: Final = 9

KEY: Final = "key"
SUBNET: Final = "subnet"
"""What the core must know of a peer: whose keys, and for which subnet of its."""

ALSO: Final = "also"
ALSO_KEY: Final = "also_key"
"""What else it takes of a peer that goes over from plain to keys: with ESP `plain`, in plain what
is sealed by that key. The two sides do not go over at one moment."""

HEADER_BYTES: Final = 16
"""SPI, sequence number, IV."""
ICV_BYTES: Final = 16
TRAILER_BYTES: Final = 2
"""Pad length and next header; before them up to 3 bytes of padding."""
_ALIGNMENT_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Esp:
    """ESP in one network."""

    families: tuple[Family, ...]
    """Of the network."""
    outer_mtu_bytes: int | None = None
    """Largest datagram with all its headers; None: the underlay's MTU."""
    is_alone: bool
    """Whether no peer is reached in another way."""

    def device_mtu_bytes(self, backend: Backend, underlay_mtu_bytes: int) -> int:
        """Returns the MTU of the TUN device: the most that any peer takes.

        With less, what a peer sends in plain would be too large for the device.

        Raises:
            InterfaceError: the underlay leaves no room for a packet.
        """
        return max(self._each_mtu_bytes(backend, underlay_mtu_bytes))

    def flannel_mtu_bytes(self, backend: Backend, underlay_mtu_bytes: int) -> int:
        """Returns FLANNEL_MTU, which containers go by: what every peer takes.

        Raises:
            InterfaceError: the underlay leaves no room for a packet.
        """
        return min(self._each_mtu_bytes(backend, underlay_mtu_bytes))

    def _each_mtu_bytes(self, backend: Backend, underlay_mtu_bytes: int) -> list[int]:
        # A network that has IPv4 has it at every host.
        sealed = self._mtu_bytes(underlay_mtu_bytes, self.families[0])
        plain = [] if self.is_alone else [backend.device_mtu_bytes(underlay_mtu_bytes)]
        return [sealed, *plain]

    def _mtu_bytes(self, underlay_mtu_bytes: int, outer: Family) -> int:
        outer_mtu_bytes = min(self.outer_mtu_bytes or underlay_mtu_bytes, MAX_OUTER_BYTES)
        found = inner_bytes(outer_mtu_bytes, outer)
        least = max(MIN_MTU_BYTES[family] for family in self.families)
        if found < least:
            raise InterfaceError(
                f"underlay MTU {outer_mtu_bytes} leaves {found} bytes for an encrypted packet; "
                f"expected at least {least + overhead_bytes(outer)}, for the overlay needs "
                f"{least}; raise the interface's MTU or choose another one with --iface"
            )
        return found

    def reach(
        self,
        peer: Peer,
        prefix: IPNetwork,
        key: str,
        port: int,
        here: Here,
        *,
        takes_plain: bool = False,
    ) -> Reach:
        """Returns how a subnet of a peer is reached.

        Args:
            peer: whose subnet it is.
            prefix: the subnet.
            key: the peer's public key, in base64.
            port: UDP port of the peer's encryption.
            here: this host.
            takes_plain: whether what it sends in plain is taken, too.

        Raises:
            Unusable: the hosts have underlay addresses of one family not in common.
            InterfaceError: the underlay leaves no room for a packet.
        """
        address = endpoint(peer, here)
        if address is None:
            raise Unusable(
                "no_underlay_address",
                f"lease of {peer.key} has no PublicIP or PublicIPv6 of a family that this host "
                "has too, over which it is reached encrypted",
            )
        return Reach(
            adjacency=Adjacency(
                encapsulation=ENCAPSULATION,
                endpoint=address,
                port=port,
                mtu_bytes=self._mtu_bytes(
                    here.underlay_mtu_bytes, 4 if address.version == 4 else 6
                ),
                of_peer={KEY: key, SUBNET: str(prefix), **({ALSO: "plain"} if takes_plain else {})},
            )
        )

    def blocked(self, peer: Peer, prefix: IPNetwork, here: Here) -> Adjacency | None:
        """Returns what no plain packet may speak for, of a peer that is not reached; None: nothing.

        By an adjacency of nobody the engine knows that the subnet is not one of a plain peer.
        """
        if self.is_alone:
            return None
        try:
            return self.reach(peer, prefix, NOBODY, _DISCARD_PORT, here).adjacency
        except (Unusable, InterfaceError):
            return None


def taking_sealed(reach: Reach, key: str) -> Reach:
    """Returns a plain reach by which the peer may also send what it has sealed."""
    adjacency = reach.adjacency
    if adjacency is None:
        return reach
    of_peer = {**adjacency.of_peer, ALSO_KEY: key}
    return replace(reach, adjacency=replace(adjacency, of_peer=of_peer))


def esp_in(config: NetworkConfig, *, is_alone: bool) -> Esp:
    """Returns ESP in a network.

    Raises:
        NetworkConfigError: `Backend.MTU` leaves no room for a packet.
    """
    families = families_of(config)
    # Its packets travel in the first family of the network.
    outer = outer_mtu(config, families, lambda _family: overhead_bytes(families[0]))
    return Esp(families=families, outer_mtu_bytes=outer, is_alone=is_alone)


def endpoint(peer: Peer, here: Here) -> IPAddress | None:
    """Returns the address over which both families of a peer travel; None: there is none."""
    ipv4, ipv6 = underlay_address(peer, 4), underlay_address(peer, 6)
    if ipv4 is not None and here.address is not None:
        return ipv4
    return ipv6 if here.address_v6 is not None else None


def port_of(peer: Peer) -> int | None:
    """Returns the UDP port of a peer's encryption; None: its record names none."""
    said = peer.encryption
    return said.port if isinstance(said, RecordEncryption) else None


def inner_bytes(outer_bytes: int, outer: Family) -> int:
    """Returns the largest inner packet that an IP packet of `outer_bytes` has room for."""
    room = outer_bytes - IP_HEADER_BYTES[outer] - UDP_HEADER_BYTES - HEADER_BYTES - ICV_BYTES
    return (room & -_ALIGNMENT_BYTES) - TRAILER_BYTES


def overhead_bytes(outer: Family) -> int:
    """Returns the most that is added to a packet, with the outer IP header."""
    headers = IP_HEADER_BYTES[outer] + UDP_HEADER_BYTES + HEADER_BYTES + ICV_BYTES
    return headers + TRAILER_BYTES + _ALIGNMENT_BYTES - 1

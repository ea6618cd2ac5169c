"""The udp backend: the inner IPv4 packet is the whole payload of a UDP datagram.

Path of a lease: `peer` -> **`backend.udp`** -> `fib`. Pure.
Lease values are flannel's to the byte: no backend type, no backend data.

Source: flannel `pkg/backend/udp/` (options, device name, overhead).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar, Self

from tunneld.backend.base import Adjacency, Datapath, Encapsulation, SourceCheck, Unusable
from tunneld.backend.options import choice, whole_number
from tunneld.errors import InterfaceError
from tunneld.lease.model import UNSPECIFIED, LeaseAttributes
from tunneld.lease.network import NetworkConfig
from tunneld.peer import Peer

DEFAULT_PORT = 8285

IPV4_HEADER_BYTES = 20
UDP_HEADER_BYTES = 8

MIN_MTU_BYTES = 68
"""Smallest MTU of IPv4 (RFC 791)."""

SOURCE_CHECKS: tuple[SourceCheck, ...] = ("strict", "loose", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpBackend:
    """flannel's udp backend, over IPv4."""

    type: ClassVar[str] = "udp"
    datapath: ClassVar[Datapath] = "userspace"
    overhead_bytes: ClassVar[int] = IPV4_HEADER_BYTES + UDP_HEADER_BYTES
    encapsulation: ClassVar[Encapsulation] = "raw"
    device_template: ClassVar[str] = "flannel%d"

    port: int = DEFAULT_PORT
    source_check: SourceCheck = "strict"

    @classmethod
    def from_config(cls, config: NetworkConfig) -> Self:
        """Returns the backend with its options.

        Raises:
            NetworkConfigError: an option is out of its limits.
        """
        return cls(
            port=whole_number(config, "Port", default=DEFAULT_PORT, least=1, most=65_535),
            source_check=choice(config, "SourceCheck", default="strict", choices=SOURCE_CHECKS),
        )

    def device_mtu_bytes(self, underlay_mtu_bytes: int) -> int:
        """Returns the MTU of the TUN device.

        Raises:
            InterfaceError: the underlay leaves no room for an IPv4 packet.
        """
        mtu_bytes = underlay_mtu_bytes - self.overhead_bytes
        if mtu_bytes < MIN_MTU_BYTES:
            raise InterfaceError(
                f"underlay MTU {underlay_mtu_bytes} leaves {mtu_bytes} bytes for a packet; "
                f"expected at least {MIN_MTU_BYTES + self.overhead_bytes}; "
                "raise the interface's MTU or choose another one with --iface"
            )
        return mtu_bytes

    def attributes(
        self, public_ip: IPv4Address, public_ipv6: IPv6Address | None
    ) -> LeaseAttributes:
        """Returns flannel's lease value: addresses only."""
        return LeaseAttributes(public_ip=public_ip, public_ipv6=public_ipv6)

    def adjacency(self, peer: Peer, *, mtu_bytes: int) -> Adjacency:
        """Returns how `peer` is reached, whatever backend its lease names, as flannel does.

        Raises:
            Unusable: the peer has no IPv4 address in the underlay, or no IPv4 subnet.
        """
        if peer.public_ip == UNSPECIFIED or peer.subnet.prefixlen == 0:
            raise Unusable(
                "backend_no_ipv4",
                f"lease of {peer.key} has no IPv4 subnet and address, and udp carries IPv4 only",
            )
        return Adjacency(
            encapsulation=self.encapsulation,
            endpoint=peer.public_ip,
            port=self.port,
            mtu_bytes=mtu_bytes,
        )

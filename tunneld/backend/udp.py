"""The udp backend: the inner packet is the whole payload of a UDP datagram.

Path of a lease: `peer` -> **`backend.udp`** -> `fib`. Pure.
Lease values are flannel's to the byte: no backend type, no backend data. flannel's udp carries
IPv4 only; IPv6 is told apart by the version in the packet itself.

Source: flannel `pkg/backend/udp/` (options, device name, overhead).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal

from tunneld.backend.base import (
    Adjacency,
    Datapath,
    Family,
    Here,
    Reach,
    SourceCheck,
    VxlanDevice,
)
from tunneld.backend.families import (
    IP_HEADER_BYTES,
    UDP_HEADER_BYTES,
    families_of,
    overlay_mtu_bytes,
    require_addresses,
)
from tunneld.backend.leases import endpoint, public_addresses
from tunneld.backend.options import SOURCE_CHECKS, choice, outer_mtu, whole_number
from tunneld.errors import NetworkConfigError
from tunneld.lease.model import IPAddress, LeaseAttributes, SubnetKey
from tunneld.lease.network import NetworkConfig
from tunneld.peer import Peer

DEFAULT_PORT = 8285


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpBackend:
    """flannel's udp backend, over both families."""

    type: ClassVar[str] = "udp"
    datapath: ClassVar[Datapath] = "userspace"
    device_template: ClassVar[str] = "flannel%d"
    source_ports: ClassVar[int] = 0
    wants_on_link: ClassVar[bool] = False
    remarks: ClassVar[tuple[str, ...]] = ()

    families: tuple[Family, ...]
    port: int = DEFAULT_PORT
    outer_mtu_bytes: int | None = None
    """Largest datagram with all its headers; None: the underlay's MTU."""
    source_check: SourceCheck = "strict"

    def overhead_bytes(self, family: Family) -> int:
        """Returns what the headers take."""
        return _overhead_bytes(family)

    def device_mtu_bytes(self, underlay_mtu_bytes: int) -> int:
        """Returns the MTU of the TUN device.

        Raises:
            InterfaceError: the underlay leaves no room for a packet.
        """
        outer_mtu_bytes = self.outer_mtu_bytes or underlay_mtu_bytes
        return overlay_mtu_bytes(outer_mtu_bytes, self.overhead_bytes, self.families)

    def check(self, here: Here) -> None:
        """Refuses a host without an underlay address in a family of the network."""
        require_addresses(here, self.families)

    def attributes(self, here: Here) -> LeaseAttributes:
        """Returns flannel's lease value: addresses only."""
        public_ip, public_ipv6 = public_addresses(here, self.families)
        return LeaseAttributes(public_ip=public_ip, public_ipv6=public_ipv6)

    def vtep(self, here: Here) -> None:
        """Returns nothing: no VXLAN is spoken."""
        return

    def devices(self, here: Here, own: SubnetKey) -> tuple[VxlanDevice, ...]:
        """Returns nothing: the kernel has no part in it."""
        return ()

    def reach(
        self, peer: Peer, family: Family, here: Here, *, on_link: Collection[IPAddress]
    ) -> Reach:
        """Returns the adjacency of `peer`, whatever backend its lease names, as flannel does.

        Raises:
            Unusable: the peer has no address in that family of the underlay.
        """
        return Reach(
            adjacency=Adjacency(
                encapsulation="raw",
                endpoint=endpoint(peer, family),
                port=self.port,
                mtu_bytes=self.device_mtu_bytes(here.underlay_mtu_bytes),
            )
        )


def from_config(config: NetworkConfig, datapath: Literal["userspace", "kernel"]) -> UdpBackend:
    """Returns the backend with its options.

    Raises:
        NetworkConfigError: an option is out of its limits, or the kernel is to do it.
    """
    if datapath == "kernel":
        raise NetworkConfigError(
            "the udp backend has no kernel data path: no device of the kernel puts bare packets "
            "into UDP; expected --datapath userspace, or vxlan as Backend.Type"
        )
    families = families_of(config)
    return UdpBackend(
        families=families,
        outer_mtu_bytes=outer_mtu(config, families, _overhead_bytes),
        port=whole_number(config, "Port", default=DEFAULT_PORT, least=1, most=65_535),
        source_check=choice(config, "SourceCheck", default="strict", choices=SOURCE_CHECKS),
    )


def _overhead_bytes(family: Family) -> int:
    return IP_HEADER_BYTES[family] + UDP_HEADER_BYTES

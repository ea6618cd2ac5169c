"""The alloc backend: a lease and no more. Somebody else carries the packets.

Path of a lease: `peer` -> **`backend.alloc`** -> `fib`. Pure.

Source: flannel `pkg/backend/alloc/`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal

from tunneld.backend.base import Datapath, Family, Here, SourceCheck, VxlanDevice
from tunneld.backend.families import families_of, overlay_mtu_bytes, require_addresses
from tunneld.backend.leases import public_addresses
from tunneld.lease.model import IPAddress, LeaseAttributes, SubnetKey
from tunneld.lease.network import NetworkConfig
from tunneld.peer import Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocBackend:
    """flannel's alloc backend."""

    type: ClassVar[str] = "alloc"
    datapath: ClassVar[Datapath] = "none"
    port: ClassVar[None] = None
    device_template: ClassVar[None] = None
    source_ports: ClassVar[int] = 0
    source_check: ClassVar[SourceCheck] = "off"
    wants_on_link: ClassVar[bool] = False
    remarks: ClassVar[tuple[str, ...]] = ()

    families: tuple[Family, ...]

    def overhead_bytes(self, family: Family) -> int:
        """Returns 0: nothing is encapsulated here."""
        return 0

    def device_mtu_bytes(self, underlay_mtu_bytes: int) -> int:
        """Returns the underlay's own MTU.

        Raises:
            InterfaceError: it is too small for a family of the network.
        """
        return overlay_mtu_bytes(underlay_mtu_bytes, self.overhead_bytes, self.families)

    def check(self, here: Here) -> None:
        """Refuses a host without an underlay address in a family of the network."""
        require_addresses(here, self.families)

    def attributes(self, here: Here) -> LeaseAttributes:
        """Returns flannel's lease value: PublicIP only, for no peer has to be reached.

        Without IPv4, where flannel's own ends, PublicIPv6 says whose lease it is.
        """
        public_ip, public_ipv6 = public_addresses(here, self.families)
        return LeaseAttributes(
            public_ip=public_ip, public_ipv6=None if 4 in self.families else public_ipv6
        )

    def vtep(self, here: Here) -> None:
        """Returns nothing: no VXLAN is spoken."""
        return

    def devices(self, here: Here, own: SubnetKey) -> tuple[VxlanDevice, ...]:
        """Returns nothing: there is no tunnel."""
        return ()

    def reach(
        self, peer: Peer, family: Family, here: Here, *, on_link: Collection[IPAddress]
    ) -> None:
        """Returns nothing: peers are reached by whatever the operator has."""
        return


def from_config(config: NetworkConfig, datapath: Literal["userspace", "kernel"]) -> AllocBackend:
    """Returns the backend; it has no options."""
    return AllocBackend(families=families_of(config))

"""What the backends without a tunnel have in common: no device, no header, no datagrams.

Path of a lease: `peer` -> **`backend.untunnelled`** -> `fib`. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tunneld.backend.base import Family, Here, SourceCheck, VxlanDevice
from tunneld.backend.families import overlay_mtu_bytes
from tunneld.lease.model import SubnetKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Untunnelled:
    """The part of a `Backend` that follows from packets travelling as they are."""

    port: ClassVar[None] = None
    device_template: ClassVar[None] = None
    source_ports: ClassVar[int] = 0
    source_check: ClassVar[SourceCheck] = "off"
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

    def vtep(self, here: Here) -> None:
        """Returns nothing: no VXLAN is spoken."""
        return

    def devices(self, here: Here, own: SubnetKey) -> tuple[VxlanDevice, ...]:
        """Returns nothing: there is no tunnel."""
        return ()

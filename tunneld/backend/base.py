"""What a backend is: the wire side of a network, as values.

Path of a lease: `peer` -> **`backend`** -> `fib`. Pure: no socket, no clock, no netlink.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar, Literal, Protocol

from tunneld.lease.model import LeaseAttributes
from tunneld.peer import Peer

Encapsulation = Literal["raw"]
Datapath = Literal["userspace", "kernel"]
SourceCheck = Literal["strict", "loose", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjacency:
    """How packets for a peer, in one address family, leave and arrive."""

    encapsulation: Encapsulation
    endpoint: IPv4Address
    """Underlay address of the peer."""
    port: int
    mtu_bytes: int
    """Largest inner packet this adjacency carries."""


class Unusable(Exception):  # noqa: N818 - a verdict on somebody's lease, not an error of ours
    """A peer this backend cannot reach; `reason` names the counter, `detail` goes to the log."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Backend(Protocol):
    """One backend of one network, with its options parsed and in range."""

    type: ClassVar[str]
    datapath: ClassVar[Datapath]
    overhead_bytes: ClassVar[int]
    """Bytes the encapsulation adds in front of an inner packet, outer IP header included."""
    encapsulation: ClassVar[Encapsulation]
    device_template: ClassVar[str]
    """Name of the overlay device; `%d` stands for the first free number."""

    @property
    def port(self) -> int:
        """UDP port, here and at every peer."""
        ...

    @property
    def source_check(self) -> SourceCheck:
        """The network's `SourceCheck`; the command line may override it."""
        ...

    def device_mtu_bytes(self, underlay_mtu_bytes: int) -> int:
        """Returns the MTU of the overlay device, which is also FLANNEL_MTU."""
        ...

    def attributes(
        self, public_ip: IPv4Address, public_ipv6: IPv6Address | None
    ) -> LeaseAttributes:
        """Returns what this node's lease must say."""
        ...

    def adjacency(self, peer: Peer, *, mtu_bytes: int) -> Adjacency:
        """Returns how `peer` is reached.

        Raises:
            Unusable: the peer's lease does not fit this backend.
        """
        ...

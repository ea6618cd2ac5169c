"""The values of the lease room: subnets, leases, node records, and what a store reports of them.

Path of a lease: `store` -> **`lease.model`** -> `peer` -> `backend` -> `fib`.
Pure: plain values.

Source: flannel `pkg/lease/lease.go` (LeaseAttrs), `pkg/subnet/subnet.go` (keys).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeAlias

UNSPECIFIED = IPv4Address(0)

NO_IPV4_SUBNET = IPv4Network("0.0.0.0/0")
"""What stands for the IPv4 subnet in the key of an IPv6-only lease."""

_BEFORE = IPv6Network("::/0")

ASKS = "Asks"
"""Member of a record that is a question: the leases asked for, as texts."""

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class SubnetKey:
    """The subnets of one lease; the identity of the lease in the store.

    `ipv4` is 0.0.0.0/0 for an IPv6-only lease, as flannel writes it.
    """

    ipv4: IPv4Network
    ipv6: IPv6Network | None = None

    @property
    def has_ipv4(self) -> bool:
        """False for an IPv6-only lease, whose `ipv4` stands for nothing."""
        return self.ipv4 != NO_IPV4_SUBNET

    @property
    def subnets(self) -> tuple[IPNetwork, ...]:
        """The subnets that are there, IPv4 first."""
        ipv4 = (self.ipv4,) if self.has_ipv4 else ()
        return ipv4 if self.ipv6 is None else (*ipv4, self.ipv6)

    def __lt__(self, other: SubnetKey) -> bool:
        # One family alone before both.
        return (self.ipv4, self.ipv6 or _BEFORE) < (other.ipv4, other.ipv6 or _BEFORE)

    def __str__(self) -> str:
        return ",".join(map(str, self.subnets)) or str(self.ipv4)


@dataclass(frozen=True, slots=True)
class Holder:
    """By which a host is known as the holder of a lease, as flannel knows it.

    That is its PublicIP; in a network without IPv4 every host has 0.0.0.0 there, and its
    PublicIPv6 must do.
    """

    public_ip: IPv4Address
    public_ipv6: IPv6Address | None = None

    @property
    def has_public_ip(self) -> bool:
        """Whether PublicIP says anything."""
        return self.public_ip != UNSPECIFIED

    def __str__(self) -> str:
        ipv4 = [str(self.public_ip)] if self.has_public_ip or self.public_ipv6 is None else []
        return ",".join(ipv4 if self.public_ipv6 is None else [*ipv4, str(self.public_ipv6)])

    def is_host_of(self, other: Holder) -> bool:
        """Returns whether both name one host."""
        if self.has_public_ip:
            return other.public_ip == self.public_ip
        return self.public_ipv6 is not None and other == self


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseAttributes:
    """What the holder of a lease tells the others; the value of the lease key."""

    public_ip: IPv4Address
    public_ipv6: IPv6Address | None = None
    backend_type: str = ""
    """Empty when absent, as flannel's udp and alloc backends leave it."""
    backend_data: Any = None
    backend_v6_data: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Members tunneld does not know, kept in the order they came."""

    @property
    def holder(self) -> Holder:
        """Who writes this."""
        return Holder(self.public_ip, self.public_ipv6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A subnet held by a node."""

    key: SubnetKey
    attributes: LeaseAttributes
    grant_id: int = 0
    """The store's grant (etcd lease) that ends the lease; 0: it never ends (a reservation)."""
    create_revision: int = 0
    mod_revision: int = 0
    """Revision of the last write. A write that expects it fails when somebody wrote in between."""

    @property
    def subnet(self) -> IPv4Network:
        """The IPv4 subnet; 0.0.0.0/0 for an IPv6-only lease."""
        return self.key.ipv4

    @property
    def holder(self) -> Holder:
        """Who holds it."""
        return self.attributes.holder

    @property
    def is_reservation(self) -> bool:
        """True when nothing but a delete ends the lease."""
        return self.grant_id == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordEncryption:
    """Where a node can be tried with encryption, as its record says. It proves nothing."""

    key: str
    """X25519 public key in base64: 44 characters, not looked into here."""
    port: int
    """UDP port of its encryption."""
    instance: str
    """16 hexadecimal digits, others at every start of the node."""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """What a record says of encryption, in a form that is not known: the node has keys."""

    value: Any
    """As it came; written again as it is."""
    detail: str = field(compare=False)
    """What cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """What a tunneld node says of itself beside its lease, at `<prefix>/tunneld/nodes/<id>`.

    It says where to try; it proves nothing.
    """

    node_id: str
    key: SubnetKey
    public_ip: IPv4Address
    public_ipv6: IPv6Address | None = None
    version: str
    """The version of tunneld that wrote the record."""
    encryption: RecordEncryption | Unreadable | None = None
    """None: the node has no keys."""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_question(self) -> bool:
        """Whether it only asks who holds some leases, as `lease.roll_call` does."""
        return ASKS in self.extra

    @property
    def holder(self) -> Holder:
        """Who wrote it."""
        return Holder(self.public_ip, self.public_ipv6)

    def describes(self, lease: Lease) -> bool:
        """Returns whether the node of this record holds `lease`.

        A record left behind by a node whose subnet somebody else took names another holder.
        """
        return not self.is_question and (self.key, self.holder) == (lease.key, lease.holder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A lasting claim of a subnet for a host, at `<prefix>/tunneld/reservations/<subnet>`."""

    key: SubnetKey
    public_ip: IPv4Address
    public_ipv6: IPv6Address | None = None
    """Told only where `public_ip` is 0.0.0.0: else that alone names the host."""

    @property
    def holder(self) -> Holder:
        """Whom the subnet is kept for."""
        return Holder(self.public_ip, self.public_ipv6)


MALFORMED_KEY = "malformed_key"
MALFORMED_VALUE = "malformed_value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """An entry of the store that cannot be read. It is skipped, logged once and counted."""

    name: str
    """The full key."""
    reason: str
    """`MALFORMED_KEY` or `MALFORMED_VALUE`: the counter's name."""
    detail: str
    """What is wrong, in words, for the log."""
    key: SubnetKey | None = field(default=None, compare=False)
    """The subnet whose lease should be here; None: no lease should, or the name says no subnet."""
    create_revision: int = field(default=0, compare=False)
    mod_revision: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything below the prefix at one revision."""

    revision: int
    config: str | None
    leases: tuple[Lease, ...] = ()
    records: tuple[NodeRecord, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    malformed: tuple[Malformed, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigPut:
    """`<prefix>/config` was written; `text` is None when it was deleted."""

    text: str | None


@dataclass(frozen=True, slots=True)
class LeasePut:
    """A lease was created, renewed by a write, or changed."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class LeaseDeleted:
    """A lease was deleted or ended."""

    key: SubnetKey


@dataclass(frozen=True, slots=True)
class RecordPut:
    """A node record was written."""

    record: NodeRecord


@dataclass(frozen=True, slots=True)
class RecordDeleted:
    """A node record was deleted or ended."""

    node_id: str


@dataclass(frozen=True, slots=True)
class ReservationPut:
    """A reservation was written."""

    reservation: Reservation


@dataclass(frozen=True, slots=True)
class ReservationDeleted:
    """A reservation was deleted."""

    key: SubnetKey


@dataclass(frozen=True, slots=True)
class MalformedPut:
    """An entry that cannot be read was written. A lease held under that key before is gone."""

    entry: Malformed
    key: SubnetKey | None = None
    """The subnet, when the key could be read and only the value is bad."""


@dataclass(frozen=True, slots=True)
class MalformedDeleted:
    """A key that cannot be read was deleted."""

    name: str


Event = (
    ConfigPut
    | LeasePut
    | LeaseDeleted
    | RecordPut
    | RecordDeleted
    | ReservationPut
    | ReservationDeleted
    | MalformedPut
    | MalformedDeleted
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Changes in the order they were written; `revision` is that of the last one."""

    revision: int
    events: tuple[Event, ...]

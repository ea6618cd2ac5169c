"""A host with a lease table that the tests write, and what it must hold then."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Literal

from tests.unit.backend.values import HERE, OWN, Family, network
from tunneld.backend import parse_backend
from tunneld.daemon.desired import Desired
from tunneld.daemon.path_mtu import PathMtus
from tunneld.daemon.skips import Skips
from tunneld.fib.compose import Rules
from tunneld.fib.state import State
from tunneld.lease.model import (
    NO_IPV4_SUBNET,
    IPNetwork,
    Lease,
    LeaseAttributes,
    Snapshot,
    SubnetKey,
)
from tunneld.lease.selection import Skipped
from tunneld.lease.tracker import LeaseTracker

MakeNode = Callable[..., "Node"]

A, A_V6 = IPv4Network("10.5.2.0/24"), IPv6Network("fd00:10:5:2::/64")
B, B_V6 = IPv4Network("10.5.3.0/24"), IPv6Network("fd00:10:5:3::/64")


def lease(
    number: int,
    *,
    create: int | None = None,
    mod: int | None = None,
    families: Family = "dual",
    backend_type: str = "vxlan",
    **attributes: Any,
) -> Lease:
    """The lease of host 10.99.0.<number + 10> and fd99::<number + 10>."""
    ipv4 = IPv4Network(f"10.5.{number}.0/24") if families != "ipv6" else NO_IPV4_SUBNET
    ipv6 = None if families == "ipv4" else IPv6Network(f"fd00:10:5:{number}::/64")
    values: dict[str, Any] = {
        "public_ip": IPv4Address(f"10.99.0.{number + 10}" if families != "ipv6" else "0.0.0.0"),
        "public_ipv6": None if families == "ipv4" else IPv6Address(f"fd99::{number + 10}"),
        "backend_type": backend_type,
    }
    if backend_type == "vxlan":
        values["backend_data"] = {"VNI": 1, "VtepMAC": f"0e:00:00:00:04:{number:02x}"}
        values["backend_v6_data"] = {"VNI": 1, "VtepMAC": f"0e:00:00:00:06:{number:02x}"}
    created = number if create is None else create
    return Lease(
        key=SubnetKey(ipv4, ipv6),
        attributes=LeaseAttributes(**values | attributes),
        grant_id=7,
        create_revision=created,
        mod_revision=created if mod is None else mod,
    )


class Table:
    """A lease table that the tests write; the own lease is in it from the first write on."""

    def __init__(self, own: Lease) -> None:
        self.tracker = LeaseTracker()
        self.own: Lease | None = None
        self._own = own
        self._skips = Skips(self.tracker)

    def write(self, *leases: Lease) -> None:
        self.own = self._own
        self.tracker.reset(Snapshot(revision=100, config=None, leases=(self.own, *leases)))

    def tell_skipped(self, skipped: Iterable[Skipped]) -> None:
        self._skips.tell(skipped)


class Node:
    """A host that holds `OWN`, with a lease table that the tests write."""

    def __init__(
        self,
        backend_type: str = "vxlan",
        families: Family = "dual",
        datapath: Literal["userspace", "kernel"] = "userspace",
        **options: object,
    ) -> None:
        config = network(backend_type, families, **options)
        backend = parse_backend(config, datapath)
        key = SubnetKey(
            NO_IPV4_SUBNET if families == "ipv6" else OWN.ipv4,
            None if families == "ipv4" else OWN.ipv6,
        )
        self.table = Table(Lease(key=key, attributes=backend.attributes(HERE), grant_id=1))
        self.backend = backend
        self.path_mtus = PathMtus(overhead_bytes=backend.overhead_bytes)
        self.desired = Desired(
            config=config,
            backend=backend,
            table=self.table,
            path_mtus=self.path_mtus,
            here=HERE,
            source_check=backend.source_check,
            rules=Rules(ip_masq=True),
        )
        self.desired.device = "flannel0" if backend.datapath == "userspace" else None

    def holds(self, *leases: Lease) -> State:
        """Writes the table anew and returns what must be."""
        self.table.write(*leases)
        state = self.desired.state()
        assert state is not None
        return state

    def skips(self) -> dict[str, int]:
        """Returns the leases that were skipped, by reason."""
        counts = self.table.tracker.skip_counts
        return {reason: count for reason, count in counts.items() if count}


def targets(state: State) -> set[IPNetwork]:
    return {prefix for prefix, target in state.engine.entries.items() if target != "local"}


def to_peers(state: State, kind: str) -> set[IPNetwork]:
    return {route.destination for route in state.host.routes if route.kind == kind}

"""What a node tries, as the tests of the allocation ask for it."""

from __future__ import annotations

import random

from tests.support.leases import holder, key
from tests.unit.lease.values import ME, NETWORK
from tunneld.lease.allocation import Candidate, candidates
from tunneld.lease.kinship import Identity
from tunneld.lease.model import Lease, Snapshot, SubnetKey
from tunneld.lease.network import NetworkConfig

NODE = "node-me"


def choices(
    view: Snapshot,
    *,
    public_ip: str = ME,
    config: NetworkConfig = NETWORK,
    previous: str | None = None,
    held: Lease | None = None,
    machine: str | None = None,
    unanswered: frozenset[SubnetKey] = frozenset(),
    blocked: frozenset[SubnetKey] = frozenset(),
) -> list[Candidate]:
    return list(
        candidates(
            view,
            me=Identity(node_id=NODE, holder=holder(public_ip), machine=machine),
            config=config,
            rng=random.Random(1),
            previous=None if previous is None else key(previous),
            held=held,
            unanswered=unanswered,
            blocked=blocked,
        )
    )


def origins(found: list[Candidate]) -> list[tuple[str, str]]:
    return [(entry.origin, str(entry.key)) for entry in found if entry.origin != "free"]

"""A table that is followed, with the own lease that most tests put into it."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.support.leases import lease, table
from tunneld.lease.model import Lease, NodeRecord, Reservation
from tunneld.lease.tracker import LeaseTracker

OWN = lease("10.5.1.0/24", "192.0.2.11", create=5)
HOSTS = st.integers(1, 4).map(lambda number: f"192.0.2.{number}")


def tracking(*entries: Lease | NodeRecord | Reservation, revision: int = 100) -> LeaseTracker:
    tracker = LeaseTracker()
    tracker.reset(table(*entries, revision=revision))
    return tracker

"""Whether the table says that a lease is still held."""

from __future__ import annotations

from tests.support.leases import lease, table
from tests.unit.lease.following import OWN, tracking
from tunneld.lease.ownership import Deleted, Held, Overwritten, judge


def test_lease_as_written_is_held() -> None:
    assert judge(tracking(OWN), OWN) == Held()


def test_table_older_than_the_lease_says_nothing() -> None:
    assert judge(tracking(revision=4), OWN) == Held()


def test_missing_lease_is_deleted() -> None:
    assert judge(tracking(revision=6), OWN) == Deleted()


def test_listing_of_a_restored_store_judges_at_any_revision() -> None:
    tracker = tracking(OWN)
    history = tracker.history
    tracker.reset(table(revision=2))
    assert judge(tracker, OWN, history=history) == Deleted()


def test_lease_of_another_host_in_its_place_is_overwritten() -> None:
    thief = lease("10.5.1.0/24", "192.0.2.66", create=5, mod=8)
    assert judge(tracking(thief), OWN) == Overwritten(thief)


def test_lease_under_a_grant_that_is_not_ours_is_overwritten() -> None:
    foreign = lease("10.5.1.0/24", "192.0.2.11", grant_id=8, create=5, mod=8)
    assert judge(tracking(foreign), OWN) == Overwritten(foreign)

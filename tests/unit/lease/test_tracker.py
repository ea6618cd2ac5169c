"""The lease table, followed; and which of its entries are told and counted as skipped."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.leases import key, lease, record, reservation, usable
from tests.unit.lease.following import HOSTS, OWN, tracking
from tests.unit.lease.values import NETWORK
from tunneld.lease.model import (
    Batch,
    ConfigPut,
    Event,
    Lease,
    LeaseDeleted,
    LeasePut,
    Malformed,
    MalformedDeleted,
    MalformedPut,
    NodeRecord,
    RecordDeleted,
    RecordPut,
    Reservation,
    ReservationDeleted,
    ReservationPut,
    Snapshot,
)
from tunneld.lease.selection import Skipped
from tunneld.lease.tracker import REASONS, LeaseTracker

BAD_KEY = Malformed(name="/n/subnets/garbage", reason="malformed_key", detail="no subnet")
BAD_VALUE = Malformed(name="/n/subnets/10.5.2.0-24", reason="malformed_value", detail="null")


def test_every_reason_is_counted_from_zero() -> None:
    assert dict(LeaseTracker().skip_counts) == dict.fromkeys(REASONS, 0)


def test_each_write_that_is_skipped_is_told_and_counted_once() -> None:
    tracker = tracking(lease("10.6.0.0/24", "192.0.2.12", create=3))
    first = tracker.newly_skipped(tracker.peers_of(OWN, NETWORK))
    again = tracker.newly_skipped(tracker.peers_of(OWN, NETWORK))
    assert [entry.name for entry in first] == ["10.6.0.0/24"]
    assert again == ()
    tracker.apply(
        Batch(revision=101, events=(LeasePut(lease("10.6.0.0/24", "192.0.2.12", mod=101)),))
    )
    assert len(tracker.newly_skipped(tracker.peers_of(OWN, NETWORK))) == 1
    assert tracker.skip_counts["outside_network"] == 2


def test_listing_after_an_outage_does_not_tell_old_skips_again() -> None:
    bad = lease("10.6.0.0/24", "192.0.2.12")
    snapshot = Snapshot(revision=7, config=None, leases=(bad,), malformed=(BAD_KEY,))
    tracker = LeaseTracker()
    tracker.reset(snapshot)
    assert len(tracker.newly_skipped(tracker.peers_of(OWN, NETWORK))) == 2
    tracker.reset(snapshot)
    assert tracker.newly_skipped(tracker.peers_of(OWN, NETWORK)) == ()
    assert tracker.skip_counts["malformed_key"] == 1


def test_entry_that_cannot_be_read_is_told_once_and_hurts_nobody() -> None:
    peer = lease("10.5.9.0/24", "192.0.2.19")
    tracker = tracking(OWN, peer)
    tracker.apply(Batch(revision=101, events=(MalformedPut(BAD_KEY),)))
    selection = tracker.peers_of(OWN, NETWORK)
    assert selection.accepted == (usable(peer),)
    assert tracker.newly_skipped(selection) == (
        Skipped(name="/n/subnets/garbage", reason="malformed_key", detail="no subnet"),
    )
    assert tracker.newly_skipped(selection) == ()


def test_entry_deleted_before_anybody_asked_is_counted_but_not_told() -> None:
    tracker = tracking(OWN)
    tracker.apply(Batch(revision=101, events=(MalformedPut(BAD_KEY),)))
    tracker.apply(Batch(revision=102, events=(MalformedDeleted(BAD_KEY.name),)))
    assert tracker.newly_skipped(tracker.peers_of(OWN, NETWORK)) == ()
    assert tracker.skip_counts["malformed_key"] == 1


def test_lease_overwritten_by_a_value_that_cannot_be_read_is_gone() -> None:
    tracker = tracking(OWN, lease("10.5.2.0/24", "192.0.2.12"))
    tracker.apply(Batch(revision=101, events=(MalformedPut(BAD_VALUE, key("10.5.2.0/24")),)))
    assert tracker.peers_of(OWN, NETWORK).accepted == ()


def test_skip_found_by_a_backend_is_counted_under_its_own_reason() -> None:
    tracker = tracking(OWN)
    skipped = Skipped.lease(lease("10.5.2.0/24", "192.0.2.12"), "backend_no_ipv4", "why")
    assert tracker.note(skipped)
    assert not tracker.note(skipped)
    assert tracker.skip_counts["backend_no_ipv4"] == 1


SUBNETS = st.integers(1, 6).map(lambda number: f"10.5.{number}.0/24")
NODES = st.sampled_from(["a", "b", "c"])
LEASES = st.builds(lease, SUBNETS, HOSTS, create=st.integers(1, 9))

EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(ConfigPut, st.none() | st.just("{}")),
    st.builds(LeasePut, LEASES),
    st.builds(LeaseDeleted, SUBNETS.map(key)),
    st.builds(RecordPut, st.builds(record, NODES, SUBNETS, HOSTS)),
    st.builds(RecordDeleted, NODES),
    st.builds(ReservationPut, st.builds(reservation, SUBNETS, HOSTS)),
    st.builds(ReservationDeleted, SUBNETS.map(key)),
    st.builds(MalformedPut, st.just(BAD_VALUE), SUBNETS.map(key)),
    st.builds(MalformedPut, st.just(BAD_KEY)),
    st.builds(MalformedDeleted, st.sampled_from([BAD_KEY.name, BAD_VALUE.name])),
)


def replay(events: list[Event]) -> Snapshot:
    """A store's listing after these events, written as plainly as possible."""
    config: str | None = None
    held: dict[str, dict[object, object]] = {
        "lease": {},
        "record": {},
        "reservation": {},
        "bad": {},
    }
    for event in events:
        match event:
            case ConfigPut(text):
                config = text
            case LeasePut(entry):
                held["lease"][entry.key] = entry
            case LeaseDeleted(subnet):
                held["lease"].pop(subnet, None)
            case RecordPut(entry):
                held["record"][entry.node_id] = entry
            case RecordDeleted(node_id):
                held["record"].pop(node_id, None)
            case ReservationPut(entry):
                held["reservation"][entry.key] = entry
            case ReservationDeleted(subnet):
                held["reservation"].pop(subnet, None)
            case MalformedPut(entry, subnet):
                held["lease"].pop(subnet, None)
                held["bad"][entry.name] = entry
            case MalformedDeleted(name):
                held["bad"].pop(name, None)
    return Snapshot(
        revision=len(events),
        config=config,
        leases=tuple(entry for entry in held["lease"].values() if isinstance(entry, Lease)),
        records=tuple(entry for entry in held["record"].values() if isinstance(entry, NodeRecord)),
        reservations=tuple(
            entry for entry in held["reservation"].values() if isinstance(entry, Reservation)
        ),
        malformed=tuple(entry for entry in held["bad"].values() if isinstance(entry, Malformed)),
    )


def sorted_out(snapshot: Snapshot) -> tuple[object, ...]:
    return (
        snapshot.revision,
        snapshot.config,
        {entry.key: entry for entry in snapshot.leases},
        {entry.node_id: entry for entry in snapshot.records},
        {entry.key: entry for entry in snapshot.reservations},
        {entry.name: entry for entry in snapshot.malformed},
    )


@given(st.lists(EVENTS), st.integers(0, 30))
def test_following_changes_ends_where_a_listing_does(events: list[Event], at: int) -> None:
    tracker = LeaseTracker()
    at = min(at, len(events))
    tracker.reset(replay(events[:at]))
    for revision, event in enumerate(events[at:], at + 1):
        tracker.apply(Batch(revision=revision, events=(event,)))
    assert sorted_out(tracker.view) == sorted_out(replay(events))

"""Which subnets a node tries, in which order."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from tests.support.leases import key, lease, record, reservation, table
from tests.unit.lease.choices import NODE, choices, origins
from tests.unit.lease.effort import calls_of
from tests.unit.lease.values import ALICE, ME
from tunneld.errors import SubnetExhaustedError
from tunneld.lease.allocation import FREE_CHOICES
from tunneld.lease.network import parse


def test_own_lease_comes_first_at_the_revision_it_was_seen_with() -> None:
    view = table(lease("10.5.7.0/24", ME, mod=42), record(NODE, "10.5.7.0/24", ME))
    first = choices(view)[0]
    assert (first.key, first.expected_revision, first.origin) == (key("10.5.7.0/24"), 42, "owned")


def test_order_is_owned_public_ip_reservation_subnet_env_free() -> None:
    view = table(
        lease("10.5.9.0/24", ME),
        lease("10.5.7.0/24", "192.0.2.99"),
        record(NODE, "10.5.7.0/24", "192.0.2.99"),
        reservation("10.5.20.0/24", ME),
    )
    found = choices(view, previous="10.5.30.0/24", unanswered=frozenset({key("10.5.7.0/24")}))
    assert origins(found) == [
        ("owned", "10.5.7.0/24"),
        ("public_ip", "10.5.9.0/24"),
        ("reservation", "10.5.20.0/24"),
        ("subnet_env", "10.5.30.0/24"),
    ]
    assert found[-1].origin == "free"


def test_host_whose_public_ip_changed_keeps_its_subnet() -> None:
    view = table(lease("10.5.7.0/24", ME), record(NODE, "10.5.7.0/24", ME))
    silent = frozenset({key("10.5.7.0/24")})
    found = choices(view, public_ip="192.0.2.77", unanswered=silent)
    assert origins(found)[0] == ("owned", "10.5.7.0/24")
    # Unless somebody answers there: then the node id was copied.
    assert origins(choices(view, public_ip="192.0.2.77")) == []


def test_one_host_keeps_one_lease() -> None:
    other = lease("10.5.9.0/24", ME, mod=8)
    reserved = lease("10.5.8.0/24", ME, grant_id=0)
    view = table(lease("10.5.7.0/24", ME), other, reserved, record(NODE, "10.5.7.0/24", ME))
    assert choices(view)[0].drop == (other,)


def test_record_proves_nothing_when_somebody_else_holds_the_subnet() -> None:
    view = table(lease("10.5.7.0/24", ALICE), record(NODE, "10.5.7.0/24", ME))
    assert origins(choices(view)) == []


def test_flanneld_lease_with_our_public_ip_is_taken_over() -> None:
    assert origins(choices(table(lease("10.5.7.0/24", ME)))) == [("public_ip", "10.5.7.0/24")]


def test_lease_with_our_public_ip_that_another_node_claims_is_not_ours() -> None:
    view = table(lease("10.5.7.0/24", ME), record("node-other", "10.5.7.0/24", ME))
    assert origins(choices(view)) == []


def test_unspecified_public_ip_is_nobodys() -> None:
    view = table(lease("10.5.7.0/24", "0.0.0.0"), reservation("10.5.8.0/24", "0.0.0.0"))
    assert origins(choices(view, public_ip="0.0.0.0")) == []


@pytest.mark.parametrize("misfit", ["10.6.7.0/24", "10.5.7.0/25", "10.5.0.0/24"])
def test_own_lease_that_does_not_fit_the_network_is_dropped_in_the_same_write(
    misfit: str,
) -> None:
    old = lease(misfit, ME)
    found = choices(table(old))
    assert found
    assert all(entry.origin == "free" and entry.drop == (old,) for entry in found)


def test_dropped_lease_leaves_its_range_free() -> None:
    small = parse('{"Network": "10.5.0.0/24", "SubnetMin": "10.5.0.64", "SubnetMax": "10.5.0.64"}')
    found = choices(table(lease("10.5.0.64/27", ME)), config=small)
    assert [str(entry.key) for entry in found] == ["10.5.0.64/26"]


def test_own_key_without_a_grant_is_taken_over_with_a_lasting_copy() -> None:
    found = choices(table(lease("10.5.7.0/24", ME, grant_id=0)))
    assert found[0].reservation == reservation("10.5.7.0/24", ME)


def test_lasting_copy_is_written_once() -> None:
    view = table(lease("10.5.7.0/24", ME, grant_id=0), reservation("10.5.7.0/24", ME))
    assert choices(view)[0].reservation is None


def test_reservation_of_the_own_lease_follows_a_changed_public_ip() -> None:
    view = table(
        lease("10.5.7.0/24", ME),
        record(NODE, "10.5.7.0/24", ME),
        reservation("10.5.7.0/24", ME),
    )
    silent = frozenset({key("10.5.7.0/24")})
    found = choices(view, public_ip="192.0.2.77", unanswered=silent)
    assert found[0].reservation == reservation("10.5.7.0/24", "192.0.2.77")


def test_reservation_of_another_host_is_left_alone() -> None:
    only = parse('{"Network": "10.5.0.0/16", "SubnetMin": "10.5.8.0", "SubnetMax": "10.5.9.0"}')
    view = table(reservation("10.5.8.0/24", ALICE))
    assert [str(entry.key) for entry in choices(view, config=only, previous="10.5.8.0/24")] == [
        "10.5.9.0/24"
    ]


def test_own_reservation_that_somebody_holds_is_not_tried() -> None:
    view = table(reservation("10.5.8.0/24", ME), lease("10.5.8.0/24", ALICE))
    assert origins(choices(view)) == []


@pytest.mark.parametrize("taken", ["10.5.30.0/24", "10.5.30.128/25", "10.5.0.0/16"])
def test_old_subnet_is_not_tried_when_somebody_is_in_it(taken: str) -> None:
    small = parse('{"Network": "10.5.0.0/16", "SubnetMin": "10.5.30.0"}')
    view = table(lease(taken, ALICE))
    if taken == "10.5.0.0/16":
        with pytest.raises(SubnetExhaustedError):
            choices(view, config=small, previous="10.5.30.0/24")
        return
    found = choices(view, config=small, previous="10.5.30.0/24")
    assert all(entry.key != key("10.5.30.0/24") for entry in found)


def test_old_subnet_that_does_not_fit_is_not_tried() -> None:
    assert origins(choices(table(), previous="10.6.7.0/24")) == []


def test_lost_lease_is_tried_again_before_all_others() -> None:
    held = lease("10.5.7.0/24", ME, grant_id=3)
    view = table(lease("10.5.9.0/24", ME))
    assert origins(choices(view, held=held)) == [
        ("lost", "10.5.7.0/24"),
        ("public_ip", "10.5.9.0/24"),
    ]


def test_record_alone_brings_the_subnet_back() -> None:
    view = table(record(NODE, "10.5.7.0/24", ME))
    assert origins(choices(view)) == [("lost", "10.5.7.0/24")]


def test_held_lease_is_updated_in_place() -> None:
    held = lease("10.5.7.0/24", ME, grant_id=3, mod=9)
    found = choices(table(held), public_ip="192.0.2.77", held=held)
    assert (found[0].origin, found[0].expected_revision) == ("owned", 9)


def test_subnet_overwritten_by_a_host_with_our_node_id_is_not_fought_over() -> None:
    held = lease("10.5.7.0/24", ME, grant_id=3)
    view = table(lease("10.5.7.0/24", ALICE, grant_id=4), record(NODE, "10.5.7.0/24", ALICE))
    assert origins(choices(view, held=held)) == []


def test_own_key_rewritten_without_our_grant_is_taken_over_in_place() -> None:
    held = lease("10.5.7.0/24", ME, grant_id=3)
    view = table(lease("10.5.7.0/24", ME, grant_id=0), lease("10.5.3.0/24", ALICE))
    assert origins(choices(view, held=held)) == [("public_ip", "10.5.7.0/24")]


def test_blocked_subnet_is_not_tried() -> None:
    view = table(lease("10.5.7.0/24", ME))
    blocked = frozenset({key("10.5.7.0/24"), key("10.5.1.0/24")})
    found = choices(view, blocked=blocked)
    assert not blocked & {entry.key for entry in found}


def test_free_subnets_are_the_first_hundred_in_an_order_by_chance() -> None:
    found = [entry.key for entry in choices(table(lease("10.5.3.0/24", ALICE)))]
    first_hundred = [key(f"10.5.{number}.0/24") for number in range(1, 102) if number != 3]
    assert found != first_hundred
    assert sorted(found) == first_hundred
    assert len(found) == FREE_CHOICES


def test_full_network_says_how_full_it_is() -> None:
    small = parse('{"Network": "10.5.0.0/28"}')
    leases = [lease(f"10.5.0.{4 * number}/30", f"192.0.2.{number}") for number in (1, 2, 3)]
    with pytest.raises(SubnetExhaustedError) as caught:
        choices(table(*leases), config=small, public_ip="192.0.2.99")
    assert "no free /30 in 10.5.0.0/28: all 3 subnets" in str(caught.value)
    assert "3 leases and 0 reservations" in str(caught.value)


def test_ten_times_the_leases_in_a_large_network_take_hardly_more_than_ten_times_the_work() -> None:
    wide = parse('{"Network": "10.0.0.0/8"}')

    def work(size: int) -> int:
        leases = [
            lease(
                str(IPv4Network((0x0A000100 + 256 * number, 24))),
                f"192.0.{number >> 8}.{number & 255}",
            )
            for number in range(size)
        ]
        view = table(*leases)
        found = choices(view, config=wide, public_ip="198.51.100.1")
        first_free = IPv4Network((0x0A000100 + 256 * size, 24))
        assert min(found, key=lambda entry: entry.key).key == key(str(first_free))
        return calls_of(lambda: choices(view, config=wide, public_ip="198.51.100.1"))

    assert work(10_000) < 15 * work(1_000)

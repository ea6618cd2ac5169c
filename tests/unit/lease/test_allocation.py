"""Which subnets a node tries, in which order."""

from __future__ import annotations

import contextlib
import json
import random
import time
from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.leases import holder, key, lease, record, reservation, table
from tunneld.errors import SubnetExhaustedError
from tunneld.lease.allocation import FREE_CHOICES, Candidate, candidates
from tunneld.lease.model import Holder, Lease, Snapshot, SubnetKey
from tunneld.lease.network import NetworkConfig, parse

NETWORK = parse('{"Network": "10.5.0.0/16"}')
ME = "192.0.2.11"
ALICE = "192.0.2.12"
NODE = "node-me"


def choices(
    view: Snapshot,
    *,
    public_ip: str = ME,
    config: NetworkConfig = NETWORK,
    previous: str | None = None,
    held: Lease | None = None,
    blocked: frozenset[SubnetKey] = frozenset(),
) -> list[Candidate]:
    return list(
        candidates(
            view,
            node_id=NODE,
            holder=holder(public_ip),
            config=config,
            rng=random.Random(1),
            previous=None if previous is None else key(previous),
            held=held,
            blocked=blocked,
        )
    )


def origins(found: list[Candidate]) -> list[tuple[str, str]]:
    return [(entry.origin, str(entry.key)) for entry in found if entry.origin != "free"]


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
    found = choices(view, previous="10.5.30.0/24")
    assert origins(found) == [
        ("owned", "10.5.7.0/24"),
        ("public_ip", "10.5.9.0/24"),
        ("reservation", "10.5.20.0/24"),
        ("subnet_env", "10.5.30.0/24"),
    ]
    assert found[-1].origin == "free"


def test_host_whose_public_ip_changed_keeps_its_subnet() -> None:
    view = table(lease("10.5.7.0/24", ME), record(NODE, "10.5.7.0/24", ME))
    assert origins(choices(view, public_ip="192.0.2.77"))[0] == ("owned", "10.5.7.0/24")


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
    found = choices(view, public_ip="192.0.2.77")
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


def test_ten_thousand_leases_in_a_large_network_take_no_time() -> None:
    wide = parse('{"Network": "10.0.0.0/8"}')
    leases = [
        lease(
            str(IPv4Network((0x0A000100 + 256 * number, 24))), f"192.0.{number >> 8}.{number & 255}"
        )
        for number in range(10_000)
    ]
    view = table(*leases)
    start = time.process_time()
    found = choices(view, config=wide, public_ip="198.51.100.1")
    assert time.process_time() - start < 2.0
    assert min(found, key=lambda entry: entry.key).key == key("10.39.17.0/24")


DUAL = parse('{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:5::/48"}')
ONLY6 = parse('{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:10:5::/48"}')
ME2 = f"{ME},fd99::11"
ALICE2 = f"{ALICE},fd99::12"
ME6, ALICE6 = "fd99::11", "fd99::12"
OURS = "10.5.7.0/24,fd00:10:5:7::/64"


class TestDualStack:
    def test_free_subnets_are_the_first_hundred_of_each_family_by_chance(self) -> None:
        found = choices(table(lease("10.5.3.0/24,fd00:10:5:2::/64", ALICE2)), config=DUAL)
        assert len(found) == FREE_CHOICES
        ipv4 = [entry.key.ipv4 for entry in found]
        ipv6 = [entry.key.ipv6 for entry in found]
        assert sorted(ipv4) == [
            IPv4Network(f"10.5.{number}.0/24") for number in range(1, 102) if number != 3
        ]
        assert sorted(str(subnet) for subnet in ipv6) == sorted(
            f"fd00:10:5:{number:x}::/64" for number in range(1, 102) if number != 2
        )
        # Chosen apart from each other, as flannel does.
        assert [int(subnet.network_address) >> 8 & 0xFF for subnet in ipv4] != [
            int(subnet.network_address) >> 64 & 0xFF for subnet in ipv6 if subnet
        ]

    def test_lease_with_our_public_ip_is_ours_whatever_its_ipv6_address_says(self) -> None:
        view = table(lease(OURS, f"{ME},fd99::77"))
        assert origins(choices(view, public_ip=ME2, config=DUAL)) == [("public_ip", OURS)]

    def test_lease_with_our_ipv6_address_alone_is_not_ours(self) -> None:
        view = table(lease(OURS, f"{ALICE},fd99::11"))
        assert origins(choices(view, public_ip=ME2, config=DUAL)) == []

    def test_both_subnets_of_subnet_env_are_asked_for(self) -> None:
        found = choices(table(), config=DUAL, previous="10.5.30.0/24,fd00:10:5:30::/64")
        assert origins(found) == [("subnet_env", "10.5.30.0/24,fd00:10:5:30::/64")]

    @pytest.mark.parametrize(
        ("taken", "kept"),
        [
            ("10.5.30.0/24,fd00:10:5:9::/64", "fd00:10:5:30::/64"),
            ("10.5.9.0/24,fd00:10:5:30::/64", "10.5.30.0/24"),
            ("10.5.9.0/24,fd00:10:5:30::/60", "10.5.30.0/24"),
        ],
    )
    def test_what_somebody_has_of_subnet_env_is_made_up_for_by_a_free_one(
        self, taken: str, kept: str
    ) -> None:
        view = table(lease(taken, ALICE2))
        first = choices(view, config=DUAL, previous="10.5.30.0/24,fd00:10:5:30::/64")[0]
        assert first.origin == "subnet_env"
        assert kept in str(first.key)
        assert DUAL.admits(first.key)
        assert not any(
            one.overlaps(two)
            for one, two in zip(first.key.subnets, key(taken).subnets, strict=True)
        )

    def test_reservation_holds_both_subnets(self) -> None:
        view = table(reservation(OURS, ME))
        assert origins(choices(view, public_ip=ME2, config=DUAL)) == [("reservation", OURS)]
        others = choices(view, public_ip=ALICE2, config=DUAL, previous=OURS)
        assert not any(entry.key.ipv4 == key(OURS).ipv4 for entry in others)
        assert not any(entry.key.ipv6 == key(OURS).ipv6 for entry in others)

    def test_reservation_of_one_subnet_is_filled_up_with_a_free_one(self) -> None:
        view = table(reservation("10.5.7.0/24", ME))
        first = choices(view, public_ip=ME2, config=DUAL)[0]
        assert first.origin == "reservation"
        assert first.key.ipv4 == IPv4Network("10.5.7.0/24")
        assert DUAL.admits(first.key)

    @pytest.mark.parametrize("says", ["owned", "public_ip"])
    def test_lease_of_one_family_keeps_its_subnet_when_the_network_gets_the_other(
        self, says: str
    ) -> None:
        old = lease("10.5.7.0/24", ME)
        view = table(old, *([record(NODE, "10.5.7.0/24", ME)] if says == "owned" else []))
        first = choices(view, public_ip=ME2, config=DUAL)[0]
        assert (first.origin, first.key.ipv4) == ("kept", IPv4Network("10.5.7.0/24"))
        assert DUAL.admits(first.key)
        assert (first.expected_revision, first.drop) == (0, (old,))

    def test_subnet_env_fills_up_what_is_kept(self) -> None:
        view = table(lease("10.5.7.0/24", ME))
        found = choices(view, public_ip=ME2, config=DUAL, previous="10.5.9.0/24,fd00:10:5:9::/64")
        assert str(found[0].key) == "10.5.7.0/24,fd00:10:5:9::/64"

    @pytest.mark.parametrize(
        ("config", "public_ip", "kept"),
        [(NETWORK, ME, "10.5.7.0/24"), (ONLY6, ME6, "fd00:10:5:7::/64")],
    )
    def test_lease_of_both_families_keeps_the_one_that_the_network_still_has(
        self, config: NetworkConfig, public_ip: str, kept: str
    ) -> None:
        old = lease(OURS, ME2)
        view = table(old, record(NODE, OURS, ME2))
        first = choices(view, public_ip=public_ip, config=config)[0]
        assert (first.origin, str(first.key), first.drop) == ("kept", kept, (old,))

    def test_lasting_claim_stays_with_what_is_kept(self) -> None:
        view = table(lease("10.5.7.0/24", ME, grant_id=0))
        first = choices(view, public_ip=ME2, config=DUAL)[0]
        assert first.reservation == reservation("10.5.7.0/24", ME)

    def test_lease_that_came_second_gives_up_the_subnet_it_shares(self) -> None:
        ours = lease(OURS, ME2, create=9)
        view = table(
            lease("10.5.9.0/24,fd00:10:5:7::/64", ALICE2, create=8), ours, record(NODE, OURS, ME2)
        )
        first = choices(view, public_ip=ME2, config=DUAL)[0]
        assert (first.origin, first.drop) == ("kept", (ours,))
        assert first.key.ipv4 == key(OURS).ipv4
        assert first.key.ipv6 != key(OURS).ipv6

    def test_lease_that_was_there_first_stays(self) -> None:
        view = table(
            lease("10.5.9.0/24,fd00:10:5:7::/64", ALICE2, create=9),
            lease(OURS, ME2, create=8),
            record(NODE, OURS, ME2),
        )
        assert origins(choices(view, public_ip=ME2, config=DUAL))[0] == ("owned", OURS)

    def test_family_without_a_free_subnet_is_named(self) -> None:
        small = parse('{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00::/62"}')
        leases = [
            lease(f"10.5.{number}.0/24,fd00:0:0:{number}::/64", f"192.0.2.{number},fd99::{number}")
            for number in (1, 2, 3)
        ]
        with pytest.raises(SubnetExhaustedError) as caught:
            choices(table(*leases), config=small, public_ip="192.0.2.99,fd99::99")
        assert "no free /64 in fd00::/62: all 3 subnets from fd00:0:0:1:: to" in str(caught.value)
        assert "widen IPv6Network, raise IPv6SubnetLen" in str(caught.value)


class TestIpv6Only:
    def test_host_without_ipv4_never_takes_the_lease_of_another(self) -> None:
        view = table(
            lease("fd00:10:5:1::/64", ALICE6), record("node-other", "fd00:10:5:1::/64", ALICE6)
        )
        found = choices(view, public_ip=ME6, config=ONLY6)
        assert origins(found) == []
        assert all(entry.drop == () for entry in found)
        assert sorted(str(entry.key) for entry in found) == sorted(
            f"fd00:10:5:{number:x}::/64" for number in range(2, 102)
        )

    def test_own_lease_is_known_by_the_node_record(self) -> None:
        view = table(lease("fd00:10:5:7::/64", ME6), record(NODE, "fd00:10:5:7::/64", ME6))
        found = choices(view, public_ip="fd99::77", config=ONLY6)
        assert origins(found) == [("owned", "fd00:10:5:7::/64")]

    def test_own_lease_without_a_record_is_known_by_the_ipv6_address(self) -> None:
        view = table(lease("fd00:10:5:7::/64", ME6), lease("fd00:10:5:8::/64", ALICE6))
        found = choices(view, public_ip=ME6, config=ONLY6)
        assert origins(found) == [("public_ip", "fd00:10:5:7::/64")]

    def test_record_proves_nothing_once_another_host_has_written_the_lease(self) -> None:
        view = table(lease("fd00:10:5:7::/64", ALICE6), record(NODE, "fd00:10:5:7::/64", ME6))
        assert origins(choices(view, public_ip=ME6, config=ONLY6)) == []

    def test_reservation_is_known_by_the_ipv6_address(self) -> None:
        view = table(reservation("fd00:10:5:7::/64", ME6), reservation("fd00:10:5:1::/64", ALICE6))
        found = choices(view, public_ip=ME6, config=ONLY6)
        assert origins(found) == [("reservation", "fd00:10:5:7::/64")]
        assert key("fd00:10:5:1::/64") not in {entry.key for entry in found}

    def test_lasting_copy_names_the_ipv6_address(self) -> None:
        view = table(lease("fd00:10:5:7::/64", ME6, grant_id=0))
        found = choices(view, public_ip=ME6, config=ONLY6)
        assert found[0].reservation == reservation("fd00:10:5:7::/64", ME6)


_V4 = {"Network": "10.5.0.0/24", "SubnetLen": 28, "SubnetMax": "10.5.0.192"}
_V6 = {
    "EnableIPv6": True,
    "IPv6Network": "fd00::/56",
    "IPv6SubnetLen": 60,
    "IPv6SubnetMax": "fd00:0:0:c0::",
}
SMALL = [
    parse(json.dumps(config)) for config in (_V4, {**_V4, **_V6}, {"EnableIPv4": False, **_V6})
]
HOSTS = st.tuples(st.integers(0, 5), st.integers(0, 5)).map(
    lambda numbers: (
        (f"192.0.2.{numbers[0]}" if numbers[0] else "0.0.0.0")
        + (f",fd99::{numbers[1]}" if numbers[1] else "")
    )
)


@st.composite
def subnets(draw: st.DrawFn) -> str:
    families = draw(st.sampled_from([(4,), (6,), (4, 6)]))
    # A sixteenth to a quarter of the network: hosts meet, and of one family only.
    bits = draw(st.sampled_from([2, 3, 4, 4, 4, 5, 6]))
    texts = []
    for family in families:
        at = draw(st.integers(0, 2**bits - 1))
        if family == 4:
            texts.append(str(IPv4Network((0x0A050000 + (at << (8 - bits)), 24 + bits))))
        else:
            texts.append(str(IPv6Network(((0xFD << 120) + (at << (72 - bits)), 56 + bits))))
    return ",".join(texts)


@st.composite
def tables(draw: st.DrawFn) -> Snapshot:
    revisions = iter(range(1, 100))
    leases = draw(st.dictionaries(subnets(), HOSTS, max_size=10))
    records = draw(st.dictionaries(st.sampled_from([NODE, "a", "b"]), st.tuples(subnets(), HOSTS)))
    reserved = draw(st.dictionaries(subnets(), HOSTS, max_size=4))
    return table(
        *(lease(subnet, host, create=next(revisions)) for subnet, host in leases.items()),
        *(record(node, *claim) for node, claim in records.items()),
        *(reservation(subnet, host) for subnet, host in reserved.items()),
    )


@given(tables(), HOSTS, st.none() | subnets(), st.sampled_from(SMALL))
def test_candidate_never_overlaps_what_is_not_its_own(
    view: Snapshot, public_ip: str, previous: str | None, config: NetworkConfig
) -> None:
    host = holder(public_ip)
    found: list[Candidate] = []
    with contextlib.suppress(SubnetExhaustedError):
        found.extend(
            candidates(
                view,
                node_id=NODE,
                holder=host,
                config=config,
                rng=random.Random(1),
                previous=None if previous is None else key(previous),
            )
        )
    assert len({entry.key for entry in found}) == len(found)
    held = {entry.key: entry for entry in view.leases}
    for entry in found:
        assert config.admits(entry.key)
        if entry.expected_revision:
            assert entry.origin in ("owned", "public_ip")
            assert held[entry.key].mod_revision == entry.expected_revision
        else:
            others = [other for other in view.leases if other not in entry.drop]
            assert not any(share(other.key, entry.key) for other in others)
            assert not any(
                share(other.key, entry.key)
                for other in view.reservations
                if not is_mine(host, other.holder)
            )
        for dropped in entry.drop:
            assert is_mine(host, dropped.holder) or any(
                known.node_id == NODE and known.key == dropped.key for known in view.records
            )


def share(one: SubnetKey, other: SubnetKey) -> bool:
    ipv4 = one.has_ipv4 and other.has_ipv4 and one.ipv4.overlaps(other.ipv4)
    return ipv4 or bool(one.ipv6 and other.ipv6 and one.ipv6.overlaps(other.ipv6))


def is_mine(me: Holder, other: Holder) -> bool:
    if str(me.public_ip) == "0.0.0.0":
        return me.public_ipv6 is not None and me == other
    return me.public_ip == other.public_ip

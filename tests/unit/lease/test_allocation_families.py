"""Which subnets a node tries in networks that have IPv6 too, or alone."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from tests.support.leases import key, lease, record, reservation, table
from tests.unit.lease.choices import NODE, choices, origins
from tests.unit.lease.values import ALICE, DUAL, ME, NETWORK, ONLY6
from tunneld.errors import SubnetExhaustedError
from tunneld.lease.allocation import FREE_CHOICES
from tunneld.lease.network import NetworkConfig, parse

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
        silent = frozenset({key("fd00:10:5:7::/64")})
        found = choices(view, public_ip="fd99::77", config=ONLY6, unanswered=silent)
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

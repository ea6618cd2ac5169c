"""Addresses that stand in several leases."""

from __future__ import annotations

from ipaddress import ip_address

from tests.support.leases import key, lease
from tests.unit.lease.values import ALICE, ME
from tunneld.lease.doubles import doubles, sentence


def test_address_in_two_leases_is_named_with_both_subnets() -> None:
    leases = [
        lease("10.5.9.0/24", ME),
        lease("10.5.7.0/24", f"{ME},fd99::1"),
        lease("10.5.8.0/24", ALICE),
    ]
    found = doubles(leases)
    assert found == {ip_address(ME): (key("10.5.7.0/24"), key("10.5.9.0/24"))}
    assert f"{ME} (10.5.7.0/24 and 10.5.9.0/24)" in (sentence(found) or "")
    assert sentence(doubles(leases[1:])) is None


def test_hosts_without_ipv4_are_told_apart_by_their_ipv6_address() -> None:
    one, two = lease("fd00:10:5:7::/64", "fd99::1"), lease("fd00:10:5:8::/64", "fd99::2")
    three = lease("fd00:10:5:9::/64", "fd99::2")
    assert doubles([one, two]) == {}
    assert list(doubles([one, two, three])) == [ip_address("fd99::2")]


def test_reservation_is_no_second_lease() -> None:
    assert doubles([lease("10.5.7.0/24", ME), lease("10.5.8.0/24", ME, grant_id=0)]) == {}


def test_many_are_counted() -> None:
    leases = [
        lease(f"10.5.{host * 2 + part}.0/24", f"192.0.2.{host + 1}")
        for host in range(9)
        for part in range(2)
    ]
    assert "and 6 more" in (sentence(doubles(leases)) or "")

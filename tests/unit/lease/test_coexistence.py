"""Which networks can be shared with flannelds, and what is said of those that cannot."""

from __future__ import annotations

from tests.support.leases import holder, lease, record
from tests.unit.lease.values import DUAL, ONLY6
from tunneld.lease.coexistence import conflict, flannelds

ME = holder("fd99::11")
FLANNELD = lease("fd00:10:5:2::/64", "fd99::12")


def test_flanneld_in_a_network_without_ipv4_is_named_with_what_to_do() -> None:
    found = conflict(ONLY6, [FLANNELD], [], ME)
    assert found is not None
    assert "fd00:10:5:2::/64 of fd99::12" in found
    assert "stop flanneld there and delete its lease" in found
    assert "\n" not in found


def test_network_with_ipv4_is_shared() -> None:
    both = lease("10.5.2.0/24,fd00:10:5:2::/64", "192.0.2.12,fd99::12")
    assert conflict(DUAL, [both], [], holder("192.0.2.11,fd99::11")) is None


def test_tunneld_beside_us_is_no_flanneld() -> None:
    assert conflict(ONLY6, [FLANNELD], [record("a", "fd00:10:5:2::/64", "fd99::12")], ME) is None


def test_record_of_the_host_whose_lease_was_written_over_does_not_cover_the_flanneld() -> None:
    assert flannelds([FLANNELD], [record("a", "fd00:10:5:2::/64", "fd99::66")], ME) == (FLANNELD,)


def test_lease_that_the_flanneld_of_this_host_left_is_no_reason() -> None:
    assert conflict(ONLY6, [FLANNELD], [], holder("fd99::12")) is None


def test_reserved_key_is_no_flanneld() -> None:
    assert conflict(ONLY6, [lease("fd00:10:5:2::/64", "fd99::12", grant_id=0)], [], ME) is None

"""Which leases came second in a subnet."""

from __future__ import annotations

from ipaddress import IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from tests.support.leases import lease
from tests.unit.lease.effort import calls_of
from tunneld.lease.model import Lease, SubnetKey
from tunneld.lease.precedence import came_second


@st.composite
def leases(draw: st.DrawFn) -> Lease:
    length = draw(st.sampled_from([14, 20, 23, 24, 25]))
    ipv4 = IPv4Network((0x0A050000 + draw(st.integers(0, 4095)), length), strict=False)
    ipv6 = draw(st.sampled_from(["", ",fd00:10:5:1::/64", ",fd00:10:5::/60", ",fd00:10:6::/64"]))
    return lease(f"{ipv4}{ipv6}", "192.0.2.1", create=draw(st.integers(1, 9)))


def compared(one: Lease, others: list[Lease]) -> bool:
    """The rule as Python's ipaddress has it, pair by pair."""
    return any(
        other.create_revision < one.create_revision
        and other.key != one.key
        and any(
            mine.version == theirs.version and mine.overlaps(theirs)
            for mine in one.key.subnets
            for theirs in other.key.subnets
        )
        for other in others
    )


@given(st.lists(leases(), max_size=6), st.lists(leases(), max_size=12))
def test_lease_came_second_where_another_was_in_one_of_its_subnets(
    own: list[Lease], others: list[Lease]
) -> None:
    keys: dict[SubnetKey, Lease] = {one.key: one for one in own}
    foreign = [other for other in others if other.key not in keys]
    expected = {key for key, one in keys.items() if compared(one, foreign)}
    assert came_second(keys.values(), foreign) == expected


def test_ten_times_the_leases_that_overlap_are_ten_times_the_work() -> None:
    def work(size: int) -> int:
        own, others = (
            [
                lease(f"10.0.0.0/9,fd00:{site}:5:{number:x}::/64", "192.0.2.1", create=number + 1)
                for number in range(size)
            ]
            for site in (10, 11)
        )
        assert len(came_second(own, others)) == size - 1
        return calls_of(lambda: came_second(own, others))

    assert work(2_000) < 15 * work(200)

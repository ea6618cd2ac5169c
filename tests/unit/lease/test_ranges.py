"""Ranges of addresses, against the standard library's networks."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from tunneld.lease.ranges import Ranges, is_inside, is_part, overlap

# 256 addresses of each family, so that networks meet.
NETWORKS4 = st.integers(24, 32).flatmap(
    lambda length: st.integers(0, 255).map(
        lambda at: IPv4Network((0x0A000000 + at, length), strict=False)
    )
)
NETWORKS6 = st.integers(120, 128).flatmap(
    lambda length: st.integers(0, 255).map(lambda at: IPv6Network((at, length), strict=False))
)


@given(NETWORKS6, NETWORKS6)
def test_networks_overlap_and_contain_as_the_library_says(
    one: IPv6Network, other: IPv6Network
) -> None:
    assert overlap(one, other) is one.overlaps(other)
    assert is_part(one, other) is one.subnet_of(other)
    assert is_inside(one.network_address, other) is (one.network_address in other)


def test_families_share_no_address() -> None:
    everything4, everything6 = IPv4Network("0.0.0.0/0"), IPv6Network("::/0")
    assert not overlap(everything4, everything6)
    assert not is_part(IPv4Network("10.0.0.0/8"), everything6)
    assert not is_inside(IPv6Address("::a00:1"), everything4)
    assert not is_inside(IPv4Address("10.0.0.1"), everything6)


@given(st.lists(NETWORKS4, max_size=8), NETWORKS4)
def test_ranges_hold_what_one_of_their_networks_overlaps(
    networks: list[IPv4Network], wanted: IPv4Network
) -> None:
    assert (wanted in Ranges(networks)) is any(wanted.overlaps(network) for network in networks)


@given(st.lists(NETWORKS4, max_size=8), st.integers(0, 3))
def test_gaps_are_the_blocks_that_no_network_meets(networks: list[IPv4Network], bits: int) -> None:
    size = 1 << bits
    base = 0x0A000000
    blocks = [IPv4Network((at, 32 - bits)) for at in range(base, base + 256, size)]
    free = [block for block in blocks if not any(block.overlaps(other) for other in networks)]
    found = list(Ranges(networks).gaps(base, base + 256 - size, size))
    assert found == [int(block.network_address) for block in free]

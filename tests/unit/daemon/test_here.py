"""What a backend is told of this host, and that it stays so over a restart."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.backend.mac import make_mac
from tunneld.daemon.here import NAME, this_host, vtep_macs
from tunneld.host.state_dir import StateDir
from tunneld.host.underlay import Underlay

UNDERLAY = Underlay(
    name="eth0",
    index=2,
    address=IPv4Address("192.0.2.11"),
    public_ip=IPv4Address("203.0.113.7"),
    address_v6=IPv6Address("2001:db8::11"),
    public_ipv6=IPv6Address("2001:db8::11"),
    mtu_bytes=1500,
)


def counting() -> Callable[[int], bytes]:
    """Returns chance that never says the same twice."""
    numbers = iter(range(1, 256))
    return lambda size: bytes([next(numbers)] * size)


def test_vtep_addresses_are_made_once_and_kept_over_a_restart(tmp_path: Path) -> None:
    with StateDir(tmp_path) as state_dir:
        made = vtep_macs(state_dir, counting())
        assert vtep_macs(state_dir, counting()) == made
    chance = counting()
    chance(6)
    with StateDir(tmp_path) as state_dir:
        assert vtep_macs(state_dir, chance) == made
    assert made[0] != made[1], "flannel's two devices have an address each"


@pytest.mark.parametrize(
    "damaged",
    [
        "{",
        "[]",
        '{"Format": 2, "Mac": "0e:00:00:00:00:01", "MacV6": "0e:00:00:00:00:02"}',
        '{"Format": 1, "Mac": "0e:00:00:00:00:01"}',
        '{"Format": 1, "Mac": "01:00:00:00:00:01", "MacV6": "0e:00:00:00:00:02"}',
        '{"Format": 1, "Mac": 7, "MacV6": "0e:00:00:00:00:02"}',
    ],
)
def test_damaged_vtep_addresses_are_made_anew(tmp_path: Path, damaged: str) -> None:
    (tmp_path / f"{NAME}.json").write_text(damaged)
    with StateDir(tmp_path) as state_dir:
        made = vtep_macs(state_dir, counting())
        assert made == (make_mac(bytes([1] * 6)), make_mac(bytes([2] * 6)))
        assert vtep_macs(state_dir, counting()) == made


@given(st.binary(min_size=6, max_size=6))
def test_a_made_address_is_of_one_station_and_locally_administered(chance: bytes) -> None:
    first = int(make_mac(chance)[:2], 16)
    assert first & 0b11 == 0b10  # IEEE 802: bit 0 group, bit 1 local


def test_a_backend_is_told_where_the_host_is_and_what_it_publishes(tmp_path: Path) -> None:
    with StateDir(tmp_path) as state_dir:
        here = this_host(UNDERLAY, state_dir)
        assert (here.address, here.public_ip) == (UNDERLAY.address, UNDERLAY.public_ip)
        assert (here.address_v6, here.public_ipv6) == (UNDERLAY.address_v6, UNDERLAY.public_ipv6)
        assert here.underlay_mtu_bytes == 1500
        assert (here.mac, here.mac_v6) == vtep_macs(state_dir)

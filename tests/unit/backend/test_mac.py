"""Ethernet addresses as leases write them, and how one is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.backend.mac import make_mac, parse_mac


@pytest.mark.parametrize(
    "text", ["0e:2a:1b:3c:4d:5e", "0E:2A:1B:3C:4D:5E", "0e-2a-1b-3c-4d-5e", "0E-2a-1B-3c-4D-5e"]
)
def test_what_go_reads_is_read(text: str) -> None:
    assert parse_mac(text) == "0e:2a:1b:3c:4d:5e"


@pytest.mark.parametrize(
    "text",
    [
        "",
        None,
        7,
        b"0e:2a:1b:3c:4d:5e",
        "0e:2a:1b:3c:4d",
        "0e:2a:1b:3c:4d:5e:6f",
        "0e:2a-1b:3c-4d:5e",
        "0e:2a:1b:3c:4d:5g",
        "0e:2a:1b:3c:4d:5e\n",
        " 0e:2a:1b:3c:4d:5e",
        "٠e:2a:1b:3c:4d:5e",
    ],
)
def test_what_is_no_ethernet_address_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is no Ethernet address"):
        parse_mac(text)


@pytest.mark.parametrize("text", ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00"])
def test_address_of_many_or_of_nobody_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not the address of one station"):
        parse_mac(text)


@given(st.binary(min_size=6, max_size=6))
def test_made_address_is_locally_administered_and_of_one_station(chance: bytes) -> None:
    mac = make_mac(chance)
    assert parse_mac(mac) == mac
    first = int(mac[:2], 16)
    assert (first & 1, first & 2) == (0, 2)
    assert bytes.fromhex(mac.replace(":", ""))[1:] == chance[1:]


def test_too_little_chance_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 6"):
        make_mac(bytes(5))

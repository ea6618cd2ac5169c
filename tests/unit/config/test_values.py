"""What each kind of value takes and refuses."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.config import values
from tunneld.fib.state import FirewallMark

# Go's strconv.ParseBool takes these and no others.
GO_TRUE = ["1", "t", "T", "TRUE", "true", "True"]
GO_FALSE = ["0", "f", "F", "FALSE", "false", "False"]


def test_boolean_takes_gos_spellings() -> None:
    assert [values.boolean(text) for text in GO_TRUE + GO_FALSE] == [True] * 6 + [False] * 6


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("24h", 86400),
        ("90m", 5400),
        ("3600s", 3600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2500ms", 2.5),
        ("1h0m10s", 3610),
    ],
)
def test_duration_is_read_as_go_does(text: str, seconds: float) -> None:
    assert values.duration(1, 1e9)(text) == seconds


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (values.ipv4, "192.0.2.1", IPv4Address("192.0.2.1")),
        (values.ipv6, "2001:db8::1", IPv6Address("2001:db8::1")),
        (values.address, "2001:db8::1", IPv6Address("2001:db8::1")),
        (values.integer(0, 10), "010", 10),
        (values.path, "/a b", Path("/a b")),
        (values.mark, "0x100/0xf00", FirewallMark(value=0x100, mask=0xF00)),
        (values.mark, "1", FirewallMark(value=1, mask=0xFFFFFFFF)),
        (values.store, "etcd", ("etcd", "")),
        (values.store, "sqlite:/var/lib/x:y", ("sqlite", "/var/lib/x:y")),
        (values.endpoint, "http://192.0.2.1:2379/", "http://192.0.2.1:2379"),
        (values.endpoint, "https://[2001:db8::1]:2379", "https://[2001:db8::1]:2379"),
        (values.endpoint, "etcd.example:2379", "etcd.example:2379"),
        (values.regex, "^eth[0-9]{1,2}$", "^eth[0-9]{1,2}$"),
    ],
)
def test_value_is_read(read: Callable[[str], Any], text: str, expected: object) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (values.text, ""),
        (values.boolean, "yes"),
        (values.boolean, ""),
        (values.ipv4, "192.0.2"),
        (values.ipv4, "192.0.2.1/24"),
        (values.ipv4, "::1"),
        (values.ipv6, "192.0.2.1"),
        (values.address, "eth0"),
        (values.integer(1, 1439), "0"),
        (values.integer(1, 1439), "1440"),
        (values.integer(0, 10), " 1"),
        (values.integer(0, 10), "1_0"),
        (values.integer(0, 10), "-1"),
        (values.integer(0, 10), "٣"),
        (values.integer(0, 10), "1.0"),
        (values.mark, "0"),
        (values.mark, "x"),
        (values.mark, "1/"),
        (values.mark, "0x10/0xf"),
        (values.mark, "0x1ffffffff"),
        (values.duration(2, 1e6), "1s"),
        (values.duration(2, 1e6), "60"),
        (values.duration(2, 1e6), "24 h"),
        (values.duration(2, 1e6), "-24h"),
        (values.duration(2, 1e6), "1d"),
        (values.duration(2, 1e6), "999999999h"),
        (values.choice("a", "b"), "A"),
        (values.regex, "("),
        (values.regex, ""),
        (values.store, "sqlite"),
        (values.store, "sqlite:"),
        (values.store, "etcd:"),
        (values.store, "consul"),
        (values.endpoint, "ftp://192.0.2.1"),
        (values.endpoint, "http://"),
        (values.endpoint, "http://192.0.2.1:99999"),
        (values.endpoint, "http://192.0.2.1:2379/v3"),
        (values.endpoint, "http://192.0.2.1 :2379"),
        (values.endpoint, ""),
        (values.endpoint, "http://etcd..example:2379"),
        (values.endpoint, f"http://{'a' * 64}.example:2379"),
        (values.text, "a\0b"),
        (values.text, "\udcff"),
        (values.path, "/a\0b"),
        (values.path, ""),
        (values.ipv6, "fe80::1%eth0"),
        (values.ipv6, "::ffff:192.0.2.1"),
        (values.mark, "٣"),
        (values.mark, "1_0"),
        (values.mark, " 1"),
        (values.mark, "9" * 5_000),
        (values.duration(2, 1e6), "٣h"),
        (values.duration(2, 1e6), "9" * 5_000 + "h"),
        (values.regex, "a{99999999999999999999}"),
        (values.regex, "(" * 9_999),
    ],
)
def test_value_is_refused_with_what_was_expected(read: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        read(text)
    assert "\n" not in str(caught.value)


@given(
    hours=st.integers(0, 99),
    minutes=st.integers(0, 999),
    seconds=st.integers(2, 9999),
)
def test_duration_is_the_sum_of_its_parts(hours: int, minutes: int, seconds: int) -> None:
    text = f"{hours}h{minutes}m{seconds}s"
    assert values.duration(0, 1e9)(text) == hours * 3600 + minutes * 60 + seconds


@given(st.text())
def test_any_text_is_read_or_refused_with_a_value_error(text: str) -> None:
    for read in (
        values.boolean,
        values.address,
        values.integer(0, 9),
        values.duration(0, 9),
        values.regex,
        values.store,
        values.endpoint,
    ):
        try:
            read(text)
        except ValueError:
            continue

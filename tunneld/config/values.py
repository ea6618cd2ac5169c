"""Reads the text of one option's value: each function takes the text and returns the value.

Pure. They raise `ValueError` with what was expected; the caller knows where the text stood.

Source: Go `strconv.ParseBool` and `time.ParseDuration`, which flanneld's flags are read by.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tunneld.fib.state import FirewallMark
from tunneld.lease.model import IPNetwork

_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})

_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(?:[0-9]{1,15}(?:\.[0-9]{1,15})?(?:ms|s|m|h)){1,8}")
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_MARK: Final = re.compile(r"0[xX][0-9a-fA-F]{1,8}|0|[1-9][0-9]{0,9}")


def text(value: str) -> str:
    """Returns the text itself."""
    if not value:
        raise ValueError("a text that is not empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("a text in UTF-8") from None
    if "\0" in value:
        raise ValueError("a text without NUL")
    return value


def path(value: str) -> Path:
    """Returns a path: whatever the file system can hold, which need not be UTF-8."""
    if not value or "\0" in value:
        raise ValueError("a path that is not empty, and without NUL")
    return Path(value)


def boolean(value: str) -> bool:
    """Returns a truth value in any of Go's spellings."""
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ValueError("true or false")


def ipv4(value: str) -> IPv4Address:
    """Returns an IPv4 address."""
    try:
        return IPv4Address(value)
    except ValueError:
        raise ValueError("an IPv4 address, like 192.0.2.10") from None


def ipv6(value: str) -> IPv6Address:
    """Returns an IPv6 address."""
    try:
        found = IPv6Address(value)
    except ValueError:
        raise ValueError("an IPv6 address, like 2001:db8::10") from None
    if found.scope_id is not None or found.ipv4_mapped is not None:
        # No other host could use it, and no other node read it.
        raise ValueError("an IPv6 address that means the same on all hosts, like 2001:db8::10")
    return found


def address(value: str) -> IPv4Address | IPv6Address:
    """Returns an IP address of either family."""
    try:
        return ip_address(value)
    except ValueError:
        raise ValueError("an IP address, like 192.0.2.10") from None


def network(value: str) -> IPNetwork:
    """Returns a network, or one address as the network of it alone."""
    try:
        if "%" in value:
            raise ValueError
        return ip_network(value)
    except ValueError:
        raise ValueError("a network or an address, like 10.5.3.0/24") from None


def integer(low: int, high: int) -> Callable[[str], int]:
    """Returns a reader of whole numbers from `low` to `high`."""

    def read(value: str) -> int:
        # Stricter than int(): no blanks, no underscores, no other digits than ASCII's.
        if re.fullmatch(r"[0-9]{1,10}", value) and low <= int(value) <= high:
            return int(value)
        raise ValueError(f"a whole number from {low} to {high}")

    return read


def mark(value: str) -> FirewallMark:
    """Returns a firewall mark, `VALUE` or `VALUE/MASK`, decimal or hexadecimal, of 32 bits."""
    number, slash, mask = value.partition("/")
    try:
        if not _MARK.fullmatch(number) or (slash and not _MARK.fullmatch(mask)):
            raise ValueError
        found = FirewallMark(value=int(number, 0), mask=int(mask, 0) if slash else 0xFFFFFFFF)
    except ValueError:
        found = FirewallMark(value=-1)
    if not 0 < found.value <= found.mask <= 0xFFFFFFFF or found.value & ~found.mask:
        raise ValueError("a mark or mark/mask within 32 bits, like 0x100/0xf00")
    return found


def choice(*choices: str) -> Callable[[str], str]:
    """Returns a reader of one of a few words."""

    def read(value: str) -> str:
        if value in choices:
            return value
        raise ValueError(" or ".join(choices))

    return read


def duration(low_s: float, high_s: float) -> Callable[[str], float]:
    """Returns a reader of Go durations (`24h`, `1h30m`, `3600s`), in seconds."""
    expected = f"a duration like 24h, 90m or 3600s, from {low_s:g}s to {high_s / 3600:g}h"

    def read(value: str) -> float:
        if not _DURATION.fullmatch(value):
            raise ValueError(expected)
        parts = _DURATION_PART.findall(value)
        seconds = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
        if not low_s <= seconds <= high_s:
            raise ValueError(expected)
        return seconds

    return read


def regex(value: str) -> str:
    """Returns a regular expression, as text."""
    try:
        re.compile(text(value))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"a regular expression ({error})") from None
    return value


def store(value: str) -> tuple[str, str]:
    """Returns a store's kind and its file: `("etcd", "")` or `("sqlite", PATH)`."""
    kind, colon, file = value.partition(":")
    if value == "etcd" or (kind == "sqlite" and colon and file):
        return kind, file
    raise ValueError("etcd or sqlite:PATH")


def endpoint(value: str) -> str:
    """Returns an etcd endpoint, `http://host:port`, `https://host:port`, or `host:port`."""
    expected = "an etcd endpoint, like http://192.0.2.1:2379"
    candidate = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(candidate)
        # What resolvers do, with errors of their own.
        (parts.hostname or "").encode("idna")
        is_usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise ValueError(expected) from None
    if not is_usable or parts.scheme not in ("http", "https") or parts.path not in ("", "/"):
        raise ValueError(expected)
    if parts.query or parts.fragment or re.search(r"\s", value):
        raise ValueError(expected)
    return value.removesuffix("/")

"""Reads the options of a backend, the members of `Backend`, with their limits.

Path of a lease: `lease.network` -> **`backend.options`** -> the backends. Pure.

Source: flannel `pkg/backend/*` (members match in any case, unknown ones do not count).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from tunneld.backend.base import Family, SourceCheck
from tunneld.backend.families import MAX_OUTER_BYTES, MIN_MTU_BYTES
from tunneld.errors import NetworkConfigError
from tunneld.lease.gojson import dumps, member
from tunneld.lease.network import NetworkConfig

SOURCE_CHECKS: tuple[SourceCheck, ...] = ("strict", "loose", "off")

_Choice = TypeVar("_Choice", bound=str)


def is_given(config: NetworkConfig, name: str) -> bool:
    """Returns whether the option is there, and not null."""
    return member(config.backend, name) is not None


def whole_number(config: NetworkConfig, name: str, *, default: int, least: int, most: int) -> int:
    """Returns the option, or `default` when it is absent or null.

    Raises:
        NetworkConfigError: it is no whole number, or not within `least..most`.
    """
    value = member(config.backend, name)
    if value is None:
        return default
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise NetworkConfigError(
            f"Backend.{name} {dumps(value)}: expected a whole number from {least} to {most}; "
            f"correct it, or leave it out for {default}"
        )
    return int(value)


def outer_mtu(
    config: NetworkConfig, families: Collection[Family], overhead_bytes: Callable[[Family], int]
) -> int | None:
    """Returns `MTU`, the largest datagram with all its headers; None: as the interface has it.

    Raises:
        NetworkConfigError: it is out of its limits, or leaves no room for a packet.
    """
    mtu_bytes = whole_number(config, "MTU", default=0, least=0, most=MAX_OUTER_BYTES)
    overhead = max(map(overhead_bytes, families))
    least = max(MIN_MTU_BYTES[family] for family in families) + overhead
    if 0 < mtu_bytes < least:
        raise NetworkConfigError(
            f"Backend.MTU {mtu_bytes} leaves {max(mtu_bytes - overhead, 0)} bytes for a packet; "
            f"expected at least {least}; correct it, or leave it out for the interface's"
        )
    return mtu_bytes or None


def switch(config: NetworkConfig, name: str) -> bool:
    """Returns the option, or False when it is absent or null.

    Raises:
        NetworkConfigError: it is neither true nor false.
    """
    value = member(config.backend, name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise NetworkConfigError(
        f"Backend.{name} {dumps(value)}: expected true or false; "
        "correct it, or leave it out for false"
    )


def choice(
    config: NetworkConfig, name: str, *, default: _Choice, choices: tuple[_Choice, ...]
) -> _Choice:
    """Returns the option, written in any case, or `default` when it is absent or null.

    Raises:
        NetworkConfigError: it is none of `choices`.
    """
    value = member(config.backend, name)
    if value is None:
        return default
    for candidate in choices:
        if isinstance(value, str) and value.lower() == candidate:
            return candidate
    raise NetworkConfigError(
        f"Backend.{name} {dumps(value)}: expected one of {', '.join(choices)}; "
        f"correct it, or leave it out for {default}"
    )

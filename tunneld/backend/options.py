"""Reads the options of a backend, the members of `Backend`, with their limits.

Path of a lease: `lease.network` -> **`backend.options`** -> the backends. Pure.

Source: flannel `pkg/backend/*` (members match in any case, unknown ones do not count).
"""

from __future__ import annotations

from typing import TypeVar

from tunneld.backend.base import SourceCheck
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

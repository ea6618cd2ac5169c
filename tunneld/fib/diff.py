"""The difference between what must be and what is: the only source of commands to a host.

Path of a lease: `fib.compose` -> **`fib.diff`** -> `engine` | `host`. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from tunneld.fib.state import (
    Change,
    EngineChange,
    EngineState,
    HostChange,
    HostState,
    State,
)

_PLACES: dict[str, Callable[[Any], object]] = {
    "vxlan_devices": attrgetter("name"),
    "neighbours": attrgetter("device", "address"),
    "fdb": attrgetter("device", "mac"),
    "routes": attrgetter("destination", "metric"),
}
"""By what the kernel tells two of a kind apart."""


def difference(desired: State, actual: State) -> Change:
    """Returns the change that makes `actual` equal to `desired`; empty when they are equal."""
    return Change(
        engine=_engine(desired.engine, actual.engine), host=_host(desired.host, actual.host)
    )


def _engine(desired: EngineState, actual: EngineState) -> EngineChange:
    return EngineChange(
        settings=None if desired.settings == actual.settings else desired.settings,
        put_adjacencies={
            name: adjacency
            for name, adjacency in desired.adjacencies.items()
            if actual.adjacencies.get(name) != adjacency
        },
        drop_adjacencies=tuple(sorted(actual.adjacencies.keys() - desired.adjacencies.keys())),
        put_entries={
            prefix: target
            for prefix, target in desired.entries.items()
            if actual.entries.get(prefix) != target
        },
        drop_entries=tuple(sorted(actual.entries.keys() - desired.entries.keys(), key=str)),
    )


def _host(desired: HostState, actual: HostState) -> HostChange:
    sets = {}
    for kind, place in _PLACES.items():
        wanted, there = getattr(desired, kind), getattr(actual, kind)
        # What is put takes the place of what is there: that needs no removal of its own.
        taken = {place(item) for item in wanted}
        sets[f"put_{kind}"] = wanted - there
        sets[f"drop_{kind}"] = frozenset(item for item in there if place(item) not in taken)
    return HostChange(
        device=None if desired.device == actual.device else desired.device,
        firewall=None if desired.firewall == actual.firewall else desired.firewall,
        subnet_env=None if desired.subnet_env == actual.subnet_env else desired.subnet_env,
        **sets,
    )

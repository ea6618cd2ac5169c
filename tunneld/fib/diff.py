"""The difference between what must be and what is: the only source of commands to a host.

Path of a lease: `fib.compose` -> **`fib.diff`** -> `engine` | `host`. Pure.
One function for each executor, which alone knows what is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from typing import Any

from tunneld.fib.state import EngineChange, EngineState, HostChange, HostState, Route

_PLACES: dict[str, Callable[[Any], object]] = {
    "vxlan_devices": attrgetter("name"),
    "neighbours": attrgetter("device", "address"),
    "fdb": attrgetter("device", "mac"),
    "routes": attrgetter("destination", "metric"),
}
"""By what the kernel tells two of a kind apart."""


def engine_difference(desired: EngineState, actual: EngineState) -> EngineChange:
    """Returns the change that makes `actual` equal to `desired`; empty when they are equal."""
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
        put_identities={
            key: identity
            for key, identity in desired.identities.items()
            if actual.identities.get(key) != identity
        },
        drop_identities=tuple(sorted(actual.identities.keys() - desired.identities.keys())),
    )


def engine_after(state: EngineState, change: EngineChange) -> EngineState:
    """Returns what an engine holds that held `state` and has carried out `change`."""
    adjacencies = {**state.adjacencies, **change.put_adjacencies}
    entries = {**state.entries, **change.put_entries}
    identities = {**state.identities, **change.put_identities}
    for name in change.drop_adjacencies:
        adjacencies.pop(name, None)
    for prefix in change.drop_entries:
        entries.pop(prefix, None)
    for key in change.drop_identities:
        identities.pop(key, None)
    return replace(
        state,
        settings=change.settings or state.settings,
        adjacencies=adjacencies,
        entries=entries,
        identities=identities,
    )


def host_difference(desired: HostState, actual: HostState) -> HostChange:
    """Returns the change that makes `actual` equal to `desired`; empty when they are equal."""
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


def routes_after(routes: frozenset[Route], change: HostChange) -> frozenset[Route]:
    """Returns the routes of a host that had `routes` and has carried out `change`."""
    place = _PLACES["routes"]
    taken = {place(route) for route in change.put_routes}
    kept = (route for route in routes - change.drop_routes if place(route) not in taken)
    return change.put_routes.union(kept)

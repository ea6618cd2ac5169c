"""The difference between what must be and what is: the only source of commands to a host.

Path of a lease: `fib.compose` -> **`fib.diff`** -> `engine` | `host`. Pure.
"""

from __future__ import annotations

from tunneld.fib.state import (
    Change,
    EngineChange,
    EngineState,
    HostChange,
    HostState,
    State,
)


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
        drop_entries=tuple(sorted(actual.entries.keys() - desired.entries.keys())),
    )


def _host(desired: HostState, actual: HostState) -> HostChange:
    return HostChange(
        device=None if desired.device == actual.device else desired.device,
        drop_routes=actual.routes - desired.routes,
        put_routes=desired.routes - actual.routes,
        firewall=None if desired.firewall == actual.firewall else desired.firewall,
        subnet_env=None if desired.subnet_env == actual.subnet_env else desired.subnet_env,
    )

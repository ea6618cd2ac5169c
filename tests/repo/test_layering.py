"""Imports run one way, and what decides stays free of I/O and clocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.repo.source import files, imports, module_name, relative

# A room may import rooms of lower rank only; rooms of equal rank do not know each other.
RANK = {
    "errors": 0,
    "stderr": 0,
    "log": 1,
    "lease": 2,
    "store": 3,
    "trust": 3,
    "peer": 4,
    "backend": 5,
    "fib": 6,
    "engine": 7,
    "host": 7,
    "config": 8,
    "control": 8,
    "docker": 9,
    "daemon": 9,
    "lab": 10,
    "cli": 11,
    "__main__": 12,
}

PURE = (
    "tunneld.lease.model",
    "tunneld.lease.network",
    "tunneld.lease.gojson",
    "tunneld.lease.ranges",
    "tunneld.lease.allocation",
    "tunneld.lease.tracker",
    "tunneld.lease.selection",
    "tunneld.lease.coexistence",
    "tunneld.lease.doubles",
    "tunneld.lease.kinship",
    "tunneld.lease.ownership",
    "tunneld.lease.life",
    "tunneld.peer",
    "tunneld.backend",
    "tunneld.fib",
    "tunneld.store.format",
    "tunneld.trust.bindings",
    "tunneld.trust.decision",
    "tunneld.trust.identities",
    "tunneld.trust.key",
    "tunneld.trust.memory",
    "tunneld.trust.policy",
    "tunneld.lab.topology",
    "tunneld.lab.drawing",
)

EFFECTS = {"asyncio", "os", "random", "select", "socket", "subprocess", "threading", "time"}

PACKAGE = files(".py", under="tunneld")


def room(dotted: str) -> str:
    return dotted.split(".")[1]


def is_pure(dotted: str) -> bool:
    return any(dotted == name or dotted.startswith(f"{name}.") for name in PURE)


def own_imports(path: Path) -> set[str]:
    return {name for name in imports(path) if name.startswith("tunneld.")}


def test_every_room_has_a_rank() -> None:
    rooms = {room(module_name(path)) for path in PACKAGE if module_name(path) != "tunneld"}
    assert rooms <= RANK.keys()


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_a_room_imports_only_rooms_to_its_left(path: Path) -> None:
    name = module_name(path)
    if name == "tunneld":
        assert not own_imports(path)
        return
    here = room(name)
    wrong = {
        other
        for other in own_imports(path)
        if room(other) not in (here, "_native") and RANK[room(other)] >= RANK[here]
    }
    assert not wrong


def test_only_the_engine_and_the_secrets_know_the_native_module() -> None:
    users = {module_name(path) for path in PACKAGE if "tunneld._native" in own_imports(path)}
    assert users == {"tunneld.engine", "tunneld.trust.secrets"}


def test_the_lease_room_knows_no_store() -> None:
    for path in PACKAGE:
        if room_of(path) == "lease":
            assert not [name for name in imports(path) if name.startswith("tunneld.store")]


def room_of(path: Path) -> str | None:
    name = module_name(path)
    return None if name == "tunneld" else room(name)


@pytest.mark.parametrize("path", [p for p in PACKAGE if is_pure(module_name(p))], ids=relative)
def test_a_pure_module_imports_no_effect_and_no_impure_module(path: Path) -> None:
    found = imports(path)
    assert not {name.split(".")[0] for name in found} & EFFECTS
    allowed = {"tunneld.errors", "tunneld.lease", "tunneld.lease.registry", "tunneld.store"}
    allowed |= {"tunneld.trust"}
    assert not [name for name in own_imports(path) if not is_pure(name) and name not in allowed]


def test_every_pure_module_is_there() -> None:
    there = {module_name(path) for path in PACKAGE}
    assert set(PURE) <= there

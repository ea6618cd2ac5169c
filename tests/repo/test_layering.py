"""Imports run one way, and what decides stays free of I/O and clocks."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.repo.circles import circles
from tests.repo.source import files, imports, module_name, relative

# A room may import rooms of lower rank only; rooms of equal rank do not know each other.
RANK = {
    "clock": 0,
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
    "bench": 11,
    "cli": 12,
    "__main__": 13,
}

# The folders with Python code, and the folders each may import besides itself. The product knows
# nothing of what is around it; the test bed serves tests and benchmarks, and knows neither.
FOLDERS = {
    "tunneld": set[str](),
    "testbed": {"tunneld"},
    "bench": {"tunneld", "testbed"},
    "tests": {"tunneld", "testbed", "bench"},
}

# The word in a module's docstring is what puts the module under the rules for pure ones.
_WORD = re.compile(r"\bPure\b")

# Every module of these rooms is pure.
PURE_ROOMS = {"backend", "fib", "peer"}

EFFECTS = {
    "asyncio", "concurrent", "ctypes", "fcntl", "logging", "multiprocessing", "mmap", "os",
    "pyroute2", "random", "resource", "secrets", "select", "selectors", "shutil", "signal",
    "socket", "sqlite3", "subprocess", "tempfile", "threading", "time", "uvloop",
}  # fmt: skip

# Of those, what has no effect. Names in capitals are constants.
HARMLESS = {"os.strerror", "socket.gaierror"}

# Calls with an effect that need no import, or one of a module that is fine otherwise.
CALLS = {
    "open", "print", "input", "now", "utcnow", "today", "uuid4", "exists", "stat", "iterdir",
    "mkdir", "unlink", "read_text", "write_text", "read_bytes", "write_bytes",
}  # fmt: skip

PACKAGE = files(".py", under="tunneld")


def room(dotted: str) -> str:
    return dotted.split(".")[1]


def is_pure(path: Path) -> bool:
    return bool(_WORD.search(ast.get_docstring(ast.parse(path.read_text())) or ""))


def own_imports(path: Path) -> set[str]:
    return {name for name in imports(path) if name.startswith("tunneld.")}


def test_every_room_has_a_rank() -> None:
    rooms = {room(module_name(path)) for path in PACKAGE if module_name(path) != "tunneld"}
    assert rooms <= RANK.keys()


def test_a_room_imports_only_rooms_to_its_left() -> None:
    wrong = [
        f"{relative(path)}: {other}"
        for path in PACKAGE
        for here in [room_of(path)]
        for other in own_imports(path)
        if here is None
        or (room(other) not in (here, "_native") and RANK[room(other)] >= RANK[here])
    ]
    assert not wrong


def test_every_folder_with_code_has_its_place() -> None:
    assert {module_name(path).split(".")[0] for path in files(".py")} == FOLDERS.keys()


def test_a_folder_imports_only_those_below_it() -> None:
    wrong = {
        f"{relative(path)}: {name}"
        for path in files(".py")
        for here in [module_name(path).split(".")[0]]
        for name in imports(path)
        if name.split(".")[0] in FOLDERS.keys() - {here} - FOLDERS[here]
        or (name.split(".")[0] in {"pytest", "hypothesis"} and here != "tests")
    }
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    used = {module_name(path): imports(path) for path in files(".py")}
    assert circles({name: set(found & used.keys()) - {name} for name, found in used.items()}) == []


def test_only_the_engine_the_secrets_and_the_bench_know_the_native_module() -> None:
    users = {module_name(path) for path in PACKAGE if "tunneld._native" in own_imports(path)}
    assert users == {"tunneld.engine", "tunneld.trust.secrets", "tunneld.bench.native"}


def test_the_lease_room_knows_no_store() -> None:
    for path in PACKAGE:
        if room_of(path) == "lease":
            assert not [name for name in imports(path) if name.startswith("tunneld.store")]


def room_of(path: Path) -> str | None:
    name = module_name(path)
    return None if name == "tunneld" else room(name)


PURE = tuple(path for path in PACKAGE if is_pure(path))


def test_a_pure_module_has_no_effect_and_imports_no_impure_module() -> None:
    pure = {module_name(path) for path in PURE}
    assert not {relative(path): found for path in PURE if (found := effects(path))}
    assert not {relative(path): found for path in PURE if (found := own_imports(path) - pure)}


def test_every_module_of_a_pure_room_says_that_it_is() -> None:
    said = {path for path in PACKAGE if room_of(path) in PURE_ROOMS} - set(PURE)
    assert not sorted(map(relative, said))


def effects(path: Path) -> set[str]:
    """Returns the names that a module uses of modules with effects, and its calls with one."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                found.update(f"{module}.{alias.name}" for alias in names)
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                found.add(f"{name}.{attribute}")
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in CALLS:
                found.add(f"{name}()")
    return {
        name
        for name in found - HARMLESS
        if name.endswith("()")
        or (name.split(".")[0] in EFFECTS and not name.split(".")[-1].isupper())
    }

"""`tunneld lab exec`: which words belong to the lab, and which to the command it runs."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from tests.unit.cli.conftest import Tunneld
from tunneld.lab import build, namespaces


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Every command that took the place of this process, as (lab, place, *argv)."""
    found: list[tuple[str, ...]] = []

    def inside(namespace: str, *argv: str) -> Sequence[str]:
        return (namespace, *argv)

    def find(name: str) -> SimpleNamespace:
        return SimpleNamespace(namespace_of=lambda place: f"{name}/{place}")

    monkeypatch.setattr(build, "require_rights", lambda: None)
    monkeypatch.setattr(build, "find", find)
    monkeypatch.setattr(namespaces, "inside", inside)

    def execvp(program: str, argv: Sequence[str]) -> None:
        found.append(tuple(argv))
        raise SystemExit(0)  # a process that is replaced does not come back

    monkeypatch.setattr("os.execvp", execvp)
    return found


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("h1 -- ping -c 1 10.5.7.2", "lab/h1 ping -c 1 10.5.7.2"),
        ("h1 ls -l", "lab/h1 ls -l"),
        ("--name two h1 -- ls --name three", "two/h1 ls --name three"),
        ("-name=two h1-c ls --help", "two/h1-c ls --help"),
        ("h1 -- sh -c true -- x", "lab/h1 sh -c true -- x"),
        ("h1 -- -x", "lab/h1 -x"),
        ("h1 -- --name two", "lab/h1 --name two"),
        ("h1", "lab/h1 sh"),
        ("h1 --", "lab/h1 sh"),
    ],
)
def test_the_command_gets_all_its_own_words(
    tunneld: Tunneld, started: list[tuple[str, ...]], words: str, expected: str
) -> None:
    with pytest.raises(SystemExit):
        tunneld("lab", "exec", *words.split())
    assert started == [tuple(expected.split())]


@pytest.mark.parametrize("late", ["--name", "-name=two", "--help", "--nme", "-v"])
def test_an_option_after_the_place_is_refused_with_where_it_belongs(
    tunneld: Tunneld, started: list[tuple[str, ...]], late: str
) -> None:
    outcome = tunneld("lab", "exec", "h1", late, "--", "ls")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith(f"tunneld: {late} stands after h1; expected ")
    assert "tunneld lab exec [--name NAME] h1 -- COMMAND" in outcome.err
    assert outcome.err.count("\n") == 1
    assert started == []

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from testbed.netns import Namespace
from tests.unit.host.conftest import eventually, refusal, run_inside, without
from tunneld.host.xtables_lock import XtablesLock, lock_file

pytestmark = pytest.mark.root


async def settled() -> None:
    """Lets the loop see everything that has happened in the file system by now."""
    for _ in range(20):
        await asyncio.sleep(0.005)


def watching(
    space: Namespace, path: Path, work: Callable[[list[int]], Coroutine[Any, Any, None]]
) -> None:
    """Runs `work` on the loop while runs are counted: one item in the list for each report."""

    async def main() -> None:
        reports: list[int] = []
        lock = XtablesLock(lambda: reports.append(1), path)
        try:
            await work(reports)
        finally:
            lock.close()

    run_inside(space, main)


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock file of the test's own, which is not there yet."""
    path = tmp_path / "xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(path))
    return path


def test_lock_file_is_where_iptables_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XTABLES_LOCKFILE", raising=False)
    assert lock_file() == Path("/run/xtables.lock")
    monkeypatch.setenv("XTABLES_LOCKFILE", "/run/other")
    assert lock_file() == Path("/run/other")


def test_every_change_by_iptables_legacy_is_reported(space: Namespace, lock: Path) -> None:
    async def work(reports: list[int]) -> None:
        for command in ("iptables-legacy -P FORWARD DROP", "iptables-legacy -F"):
            reports.clear()
            space.run(*command.split())
            await eventually(lambda: reports, f"a report of {command}")
        reports.clear()
        space.run("iptables-legacy-restore", "--noflush", stdin="*filter\n:X - [0:0]\nCOMMIT\n")
        await eventually(lambda: reports, "a report of iptables-legacy-restore")

    watching(space, lock, work)


def test_our_own_looking_is_not_reported(space: Namespace, lock: Path) -> None:
    space.run("iptables-legacy", "-P", "FORWARD", "DROP")

    async def work(reports: list[int]) -> None:
        space.run("iptables-legacy-save")
        space.run("iptables-nft", "-P", "FORWARD", "DROP")
        await settled()
        assert reports == []

    watching(space, lock, work)


def test_lock_file_that_somebody_replaced_is_watched_anew(space: Namespace, lock: Path) -> None:
    space.run("iptables-legacy", "-P", "FORWARD", "DROP")

    async def work(reports: list[int]) -> None:
        os.unlink(lock)
        await settled()
        space.run("iptables-legacy", "-F")
        await eventually(lambda: reports, "a report of the run that made the file")
        await settled()
        reports.clear()
        space.run("iptables-legacy", "-F")
        await eventually(lambda: reports, "a report of the next run")

    watching(space, lock, work)


def test_user_who_may_not_see_the_lock_is_told_and_goes_on(lock: Path) -> None:
    lock.touch(mode=0o600)
    os.chown(lock, 65534, 65534)
    code = (
        "import logging, sys; logging.basicConfig(stream=sys.stdout); from pathlib import Path; "
        "from tunneld.host.xtables_lock import XtablesLock; "
        f"XtablesLock(print, Path({str(lock)!r})).close()"
    )
    said = refusal(code, *without("dac_override", "dac_read_search"))
    warning, end = said.splitlines()
    assert "this user may neither see nor change its rules" in warning
    assert end == "done"

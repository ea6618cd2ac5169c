from __future__ import annotations

import logging
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.wait import PATIENCE
from tests.unit.host.conftest import REPOSITORY
from tunneld.errors import HostError, StateDirInUseError
from tunneld.host.state_dir import StateDir

HOLD = (
    "import pathlib, sys, time\n"
    "from tunneld.host.state_dir import StateDir\n"
    "held = StateDir(pathlib.Path(sys.argv[1]))\n"
    "print(held.node_id, flush=True)\n"
    "sys.stdin.read()\n"
)


def hold(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


def test_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "lib" / "tunneld"
    with StateDir(path) as state:
        node_id = state.node_id
        state.save("lease", {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert re.fullmatch(r"[0-9a-f]{32}", node_id)
    assert sorted(entry.name for entry in path.iterdir()) == ["lease.json", "lock", "node-id"]
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in path.iterdir()} == {0o600}


def test_node_id_is_made_once_and_differs_between_nodes(tmp_path: Path) -> None:
    with StateDir(tmp_path / "a") as one, StateDir(tmp_path / "b") as other:
        first = one.node_id
        assert one.node_id == first
        assert other.node_id != first
    with StateDir(tmp_path / "a") as again:
        assert again.node_id == first


def test_damaged_node_id_is_not_replaced_silently(tmp_path: Path) -> None:
    (tmp_path / "node-id").write_text("0123")
    with StateDir(tmp_path) as state, pytest.raises(HostError, match="holds '0123'; expected 32"):
        state.node_id  # noqa: B018 - reading it is the call


def test_second_process_is_refused_and_told_the_pid_of_the_first(tmp_path: Path) -> None:
    with hold(tmp_path) as first:
        assert first.stdout is not None
        assert first.stdout.readline()
        with pytest.raises(StateDirInUseError, match=rf"in use by process {first.pid};"):
            StateDir(tmp_path)
        first.send_signal(signal.SIGKILL)
        first.wait(10 * PATIENCE)
    with StateDir(tmp_path) as state:
        with pytest.raises(StateDirInUseError):
            StateDir(tmp_path)
        state.close()
        StateDir(tmp_path).close()


def test_saved_object_is_loaded_again_and_replaced_as_a_whole(tmp_path: Path) -> None:
    value = {"subnet": "10.5.1.0/24", "peers": [1, None, "é"]}
    with StateDir(tmp_path) as state:
        assert state.load("lease-cache") is None
        state.save("lease-cache", {"a": 1, "b": 2})
        state.save("lease-cache", value)
    with StateDir(tmp_path) as state:
        assert state.load("lease-cache") == value


def test_object_that_is_no_json_leaves_the_old_one_in_place(tmp_path: Path) -> None:
    with StateDir(tmp_path) as state:
        state.save("lease", 1)
        with pytest.raises(TypeError):
            state.save("lease", object())
        assert state.load("lease") == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["lease.json", "lock"]


def test_damaged_cache_counts_as_none_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lease.json").write_text('{"subnet": ')
    with StateDir(tmp_path) as state, caplog.at_level(logging.WARNING, logger="tunneld"):
        assert state.load("lease") is None
    assert [record.message for record in caplog.records] == ["a damaged cache is ignored"]


@pytest.mark.parametrize("name", ["", "../lease", "Lease", "a/b", ".lease"])
def test_cache_name_cannot_leave_the_directory(tmp_path: Path, name: str) -> None:
    with StateDir(tmp_path) as state, pytest.raises(ValueError, match="cache name"):
        state.save(name, 1)


def test_place_that_cannot_be_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"cannot use .*/file.*--state-dir"):
        StateDir(tmp_path / "file")

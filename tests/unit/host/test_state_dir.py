from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.wait import PATIENCE
from tests.unit.host.conftest import REPOSITORY
from tunneld.errors import StateDirInUseError
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


@pytest.mark.parametrize("content", [b"", b"0123\n", b"\x00" * 33, b"\xff" * 32])
def test_damaged_node_id_is_replaced_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "node-id").write_bytes(content)
    with StateDir(tmp_path) as state, caplog.at_level(logging.WARNING, logger="tunneld"):
        node_id = state.node_id
    assert [record.message for record in caplog.records] == [
        "the node id is damaged; this host gets a new one"
    ]
    with StateDir(tmp_path) as again:
        assert again.node_id == node_id


def test_host_that_becomes_a_new_node_stays_that_node(tmp_path: Path) -> None:
    with StateDir(tmp_path) as state:
        former, renewed = state.node_id, state.renew_node_id()
        assert state.node_id == renewed != former
    with StateDir(tmp_path) as again:
        assert again.node_id == renewed


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


@pytest.mark.parametrize(
    "make",
    [
        lambda file: file.write_text('{"subnet": '),
        lambda file: file.write_text("[" * 100_000),
        lambda file: file.write_text("9" * 5_000),
        lambda file: file.write_bytes(b"\xef\xbb\xbf{}"),
        lambda file: file.write_bytes(b"\x00" * 100),
        lambda file: file.mkdir(),
        os.mkfifo,
        lambda file: file.symlink_to("/dev/zero"),
        lambda file: file.symlink_to(file.name),
    ],
    ids=["cut", "deep", "huge number", "BOM", "zeros", "directory", "FIFO", "endless", "loop"],
)
def test_damaged_cache_counts_as_none_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "lease.json")
    with StateDir(tmp_path) as state, caplog.at_level(logging.WARNING, logger="tunneld"):
        assert state.load("lease") is None
    assert [record.message for record in caplog.records] == ["a damaged cache is ignored"]


@pytest.mark.parametrize("name", ["", "../lease", "Lease", "a/b", ".lease"])
def test_cache_name_cannot_leave_the_directory(tmp_path: Path, name: str) -> None:
    with StateDir(tmp_path) as state, pytest.raises(ValueError, match="cache name"):
        state.save(name, 1)


def test_place_that_cannot_be_a_directory_is_a_problem_and_not_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with StateDir(tmp_path / "file") as state:
        node_id = state.node_id
        state.save("lease", {"a": 1})
        assert (state.node_id, state.load("lease")) == (node_id, {"a": 1})
        assert state.problem is not None
        assert re.search(r"cannot (use|write) .*/file.*--state-dir", state.problem)
    assert [record.message for record in caplog.records] == [
        "the state directory cannot be written; going on without it"
    ]


def test_directory_that_comes_later_is_taken_and_locked(tmp_path: Path) -> None:
    (tmp_path / "lib").write_text("")
    path = tmp_path / "lib" / "tunneld"
    with StateDir(path) as state:
        node_id = state.node_id
        (tmp_path / "lib").unlink()
        (tmp_path / "lib").mkdir()
        state.retry()
        assert state.problem is None
        with pytest.raises(StateDirInUseError):
            StateDir(path)
    with StateDir(path) as again:
        assert again.node_id == node_id


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "junk").open("wb", buffering=0) as file:
        while True:
            file.write(b"\x00" * 4096)


def test_full_disk_is_a_problem_until_there_is_room_again(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with StateDir(small_disk / "state") as state:
        node_id = state.node_id
        state.save("lease", 1)
    fill(small_disk)
    with StateDir(small_disk / "state") as state, caplog.at_level(logging.INFO, "tunneld"):
        assert state.node_id == node_id
        assert state.problem is None
        state.save("lease", 2)
        assert "No space left on device" in (state.problem or "")
        assert state.load("lease") == 2
        with pytest.raises(StateDirInUseError, match="in use by process"):
            StateDir(small_disk / "state")
        (small_disk / "junk").unlink()
        state.retry()
        assert state.problem is None
    assert [record.message for record in caplog.records] == [
        "the state directory cannot be written; going on without it",
        "the state directory is written again",
    ]
    with StateDir(small_disk / "state") as again:
        assert again.load("lease") == 2


def test_read_only_disk_is_a_problem_and_still_locked(small_disk: Path) -> None:
    path = small_disk / "state"
    with StateDir(path) as state:
        node_id = state.node_id
    (path / "lock").unlink()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with StateDir(path) as state:
        assert state.node_id == node_id
        state.save("lease", 2)
        assert "Read-only file system" in (state.problem or "")
        with pytest.raises(StateDirInUseError):
            StateDir(path)

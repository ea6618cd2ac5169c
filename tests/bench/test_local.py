"""`tunneld bench local` and `crypto` as a user starts them: figures, absent peers, early ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from testbed.netns import run
from testbed.wait import wait_until
from tests.bench.hosts import TIMEOUT_S, TUNNELD, environment
from tunneld.bench.local import pair
from tunneld.bench.local.peers import PEERS

NAME = f"t{os.getpid()}"
PREFIX = f"tnb-{NAME}-"
LOCAL = (*TUNNELD, "bench", "local", "--name", NAME, "--underlays", "wire", "--seconds", "0.1")


@pytest.fixture(autouse=True)
def nothing_left(root_tools: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails where a bench leaves something, and takes it away."""
    yield
    left = [line for line in run("ip", "netns", "list").splitlines() if line.startswith(PREFIX)]
    monkeypatch.setattr(pair, "PREFIX", PREFIX)
    pair.remove_all()
    assert left == []


def bench(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment()
    )


def test_plain_and_encrypted_paths_are_measured_and_compared(tmp_path: Path) -> None:
    paths = ("no tunnel", "raw", "esp aes-128-gcm")
    done = bench(
        *(*LOCAL, "--paths", *paths, "--figures", "tcp", "udp", "idle", "--rounds", "1"),
        *("--sizes", "64", "IMIX", "--streams", "2", "--report", str(tmp_path), "--peers"),
        *(word for name in PEERS for word in ("--peer-path", f"{name}={tmp_path / 'absent'}")),
        *("--offloads", "off"),
    )
    assert done.returncode == 0, done.stderr
    value = json.loads((tmp_path / "bench.json").read_text())
    assert value["complete"]
    by_metric = {
        (r["metric"], r["case"]["subject"], r["case"].get("size", "")): r for r in value["results"]
    }
    for path in paths:
        assert by_metric["tcp-rate", path, ""]["median"] > 0
        assert by_metric["udp-packets", path, "IMIX"]["median"] > 0
        assert by_metric["idle-p50", path, ""]["median"] > 0
    # Only what has processes has a tunnel whose CPU can be told.
    assert ("tcp-tunnel-cpu", "raw", "") in by_metric
    assert ("tcp-tunnel-cpu", "no tunnel", "") not in by_metric
    assert by_metric["tcp-rate", "esp aes-128-gcm", ""]["ratio"]["to"] == "raw"
    assert by_metric["tcp-rate", "raw", ""]["case"]["offloads"] == "off"
    # What is absent is named, in the table and on the page.
    for said in (done.stdout, (tmp_path / "index.html").read_text()):
        for name in PEERS:
            assert f"peer absent: {name}: {tmp_path / 'absent'} is not there" in said


def started(argv: Sequence[str], report: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*argv, "--report", str(report)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def test_ctrl_c_keeps_what_was_measured_and_leaves_nothing(tmp_path: Path) -> None:
    argv = (*LOCAL, "--paths", "no tunnel", "--figures", "idle", "--rounds", "500")
    raw = tmp_path / "bench.json"
    with started(argv, tmp_path) as process:
        wait_until(raw.exists, TIMEOUT_S, "the first round being kept")
        process.send_signal(signal.SIGINT)
        out, heard = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert "Traceback" not in heard
    assert heard.count("interrupted") == 1
    value = json.loads(raw.read_text())
    assert value["samples"]
    assert not value["complete"]
    assert "It was ended early" in out
    assert "It was ended early" in (tmp_path / "index.html").read_text()


def test_while_it_is_built_ctrl_c_leaves_nothing_too(tmp_path: Path) -> None:
    argv = (*LOCAL, "--paths", "raw", "--figures", "idle", "--rounds", "1")
    with started(argv, tmp_path) as process:
        wait_until(lambda: PREFIX in run("ip", "netns", "list"), TIMEOUT_S, "the first namespace")
        process.send_signal(signal.SIGTERM)
        _, heard = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 143
    assert "Traceback" not in heard


def test_a_full_disk_is_one_line_and_the_table_is_still_printed(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(full))
    try:
        done = bench(
            *(*TUNNELD, "bench", "crypto", "--rounds", "1", "--seconds", "0.001"),
            *("--sizes", "64", "--report", str(full / "out")),
        )
        left = sorted(path.name for path in (full / "out").iterdir())
    finally:
        run("umount", str(full))
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("tunneld: ")]
    assert line.startswith(f"tunneld: bench: cannot write {full}/out/bench.json: No space left")
    assert "aes-256-gcm, seal, size 64" in done.stdout
    assert left == [], "no half of a file stays"


def test_a_burner_next_to_it_marks_the_rounds_and_they_cannot_be_compared(tmp_path: Path) -> None:
    argv = (*TUNNELD, "bench", "crypto", "--rounds", "3", "--seconds", "0.05", "--sizes", "1438")
    burner = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2)]
    try:
        done = bench(*argv, "--report", str(tmp_path / "loud"))
    finally:
        for process in burner:
            process.kill()
            process.wait()
    assert done.returncode == 0, done.stderr
    value = json.loads((tmp_path / "loud/bench.json").read_text())
    assert value["noise"]["marked"] > 0
    assert "other programs took CPU" in value["noise"]["why"]
    assert "samples are marked: other programs took CPU" in done.stdout
    loud = str(tmp_path / "loud/bench.json")
    said = bench(*TUNNELD, "bench", "--compare", loud, loud)
    assert said.returncode == 0
    assert "cannot be compared" in said.stdout


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("local", "--sizes", "12"), "expected a UDP payload from 16 to 65507 bytes, or IMIX"),
        (("local", "--rounds", "0"), "expected a number from 1 to 1000"),
        (("local", "--paths", "wireguard"), "invalid choice: 'wireguard'"),
        (("local", "--peer-path", "boringtun=/x"), "expected NAME=PATH with a name of"),
        (("crypto", "--seconds", "nan"), "expected seconds from 0.001 to 60"),
        (("run",), "the following arguments are required: HOST"),
        (("serve", "--port", "70000"), "expected a port from 0 to 65535"),
        ((), "a command is missing: expected one of crypto, local, serve, run"),
    ],
)
def test_a_wrong_command_line_is_one_line(argv: tuple[str, ...], expected: str) -> None:
    done = bench(*TUNNELD, "bench", *argv)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert expected in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "No such file or directory"),
        ("{", "no JSON"),
        ("[]", "no figures of tunneld bench"),
        ('{"format": 99, "results": []}', "format 99"),
        ('{"format": 1, "results": [{}]}', "results that cannot be read"),
    ],
)
def test_a_file_that_cannot_be_compared_is_one_line(
    tmp_path: Path, text: str | None, expected: str
) -> None:
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    done = bench(*TUNNELD, "bench", "--compare", str(path), str(path))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"tunneld: {path}: ")
    assert expected in line

"""CPU time is counted where it was spent: threads, children, other programs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench.lab import cpu

NOBODY = -1
BURN_S = 0.4
BURN = f"""
import threading, time
def burn():
    while time.thread_time() < {BURN_S / 2}:
        pass
threads = [threading.Thread(target=burn) for _ in range(2)]
input()
for thread in threads: thread.start()
for thread in threads: thread.join()
print("done", flush=True)
input()
"""


@pytest.fixture
def burner() -> Iterator[subprocess.Popen[str]]:
    """Burns CPU in two threads after a line, says so, and stays until another."""
    process = subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def burn(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def test_a_tunnels_time_is_that_of_all_its_threads(burner: subprocess.Popen[str]) -> None:
    before = cpu.read([burner.pid])
    burn(burner)
    usage = cpu.between(before, cpu.read([burner.pid]))
    assert BURN_S <= usage.tunnel_cpu_s + 0.02 <= 2 * BURN_S


def test_what_we_started_ourselves_is_not_foreign(burner: subprocess.Popen[str]) -> None:
    before = cpu.read(())
    burn(burner)
    after = cpu.read(())
    assert after.busy_s + after.steal_s - before.busy_s - before.steal_s >= BURN_S - 0.05
    # From one look: what else the machine has to do meanwhile makes no difference.
    stats = dict(cpu.all_stats())
    others, everybody = (cpu.foreign_ticks(stats, pid) for pid in (os.getpid(), NOBODY))
    assert everybody - others >= (BURN_S - 0.05) * os.sysconf("SC_CLK_TCK")


def stat(parent: int, own: int, children: int = 0) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, ppid, 9 others, four times."""
    return ["S", str(parent), *(["0"] * 9), str(own), "0", str(children), "0", "20"]


def test_foreign_is_what_neither_we_nor_the_kernels_threads_did() -> None:
    stats = {
        1: stat(0, own=1, children=2),
        2: stat(0, own=10),
        3: stat(2, own=20),
        100: stat(1, own=40),
        101: stat(100, own=80),
        102: stat(101, own=160),
        200: stat(1, own=320, children=640),
    }
    assert cpu.foreign_ticks(stats, own_pid=100) == 1 + 2 + 320 + 640


def test_a_machine_that_nobody_waits_for_is_quiet_at_once() -> None:
    assert cpu.became_quiet(0)

"""CPU time is counted where it was spent: threads, children, other programs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from testbed.wait import wait_until
from tunneld.bench import cpu

NOBODY = -1
BURN_S = 0.4
BURN = f"""
import sys, threading, time
def burn():
    while time.thread_time() < {BURN_S / 2}:
        pass
for _ in sys.stdin:
    before_s = time.process_time()
    threads = [threading.Thread(target=burn) for _ in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(time.process_time() - before_s, flush=True)
"""


@pytest.fixture
def burner() -> Iterator[subprocess.Popen[str]]:
    """Burns CPU in two threads after each line, and says how much it was."""
    process = subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def burn(process: subprocess.Popen[str]) -> float:
    """Returns the CPU seconds of the whole process: more than asked for, if it was held up."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def test_a_tunnels_time_is_that_of_all_its_threads(burner: subprocess.Popen[str]) -> None:
    before = cpu.read([burner.pid])
    burnt_s = burn(burner)
    usage = cpu.between(before, cpu.read([burner.pid]))
    assert burnt_s >= BURN_S
    # Beside it there is the reading of the line, and what the kernel counts whole ticks of.
    assert burnt_s - 0.02 <= usage.tunnel_cpu_s <= burnt_s + BURN_S


def test_what_we_started_ourselves_is_not_foreign(burner: subprocess.Popen[str]) -> None:
    before = cpu.read(())

    def is_counted() -> bool:
        # The kernel may miss ticks of a processor that was held up; then it takes more to see it.
        burn(burner)
        after = cpu.read(())
        return after.busy_s + after.steal_s - before.busy_s - before.steal_s >= BURN_S - 0.05

    wait_until(is_counted, 10, "the time that was burnt")
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

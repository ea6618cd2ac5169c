"""What the C library keeps of freed memory. In a process of its own: the setting is for good."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COUNT_BLOCKS_OF_THE_SYSTEM = """
import ctypes
from tunneld.host.memory import THRESHOLD_BYTES, give_back_what_is_free

class Info(ctypes.Structure):  # struct mallinfo2 of malloc.h; hblks is its fourth member
    _fields_ = [(f"member_{number}", ctypes.c_size_t) for number in range(10)]

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.mallinfo2.restype = Info

def gained():
    before = library.mallinfo2().member_3
    for _ in range({blocks}):
        library.malloc(ctypes.c_size_t(THRESHOLD_BYTES + 1))
    return library.mallinfo2().member_3 - before

first = gained()
give_back_what_is_free()
print(first, gained())
"""
BLOCKS = 100
"""So many that what the heap happens to have free takes hardly any of them."""


def test_large_blocks_are_the_systems_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNT_BLOCKS_OF_THE_SYSTEM.replace("{blocks}", str(BLOCKS))],
        capture_output=True,
        text=True,
        check=True,
    )
    before, since = map(int, done.stdout.split())
    assert before == 0
    assert since > BLOCKS * 0.9


DUMPS = """
import os, resource, signal, sys
from tunneld.host.memory import keep_out_of_core_dumps
os.chdir(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
if sys.argv[1] == "kept out":
    keep_out_of_core_dumps()
os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.mark.root
@pytest.mark.parametrize(("how", "is_dumped"), [("as it is", True), ("kept out", False)])
def test_a_process_with_secrets_leaves_no_core_dump(
    tmp_path: Path, how: str, *, is_dumped: bool
) -> None:
    command = [sys.executable, "-c", DUMPS, how, str(tmp_path)]
    pid = os.spawnve(os.P_NOWAIT, sys.executable, command, os.environ)
    status = os.waitpid(pid, 0)[1]
    assert os.WTERMSIG(status) == signal.SIGSEGV
    # Whatever handler takes dumps, wait(2) says whether there was one.
    assert os.WCOREDUMP(status) is is_dumped

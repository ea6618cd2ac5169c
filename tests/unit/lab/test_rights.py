"""Without the rights it needs the lab begins nothing, and says what is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from testbed.wait import PATIENCE

pytestmark = pytest.mark.root

WITHOUT = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")


@pytest.mark.parametrize("command", ["up", "run", "exec", "status", "down"])
def test_a_missing_capability_is_one_line_and_status_1(command: str) -> None:
    place = ("h1", "true") if command == "exec" else ()
    done = subprocess.run(
        [*WITHOUT, sys.executable, "-m", "tunneld", "lab", command, "--name", "norights", *place],
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tunneld: missing CAP_SYS_ADMIN (user id 0); expected ")
    assert done.stderr.count("\n") == 1

"""Our Noise and wireguard-go's make the same keys, whoever begins, and again after a rekey.

The program that shakes hands is native/handshake/examples/wireguard.rs: WireGuard's prologue,
labels and layout around our Noise, over loopback.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from testbed.wireguard.build import wireguard_peer

_ROOT: Final = Path(__file__).parents[3]


def test_both_sides_begin_and_rekey_and_data_goes_both_ways_under_each_set_of_keys() -> None:
    command = ("cargo", "run", "--quiet", "--package", "tunneld-handshake", "--example")
    done = subprocess.run(
        [*command, "wireguard", "--", str(wireguard_peer())],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4 handshakes, 2 begun by each side\n"

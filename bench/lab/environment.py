"""What a measurement ran on: machine, kernel, versions, settings that move the figures."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from testbed.flanneld.build import FLANNEL_VERSION
from tunneld import __version__

_SETTINGS: Final = (
    *("net/core/rmem_default", "net/core/rmem_max", "net/core/wmem_default", "net/core/wmem_max"),
    *("net/core/netdev_max_backlog", "net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem"),
    *("net/ipv4/tcp_congestion_control", "net/bridge/bridge-nf-call-iptables"),
)


def describe() -> dict[str, Any]:
    """Returns it as plain data."""
    return {
        "tunneld": __version__,
        "commit": _first_line("git", "describe", "--always", "--dirty"),
        "flanneld": FLANNEL_VERSION,
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cpu_flags": _cpu_flags(),
        "cpus": os.cpu_count(),
        "idle_governor": _text("/sys/devices/system/cpu/cpuidle/current_governor"),
        "python": platform.python_version(),
        "iperf3": _first_line("iperf3", "--version"),
        "settings": {name: _text(f"/proc/sys/{name}") for name in _SETTINGS},
        "load_before": os.getloadavg()[0],
        "nice": os.nice(0),
    }


def _cpu_info(name: str) -> str:
    found = re.search(rf"^{name}\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


def _cpu_model() -> str:
    """Returns the processor's name, and its number: virtual machines call many alike."""
    number = f"family {_cpu_info('cpu family')}, model {_cpu_info('model')}"
    return f"{_cpu_info('model name')} ({number})"


def _cpu_flags() -> list[str]:
    """Returns those instruction sets that the data path may use."""
    flags = _cpu_info("flags").split()
    return [flag for flag in flags if flag.startswith(("avx", "vaes", "vpclmul"))]


def _text(path: str) -> str | None:
    place = Path(path)
    return " ".join(place.read_text().split()) if place.exists() else None


def _first_line(*argv: str) -> str | None:
    if shutil.which(argv[0]) is None:
        return None
    done = subprocess.run(
        argv, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.split("\n", 1)[0] or None

"""What figures were measured on: processor, kernel, versions, settings that move them."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any, Final

from tunneld import __version__
from tunneld.bench import native

_SETTINGS: Final = (
    *("net/core/rmem_max", "net/core/wmem_max", "net/core/netdev_max_backlog"),
    *("net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem"),
)
_FLAGS: Final = ("aes", "pclmulqdq", "avx", "avx2", "vaes", "vpclmulqdq", "avx512")


def describe() -> dict[str, Any]:
    """Returns it as plain data."""
    return {
        "tunneld": __version__,
        "kernel": platform.release(),
        "cpu": _cpu_info("model name"),
        "cpu_family_model": f"family {_cpu_info('cpu family')}, model {_cpu_info('model')}",
        "cpu_flags": [flag for flag in cpu_flags() if flag.startswith(_FLAGS)],
        "cpus": os.cpu_count(),
        "frequency_governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "idle_governor": _text("/sys/devices/system/cpu/cpuidle/current_governor"),
        "python": platform.python_version(),
        "provider_and_cipher_by_auto": " ".join(native.aead_choices()["auto"]),
        **{name: _text(f"/proc/sys/{name}") for name in _SETTINGS},
        "load_before": os.getloadavg()[0],
    }


def cpu_flags() -> list[str]:
    """Returns what the processor says it can do, as the kernel names it."""
    return _cpu_info("flags").split()


def _cpu_info(name: str) -> str:
    found = re.search(rf"^{name}\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


def _text(path: str) -> str | None:
    place = Path(path)
    return " ".join(place.read_text().split()) if place.exists() else None

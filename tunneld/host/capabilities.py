"""Checks, before anything is changed, that the process may do what the data path needs.

Source: Linux capabilities(7); include/uapi/linux/capability.h (bit numbers).
"""

from __future__ import annotations

import os
from pathlib import Path

from tunneld.errors import CapabilityError, HostError

_NEEDED = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}


def require_capabilities() -> None:
    """Returns when the process holds CAP_NET_ADMIN and CAP_NET_RAW.

    Raises:
        CapabilityError: names those that are missing.
        HostError: /proc does not tell.
    """
    effective = _effective()
    missing = [name for name, bit in _NEEDED.items() if not effective >> bit & 1]
    if missing:
        raise CapabilityError(
            f"missing {' and '.join(missing)} (user id {os.geteuid()}); expected both "
            f"{' and '.join(_NEEDED)}: run as root, or grant them (systemd: "
            "AmbientCapabilities=, Docker: --cap-add)"
        )


def _effective() -> int:
    status = Path("/proc/self/status")
    try:
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name == "CapEff":
                return int(value, 16)
    except OSError as error:
        raise HostError(
            f"cannot read {status}: {error.strerror}; expected /proc mounted"
        ) from error
    raise HostError(f"no CapEff in {status}; expected the process's capabilities there")

"""Checks, before anything is changed, that the process may do what is asked of it.

Source: Linux capabilities(7); include/uapi/linux/capability.h (bit numbers).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tunneld.errors import CapabilityError, HostError

_BITS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}

DATA_PATH = ("CAP_NET_ADMIN", "CAP_NET_RAW")
NAMESPACES = ("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN")
"""For making network namespaces with daemons inside."""


def require_capabilities(
    needed: Sequence[str] = DATA_PATH,
    grant: str = "systemd: AmbientCapabilities=, Docker: --cap-add",
) -> None:
    """Returns when the process holds all capabilities that are needed.

    Args:
        needed: their names.
        grant: how they are granted to others than root.

    Raises:
        CapabilityError: names those that are missing.
        HostError: /proc does not tell.
    """
    effective = _effective()
    missing = [name for name in needed if not effective >> _BITS[name] & 1]
    if missing:
        raise CapabilityError(
            f"missing {' and '.join(missing)} (user id {os.geteuid()}); expected "
            f"{' and '.join(needed)}: run as root, or grant them ({grant})"
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

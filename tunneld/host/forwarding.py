"""The host's global IPv4 forwarding switch.

Containers' packets come in by a bridge, so that the overlay needs forwarding there too. Where
Docker is, it is left to Docker: dockerd sets its FORWARD policy to DROP only when it finds the
switch off and turns it on itself. Elsewhere it is switched on here, and off again at the end
if it was us and nobody else wants it.

Source: Linux ip-sysctl.rst (ip_forward resets the per-device settings, hence `restore`).
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Literal

from tunneld.errors import HostError
from tunneld.host.state_dir import StateDir

ForwardingPolicy = Literal["auto", "always", "never"]
"""`auto`: on, unless Docker is on this host."""

_IPV4 = Path("/proc/sys/net/ipv4")
_SWITCH = _IPV4 / "ip_forward"
_BOOT = Path("/proc/sys/kernel/random/boot_id")

_MEMORY = "forwarding"
"""Name of the cache in the state directory."""

_log = logging.getLogger("tunneld.host")


class GlobalForwarding:
    """The switch, and what is needed to put it back."""

    def __init__(
        self, policy: ForwardingPolicy = "auto", state_dir: StateDir | None = None
    ) -> None:
        """Recalls from the state directory whether a daemon that was killed left it on."""
        self._policy = policy
        self._state_dir = state_dir
        self._forwarding_before = _recall(state_dir)
        """Devices that forwarded while the switch was off; None: the switch is not our doing."""
        self._is_explained = False

    @property
    def is_ours(self) -> bool:
        """True while the switch is on because of us."""
        return self._forwarding_before is not None

    def switch_on(self) -> None:
        """Switches forwarding on where the policy says so.

        Raises:
            HostError: the switch cannot be read or written.
        """
        if _read(_SWITCH) == "1" or self._policy == "never":
            return
        if self._policy == "auto" and (sign := docker_sign()) is not None:
            if not self._is_explained:
                self._is_explained = True
                _log.info(
                    "global IPv4 forwarding is off and left to Docker",
                    extra={"fields": {"reason": sign}},
                )
            return
        self._remember(_forwarding_devices())
        _write(_SWITCH, "1")
        _log.info("switched global IPv4 forwarding on; a clean stop puts it back")

    def restore(self) -> None:
        """Switches forwarding off again, if it was off before `switch_on` and is on now.

        Raises:
            HostError: the switch cannot be read or written.
        """
        before = self._forwarding_before
        if before is None:
            return
        if _read(_SWITCH) == "1":
            _write(_SWITCH, "0")
            for device in before & frozenset(_devices()):
                _write(_IPV4 / "conf" / device / "forwarding", "1")
        self._remember(None)

    def _remember(self, before: frozenset[str] | None) -> None:
        self._forwarding_before = before
        if self._state_dir is not None:
            value = None if before is None else {"boot": _read(_BOOT), "before": sorted(before)}
            self._state_dir.save(_MEMORY, value)


def _recall(state_dir: StateDir | None) -> frozenset[str] | None:
    """Returns what an earlier daemon remembered since the system's start, or None."""
    match None if state_dir is None else state_dir.load(_MEMORY):
        case {"boot": str(boot), "before": [*before]} if boot == _read(_BOOT):
            return frozenset(str(device) for device in before)
    return None


def docker_sign() -> str | None:
    """Returns what tells that Docker is on this host, or None."""
    if shutil.which("dockerd") is not None:
        return "dockerd is installed"
    if Path("/run/docker.sock").exists():
        return "/run/docker.sock is there"
    if (_IPV4 / "conf" / "docker0").exists():
        return "the device docker0 is there"
    return None


def _devices() -> list[str]:
    return [path.name for path in (_IPV4 / "conf").iterdir() if path.name != "all"]


def _forwarding_devices() -> frozenset[str]:
    return frozenset(
        device for device in _devices() if _read(_IPV4 / "conf" / device / "forwarding") == "1"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise HostError(
            f"cannot read {path}: {error.strerror}; expected /proc/sys mounted"
        ) from error


def _write(path: Path, value: str) -> None:
    try:
        path.write_text(value, encoding="ascii")
    except OSError as error:
        raise HostError(
            f"cannot write {value} to {path}: {error.strerror}; expected a writable /proc/sys: "
            "set net.ipv4.ip_forward=1 by hand, or lift ProtectKernelTunables"
        ) from error

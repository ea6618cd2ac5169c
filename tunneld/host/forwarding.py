"""The host's global forwarding switches, one for each address family.

Containers' packets come in by a bridge, so that the overlay needs forwarding there too. Where
Docker is, it is left to Docker: dockerd sets its FORWARD policy to DROP only when it finds the
switch off and turns it on itself. Elsewhere it is switched on here, and at the end off again if it
was us, and nothing has come since that may rely on it: podman and libvirt write a 1 over ours.

The switch of IPv6 makes the host a router: the kernel drops the default routes it learnt from
router advertisements, and heeds no more of them. Devices that live by them are told to go on.

Source: Linux ip-sysctl.rst (ip_forward resets the per-device settings, hence `restore`; for IPv6
`all/forwarding`, `accept_ra`, `force_forwarding`).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from tunneld.errors import HostError
from tunneld.host.state_dir import StateDir

ForwardingPolicy = Literal["auto", "always", "never"]
"""`auto`: on, unless Docker is on this host."""

Version = Literal[4, 6]

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_ROUTES_V6 = Path("/proc/net/ipv6_route")

_log = logging.getLogger("tunneld.host")

# include/uapi/linux/ipv6_route.h
_RTF_ADDRCONF = 0x00040000

_ROUTER_TOO = "2"
"""Of accept_ra: heed router advertisements although this host forwards."""


class GlobalForwarding:
    """The switches, and what is needed to put them back."""

    def __init__(
        self, policy: ForwardingPolicy = "auto", state_dir: StateDir | None = None
    ) -> None:
        """Recalls from the state directory whether a daemon that was killed left one on."""
        self._policy = policy
        self._switches: dict[Version, _Switch] = {
            4: _Switch(4, state_dir),
            6: _Switch(6, state_dir),
        }
        self._wanted: frozenset[Version] = frozenset()
        self._explained: set[Version] = set()
        self.problem: str | None = None
        """What is off and not ours to put on, in one line, as `is_due` has found it."""

    @property
    def is_ours(self) -> bool:
        """True while a switch is on because of us."""
        return any(switch.is_ours for switch in self._switches.values())

    @property
    def is_on_for_ipv4(self) -> bool:
        """Whether the IPv4 switch was on at the last look."""
        return self._switches[4].is_seen_on

    def is_due(self) -> bool:
        """Says whether `switch_on` would change something, as when somebody has switched it off.

        Raises:
            HostError: a switch cannot be read.
        """
        off = [version for version in sorted(self._wanted) if not self._switches[version].is_on()]
        is_left = self._policy == "never" or self._is_left_to_docker()
        self._tell([version for version in off if is_left and self._is_missed(version)])
        return bool(off) and not is_left

    def _is_missed(self, version: Version) -> bool:
        """Says whether a switch that is off has been on, or Docker should have put it on.

        Before dockerd has been started it is off, and that is as it must be. Docker puts IPv6 on
        only where it has IPv6 networks.
        """
        return self._switches[version].has_been_on or (version == 4 and _docker_runs())

    def _tell(self, missed: Collection[Version]) -> None:
        problem = None
        if missed:
            switches = " and ".join(_SYSCTL[version] for version in missed)
            problem = (
                f"global forwarding is off ({switches} = 0), so that no container's packet "
                "passes this host, and is not tunneld's to put on; expected 1: see who switched "
                f"it off, and run {' and '.join(f'`sysctl -w {_SYSCTL[v]}=1`' for v in missed)}"
            )
        if problem and problem != self.problem:
            _log.error("global forwarding is off", extra={"fields": {"error": problem}})
        elif self.problem and not problem:
            _log.info("global forwarding is on again")
        self.problem = problem

    def switch_on(self, versions: Collection[Version]) -> None:
        """Switches forwarding on in these families, as in those of earlier calls, by the policy.

        Raises:
            HostError: a switch cannot be read or written.
        """
        self._wanted |= frozenset(versions)
        for version in sorted(self._wanted):
            switch = self._switches[version]
            if self._policy == "never" or switch.is_on():
                continue
            if self._is_left_to_docker():
                if version not in self._explained:
                    self._explained.add(version)
                    _log.info(
                        f"global IPv{version} forwarding is off and left to Docker",
                        extra={"fields": {"reason": docker_sign()}},
                    )
                continue
            switch.turn_on()

    def restore(self, ours: Collection[str] = (), translated: Collection[Version] = ()) -> None:
        """Switches forwarding off again, if it was off before `switch_on` and is on now.

        It stays on where others may rely on it by now.

        Args:
            ours: names of our devices.
            translated: the families in which somebody else translates sources.

        Raises:
            HostError: a switch cannot be read or written.
        """
        self._wanted = frozenset()
        for version, switch in self._switches.items():
            reason = None
            if version in translated:
                reason = "a firewall rule of others translates sources"
            switch.restore(ours, reason)

    def _is_left_to_docker(self) -> bool:
        return self._policy == "auto" and docker_sign() is not None


_SYSCTL: Mapping[Version, str] = {
    4: "net.ipv4.ip_forward",
    6: "net.ipv6.conf.all.forwarding",
}


class _Switch:
    """The switch of one family, and how the devices were before it was turned on by us."""

    def __init__(self, version: Version, state_dir: StateDir | None) -> None:
        self._version = version
        self._conf = Path(f"/proc/sys/net/ipv{version}/conf")
        self._file = self._conf / "all" / "forwarding"
        if version == 4:
            self._file = Path("/proc/sys/net/ipv4/ip_forward")
        self._state_dir = state_dir
        self._memory = "forwarding" if version == 4 else "forwarding-v6"
        """Name of the cache in the state directory."""
        self._before = _recall(state_dir, self._memory)
        """Of each setting that `restore` must put back: the devices that had it while the switch
        was off; and all devices there were. None: the switch is not our doing."""
        self.is_seen_on = False
        """Whether it was on at the last look."""
        self.has_been_on = False
        """Whether anybody has seen it on since this daemon was started."""

    @property
    def is_ours(self) -> bool:
        return self._before is not None

    def is_on(self) -> bool:
        is_on = _read(self._file) == "1"
        self.is_seen_on = is_on
        self.has_been_on |= is_on
        return is_on

    def turn_on(self) -> None:
        before = {"before": self._devices_with("forwarding", "1")}
        if self._version == 6:
            before["forced"] = self._devices_with("force_forwarding", "1")
            before["advertised"] = self._devices_with("accept_ra", "1") & _advertised_devices()
        before[_DEVICES] = frozenset(self._devices())
        self._remember(before)
        # Before the switch, which takes the default routes of all others away.
        for device in sorted(before.get("advertised", ())):
            _write(self._conf / device / "accept_ra", _ROUTER_TOO)
            _log.warning(
                "a router advertises this host's IPv6 routes or addresses, which hosts that "
                "forward ignore: accept_ra is set to 2 for that device",
                extra={"fields": {"device": device}},
            )
        _write(self._file, "1")
        _log.info(
            f"switched global IPv{self._version} forwarding on; a clean stop puts it back, unless "
            "others may rely on it by then"
        )

    def restore(self, ours: Collection[str], reason: str | None) -> None:
        """Puts everything back as it was; not where there is a `reason`, or one is found here."""
        before = self._before
        if before is None:
            return
        if self.is_on():
            come = frozenset(self._devices()) - frozenset(before.get(_DEVICES, ())) - {*ours}
            if reason is None and come:
                reason = f"devices have come since: {', '.join(sorted(come)[:5])}"
            if reason is not None:
                self._remember(None)
                _log.warning(
                    f"global IPv{self._version} forwarding stays on, since others may rely on it; "
                    f"to switch it off run `sysctl -w {_SYSCTL[self._version]}=0`",
                    extra={"fields": {"reason": reason}},
                )
                return
            _write(self._file, "0")
            self._put_back("forwarding", before.get("before", ()), "1")
            self._put_back("force_forwarding", before.get("forced", ()), "1")
        routed = self._devices_with("accept_ra", _ROUTER_TOO)
        self._put_back("accept_ra", routed & frozenset(before.get("advertised", ())), "1")
        self._remember(None)

    def _put_back(self, setting: str, devices: Collection[str], value: str) -> None:
        for device in frozenset(devices) & frozenset(self._devices()):
            _write(self._conf / device / setting, value)

    def _devices(self) -> list[str]:
        # A kernel without IPv6 has no such directory.
        there = self._conf.iterdir() if self._conf.exists() else ()
        return [path.name for path in there if path.name != "all"]

    def _devices_with(self, setting: str, value: str) -> frozenset[str]:
        return frozenset(
            device
            for device in self._devices()
            if (file := self._conf / device / setting).exists() and _read(file) == value
        )

    def _remember(self, before: Mapping[str, frozenset[str]] | None) -> None:
        self._before = before
        if self._state_dir is not None:
            value: dict[str, object] | None = None
            if before is not None:
                value = {name: sorted(devices) for name, devices in before.items()}
                value["boot"] = _read(_BOOT)
            self._state_dir.save(self._memory, value)


_DEVICES = "devices"


def _recall(state_dir: StateDir | None, memory: str) -> Mapping[str, frozenset[str]] | None:
    """Returns what an earlier daemon remembered since the system's start, or None."""
    match None if state_dir is None else state_dir.load(memory):
        case {"boot": str(boot), "before": [*before], **others} if boot == _read(_BOOT):
            lists = {"before": before, **others}
            return {
                str(name): frozenset(map(str, devices))
                for name, devices in lists.items()
                if isinstance(devices, list)
            }
    return None


def _advertised_devices() -> frozenset[str]:
    """Returns the devices that have routes by router advertisement, as the kernel itself heeds.

    Raises:
        HostError: the kernel's routes cannot be read.
    """
    lines = [line.split() for line in _read(_ROUTES_V6).splitlines()]
    return frozenset(line[9] for line in lines if int(line[8], 16) & _RTF_ADDRCONF)


def docker_sign() -> str | None:
    """Returns what tells that Docker is on this host, or None."""
    if shutil.which("dockerd") is not None:
        return "dockerd is installed"
    if Path("/run/docker.sock").exists():
        return "/run/docker.sock is there"
    if Path("/proc/sys/net/ipv4/conf/docker0").exists():
        return "the device docker0 is there"
    return None


def _docker_runs() -> bool:
    return Path("/proc/sys/net/ipv4/conf/docker0").exists()


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
            f"set {'.'.join(path.parts[3:])}={value} by hand, or lift ProtectKernelTunables"
        ) from error

"""Moves hosts of a live flannel network by the commands of the guide, under numbered probes."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from testbed import queues
from testbed.booted import BootedHost, BootedNetwork, wait_connected
from testbed.document import commands
from testbed.flanneld.build import flanneld_binary
from testbed.netns import Rig
from testbed.probe import RATE_HZ, Probe

GUIDE: Final = Path(__file__).resolve().parents[1] / "docs" / "migration.md"
PREPARE, MOVE, MOVE_BACK = "Prepare every host", "Move a host", "Move a host back"
RECOVERY_TIMEOUT_S: Final = 30.0

_FLANNELD: Final = "/opt/flanneld"
_UNIT: Final = f"""\
[Unit]
Description=flannel's daemon
Wants=network-online.target
After=network-online.target
Before=docker.service

[Service]
Type=notify
ExecStart={_FLANNELD} -etcd-endpoints=http://192.0.2.1:2379 -ip-masq
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What one flow of probes lost while a host was moved."""

    move: str
    host: str
    probe: str
    is_affected: bool
    """Whether the flow begins or ends on the host that was moved."""
    rate_hz: float
    lost: int
    gap_s: float
    """The longest time between two arrivals."""

    def figure(self) -> dict[str, object]:
        return asdict(self)


class FlannelNetwork:
    """Three hosts as operators of flannel have them, with tunneld installed but not running."""

    def __init__(self, rig: Rig, installed: Path) -> None:
        self.net = BootedNetwork(
            rig, installed=installed, borrowed=[(flanneld_binary(), _FLANNELD)]
        )
        self.carried_out: set[str] = set()
        """Every command of the guide that has been run."""

    @property
    def hosts(self) -> list[BootedHost]:
        return self.net.hosts

    def start(self) -> None:
        """Boots all hosts; their containers reach each other by flanneld alone."""
        self.net.start_store()
        for name in ("h1", "h2", "h3"):
            machine = self.net.add(name).machine
            machine.write("/etc/systemd/system/flanneld.service", _UNIT)
            machine.write("/etc/sysctl.d/60-forward.conf", "net.ipv4.ip_forward = 1\n")
            machine.enable("flanneld.service")
            machine.boot()
        for first, second in itertools.permutations(self.hosts, 2):
            wait_connected(first, second)

    def carry_out(self, heading: str, host: BootedHost) -> None:
        """Runs the commands under a heading of the guide, one by one.

        Raises:
            AssertionError: a command ended with something else than 0.
        """
        wanted = [command.text for command in commands(GUIDE) if command.heading == heading]
        for text in wanted:
            host.machine.run("bash", "-c", text)
            self.carried_out.add(text)

    def move(self, heading: str, host: BootedHost) -> list[Loss]:
        """Moves a host while probes run between all hosts; returns what each flow lost."""
        for each in self.hosts:
            if pid := int(each.machine.show("flanneld", "MainPID")):
                queues.lengthen(each.machine.run, each.machine.host_pid(pid))
        probes = {
            (first, second): Probe(first, second)
            for first, second in itertools.permutations(self.hosts, 2)
        }
        for probe in probes.values():
            probe.wait_steady(0.0, RECOVERY_TIMEOUT_S)
        self.carry_out(heading, host)
        moved_at_s = time.monotonic()
        for probe in probes.values():
            probe.wait_steady(moved_at_s, RECOVERY_TIMEOUT_S)
        for probe in probes.values():
            probe.stop()
        return [
            Loss(
                move=heading,
                host=host.name,
                probe=probe.name,
                is_affected=host in ends,
                rate_hz=RATE_HZ,
                lost=probe.lost(),
                gap_s=round(probe.longest_gap_s(), 3),
            )
            for ends, probe in probes.items()
        ]

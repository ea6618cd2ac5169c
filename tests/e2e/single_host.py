"""One host beside a switch, for daemons that are meant to refuse, wait, or start late."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from testbed.netns import Namespace, Rig
from testbed.process import Process
from testbed.wait import wait_until
from tunneld.control.client import NotRunningError, request


class SingleHost:
    """A namespace with an underlay interface and a default route, and tunneld commands in it."""

    def __init__(self, rig: Rig, beside: SingleHost | None = None) -> None:
        """`beside` is a host on whose switch there is to be another, on a link of its own."""
        self.switch: Namespace = rig.namespace("sw") if beside is None else beside.switch
        self.space = rig.namespace("h" if beside is None else "i")
        self.switch_address = IPv4Address("192.0.2.1" if beside is None else "198.51.100.1")
        self.address = self.switch_address + 10
        rig.link(
            self.space,
            "eth0",
            self.switch,
            "port1" if beside is None else "port2",
            first_address=f"{self.address}/24",
            second_address=f"{self.switch_address}/24",
        )
        self.space.run("ip", "route", "add", "default", "via", str(self.switch_address))
        self.directory: Path = self.space.directory
        self.control_socket = self.directory / "tunneld.sock"
        self.subnet_file = self.directory / "subnet.env"
        self.endpoint: str = (
            f"http://{self.switch_address}:2379" if beside is None else beside.endpoint
        )

    @property
    def environment(self) -> dict[str, str]:
        foreign = ("TUNNELD_", "FLANNELD_", "NOTIFY_SOCKET")
        kept = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
        return {**kept, "TUNNELD_CONFIG": "/dev/null"}

    def command(self, *argv: str) -> tuple[str, ...]:
        return (sys.executable, "-P", "-m", "tunneld", *argv)

    def run_command(self, *options: str) -> tuple[str, ...]:
        """Returns the command line of a daemon with places of its own."""
        return self.command(
            *("run", "--etcd-endpoints", self.endpoint),
            *("--state-dir", str(self.directory / "state")),
            *("--subnet-file", str(self.subnet_file)),
            *("--control-socket", str(self.control_socket)),
            *options,
        )

    def tunneld(
        self, *argv: str, wrapper: tuple[str, ...] = (), timeout_s: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a tunneld command to its end."""
        return self.space.try_run(
            *wrapper, *self.command(*argv), env=self.environment, timeout_s=timeout_s
        )

    def daemon_ends(
        self,
        *options: str,
        wrapper: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a daemon that is expected to end by itself."""
        return self.space.try_run(
            *wrapper,
            *self.run_command(*options),
            env={**self.environment, **(environment or {})},
            timeout_s=60.0,
        )

    def start_daemon(self, *options: str, environment: Mapping[str, str] | None = None) -> Process:
        return self.space.start(
            *self.run_command(*options),
            log=self.directory / "tunneld.log",
            env={**self.environment, **(environment or {})},
        )

    def wait_ready(self) -> dict[str, Any]:
        """Returns the first status of a daemon that forwards."""
        return wait_until(self._status_once_ready, 30.0, "a daemon that is ready")

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = request(self.control_socket, "status", timeout_s=60.0)
        return document

    def _status_once_ready(self) -> dict[str, Any]:
        try:
            status = self.status()
        except NotRunningError:
            return {}
        return status if status["state"] == "ready" else {}


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    """Returns the one line in which a command says why it failed; log lines may precede it."""
    lines = done.stderr.splitlines()
    said = [line for line in lines if line.startswith("tunneld: ")]
    assert len(said) == 1, done.stderr
    assert lines[-1] == said[0], done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return said[0]

"""A real etcd (Debian's) inside a namespace, and etcdctl on it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from testbed.netns import Namespace
from testbed.process import Process
from testbed.wait import wait_until

SERVES_TIMEOUT_S = 30.0
PATIENT = ("--dial-timeout=30s", "--command-timeout=60s")
"""Options of etcdctl: by itself it gives an etcd that is held up two seconds to answer."""


class Etcd:
    """One etcd member on plain HTTP at `address`:`port`."""

    def __init__(self, space: Namespace, address: str = "127.0.0.1", port: int = 2379) -> None:
        self.space = space
        self.endpoint = f"http://{address}:{port}"
        self.data_dir: Path = space.directory / "etcd-data"
        self.process: Process | None = None
        self._peer_url = f"http://{address}:{port + 1}"

    def start(self) -> None:
        self.process = self.space.start(
            *("etcd", "--name", "one", "--data-dir", str(self.data_dir)),
            *("--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint),
            *("--listen-peer-urls", self._peer_url),
            *("--initial-advertise-peer-urls", self._peer_url),
            *("--initial-cluster", f"one={self._peer_url}"),
            log=self.space.directory / "etcd.log",
        )
        process = self.process

        def healthy() -> bool:
            if process.exit_status is not None:
                msg = f"etcd ended with {process.exit_status}:\n{process.output()[-4000:]}"
                raise AssertionError(msg)
            return self._etcdctl("endpoint", "health", check=False)[0]

        # Before that the question would only take time from who is asked.
        process.wait_for_output("ready to serve client requests", SERVES_TIMEOUT_S)
        wait_until(healthy, 20.0, f"a healthy etcd at {self.endpoint}")

    def stop(self) -> None:
        """SIGTERM; the data stays for the next `start`."""
        if self.process is not None:
            self.process.stop()

    def kill(self) -> None:
        """SIGKILL; the data stays for the next `start`."""
        if self.process is not None:
            self.process.kill()

    def ctl(self, *argv: str, stdin: str = "") -> str:
        """Runs etcdctl (API v3); returns its stdout."""
        return self._etcdctl(*argv, stdin=stdin)[1]

    def put(self, key: str, value: str) -> None:
        """Writes `value` byte for byte."""
        self.ctl("put", "--", key, value)

    def delete(self, key: str) -> None:
        self.ctl("del", key)

    def everything(self, prefix: str = "") -> dict[str, bytes]:
        """Returns all keys under `prefix` with the exact bytes of their values."""
        listing = json.loads(self.ctl("get", "--prefix", prefix, "-w", "json"))
        return {
            base64.b64decode(item["key"]).decode(): base64.b64decode(item.get("value", ""))
            for item in listing.get("kvs", [])
        }

    def revision(self) -> int:
        """Returns the store's present revision."""
        listing = json.loads(self.ctl("get", "none", "-w", "json"))
        return int(listing["header"]["revision"])

    def _etcdctl(self, *argv: str, check: bool = True, stdin: str = "") -> tuple[bool, str]:
        etcdctl = ("env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={self.endpoint}", *PATIENT)
        command = (*etcdctl, *argv)
        if check:
            return True, self.space.run(*command, stdin=stdin)
        done = self.space.try_run(*command)
        return done.returncode == 0, done.stdout

"""A packet capture by tcpdump in a namespace, read back with scapy."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed.netns import Place
from testbed.process import Process
from testbed.wait import wait_until


class Capture:
    """Writes what `device` carries to a file while the `with` block runs."""

    def __init__(
        self, space: Place, device: str, expression: str = "", path: Path | None = None
    ) -> None:
        self.space = space
        self.device = device
        self.expression = expression
        self.path = path or space.directory / f"{device}.pcap"
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self._process = self.space.start(
            *("tcpdump", "-n", "-U", "--immediate-mode", "-Z", "root", "-i", self.device),
            *("-w", str(self.path), *self.expression.split()),
            log=self.path.with_suffix(".log"),
        )
        self._process.wait_for_output("listening on")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the capture, once tcpdump has read what was on the device until now."""
        if self._process is not None:
            wait_until(self._process.is_asleep, 10.0, f"tcpdump on {self.device} waiting for more")
            self._process.stop()
            self._process = None

    def packets(self) -> list[Any]:
        """Returns what was captured up to this moment, parsed by scapy."""
        from scapy.utils import PcapReader

        for layers in ("l2", "inet"):  # importing them registers the link types
            import_module(f"scapy.layers.{layers}")

        with PcapReader(str(self.path)) as reader:
            return list(reader)

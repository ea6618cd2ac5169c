"""Tells the service manager how the daemon fares.

Does nothing when nobody asked to be told (NOTIFY_SOCKET is not set).

Source: systemd sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import Self

from tunneld.errors import HostError
from tunneld.log import Condition

_log = logging.getLogger("tunneld.host")


class Notifier:
    """The service manager's notification socket."""

    def __init__(self, address: str | None, *, watchdog_interval_s: float | None = None) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        """Opened once: when descriptors have run out, the watchdog must still be fed."""
        self._lack = Condition(
            _log, "cannot notify the service manager", "the service manager is notified again"
        )
        self.watchdog_interval_s = watchdog_interval_s
        """Within this time `watchdog` must be called again and again; None: no watchdog."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.

        Raises:
            HostError: NOTIFY_SOCKET or WATCHDOG_USEC is not understood.
        """
        address = environment.get("NOTIFY_SOCKET") or None
        if address is not None and address[0] not in "/@":
            raise HostError(
                f"NOTIFY_SOCKET is {address!r}; expected an absolute path or an abstract name "
                "(@...): the service manager sets it, unset it otherwise"
            )
        interval_s = None
        pid = environment.get("WATCHDOG_PID")
        if pid is None or pid == str(os.getpid()):
            interval_s = _microseconds(environment.get("WATCHDOG_USEC"))
        return cls(address, watchdog_interval_s=interval_s)

    def ready(self) -> None:
        """Says that the start, or the reload, is done."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Shows one line of state in `systemctl status`."""
        self._send(f"STATUS={' '.join(text.splitlines())}")

    def reloading(self) -> None:
        """Says that the configuration is being read again; `ready` ends it."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        """Says that the daemon is on its way out."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Says that the daemon is alive and well."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if self._address is None:
            return
        name = self._address
        target = f"\0{name[1:]}" if name.startswith("@") else name
        try:
            if self._socket is None:
                opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                opened.setblocking(False)
                self._socket = opened
            self._socket.sendto(text.encode(errors="replace"), target)
        except OSError as error:
            # Deaf or gone, it is no reason to stop the data path.
            told = f"cannot notify the service manager on {name}: {error.strerror or error}"
            self._lack.set(time.monotonic(), told, path=name)
        else:
            self._lack.clear(path=name)

    @property
    def problem(self) -> str | None:
        """Why the service manager hears nothing, in one line; None: it does."""
        return self._lack.problem

    def close(self) -> None:
        """Closes the socket. The next message opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _microseconds(text: str | None) -> float | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) == 0:
        raise HostError(
            f"WATCHDOG_USEC is {text!r}; expected a positive number of microseconds: the service "
            "manager sets it, unset it otherwise"
        )
    return int(text) / 1_000_000

"""The service manager as the tests play it: the other end of a daemon's notification socket."""

from __future__ import annotations

import re
import select
import socket
import threading
from pathlib import Path

from testbed.wait import wait_until

INTERVAL_S = 4.0
"""Within this time the manager expects to be told; half of it is the daemon's own patience."""


class Manager:
    """The end of the notification socket that is systemd's; keeps all it is told, in order.

    It listens all the time until it is closed: the kernel keeps ten messages, and a daemon does not
    wait for a manager that is busy.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self._told: list[str] = []
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def close(self) -> None:
        self._is_closing.set()
        self._listener.join()
        self.socket.close()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "NOTIFY_SOCKET": str(self.path),
            "WATCHDOG_USEC": str(round(INTERVAL_S * 1_000_000)),
        }

    def told(self) -> list[str]:
        with self._lock:
            while True:
                try:
                    self._told.append(self.socket.recv(65536).decode())
                except BlockingIOError:
                    return list(self._told)

    def _listen(self) -> None:
        while not self._is_closing.is_set():
            if select.select([self.socket], [], [], 0.1)[0]:
                self.told()

    def wait_for(self, pattern: str, after: int = 0, timeout_s: float = 30.0) -> int:
        """Returns the number of the first message from `after` on that matches."""

        def found() -> list[int]:
            messages = enumerate(self.told())
            return [n for n, text in messages if n >= after and re.search(pattern, text, re.DOTALL)]

        return wait_until(found, timeout_s, f"{pattern!r} from the daemon")[0]

    def falls_silent(self) -> None:
        """Returns when the daemon has fed no watchdog for the whole interval."""

        def fed() -> bool:
            before = self.told().count("WATCHDOG=1")
            try:
                wait_until(lambda: self.told().count("WATCHDOG=1") > before, INTERVAL_S)
            except TimeoutError:
                return False
            return True

        wait_until(lambda: not fed(), 30.0, "a silent watchdog", poll_s=0.0)

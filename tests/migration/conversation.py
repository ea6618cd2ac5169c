"""One TCP connection between two containers, kept open for as long as the test likes."""

from __future__ import annotations

import select
import subprocess

from testbed.booted import BootedHost

_PORT = 7000


class Conversation:
    """A container that speaks, and one that repeats what it hears."""

    def __init__(self, first: BootedHost, second: BootedHost) -> None:
        self._echo = second.container.start("socat", "-d", "-d", f"TCP-LISTEN:{_PORT}", "EXEC:cat")
        self._echo.wait_for_output("listening on")
        self._speaker = subprocess.Popen(
            first.container.command("socat", "-", f"TCP:{second.container_ip}:{_PORT}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def close(self) -> None:
        with self._speaker:
            self._speaker.kill()
        self._echo.stop()

    def answer(self, word: str, timeout_s: float = 90.0) -> str:
        """Says a word over the connection and returns what comes back."""
        said, heard = self._speaker.stdin, self._speaker.stdout
        if said is None or heard is None:
            raise AssertionError("the speaker was started without pipes")
        said.write(f"{word}\n".encode())
        ready, _, _ = select.select([heard], [], [], timeout_s)
        return heard.readline().decode().strip() if ready else ""

"""Runs the programs that change the kernel's packet filter.

Path of a lease: `host.firewall` -> **`host.firewall.program`** -> nft | iptables -> the kernel.
"""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import dataclass

from tunneld.errors import CapabilityError, HostError
from tunneld.host.finish import finish

_NOT_PERMITTED = (os.strerror(errno.EPERM), "you must be root")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a program ended."""

    status: int | None
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """The first line of its complaint."""
        lines = self.stderr.strip().splitlines()
        return lines[0] if lines else f"exit status {self.status}"


async def attempt(what: str, *argv: str, stdin: str = "") -> Outcome:
    """Runs a program to its end, whatever its exit status.

    Raises:
        HostError: it is not there or does not start.
        CapabilityError: it says that it is not permitted.
    """
    try:
        outcome = await finish(_run(argv, stdin.encode()))
    except FileNotFoundError as error:
        package = "nftables" if argv[0] == "nft" else "iptables"
        raise HostError(
            f"cannot {what}: there is no program `{argv[0]}`; expected {package} on the PATH: "
            f"install it (Debian: apt-get install {package})"
        ) from error
    except OSError as error:
        raise HostError(
            f"cannot {what}: {argv[0]} does not start: {error.strerror}; expected a program that "
            "this daemon may run"
        ) from error
    if outcome.status != 0 and any(text in outcome.stderr for text in _NOT_PERMITTED):
        raise CapabilityError(
            f"cannot {what}: not permitted; expected CAP_NET_ADMIN: run as root or grant the "
            "capability"
        )
    return outcome


async def _run(argv: tuple[str, ...], stdin: bytes) -> Outcome:
    # A file, since a pipe to a program that ends early is an error of its own.
    with os.fdopen(os.memfd_create("stdin", os.MFD_CLOEXEC), "w+b") as file:
        file.write(stdin)
        file.seek(0)
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=file,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        stdout, stderr = await process.communicate()
    return Outcome(
        status=process.returncode,
        stdout=stdout.decode(errors="replace"),
        stderr=stderr.decode(errors="replace"),
    )

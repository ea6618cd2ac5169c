"""Runs the programs that change the kernel's packet filter.

Path of a lease: `host.firewall` -> **`host.firewall.program`** -> nft | iptables -> the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from tunneld.errors import CapabilityError, HostError

LIMIT_S = 10.0
"""How long a program may take. Usual are some hundredths of a second."""

GRACE_S = 2.0
"""How much longer it may, once the daemon is to end."""

_T = TypeVar("_T")

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
        HostError: it is not there, does not start, or does not end.
        CapabilityError: it says that it is not permitted.
    """
    try:
        outcome = await _to_its_end(_run(what, argv, stdin.encode()))
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


async def _run(what: str, argv: tuple[str, ...], stdin: bytes) -> Outcome:
    # A file, since a pipe to a program that ends early is an error of its own.
    with os.fdopen(os.memfd_create("stdin", os.MFD_CLOEXEC), "w+b") as file:
        file.write(stdin)
        file.seek(0)
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=file,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # so that it can be ended with all it has started
        )
        try:
            async with asyncio.timeout(LIMIT_S):
                stdout, stderr = await process.communicate()
        except TimeoutError as error:
            raise HostError(
                f"cannot {what}: {argv[0]} has not ended for {LIMIT_S:g} s and was killed; "
                f"expected it to answer at once: run it by hand, and see what holds it up"
            ) from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                # Also its pipes are to be closed by then.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.communicate(), GRACE_S)
    return Outcome(
        status=process.returncode,
        stdout=stdout.decode(errors="replace"),
        stderr=stderr.decode(errors="replace"),
    )


async def _to_its_end(work: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Awaits a program also when cancelled, but then not for long.

    A change of nft or iptables-restore takes effect as a whole or not at all.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=GRACE_S)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # nobody is there to hear of it
        raise


def nft_items(what: str, outcome: Outcome, read: Callable[[list[dict[str, Any]]], _T]) -> _T:
    """Returns what `read` makes of the objects that `nft -j` has listed.

    Raises:
        HostError: it has listed something else.
    """
    try:
        listed = json.loads(outcome.stdout)["nftables"]
        return read([{kind: dict(value) for kind, value in item.items()} for item in listed])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HostError(
            f"cannot {what}: nft answers {outcome.stdout[:80]!r}; expected the JSON of `nft -j` "
            "(libnftables-json(5)): see which program `nft` is, and its version"
        ) from error

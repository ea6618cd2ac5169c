"""Runs code of the test's own process inside a namespace, and with fewer rights."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from testbed.netns import Namespace, Rig, inside
from testbed.wait import PATIENCE
from tunneld.host.netlink import Netlink
from tunneld.host.tun import Tun, open_tun

_T = TypeVar("_T")

REPOSITORY = Path(__file__).resolve().parents[3]


def run_inside(space: Namespace, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Runs a coroutine on uvloop, as the daemon does, inside a namespace."""
    with inside(space):
        return uvloop.run(work())


@asynccontextmanager
async def overlay(queues: int = 1) -> AsyncIterator[tuple[Tun, Netlink]]:
    """Opens a TUN device and a routing socket."""
    tun = await open_tun("flannel%d", queues)
    try:
        async with Netlink.opened() as netlink:
            yield tun, netlink
    finally:
        tun.close()


async def eventually(predicate: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Waits on the loop until `predicate` is true."""
    timeout_s *= PATIENCE
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true within {timeout_s:g} s")
        await asyncio.sleep(0.01)


def refusal(code: str, *prefix: str) -> str:
    """Runs `code` in a process of its own, started by `prefix`; returns `Class: message`.

    The class is that of the error which ended it; `done` when none did.
    """
    script = (
        "import asyncio\n"
        f"async def main():\n    {code}\n"
        "try:\n    asyncio.run(main())\n    print('done')\n"
        "except Exception as error:\n    print(f'{type(error).__name__}: {error}')\n"
    )
    done = subprocess.run(
        [*prefix, sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=True,
        cwd=REPOSITORY,
    )
    return done.stdout.strip()


def without(*capabilities: str) -> tuple[str, ...]:
    """Returns the command prefix that takes capabilities away."""
    dropped = ",".join(f"-{capability}" for capability in capabilities)
    return ("setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}")


@pytest.fixture
def space(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """One empty namespace, with a lock of its own for the iptables programs that run in it."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    return rig.namespace("host")


@pytest.fixture
def host(space: Namespace) -> Namespace:
    """A host with one underlay interface of both families, MTU 1500."""
    space.bridge("eth0", "192.0.2.1/24")
    space.run("ip", "address", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
    space.sysctl("net/ipv6/conf/all/forwarding", 1)
    return space

"""An actuator of rules, and rules put right again by its events alone, whoever changes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tests.unit.host.firewall.site import NETWORK
from tunneld.daemon.reconcile import Reconciler
from tunneld.fib.state import EngineState, Firewall, State
from tunneld.host.actuator import Actuator
from tunneld.host.netlink import Netlink
from tunneld.host.underlay import Selection, find_underlay


@asynccontextmanager
async def actuated(directory: Path) -> AsyncIterator[Actuator]:
    """An actuator without a device; what it has put in force is gone afterwards."""
    async with Netlink.opened() as netlink:
        actuator = Actuator(
            netlink,
            device="flannel0",
            networks=[NETWORK],
            subnet_file=directory / "subnet.env",
            underlay=await find_underlay(Selection(interfaces=("eth0",)), netlink),
        )
        try:
            yield actuator
        finally:
            await actuator.close()


@asynccontextmanager
async def mended(actuator: Actuator, wanted: Firewall) -> AsyncIterator[None]:
    """Has the daemon's loop put the rules right at firewall events while the block runs."""
    state = State(engine=EngineState(), host=replace(await actuator.observe(), firewall=wanted))
    reconciler = Reconciler([actuator], lambda: state)
    actuator.on_change(lambda event: reconciler.wake() if event == "firewall" else None)
    mending = asyncio.create_task(reconciler.run())
    try:
        yield
    finally:
        mending.cancel()
        with suppress(asyncio.CancelledError):
            await mending

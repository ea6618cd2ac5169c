"""An actuator of rules, and rules put right again by its events alone, whoever changes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.unit.host.firewall.site import NETWORK
from tunneld.daemon.reconcile import RETRY_S
from tunneld.errors import HostError
from tunneld.fib.state import Firewall, HostChange
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
    """Does what the daemon does with firewall events while the block runs."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    actuator.on_change(lambda event: changed.set() if event == "firewall" else None)

    async def mend() -> None:
        while True:
            await changed.wait()
            changed.clear()
            try:
                if (await actuator.observe()).firewall != wanted:
                    await actuator.apply(HostChange(firewall=wanted))
            except HostError:
                # Somebody changed the rules between our look at them and our own change.
                loop.call_later(RETRY_S, changed.set)

    mending = asyncio.create_task(mend())
    try:
        yield
    finally:
        mending.cancel()
        with suppress(asyncio.CancelledError):
            await mending

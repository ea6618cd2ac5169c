"""Keeps asking which peers are on the same link, where the backend goes by that.

Path of a lease: `daemon.desired` (underlay addresses) -> **`daemon.on_link`** -> `daemon.desired`.
"""

from __future__ import annotations

import asyncio

from tunneld.daemon.desired import Desired
from tunneld.host.netlink import Netlink
from tunneld.host.on_link import on_link
from tunneld.host.underlay import Underlay
from tunneld.lease.model import IPAddress


class OnLinkWatch:
    """Asks the kernel's routing for peers that are new, and for all when routes have changed."""

    def __init__(self, *, netlink: Netlink, underlay: Underlay, desired: Desired) -> None:
        self._netlink = netlink
        self._underlay = underlay
        self._desired = desired
        self._answers: dict[IPAddress, bool] = {}
        self._wanted = asyncio.Event()
        self._is_stale = True

    def peers_changed(self) -> None:
        """Says that there may be peers nobody has asked about yet."""
        self._wanted.set()

    def routes_changed(self) -> None:
        """Says that what was answered may not be so any more."""
        self._is_stale = True
        self._wanted.set()

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            await self._wanted.wait()
            await self.ask()

    async def ask(self) -> None:
        """Finds out what is not known, or not any more."""
        self._wanted.clear()
        is_stale, self._is_stale = self._is_stale, False
        addresses = self._desired.underlay_addresses()
        asked = addresses if is_stale else addresses - self._answers.keys()
        found = await on_link(self._netlink, self._underlay, asked)
        kept = {address: self._answers[address] for address in addresses - asked}
        self._answers = kept | {address: address in found for address in asked}
        self._desired.set_on_link(self._answers)

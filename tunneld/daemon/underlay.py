"""Waits for the underlay, and notices when it gets another address, MTU or successor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from dataclasses import replace

from tunneld.backend.base import Family
from tunneld.errors import InterfaceError
from tunneld.host.monitor import Monitor
from tunneld.host.netlink import Netlink
from tunneld.host.underlay import Selection, Underlay, find_underlay

_EACH_ALONE: tuple[tuple[Family, ...], tuple[Family, ...]] = ((4,), (6,))

DETECTION_S = 30.0
"""How long a start waits for duplicate address detection. By default it takes one to two seconds
(RFC 4862 §5.4.2); an interface without a carrier does not begin with it."""

_log = logging.getLogger("tunneld.daemon")


class UnderlayMovedError(Exception):
    """Sockets bound to the old underlay are of no use any more; `underlay` is the new one."""

    def __init__(self, underlay: Underlay) -> None:
        addresses = ", ".join(map(str, underlay.addresses))
        super().__init__(f"the underlay is now {addresses} on {underlay.name}")
        self.underlay = underlay


async def any_underlay(selection: Selection, netlink: Netlink) -> Underlay:
    """Returns the underlay of a network whose families are not known yet: IPv4 goes first.

    Raises:
        InterfaceError: there is none, whatever the families are.
        UsageError: a regular expression does not compile.
    """
    ipv4, ipv6 = _EACH_ALONE
    try:
        return await find_underlay(selection, netlink, ipv4)
    except InterfaceError:
        with contextlib.suppress(InterfaceError):
            return await find_underlay(selection, netlink, ipv6)
        raise


async def settled_underlay(
    selection: Selection,
    netlink: Netlink,
    families: Collection[Family],
    *,
    patience_s: float = DETECTION_S,
    tell: Callable[[str | None], None] = lambda _problem: None,
) -> Underlay:
    """Returns the underlay once its addresses can be bound to.

    `tell` is told what keeps them from being bound to, in one line, and None once nothing does.

    Raises:
        InterfaceError: there is none, or an address is still tentative after `patience_s`.
        UsageError: a regular expression does not compile.
    """
    changed = asyncio.Event()
    monitor = Monitor(lambda _notice: changed.set())
    said = None
    try:
        found = await find_underlay(selection, netlink, families)
        async with asyncio.timeout(patience_s):
            while found.is_tentative:
                if said != (problem := _tentative(found)):
                    _log.info("waiting for an underlay address", extra={"fields": _asked(found)})
                    said = problem
                    tell(problem)
                await changed.wait()
                changed.clear()
                found = await find_underlay(selection, netlink, families)
    except TimeoutError:
        raise InterfaceError(
            f"{_tentative(found)} after {patience_s:.0f} s; expected duplicate address detection "
            f"to end: see whether {found.name} has a carrier, and net.ipv6.conf.{found.name}."
            "dad_transmits"
        ) from None
    finally:
        monitor.close()
    tell(None)
    return found


def _tentative(underlay: Underlay) -> str:
    return f"underlay address {underlay.address_v6} on {underlay.name} is still tentative"


def _asked(underlay: Underlay) -> dict[str, str]:
    return {
        "interface": underlay.name,
        "address": str(underlay.address_v6),
        "detail": "duplicate address detection has not ended",
    }


class UnderlayWatch:
    """Looks the underlay up again after each hint, and compares it with the one in use."""

    def __init__(
        self,
        *,
        selection: Selection,
        families: Collection[Family],
        netlink: Netlink,
        underlay: Underlay,
        mtu_changed: Callable[[int], None],
    ) -> None:
        self._selection = selection
        self._families = families
        self._netlink = netlink
        self._underlay = underlay
        self._mtu_changed = mtu_changed
        self._hint = asyncio.Event()
        self.problem: str | None = None
        """Why there is no underlay at the moment, in one line; None while there is one."""

    def hint(self) -> None:
        """Says that something about interfaces may have changed."""
        self._hint.set()

    async def run(self) -> None:
        """Works until cancelled.

        Raises:
            UnderlayMovedError: everything bound to the old address has to be opened anew.
        """
        while True:
            await self._hint.wait()
            self._hint.clear()
            try:
                found = await find_underlay(self._selection, self._netlink, self._families)
            except InterfaceError as error:
                # It may come back as it was; what is bound to its address still stands.
                if self.problem is None:
                    _log.warning(
                        "the underlay interface is away; waiting for it",
                        extra={"fields": {"interface": self._underlay.name, "error": str(error)}},
                    )
                self.problem = str(error)
                continue
            if found.is_tentative:
                # Of its end the kernel tells; until then nothing can be bound to the address.
                if self.problem != (problem := _tentative(found)):
                    _log.info("waiting for an underlay address", extra={"fields": _asked(found)})
                self.problem = problem
                continue
            self.problem = None
            if replace(found, mtu_bytes=self._underlay.mtu_bytes) != self._underlay:
                raise UnderlayMovedError(found)
            if found.mtu_bytes != self._underlay.mtu_bytes:
                self._underlay = found
                self._mtu_changed(found.mtu_bytes)

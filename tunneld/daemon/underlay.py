"""Keeps the underlay: waits for it, notices what becomes of it, and says where it has moved.

Path of a lease: the kernel -> `host.underlay` -> **`daemon.underlay`** -> `daemon.node`. It lives
as long as a network config is in force, whatever becomes of leases and data paths meanwhile. The
rule by which one underlay follows another is `daemon.succession`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from ipaddress import ip_address
from typing import Any, NoReturn

from tunneld.backend.base import Family
from tunneld.daemon.succession import Addresses, Sight, Succession
from tunneld.errors import HostError, InterfaceError
from tunneld.host.interfaces import Interface, list_interfaces
from tunneld.host.monitor import Monitor, Notice
from tunneld.host.netlink import Netlink
from tunneld.host.state_dir import StateDir
from tunneld.host.underlay import (
    Selection,
    Underlay,
    choose_underlay,
    find_underlay,
    held_underlay,
)
from tunneld.log import Condition

NAME = "underlay"
FORMAT = 1

EACH_ALONE: tuple[tuple[Family, ...], tuple[Family, ...]] = ((4,), (6,))

COMPARE_S = 60.0
"""How often the underlay is looked at although nothing was heard: events may be missed."""

WAITING_S = 1.0
"""How often while there is none, or one that was in use before may return."""

INTERVAL_S = 0.05
"""Least time between two looks."""

_log = logging.getLogger("tunneld.daemon")


class UnderlayMovedError(Exception):
    """What is bound to the old underlay is of no use any more; `underlay` is the new one."""

    def __init__(self, underlay: Underlay) -> None:
        addresses = ", ".join(map(str, underlay.addresses))
        super().__init__(f"the underlay is now {addresses} on {underlay.name}")
        self.underlay = underlay


def underlay_lack() -> Condition:
    """Returns the one of the lack of an underlay, in whatever phase of a node."""
    return Condition(_log, "waiting for an underlay address", "the underlay is there")


class UnderlayKeeper:
    """The underlay of one network config."""

    def __init__(
        self,
        *,
        selection: Selection,
        families: Collection[Family],
        netlink: Netlink,
        state_dir: StateDir,
        check: Callable[[Underlay], None],
        lack: Condition,
    ) -> None:
        """`check` raises InterfaceError for an underlay that the backend cannot work on."""
        self._selection = selection
        self._families = families
        self._netlink = netlink
        self._state_dir = state_dir
        self._check = check
        self._lack = lack
        self._succession = Succession(_remembered(state_dir))
        self._hint = asyncio.Event()
        self._changed = asyncio.Event()
        self._refusal = ""
        self._making = 0

    async def run(self) -> NoReturn:
        """Works until cancelled."""
        monitor = _monitor(self._selection, self._notice)
        try:
            await self._watch()
        finally:
            monitor.close()

    async def settled(self) -> Underlay:
        """Returns the underlay in use, once it is there and can be bound to."""
        while True:
            succession = self._succession
            if succession.in_use is not None and succession.is_held:
                return succession.in_use
            await self._changed.wait()

    async def follow(
        self, underlay: Underlay, mtu_changed: Callable[[int], None] = lambda _mtu: None
    ) -> NoReturn:
        """Stays as long as `underlay` is the one in use.

        Raises:
            UnderlayMovedError: another one is, or `remake` was called.
        """
        mtu_bytes, making = underlay.mtu_bytes, self._making
        while True:
            found = self._succession.in_use
            if found is not None and (not found.is_same(underlay) or making != self._making):
                raise UnderlayMovedError(found)
            if found is not None and found.mtu_bytes != mtu_bytes:
                mtu_bytes = found.mtu_bytes
                mtu_changed(mtu_bytes)
            await self._changed.wait()

    def remake(self) -> None:
        """Has all that follow the underlay begin anew on it."""
        self._making += 1
        self._tell_changed()

    async def changed_within(self, wait_s: float) -> None:
        """Returns when the underlay has changed in some way, or after `wait_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._changed.wait()

    def _notice(self, notice: Notice) -> None:
        in_use = self._succession.in_use
        is_sure = self._succession.is_held and not self._succession.preferred(in_use)
        match notice.kind:
            case "lost" | "lost routes" | "address":
                self._hint.set()
            case "link":
                is_ours = in_use is not None and (
                    notice.index == in_use.index or notice.name == in_use.name
                )
                if is_ours or not is_sure:
                    self._hint.set()
            case "route" if notice.is_default or (
                not is_sure and self._selection.can_reach is not None
            ):
                self._hint.set()

    async def _watch(self) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            self._hint.clear()
            looked_at_s = loop.time()
            await self._look()
            is_waiting = not self._succession.is_held or self._lack.problem is not None
            wait_s = WAITING_S if is_waiting else COMPARE_S
            grace_s = self._succession.wait_s(loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s if grace_s is None else min(wait_s, grace_s)):
                    await self._hint.wait()
            await asyncio.sleep(looked_at_s + INTERVAL_S - loop.time())

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        before = self._succession.in_use
        try:
            interfaces = await list_interfaces(self._netlink, self._families)
            held = before and await held_underlay(before, interfaces, self._netlink)
            chosen = await self._chosen(interfaces, held)
        except HostError as error:
            self._lack.set(loop.time(), str(error))
            return
        every = frozenset(address for one in interfaces for address in one.every)
        sight = Sight(held=held, chosen=chosen, addresses=every)
        if self._succession.see(sight, loop.time()):
            if (taken := self._succession.in_use) is not None and taken.port:
                _log.info(
                    "the interface asked for is a port; the address of its bridge or bond is used",
                    extra={"fields": {**_fields(taken), "detail": f"port {taken.port}"}},
                )
            self._state_dir.save(NAME, _document(self._succession.memory))
        self._tell(before, chosen)
        self._tell_changed()

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _chosen(self, interfaces: list[Interface], held: Underlay | None) -> Underlay | None:
        """Returns what the selection means, where that matters; notes why it means nothing."""
        preferred = self._succession.preferred(held)
        self._refusal = ""
        if held is not None and not preferred:
            return None
        try:
            found = await choose_underlay(
                self._selection, interfaces, self._netlink, self._families, preferred
            )
            self._check(found)
        except InterfaceError as error:
            self._refusal = str(error)
            return None
        return found

    def _tell(self, before: Underlay | None, chosen: Underlay | None) -> None:
        in_use = self._succession.in_use
        now_s = asyncio.get_running_loop().time()
        if in_use is not None and self._succession.is_held:
            self._lack.clear(**_fields(in_use))
        elif in_use is not None and before is not None and in_use.is_tentative:
            self._lack.set(now_s, _tentative(in_use), **_fields(in_use))
        elif chosen is not None and chosen.is_tentative:
            self._lack.set(now_s, _tentative(chosen), **_fields(chosen))
        elif chosen is not None and before is not None:
            text = (
                f"underlay address {_addresses(before)} is gone from {before.name}; waiting for "
                f"it before {_addresses(chosen)} on {chosen.name} takes its place"
            )
            self._lack.set(now_s, text, **_fields(before))
        else:
            self._lack.set(now_s, self._refusal, **({} if before is None else _fields(before)))


async def tell_whether_any(selection: Selection, netlink: Netlink, lack: Condition) -> NoReturn:
    """Says, until cancelled, whether this host has an underlay of whatever family.

    For the time before the network config is there, which tells the families.

    Raises:
        UsageError: a regular expression does not compile.
    """
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    monitor = _monitor(selection, lambda _notice: changed.set())
    try:
        while True:
            changed.clear()
            try:
                await _any_underlay(selection, netlink)
            except HostError as error:
                lack.set(loop.time(), str(error))
            else:
                lack.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAITING_S if lack.problem else COMPARE_S):
                    await changed.wait()
            await asyncio.sleep(INTERVAL_S)
    finally:
        monitor.close()


def _monitor(selection: Selection, notice: Callable[[Notice], None]) -> Monitor:
    """Watches what decides on the underlay.

    Of routes these are default ones, or with `can_reach` any: a routing daemon may change others
    by the thousand.
    """
    within = () if selection.can_reach is None else None
    return Monitor(notice, firewall=False, routes_within=within)


async def _any_underlay(selection: Selection, netlink: Netlink) -> Underlay:
    ipv4, ipv6 = EACH_ALONE
    try:
        return await find_underlay(selection, netlink, ipv4)
    except InterfaceError:
        with contextlib.suppress(InterfaceError):
            return await find_underlay(selection, netlink, ipv6)
        raise


def _tentative(underlay: Underlay) -> str:
    return f"underlay address {underlay.address_v6} on {underlay.name} is still tentative"


def _addresses(underlay: Underlay) -> str:
    return ", ".join(map(str, underlay.addresses))


def _fields(underlay: Underlay) -> dict[str, str]:
    return {"interface": underlay.name, "address": _addresses(underlay)}


def _remembered(state_dir: StateDir) -> tuple[Addresses, ...]:
    """Returns the addresses in use before; nothing where they cannot be read."""
    document = state_dir.load(NAME)
    try:
        if not isinstance(document, dict) or document.get("Format") != FORMAT:
            return ()
        return tuple(tuple(map(ip_address, one)) for one in document["Addresses"])
    except (LookupError, TypeError, ValueError) as error:
        _log.warning(
            "which underlay address was in use before cannot be read",
            extra={"fields": {"entry": NAME, "error": str(error)}},
        )
        return ()


def _document(memory: tuple[Addresses, ...]) -> dict[str, Any]:
    return {"Format": FORMAT, "Addresses": [[str(each) for each in one] for one in memory]}

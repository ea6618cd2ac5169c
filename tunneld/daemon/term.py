"""One term of a node: one network config in force, on whatever underlay there is.

Path of a lease: `daemon.membership` -> **`daemon.term`** -> `daemon.tenure`. Lease and data path
follow the underlay side by side: packets wait for no answer of a store to which the old address
led, and the lease waits for no device. What fails on this host is tried again, whenever it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from tunneld.backend.base import Backend
from tunneld.clock import since_boot_s
from tunneld.daemon.cache import Cache
from tunneld.daemon.datapath import DataPath, name_of
from tunneld.daemon.here import this_host
from tunneld.daemon.membership import remember
from tunneld.daemon.tenure import NodeContext, Tenure
from tunneld.daemon.together import together
from tunneld.daemon.underlay import UnderlayKeeper, UnderlayMovedError
from tunneld.errors import (
    CapabilityError,
    DeviceLostError,
    EngineError,
    HostError,
    NetworkConfigError,
    TunDeviceError,
)
from tunneld.host import subnet_env
from tunneld.host.underlay import Selection, Underlay
from tunneld.lease.model import LeaseAttributes, SubnetKey
from tunneld.lease.network import NetworkConfig, parse
from tunneld.log import Condition, Periodic

LISTEN_S = 5.0
"""How long a lease waits for the port of encryption: its record says at once where that is."""

RETRY_S = 1.0
"""How long after a refusal of this host the next attempt is made, if nothing happens before."""

_PASSING = frozenset({errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ENOMEM})

_log = logging.getLogger("tunneld.daemon")


class ConfigChangedError(Exception):
    """The config in force is not the network's: lease and data path have to be made anew."""


class Term:
    """A lease held and packets carried, as one network config says."""

    def __init__(
        self,
        context: NodeContext,
        *,
        config: NetworkConfig,
        backend: Backend,
        text: str | None,
        is_remembered: bool,
        selection: Selection,
        cache: Cache,
        underlay_lack: Condition,
        announce: Callable[[DataPath], None],
        replaced: Callable[[], Awaitable[None]],
        followed: Callable[[str], Awaitable[None]],
    ) -> None:
        """Does nothing yet.

        Args:
            context: what outlives a term.
            config: the network config in force.
            backend: how its packets travel.
            text: the config as the store has it.
            is_remembered: whether it is from memory, and the store has not been heard yet.
            selection: how the operator names the underlay.
            cache: where the table is written down.
            underlay_lack: who tells that there is no underlay.
            announce: called each time that a data path forwards.
            replaced: called when another config is to be followed, while packets still travel.
            followed: called with the text of a config that is followed in place, after each step.
        """
        self._context = context
        self._config = config
        self._backend = backend
        self._text = text
        self._is_remembered = is_remembered
        self._cache = cache
        self._announce = announce
        self._before_replacement = replaced
        self._after_step = followed
        self._tenure: Tenure | None = None
        self._has_other_mode = asyncio.Event()
        self._listens_on: Underlay | None = None
        """Where the ports of the data path are open."""
        self._listening = asyncio.Event()
        self._foreign: str | None = None
        self._foreign_told = Periodic()
        self._replaced = asyncio.Event()
        self._has_carried = False
        self._lack = Condition(_log, "no data path; trying again", "there is a data path again")
        self._double = Condition(
            _log, "another host lives with this host's keys", "no other host has this host's keys"
        )
        self._underlays = UnderlayKeeper(
            selection=selection,
            families=backend.families,
            netlink=context.netlink,
            state_dir=context.state_dir,
            check=lambda underlay: backend.check(this_host(underlay, context.state_dir)),
            lack=underlay_lack,
        )

    async def run(self) -> NoReturn:
        """Holds a lease and carries packets until cancelled.

        Raises:
            ConfigChangedError: the config was a remembered one, and the store has another; or the
                store's asks for more encryption.
            CapabilityError, TunDeviceError: no data path can ever be opened here.
        """
        membership = self._context.membership
        forget_problem = self._context.report.add(
            lambda: filter(None, (self._lack.problem, self._double.problem))
        )
        try:
            with membership.telling(self._compare_config):
                self._compare_config()
                await together(
                    self._underlays.run(),
                    self._hold(),
                    self._carry(),
                    remember(self._cache, membership),
                    self._wait_for_config(),
                    self._follow_modes(),
                )
        finally:
            forget_problem()
            await self._context.handover.end()
        raise AssertionError("the loops of a term have no end")

    def remake(self) -> None:
        """Has lease and data path made anew: what was known of this host is another's."""
        self._underlays.remake()

    async def _hold(self) -> NoReturn:
        """Keeps the lease one that names the underlay in use."""
        context = self._context
        while True:
            underlay = await self._underlays.settled()
            try:
                attributes = self._backend.attributes(this_host(underlay, context.state_dir))
                previous = previous_subnet(context.options.subnet_file)
                await together(
                    self._underlays.follow(underlay), self._hold_on(underlay, attributes, previous)
                )
            except UnderlayMovedError:
                context.membership.reconnect()
            except HostError:
                # The data path needs the same of this host, and tells of it.
                await self._underlays.changed_within(RETRY_S)

    async def _hold_on(
        self, underlay: Underlay, attributes: LeaseAttributes, previous: SubnetKey | None
    ) -> NoReturn:
        """Holds a lease that says this, with a record that says where encryption listens."""
        if self._context.protection.esp is not None:
            try:
                async with asyncio.timeout(LISTEN_S):
                    while self._listens_on is None or not self._listens_on.is_same(underlay):
                        self._listening.clear()
                        await self._listening.wait()
            except TimeoutError:
                if self._listens_on is None:
                    # To a host without keys others may send in plain.
                    self._context.membership.publish(self._context.protection.silent)
            await self._until_sole()
        await self._context.membership.hold(self._config, attributes, previous)

    async def _until_sole(self) -> None:
        """Waits while another host holds this one's lease with a copy of its keys."""
        membership, protection = self._context.membership, self._context.protection
        changed = asyncio.Event()
        with membership.telling(changed.set):
            while protection.is_of_a_copy(found := membership.tracker.record(membership.node_id)):
                where = found.holder if found is not None else "an unknown address"
                self._double.set(
                    asyncio.get_running_loop().time(),
                    f"a host at {where} has written its record with this host's key: the state "
                    "directory of one is a copy of the other's; expected `tunneld identity new` on "
                    "the copy and a start, or --take-over where that host is gone for good",
                    node_id=membership.node_id,
                )
                changed.clear()
                await changed.wait()
        self._double.clear()

    def _listens(self, underlay: Underlay) -> None:
        self._listens_on = underlay
        self._listening.set()

    async def _carry(self) -> NoReturn:
        """Keeps a data path on the underlay in use.

        Raises:
            CapabilityError, TunDeviceError: there has never been one, and never can be.
        """
        while True:
            underlay = await self._underlays.settled()
            try:
                tenure = self._tenure = Tenure(
                    self._context,
                    config=self._config,
                    backend=self._backend,
                    underlay=underlay,
                    announce=self._carries,
                    listens=partial(self._listens, underlay),
                )
                await together(self._hand_over_when_moved(underlay, tenure), tenure.run())
            except UnderlayMovedError as moved:
                _tell_moved(underlay, moved.underlay)
            except DeviceLostError as lost:
                _log.warning(
                    "the overlay device is lost; the data path is built anew",
                    extra={"fields": {"error": str(lost)}},
                )
            except (HostError, EngineError, OSError) as error:
                # An OSError no room has foreseen may pass as well: descriptors or memory run out.
                if not self._has_carried and _lasts(error):
                    raise
                self._lack.set(asyncio.get_running_loop().time(), str(error))
                await self._underlays.changed_within(RETRY_S)

    async def _hand_over_when_moved(self, underlay: Underlay, tenure: Tenure) -> NoReturn:
        try:
            await self._underlays.follow(underlay, tenure.set_underlay_mtu)
        except UnderlayMovedError:
            self._context.handover.is_due = True
            raise

    def _carries(self, path: DataPath) -> None:
        self._has_carried = True
        self._context.handover.is_taken_over(name_of(path.devices))
        self._lack.clear()
        self._announce(path)

    def _compare_config(self) -> None:
        membership = self._context.membership
        text = membership.tracker.config_text
        if text not in (None, self._text) and self._context.protection.can_follow(
            self._config, text
        ):
            self._text, self._foreign, self._is_remembered = text, None, False
            self._has_other_mode.set()
            return
        if self._is_remembered and not membership.goes_by_memory:
            self._is_remembered = False
            if text not in (None, self._text) and self._is_usable(text):
                self._replaced.set()
                return
        if text in (self._text, self._foreign):
            return
        if self._context.protection.is_raised_by(text):
            self._replaced.set()
            return
        self._foreign = text
        if self._foreign_told.due(time.monotonic(), text):
            _log.warning(
                "the network config in the store is not the one in force any more; "
                "a changed one takes effect when tunneld is started again",
                extra={"fields": self._foreign_told.omissions()},
            )

    def _is_usable(self, text: str | None) -> bool:
        try:
            self._context.protection.backend_of(parse(text or ""))
        except NetworkConfigError:
            return False
        return True

    async def _follow_modes(self) -> NoReturn:
        """Follows the network's mode of encryption without opening the data path again."""
        protection, again_s = self._context.protection, None
        while True:
            wait_s = None if again_s is None else max(0.0, again_s - since_boot_s())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._has_other_mode.wait()
            self._has_other_mode.clear()
            text = self._text or ""
            await self._before_replacement()
            self._config = parse(text)
            again_s = protection.follow(self._config)
            if self._tenure is not None:
                self._tenure.mode_changed()
            await self._after_step(text)

    async def _wait_for_config(self) -> NoReturn:
        await self._replaced.wait()
        await self._before_replacement()
        raise ConfigChangedError


def _lasts(error: Exception) -> bool:
    """Returns whether a lack does not pass by itself: a right, or the TUN driver."""
    passes = getattr(error.__cause__, "errno", None) in _PASSING
    return isinstance(error, CapabilityError | TunDeviceError) and not passes


def _tell_moved(before: Underlay, underlay: Underlay) -> None:
    _log.warning(
        "this host's VTEP addresses were another's; the data path is built anew"
        if underlay.is_same(before)
        else "the underlay has moved; the data path is built anew",
        extra={
            "fields": {
                "interface": underlay.name,
                "address": ", ".join(map(str, underlay.addresses)),
            }
        },
    )


def previous_subnet(path: Path) -> SubnetKey | None:
    """Returns the subnets that subnet.env names; None: it names none, or cannot be read."""
    try:
        previous = subnet_env.read(path)
    except HostError as error:
        _log.warning(
            "the former subnet.env cannot be read; going on without it",
            extra={"fields": {"path": str(path), "error": str(error)}},
        )
        return None
    return subnet_env.key(previous) if previous else None

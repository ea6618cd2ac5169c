"""This node's place in the network: follows the store, holds a lease, takes it back when lost.

Path of a lease: `store` -> **`daemon.membership`** (`lease.tracker`, `lease.keeper`) ->
`daemon.desired`. The rules are in `lease`; here are only the loops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

from tunneld.daemon.cache import Cache, Remembered
from tunneld.daemon.skips import REMINDER_S, Skips
from tunneld.errors import (
    GrantLostError,
    LeaseError,
    NetworkConfigError,
    StoreError,
)
from tunneld.lease.coexistence import conflict
from tunneld.lease.keeper import Keeper
from tunneld.lease.model import (
    Batch,
    Lease,
    LeaseAttributes,
    RecordEncryption,
    Snapshot,
    SubnetKey,
    Unreadable,
)
from tunneld.lease.network import NetworkConfig, parse
from tunneld.lease.ownership import Held
from tunneld.lease.registry import Store, StoreStatus
from tunneld.lease.selection import Skipped
from tunneld.lease.tracker import LeaseTracker
from tunneld.log import Condition, Periodic

REMEMBER_S = 1.0
"""How often, at the most, the table is written down: a large network changes often."""

REMEMBER_SHARE = 0.05
"""The most of the time that goes into writing it down, however large it is."""

RETRY_S = 1.0
"""How long after a refusal the next attempt to get a lease is made."""

PATIENCE_S = 3.0
"""How long a start waits for the store when it could go by what is remembered."""

_log = logging.getLogger("tunneld.daemon")


class Membership:
    """The lease table as the store tells it, and this node's own lease in it."""

    def __init__(self, store: Store, keeper: Keeper, prefix: str) -> None:
        self._config_key = f"{prefix.rstrip('/')}/config"
        self._store = store
        self._keeper = keeper
        self.tracker = LeaseTracker()
        self._news = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self._no_config = Periodic(REMINDER_S)
        self._no_lease = Condition(_log, "no lease yet", "there is a lease")
        self._unshareable = Condition(
            _log,
            "this network cannot be shared",
            "no flanneld is in the network any more",
            logging.ERROR,
        )
        self._skips = Skips(self.tracker)
        self._is_leaving = False
        self._config: NetworkConfig | None = None
        self._is_joining = False
        self._is_untold = False
        """Whether it was no time to count what is skipped, and nobody has looked since."""
        self.goes_by_memory = False
        """Whether the table is a remembered one, of which the store has not been heard yet."""

    @property
    def node_id(self) -> str:
        """By which this node knows its lease again."""
        return self._keeper.node_id

    @property
    def own(self) -> Lease | None:
        """The lease this node holds, or goes on with while it takes it back."""
        return self._keeper.lease

    @property
    def left_s(self) -> float | None:
        """Seconds until the own lease ends if it is not renewed; negative: since it has."""
        return self._keeper.left_s

    @property
    def problem(self) -> str | None:
        """What is wrong with the own lease, in one line."""
        return self._no_lease.problem or self._keeper.problem or self._unshareable.problem

    def store_status(self) -> StoreStatus:
        """Returns how the store is reached."""
        return self._store.status()

    @contextlib.contextmanager
    def telling(self, listener: Callable[[], None]) -> Iterator[None]:
        """Calls `listener` after every change of the table or of the own lease."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def tell_skipped(self, skipped: Iterable[Skipped]) -> None:
        """Counts and logs, once, leases of the others that are not used."""
        own = self.own
        if self._is_joining or own is None or self.tracker.revision < own.mod_revision:
            # The own lease may be there as it was before a write, or after one not yet answered.
            self._is_untold = True
            return
        self._is_untold = False
        self._skips.tell(skipped)

    async def remind(self) -> None:
        """Tells how many skipped leases no line was written of, once a minute, for ever."""
        while True:
            await asyncio.sleep(REMINDER_S)
            self._skips.remind()

    async def follow(self) -> None:
        """Takes over what the store tells, for ever."""
        async for news in self._store.watch():
            match news:
                case Snapshot():
                    self.goes_by_memory = False
                    self.tracker.reset(news)
                case Batch():
                    self.tracker.apply(news)
            self._tell()

    async def first_config(self, remembered: Remembered | None) -> NetworkConfig:
        """Waits for a network config; goes by what is remembered if the store keeps away.

        Raises:
            NetworkConfigError: there is one, and it is not usable.
        """
        loop = asyncio.get_running_loop()
        if remembered is not None and not self.tracker.history:
            await self._changed_within(PATIENCE_S)
            if not self.tracker.history:
                self.goes_by_memory = True
                self.tracker.reset(remembered.table)
                self._keeper.adopt(remembered.own, remembered.left_s, self.tracker)
        while (text := self.tracker.config_text) is None:
            if self.tracker.history and self._no_config.due(loop.time()):
                _log.warning(
                    "the store holds no network config; waiting for one: "
                    "write it with `tunneld network set FILE`",
                    extra={"fields": {"entry": self._config_key}},
                )
            await self._changed_within(REMINDER_S)
        self._config = parse(text)
        return self._config

    async def another_config_within(self, text: str | None, wait_s: float) -> None:
        """Returns when the store's network config is another than `text`, or after `wait_s`."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + wait_s
        while self.tracker.config_text == text and (left_s := ends_s - loop.time()) > 0:
            await self._changed_within(left_s)

    async def join(
        self,
        config: NetworkConfig,
        attributes: LeaseAttributes,
        previous: SubnetKey | None,
    ) -> Lease:
        """Gets a lease with these attributes, however long the store takes, or its hosts.

        While a newcomer would not be safe beside the hosts of this network, it waits too.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._refuse_newcomer(config, attributes)
                with self._joining():
                    lease = await self._keeper.acquire(self.tracker, config, attributes, previous)
            except (StoreError, LeaseError, NetworkConfigError) as error:
                self._no_lease.set(loop.time(), str(error))
                await self._changed_within(RETRY_S)
            else:
                self._no_lease.clear()
                self._tell()
                return lease

    @contextlib.contextmanager
    def _joining(self) -> Iterator[None]:
        self._is_joining = True
        try:
            yield
        finally:
            self._is_joining = False
            if self._is_untold:
                # Where no lease was got, nothing else may have who looks at the table look again.
                self._tell()

    def _refuse_newcomer(self, config: NetworkConfig, attributes: LeaseAttributes) -> None:
        """Refuses a node that has no lease yet; one that is in the network goes on, degraded."""
        tracker = self.tracker
        if self.own is not None or any(
            record.node_id == self._keeper.node_id and record.describes(lease)
            for record in tracker.records
            if (lease := tracker.lease(record.key)) is not None
        ):
            return
        found = conflict(config, tracker.leases, tracker.records, attributes.holder)
        if found is not None:
            raise NetworkConfigError(found)

    def _compare_neighbours(self) -> None:
        own = self.own
        if self._config is None or own is None:
            return
        tracker = self.tracker
        found = conflict(self._config, tracker.leases, tracker.records, own.holder)
        if found is None:
            self._unshareable.clear()
        elif found != self._unshareable.problem:
            self._unshareable.set(time.monotonic(), found)

    def holds(self, attributes: LeaseAttributes) -> bool:
        """Returns whether there is a lease and it says just this."""
        return self.own is not None and self.own.attributes == attributes

    async def hold(
        self,
        config: NetworkConfig,
        attributes: LeaseAttributes,
        previous: SubnetKey | None = None,
    ) -> NoReturn:
        """Gets a lease that says this, in place of one that does not, and keeps it until cancelled.

        One that is lost is got back, or another one. `previous`: the subnet of an earlier run.
        """
        if not self.holds(attributes) or not self._is_admitted(config):
            await self.join(config, attributes, previous)
        taken_s = -math.inf
        while True:
            await self._until_lost()
            if self._is_leaving:
                # Lost by our own will: it must not be taken back before the node has ended.
                await self._changed_within(RETRY_S)
            else:
                # Of two hosts with one node id and one address, neither gives way.
                await asyncio.sleep(taken_s + RETRY_S - asyncio.get_running_loop().time())
                await self.join(config, attributes, None)
                taken_s = asyncio.get_running_loop().time()

    def _is_admitted(self, config: NetworkConfig) -> bool:
        return self.own is not None and config.admits(self.own.key)

    def recall(self, lease: Lease) -> None:
        """Says which lease an earlier run of this host held last."""
        self._keeper.recall(lease)

    def publish(self, encryption: RecordEncryption | Unreadable | None) -> None:
        """Has the record say this of keys: only while their port listens. None: there are none."""
        self._keeper.publish(encryption)
        # Who answers for the lease writes the record: who follows the table is woken.
        self._tell()

    def reconnect(self) -> None:
        """Has the store asked over new connections: the address of the old ones is gone."""
        self._store.reconnect()

    async def leave(self) -> None:
        """Gives the lease back.

        Raises:
            StoreError: the store does not answer; nothing has changed.
        """
        self._is_leaving = True
        try:
            await self._keeper.leave()
        except StoreError:
            self._is_leaving = False
            raise

    async def _until_lost(self) -> None:
        keeping = asyncio.create_task(self._keeper.keep())
        try:
            while isinstance(self._keeper.observe(self.tracker), Held):
                changed = asyncio.create_task(self._news.wait())
                try:
                    await asyncio.wait({keeping, changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                if keeping.done():
                    keeping.result()
                self._news.clear()
        except GrantLostError:
            return
        finally:
            keeping.cancel()

    async def _changed_within(self, wait_s: float) -> None:
        """Returns at the next change of the table, or after `wait_s`."""
        try:
            # Not wait_for: before Python 3.12 it may lose a cancellation.
            async with asyncio.timeout(wait_s):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    def _tell(self) -> None:
        self._compare_neighbours()
        self._news.set()
        for listener in self._listeners:
            listener()


async def remember(cache: Cache, membership: Membership) -> None:
    """Writes the table down after it has changed, at most once in `REMEMBER_S`, for ever.

    Renewals change nothing in the table, but when the own lease ends: that is written down anew
    ten times in the life of a lease.
    """
    changed = asyncio.Event()
    with membership.telling(changed.set):
        while True:
            changed.clear()
            pause_s = REMEMBER_S
            own, left_s = membership.own, membership.left_s or 0.0
            if own is not None:
                table = membership.tracker.view
                begun_s = time.monotonic()
                await asyncio.to_thread(cache.save, table, own, left_s)
                pause_s = max(pause_s, (time.monotonic() - begun_s) / REMEMBER_SHARE)
            await asyncio.sleep(pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(left_s / 10, REMEMBER_S)):
                    await changed.wait()

"""What a node remembers of its network across a restart, so that it forwards without the store.

Path of a lease: `lease.tracker` -> **`daemon.cache`** (a file in the state directory) -> the
next start. Entries are kept in the store's own texts; what cannot be read counts as nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from tunneld.clock import Now
from tunneld.errors import NetworkConfigError
from tunneld.host.state_dir import StateDir
from tunneld.lease.kinship import are_apart
from tunneld.lease.model import Lease, NodeRecord, Snapshot
from tunneld.lease.network import NetworkConfig, parse
from tunneld.store import format as texts

NAME = "network"
FORMAT = 1

RETRY_S = 5.0
"""How often a disk that took nothing is tried again."""

_log = logging.getLogger("tunneld.daemon")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A node's network as it was when it was last written down."""

    table: Snapshot
    own: Lease
    left_s: float
    """Seconds until the own lease ends."""


class Cache:
    """The file in the state directory."""

    def __init__(
        self,
        state_dir: StateDir,
        source: str,
        places: Collection[str] = (),
        cluster: Callable[[], str | None] = lambda: None,
        machine: str | None = None,
    ) -> None:
        """`source` names the kind of store and the prefix: another network's memory is of no use.

        Nor is that of another cluster with the same prefix: `places` are the endpoints or the file
        that the store is looked for at, and `cluster` says which one it is, once that is known.
        `machine` is that of `lease.kinship`: what another one remembered is not this host's lease.
        """
        self._machine = machine
        self._state_dir = state_dir
        self._source = source
        self._places = tuple(places)
        self._cluster = cluster
        self._last_cluster: str | None = None
        self._is_forgotten = False
        self.last_own: Lease | None = None
        """The lease that was remembered at the last `load`, also where it has ended since."""

    def save(
        self, table: Snapshot, own: Lease, expires_in_s: float, now: Now | None = None
    ) -> None:
        """Writes everything down; replaces what was remembered, in one step.

        Nothing after `forget`, whose call may have come in between.
        """
        if self._is_forgotten:
            return
        now = now or Now.read()
        self._state_dir.save(
            NAME,
            {
                "Format": FORMAT,
                "Source": self._source,
                "Places": list(self._places),
                "Cluster": self._cluster() or self._last_cluster,
                "Machine": self._machine,
                "Revision": table.revision,
                "Config": table.config,
                "Own": texts.format_lease_key(own.key),
                "ExpiresAt": now.wall_s + expires_in_s,
                "Boot": now.boot_id,
                "EndsAt": now.boot_s + expires_in_s,
                "Leases": [*map(_lease_text, _others(table, own)), _lease_text(own)],
                "Nodes": {
                    record.node_id: texts.encode_record(record).decode() for record in table.records
                },
            },
        )

    def follow(self, config: str) -> None:
        """Takes another network config over into what is remembered; makes no memory of none."""
        document = self._state_dir.load(NAME)
        if isinstance(document, dict) and document and document.get("Config") != config:
            self._state_dir.save(NAME, {**document, "Config": config})

    def forget(self) -> None:
        """Makes the next start ask the store."""
        self._is_forgotten = True
        self._state_dir.save(NAME, {})

    def load(self, now: Now | None = None) -> Remembered | None:
        """Returns what was remembered, unless the own lease has ended since or it is unreadable.

        How long the lease lasts is told by the clock since the system's start where that is still
        the same, else by the wall clock. That one may lie: the lease's life bounds it elsewhere.
        """
        document = self._state_dir.load(NAME)
        if not document:
            return None
        try:
            return self._remembered(document, now or Now.read())
        except (
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
        ) as error:
            self.last_own = None
            _log.warning(
                "the remembered network is damaged; waiting for the store",
                extra={"fields": {"entry": NAME, "error": f"{type(error).__name__}: {error}"}},
            )
            return None

    def _remembered(self, document: Any, now: Now) -> Remembered | None:  # noqa: ANN401 - any JSON
        if not self._is_of_this_host(document):
            return None
        left_s = _left_s(document, now)
        leases = {item["Key"]: _lease(item) for item in document["Leases"]}
        own = leases[document["Own"]]
        self.last_own = own
        if left_s <= 0:
            return None
        records: list[NodeRecord] = [
            texts.decode_record(node_id, value.encode())
            for node_id, value in document["Nodes"].items()
        ]
        config = document["Config"]
        if not isinstance(config, str):
            raise TypeError("Config is no text")
        table = Snapshot(
            revision=int(document["Revision"]),
            config=config,
            leases=tuple(leases.values()),
            records=tuple(records),
        )
        self._last_cluster = document.get("Cluster")
        return Remembered(table=table, own=own, left_s=left_s)

    def _is_of_this_host(self, document: Any) -> bool:  # noqa: ANN401 - as above
        """Returns whether it is what this host has remembered of this network."""
        if document.get("Format") != FORMAT or document.get("Source") != self._source:
            return False
        if not self._is_of_this_store(document):
            _log.warning(
                "the remembered network is that of another store; waiting for this one",
                extra={"fields": {"endpoint": ", ".join(self._places)}},
            )
            return False
        if are_apart(document.get("Machine"), self._machine):
            _log.warning("the remembered network is of another machine; waiting for the store")
            return False
        return True

    def _is_of_this_store(self, document: dict[str, Any]) -> bool:
        """Returns whether what is remembered may be of this store; told by the cluster, if known.

        A cluster that gets or loses a member still has one of its old endpoints.
        """
        there, here = document.get("Cluster"), self._cluster()
        if there is not None and here is not None:
            return bool(there == here)
        places = document.get("Places")
        return not places or not self._places or bool({*places} & {*self._places})


def last_config(state_dir: StateDir) -> NetworkConfig | None:
    """Returns the network config that is remembered, of whatever store; None: none can be read.

    For what must be kept back before anything else is known.
    """
    document = state_dir.load(NAME)
    text = document.get("Config") if isinstance(document, dict) else None
    if not isinstance(text, str):
        return None
    try:
        return parse(text)
    except NetworkConfigError:
        return None


async def write_down(state_dir: StateDir) -> None:
    """Tries again, for ever, to write what the disk did not take."""
    while True:
        await asyncio.sleep(RETRY_S)
        if state_dir.problem is not None:
            await asyncio.to_thread(state_dir.retry)


def _left_s(document: dict[str, Any], now: Now) -> float:
    if now.boot_id is not None and document.get("Boot") == now.boot_id:
        left_s = float(document["EndsAt"]) - now.boot_s
    else:
        left_s = float(document["ExpiresAt"]) - now.wall_s
    if not math.isfinite(left_s):
        raise ValueError(f"the lease ends in {left_s} s")
    return left_s


def _others(table: Snapshot, own: Lease) -> list[Lease]:
    # What others wrote beside what flannel knows is of no use here, and may be large.
    return [
        replace(lease, attributes=replace(lease.attributes, extra={}))
        for lease in table.leases
        if lease.key != own.key
    ]


def _lease_text(lease: Lease) -> dict[str, Any]:
    return {
        "Key": texts.format_lease_key(lease.key),
        "Value": texts.encode_lease(lease.attributes).decode(),
        "Grant": lease.grant_id,
        "Created": lease.create_revision,
        "Modified": lease.mod_revision,
    }


def _lease(item: dict[str, Any]) -> Lease:
    return Lease(
        key=texts.parse_lease_key(item["Key"]),
        attributes=texts.decode_lease(item["Value"].encode()),
        grant_id=int(item["Grant"]),
        create_revision=int(item["Created"]),
        mod_revision=int(item["Modified"]),
    )

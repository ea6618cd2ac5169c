"""What a node remembers of its network across a restart, so that it forwards without the store.

Path of a lease: `lease.tracker` -> **`daemon.cache`** (a file in the state directory) -> the
next start. Entries are kept in the store's own texts; what cannot be read counts as nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tunneld.host.state_dir import StateDir
from tunneld.lease.model import Lease, NodeRecord, Snapshot
from tunneld.store import format as texts

NAME = "network"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """A node's network as it was when it was last written down."""

    table: Snapshot
    own: Lease
    left_s: float
    """Seconds until the own lease ends."""


class Cache:
    """The file in the state directory."""

    def __init__(self, state_dir: StateDir, source: str) -> None:
        """`source` names the store and prefix: another network's memory is of no use."""
        self._state_dir = state_dir
        self._source = source

    def save(self, table: Snapshot, own: Lease, expires_in_s: float) -> None:
        """Writes everything down; replaces what was remembered, in one step.

        Raises:
            HostError: the file cannot be written.
        """
        self._state_dir.save(
            NAME,
            {
                "Format": FORMAT,
                "Source": self._source,
                "Revision": table.revision,
                "Config": table.config,
                "Own": texts.format_lease_key(own.key),
                "ExpiresAt": time.time() + expires_in_s,
                "Leases": [_lease_text(lease) for lease in (*_others(table, own), own)],
                "Nodes": {
                    record.node_id: texts.encode_record(record).decode() for record in table.records
                },
            },
        )

    def forget(self) -> None:
        """Makes the next start ask the store."""
        self._state_dir.save(NAME, {})

    def load(self) -> Remembered | None:
        """Returns what was remembered, unless the own lease has ended since or it is unreadable."""
        document = self._state_dir.load(NAME)
        if not isinstance(document, dict):
            return None
        if document.get("Format") != FORMAT or document.get("Source") != self._source:
            return None
        try:
            return _remembered(document)
        except (KeyError, TypeError, ValueError):
            return None


def _others(table: Snapshot, own: Lease) -> list[Lease]:
    return [lease for lease in table.leases if lease.key != own.key]


def _lease_text(lease: Lease) -> dict[str, Any]:
    return {
        "Key": texts.format_lease_key(lease.key),
        "Value": texts.encode_lease(lease.attributes).decode(),
        "Grant": lease.grant_id,
        "Created": lease.create_revision,
        "Modified": lease.mod_revision,
    }


def _remembered(document: dict[str, Any]) -> Remembered | None:
    left_s = float(document["ExpiresAt"]) - time.time()
    if left_s <= 0:
        return None
    leases = {item["Key"]: _lease(item) for item in document["Leases"]}
    own = leases[document["Own"]]
    records: list[NodeRecord] = [
        texts.decode_record(node_id, value.encode()) for node_id, value in document["Nodes"].items()
    ]
    table = Snapshot(
        revision=int(document["Revision"]),
        config=document["Config"],
        leases=tuple(leases.values()),
        records=tuple(records),
    )
    return Remembered(table=table, own=own, left_s=left_s)


def _lease(item: dict[str, Any]) -> Lease:
    return Lease(
        key=texts.parse_lease_key(item["Key"]),
        attributes=texts.decode_lease(item["Value"].encode()),
        grant_id=int(item["Grant"]),
        create_revision=int(item["Created"]),
        mod_revision=int(item["Modified"]),
    )

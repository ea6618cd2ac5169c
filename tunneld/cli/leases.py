"""`tunneld leases`: the lease table, as it is in the store."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tunneld.cli import SUMMARIES
from tunneld.cli.parser import Parser, add_store_options, option_texts
from tunneld.cli.store import opened
from tunneld.config import RunOptions, load
from tunneld.control.status import table
from tunneld.lease.model import UNSPECIFIED, Snapshot
from tunneld.lease.selection import Usable
from tunneld.peer import join
from tunneld.store import StoreOptions

_EPILOG = """\
examples:
  tunneld leases
  tunneld leases --json | jq -r '.leases[] | select(.this_host) | .subnet'
  tunneld leases --store sqlite:/var/lib/tunneld/leases.db"""


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command's parser."""
    parser = subparsers.add_parser(
        "leases",
        help=SUMMARIES["leases"],
        description="Shows all leases of the network, and entries of the store that are no leases.",
        epilog=_EPILOG,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_store_options(parser, "state-dir")
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Reads the store and prints what is there."""
    return show(load(option_texts(args), os.environ), as_json=args.json)


def show(options: RunOptions, *, as_json: bool) -> int:
    """Prints the lease table, for a reader or as one JSON object."""
    snapshot, remaining_s = asyncio.run(_read(options.store))
    document = lease_table(
        snapshot, remaining_s, now=datetime.now(UTC), own_node_id=_node_id(options.state_dir)
    )
    if as_json:
        print(json.dumps(document, indent=2))
        return 0
    _print(document)
    return 0


def lease_table(
    snapshot: Snapshot,
    remaining_s: Mapping[int, float],
    *,
    now: datetime,
    own_node_id: str | None,
) -> dict[str, Any]:
    """Returns the document of `tunneld leases --json`.

    Args:
        snapshot: the whole content of the store.
        remaining_s: seconds left by grant id.
        now: the time the seconds count from.
        own_node_id: this host's, if it has one.
    """
    expiries = {lease.key: remaining_s.get(lease.grant_id) for lease in snapshot.leases}
    reserved = {lease.key for lease in snapshot.leases if lease.is_reservation}
    return {
        "revision": snapshot.revision,
        "leases": [
            {
                "subnet": _text(peer.ipv4),
                "ipv6_subnet": _text(peer.ipv6),
                "public_ip": None if peer.public_ip == UNSPECIFIED else str(peer.public_ip),
                "public_ipv6": _text(peer.public_ipv6),
                "backend_type": peer.backend_type or None,
                "node_id": peer.node_id,
                "version": peer.version,
                "expires_at": _moment(now, expiries[peer.key]),
                "reservation": peer.key in reserved,
                "this_host": own_node_id is not None and peer.node_id == own_node_id,
            }
            for peer in join(map(Usable.whole, snapshot.leases), snapshot.records)
        ],
        "reservations": [
            {
                "subnet": _text(one.key.ipv4) if one.key.has_ipv4 else None,
                "ipv6_subnet": _text(one.key.ipv6),
                "host": str(one.holder),
                "leased": one.key in expiries,
            }
            for one in sorted(snapshot.reservations, key=lambda one: one.key)
        ],
        "malformed": [
            {"entry": entry.name, "reason": entry.reason, "detail": entry.detail}
            for entry in snapshot.malformed
        ],
    }


async def _read(options: StoreOptions) -> tuple[Snapshot, dict[int, float]]:
    async with opened(options) as store:
        snapshot = await store.read()
        grants = sorted({lease.grant_id for lease in snapshot.leases if not lease.is_reservation})
        return snapshot, await store.remaining(grants)


def _node_id(state_dir: Path) -> str | None:
    # Read without the lock of the directory: the daemon holds it.
    try:
        return (state_dir / "node-id").read_text("ascii", errors="replace").strip() or None
    except OSError:
        return None


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _both(*values: str | None) -> str:
    return ",".join(value for value in values if value is not None) or "-"


def _moment(now: datetime, left_s: float | None) -> str | None:
    if left_s is None:
        return None
    moment = now + timedelta(seconds=left_s)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _print(document: Mapping[str, Any]) -> None:
    leases = document["leases"]
    if leases:
        rows = [
            (
                _both(lease["subnet"], lease["ipv6_subnet"]),
                _both(lease["public_ip"], lease["public_ipv6"]),
                lease["backend_type"] or "-",
                lease["node_id"] or "-",
                "never" if lease["reservation"] else lease["expires_at"] or "-",
                "this host" if lease["this_host"] else "",
            )
            for lease in leases
        ]
        print("\n".join(table(("subnet", "public ip", "type", "node", "expires", ""), rows)))
    else:
        print("no leases")
    for kept in document["reservations"]:
        use = "leased" if kept["leased"] else "not in use"
        print(f"reserved: {_both(kept['subnet'], kept['ipv6_subnet'])} for {kept['host']} ({use})")
    for entry in document["malformed"]:
        print(f"skipped: {entry['entry']}: {entry['detail']}", file=sys.stderr)

"""What `tunneld status` says: the daemon's knowledge as plain data, and that as text.

Does no I/O and asks no clock: the daemon hands in one `StatusInput`, the control socket carries
what `render_status` makes of it, the command line prints that, or what `render_text` makes of it.
The members of the document are relied on by scripts: they may be added to, never renamed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from tunneld.backend.base import Adjacency, Datapath
from tunneld.lease.gojson import member
from tunneld.lease.model import Lease
from tunneld.lease.registry import StoreStatus
from tunneld.peer import Peer

if TYPE_CHECKING:  # the command line shows a status without loading the data path
    from tunneld.engine import AdjacencyCounters

State = Literal["starting", "ready", "degraded", "stopping"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStatus:
    """The overlay device and what moves its packets."""

    type: str
    datapath: Datapath
    device: str | None
    """None: not opened yet."""
    mtu_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """A peer that has a place in the data path."""

    peer: Peer
    adjacency: Adjacency
    counters: AdjacencyCounters
    last_rx: str | None
    """UTC, ISO 8601 (`wall_time` makes it of `counters.last_rx`); None: nothing arrived yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusInput:
    """Everything the status is made of."""

    version: str
    state: State
    node_id: str
    network: str | None
    """The text of the network config in force; None: there is none yet."""
    lease: Lease | None
    expires_at: str | None
    """UTC, ISO 8601; None: unknown, or never."""
    backend: BackendStatus | None
    store: StoreStatus
    offloads: Mapping[str, str] = field(default_factory=dict)
    """By name: `on`, `off`, `unsupported` or `fallback: <why>`; none before the data path is."""
    peers: Sequence[PeerStatus] = ()
    drops: Mapping[str, int] = field(default_factory=dict)
    """Packets by drop reason; every reason the engine knows, also at 0."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Leases by the reason they were not used for."""
    icmp_sent: int = 0
    icmp_suppressed: int = 0
    problems: Sequence[str] = ()
    """Why the state is not `ready`, a line each."""


def wall_time(
    monotonic_s: float | None, *, monotonic_now_s: float, wall_now: datetime
) -> str | None:
    """Returns a moment of the monotonic clock as UTC, ISO 8601, to the millisecond."""
    if monotonic_s is None:
        return None
    moment = wall_now - timedelta(seconds=monotonic_now_s - monotonic_s)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def render_status(status: StatusInput) -> dict[str, Any]:
    """Returns the document of `tunneld status --json`; what is unknown is there, as null."""
    lease, backend, store = status.lease, status.backend, status.store
    return {
        "version": status.version,
        "state": status.state,
        "problems": list(status.problems),
        "node_id": status.node_id,
        "network": _network(status.network),
        "lease": {
            "subnet": None if lease is None else str(lease.subnet),
            "public_ip": None if lease is None else str(lease.attributes.public_ip),
            "expires_at": None if lease is None else status.expires_at,
        },
        "backend": {
            "type": None if backend is None else backend.type,
            "datapath": None if backend is None else backend.datapath,
            "device": None if backend is None else backend.device,
            "mtu_bytes": None if backend is None else backend.mtu_bytes,
        },
        "store": {
            "kind": store.kind,
            "connected": store.connected,
            "revision": store.revision,
            "endpoint": store.endpoint,
            "problem": store.problem,
        },
        "offloads": dict(status.offloads),
        "peers": [_peer(peer) for peer in status.peers],
        "drops": dict(status.drops),
        "skipped_leases": dict(status.skipped),
        "icmp": {"sent": status.icmp_sent, "suppressed": status.icmp_suppressed},
    }


def render_text(document: Mapping[str, Any]) -> str:
    """Returns the document of `render_status` for people; counters at 0 are left out."""
    lease, backend, store = document["lease"], document["backend"], document["store"]
    lines = [f"tunneld {document['version']}: {document['state']}"]
    lines += [f"  {problem}" for problem in document["problems"]]
    rows = [
        ("node", document["node_id"]),
        ("network", member(document["network"], "Network", None)),
        ("lease", lease["subnet"] and f"{lease['subnet']} at {lease['public_ip']}"),
        ("expires", lease["expires_at"]),
        (
            "backend",
            backend["type"]
            and f"{backend['type']} ({backend['datapath']}),"
            f" device {backend['device'] or '-'}, MTU {backend['mtu_bytes'] or '-'}",
        ),
        ("store", _store_text(store)),
        ("offloads", _offloads_text(document["offloads"])),
    ]
    lines += [f"{name + ':':<9} {value or '-'}" for name, value in rows]
    lines += ["", f"peers: {len(document['peers'])}"]
    if document["peers"]:
        lines += table(
            ("subnet", "public ip", "via", "mtu", "tx packets", "tx bytes", "rx packets",
             "rx bytes", "last rx"),
            [
                (
                    peer["subnet"],
                    peer["public_ip"],
                    peer["encapsulation"],
                    peer["mtu_bytes"],
                    peer["tx_packets"],
                    peer["tx_bytes"],
                    peer["rx_packets"],
                    peer["rx_bytes"],
                    peer["last_rx"] or "never",
                )
                for peer in document["peers"]
            ],
        )  # fmt: skip
    lines += _count_lines("drops", document["drops"])
    lines += _count_lines("skipped leases", document["skipped_leases"])
    return "\n".join(lines) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Returns lines of left-aligned columns under their names; numbers are right-aligned."""
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    numeric = [
        bool(rows) and all(isinstance(row[column], int) for row in rows)
        for column in range(len(head))
    ]
    return [
        "  ".join(
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    ]


def _network(text: str | None) -> dict[str, Any]:
    # The text was accepted before it was put in force; what is no object has nothing to show.
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _peer(status: PeerStatus) -> dict[str, Any]:
    peer, adjacency, counters = status.peer, status.adjacency, status.counters
    return {
        "subnet": str(peer.subnet),
        "public_ip": str(peer.public_ip),
        "node_id": peer.node_id,
        "version": peer.version,
        "encapsulation": adjacency.encapsulation,
        "encrypted": False,
        "mtu_bytes": adjacency.mtu_bytes,
        "last_rx": status.last_rx,
        "tx_bytes": counters.tx_bytes,
        "rx_bytes": counters.rx_bytes,
        "tx_packets": counters.tx_packets,
        "rx_packets": counters.rx_packets,
    }


def _store_text(store: Mapping[str, Any]) -> str:
    link = "connected" if store["connected"] else "not connected"
    text = f"{store['kind']} {store['endpoint']}, {link}, revision {store['revision']}"
    return f"{text} ({store['problem']})" if store["problem"] else text


def _offloads_text(offloads: Mapping[str, str]) -> str:
    """Returns what is not on, with the reason."""
    rest = [f"{name} {state}" for name, state in offloads.items() if state != "on"]
    return f"on, but: {', '.join(rest)}" if rest else "on" if offloads else ""


def _count_lines(title: str, counts: Mapping[str, int]) -> list[str]:
    seen = {reason: count for reason, count in counts.items() if count}
    if not seen:
        return ["", f"{title}: none"]
    width = max(map(len, seen))
    return ["", f"{title}:", *(f"  {name:<{width}}  {seen[name]}" for name in sorted(seen))]

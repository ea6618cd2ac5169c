"""What `tunneld status` says: the daemon's knowledge as plain data, and that as text.

Does no I/O and asks no clock: the daemon hands in one `StatusInput`, the control socket carries
what `render_status` makes of it, the command line prints that, or what `render_text` makes of it.
The members of the document are relied on by scripts: they may be added to, never renamed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, Literal

from tunneld.backend.base import Datapath, Reach
from tunneld.backend.esp import ENCAPSULATION
from tunneld.lease.gojson import member
from tunneld.lease.model import UNSPECIFIED, IPAddress, IPNetwork, Lease, SubnetKey
from tunneld.lease.registry import StoreStatus
from tunneld.lease.selection import Skipped
from tunneld.peer import Peer
from tunneld.trust.decision import Kind
from tunneld.trust.policy import Mode

if TYPE_CHECKING:  # the command line shows a status without loading the data path
    from tunneld.engine import AdjacencyCounters
    from tunneld.fib.state import FirewallMode
    from tunneld.host.netlink import DeviceCounters
    from tunneld.host.scheduling import Policy

_COUNTERS = ("tx_bytes", "rx_bytes", "tx_packets", "rx_packets")

_DEVICE_COUNTERS = ("packets", "bytes", "dropped", "errors")

_NOT_COUNTED = "-"

MAX_SHOWN = 50
"""Subnets that are not reached, in the text."""

State = Literal["starting", "ready", "degraded", "stopping"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStatus:
    """The overlay devices and what moves their packets."""

    type: str
    datapath: Datapath
    devices: Sequence[str] = ()
    """Empty: not opened yet, or the backend needs none."""
    mtu_bytes: int | None
    scheduling: Policy | None = None
    """Of the data threads; None: there are none, or they do not all have the same of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirewallStatus:
    """What the operator has asked for; what is left out, rules of his own must do."""

    mode: FirewallMode = "auto"
    forward_rules: bool = True
    """Whether forwarding from and to the network is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionStatus:
    """What this host asks of encryption. No secret is in it."""

    mode: Mode | None = None
    """In force: the stronger of the network's and the floor; None: no config has been seen yet."""
    floor: Mode = "off"
    trust: Kind = "store"
    """What trust rests on."""
    explanation: str = ""
    """That in words."""
    identities: int | None = None
    """How many hosts the file of identities has; None: there is no file."""
    revoked: int = 0
    psk_ids: Sequence[str] = ()
    """By which handshakes name the PSKs, the one in use first."""
    network_name: str = ""
    public_key: str | None = None
    """Of this node, in base64; None: it has needed none yet."""
    cipher: str | None = None
    """That this node prefers; None, as the next two: nothing is encrypted now."""
    provider: str | None = None
    """The library that does it."""
    port: int | None = None
    """UDP, where it listens for what is encrypted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityStatus:
    """How a peer is reached under encryption, and why. No secret is in it."""

    mode: str
    """`encrypted`; `plain`; `switching`: plain until its keys are confirmed."""
    state: str
    """`none`, `handshake` (under way) or `confirmed`: whether there are keys."""
    cipher: str | None = None
    provider: str | None = None
    age_s: float | None = None
    """Of the keys that are sent under."""
    endpoint: str | None = None
    """Where to: address and port, as the peer's last handshake came from there."""
    last_handshake_s: float | None = None
    """How long it is ago."""
    name: str | None = None
    """Of its key in the identities."""
    detail: str = ""
    """Why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachStatus:
    """How one prefix of a peer is reached."""

    reach: Reach
    mtu_bytes: int
    counters: AdjacencyCounters | None = None
    """None: the kernel moves these packets, and does not count them by peer."""
    last_rx: str | None = None
    """UTC, ISO 8601 (`wall_time` makes it of `counters.last_rx`); None: nothing arrived yet."""
    path_mtu: str | None = None
    """What is known of the path's MTU: `unknown`, `searching`, `found` or `silent`, where the peer
    does not answer probes; None: the kernel moves these packets, and nobody probes."""

    @property
    def encapsulation(self) -> str:
        """What packets to the peer travel in."""
        if self.reach.gateway is not None:
            return "direct"
        if self.reach.kernel is not None:
            return "kernel vxlan"
        return self.reach.adjacency.encapsulation if self.reach.adjacency else "none"

    @property
    def endpoint(self) -> IPAddress | None:
        """Underlay address of the peer."""
        through = self.reach.kernel or self.reach.adjacency
        return self.reach.gateway or (through.endpoint if through else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """A peer that has a place in the data path."""

    peer: Peer
    reaches: dict[IPNetwork, ReachStatus]
    """By prefix; at most one of each family."""
    security: SecurityStatus | None = None
    """None: encryption is off."""

    @property
    def is_encrypted(self) -> bool:
        """Whether whatever leaves for it leaves encrypted."""
        return bool(self.reaches) and all(
            one.encapsulation == ENCAPSULATION for one in self.reaches.values()
        )


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
    firewall: FirewallStatus = field(default_factory=FirewallStatus)
    encryption: EncryptionStatus = field(default_factory=EncryptionStatus)
    store: StoreStatus
    offloads: Mapping[str, str] = field(default_factory=dict)
    """By name: `on`, `off`, `unsupported` or `fallback: <why>`; none before the data path is."""
    peers: Sequence[PeerStatus] = ()
    kernel_devices: Sequence[DeviceCounters] = ()
    """What the kernel has counted on devices by which it moves the packets itself. What the engine
    counts is not among it, nor the other way round."""
    kernel_drops: Mapping[str, int] = field(default_factory=dict)
    """What the kernel dropped before or after the engine, by where."""
    drops: Mapping[str, int] = field(default_factory=dict)
    """Packets by drop reason; every reason the engine knows, also at 0."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Leases by the reason they were not used for, since the start."""
    refused: Sequence[Skipped] = ()
    """Leases, or subnets of them, that are not used now."""
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
            **_subnets(None if lease is None else lease.key),
            "public_ip": None if lease is None else _public_ip(lease.attributes.public_ip),
            "public_ipv6": None if lease is None else _text(lease.attributes.public_ipv6),
            "expires_at": None if lease is None else status.expires_at,
        },
        "backend": {
            "type": None if backend is None else backend.type,
            "datapath": None if backend is None else backend.datapath,
            "device": next(iter(backend.devices), None) if backend else None,
            "devices": list(backend.devices) if backend else [],
            "mtu_bytes": None if backend is None else backend.mtu_bytes,
            "scheduling": None if backend is None else backend.scheduling,
        },
        "firewall": asdict(status.firewall),
        "encryption": {**asdict(status.encryption), "psk_ids": list(status.encryption.psk_ids)},
        "store": {
            "kind": store.kind,
            "connected": store.connected,
            "revision": store.revision,
            "endpoint": store.endpoint,
            "problem": store.problem,
        },
        "offloads": dict(status.offloads),
        "peers": [_peer(peer) for peer in status.peers],
        "kernel_devices": [asdict(counters) for counters in status.kernel_devices],
        "drops": dict(status.drops),
        "kernel_drops": dict(status.kernel_drops),
        "skipped_leases": dict(status.skipped),
        "refused": [
            {"subnet": one.name, "reason": one.reason, "detail": one.detail}
            for one in status.refused
        ],
        "icmp": {"sent": status.icmp_sent, "suppressed": status.icmp_suppressed},
    }


def render_text(document: Mapping[str, Any]) -> str:
    """Returns the document of `render_status` for people; counters at 0 are left out."""
    lease, backend, store = document["lease"], document["backend"], document["store"]
    lines = [f"tunneld {document['version']}: {document['state']}"]
    lines += [f"  {problem}" for problem in document["problems"]]
    rows = [
        ("node", document["node_id"]),
        ("network", _networks_text(document["network"])),
        ("lease", _lease_text(lease)),
        ("expires", lease["expires_at"]),
        (
            "backend",
            backend["type"]
            and f"{backend['type']} ({backend['datapath']}),"
            f" device {', '.join(backend['devices']) or '-'}, MTU {backend['mtu_bytes'] or '-'}"
            + (f", {backend['scheduling']} scheduling" if backend["scheduling"] else ""),
        ),
        ("crypto", _encryption_text(document["encryption"])),
        ("store", _store_text(store)),
        ("offloads", _offloads_text(document["offloads"])),
    ]
    lines += [f"{name + ':':<9} {value or '-'}" for name, value in rows]
    lines += ["", f"peers: {len(document['peers'])}"]
    if document["peers"]:
        lines += table(
            ("subnet", "public ip", "via", "mtu", "tx packets", "tx bytes", "rx packets",
             "rx bytes", "last rx"),
            [row for peer in document["peers"] for row in _peer_rows(peer)],
        )  # fmt: skip
    lines += _security_lines(document["peers"])
    devices = document["kernel_devices"]
    if devices:
        lines += ["", "kernel devices, as the kernel counts them:"]
        names = ("device", *(f"{way}_{what}" for way in ("tx", "rx") for what in _DEVICE_COUNTERS))
        lines += table(
            [name.replace("_", " ") for name in names],
            [[device[name] for name in names] for device in devices],
        )
    if backend["datapath"] in (None, "userspace"):
        lines += _count_lines("drops", document["drops"])
        lines += _count_lines("dropped by the kernel", document["kernel_drops"])
    lines += _count_lines("skipped leases", document["skipped_leases"])
    lines += _refused_lines(document["refused"])
    return "\n".join(lines) + "\n"


def _peer_rows(peer: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """Returns a line for each family in which the peer is reached."""
    if not peer["reach"]:
        subnets = [peer[name] for name in ("subnet", "ipv6_subnet") if peer[name]]
        return [(", ".join(subnets), peer["public_ip"] or peer["public_ipv6"], *["-"] * 7)]
    return [
        (
            peer["subnet" if family == "ipv4" else "ipv6_subnet"],
            reach["endpoint"],
            reach["encapsulation"],
            _mtu_text(reach),
            *(
                _NOT_COUNTED if reach[name] is None else reach[name]
                for name in ("tx_packets", "tx_bytes", "rx_packets", "rx_bytes")
            ),
            reach["last_rx"] or (_NOT_COUNTED if reach["rx_packets"] is None else "never"),
        )
        for family, reach in sorted(peer["reach"].items())
    ]


def _mtu_text(reach: Mapping[str, Any]) -> str:
    """Returns the MTU, and what is remarkable about it."""
    remarks = {"searching": "probing", "silent": "no answer"}
    remark = remarks.get(reach.get("path_mtu") or "")
    return f"{reach['mtu_bytes']} ({remark})" if remark else str(reach["mtu_bytes"])


def _networks_text(network: Mapping[str, Any]) -> str:
    found = (member(network, name, None) for name in ("Network", "IPv6Network"))
    return ", ".join(text for text in found if isinstance(text, str) and text)


def _lease_text(lease: Mapping[str, Any]) -> str:
    families = (("subnet", "public_ip"), ("ipv6_subnet", "public_ipv6"))
    return ", ".join(f"{lease[net]} at {lease[ip]}" for net, ip in families if lease[net])


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Returns lines of left-aligned columns under their names; numbers are right-aligned."""
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    numeric = [
        bool(rows)
        and all(isinstance(row[column], int) or row[column] == _NOT_COUNTED for row in rows)
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


def _subnets(key: SubnetKey | None) -> dict[str, Any]:
    return {
        "subnet": str(key.ipv4) if key and key.has_ipv4 else None,
        "ipv6_subnet": _text(key.ipv6) if key else None,
    }


def _public_ip(address: IPv4Address) -> str | None:
    return None if address == UNSPECIFIED else str(address)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _peer(status: PeerStatus) -> dict[str, Any]:
    peer, reaches = status.peer, status.reaches
    by_family = {f"ipv{prefix.version}": _reach(reaches[prefix]) for prefix in reaches}
    families = [by_family[family] for family in sorted(by_family)]
    return {
        **_subnets(peer.key),
        "public_ip": _public_ip(peer.public_ip),
        "public_ipv6": _text(peer.public_ipv6),
        "node_id": peer.node_id,
        "version": peer.version,
        "encapsulation": families[0]["encapsulation"] if families else "none",
        "encrypted": status.is_encrypted,
        "security": None if status.security is None else asdict(status.security),
        "mtu_bytes": min((family["mtu_bytes"] for family in families), default=None),
        "last_rx": max(
            (family["last_rx"] for family in families if family["last_rx"]), default=None
        ),
        **{name: _sum(family[name] for family in families) for name in _COUNTERS},
        "reach": by_family,
    }


def _reach(status: ReachStatus) -> dict[str, Any]:
    counters = status.counters
    return {
        "encapsulation": status.encapsulation,
        "endpoint": _text(status.endpoint),
        "mtu_bytes": status.mtu_bytes,
        "path_mtu": status.path_mtu,
        "last_rx": status.last_rx,
        **{name: None if counters is None else getattr(counters, name) for name in _COUNTERS},
    }


def _sum(counts: Iterable[int | None]) -> int | None:
    """Returns the sum of what is counted; None when nothing is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _store_text(store: Mapping[str, Any]) -> str:
    link = "connected" if store["connected"] else "not connected"
    text = f"{store['kind']} {store['endpoint']}, {link}, revision {store['revision']}"
    return f"{text} ({store['problem']})" if store["problem"] else text


def _encryption_text(encryption: Mapping[str, Any]) -> str:
    mode = encryption["mode"] or encryption["floor"]
    if mode == "off":
        return "no"
    by = f" by {encryption['cipher']} on port {encryption['port']}" if encryption["port"] else ""
    return f"{mode}{by} (floor {encryption['floor']}); {encryption['explanation']}"


def _offloads_text(offloads: Mapping[str, str]) -> str:
    """Returns what is not on, with the reason."""
    rest = [f"{name} {state}" for name, state in offloads.items() if state != "on"]
    return f"on, but: {', '.join(rest)}" if rest else "on" if offloads else ""


def _security_lines(peers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns who is reached in plain, or has no keys yet, and why."""
    doubtful = [
        (peer["subnet"] or peer["ipv6_subnet"], peer["security"])
        for peer in peers
        if peer.get("security") is not None
        and (peer["security"]["mode"], peer["security"]["state"]) != ("encrypted", "confirmed")
    ]
    if not doubtful:
        return []
    lines = [
        f"  {subnet}: {one['mode']}, keys: {one['state']}: {one['detail']}"
        for subnet, one in doubtful[:MAX_SHOWN]
    ]
    more = len(doubtful) - len(lines)
    return ["", "not encrypted now:", *lines, *([f"  and {more} more: see --json"] if more else [])]


def _refused_lines(refused: Sequence[Mapping[str, str]]) -> list[str]:
    if not refused:
        return []
    lines = [f"  {one['subnet']}: {one['reason']}: {one['detail']}" for one in refused[:MAX_SHOWN]]
    more = len(refused) - len(lines)
    return ["", "not reached:", *lines, *([f"  and {more} more: see --json"] if more else [])]


def _count_lines(title: str, counts: Mapping[str, int]) -> list[str]:
    seen = {reason: count for reason, count in counts.items() if count}
    if not seen:
        return ["", f"{title}: none"]
    width = max(map(len, seen))
    return ["", f"{title}:", *(f"  {name:<{width}}  {seen[name]}" for name in sorted(seen))]

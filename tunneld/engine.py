"""Carries an EngineChange into the native data path, and reports what is there. No logic.

Path of a lease: `fib` -> **`engine`** -> `_native` (Rust). The lease leaves Python here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, cast

from tunneld import _native
from tunneld.backend.base import Adjacency, OuterDf, SourceCheck, Vtep
from tunneld.backend.encryption import Cipher
from tunneld.backend.mac import MacAddress
from tunneld.fib.diff import engine_after, engine_difference
from tunneld.fib.state import (
    EngineChange,
    EngineSettings,
    EngineState,
    IdentityEndpoint,
    State,
)
from tunneld.lease.model import IPAddress, IPNetwork
from tunneld.trust.secrets import NodeKey, Psks

KEYING: Final = "keying"
"""Duty of the thread that agrees keys: it moves no packets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjacencyCounters:
    """Traffic of one adjacency since the engine started."""

    tx_packets: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    rx_bytes: int = 0
    last_rx: float | None = None
    """Seconds on the monotonic clock; None: nothing arrived yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """One reading of the engine's counters."""

    adjacencies: Mapping[str, AdjacencyCounters]
    drops: Mapping[str, int]
    icmp_sent: int
    icmp_suppressed: int
    receive_drops: int = 0
    """Datagrams the kernel dropped on arrival: their socket was full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEvent:
    """Something that came up in the data path; `kind` as in `_native.Event`."""

    kind: str
    adjacency: str | None
    size_bytes: int | None
    path_mtu_bytes: int | None
    token: int | None
    path: int | None
    detail: str
    key: str | None = None
    claim: Sequence[str] | None = None
    endpoint: str | None = None
    instance: str | None = None
    packets: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """By what the engine agrees keys with others. No secret is in it, only handles."""

    key: NodeKey
    psks: Psks | None
    network: str
    """Name of the network: hosts of different ones never agree."""
    cipher: Cipher
    provider: str
    """The library that seals and opens: `auto`, `aws-lc-rs` or `ring`."""
    instance: bytes
    """8 bytes, others at every start."""
    keepalive_s: float | None
    """How often each peer is sent something; None: only when there is need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSecurity:
    """What there is of keys with a peer."""

    key: str
    state: str
    """`none`, `handshake` (under way) or `confirmed`."""
    cipher: str | None
    provider: str | None
    age_s: float | None
    """Of the keys that are sent under."""
    endpoint: str | None
    """Where to: address and port."""
    last_handshake_s: float | None
    """How long the last one that was confirmed is ago; None: there was none."""
    claim: Sequence[str]
    """Subnets that the peer has claimed."""
    instance: str | None
    sets: int
    """Of keys that are open."""
    waiting_packets: int
    last_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSecurity:
    """By what this engine encrypts."""

    public_key: str
    cipher: str
    provider: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderlaySockets:
    """The descriptors of one worker: in each family none, or the socket that receives first.

    The rest only send: flows are spread over them by a hash of the inner packet.
    """

    ipv4: Sequence[int] = ()
    ipv6: Sequence[int] = ()
    ipv4_sidings: Sequence[int] = ()
    """For peers whose way is full: of each siding one bound to each port that is sent from, to an
    address that nothing arrives for."""
    ipv6_sidings: Sequence[int] = ()
    esp_ipv4: Sequence[int] = ()
    """The same on the port of encryption; further ones only send."""
    esp_ipv6: Sequence[int] = ()
    esp_ipv4_sidings: Sequence[int] = ()
    esp_ipv6_sidings: Sequence[int] = ()


class Engine:
    """The data path, on descriptors that the host room opened."""

    def __init__(
        self,
        *,
        tun_fds: Sequence[int],
        underlay: Sequence[UnderlaySockets],
        icmp_fd: int | None,
        icmp6_fd: int | None = None,
        split: bool,
        encryption: Encryption | None = None,
    ) -> None:
        """`split`: a thread for each direction of a worker, rather than one for both."""
        self._native = _native.Engine(
            tun_fds=tun_fds,
            underlay=[_plain_sockets(worker) for worker in underlay],
            icmp_fd=icmp_fd,
            icmp6_fd=icmp6_fd,
            split=split,
            encryption=None if encryption is None else _plain_encryption(encryption),
        )
        self.encrypts = encryption is not None
        """Whether there are keys at all: without, none of their calls may be made."""
        self._known: tuple[int, EngineState] | None = None
        """Generation and what it holds; None: it has to be read."""

    @property
    def event_fd(self) -> int:
        """Readable while `events` has something."""
        return self._native.event_fd

    def start(self) -> None:
        """Starts moving packets."""
        self._native.start()

    def stop(self) -> None:
        """Stops moving packets and waits for the threads."""
        self._native.stop()

    async def observe(self) -> EngineState:
        """Returns what the engine holds: read, unless it is known from the last change."""
        if self._known is None or self._known[0] != self._native.generation:
            digest = self._native.digest()
            self._known = digest["generation"], from_plain(digest)
        return self._known[1]

    def difference(self, desired: State, actual: EngineState) -> EngineChange:
        """Returns what there is to do to the engine."""
        return engine_difference(desired.engine, actual)

    async def apply(self, change: EngineChange) -> None:
        """Carries out a change: all of it or nothing.

        Raises:
            EngineError: nothing was changed; the message names the first bad item.
        """
        before = await self.observe()
        # After a refusal it is read again, whatever the engine promises.
        known, self._known = self._known, None
        generation = self._native.commit(as_plain(change))
        if known is not None and generation == known[0] + 1:
            self._known = generation, engine_after(before, change)

    def counters(self) -> Counters:
        """Reads all counters."""
        raw = self._native.counters()
        return Counters(
            adjacencies={
                name: AdjacencyCounters(**item) for name, item in raw["adjacencies"].items()
            },
            drops=raw["drops"],
            icmp_sent=raw["icmp_sent"],
            icmp_suppressed=raw["icmp_suppressed"],
            receive_drops=raw["receive_drops"],
        )

    def take_used(self) -> list[str]:
        """Returns the names of the adjacencies that were sent to, for use, since the last call."""
        return self._native.take_used()

    def probe(self, destination: IPAddress, size_bytes: int, token: int) -> int:
        """Sends an echo request of that size to a peer's overlay address, by every socket.

        Returns how many answers to expect; 0: it cannot be sent now.

        Raises:
            EngineError: the engine does not run.
        """
        return self._native.probe(str(destination), size_bytes, token)

    def set_claim(self, subnets: Sequence[IPNetwork]) -> None:
        """Says which subnets this host claims: all live peers are told by handshakes."""
        self._native.set_claim([str(subnet) for subnet in subnets])

    def set_psks(self, psks: Psks | None) -> None:
        """Takes over other pre-shared keys for the handshakes to come."""
        self._native.set_psks(None if psks is None else psks.handle)

    def renew(self) -> None:
        """Agrees new keys with all live peers: what they must be told has changed."""
        self._native.renew()

    def forget_keys(self) -> None:
        """Ends all keys at once, and agrees new ones: this machine's memory may have a copy."""
        self._native.forget_keys()

    def connect(self, key: str) -> None:
        """Begins a handshake with an identity, though no packet waits for it."""
        self._native.connect(key)

    def security(self) -> list[PeerSecurity]:
        """Returns what there is of keys with each identity, sorted by key."""
        return [PeerSecurity(**item) for item in self._native.security()]

    def security_self(self) -> OwnSecurity:
        """Returns by what this engine encrypts."""
        return OwnSecurity(**self._native.security_self())

    def offloads(self) -> Mapping[str, str]:
        """Returns how each offload stands; names and words as in `_native.Engine.offloads`."""
        return self._native.offloads()

    def set_offload(self, name: str, *, enabled: bool) -> None:
        """Switches an offload on or off while packets move.

        Raises:
            EngineError: there is no such offload, or it is not supported here.
        """
        self._native.set_offload(name, enabled)

    def events(self) -> list[EngineEvent]:
        """Returns what came up since the last call."""
        return [EngineEvent(**event) for event in self._native.drain_events()]

    def beats(self) -> dict[str, int]:
        """Returns a count for each thread by its name; it rises while the thread is healthy."""
        return {_name(beat): beat["beats"] for beat in self._native.heartbeat()}

    def threads(self) -> dict[str, int]:
        """Returns the kernel's number of each data thread by its name, of those that have begun."""
        return {
            _name(beat): beat["thread_id"]
            for beat in self._native.heartbeat()
            if beat["thread_id"] != 0 and beat["duty"] != KEYING
        }

    def keying_thread(self) -> int | None:
        """Returns the kernel's number of the thread that agrees keys; None: it has not begun."""
        return next(
            (
                beat["thread_id"]
                for beat in self._native.heartbeat()
                if beat["thread_id"] != 0 and beat["duty"] == KEYING
            ),
            None,
        )

    def is_healthy(self) -> bool:
        """Returns whether every thread is running."""
        return all(beat["alive"] for beat in self._native.heartbeat())


def _plain_sockets(worker: UnderlaySockets) -> _native.UnderlaySockets:
    return {
        "ipv4": worker.ipv4,
        "ipv6": worker.ipv6,
        "ipv4_sidings": worker.ipv4_sidings,
        "ipv6_sidings": worker.ipv6_sidings,
        "esp_ipv4": worker.esp_ipv4,
        "esp_ipv6": worker.esp_ipv6,
        "esp_ipv4_sidings": worker.esp_ipv4_sidings,
        "esp_ipv6_sidings": worker.esp_ipv6_sidings,
    }


def _plain_encryption(encryption: Encryption) -> _native.Encryption:
    psks = encryption.psks
    return {
        "identity": encryption.key.handle,
        "psks": None if psks is None else psks.handle,
        "network": encryption.network,
        "cipher": encryption.cipher,
        "provider": encryption.provider,
        "instance": encryption.instance,
        "claim": [],
        "keepalive_s": encryption.keepalive_s,
    }


def as_plain(change: EngineChange) -> _native.Change:
    """Returns the change in the shape `_native` takes."""
    plain: _native.Change = {
        "put_adjacencies": [
            {
                "name": name,
                "encapsulation": adjacency.encapsulation,
                "endpoint": str(adjacency.endpoint),
                "port": adjacency.port,
                "mtu_bytes": adjacency.mtu_bytes,
                "of_peer": dict(adjacency.of_peer),
                "outer_df": adjacency.outer_df,
            }
            for name, adjacency in change.put_adjacencies.items()
        ],
        "drop_adjacencies": list(change.drop_adjacencies),
        "put_entries": [
            {"prefix": str(prefix), "target": target}
            for prefix, target in change.put_entries.items()
        ],
        "drop_entries": [str(prefix) for prefix in change.drop_entries],
    }
    if change.put_identities or change.drop_identities:
        plain["put_identities"] = [
            {
                "key": key,
                "endpoint": None if identity.endpoint is None else str(identity.endpoint),
                "port": identity.port,
                "instance": identity.instance,
            }
            for key, identity in change.put_identities.items()
        ]
        plain["drop_identities"] = list(change.drop_identities)
    if change.settings is not None:
        plain["settings"] = _plain_settings(change.settings)
    return plain


def from_plain(digest: _native.Digest) -> EngineState:
    """Returns what a digest of `_native` means."""
    return EngineState(
        settings=None if digest["settings"] is None else _settings(digest["settings"]),
        adjacencies={
            item["name"]: Adjacency(
                encapsulation=item["encapsulation"],
                endpoint=ip_address(item["endpoint"]),
                port=item["port"],
                mtu_bytes=item["mtu_bytes"],
                of_peer=item["of_peer"],
                outer_df=cast(OuterDf, item["outer_df"]),
            )
            for item in digest["adjacencies"]
        },
        entries={ip_network(item["prefix"]): item["target"] for item in digest["entries"]},
        identities={
            item["key"]: IdentityEndpoint(
                endpoint=None if item["endpoint"] is None else ip_address(item["endpoint"]),
                port=item["port"],
                instance=item["instance"],
            )
            for item in digest["identities"]
        },
    )


def _name(beat: _native.Heartbeat) -> str:
    """Returns what a data thread is called in the log, e.g. `outbound 0`."""
    return f"{beat['duty']} {beat['worker']}"


def _plain_settings(settings: EngineSettings) -> _native.Settings:
    vtep = settings.vtep
    return {
        "source_check": settings.source_check,
        "device_mtu_bytes": settings.device_mtu_bytes,
        "icmp_source": None if settings.icmp_source is None else str(settings.icmp_source),
        "icmp_source_v6": None if settings.icmp_source_v6 is None else str(settings.icmp_source_v6),
        "vtep": None
        if vtep is None
        else {"vni": vtep.vni, "gbp": vtep.gbp, "mac": vtep.mac, "mac_v6": vtep.mac_v6},
    }


def _settings(plain: _native.Settings) -> EngineSettings:
    source, source_v6, vtep = plain["icmp_source"], plain["icmp_source_v6"], plain["vtep"]
    return EngineSettings(
        source_check=cast(SourceCheck, plain["source_check"]),
        device_mtu_bytes=plain["device_mtu_bytes"],
        icmp_source=None if source is None else IPv4Address(source),
        icmp_source_v6=None if source_v6 is None else IPv6Address(source_v6),
        vtep=None
        if vtep is None
        else Vtep(
            vni=vtep["vni"],
            gbp=vtep["gbp"],
            mac=_mac(vtep["mac"]),
            mac_v6=_mac(vtep["mac_v6"]),
        ),
    )


def _mac(text: str | None) -> MacAddress | None:
    return None if text is None else MacAddress(text)

"""Carries a Change into the native data path, and reports what is there. Names and units, no logic.

Path of a lease: `fib` -> **`engine`** -> `_native` (Rust). The lease leaves Python here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import cast

from tunneld import _native
from tunneld.backend.base import Adjacency, Encapsulation
from tunneld.fib.state import EngineChange, EngineSettings, EngineState, SourceCheck


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


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEvent:
    """Something that came up in the data path; `kind` as in `_native.Event`."""

    kind: str
    adjacency: str | None
    size_bytes: int | None
    detail: str


class Engine:
    """The data path, on descriptors that the host room opened."""

    def __init__(
        self, *, tun_fds: Sequence[int], underlay_fds: Sequence[int], icmp_fd: int
    ) -> None:
        self._native = _native.Engine(tun_fds=tun_fds, underlay_fds=underlay_fds, icmp_fd=icmp_fd)

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

    def apply(self, change: EngineChange) -> int:
        """Carries out a change; returns the engine's new generation.

        Raises:
            EngineError: nothing was changed; the message names the first bad item.
        """
        return self._native.commit(_as_plain(change))

    def observe(self) -> EngineState:
        """Returns what the engine holds."""
        digest = self._native.digest()
        settings = digest["settings"]
        return EngineState(
            settings=None
            if settings is None
            else EngineSettings(
                source_check=cast(SourceCheck, settings["source_check"]),
                device_mtu_bytes=settings["device_mtu_bytes"],
                icmp_source=IPv4Address(settings["icmp_source"]),
            ),
            adjacencies={
                item["name"]: Adjacency(
                    encapsulation=cast(Encapsulation, item["encapsulation"]),
                    endpoint=IPv4Address(item["endpoint"]),
                    port=item["port"],
                    mtu_bytes=item["mtu_bytes"],
                )
                for item in digest["adjacencies"]
            },
            entries={IPv4Network(item["prefix"]): item["target"] for item in digest["entries"]},
        )

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
        )

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
        return {
            f"{beat['direction']} {beat['worker']}": beat["beats"]
            for beat in self._native.heartbeat()
        }

    def is_healthy(self) -> bool:
        """Returns whether every thread is running."""
        return all(beat["alive"] for beat in self._native.heartbeat())


def _as_plain(change: EngineChange) -> _native.Change:
    plain: _native.Change = {
        "put_adjacencies": [
            {
                "name": name,
                "encapsulation": adjacency.encapsulation,
                "endpoint": str(adjacency.endpoint),
                "port": adjacency.port,
                "mtu_bytes": adjacency.mtu_bytes,
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
    if change.settings is not None:
        plain["settings"] = {
            "source_check": change.settings.source_check,
            "device_mtu_bytes": change.settings.device_mtu_bytes,
            "icmp_source": str(change.settings.icmp_source),
        }
    return plain

"""What this node says of itself: for `tunneld status` and the health pages.

Holds references to the rooms as they come up, reads them, and decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import IPv4Network

from tunneld import __version__
from tunneld.backend.base import Adjacency, Backend
from tunneld.control.health import Health
from tunneld.control.status import (
    BackendStatus,
    PeerStatus,
    StatusInput,
    wall_time,
)
from tunneld.control.status import State as NodeState
from tunneld.daemon.datapath import DataPath
from tunneld.daemon.desired import Desired
from tunneld.daemon.membership import Membership
from tunneld.daemon.underlay import UnderlayWatch
from tunneld.engine import AdjacencyCounters
from tunneld.peer import Peer

NO_TRAFFIC = AdjacencyCounters()


class Report:
    """The node as it can be seen from outside, from its first moment on."""

    def __init__(self, *, node_id: str, membership: Membership) -> None:
        self._node_id = node_id
        self._membership = membership
        self.phase: NodeState = "starting"
        self.network: str | None = None
        """The text of the network config in force."""
        self.backend: Backend | None = None
        self.desired: Desired | None = None
        self.path: DataPath | None = None
        self.underlay: UnderlayWatch | None = None

    @property
    def peers(self) -> Mapping[IPv4Network, tuple[Peer, Adjacency]]:
        """Who is reached, and how."""
        return self.desired.peers if self.desired else {}

    def forget(self) -> None:
        """The data path is being taken down: nothing may be read from it any more."""
        self.phase = "starting"
        self.desired = self.path = self.underlay = None

    @property
    def state(self) -> NodeState:
        """One word for the node."""
        return "degraded" if self.phase == "ready" and self.problems() else self.phase

    def problems(self) -> tuple[str, ...]:
        """Returns what is not as it should be, a line each."""
        store = self._membership.store_status()
        found = [
            None if store.connected else f"store: {store.problem or 'not connected'}",
            self._membership.problem,
            self.path.reconciler.problem if self.path else None,
            self.underlay.problem if self.underlay else None,
        ]
        return tuple(line for line in found if line)

    def sentence(self) -> str:
        """Returns what the node is at, in one line of plain words."""
        problems = "; ".join(self.problems())
        own = self._membership.own
        if self.phase == "ready" and self.path is not None:
            place = f"{own.subnet if own else 'no subnet'} on {self.path.device}"
            peers = f"{len(self.peers)} {'peer' if len(self.peers) == 1 else 'peers'}"
            text = f"forwarding, {place}, {peers}"
            return f"degraded: {problems} ({text})" if problems else text
        if self.network is None:
            waiting = "waiting for the network config"
        elif own is None:
            waiting = "waiting for a lease"
        else:
            waiting = f"setting up the data path for {own.subnet}"
        return f"{waiting}: {problems}" if problems else waiting

    def status(self) -> StatusInput:
        """Returns what `tunneld status` shows."""
        counters = self.path.engine.counters() if self.path else None
        by_name = counters.adjacencies if counters else {}
        now_s, wall = time.monotonic(), datetime.now(UTC)

        def peer_status(prefix: IPv4Network, peer: Peer, adjacency: Adjacency) -> PeerStatus:
            traffic = by_name.get(str(prefix), NO_TRAFFIC)
            return PeerStatus(
                peer=peer,
                adjacency=adjacency,
                counters=traffic,
                last_rx=wall_time(traffic.last_rx, monotonic_now_s=now_s, wall_now=wall),
            )

        return StatusInput(
            version=__version__,
            state=self.state,
            node_id=self._node_id,
            network=self.network,
            lease=self._membership.own,
            expires_at=wall_time(
                self._membership.expires_at_s, monotonic_now_s=now_s, wall_now=wall
            ),
            backend=self._backend_status(),
            store=self._membership.store_status(),
            offloads=self.path.engine.offloads() if self.path else {},
            peers=[peer_status(prefix, *entry) for prefix, entry in sorted(self.peers.items())],
            drops=counters.drops if counters else {},
            skipped=self._membership.tracker.skip_counts,
            icmp_sent=counters.icmp_sent if counters else 0,
            icmp_suppressed=counters.icmp_suppressed if counters else 0,
            problems=self.problems(),
        )

    def health(self) -> Health:
        """Returns what `/healthz` and `/readyz` answer with.

        A store that is away does not make a node unhealthy: it forwards, and starting it anew
        would not bring the store back.
        """
        broken = () if self.path is None or self.path.engine.is_healthy() else ("data path",)
        ready = self.phase == "ready"
        return Health(
            ready=ready,
            state=self.state,
            problems=broken,
            waiting_for=() if ready else self.problems() or ("the lease and the data path",),
        )

    def _backend_status(self) -> BackendStatus | None:
        if self.backend is None:
            return None
        return BackendStatus(
            type=self.backend.type,
            datapath=self.backend.datapath,
            device=self.path.device if self.path else None,
            mtu_bytes=self.desired.device_mtu_bytes if self.desired else None,
        )

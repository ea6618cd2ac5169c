"""What this node says of itself: for `tunneld status` and the health pages.

Holds references to the rooms as they come up, reads them, and decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from tunneld import __version__, log
from tunneld.backend.base import Backend, Reach
from tunneld.control.health import Health
from tunneld.control.status import (
    BackendStatus,
    EncryptionStatus,
    FirewallStatus,
    PeerStatus,
    ReachStatus,
    SecurityStatus,
    StatusInput,
    wall_time,
)
from tunneld.control.status import State as NodeState
from tunneld.daemon.datapath import DataPath
from tunneld.daemon.desired import Desired
from tunneld.daemon.membership import Membership
from tunneld.daemon.shadows import Shadows
from tunneld.engine import AdjacencyCounters, Counters, PeerSecurity
from tunneld.errors import InterfaceError
from tunneld.fib.state import Route
from tunneld.host.scheduling import Policy, policy_of
from tunneld.lease.model import IPNetwork, SubnetKey
from tunneld.log import Condition
from tunneld.peer import Peer
from tunneld.trust.policy import Verdict

NO_TRAFFIC = AdjacencyCounters()

_Reached = Mapping[IPNetwork, tuple[Peer, Reach]]
_Seen = tuple[_Reached, frozenset[Route], frozenset[IPNetwork], _Reached]

ProblemSource = Callable[[], str | Iterable[str] | None]
"""Returns what is not as it should be at the moment, a line each; None or nothing: all is well."""


class Report:
    """The node as it can be seen from outside, from its first moment on."""

    def __init__(
        self,
        *,
        membership: Membership,
        firewall: FirewallStatus,
        encryption: Callable[[], EncryptionStatus] = EncryptionStatus,
        verdicts: Callable[[], Mapping[IPNetwork, Verdict]] = dict,
        name_of: Callable[[Verdict], str | None] = lambda _verdict: None,
    ) -> None:
        """`verdicts` returns how subnets may be reached; `name_of` the name of a verdict's key."""
        self._membership = membership
        self._encryption = encryption
        self._verdicts = verdicts
        self._name_of = name_of
        self._firewall = firewall
        self.phase: NodeState = "starting"
        self.network: str | None = None
        """The text of the network config in force."""
        self.backend: Backend | None = None
        self.desired: Desired | None = None
        self.path: DataPath | None = None
        self.underlay: Condition | None = None
        """The lack of an underlay."""
        self.shadows: Shadows | None = None
        self._seen: _Seen | None = None
        """What `_reached` went by last, and what it found."""
        self._sources: list[ProblemSource] = []
        self.add(self._store_problem)
        self.add(log.problem)
        self.add(lambda: membership.problem)
        self.add(lambda: self.path.reconciler.problem if self.path else None)
        self.add(lambda: self.path.actuator.forwarding_problems if self.path else None)
        self.add(lambda: self.path.actuator.problem if self.path else None)
        self.add(lambda: self.underlay.problem if self.underlay else None)

    def add(self, source: ProblemSource) -> Callable[[], None]:
        """Has `source` asked for its lines whenever problems are shown, in `status` and health.

        Returns what ends that: `stack.callback(report.add(lambda: room.problem))`.
        """
        self._sources.append(source)
        return lambda: self._sources.remove(source)

    @property
    def peer_count(self) -> int:
        """How many peers are reached, in whatever family."""
        return len({peer.key for peer, _ in self._reached().values()})

    def forget(self) -> None:
        """The data path is being taken down: nothing may be read from it any more."""
        self.phase = "starting"
        self.desired = self.path = self.shadows = self._seen = None

    @property
    def state(self) -> NodeState:
        """One word for the node."""
        return "degraded" if self.phase == "ready" and self.problems() else self.phase

    def problems(self) -> tuple[str, ...]:
        """Returns what is not as it should be, a line each; the same line once."""
        found: dict[str, None] = {}
        for source in self._sources:
            told = source()
            for line in (told,) if isinstance(told, str) else told or ():
                if line:
                    found[line] = None
        return tuple(found)

    def _store_problem(self) -> str | None:
        store = self._membership.store_status()
        return None if store.connected else f"store: {store.problem or 'not connected'}"

    def sentence(self) -> str:
        """Returns what the node is at, in one line of plain words."""
        problems = "; ".join(self.problems())
        own = self._membership.own
        if self.phase == "ready" and self.path is not None:
            place = " on ".join([str(own.key) if own else "no subnet", *self.path.devices[:1]])
            count = self.peer_count
            peers = f"{count} {'peer' if count == 1 else 'peers'}"
            is_moving = self.backend is not None and self.backend.datapath != "none"
            text = f"forwarding, {place}, {peers}" if is_moving else f"holding {place}"
            return f"degraded: {problems} ({text})" if problems else text
        if self.underlay is not None and self.underlay.problem is not None:
            waiting = "waiting for an underlay address"
        elif self.network is None:
            waiting = "waiting for the network config"
        elif own is None:
            waiting = "waiting for a lease"
        else:
            waiting = f"setting up the data path for {own.key}"
        return f"{waiting}: {problems}" if problems else waiting

    async def status(self) -> StatusInput:
        """Returns what `tunneld status` shows.

        Raises:
            HostError: the kernel does not tell what it has counted.
        """
        kernel_devices = await self.path.actuator.counters() if self.path else []
        kernel_drops = await self.path.kernel_drops() if self.path else {}
        counters = self._counters()
        now_s, wall = time.monotonic(), datetime.now(UTC)
        left_s = self._membership.left_s
        engine = self.path.engine if self.path else None
        return StatusInput(
            version=__version__,
            state=self.state,
            node_id=self._membership.node_id,
            network=self.network,
            lease=self._membership.own,
            expires_at=wall_time(
                None if left_s is None else now_s + left_s, monotonic_now_s=now_s, wall_now=wall
            ),
            backend=self._backend_status(),
            firewall=self._firewall,
            encryption=self._encryption_status(),
            store=self._membership.store_status(),
            offloads=engine.offloads() if engine else {},
            peers=self._peers(counters, now_s, wall),
            kernel_devices=kernel_devices,
            kernel_drops=kernel_drops,
            drops=counters.drops if counters else {},
            skipped=self._membership.tracker.skip_counts,
            refused=self.desired.refused if self.desired else (),
            icmp_sent=counters.icmp_sent if counters else 0,
            icmp_suppressed=counters.icmp_suppressed if counters else 0,
            problems=self.problems(),
        )

    def health(self) -> Health:
        """Returns what `/healthz` and `/readyz` answer with.

        A store that is away does not make a node unhealthy: it forwards, and starting it anew
        would not bring the store back.
        """
        engine = self.path.engine if self.path else None
        broken = () if engine is None or engine.is_healthy() else ("data path",)
        ready = self.phase == "ready"
        return Health(
            ready=ready,
            state=self.state,
            problems=broken,
            remarks=self.problems(),
            waiting_for=() if ready else self.problems() or ("the lease and the data path",),
        )

    def _counters(self) -> Counters | None:
        """Returns a reading of the engine's counters; None where there is no engine."""
        engine = self.path.engine if self.path else None
        return engine.counters() if engine else None

    def _reached(self) -> _Reached:
        """Returns the peers that packets get to, by prefix.

        The engine takes a peer the moment it is computed. The kernel is told later, of the route
        last, and may refuse it. One that goes another way than before keeps its place meanwhile.
        """
        if self.desired is None or self.path is None:
            return {}
        peers, routes = self.desired.peers, self.path.actuator.known_routes
        hidden = self.shadows.hidden if self.shadows else frozenset()
        # Asked each second, and in a large network by far the most of what a daemon at rest does.
        seen = self._seen
        if seen is None or seen[0] is not peers or seen[1] is not routes or seen[2] != hidden:
            routed = {route.destination for route in routes if route.gateway is not None}
            reached = {
                prefix: (peer, reach)
                for prefix, (peer, reach) in peers.items()
                if (reach.adjacency is not None or prefix in routed) and prefix not in hidden
            }
            seen = self._seen = (peers, routes, hidden, reached)
        return seen[3]

    def _peers(self, counters: Counters | None, now_s: float, wall: datetime) -> list[PeerStatus]:
        mtu_bytes = self._device_mtu_bytes() or 0

        def reach_status(prefix: IPNetwork, reach: Reach) -> ReachStatus:
            traffic = None
            if counters is not None and reach.adjacency is not None:
                traffic = counters.adjacencies.get(str(prefix), NO_TRAFFIC)
            return ReachStatus(
                reach=reach,
                mtu_bytes=_mtu_bytes(reach, mtu_bytes),
                path_mtu=self._path_mtu(reach),
                counters=traffic,
                last_rx=wall_time(
                    traffic.last_rx if traffic else None, monotonic_now_s=now_s, wall_now=wall
                ),
            )

        verdicts, keys = self._verdicts(), self._keys()
        peers: dict[SubnetKey, PeerStatus] = {}
        for prefix, (peer, reach) in self._reached().items():
            status = peers.get(peer.key)
            if status is None:
                found = self._security_of(verdicts.get(prefix), keys)
                status = peers[peer.key] = PeerStatus(peer=peer, reaches={}, security=found)
            status.reaches[prefix] = reach_status(prefix, reach)
        return [peers[key] for key in sorted(peers)]

    def _keys(self) -> dict[str, PeerSecurity]:
        """Returns what there is of keys with peers, by public key."""
        engine = self.path.engine if self.path else None
        if engine is None or not engine.encrypts:
            return {}
        return {one.key: one for one in engine.security()}

    def _security_of(
        self, verdict: Verdict | None, keys: Mapping[str, PeerSecurity]
    ) -> SecurityStatus | None:
        if verdict is None:
            return None
        mode = "switching" if verdict.reason == "switching" else verdict.way
        found = keys.get(str(verdict.key)) if verdict.key is not None else None
        if found is None:
            return SecurityStatus(mode=mode, state="none", detail=verdict.detail)
        why = found.last_error or verdict.detail
        if found.last_error and found.state == "confirmed" and verdict.is_confirmed:
            # Keys that the other side may have lost live on for minutes.
            why = f"{verdict.detail}; since then: {found.last_error}"
        return SecurityStatus(
            mode=mode,
            state=found.state,
            cipher=found.cipher,
            provider=found.provider,
            age_s=found.age_s,
            endpoint=found.endpoint,
            last_handshake_s=found.last_handshake_s,
            name=self._name_of(verdict),
            detail=why,
        )

    def _encryption_status(self) -> EncryptionStatus:
        status, engine = self._encryption(), self.path.engine if self.path else None
        if engine is None or not engine.encrypts:
            return status
        own = engine.security_self()
        return replace(status, cipher=own.cipher, provider=own.provider, port=own.port)

    def _path_mtu(self, reach: Reach) -> str | None:
        if self.desired is None or reach.adjacency is None or reach.gateway is not None:
            return None
        return self.desired.path_state(reach.adjacency)

    def _backend_status(self) -> BackendStatus | None:
        if self.backend is None:
            return None
        return BackendStatus(
            type=self.backend.type,
            datapath=self.backend.datapath,
            devices=self.path.devices if self.path else (),
            mtu_bytes=self._device_mtu_bytes(),
            scheduling=self._scheduling(),
        )

    def _device_mtu_bytes(self) -> int | None:
        """Returns the MTU of the overlay; None where the underlay's leaves no room for packets."""
        try:
            return self.desired.device_mtu_bytes if self.desired else None
        except InterfaceError:
            return None  # the reconciler meets it too, and tells

    def _scheduling(self) -> Policy | None:
        """Returns the policy that the kernel says all data threads have."""
        engine = self.path.engine if self.path else None
        found = {policy_of(number) for number in engine.threads().values()} if engine else set()
        policy = found.pop() if len(found) == 1 else None
        return None if policy == "other" else policy


def _mtu_bytes(reach: Reach, overlay_mtu_bytes: int) -> int:
    """Returns the largest packet that gets to the peer, as far as that is known."""
    if reach.adjacency is None or reach.gateway is not None:
        return overlay_mtu_bytes
    return reach.adjacency.mtu_bytes

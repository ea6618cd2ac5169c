"""Keeps the plan of this host as new as what it goes by, and tells what the plan refuses.

Path of a lease: `daemon.membership` -> **`daemon.desired`** (`fib.plan`) -> `daemon.reconcile`.
Whoever asks for the plan gets one of what the store and the host say now. Between two changes it
is the same one: a host that has many leases also has many events.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from tunneld.backend.base import Adjacency, Backend, Here, Reach, SourceCheck
from tunneld.backend.esp import KEY, Esp
from tunneld.backend.leases import underlay_address
from tunneld.daemon.path_mtu import PathMtus
from tunneld.daemon.path_search import PathState
from tunneld.fib.compose import Rules
from tunneld.fib.plan import Inputs, Members, Plan, SharedMac, addresses_of, members_of, plan
from tunneld.fib.state import State
from tunneld.lease.model import IPAddress, IPNetwork, Lease
from tunneld.lease.network import NetworkConfig
from tunneld.lease.selection import Skipped
from tunneld.lease.tracker import LeaseTracker
from tunneld.log import Periodic
from tunneld.peer import Peer
from tunneld.trust.policy import Verdict

_log = logging.getLogger("tunneld.daemon")


class Table(Protocol):
    """The lease table as this node has it."""

    @property
    def tracker(self) -> LeaseTracker:
        """What the store has told."""
        ...

    @property
    def own(self) -> Lease | None:
        """The lease this node holds."""
        ...

    def tell_skipped(self, skipped: Iterable[Skipped]) -> None:
        """Counts and logs, once, what is not used."""
        ...


class Desired:
    """What this host must hold, by the leases as they are."""

    def __init__(
        self,
        *,
        config: NetworkConfig,
        backend: Backend,
        table: Table,
        path_mtus: PathMtus,
        here: Here,
        source_check: SourceCheck,
        rules: Rules,
        verdicts: Callable[[Members], Mapping[IPNetwork, Verdict]] = lambda _members: {},
        esp: Esp | None = None,
        kept: Callable[[], frozenset[IPNetwork]] = frozenset,
    ) -> None:
        """`verdicts` says how the others may be reached; `esp` how it is done encrypted.

        `kept` returns the networks that packets are kept back for where no overlay leads there.
        """
        self._config = config
        self._backend = backend
        self._table = table
        self._path_mtus = path_mtus
        self._here = here
        self._source_check = source_check
        self._rules = rules
        self._verdicts = verdicts
        self._esp = esp
        self._kept = kept
        self._on_link: Mapping[IPAddress, bool] = {}
        self._device: str | None = None
        self._members: tuple[object, Members] | None = None
        """The others, and by what of the table they are still the same."""
        self._made: Plan | None = None
        """None: something has changed since the last plan."""
        self._refused: tuple[Skipped, ...] = ()
        self._shared: frozenset[SharedMac] = frozenset()
        self._doubles_told = Periodic()
        self.on_change: Callable[[], None] = lambda: None
        """Called when something but the leases has changed what must be."""
        self.peers: Mapping[IPNetwork, tuple[Peer, Reach]] = {}
        """Who is reached, and how, by the last plan. A peer has a place in each family."""
        path_mtus.on_change = self._changed

    @property
    def device(self) -> str | None:
        """Name of the TUN device; None: it is not open, or there is none."""
        return self._device

    @device.setter
    def device(self, name: str | None) -> None:
        self._device = name
        self._made = None

    @property
    def device_mtu_bytes(self) -> int:
        """MTU of the overlay's device."""
        underlay_mtu_bytes = self._here.underlay_mtu_bytes
        if self._esp is None:
            return self._backend.device_mtu_bytes(underlay_mtu_bytes)
        return self._esp.device_mtu_bytes(self._backend, underlay_mtu_bytes)

    def table_changed(self) -> None:
        """Says that the table, or the own lease, is not what it was."""
        self._members = None

    def set_underlay_mtu(self, mtu_bytes: int) -> None:
        """Takes over a new MTU of the underlay's link."""
        self._here = replace(self._here, underlay_mtu_bytes=mtu_bytes)
        self._changed()

    def underlay_addresses(self) -> frozenset[IPAddress]:
        """Returns the peers of whom must be known whether they are on the same link."""
        own = self._own()
        if own is None or not self._backend.wants_on_link:
            return frozenset()
        # Not by the plan, which there may be none of on a link that is too narrow.
        return addresses_of(self._members_beside(own).peers, self._backend.families)

    def set_on_link(self, answers: Mapping[IPAddress, bool]) -> None:
        """Takes over which of `underlay_addresses` the kernel reaches without a gateway.

        A peer that nobody has asked about yet is left out for that long, where it matters.
        """
        if answers != self._on_link:
            self._on_link = dict(answers)
            self._changed()

    @property
    def refused(self) -> tuple[Skipped, ...]:
        """Who is not reached, and why, by the last plan."""
        return self._refused

    def set_esp(self, found: Esp | None) -> None:
        """Takes over how peers with keys are reached; None: encryption is off."""
        self._esp = found
        self._changed()

    def trust_changed(self) -> None:
        """Says that others may be trusted, or may be reached in other ways, than before."""
        self._changed()

    def path_state(self, adjacency: Adjacency) -> PathState:
        """Returns what is known of the path to a peer."""
        return self._path_mtus.state_of(adjacency)

    def state(self) -> State | None:
        """Returns the desired state; None while this node holds no lease of this network."""
        made = self.plan()
        return None if made is None else made.state

    def plan(self) -> Plan | None:
        """Returns the plan by what is known now; None while there is no lease of this network.

        Raises:
            InterfaceError: the underlay leaves no room for a packet.
        """
        own = self._own()
        if own is None:
            return None
        members = self._members_beside(own)
        if self._made is None:
            self._made = self._make(own, members)
        return self._made

    def endpoints(self) -> Mapping[IPNetwork, IPAddress | None]:
        """Returns the underlay address of each prefix that is reached."""
        return {
            prefix: underlay_address(peer, 4 if prefix.version == 4 else 6)
            for prefix, (peer, _) in self.peers.items()
        }

    def subnets_of(self, key: str) -> tuple[IPNetwork, ...]:
        """Returns the subnets that are reached under a public key."""
        return tuple(
            prefix
            for prefix, (_, reach) in self.peers.items()
            if reach.adjacency is not None and reach.adjacency.of_peer.get(KEY) == key
        )

    def _changed(self) -> None:
        self._made = None
        self.on_change()

    def _own(self) -> Lease | None:
        own = self._table.own
        return own if own is not None and self._config.admits(own.key) else None

    def _members_beside(self, own: Lease) -> Members:
        tracker = self._table.tracker
        version = (tracker.history, tracker.revision, own)
        if self._members is None or self._members[0] != version:
            members = members_of(self._config, own, tracker.leases, tracker.records)
            self._members, self._made = (version, members), None
        return self._members[1]

    def _make(self, own: Lease, members: Members) -> Plan:
        made = self._planned(own, members)
        if self._path_mtus.follow(made.adjacencies):
            made = self._planned(own, members)
        self.peers, self._refused = made.reached, made.refused
        self._table.tell_skipped(made.refused)
        self._tell_shared(made.shared)
        return made

    def _planned(self, own: Lease, members: Members) -> Plan:
        return plan(
            Inputs(
                config=self._config,
                backend=self._backend,
                here=self._here,
                own=own.key,
                members=members,
                on_link=self._on_link,
                path_mtus=self._path_mtus.known(),
                verdicts=self._verdicts(members),
                kept=self._kept(),
                esp=self._esp,
                device=self._device,
                # Where nothing comes in plain, nothing plain is taken, also by a port that is open.
                source_check="strict"
                if self._esp is not None and self._esp.is_alone
                else self._source_check,
                rules=self._rules,
            )
        )

    def _tell_shared(self, shared: frozenset[SharedMac]) -> None:
        for one in sorted(shared - self._shared, key=lambda one: one.detail):
            if self._doubles_told.due(time.monotonic(), one):
                _log.warning(
                    "two leases publish one VTEP address; both are used",
                    extra={"fields": {"entry": str(one.entry), "detail": one.detail}},
                )
        self._shared = shared

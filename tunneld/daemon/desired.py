"""Leads the leases of the others through `peer`, `backend` and `fib` to one desired state.

Path of a lease: `daemon.membership` -> `peer` -> `backend` -> **`daemon.desired`** (`fib.compose`)
-> `daemon.datapath`. Each call starts anew from what the store says: there is no step to forget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Network

from tunneld.backend.base import Adjacency, Backend, Unusable
from tunneld.daemon.membership import Membership
from tunneld.daemon.path_mtu import PathMtus
from tunneld.fib.compose import compose
from tunneld.fib.state import FirewallMark, SourceCheck, State, UnderlayPort
from tunneld.lease.network import NetworkConfig
from tunneld.peer import Peer, join


class Desired:
    """What this host must hold, computed from the leases as they are."""

    def __init__(
        self,
        *,
        config: NetworkConfig,
        backend: Backend,
        membership: Membership,
        path_mtus: PathMtus,
        underlay_mtu_bytes: int,
        source_check: SourceCheck,
        ip_masq: bool,
        random_fully: bool,
        forward: bool = True,
        notrack: UnderlayPort | None = None,
        accept_mark: FirewallMark | None = None,
    ) -> None:
        self._config = config
        self._backend = backend
        self._membership = membership
        self._path_mtus = path_mtus
        self._source_check = source_check
        self._ip_masq = ip_masq
        self._random_fully = random_fully
        self._forward = forward
        self._notrack = notrack
        self._accept_mark = accept_mark
        self._underlay_mtu_bytes = underlay_mtu_bytes
        self.on_change: Callable[[], None] = lambda: None
        """Called when something but the leases has changed what must be."""
        self.peers: Mapping[IPv4Network, tuple[Peer, Adjacency]] = {}
        """Who is reached, and how, by the last computation."""

    @property
    def device_mtu_bytes(self) -> int:
        """MTU of the overlay device."""
        return self._backend.device_mtu_bytes(self._underlay_mtu_bytes)

    def set_underlay_mtu(self, mtu_bytes: int) -> None:
        """Takes over a new MTU of the underlay's link."""
        self._underlay_mtu_bytes = mtu_bytes
        self.on_change()

    def by_name(self, name: str | None) -> Adjacency | None:
        """Returns the adjacency the engine knows as `name`; None when it is gone."""
        return next((how for prefix, (_, how) in self.peers.items() if str(prefix) == name), None)

    def state(self) -> State | None:
        """Returns the desired state; None while this node holds no lease."""
        own = self._membership.own
        if own is None:
            return None
        leases = self._membership.accepted(own, self._config.network)
        peers = {peer.subnet: peer for peer in join(leases, self._membership.tracker.records)}
        adjacencies = self._path_mtus.limit(self._adjacencies(peers))
        self.peers = {prefix: (peers[prefix], how) for prefix, how in adjacencies.items()}
        return compose(
            network=self._config.network,
            subnet=own.subnet,
            adjacencies=adjacencies,
            device_mtu_bytes=self.device_mtu_bytes,
            source_check=self._source_check,
            ip_masq=self._ip_masq,
            random_fully=self._random_fully,
            forward=self._forward,
            notrack=self._notrack,
            accept_mark=self._accept_mark,
        )

    def _adjacencies(self, peers: Mapping[IPv4Network, Peer]) -> dict[IPv4Network, Adjacency]:
        found: dict[IPv4Network, Adjacency] = {}
        for prefix, peer in peers.items():
            try:
                found[prefix] = self._backend.adjacency(peer, mtu_bytes=self.device_mtu_bytes)
            except Unusable as verdict:
                self._membership.skip(peer.key, verdict.reason, verdict.detail)
        return found

"""Leads the leases of the others through `peer`, `backend` and `fib` to one desired state.

Path of a lease: `daemon.membership` -> `peer` -> `backend` -> **`daemon.desired`** (`fib.compose`)
-> `daemon.datapath`. Each call starts anew from what the store says: there is no step to forget.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from tunneld.backend.base import Adjacency, Backend, Here, Reach, SourceCheck, Unusable
from tunneld.backend.leases import subnet_of, underlay_address
from tunneld.backend.mac import MacAddress
from tunneld.daemon.membership import Membership
from tunneld.daemon.path_mtu import PathMtus
from tunneld.daemon.path_search import PathState
from tunneld.fib.compose import Overlay, Rules, compose
from tunneld.fib.shared_macs import shared_macs
from tunneld.fib.state import OverlayNet, State
from tunneld.lease.model import MALFORMED_VALUE, IPAddress, IPNetwork, Lease, SubnetKey
from tunneld.lease.network import NetworkConfig
from tunneld.log import Periodic
from tunneld.peer import Peer, join

_log = logging.getLogger("tunneld.daemon")

_Reached = dict[IPNetwork, tuple[Peer, Reach]]


class Desired:
    """What this host must hold, computed from the leases as they are."""

    def __init__(
        self,
        *,
        config: NetworkConfig,
        backend: Backend,
        membership: Membership,
        path_mtus: PathMtus,
        here: Here,
        source_check: SourceCheck,
        rules: Rules,
    ) -> None:
        self._config = config
        self._backend = backend
        self._membership = membership
        self._path_mtus = path_mtus
        self._here = here
        self._source_check = source_check
        self._rules = rules
        self._on_link: Mapping[IPAddress, bool] = {}
        self._shared: set[tuple[IPNetwork, IPNetwork, MacAddress]] = set()
        self._doubles_told = Periodic()
        self.device: str | None = None
        """Name of the TUN device, once it is open."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when something but the leases has changed what must be."""
        self.peers: Mapping[IPNetwork, tuple[Peer, Reach]] = {}
        """Who is reached, and how, by the last computation. A peer has a place in each family."""

    @property
    def device_mtu_bytes(self) -> int:
        """MTU of the overlay."""
        return self._backend.device_mtu_bytes(self._here.underlay_mtu_bytes)

    def set_underlay_mtu(self, mtu_bytes: int) -> None:
        """Takes over a new MTU of the underlay's link."""
        self._here = replace(self._here, underlay_mtu_bytes=mtu_bytes)
        self.on_change()

    def underlay_addresses(self) -> frozenset[IPAddress]:
        """Returns the peers of whom must be known whether they are on the same link."""
        own = self._membership.own
        if own is None or not self._backend.wants_on_link:
            return frozenset()
        return self._addresses(self._joined(own))

    def set_on_link(self, answers: Mapping[IPAddress, bool]) -> None:
        """Takes over which of `underlay_addresses` the kernel reaches without a gateway.

        A peer that nobody has asked about yet is left out for that long, where it matters.
        """
        if answers != self._on_link:
            self._on_link = dict(answers)
            self.on_change()

    def path_state(self, adjacency: Adjacency) -> PathState:
        """Returns what is known of the path to a peer."""
        return self._path_mtus.state_of(adjacency)

    def state(self) -> State | None:
        """Returns the desired state; None while this node holds no lease of this network."""
        own = self._membership.own
        if own is None or not self._config.admits(own.key):
            return None
        joined = self._joined(own)
        reached = self._reached(joined)
        reaches = self._path_mtus.limit({prefix: how for prefix, (_, how) in reached.items()})
        self.peers = {prefix: (reached[prefix][0], how) for prefix, how in reaches.items()}
        return compose(self._overlay(own.key), reaches, self._rules, self._addresses(joined))

    def endpoints(self) -> Mapping[IPNetwork, IPAddress | None]:
        """Returns the underlay address of each prefix that is reached."""
        return {
            prefix: underlay_address(peer, 4 if prefix.version == 4 else 6)
            for prefix, (peer, _) in self.peers.items()
        }

    def _addresses(self, peers: Iterable[Peer]) -> frozenset[IPAddress]:
        found = (
            underlay_address(peer, family) for peer in peers for family in self._backend.families
        )
        return frozenset(address for address in found if address is not None)

    def _overlay(self, own: SubnetKey) -> Overlay:
        backend, ipv4, ipv6 = self._backend, self._config.ipv4, self._config.ipv6
        return Overlay(
            ipv4=OverlayNet(network=ipv4.network, subnet=own.ipv4) if ipv4 else None,
            ipv6=OverlayNet(network=ipv6.network, subnet=own.ipv6) if ipv6 and own.ipv6 else None,
            datapath=backend.datapath,
            device=self.device,
            vxlan_devices=backend.devices(self._here, own),
            vtep=backend.vtep(self._here),
            mtu_bytes=self.device_mtu_bytes,
            source_check=self._source_check,
        )

    def _joined(self, own: Lease) -> list[Peer]:
        """Returns the peers, that of the oldest lease first."""
        leases = self._membership.accepted(own, self._config)
        made = {usable.lease.key: usable.lease.create_revision for usable in leases}
        peers = join(leases, self._membership.tracker.records)
        return sorted(peers, key=lambda peer: made[peer.key])

    def _reached(self, peers: Iterable[Peer]) -> _Reached:
        backend = self._backend
        on_link = frozenset(address for address, answer in self._on_link.items() if answer)
        found: _Reached = {}
        verdicts: dict[tuple[SubnetKey, str], list[str]] = defaultdict(list)
        for peer in peers:
            for family in backend.families:
                prefix = subnet_of(peer, family)
                if prefix is None or self._is_asked_for(underlay_address(peer, family)):
                    continue
                try:
                    reach = backend.reach(peer, family, self._here, on_link=on_link)
                except Unusable as verdict:
                    verdicts[peer.key, verdict.reason].append(verdict.detail)
                    continue
                except Exception as error:
                    # Whatever a lease of others holds, it costs that lease and nobody else.
                    detail = f"cannot be used: {type(error).__name__}: {error}"
                    verdicts[peer.key, MALFORMED_VALUE].append(detail)
                    continue
                if reach is not None:
                    found[prefix] = (peer, reach)
        for prefix, refusal in self._doubles(found):
            verdicts[found.pop(prefix)[0].key, refusal.reason].append(refusal.detail)
        for (key, reason), details in verdicts.items():
            self._membership.skip(key, reason, "; ".join(dict.fromkeys(details)))
        return found

    def _is_asked_for(self, address: IPAddress | None) -> bool:
        """Returns whether it matters whether a peer is on the same link, and is not known yet."""
        return self._backend.wants_on_link and address is not None and address not in self._on_link

    def _doubles(self, found: _Reached) -> list[tuple[IPNetwork, Unusable]]:
        """Returns who may not keep a VTEP address that an older lease has; tells of the others."""
        shared = set(shared_macs({prefix: how for prefix, (_, how) in found.items()}))
        lost = []
        for first, later, mac in sorted(shared, key=str):
            (one, kept), (other, doubtful) = found[first], found[later]
            both = f"leases of {one.key} and {other.key} publish one VtepMAC, {mac}"
            if kept.kernel and doubtful.kernel and kept.kernel.endpoint != doubtful.kernel.endpoint:
                lost.append((later, Unusable("vtep_mac_taken", f"{both}; the older one keeps it")))
            elif (first, later, mac) not in self._shared and self._doubles_told.due(
                time.monotonic(), (first, later, mac)
            ):
                _log.warning(
                    "two leases publish one VTEP address; both are used",
                    extra={"fields": {"entry": str(other.key), "detail": both}},
                )
        self._shared = shared
        return lost

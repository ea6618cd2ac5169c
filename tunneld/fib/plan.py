"""What this host must hold, from what it knows: the whole decision in one place.

Path of a lease: `lease.tracker` -> **`fib.plan`** (`lease.selection`, `peer`, `backend`,
`fib.compose`) -> the executors. Pure: it tells what it has refused, and its caller counts and logs.

A further input is a field of `Inputs`; what it says of a single peer belongs into `_reach`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from tunneld.backend import esp
from tunneld.backend.base import (
    Adjacency,
    Backend,
    Family,
    Here,
    OuterDf,
    Reach,
    SourceCheck,
    Unusable,
)
from tunneld.backend.leases import subnet_of, underlay_address
from tunneld.fib.compose import Overlay, Rules, compose
from tunneld.fib.shared_macs import shared_macs
from tunneld.fib.state import IdentityEndpoint, OverlayNet, State
from tunneld.lease.model import (
    MALFORMED_VALUE,
    IPAddress,
    IPNetwork,
    Lease,
    NodeRecord,
    RecordEncryption,
    SubnetKey,
)
from tunneld.lease.network import NetworkConfig
from tunneld.lease.ranges import is_part
from tunneld.lease.selection import Skipped, select
from tunneld.peer import Peer, join
from tunneld.trust.policy import Verdict

Path: TypeAlias = tuple[IPAddress, int]
"""Endpoint and UDP port of a peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathMtu:
    """What the path to a peer carries."""

    mtu_bytes: int
    """Largest inner packet."""
    outer_df: OuterDf


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """The others, as their leases and records have them."""

    peers: tuple[Peer, ...] = ()
    """That of the oldest lease first; no two subnets of them overlap."""
    writes: Mapping[SubnetKey, int] = field(default_factory=dict)
    """The revision each of their leases was written at."""
    refused: tuple[Skipped, ...] = ()
    """Leases, or subnets of them, that no backend may use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All that a plan goes by."""

    config: NetworkConfig
    backend: Backend
    here: Here
    own: SubnetKey
    """Of this host's lease; the config admits it."""
    members: Members
    on_link: Mapping[IPAddress, bool] = field(default_factory=dict)
    """Whether an underlay address is on the same link; one that is not in it is not known yet."""
    path_mtus: Mapping[Path, PathMtu] = field(default_factory=dict)
    """Of the paths that something is known of."""
    verdicts: Mapping[IPNetwork, Verdict] = field(default_factory=dict)
    """How subnets of the others may be reached. One that is not in it: in plain without `esp`, with
    it not at all."""
    kept: frozenset[IPNetwork] = frozenset()
    """Networks that packets are kept back for where no overlay leads there (`host.barrier`)."""
    esp: esp.Esp | None = None
    """How peers with keys are reached; None: encryption is off."""
    device: str | None = None
    """Name of the TUN device; None: there is none."""
    source_check: SourceCheck
    rules: Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMac:
    """Two leases that publish one VTEP address, and are used both."""

    entry: SubnetKey
    """The later one."""
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What must be, and what has become of each lease."""

    state: State
    reached: Mapping[IPNetwork, tuple[Peer, Reach]]
    """A peer has a place in each family."""
    adjacencies: Mapping[IPNetwork, Adjacency]
    """Of those that the engine reaches, as this host's link alone would have them."""
    refused: tuple[Skipped, ...]
    """With reasons; those of `Inputs.members` among them."""
    unknown: frozenset[IPAddress]
    """Peers that are left out until it is known whether they are on the same link."""
    shared: frozenset[SharedMac]


def members_of(
    config: NetworkConfig, own: Lease, leases: Iterable[Lease], records: Iterable[NodeRecord]
) -> Members:
    """Returns the others, in an order that is theirs, whatever that of the arguments."""
    selection = select(leases, own, config)
    # Selected they are sorted by subnet: that decides between leases of one age.
    usable = sorted(selection.accepted, key=lambda one: one.lease.create_revision)
    return Members(
        peers=join(usable, records),
        writes={one.lease.key: one.lease.mod_revision for one in usable},
        refused=selection.skipped,
    )


def plan(inputs: Inputs) -> Plan:
    """Returns what must be.

    Raises:
        InterfaceError: the underlay leaves no room for a packet.
    """
    backend, members = inputs.backend, inputs.members
    refusals = _Refusals(members)
    found: dict[IPNetwork, tuple[Peer, Reach]] = {}
    blocked: dict[IPNetwork, Adjacency] = {}
    unknown: set[IPAddress] = set()
    on_link = frozenset(address for address, answer in inputs.on_link.items() if answer)
    for peer in members.peers:
        for family in backend.families:
            prefix = subnet_of(peer, family)
            if prefix is None:
                continue
            address = underlay_address(peer, family)
            if (
                backend.wants_on_link
                and address is not None
                and address not in inputs.on_link
                and not _is_encrypted(inputs.verdicts.get(prefix))
            ):
                unknown.add(address)
                continue
            try:
                reach = _reach(inputs, peer, family, on_link)
            except Unusable as verdict:
                refusals.add(peer, verdict.reason, verdict.detail)
                if (kept_out := _blocked(inputs, peer, prefix)) is not None:
                    blocked[prefix] = kept_out
            except Exception as error:
                # Whatever a lease of others holds, it costs that lease and nobody else.
                detail = f"cannot be used: {type(error).__name__}: {error}"
                refusals.add(peer, MALFORMED_VALUE, detail)
            else:
                if reach is not None:
                    found[prefix] = (peer, reach)
    shared = frozenset(_part_doubles(found, refusals))
    adjacencies = {
        prefix: reach.adjacency
        for prefix, (_, reach) in found.items()
        if reach.adjacency is not None
    }
    reaches = {prefix: _limited(reach, inputs.path_mtus) for prefix, (_, reach) in found.items()}
    addresses = addresses_of(members.peers, backend.families)
    return Plan(
        state=compose(
            replace(_overlay(inputs), blocked=blocked),
            reaches,
            inputs.rules,
            addresses,
            _identities(inputs),
        ),
        reached={prefix: (found[prefix][0], reach) for prefix, reach in reaches.items()},
        adjacencies=adjacencies,
        refused=refusals.all(),
        unknown=frozenset(unknown),
        shared=shared,
    )


def _reach(
    inputs: Inputs, peer: Peer, family: Family, on_link: Collection[IPAddress]
) -> Reach | None:
    """Returns how a peer is reached in a family, by all that is known; None: not at all.

    Raises:
        Unusable: it may not be reached, or cannot.
    """
    prefix = subnet_of(peer, family)
    verdict = None if prefix is None else inputs.verdicts.get(prefix)
    if verdict is not None and verdict.way == "unreachable":
        raise Unusable(verdict.reason, verdict.detail)
    if verdict is None and inputs.esp is not None:
        raise Unusable("required", "nobody has judged whether it may be reached in plain")
    if prefix is None or not _is_encrypted(verdict):
        if verdict is None or verdict.key is None:
            return inputs.backend.reach(peer, family, inputs.here, on_link=on_link)
        found = inputs.backend.reach(peer, family, inputs.here, on_link=frozenset())
        return None if found is None else esp.taking_sealed(found, str(verdict.key))
    port, key = esp.port_of(peer), None if verdict is None else verdict.key
    if inputs.esp is None or key is None or port is None:
        # Never in plain, whatever is missing.
        raise Unusable("keys", "it may be reached encrypted alone, and its record names no key")
    takes_plain = verdict is not None and verdict.until_s is not None
    return inputs.esp.reach(peer, prefix, str(key), port, inputs.here, takes_plain=takes_plain)


def _blocked(inputs: Inputs, peer: Peer, prefix: IPNetwork) -> Adjacency | None:
    """Returns what keeps plain packets from speaking for a subnet that policy has refused."""
    verdict = inputs.verdicts.get(prefix)
    if inputs.esp is None or verdict is None or verdict.way != "unreachable":
        return None
    return inputs.esp.blocked(peer, prefix, inputs.here)


def _is_encrypted(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.way == "encrypted"


def _identities(inputs: Inputs) -> dict[str, IdentityEndpoint]:
    """Returns whom handshakes are made with: whoever may hold what its lease says."""
    found: dict[str, IdentityEndpoint] = {}
    proved: set[str] = set()
    for peer in inputs.members.peers:
        said = peer.encryption
        verdicts = [
            verdict
            for family in inputs.backend.families
            if (prefix := subnet_of(peer, family)) is not None
            and (verdict := inputs.verdicts.get(prefix)) is not None
            and verdict.key is not None
        ]
        if not verdicts or not isinstance(said, RecordEncryption):
            continue
        key, is_proved = str(verdicts[0].key), any(one.is_confirmed for one in verdicts)
        # Of two leases that name one key, the one that its holder has claimed says where it is.
        if key not in found or (is_proved and key not in proved):
            found[key] = IdentityEndpoint(
                endpoint=esp.endpoint(peer, inputs.here),
                port=said.port,
                instance=said.instance,
            )
        if is_proved:
            proved.add(key)
    return found


class _Refusals:
    """Why peers are not used, each reason of each lease once."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._details: dict[tuple[SubnetKey, str], dict[str, None]] = defaultdict(dict)

    def add(self, peer: Peer, reason: str, detail: str) -> None:
        self._details[peer.key, reason][detail] = None

    def all(self) -> tuple[Skipped, ...]:
        writes = self._members.writes
        return self._members.refused + tuple(
            Skipped(
                name=str(key), reason=reason, detail="; ".join(details), mod_revision=writes[key]
            )
            for (key, reason), details in self._details.items()
        )


def _part_doubles(
    found: dict[IPNetwork, tuple[Peer, Reach]], refusals: _Refusals
) -> Iterator[SharedMac]:
    """Takes away who may not keep a VTEP address that an older lease has; yields the others."""
    reaches = {prefix: reach for prefix, (_, reach) in found.items()}
    for first, later, mac in sorted(set(shared_macs(reaches)), key=str):
        (one, kept), (other, doubtful) = found[first], found[later]
        both = f"leases of {one.key} and {other.key} publish one VtepMAC, {mac}"
        if kept.kernel and doubtful.kernel and kept.kernel.endpoint != doubtful.kernel.endpoint:
            del found[later]
            refusals.add(other, "vtep_mac_taken", f"{both}; the older one keeps it")
        else:
            yield SharedMac(entry=other.key, detail=both)


def _limited(reach: Reach, path_mtus: Mapping[Path, PathMtu]) -> Reach:
    """Returns a reach with the MTU of its path."""
    adjacency = reach.adjacency
    if adjacency is None:
        return reach
    known = path_mtus.get((adjacency.endpoint, adjacency.port))
    if known is None:
        return reach
    mtu_bytes, outer_df = known.mtu_bytes, known.outer_df
    if (mtu_bytes, outer_df) == (adjacency.mtu_bytes, adjacency.outer_df):
        return reach
    return replace(reach, adjacency=replace(adjacency, mtu_bytes=mtu_bytes, outer_df=outer_df))


def addresses_of(peers: Iterable[Peer], families: Iterable[Family]) -> frozenset[IPAddress]:
    """Returns the underlay addresses of peers, in these families."""
    families = tuple(families)
    found = (underlay_address(peer, family) for peer in peers for family in families)
    return frozenset(address for address in found if address is not None)


def _overlay(inputs: Inputs) -> Overlay:
    backend, here, own, sealed = inputs.backend, inputs.here, inputs.own, inputs.esp
    underlay_mtu_bytes = here.underlay_mtu_bytes
    ipv4, ipv6 = inputs.config.ipv4, inputs.config.ipv6
    return Overlay(
        ipv4=OverlayNet(network=ipv4.network, subnet=own.ipv4) if ipv4 else None,
        ipv6=OverlayNet(network=ipv6.network, subnet=own.ipv6) if ipv6 and own.ipv6 else None,
        datapath=backend.datapath,
        device=inputs.device,
        vxlan_devices=backend.devices(here, own),
        vtep=backend.vtep(here),
        mtu_bytes=backend.device_mtu_bytes(underlay_mtu_bytes)
        if sealed is None
        else sealed.device_mtu_bytes(backend, underlay_mtu_bytes),
        flannel_mtu_bytes=None
        if sealed is None
        else sealed.flannel_mtu_bytes(backend, underlay_mtu_bytes),
        sealed=sealed is not None,
        kept=frozenset(
            network
            for network in inputs.kept
            if any(is_part(network, pool.network) for pool in inputs.config.pools)
        ),
        source_check=inputs.source_check,
    )

"""The wanted rules in one address family. Pure.

Path of a lease: `host.firewall.choice` -> **`host.firewall.family`** -> `nft_table`, `layout`.

Nothing of one family depends on the other, and each has tables of its own in the kernel. What
differs between the two is here: names of programs and tables, and which addresses are groups.

Source: flannel `pkg/trafficmngr/iptables/iptables.go` (224.0.0.0/4, ff00::/8).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from tunneld.fib.state import Firewall, FirewallMark, UnderlayGuard, UnderlayPort
from tunneld.lease.model import IPNetwork

Version = Literal[4, 6]

VERSIONS: tuple[Version, ...] = (4, 6)

NFT_FAMILY = {4: "ip", 6: "ip6"}
IPTABLES = {4: "iptables", 6: "ip6tables"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyRules:
    """`Firewall`, as far as it concerns one family."""

    version: Version
    network: IPNetwork
    subnet: IPNetwork
    """This host's own."""
    devices: tuple[str, ...] = ()
    direct: bool = False
    """Whether overlay packets also come and go by other devices, as they are."""
    keep_sources: bool = True
    """Whether somebody may translate sources between overlay subnets, if we let him."""
    masquerade: bool = False
    random_fully: bool = True
    forward: bool = True
    notrack: tuple[UnderlayPort, ...] = ()
    accept_mark: FirewallMark | None = None
    sealed: bool = False
    """Whether what says it comes from the overlay must come by the way that leads there."""
    guard: UnderlayGuard | None = None
    """Its addresses are those of this family."""
    outside: tuple[int, ...] = ()
    """Indices of the underlay interface and of the bridge or bond that it is a port of."""
    inside: tuple[str, ...] = ()
    """Names of the devices by which containers of this host come, where the guard must know them.
    """

    @property
    def groups(self) -> str:
        """The multicast addresses."""
        return "224.0.0.0/4" if self.version == 4 else "ff00::/8"

    @property
    def nft(self) -> str:
        """The keyword of nft: of a table's family, and in front of an address."""
        return NFT_FAMILY[self.version]


def in_families(
    wanted: Firewall, translated: Collection[Version] = VERSIONS
) -> tuple[FamilyRules, ...]:
    """Returns the rules of each family that the network has.

    Args:
        wanted: all of them.
        translated: the families in which somebody else may translate sources.
    """
    nets: tuple[tuple[Version, IPNetwork, IPNetwork] | None, ...] = (
        (4, wanted.ipv4.network, wanted.ipv4.subnet) if wanted.ipv4 else None,
        (6, wanted.ipv6.network, wanted.ipv6.subnet) if wanted.ipv6 else None,
    )
    return tuple(
        FamilyRules(
            version=version,
            network=network,
            subnet=subnet,
            devices=tuple(sorted(wanted.devices)),
            direct=wanted.direct or not wanted.devices,
            keep_sources=wanted.masquerade or version in translated,
            masquerade=wanted.masquerade,
            random_fully=wanted.random_fully,
            forward=wanted.forward,
            notrack=tuple(
                sorted(
                    (port for port in wanted.notrack if port.address.version == version),
                    key=lambda port: (str(port.address), port.port),
                )
            ),
            accept_mark=wanted.accept_mark,
            sealed=wanted.sealed,
            guard=_guard(wanted.guard, version),
        )
        for version, network, subnet in filter(None, nets)
    )


def _guard(guard: UnderlayGuard | None, version: Version) -> UnderlayGuard | None:
    if guard is None:
        return None
    peers = frozenset(address for address in guard.peers if address.version == version)
    own = frozenset(address for address in guard.own if address.version == version)
    return replace(guard, peers=peers, own=own)

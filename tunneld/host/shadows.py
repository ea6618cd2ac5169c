"""Finds what of this host takes packets for the overlay away: routes, rules and addresses.

Path of a lease: `daemon.shadows` -> **`host.shadows`** -> the kernel, which is asked for the route
of each peer. Reads only.

Docker's default pools lie in 172.16.0.0/12: a docker0 inside the overlay's network has a route more
specific than ours, and packets for a peer below it never reach the overlay.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from tunneld.errors import InterfaceError
from tunneld.host.netlink import KernelRoute, Netlink
from tunneld.host.routes import PROTOCOL, within
from tunneld.lease.model import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """A route of others by which packets for peers leave, or an address of this host."""

    route: IPNetwork | None
    """Its destination; None: the kernel has no route at all, or refuses."""
    device: str
    """By which packets leave instead; empty: none."""
    whole: tuple[IPNetwork, ...] = ()
    """Peers of which nothing is reached."""
    parts: tuple[IPNetwork, ...] = ()
    """Peers of which some addresses are not."""

    def __str__(self) -> str:
        route = "no route" if self.route is None else f"route {self.route}"
        device = f" dev {self.device}" if self.device else ""
        peers = (*self.whole, *self.parts)
        listed = ", ".join(map(str, peers[:5])) + (", ..." if len(peers) > 5 else "")
        count = f"{len(peers)} {'peer' if len(peers) == 1 else 'peers'}"
        return (
            f"{route}{device} takes packets for {count} away ({listed}); expected none inside "
            "the overlay's network: give that device or route other addresses (Docker: "
            "default-address-pools in daemon.json), or choose another Network"
        )


async def find_shadows(
    netlink: Netlink,
    *,
    networks: Collection[IPNetwork],
    own: Collection[IPNetwork],
    peers: Mapping[IPNetwork, IPAddress | None],
    devices: Collection[str],
) -> tuple[Shadow, ...]:
    """Returns what takes packets for `peers` away.

    Args:
        netlink: an open socket.
        networks: the overlay in each family.
        own: this host's own subnets, where routes of others belong.
        peers: subnets whose routes are in place, with the underlay address of each.
        devices: names of the overlay's devices.

    Raises:
        HostError: the kernel cannot be asked.
    """
    names = {link.index: link.name for link in await netlink.links()}
    ours = {index for index, name in names.items() if name in devices}
    foreign = {
        route.destination
        for route in await netlink.routes_within(networks)
        if not _is_ours(route, ours)
        and not any(within(route.destination, subnet) for subnet in own)
    }
    foreign |= {
        ip_network(one.address)
        for family in sorted({network.version for network in networks})
        for one in await netlink.addresses(4 if family == 4 else 6)
        if one.index not in ours
    }
    asked: list[tuple[IPNetwork, IPNetwork]] = [(peer, peer) for peer in peers]
    for part in foreign:
        asked += [(peer, part) for peer in peers if part != peer and within(part, peer)]
    answers = await netlink.routes_by([_some_address(part) for _, part in asked])
    found: dict[tuple[IPNetwork | None, str], tuple[set[IPNetwork], set[IPNetwork]]] = {}
    for (peer, part), route in zip(asked, answers, strict=True):
        if route is not None and _is_ours(route, ours):
            continue
        place = (
            None if route is None else route.destination,
            "" if route is None else names.get(route.oif or 0, ""),
        )
        whole, parts = found.setdefault(place, (set(), set()))
        is_whole = part == peer and (route is None or within(peer, route.destination))
        (whole if is_whole else parts).add(peer)
    # The overlay's own routes may take the datagrams away that carry it.
    carried = [(peer, address) for peer, address in peers.items() if address is not None]
    answers = await netlink.routes_by([address for _, address in carried])
    for (peer, _), route in zip(carried, answers, strict=True):
        if route is not None and _is_ours(route, ours):
            place = (route.destination, names.get(route.oif or 0, ""))
            found.setdefault(place, (set(), set()))[0].add(peer)
    return tuple(
        Shadow(
            route=route,
            device=device,
            whole=_sorted(whole),
            parts=_sorted(parts - whole),
        )
        for (route, device), (whole, parts) in sorted(found.items(), key=str)
    )


async def require_outside(
    netlink: Netlink, networks: Collection[IPNetwork], what: str, addresses: Sequence[IPAddress]
) -> None:
    """Returns where the overlay's routes leave one of these addresses where it is.

    Args:
        netlink: an open socket.
        networks: the overlay in each family, each of which gets a route.
        what: what they are.
        addresses: of which one must go on to be reached.

    Raises:
        InterfaceError: all would be sought in the overlay itself, so that nothing can work.
    """
    refusal = None
    for address, route in zip(addresses, await netlink.routes_by(addresses), strict=True):
        network = next((one for one in networks if within(ip_network(address), one)), None)
        is_left = route is not None and route.protocol != PROTOCOL
        if network is None or (
            is_left and route is not None and route.destination.prefixlen > network.prefixlen
        ):
            return
        refusal = (
            f"{what} {address} lies in the overlay's Network {network}, and no route of this host "
            "to it is more specific: the overlay's own would take its packets away; expected it "
            "outside: choose another Network"
        )
    if refusal is not None:
        raise InterfaceError(refusal)


def _is_ours(route: KernelRoute, devices: Collection[int]) -> bool:
    return route.protocol == PROTOCOL or route.oif in devices


def _some_address(network: IPNetwork) -> IPAddress:
    """Returns an address that a container may have; the only one of a single address."""
    return network[1] if network.num_addresses > 2 else network[0]


def _sorted(networks: Collection[IPNetwork]) -> tuple[IPNetwork, ...]:
    return tuple(sorted(networks, key=lambda net: (net.version, int(net.network_address))))

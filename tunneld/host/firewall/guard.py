"""Keeps the overlay's ports to the data path: rules for nft and for iptables. Pure.

Path of a lease: `nft_table`, `layout` -> **`host.firewall.guard`** (values in, text out).

Towards peers only what has the data path's mark leaves, and what no program's socket has sent (the
kernel's tunnels). Towards this host containers get nothing: what comes by a kind of device that
they have must be a peer's, on the way its route leads. Other kinds are left alone (RFC 3704).

Source: Linux net/netfilter/nft_meta.c (`skuid`), xt_owner.c (`--socket-exists`), net/ipv4/
ip_tunnel_core.c (an outer packet keeps mark and socket), netfilter/{nft_fib_ipv4,ipt_rpfilter}.c.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses
from typing import Final, Literal

from tunneld.fib.state import DATAGRAM_MARK, UnderlayGuard
from tunneld.host.netlink.model import INSIDE_KINDS, Link

KINDS = ("SEND", "PASS", "FROM", "PEER", "MARK", "COME", "HERE")
"""Chains of iptables: what programs send, what is forwarded, from whom, to whom, the mark of the
kernel's own datagrams, what comes to this host, and what of it by a container's device."""

PEERS = "peers"
"""Name of nft's set of guarded addresses."""

GUARD_FORWARD: Final = "guard_forward"
"""Name of nft's chain for what passes through, by its rule behind the first line."""

PASSING: Final = "guard_pass"
"""Name of the chain for what of it goes to a guarded port, at no hook."""

_ANY_USER = 0xFFFFFFFF

_VNI_BITS = "96,24"
"""Where a VXLAN datagram has its network: offset behind the start of UDP, and length."""


@dataclass(frozen=True, slots=True)
class TableRules:
    """What the guard has in one table of iptables."""

    table: str
    parent: str
    """The built-in chain that leads to ours."""
    place: Literal["first", "last"]
    chain: str
    """Where it leads."""
    chains: Mapping[str, tuple[str, ...]]


def outside(links: Iterable[Link], guard: UnderlayGuard) -> tuple[int, ...]:
    """Returns the indices of the devices by which peers come: the underlay interface's.

    While that is a port, as of a bridge that is just being made, what it gets comes by its master.
    """
    masters = {link.index: link.master for link in links}
    found: list[int] = []
    index = guard.interface
    while index and index not in found:
        found.append(index)
        index = masters.get(index, 0)
    return tuple(found)


def inside(links: Iterable[Link], guard: UnderlayGuard) -> tuple[str, ...]:
    """Returns the names of the devices by which containers, or virtual machines, come.

    A port of a bridge counts as the bridge.
    """
    links = tuple(links)
    outside_of = outside(links, guard)
    found = (
        link.name
        for link in links
        if link.kind in INSIDE_KINDS and link.master == 0 and link.index not in outside_of
    )
    return tuple(sorted(found))


def nft_chains(
    ip: str, guard: UnderlayGuard, outside: Collection[int], *, is_plain: bool
) -> dict[str, list[str]]:
    """Returns name, first line and rules of each chain, over the set `PEERS` of the same table.

    `PASSING` has no first line: others lead to it.

    `is_plain`: by what every nft and kernel understands.
    """
    mark = f"{DATAGRAM_MARK.value:#x}"
    ports = _ports(guard)
    # The port first: few packets of others have it, and a look into the set costs more.
    to_peers = f"udp dport {ports} {ip} daddr @{PEERS}"
    chains = {
        # Before anybody can give marks to packets.
        "guard_out": [
            "type filter hook output priority raw - 20; policy accept;",
            f"meta mark & {mark} == {mark} return",
            f"{to_peers} meta skuid 0-{_ANY_USER} counter drop",
        ],
        # A peer's own datagrams may pass through here, be it a guest of this host or behind it.
        PASSING: [
            f"{ip} saddr != @{PEERS} counter drop",
            *([] if is_plain else ["fib saddr . iif oif missing counter drop"]),
        ],
        # One rule for all that passes through, and that is mostly not for such a port.
        GUARD_FORWARD: [
            "type filter hook forward priority filter - 20; policy accept;",
            f"{to_peers} jump {PASSING}",
        ],
    }
    if not is_plain and (guard.own or guard.devices):
        kinds = ", ".join(f'"{kind}"' for kind in sorted(INSIDE_KINDS))
        own = ", ".join(sorted(map(str, guard.own)))
        to_us = "" if guard.devices else f"{ip} daddr {{ {own} }} "
        # Tunnels of others on the port of the kernel's devices have another network (RFC 7348 §5).
        of_us = f"@th,{_VNI_BITS} {guard.vni} " if guard.devices and guard.vni else ""
        come = f"udp dport {ports} {to_us}{of_us}meta iifkind {{ {kinds} }}"
        chains["guard_in"] = [
            "type filter hook input priority filter - 20; policy accept;",
            *(f"meta iif {index} return" for index in outside),
            f"{come} {ip} saddr @{PEERS} fib saddr . iif oif exists return",
            f"{come} counter drop",
        ]
    if guard.devices:
        # What this host itself sends has a socket also in its outer packet.
        names = ", ".join(f'"{name}"' for name in sorted(guard.devices))
        devices = f"oifname {{ {names} }}" if is_plain else 'meta oifkind "vxlan"'
        chains["guard_mark"] = [
            "type filter hook postrouting priority mangle; policy accept;",
            f"{devices} meta mark set meta mark | {mark}",
        ]
    return chains


def _ports(guard: UnderlayGuard) -> str:
    """Returns them as nft lists one or more."""
    first, *more = map(str, guard.ports)
    return f"{{ {', '.join((first, *more))} }}" if more else first


def iptables_rules(
    guard: UnderlayGuard, inside: Collection[str], names: Mapping[str, str], comment: str
) -> Iterator[TableRules]:
    """Yields the rules of each table that has some.

    There are no sets without a program of their own; only what is not the overlay's goes through
    the lists. That a peer's datagrams pass through here by the right device is left to rp_filter.

    Args:
        guard: of one address family.
        inside: names of the devices by which containers come.
        names: of our chains, by kind.
        comment: what marks a rule of ours.
    """
    mark = f"{DATAGRAM_MARK.value:#x}/{DATAGRAM_MARK.mask:#x}"
    to_ports = [f"-p udp -m udp --dport {port} {comment}" for port in guard.ports]
    v4 = [IPv4Network(one) for one in guard.peers if isinstance(one, IPv4Address)]
    v6 = [IPv6Network(one) for one in guard.peers if isinstance(one, IPv6Address)]
    nets = [*map(str, collapse_addresses(v4)), *map(str, collapse_addresses(v6))]
    dropped = tuple(f"-d {net} {comment} -j DROP" for net in nets)
    sending = (
        f"-m mark --mark {mark} {comment} -j RETURN",
        f"-m owner ! --socket-exists {comment} -j RETURN",
        *(f"{to_port} -j {names['PEER']}" for to_port in to_ports),
    )
    yield TableRules(
        "raw", "OUTPUT", "first", names["SEND"], {names["SEND"]: sending, names["PEER"]: dropped}
    )
    of_peers = tuple(f"-s {net} {comment} -j RETURN" for net in nets)
    if inside and (guard.own or guard.devices):
        own = [f"-d {one}/{one.max_prefixlen} " for one in sorted(guard.own, key=str)]
        to_us = [""] if guard.devices else own
        coming = tuple(
            f"{where}-i {device} {to_port} -j {names['HERE']}"
            for device in sorted(inside)
            for where in to_us
            for to_port in to_ports
        )
        # Before connection tracking, where alone rpfilter may stand; without that match, which a
        # kernel may lack, nothing comes by these devices.
        local = (
            f"-m addrtype ! --dst-type LOCAL {comment} -j RETURN",
            f"-m rpfilter --invert {comment} -j DROP",
            *of_peers,
            f"{comment} -j DROP",
        )
        yield TableRules(
            "raw",
            "PREROUTING",
            "first",
            names["COME"],
            {names["COME"]: coming, names["HERE"]: local},
        )
    yield TableRules(
        "filter",
        "FORWARD",
        "first",
        names["PASS"],
        {
            names["PASS"]: tuple(f"{to_port} -j {names['FROM']}" for to_port in to_ports),
            names["FROM"]: (*of_peers, f"{comment} -j {names['PEER']}"),
            names["PEER"]: dropped,
        },
    )
    if guard.devices:
        marked = tuple(
            f"-o {device} {comment} -j MARK --set-xmark {mark}" for device in sorted(guard.devices)
        )
        yield TableRules("mangle", "POSTROUTING", "last", names["MARK"], {names["MARK"]: marked})

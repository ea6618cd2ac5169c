"""Drops what says it comes from the overlay, and comes by a way that does not lead there. Pure.

Path of a lease: `nft_table`, `layout` -> **`host.firewall.spoofing`** (values in, text out).

Where packets are encrypted, whoever is on a link of this host must not speak for a container by
sending its packets as they are: the kernel would forward them. What routes lead to by another way,
as with DirectRouting and by bridges, comes by that; what containers send to this host's underlay
address comes bare by design. Source: RFC 3704 section 2.2; Linux net/ipv4/netfilter/
nft_fib_ipv4.c, ipt_rpfilter.c.
"""

from __future__ import annotations

from tunneld.host.firewall.family import FamilyRules
from tunneld.host.firewall.guard import TableRules

KIND = "BARE"
"""Chain of iptables."""


def nft_chains(wanted: FamilyRules, *, is_plain: bool) -> dict[str, list[str]]:
    """Returns name, first line and rules of each chain.

    `is_plain`: by what every nft and kernel understands. That knows the underlay interface alone.
    """
    ip = wanted.nft
    inside = f"{ip} saddr {wanted.network} {ip} daddr {wanted.network}"
    if is_plain:
        where = [] if wanted.direct else [f"meta iif {index} " for index in wanted.outside]
        rules = [f"{each}{inside} counter drop" for each in where]
    else:
        names = ", ".join(f'"{name}"' for name in wanted.devices)
        other = f"iifname != {{ {names} }} " if names else ""
        rules = [f"{inside} {other}fib saddr . iif oif missing counter drop"]
    return {"bare": ["type filter hook prerouting priority raw - 20; policy accept;", *rules]}


def iptables_rules(wanted: FamilyRules, chain: str, comment: str) -> TableRules:
    """Returns the rules, which stand in `chain`; `comment` marks a rule of ours.

    They must do where a kernel lacks rpfilter: there they are written without it. So this host's
    own subnet is left alone, and peers that are reached directly, if there are some.
    """
    rules: tuple[str, ...] = ()
    if not wanted.direct:
        rules = (
            *(f"-i {device} {comment} -j RETURN" for device in wanted.devices),
            f"-s {wanted.subnet} {comment} -j RETURN",
            f"-s {wanted.network} -d {wanted.network} -m rpfilter --invert {comment} -j DROP",
        )
    return TableRules("raw", "PREROUTING", "first", chain, {chain: rules})

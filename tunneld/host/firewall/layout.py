"""Where our iptables rules belong among those of others, and what puts them there. Pure.

Path of a lease: `host.firewall.xtables` -> **`host.firewall.layout`** (text in, text out).

All rules stand in chains of our own, named after the daemon; a chain of somebody else
holds nothing of ours but one jump. Both address families are laid out alike. Where Docker is,
only the overlay's own traffic is accepted, so that what Docker keeps apart stays apart; elsewhere
what flannel accepts.

Source: iptables-save(8), iptables-restore(8); flannel `pkg/trafficmngr/iptables/iptables.go`;
Docker's "Packet filtering and firewalls" (DOCKER-USER).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal
from zlib import crc32

from tunneld.host.firewall import guard, spoofing
from tunneld.host.firewall.family import FamilyRules
from tunneld.lease.model import IPNetwork

DOCKER_USER = "DOCKER-USER"
"""The chain Docker keeps for the operator's rules and never changes."""

_COMMENT = "-m comment --comment tunneld"
_OWN = "TUNNELD-"
_KINDS = ("FWD", "KEEP", "MASQ", "RAW", "OUT", spoofing.KIND, *guard.KINDS)
"""Chains: forwarding, kept source addresses, masquerade, raw of what comes in and goes out, what
comes bare, guard.

The longest name, with the longest device name of 15 characters, has the 28 iptables allows.
"""

_LAST_WORDS = ("ACCEPT", "DROP", "REJECT", "RETURN")

Place = Literal["first", "before drop", "before decision", "last"]
"""Of a jump. `first`: nothing but jumps like it stands before. `before drop`: no DROP does.
`before decision`: no rule that decides about every packet does, nor Docker's chains. `last`:
anywhere."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as iptables-save shows it."""

    policies: dict[str, str] = field(default_factory=dict)
    """Chain to its policy; `-` for one that is not built in."""
    rules: dict[str, list[str]] = field(default_factory=dict)
    """Chain to its rules, each without `-A CHAIN`."""


Tables = Mapping[str, Table]


@dataclass(frozen=True, slots=True)
class Jump:
    """The rule by which packets get from a chain of others to one of ours."""

    chain: str
    target: str
    place: Place

    @property
    def rule(self) -> str:
        """Returns it as iptables-save shows it, without `-A CHAIN`."""
        return f"{_COMMENT} -j {self.target}"


@dataclass(frozen=True, slots=True)
class Layout:
    """What must be of ours in one table."""

    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    jumps: tuple[Jump, ...] = ()


def parse(text: str) -> dict[str, Table]:
    """Reads the output of iptables-save."""
    tables: dict[str, Table] = {}
    table = Table()
    for line in text.splitlines():
        if line.startswith("*"):
            table = tables.setdefault(line[1:].strip(), Table())
        elif line.startswith(":"):
            chain, policy, *_ = [*line[1:].split(), "", ""]
            table.policies[chain] = policy
            table.rules.setdefault(chain, [])
        elif line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            table.rules.setdefault(chain, []).append(rule)
    return tables


def owner_of(devices: Iterable[str], networks: Iterable[IPNetwork]) -> str:
    """Returns what a daemon's tables and chains are called after, at most 15 characters.

    It is the first device of its overlay. Where that has none, its first network tells the daemons
    of one host apart.
    """
    for device in devices:
        return device
    return f"routed-{crc32(str(next(iter(networks))).encode()):08x}"


def own_chains(owner: str) -> frozenset[str]:
    """Returns the names of all chains that this daemon may own."""
    return frozenset(f"{_OWN}{kind}-{owner}" for kind in _KINDS)


def owners(tables: Tables) -> frozenset[str]:
    """Returns what the chains of ours are called after, of whichever daemon."""
    chains = {chain for table in tables.values() for chain in table.rules}
    return frozenset(
        chain.removeprefix(f"{_OWN}{kind}-")
        for chain in chains
        for kind in _KINDS
        if chain.startswith(f"{_OWN}{kind}-")
    )


def beside_nftables(tables: Tables, owner: str, wanted: FamilyRules) -> dict[str, Layout]:
    """Returns what must be in iptables where everything else is in our nftables table.

    An accept there does not overrule a drop here, so that only accepts are needed, and only
    where something drops.
    """
    layouts = {}
    if wanted.forward and (_docker_asks(tables) or _drops_forwarded(tables)):
        layouts["filter"] = _forward(tables, owner, wanted)
    if _may_drop_early(tables, owner):
        layouts["raw"] = _raw(owner, wanted, notrack=False)
    return layouts


def beside_iptables(tables: Tables, owner: str, wanted: FamilyRules) -> dict[str, Layout]:
    """Returns what must be in the iptables of the other variant, where `everything` is in one."""
    layouts = beside_nftables(tables, owner, wanted)
    if translates(tables, owner):
        layouts["nat"] = _nat(owner, replace(wanted, masquerade=False))
    return layouts


def everything(tables: Tables, owner: str, wanted: FamilyRules) -> dict[str, Layout]:
    """Returns what must be in iptables where there is no nftables table of ours."""
    # Its accepts track no connections, so that they may stay where nobody translates.
    layouts = {"nat": _nat(owner, wanted)}
    if wanted.forward:
        layouts["filter"] = _forward(tables, owner, wanted)
    if wanted.notrack or _may_drop_early(tables, owner):
        layouts["raw"] = _raw(owner, wanted, notrack=True)
    parts: list[guard.TableRules] = []
    if wanted.guard is not None:
        chains = {kind: f"{_OWN}{kind}-{owner}" for kind in guard.KINDS}
        parts += guard.iptables_rules(wanted.guard, wanted.inside, chains, _COMMENT)
    if wanted.sealed:
        parts.append(spoofing.iptables_rules(wanted, f"{_OWN}{spoofing.KIND}-{owner}", _COMMENT))
    for part in parts:
        own = Layout(part.chains, (Jump(part.parent, part.chain, part.place),))
        layouts[part.table] = _joined(layouts.get(part.table, Layout()), own)
    return layouts


def script(tables: Tables, owner: str, layouts: Mapping[str, Layout]) -> str:
    """Returns the input of `iptables-restore --noflush` that makes `layouts` true.

    Chains of ours are written anew, jumps that are in place stay. Tables that neither hold nor
    need anything of ours do not occur.
    """
    names = own_chains(owner)
    text = ""
    for name in sorted(tables.keys() | layouts.keys()):
        table, layout = tables.get(name, Table()), layouts.get(name, Layout())
        there = names & table.rules.keys()
        lines = [f":{chain} - [0:0]" for chain in sorted(there | layout.chains.keys())]
        lines += [f"-A {chain} {rule}" for chain, rules in layout.chains.items() for rule in rules]
        lines += _jumps(table, names, layout)
        lines += [f"-X {chain}" for chain in sorted(there - layout.chains.keys())]
        if lines:
            text += "".join(f"{line}\n" for line in (f"*{name}", *lines, "COMMIT"))
    return text


def is_laid_out(tables: Tables, owner: str, layouts: Mapping[str, Layout]) -> bool:
    """Returns whether chains and jumps are as they must be; the chains' rules are only counted."""
    names = own_chains(owner)
    for name in tables.keys() | layouts.keys():
        table, layout = tables.get(name, Table()), layouts.get(name, Layout())
        there = {chain: len(rules) for chain, rules in table.rules.items() if chain in names}
        if there != {chain: len(rules) for chain, rules in layout.chains.items()}:
            return False
        if _jumps(table, names, layout):
            return False
    return True


def own_rules(tables: Tables, owner: str) -> dict[str, dict[str, list[str]]]:
    """Returns the rules in our chains, by table and chain."""
    names = own_chains(owner)
    return {
        name: {chain: rules for chain, rules in table.rules.items() if chain in names}
        for name, table in tables.items()
        if names & table.rules.keys()
    }


def translates(tables: Tables, owner: str) -> bool:
    """Returns whether rules of others may translate sources.

    Not those that only keep them, as another daemon of ours has them.
    """
    rules = tables.get("nat", Table()).rules.get("POSTROUTING", ())
    own = own_chains(owner)
    return any(not is_keeping(led) and led not in own for led in map(target, rules))


def bare(rule: str) -> str:
    """Returns a rule of ours as somebody else would write it."""
    return rule.replace(f" {_COMMENT}", "")


def is_keeping(chain: str | None) -> bool:
    """Returns whether a chain is of ours, of whichever daemon, and only keeps sources."""
    return chain is not None and chain.startswith(f"{_OWN}KEEP-")


def _docker_asks(tables: Tables) -> bool:
    """Returns whether Docker has its chain for the operator, and packets get there."""
    rules = tables.get("filter", Table()).rules
    return DOCKER_USER in rules and any(
        target(rule) == DOCKER_USER for rule in rules.get("FORWARD", ())
    )


def _has_docker(tables: Tables) -> bool:
    return any(
        chain == "DOCKER" or chain.startswith("DOCKER-")
        for chain in tables.get("filter", Table()).rules
    )


def _drops_forwarded(tables: Tables) -> bool:
    table = tables.get("filter", Table())
    if table.policies.get("FORWARD") == "DROP":
        return True
    return any(
        _last_word(rule) in ("DROP", "REJECT") or _is_dockers(rule)
        for rule in table.rules.get("FORWARD", ())
    )


def _may_drop_early(tables: Tables, owner: str) -> bool:
    """Returns whether packets are dropped in raw, or soon may be.

    Once there, our accept stays: Docker's drops come and go with its containers.
    """
    rules = tables.get("raw", Table()).rules
    drops = any(target(rule) == "DROP" for rule in rules.get("PREROUTING", ()))
    return "raw" in tables and (drops or _docker_asks(tables) or f"{_OWN}RAW-{owner}" in rules)


def _forward(tables: Tables, owner: str, wanted: FamilyRules) -> Layout:
    chain = f"{_OWN}FWD-{owner}"
    rules = []
    for device in wanted.devices:
        rules += [
            f"-d {wanted.subnet} -i {device} {_COMMENT} -j ACCEPT",
            f"-s {wanted.subnet} -o {device} {_COMMENT} -j ACCEPT",
        ]
    if _has_docker(tables):
        if wanted.direct:
            to_peers = f"-s {wanted.subnet} -d {wanted.network} {_COMMENT} -j ACCEPT"
            rules += [*_from_peers(wanted), to_peers]
    else:
        rules += [
            f"-s {wanted.network} {_COMMENT} -j ACCEPT",
            f"-d {wanted.network} {_COMMENT} -j ACCEPT",
        ]
    parent = DOCKER_USER if _docker_asks(tables) else "FORWARD"
    return Layout({chain: tuple(rules)}, (Jump(parent, chain, "before decision"),))


def _raw(owner: str, wanted: FamilyRules, *, notrack: bool) -> Layout:
    """Docker 28 and newer drop here what comes for a container by another device than its own."""
    arriving, leaving = f"{_OWN}RAW-{owner}", f"{_OWN}OUT-{owner}"
    coming = [f"-d {wanted.subnet} -i {device} {_COMMENT} -j ACCEPT" for device in wanted.devices]
    chains = {arriving: tuple(coming)}
    jumps = [Jump("PREROUTING", arriving, "before drop")]
    if notrack and wanted.notrack:
        for port in wanted.notrack:
            untracked = f"-p udp -m udp --dport {port.port} {_COMMENT} -j CT --notrack"
            host = f"{port.address}/{port.address.max_prefixlen}"
            chains[arriving] += (f"-d {host} {untracked}",)
            chains[leaving] = (*chains.get(leaving, ()), f"-s {host} {untracked}")
        jumps.append(Jump("OUTPUT", leaving, "last"))
    if wanted.direct:
        chains[arriving] += _from_peers(wanted)
    return Layout(chains, tuple(jumps))


def _joined(one: Layout, other: Layout) -> Layout:
    return Layout({**one.chains, **other.chains}, (*one.jumps, *other.jumps))


def _from_peers(wanted: FamilyRules) -> tuple[str, ...]:
    """Returns what accepts overlay packets of other hosts, by whatever device they come."""
    return (
        f"-s {wanted.subnet} -d {wanted.subnet} {_COMMENT} -j RETURN",
        f"-s {wanted.network} -d {wanted.subnet} {_COMMENT} -j ACCEPT",
    )


def _nat(owner: str, wanted: FamilyRules) -> Layout:
    keep, masq = f"{_OWN}KEEP-{owner}", f"{_OWN}MASQ-{owner}"
    network, subnet = wanted.network, wanted.subnet
    marked = f"-m mark --mark 0x4000/0x4000 {_COMMENT} -j RETURN"
    chains: dict[str, tuple[str, ...]] = {
        # The first word about an address ends the table: nobody translates it afterwards.
        keep: (
            marked,
            f"-s {subnet} -d {subnet} {_COMMENT} -j RETURN",
            f"-s {subnet} -d {network} {_COMMENT} -j ACCEPT",
            f"-s {network} -d {subnet} {_COMMENT} -j ACCEPT",
        )
    }
    jumps = [Jump("POSTROUTING", keep, "first")]
    if wanted.masquerade:
        masquerade = "MASQUERADE --random-fully" if wanted.random_fully else "MASQUERADE"
        chains[masq] = (
            marked,
            f"-s {subnet} -d {network} {_COMMENT} -j RETURN",
            f"-s {network} -d {subnet} {_COMMENT} -j RETURN",
            f"! -s {network} -d {subnet} {_COMMENT} -j RETURN",
            f"-s {network} ! -d {wanted.groups} {_COMMENT} -j {masquerade}",
            f"! -s {network} -d {network} {_COMMENT} -j {masquerade}",
        )
        jumps.append(Jump("POSTROUTING", masq, "last"))
    return Layout(chains, tuple(jumps))


def _jumps(table: Table, names: frozenset[str], layout: Layout) -> list[str]:
    """Returns the commands that put the jumps right; none when they are."""
    jumps = {(jump.chain, jump.rule): jump for jump in layout.jumps}
    kept: set[Jump] = set()
    deletions = []
    for chain in table.rules.keys() - names:
        rules = table.rules[chain]
        for rule in dict.fromkeys(rule for rule in rules if target(rule) in names):
            jump = jumps.get((chain, rule))
            # Equal rules go all or none: a deletion takes the first, whichever was meant.
            if jump and rules.count(rule) == 1 and _is_in_place(rules[: rules.index(rule)], jump):
                kept.add(jump)
            else:
                deletions += [f"-D {chain} {rule}"] * rules.count(rule)
    return sorted(deletions) + list(_insertions(table, names, layout, kept))


def _insertions(
    table: Table, names: frozenset[str], layout: Layout, kept: set[Jump]
) -> Iterator[str]:
    for jump in layout.jumps:
        if jump in kept:
            continue
        if jump.place in ("first", "before drop"):
            yield f"-I {jump.chain} 1 {jump.rule}"
            continue
        others = [r for r in table.rules.get(jump.chain, ()) if target(r) not in names]
        end = len(others)
        if jump.place == "before decision":
            end = next((i for i, rule in enumerate(others) if _decides(rule)), end)
        if end == len(others):
            yield f"-A {jump.chain} {jump.rule}"
        else:
            yield f"-I {jump.chain} {end + 1} {jump.rule}"


def _is_in_place(before: list[str], jump: Jump) -> bool:
    match jump.place:
        case "first":
            return all((target(rule) or "").startswith(_OWN) for rule in before)
        case "before drop":
            return all(target(rule) != "DROP" for rule in before)
        case "before decision":
            return not any(_decides(rule) for rule in before)
        case "last":
            return True


def target(rule: str) -> str | None:
    """Returns where a rule leads: a chain, or a target's name."""
    words = _words(rule)
    for option in ("-j", "-g"):
        if option in words[:-1]:
            return words[words.index(option) + 1]
    return None


def _is_dockers(rule: str) -> bool:
    return (target(rule) or "").startswith("DOCKER")


def _decides(rule: str) -> bool:
    return _last_word(rule) is not None or _is_dockers(rule)


def _last_word(rule: str) -> str | None:
    """Returns what a rule decides about every packet; None when it asks for something first."""
    words = _words(rule)
    if words[:3] == ["-m", "comment", "--comment"]:
        words = words[4:]
    if words[:1] == ["-j"] and words[1] in _LAST_WORDS:
        return words[1]
    return None


def _words(rule: str) -> list[str]:
    try:
        return shlex.split(rule)
    except ValueError:  # an unclosed quotation mark, which iptables-save does not write
        return rule.split()

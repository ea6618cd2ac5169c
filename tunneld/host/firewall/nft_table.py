"""Our own nftables tables, one for each address family, replaced as a whole.

Path of a lease: `host.firewall` -> **`host.firewall.nft_table`** -> nft -> the kernel.

What it says of forwarding and masquerade means what flannel's iptables rules mean (its nftables
set differs in one rule, which makes its last one unreachable). Further it keeps the source
address between overlay hosts by translating it to itself, before any other table can translate
it to something else. An accept here does not overrule a drop in another table.

Source: flannel `pkg/trafficmngr/iptables/iptables.go`; nft(8), libnftables-json(5).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import replace

from tunneld.errors import HostError
from tunneld.host.firewall import spoofing
from tunneld.host.firewall.family import NFT_FAMILY, FamilyRules
from tunneld.host.firewall.guard import GUARD_FORWARD, PEERS, nft_chains
from tunneld.host.firewall.program import attempt, nft_items
from tunneld.lease.model import IPAddress

NO_MASQUERADE_MARK = 0x4000
"""Packets that carry this mark are masqueraded by somebody else (kube-proxy), not by us."""

_PREFIX = "tunneld-"
"""Of the names of our tables."""

_ALL_BITS = 0xFFFFFFFF

_NOBODY: frozenset[IPAddress] = frozenset()


class NftTable:
    """The tables `tunneld-<name>` of the families `ip` and `ip6`, changed together."""

    def __init__(self, name: str) -> None:
        self.name = f"{_PREFIX}{name}"
        self._applied: tuple[tuple[FamilyRules, ...], list[object]] | None = None
        """What was asked for last, and how the kernel listed it right afterwards."""

    async def observe(self) -> tuple[FamilyRules, ...] | None:
        """Returns the rules that are in force; None when a table is not as it was applied.

        Tables that an ended daemon left behind count as none, and are replaced.
        """
        if self._applied is None:
            return None
        wanted, listings = self._applied
        return wanted if await self._listings(wanted) == listings else None

    async def apply(self, wanted: tuple[FamilyRules, ...]) -> None:
        """Replaces the tables in one transaction; that of a family not wanted goes.

        Where nothing but the guarded peers is new, only these are changed.

        Raises:
            HostError: nft is missing or refuses.
        """
        before, self._applied = self._applied, None
        if before is not None and await self._apply_peers(*before, wanted):
            return
        families = {rules.nft for rules in wanted}
        text = _removal(self.name, await self._families() - families)
        what = f"replace table {self.name}"
        tables = [ruleset(self.name, rules) for rules in wanted]
        outcome = await attempt(what, "nft", "-f", "-", stdin=text + "".join(tables))
        if outcome.status != 0:
            # An older nft, or a kernel without some module: what every one understands.
            tables = [ruleset(self.name, rules, is_plain=True) for rules in wanted]
            await _nft(what, text + "".join(tables))
        listings = await self._listings(wanted)
        # A flush in between leaves less than was written: then nothing counts as applied.
        if [_count(listing) for listing in listings] == [_rules(table) for table in tables] and [
            _elements(listing) for listing in listings
        ] == [_peers(rules) for rules in wanted]:
            self._applied = (wanted, listings)

    async def _apply_peers(
        self,
        before: tuple[FamilyRules, ...],
        there: list[object],
        wanted: tuple[FamilyRules, ...],
    ) -> bool:
        """Returns whether a change of the guarded peers alone was enough, and is done."""
        if _without_peers(before) != _without_peers(wanted):
            return False
        text = "".join(_moved(self.name, *pair) for pair in zip(before, wanted, strict=True))
        if not text or await self._listings(before) != there:
            return False
        outcome = await attempt(f"change table {self.name}", "nft", "-f", "-", stdin=text)
        listings = await self._listings(wanted)
        is_done = (
            outcome.status == 0
            and [_without_elements(one) for one in listings]
            == [_without_elements(one) for one in there]
            and [_elements(one) for one in listings] == [_peers(rules) for rules in wanted]
        )
        if is_done:
            self._applied = (wanted, listings)
        return is_done

    async def clear(self) -> None:
        """Removes the tables; one that is gone already is no error.

        Without nft, and without a table of ours, there is nothing to do.

        Raises:
            HostError: nft is missing or refuses.
        """
        if self._applied is None and shutil.which("nft") is None:
            return
        self._applied = None
        if families := await self._families():
            await _nft(f"remove table {self.name}", _removal(self.name, families))

    async def _families(self) -> set[str]:
        """Returns the families that have a table of our name."""
        what = f"look for table {self.name}"
        outcome = await attempt(what, "nft", "-j", "list", "tables")
        if outcome.status != 0:
            raise _refused(what, outcome.said)
        there = nft_items(
            what,
            outcome,
            lambda items: {
                table["family"]
                for item in items
                if (table := item.get("table", {})).get("name") == self.name
            },
        )
        return there & set(NFT_FAMILY.values())

    async def _listings(self, wanted: Iterable[FamilyRules]) -> list[object]:
        return [await self._listing(rules.nft) for rules in wanted]

    async def _listing(self, family: str) -> object:
        outcome = await attempt("list our rules", "nft", "-j", "list", "table", family, self.name)
        if outcome.status == 0:
            return nft_items("list our rules", outcome, _without_handles)
        if os.strerror(errno.ENOENT) in outcome.said:
            return None
        raise _refused("list our rules", outcome.said)


async def tables_in_force() -> frozenset[str]:
    """Returns what the tables of ours are called after, of whichever daemon.

    Raises:
        HostError: nft is missing, refuses, or answers something else.
    """
    what = "look for our tables"
    outcome = await attempt(what, "nft", "-j", "list", "tables")
    if outcome.status != 0:
        raise _refused(what, outcome.said)
    return nft_items(
        what,
        outcome,
        lambda items: frozenset(
            table["name"].removeprefix(_PREFIX)
            for item in items
            if (table := item.get("table", {})).get("family") in NFT_FAMILY.values()
            and str(table["name"]).startswith(_PREFIX)
        ),
    )


def ruleset(table: str, wanted: FamilyRules, *, is_plain: bool = False) -> str:
    """Returns the transaction that makes the table of a family hold `wanted` and nothing else.

    `is_plain`: by what every nft and kernel understands.
    """
    ip = wanted.nft
    lines = [f"table {ip} {table}", f"delete table {ip} {table}", f"table {ip} {table} {{"]
    chains = _chains(wanted)
    if wanted.sealed:
        chains |= spoofing.nft_chains(wanted, is_plain=is_plain)
    if wanted.guard is not None:
        kind = "ipv4_addr" if wanted.version == 4 else "ipv6_addr"
        elements = f" elements = {_set(_peers(wanted))};" if wanted.guard.peers else ""
        lines.append(f"  set {PEERS} {{ type {kind};{elements} }}")
        guarding = nft_chains(ip, wanted.guard, wanted.outside, is_plain=is_plain)
        if "forward" in chains:
            # Each chain at a hook costs every packet there, so that these two are one. What it
            # drops is dropped whatever comes behind.
            first, *accepting = chains["forward"]
            chains["forward"] = [first, *guarding.pop(GUARD_FORWARD)[1:], *accepting]
        chains = guarding | chains
    for name, rules in chains.items():
        lines += [f"  chain {name} {{", *(f"    {rule}" for rule in rules), "  }"]
    return "".join(f"{line}\n" for line in [*lines, "}"])


def _chains(wanted: FamilyRules) -> dict[str, list[str]]:
    """Returns name, first line and rules of each chain."""
    ip, network, subnet = wanted.nft, wanted.network, wanted.subnet
    mark = f"{NO_MASQUERADE_MARK:#x}"
    chains = {}
    if wanted.keep_sources:
        chains["identity"] = [
            "type nat hook postrouting priority srcnat - 1; policy accept;",
            f"meta mark & {mark} == {mark} return",
            # Within the subnet the host's own rules for hairpin connections must go on to work.
            f"{ip} saddr {subnet} {ip} daddr {subnet} return",
            f"{ip} saddr {subnet} {ip} daddr {network} snat to {ip} saddr",
            f"{ip} saddr {network} {ip} daddr {subnet} snat to {ip} saddr",
        ]
    if wanted.forward:
        chains["forward"] = [
            "type filter hook forward priority filter; policy accept;",
            f"{ip} saddr {network} accept",
            f"{ip} daddr {network} accept",
        ]
    if wanted.masquerade:
        masquerade = "masquerade fully-random" if wanted.random_fully else "masquerade"
        # Behind everybody else's translation, as rules appended to POSTROUTING.
        chains["postrouting"] = [
            "type nat hook postrouting priority srcnat + 1; policy accept;",
            f"meta mark & {mark} == {mark} return",
            f"{ip} saddr {subnet} {ip} daddr {network} return",
            f"{ip} saddr {network} {ip} daddr {subnet} return",
            f"{ip} saddr != {network} {ip} daddr {subnet} return",
            f"{ip} saddr {network} {ip} daddr != {wanted.groups} {masquerade}",
            f"{ip} saddr != {network} {ip} daddr {network} {masquerade}",
        ]
    if wanted.notrack:
        ends = [(port.address, port.port) for port in wanted.notrack]
        chains["notrack_in"] = [
            "type filter hook prerouting priority raw; policy accept;",
            *(f"{ip} daddr {address} udp dport {port} notrack" for address, port in ends),
        ]
        chains["notrack_out"] = [
            "type filter hook output priority raw; policy accept;",
            *(f"{ip} saddr {address} udp dport {port} notrack" for address, port in ends),
        ]
    if wanted.accept_mark is not None:
        value, mask = wanted.accept_mark.value, wanted.accept_mark.mask
        marking = f"meta mark set meta mark & {_ALL_BITS & ~mask:#x} | {value:#x}"
        chains["accept_mark"] = [
            "type filter hook prerouting priority raw - 10; policy accept;",
            *(f'iifname "{name}" {ip} daddr {subnet} {marking}' for name in wanted.devices),
        ]
        if wanted.direct:
            chains["accept_mark"] += [
                f"{ip} saddr {subnet} return",
                f"{ip} saddr {network} {ip} daddr {subnet} {marking}",
            ]
    return chains


def _without_peers(wanted: tuple[FamilyRules, ...]) -> list[FamilyRules]:
    return [
        rules if rules.guard is None else replace(rules, guard=replace(rules.guard, peers=_NOBODY))
        for rules in wanted
    ]


def _peers(rules: FamilyRules) -> list[str]:
    return sorted(map(str, rules.guard.peers)) if rules.guard else []


def _moved(table: str, before: FamilyRules, wanted: FamilyRules) -> str:
    """Returns the commands that make the peers of a table those of `wanted`."""
    old, new = set(_peers(before)), set(_peers(wanted))
    where = f"element {wanted.nft} {table} {PEERS}"
    gone, come = sorted(old - new), sorted(new - old)
    return (f"delete {where} {_set(gone)}\n" if gone else "") + (
        f"add {where} {_set(come)}\n" if come else ""
    )


def _set(addresses: Collection[str]) -> str:
    return f"{{ {', '.join(addresses)} }}"


def _removal(table: str, families: Iterable[str]) -> str:
    """Returns the transaction that removes a table, whether it is there or not."""
    return "".join(f"table {ip} {table}\ndelete table {ip} {table}\n" for ip in sorted(families))


def _rules(text: str) -> int:
    """Returns how many rules a ruleset of ours holds."""
    return sum(line.startswith("    ") and " hook " not in line for line in text.splitlines())


def _count(listing: object) -> int:
    items = listing if isinstance(listing, list) else []
    return sum("rule" in item for item in items)


def _elements(listing: object) -> list[str]:
    """Returns the peers that a listing holds."""
    items = listing if isinstance(listing, list) else []
    found = [item["set"].get("elem", []) for item in items if "set" in item]
    return [str(address) for elements in found for address in elements]


def _without_elements(listing: object) -> list[object]:
    items = listing if isinstance(listing, list) else []
    return [item for item in items if "set" not in item]


def _without_handles(value: object) -> object:
    """Returns a listing without what differs between two equal tables."""
    if isinstance(value, dict):
        return {
            # The order of a set's elements is the kernel's affair.
            key: sorted(item, key=str) if key == "elem" else _without_handles(item)
            for key, item in value.items()
            if key not in ("handle", "metainfo", "packets", "bytes")
        }
    if isinstance(value, list):
        return [_without_handles(item) for item in value]
    return value


async def _nft(what: str, text: str) -> None:
    """Carries out a transaction.

    Raises:
        HostError: nft is not installed or refuses; the message holds its first line.
    """
    outcome = await attempt(what, "nft", "-f", "-", stdin=text)
    if outcome.status != 0:
        raise _refused(what, outcome.said)


def _refused(what: str, said: str) -> HostError:
    return HostError(
        f"cannot {what}: nft says {said!r}; expected a kernel with nftables (nf_tables, nft_masq, "
        "nft_nat)"
    )

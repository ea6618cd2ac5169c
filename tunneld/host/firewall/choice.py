"""Chooses what carries the wanted rules out on this host, and holds all of it together.

Path of a lease: `host.actuator` -> **`host.firewall.choice`** -> `nft_table`, `xtables`.

`auto`: a table of our own where nft works, and accepts among the iptables rules of either
variant where Docker or an operator drops there; without nft everything by iptables. Another
nftables table that drops cannot be overruled from outside: it is named in the log.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from tunneld.errors import HostError
from tunneld.fib.state import Firewall, FirewallMode
from tunneld.host.firewall import guard, layout
from tunneld.host.firewall.family import (
    IPTABLES,
    VERSIONS,
    FamilyRules,
    Version,
    in_families,
)
from tunneld.host.firewall.layout import translates
from tunneld.host.firewall.nft_table import NftTable, tables_in_force
from tunneld.host.firewall.program import attempt, nft_items
from tunneld.host.firewall.translation import by_nftables
from tunneld.host.firewall.xtables import Variant, Xtables, usual_variant, variants
from tunneld.host.forwarding import docker_sign
from tunneld.host.netlink import Link

_IPTABLES_NFT_TABLES = frozenset({"filter", "nat", "raw", "mangle"})
CLEAR_S = 5.0
"""How long the end of a daemon may take here."""

_IPV6 = Path("/proc/sys/net/ipv6")
"""Missing where the kernel runs without IPv6."""

_log = logging.getLogger("tunneld.host")


@dataclass(frozen=True, slots=True)
class _InUse:
    """Who carries out what."""

    wanted: Firewall
    rules: tuple[FamilyRules, ...]
    table: NftTable | None
    beside: Mapping[Xtables, FamilyRules]
    inside: tuple[str, ...] | None = None
    """The devices of containers that the rules name; None: they need no names."""


class HostFirewall:
    """Everything of ours in the packet filter of this network namespace."""

    def __init__(
        self,
        name: str,
        mode: FirewallMode = "auto",
        links: Callable[[], Awaitable[Collection[Link]]] | None = None,
    ) -> None:
        """Nothing is changed before `apply`.

        Args:
            name: what tables and chains are called after, to tell the daemons of one host apart:
                at most 15 characters, usually the overlay device.
            mode: by which means the rules are put in force.
            links: lists the devices there are; None: none.
        """
        self._links = links
        self._mode = mode
        self._name = name
        self._table = NftTable(name)
        self._xtables = {
            (version, variant): Xtables(version, variant, name, layout.beside_nftables)
            for version in VERSIONS
            for variant in get_args(Variant)
        }
        self._in_use: _InUse | None = None
        """What was applied last; None: nothing was."""
        self._is_in_place = False
        """Whether all of it was still there at the last look."""
        self._translating: frozenset[str] = frozenset()
        """Tables of others with a place for rules that translate sources."""
        self._told: list[str] | None = None
        self._told_dropping: list[str] = []

    @property
    def name(self) -> str:
        """What tables and chains are called after."""
        return self._name

    @property
    def tables(self) -> frozenset[str]:
        """Names of the nftables tables whose changes may touch our rules."""
        return _IPTABLES_NFT_TABLES | {self._table.name} | self._translating

    @property
    def names_devices(self) -> bool:
        """Whether rules name devices of others, so that one that comes or goes matters."""
        return self._in_use is not None and self._in_use.inside is not None

    async def observe(self) -> Firewall | None:
        """Returns the rules that are in force; None when they are not all as applied.

        Raises:
            HostError: the rules cannot be listed.
        """
        used, self._is_in_place = self._in_use, False
        if used is None:
            return None
        tables = [used.table] if used.table is not None else []
        found = await asyncio.gather(
            *(table.observe() for table in tables), *(part.observe() for part in used.beside)
        )
        expected = [*(used.rules for _ in tables), *used.beside.values()]
        if list(found) != expected or used.rules != await self._rules(used.wanted):
            return None
        if used.inside is not None and used.inside != await self._inside(used.wanted):
            return None
        self._is_in_place = True
        return used.wanted

    async def apply(self, wanted: Firewall) -> None:
        """Puts the rules in force, and takes away what an earlier choice has left.

        Raises:
            HostError: no program can do it, or one refuses.
        """
        used, self._in_use = self._in_use, None
        is_in_place, self._is_in_place = self._is_in_place, False
        if used is not None and is_in_place and await self._apply_peers(used, wanted):
            return
        usual = await self._find_programs()
        rules = await self._rules(wanted)
        chosen = await self._choose(wanted, rules, usual)
        if chosen.table is not None:
            await chosen.table.apply(rules)
        for part, of_family in chosen.beside.items():
            await part.apply(of_family)
        for left in self._available():
            if left is not chosen.table and left not in chosen.beside:
                await left.clear()
        self._in_use = chosen
        self._tell(chosen)
        if wanted.forward and chosen.table is not None:
            await self._warn_of_drops({of_family.nft for of_family in rules})

    async def _apply_peers(self, used: _InUse, wanted: Firewall) -> bool:
        """Returns whether nothing but the guarded peers was new, and is in force now."""
        if wanted.guard is None or used.wanted.guard is None:
            return False
        if wanted != replace(used.wanted, guard=wanted.guard):
            return False
        if used.wanted.guard != replace(wanted.guard, peers=used.wanted.guard.peers):
            return False
        new = {one.version: one.guard for one in in_families(wanted)}
        rules = tuple(replace(one, guard=new[one.version]) for one in used.rules)
        beside = dict(used.beside)
        if used.table is not None:
            await used.table.apply(rules)
        for part, before in used.beside.items():
            if before.guard is not None:
                beside[part] = replace(before, guard=new[before.version])
                await part.apply(beside[part])
        self._in_use = replace(used, wanted=wanted, rules=rules, beside=beside)
        return True

    async def clear(self) -> None:
        """Takes everything of ours away, whoever put it there.

        Raises:
            HostError: what could not be taken away; everything else is.
        """
        try:
            async with asyncio.timeout(CLEAR_S):
                await self._clear()
        except TimeoutError as error:
            raise HostError(
                f"cannot take the firewall rules away within {CLEAR_S:g} s; expected nft and "
                "iptables to answer at once: see `nft list ruleset` and docs/firewall.md"
            ) from error

    async def _clear(self) -> None:
        used, self._in_use = self._in_use, None
        parts: list[NftTable | Xtables] = []
        if used is not None:
            parts += [part for part in (used.table, *used.beside) if part is not None]
        await self._find_programs()
        failures = []
        for part in dict.fromkeys((*parts, *self._available())):
            try:
                await part.clear()
            except HostError as error:
                failures.append(str(error))
        if failures:
            raise HostError("; ".join(failures))

    def _available(self) -> list[NftTable | Xtables]:
        beside = [part for version in _versions() for part in self._runnable(version)]
        return [self._table, *beside] if shutil.which("nft") else [*beside]

    def _runnable(self, version: Version) -> list[Xtables]:
        return [
            part
            for part in self._xtables.values()
            if part.version == version and shutil.which(f"{part.program}-save")
        ]

    async def _rules(self, wanted: Firewall) -> tuple[FamilyRules, ...]:
        """Returns what is wanted in each family, as it must be among the rules of others."""
        if self._mode == "off":
            return in_families(wanted)
        rules = in_families(wanted, await self._translated(wanted))
        if wanted.guard is None or self._mode == "iptables":
            return rules
        links = () if self._links is None else await self._links()
        outside = guard.outside(links, wanted.guard)
        return tuple(replace(one, outside=outside) for one in rules)

    async def _translated(self, wanted: Firewall) -> frozenset[Version]:
        """Returns the families in which others may translate sources, or soon will."""
        if wanted.masquerade or docker_sign() is not None:
            # We do so ourselves, or Docker is about to: too late for what it translates meanwhile.
            return frozenset(VERSIONS)
        found = await by_nftables(self._name)
        self._translating = found.tables
        versions = set(found.versions)
        for version in (of_family.version for of_family in in_families(wanted)):
            for part in self._runnable(version):
                if version not in versions and translates(await part.tables(), self._name):
                    versions.add(version)
        return frozenset(versions)

    async def translated_by_others(self) -> frozenset[Version]:
        """Returns the families in which others translate sources, or may for all that is known."""
        try:
            async with asyncio.timeout(CLEAR_S):
                versions = set((await by_nftables(self._name)).versions)
                for part in self._xtables.values():
                    if shutil.which(f"{part.program}-save") and translates(
                        await part.tables(), self._name
                    ):
                        versions.add(part.version)
        except (HostError, TimeoutError):
            return frozenset(VERSIONS)
        return frozenset(versions)

    async def _choose(
        self,
        wanted: Firewall,
        rules: tuple[FamilyRules, ...],
        usual: Mapping[Version, Variant | None],
    ) -> _InUse:
        for part in self._xtables.values():
            part.plan = layout.beside_nftables
        if self._mode == "off":
            return _InUse(wanted, rules, None, {})
        if self._mode == "nftables":
            return _InUse(wanted, rules, self._table, {})
        beside = {
            part: replace(of_family, guard=None)
            for of_family in rules
            for part in self._runnable(of_family.version)
        }
        if self._mode == "auto" and (not any(usual.values()) or await _nft_works()):
            return _InUse(wanted, rules, self._table, beside)
        inside = await self._inside(wanted)
        for part in beside:
            part.plan = layout.beside_iptables
        for of_family in rules:
            variant = usual[of_family.version]
            if variant is None:
                program = IPTABLES[of_family.version]
                raise HostError(
                    f"cannot set up the firewall: there is no program `{program}`; expected "
                    f"{program} on the PATH: install it (Debian: apt-get install iptables), or "
                    "choose another --firewall"
                )
            self._xtables[of_family.version, variant].plan = layout.everything
            beside[self._xtables[of_family.version, variant]] = replace(of_family, inside=inside)
        return _InUse(wanted, rules, None, beside, inside)

    async def _inside(self, wanted: Firewall) -> tuple[str, ...]:
        """Returns by which devices of this host containers come."""
        if wanted.guard is None or self._links is None:
            return ()
        return guard.inside(await self._links(), wanted.guard)

    async def _find_programs(self) -> dict[Version, Variant | None]:
        """Looks which iptables programs there are; returns the variant of the usual ones."""
        usual: dict[Version, Variant | None] = {}
        for version in VERSIONS:
            for variant, program in (await variants(version)).items():
                self._xtables[version, variant].program = program
            usual[version] = await usual_variant(version)
        return usual

    def _tell(self, chosen: _InUse) -> None:
        names = ["nftables"] if chosen.table is not None else []
        names += [part.program for part in chosen.beside]
        if self._told != names:
            self._told = names
            _log.info(
                "firewall rules are in place",
                extra={"fields": {"detail": ", ".join(names) or "none"}},
            )
        if chosen.wanted.accept_mark is not None and chosen.table is None:
            _log.warning("the mark that Docker is to accept is set by nftables only")

    async def _warn_of_drops(self, families: set[str]) -> None:
        """Names tables of others that drop what is forwarded, whatever we accept."""
        outcome = await attempt("list the chains", "nft", "-j", "list", "chains")
        if outcome.status != 0:
            return
        dropping = nft_items(
            "list the chains",
            outcome,
            lambda items: [
                f"{chain['family']} {chain['table']}"
                for item in items
                if (chain := item.get("chain")) is not None
                and chain.get("hook") == "forward"
                and chain.get("policy") == "drop"
                and (chain["family"] == "inet" or chain["family"] in families)
                and (chain["family"] == "inet" or chain["table"] != "filter")
            ],
        )
        if dropping and dropping != self._told_dropping:
            _log.warning(
                "a firewall of this host drops forwarded packets, and no rule of ours can overrule "
                "it: let it accept the overlay network",
                extra={"fields": {"detail": ", ".join(dropping)}},
            )
        self._told_dropping = dropping


def _versions() -> tuple[Version, ...]:
    return VERSIONS if _IPV6.exists() else (4,)


async def owners_in_force() -> frozenset[str]:
    """Returns what the tables and chains of ours are called after, of whichever daemon.

    Raises:
        HostError: they cannot be listed.
    """
    found = set(await tables_in_force()) if shutil.which("nft") else set()
    for version in _versions():
        for variant in await variants(version):
            part = Xtables(version, variant, "", layout.beside_nftables)
            if shutil.which(f"{part.program}-save"):
                found |= layout.owners(await part.tables())
    return frozenset(found)


async def _nft_works() -> bool:
    """Returns whether there is nft, and a kernel for it."""
    if shutil.which("nft") is None:
        return False
    outcome = await attempt("see whether nftables works", "nft", "list", "tables")
    return outcome.status == 0

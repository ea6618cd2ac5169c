"""Chooses what carries the wanted rules out on this host, and holds all of it together.

Path of a lease: `host.actuator` -> **`host.firewall.choice`** -> `nft_table`, `xtables`.

`auto`: a table of our own where nft works, and accepts among the iptables rules of either
variant where Docker or an operator drops there; without nft everything by iptables. Another
nftables table that drops cannot be overruled from outside: it is named in the log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import Sequence
from typing import get_args

from tunneld.errors import HostError
from tunneld.fib.state import Firewall, FirewallMode
from tunneld.host.firewall import layout
from tunneld.host.firewall.nft_table import NftTable
from tunneld.host.firewall.program import attempt
from tunneld.host.firewall.xtables import Variant, Xtables, usual_variant, variants

_IPTABLES_NFT_TABLES = frozenset({"filter", "nat", "raw"})

_log = logging.getLogger("tunneld.host")


class HostFirewall:
    """Everything of ours in the packet filter of this network namespace."""

    def __init__(self, device: str, mode: FirewallMode = "auto") -> None:
        """Nothing is changed before `apply`."""
        self._mode = mode
        self._table = NftTable(device)
        self._xtables = {
            variant: Xtables(f"iptables-{variant}", variant, device, layout.beside_nftables)
            for variant in get_args(Variant)
        }
        self._in_use: tuple[NftTable | Xtables, ...] | None = None
        """Who carries out what was applied last; None: nothing was."""
        self._idle_for: Firewall | None = None
        """In mode `off`, what is wanted and not carried out."""
        self._told: list[str] | None = None
        self._told_dropping: list[str] = []

    @property
    def tables(self) -> frozenset[str]:
        """Names of the nftables tables whose changes may touch our rules."""
        return _IPTABLES_NFT_TABLES | {self._table.name}

    async def observe(self) -> Firewall | None:
        """Returns the rules that are in force; None when they are not all as applied.

        Raises:
            HostError: the rules cannot be listed.
        """
        if self._in_use is None:
            return None
        if self._mode == "off":
            return self._idle_for
        found = await asyncio.gather(*(part.observe() for part in self._in_use))
        return found[0] if all(value == found[0] for value in found) else None

    async def apply(self, wanted: Firewall) -> None:
        """Puts the rules in force, and takes away what an earlier choice has left.

        Raises:
            HostError: no program can do it, or one refuses.
        """
        self._in_use = None
        chosen = await self._choose()
        for part in chosen:
            await part.apply(wanted)
        for part in self._available():
            if part not in chosen:
                await part.clear()
        self._idle_for = wanted
        self._in_use = tuple(chosen)
        self._tell(chosen, wanted)
        if wanted.forward and self._table in chosen:
            await self._warn_of_drops()

    async def clear(self) -> None:
        """Takes everything of ours away, whoever put it there.

        Raises:
            HostError: what could not be taken away; everything else is.
        """
        used, self._in_use = self._in_use or (), None
        await self._find_programs()
        failures = []
        for part in dict.fromkeys((*used, *self._available())):
            try:
                await part.clear()
            except HostError as error:
                failures.append(str(error))
        if failures:
            raise HostError("; ".join(failures))

    def _available(self) -> list[NftTable | Xtables]:
        beside = [part for part in self._xtables.values() if shutil.which(f"{part.program}-save")]
        return [self._table, *beside] if shutil.which("nft") else [*beside]

    async def _choose(self) -> Sequence[NftTable | Xtables]:
        usual = await self._find_programs()
        for part in self._xtables.values():
            part.plan = layout.beside_nftables
        if self._mode == "off":
            return ()
        if self._mode == "nftables":
            return (self._table,)
        beside = [part for part in self._xtables.values() if shutil.which(f"{part.program}-save")]
        if self._mode == "auto" and (usual is None or await _nft_works()):
            return (self._table, *beside)
        if usual is None:
            raise HostError(
                "cannot set up the firewall: there is no program `iptables`; expected iptables on "
                "the PATH: install it (Debian: apt-get install iptables), or choose another "
                "--firewall"
            )
        self._xtables[usual].plan = layout.everything
        return beside

    async def _find_programs(self) -> Variant | None:
        """Looks which iptables programs there are; returns the variant of the usual one."""
        for variant, program in (await variants()).items():
            self._xtables[variant].program = program
        return await usual_variant()

    def _tell(self, chosen: Sequence[NftTable | Xtables], wanted: Firewall) -> None:
        names = ["nftables" if isinstance(part, NftTable) else part.program for part in chosen]
        if self._told != names:
            self._told = names
            _log.info(
                "firewall rules are in place",
                extra={"fields": {"detail": ", ".join(names) or "none"}},
            )
        if wanted.accept_mark is not None and self._table not in chosen:
            _log.warning("the mark that Docker is to accept is set by nftables only")

    async def _warn_of_drops(self) -> None:
        """Names tables of others that drop what is forwarded, whatever we accept."""
        outcome = await attempt("list the chains", "nft", "-j", "list", "chains")
        if outcome.status != 0:
            return
        dropping = [
            f"{chain['family']} {chain['table']}"
            for item in json.loads(outcome.stdout)["nftables"]
            if (chain := item.get("chain")) is not None
            and chain.get("hook") == "forward"
            and chain.get("policy") == "drop"
            and chain["family"] in ("ip", "inet")
            and (chain["family"], chain["table"]) != ("ip", "filter")
        ]
        if dropping and dropping != self._told_dropping:
            _log.warning(
                "a firewall of this host drops forwarded packets, and no rule of ours can overrule "
                "it: let it accept the overlay network",
                extra={"fields": {"detail": ", ".join(dropping)}},
            )
        self._told_dropping = dropping


async def _nft_works() -> bool:
    """Returns whether there is nft, and a kernel for it."""
    if shutil.which("nft") is None:
        return False
    outcome = await attempt("see whether nftables works", "nft", "list", "tables")
    return outcome.status == 0

"""Our rules among those of others, by the iptables programs of one variant.

Path of a lease: `host.firewall` -> **`host.firewall.xtables`** -> iptables-restore -> the kernel.

iptables-nft and iptables-legacy have tables of their own each, which the kernel passes one after
the other. Each table is changed in one step, under the lock of all iptables programs.

Source: iptables-restore(8); Linux net/netfilter/x_tables.c (ip_tables_names).
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

from tunneld.errors import HostError
from tunneld.host.firewall import layout
from tunneld.host.firewall.family import IPTABLES, FamilyRules, Version
from tunneld.host.firewall.layout import Layout, Tables
from tunneld.host.firewall.program import attempt

Variant = Literal["nft", "legacy"]

Plan = Callable[[Tables, str, FamilyRules], Mapping[str, Layout]]
"""What must be there, given what is there."""

_LEGACY_TABLES = {
    4: Path("/proc/thread-self/net/ip_tables_names"),
    6: Path("/proc/thread-self/net/ip6_tables_names"),
}
"""Names of the tables that iptables-legacy has made in this network namespace."""

_LEGACY_TABLES_IN_QUESTION = ("filter", "nat", "raw", "mangle")

_LOCK_WAIT_S = 5

_NOT_EVERYWHERE = (" --random-fully", " -m rpfilter --invert")
"""What an iptables, or a kernel, may lack. Rules without it are safe, and as many."""


class Xtables:
    """Our chains and jumps in the tables of one variant and address family."""

    def __init__(self, version: Version, variant: Variant, owner: str, plan: Plan) -> None:
        """Args: `owner` is what our chains are called after."""
        self.version = version
        self.variant = variant
        self.plan = plan
        self.program = f"{IPTABLES[version]}-{variant}"
        """Whose `-save` and `-restore` are run."""
        self._owner = owner
        self._applied: tuple[FamilyRules, object] | None = None

    async def observe(self) -> FamilyRules | None:
        """Returns the rules that are in force; None when they are not all in place.

        Raises:
            HostError: the tables cannot be listed.
        """
        if self._applied is None:
            return None
        wanted, own = self._applied
        tables = await self.tables()
        if not layout.is_laid_out(tables, self._owner, self.plan(tables, self._owner, wanted)):
            return None
        return wanted if layout.own_rules(tables, self._owner) == own else None

    async def apply(self, wanted: FamilyRules) -> None:
        """Writes our chains anew and puts the jumps to them where they belong.

        Raises:
            HostError: iptables refuses.
        """
        self._applied = None
        tables = await self.tables()
        layouts = self.plan(tables, self._owner, wanted)
        await self._restore(layout.script(tables, self._owner, layouts))
        tables = await self.tables()
        layouts = self.plan(tables, self._owner, wanted)
        if layout.is_laid_out(tables, self._owner, layouts):
            self._applied = (wanted, layout.own_rules(tables, self._owner))

    async def clear(self) -> None:
        """Takes our chains and jumps away.

        Raises:
            HostError: iptables refuses.
        """
        self._applied = None
        await self._restore(layout.script(await self.tables(), self._owner, {}))

    async def tables(self) -> Tables:
        """Returns all rules there are, of whomever.

        Raises:
            HostError: they cannot be listed.
        """
        choices: tuple[tuple[str, ...], ...] = ((),)
        if self.variant == "legacy":
            # Asking for a table that is not there makes iptables-legacy register it.
            names = await asyncio.to_thread(_legacy_tables, self.version)
            if names is None:
                choices = tuple(("-t", name) for name in _LEGACY_TABLES_IN_QUESTION)
            elif not names:
                return {}
        what, text = "list the iptables rules", ""
        for choice in choices:
            outcome = await attempt(what, f"{self.program}-save", *choice)
            if outcome.status != 0:
                raise self._refused(what, outcome.said)
            text += outcome.stdout
        return layout.parse(text)

    async def _restore(self, text: str) -> None:
        if not text:
            return
        what = f"change the rules of {self.program}"
        argv = (f"{self.program}-restore", "-w", str(_LOCK_WAIT_S), "--noflush")
        outcome = await attempt(what, *argv, stdin=text)
        for option in _NOT_EVERYWHERE:
            if outcome.status != 0 and option in text:
                text = text.replace(option, "")
                outcome = await attempt(what, *argv, stdin=text)
        if outcome.status != 0:
            raise self._refused(what, outcome.said)

    def _refused(self, what: str, said: str) -> HostError:
        return HostError(
            f"cannot {what}: it says {said!r}; expected a kernel with the iptables tables filter "
            "and nat, and for iptables-legacy to run as root: see docs/firewall.md"
        )


async def variants(version: Version) -> dict[Variant, str]:
    """Returns the iptables programs of a family on the PATH, by variant."""
    found: dict[Variant, str] = {}
    for variant in get_args(Variant):
        program = f"{IPTABLES[version]}-{variant}"
        if shutil.which(program) and shutil.which(f"{program}-restore"):
            found[variant] = program
    if (usual := await usual_variant(version)) is not None:
        found.setdefault(usual, IPTABLES[version])
    return found


async def usual_variant(version: Version) -> Variant | None:
    """Returns which variant plain `iptables` (`ip6tables`) is; None when there is none."""
    program = IPTABLES[version]
    if shutil.which(program) is None:
        return None
    outcome = await attempt(f"see which {program} this is", program, "--version")
    return "nft" if "nf_tables" in outcome.stdout else "legacy"


def _legacy_tables(version: Version) -> list[str] | None:
    """Returns the tables of iptables-legacy; None where this user may not see their names.

    The service lets the daemon's group see them, but cannot before the kernel module is loaded.

    Raises:
        HostError: they cannot be read.
    """
    try:
        return _LEGACY_TABLES[version].read_text(encoding="ascii").split()
    except FileNotFoundError:
        return []
    except PermissionError:
        return None
    except OSError as error:
        raise HostError(
            f"cannot read {_LEGACY_TABLES[version]}: {error.strerror}; expected the names of "
            "iptables-legacy's tables"
        ) from error

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
from typing import Literal

from tunneld.errors import HostError
from tunneld.fib.state import Firewall
from tunneld.host.firewall import layout
from tunneld.host.firewall.layout import Layout, Tables
from tunneld.host.firewall.program import attempt

Variant = Literal["nft", "legacy"]

Plan = Callable[[Tables, str, Firewall], Mapping[str, Layout]]
"""What must be there, given what is there."""

_LEGACY_TABLES = Path("/proc/thread-self/net/ip_tables_names")
"""Names of the tables that iptables-legacy has made in this network namespace."""

_LEGACY_TABLES_IN_QUESTION = ("filter", "nat", "raw")

_LOCK_WAIT_S = 5


class Xtables:
    """Our chains and jumps in the tables of one variant."""

    def __init__(self, program: str, variant: Variant, device: str, plan: Plan) -> None:
        """Args: `program` is the iptables whose `-save` and `-restore` are run."""
        self.program = program
        self.variant = variant
        self.plan = plan
        self._device = device
        self._applied: tuple[Firewall, object] | None = None

    async def observe(self) -> Firewall | None:
        """Returns the rules that are in force; None when they are not all in place.

        Raises:
            HostError: the tables cannot be listed.
        """
        if self._applied is None:
            return None
        wanted, own = self._applied
        tables = await self._tables()
        if not layout.is_laid_out(tables, self._device, self.plan(tables, self._device, wanted)):
            return None
        return wanted if layout.own_rules(tables, self._device) == own else None

    async def apply(self, wanted: Firewall) -> None:
        """Writes our chains anew and puts the jumps to them where they belong.

        Raises:
            HostError: iptables refuses.
        """
        self._applied = None
        tables = await self._tables()
        layouts = self.plan(tables, self._device, wanted)
        await self._restore(layout.script(tables, self._device, layouts))
        tables = await self._tables()
        layouts = self.plan(tables, self._device, wanted)
        if layout.is_laid_out(tables, self._device, layouts):
            self._applied = (wanted, layout.own_rules(tables, self._device))

    async def clear(self) -> None:
        """Takes our chains and jumps away.

        Raises:
            HostError: iptables refuses.
        """
        self._applied = None
        await self._restore(layout.script(await self._tables(), self._device, {}))

    async def _tables(self) -> Tables:
        choices: tuple[tuple[str, ...], ...] = ((),)
        if self.variant == "legacy":
            # Asking for a table that is not there makes iptables-legacy register it.
            names = await asyncio.to_thread(_legacy_tables)
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
        if outcome.status != 0 and " --random-fully" in text:
            text = text.replace(" --random-fully", "")
            outcome = await attempt(what, *argv, stdin=text)
        if outcome.status != 0:
            raise self._refused(what, outcome.said)

    def _refused(self, what: str, said: str) -> HostError:
        return HostError(
            f"cannot {what}: it says {said!r}; expected a kernel with the iptables tables filter "
            "and nat, and for iptables-legacy to run as root: see docs/firewall.md"
        )


async def variants() -> dict[Variant, str]:
    """Returns the iptables programs on the PATH, by variant."""
    found: dict[Variant, str] = {}
    if shutil.which("iptables-nft") and shutil.which("iptables-nft-restore"):
        found["nft"] = "iptables-nft"
    if shutil.which("iptables-legacy") and shutil.which("iptables-legacy-restore"):
        found["legacy"] = "iptables-legacy"
    if (usual := await usual_variant()) is not None:
        found.setdefault(usual, "iptables")
    return found


async def usual_variant() -> Variant | None:
    """Returns which variant plain `iptables` is; None when there is none."""
    if shutil.which("iptables") is None:
        return None
    outcome = await attempt("see which iptables this is", "iptables", "--version")
    return "nft" if "nf_tables" in outcome.stdout else "legacy"


def _legacy_tables() -> list[str] | None:
    """Returns the tables of iptables-legacy; None where this user may not see their names.

    The service lets the daemon's group see them, but cannot before the kernel module is loaded.
    """
    try:
        return _LEGACY_TABLES.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return []
    except PermissionError:
        return None

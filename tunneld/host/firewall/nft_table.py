"""Our own nftables table, replaced as a whole.

Path of a lease: `host.firewall` -> **`host.firewall.nft_table`** -> nft -> the kernel.

What it says of forwarding and masquerade means what flannel's iptables rules mean (its nftables
set differs in one rule, which makes its last one unreachable). Further it keeps the source
address between overlay hosts by translating it to itself, before any other table can translate
it to something else. An accept here does not overrule a drop in another table.

Source: flannel `pkg/trafficmngr/iptables/iptables.go`; nft(8), libnftables-json(5).
"""

from __future__ import annotations

import errno
import json
import os
import shutil

from tunneld.errors import HostError
from tunneld.fib.state import Firewall
from tunneld.host.firewall.program import attempt

NO_MASQUERADE_MARK = 0x4000
"""Packets that carry this mark are masqueraded by somebody else (kube-proxy), not by us."""

_ALL_BITS = 0xFFFFFFFF


class NftTable:
    """The table `tunneld-<device>` of family `ip`."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.name = f"tunneld-{device}"
        self._applied: tuple[Firewall, object] | None = None
        """What was asked for last, and how the kernel listed it right afterwards."""

    async def observe(self) -> Firewall | None:
        """Returns the rules that are in force; None when the table is not as it was applied.

        A table that an ended daemon left behind counts as none, and is replaced.
        """
        if self._applied is None:
            return None
        wanted, listing = self._applied
        return wanted if await self._listing() == listing else None

    async def apply(self, wanted: Firewall) -> None:
        """Replaces the table in one transaction.

        Raises:
            HostError: nft is missing or refuses.
        """
        self._applied = None
        text = ruleset(self.name, self.device, wanted)
        await _nft(f"replace table {self.name}", text)
        listing = await self._listing()
        # A flush in between leaves less than was written: then nothing counts as applied.
        if _count(listing) == _rules(text):
            self._applied = (wanted, listing)

    async def clear(self) -> None:
        """Removes the table; one that is gone already is no error.

        Without nft, and without a table of ours, there is nothing to do.

        Raises:
            HostError: nft is missing or refuses.
        """
        if self._applied is None and shutil.which("nft") is None:
            return
        self._applied = None
        # Declared first, so that deleting it is right whether it was there or not.
        text = f"table ip {self.name}\ndelete table ip {self.name}\n"
        await _nft(f"remove table {self.name}", text)

    async def _listing(self) -> object:
        outcome = await attempt("list our rules", "nft", "-j", "list", "table", "ip", self.name)
        if outcome.status == 0:
            return _without_handles(json.loads(outcome.stdout)["nftables"])
        if os.strerror(errno.ENOENT) in outcome.said:
            return None
        raise _refused("list our rules", outcome.said)


def ruleset(table: str, device: str, wanted: Firewall) -> str:
    """Returns the transaction that makes the table hold `wanted` and nothing else."""
    network, subnet = wanted.network, wanted.subnet
    mark = f"{NO_MASQUERADE_MARK:#x}"
    chains = {
        # Within the subnet the host's own rules for hairpin connections must go on to work.
        "identity": [
            "type nat hook postrouting priority srcnat - 1; policy accept;",
            f"meta mark & {mark} == {mark} return",
            f"ip saddr {subnet} ip daddr {subnet} return",
            f"ip saddr {subnet} ip daddr {network} snat to ip saddr",
            f"ip saddr {network} ip daddr {subnet} snat to ip saddr",
        ]
    }
    if wanted.forward:
        chains["forward"] = [
            "type filter hook forward priority filter; policy accept;",
            f"ip saddr {network} accept",
            f"ip daddr {network} accept",
        ]
    if wanted.masquerade:
        masquerade = "masquerade fully-random" if wanted.random_fully else "masquerade"
        # Behind everybody else's translation, as rules appended to POSTROUTING.
        chains["postrouting"] = [
            "type nat hook postrouting priority srcnat + 1; policy accept;",
            f"meta mark & {mark} == {mark} return",
            f"ip saddr {subnet} ip daddr {network} return",
            f"ip saddr {network} ip daddr {subnet} return",
            f"ip saddr != {network} ip daddr {subnet} return",
            f"ip saddr {network} ip daddr != 224.0.0.0/4 {masquerade}",
            f"ip saddr != {network} ip daddr {network} {masquerade}",
        ]
    if wanted.notrack is not None:
        address, port = wanted.notrack.address, wanted.notrack.port
        chains["notrack_in"] = [
            "type filter hook prerouting priority raw; policy accept;",
            f"ip daddr {address} udp dport {port} notrack",
        ]
        chains["notrack_out"] = [
            "type filter hook output priority raw; policy accept;",
            f"ip saddr {address} udp dport {port} notrack",
        ]
    if wanted.accept_mark is not None:
        value, mask = wanted.accept_mark.value, wanted.accept_mark.mask
        kept = _ALL_BITS & ~mask
        chains["accept_mark"] = [
            "type filter hook prerouting priority raw - 10; policy accept;",
            f'iifname "{device}" ip daddr {subnet} '
            f"meta mark set meta mark & {kept:#x} | {value:#x}",
        ]
    lines = [f"table ip {table}", f"delete table ip {table}", f"table ip {table} {{"]
    for name, rules in chains.items():
        lines += [f"  chain {name} {{", *(f"    {rule}" for rule in rules), "  }"]
    return "".join(f"{line}\n" for line in [*lines, "}"])


def _rules(text: str) -> int:
    """Returns how many rules a ruleset of ours holds."""
    return sum(line.startswith("    ") and " hook " not in line for line in text.splitlines())


def _count(listing: object) -> int:
    items = listing if isinstance(listing, list) else []
    return sum("rule" in item for item in items)


def _without_handles(value: object) -> object:
    """Returns a listing without what differs between two equal tables."""
    if isinstance(value, dict):
        return {
            key: _without_handles(item)
            for key, item in value.items()
            if key not in ("handle", "metainfo")
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

"""Our firewall rules, as one nftables table that is replaced as a whole.

Path of a lease: `host.actuator` -> **`host.firewall`** -> nft -> the kernel.

The rules mean what flannel's iptables rules mean (its nftables set differs in one rule, which
makes its last one unreachable): accept what is forwarded from or to the network; masquerade
what leaves the network, and what enters it from outside unless it is for the own subnet. An
accept here does not overrule a drop in another table.

Source: flannel `pkg/trafficmngr/iptables/iptables.go`; nft(8), libnftables-json(5).
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil

from tunneld.errors import CapabilityError, HostError
from tunneld.fib.state import Firewall
from tunneld.host.finish import finish

NO_MASQUERADE_MARK = 0x4000
"""Packets that carry this mark are masqueraded by somebody else (kube-proxy), not by us."""


class FirewallTable:
    """The table `tunneld-<device>` of family `ip`."""

    def __init__(self, device: str) -> None:
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
        await _nft(f"replace table {self.name}", ruleset(self.name, wanted))
        self._applied = (wanted, await self._listing())

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
        text = await _nft("list our rules", "-j", "list", "table", "ip", self.name, missing="")
        return _without_handles(json.loads(text)["nftables"]) if text else None


def ruleset(table: str, wanted: Firewall) -> str:
    """Returns the transaction that makes the table hold `wanted` and nothing else."""
    network, subnet = wanted.network, wanted.subnet
    lines = [
        f"table ip {table}",
        f"delete table ip {table}",
        f"table ip {table} {{",
        "  chain forward {",
        "    type filter hook forward priority filter; policy accept;",
        f"    ip saddr {network} accept",
        f"    ip daddr {network} accept",
        "  }",
    ]
    if wanted.masquerade:
        masquerade = "masquerade fully-random" if wanted.random_fully else "masquerade"
        mark = f"{NO_MASQUERADE_MARK:#x}"
        lines += [
            "  chain postrouting {",
            "    type nat hook postrouting priority srcnat; policy accept;",
            f"    meta mark & {mark} == {mark} return",
            f"    ip saddr {subnet} ip daddr {network} return",
            f"    ip saddr {network} ip daddr {subnet} return",
            f"    ip saddr != {network} ip daddr {subnet} return",
            f"    ip saddr {network} ip daddr != 224.0.0.0/4 {masquerade}",
            f"    ip saddr != {network} ip daddr {network} {masquerade}",
            "  }",
        ]
    lines.append("}")
    return "".join(f"{line}\n" for line in lines)


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


async def _nft(what: str, *args: str, missing: str | None = None) -> str:
    """Runs nft; returns its stdout, or `missing` when the table is not there.

    Raises:
        HostError: nft is not installed or refuses; the message holds its first line.
    """
    try:
        status, stdout, stderr = await finish(_run("nft", *args))
    except FileNotFoundError as error:
        raise HostError(
            f"cannot {what}: there is no program `nft`; expected nftables on the PATH: install "
            "it (Debian: apt-get install nftables)"
        ) from error
    except OSError as error:
        raise HostError(
            f"cannot {what}: nft does not start: {error.strerror}; expected nftables on the PATH"
        ) from error
    if status == 0:
        return stdout.decode()
    lines = stderr.decode(errors="replace").strip().splitlines()
    said = lines[0] if lines else f"exit status {status}"
    if missing is not None and os.strerror(errno.ENOENT) in said:
        return missing
    if os.strerror(errno.EPERM) in said:
        raise CapabilityError(
            f"cannot {what}: not permitted; expected CAP_NET_ADMIN: run as root or grant the "
            "capability"
        )
    raise HostError(
        f"cannot {what}: nft says {said!r}; expected a kernel with nftables (nf_tables, nft_masq, "
        "nft_nat)"
    )


async def _run(*argv: str) -> tuple[int | None, bytes, bytes]:
    """Runs a program to its end; returns exit status, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    return process.returncode, stdout, stderr

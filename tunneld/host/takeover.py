"""Takes over a host where flanneld ran: what it left in the packet filter is taken away, loudly.

flanneld leaves its rules behind when it ends. They would go on to accept and masquerade for a
network config that may have changed. As long as a flanneld runs in this network namespace
nothing is touched: the rules are its own. A device it left is named, when routes to it take our
packets away, and stays: containers of another network may depend on it.

Source: flannel `pkg/trafficmngr/iptables/iptables.go`, `pkg/trafficmngr/nftables/nftables.go`,
`pkg/backend/vxlan/vxlan_network.go` (device and routes).
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from tunneld.errors import HostError
from tunneld.host.finish import finish
from tunneld.host.firewall import layout
from tunneld.host.firewall.program import attempt, nft_items
from tunneld.host.netlink import Netlink
from tunneld.host.routes import within
from tunneld.lease.model import IPNetwork

FLANNEL_CHAINS = frozenset({"FLANNEL-FWD", "FLANNEL-POSTRTG"})
FLANNEL_COMMENTS = ("flanneld forward", "flanneld masq")
FLANNEL_TABLES = frozenset({("ip", "flannel-ipv4"), ("ip6", "flannel-ipv6")})

_LEGACY_NAMES = {
    "iptables-legacy": Path("/proc/thread-self/net/ip_tables_names"),
    "ip6tables-legacy": Path("/proc/thread-self/net/ip6_tables_names"),
}
"""A program is not asked for tables before there are some: asking would make them."""

_log = logging.getLogger("tunneld.host")


async def remove_flannel_rules() -> tuple[str, ...]:
    """Removes flanneld's iptables chains and nftables tables; returns what was removed.

    Raises:
        HostError: a program refuses.
    """
    found = await _iptables_leftovers()
    tables = await _nftables_leftovers()
    if not found and not tables:
        return ()
    if pids := await finish(asyncio.to_thread(flanneld_pids)):
        _log.warning(
            "flanneld runs on this host too; its firewall rules are left alone",
            extra={"fields": {"pid": pids[0]}},
        )
        return ()
    removed = []
    for program, script in found.items():
        what = f"remove what flanneld left in {program}"
        argv = (f"{program}-restore", "-w", "5", "--noflush")
        outcome = await attempt(what, *argv, stdin=script)
        _check(what, outcome.status, outcome.said)
        removed.append(f"{program}: chains FLANNEL-FWD, FLANNEL-POSTRTG")
    for family, name in tables:
        what = f"remove flanneld's table {name}"
        outcome = await attempt(what, "nft", "delete", "table", family, name)
        _check(what, outcome.status, outcome.said)
        removed.append(f"nftables: table {family} {name}")
    for detail in removed:
        _log.warning(
            "removed firewall rules that flanneld left behind", extra={"fields": {"detail": detail}}
        )
    return tuple(removed)


async def warn_of_flannel_routes(
    netlink: Netlink, networks: Collection[IPNetwork], devices: Collection[str]
) -> None:
    """Names devices of flannel, other than our `devices`, that routes within `networks` lead to.

    Raises:
        HostError: the kernel does not list its routes.
    """
    taken: dict[str, IPNetwork] = {}
    for link in await netlink.links():
        if link.name in devices or not link.name.startswith("flannel"):
            continue
        for family in sorted({network.version for network in networks}):
            for route in await netlink.routes(4 if family == 4 else 6, oif=link.index):
                if any(within(route.destination, network) for network in networks):
                    taken.setdefault(link.name, route.destination)
    for name, destination in taken.items():
        _log.warning(
            "a device that flanneld left behind takes packets of this network away: remove it "
            "with `ip link delete`",
            extra={"fields": {"device": name, "route": str(destination)}},
        )


def removal(tables: layout.Tables) -> str:
    """Returns the input of `iptables-restore --noflush` that removes flanneld's rules. Pure.

    Rules that older versions put into built-in chains are known by their comment.
    """
    text = ""
    for name, table in tables.items():
        chains = sorted(FLANNEL_CHAINS & table.rules.keys())
        lines = [f":{chain} - [0:0]" for chain in chains]
        lines += [
            f"-D {chain} {rule}"
            for chain, rules in table.rules.items()
            if chain not in FLANNEL_CHAINS
            for rule in rules
            if any(f'--comment "{comment}"' in rule for comment in FLANNEL_COMMENTS)
            or layout.target(rule) in FLANNEL_CHAINS
        ]
        lines += [f"-X {chain}" for chain in chains]
        if lines:
            text += "".join(f"{line}\n" for line in (f"*{name}", *lines, "COMMIT"))
    return text


def flanneld_pids() -> list[int]:
    """Returns the processes called flanneld in this network namespace.

    One whose namespace this user may not see counts as being in it.
    """
    own = os.stat("/proc/thread-self/ns/net").st_ino
    return [
        int(process.name)
        for process in _processes()
        if _command(process).startswith("flanneld") and _may_be_in(own, process)
    ]


async def _iptables_leftovers() -> dict[str, str]:
    """Returns what would remove flanneld's rules, by program."""
    found = {}
    for program in ("iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"):
        names = _LEGACY_NAMES.get(program)
        if shutil.which(f"{program}-save") is None or (names is not None and not _read(names)):
            continue
        outcome = await attempt("look for what flanneld left", f"{program}-save")
        _check("look for what flanneld left", outcome.status, outcome.said)
        if script := removal(layout.parse(outcome.stdout)):
            found[program] = script
    return found


async def _nftables_leftovers() -> list[tuple[str, str]]:
    if shutil.which("nft") is None:
        return []
    outcome = await attempt("look for what flanneld left", "nft", "-j", "list", "tables")
    if outcome.status != 0:
        return []
    return nft_items(
        "look for what flanneld left",
        outcome,
        lambda items: [
            (table["family"], table["name"])
            for item in items
            if ((table := item.get("table", {})).get("family"), table.get("name")) in FLANNEL_TABLES
        ],
    )


def _processes() -> Iterator[Path]:
    return (path for path in Path("/proc").iterdir() if path.name.isdigit())


def _command(process: Path) -> str:
    return _read(process / "comm").strip()


def _may_be_in(namespace: int, process: Path) -> bool:
    try:
        return (process / "ns/net").stat().st_ino == namespace
    except (FileNotFoundError, ProcessLookupError):
        return False  # it has ended, and is perhaps not yet waited for
    except OSError:
        return True


def _read(path: Path) -> str:
    """Returns a file of /proc; empty when it is gone, or not for this user."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _check(what: str, status: int | None, said: str) -> None:
    if status != 0:
        raise HostError(
            f"cannot {what}: it says {said!r}; expected to be allowed: remove the chains "
            "FLANNEL-FWD and FLANNEL-POSTRTG and the tables flannel-ipv4 and flannel-ipv6 by hand"
        )

"""Whether the packet filter lets the overlay's packets reach Docker's containers. Reads only.

The daemon puts its accepts among Docker's rules and keeps them there, unless it is told to leave
them to the operator; this looks from outside.

Source: `host.firewall.layout` for where they belong; iptables-save(8).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

from tunneld.docker.lease import AnyNet, LocalLease
from tunneld.errors import HostError
from tunneld.host.firewall import layout
from tunneld.host.firewall.family import FamilyRules

_SAVES = {
    4: ("iptables-nft-save", "iptables-legacy-save"),
    6: ("ip6tables-nft-save", "ip6tables-legacy-save"),
}
_TIMEOUT_S = 30.0


def listings(version: int) -> dict[str, str]:
    """Returns the rules of both kinds of iptables in a family, by the program that lists them.

    Raises:
        HostError: a program is there, but does not list them.
    """
    return {name: _run(name) for name in _SAVES[version] if shutil.which(name) is not None}


def missing(text: str, net: AnyNet, lease: LocalLease) -> list[str]:
    """Returns what the daemon's rules lack for packets of the overlay to pass, a line each.

    Args:
        text: the output of iptables-save or ip6tables-save.
        net: the overlay in that family.
        lease: of this host. Nothing is known to lack while nobody tells its devices.
    """
    tables = layout.parse(text)
    own = layout.own_rules(tables, lease.owner)
    return [
        f"the chain {jump.chain} of table {name} drops packets of the overlay, and does not lead "
        f"to {jump.target}, which accepts them"
        for name, jump, _ in _needed(tables, net, lease)
        if name not in lease.left
        and (not own.get(name, {}).get(jump.target) or jump.rule not in _rules(tables, name, jump))
    ]


def left(text: str, net: AnyNet, lease: LocalLease) -> list[str]:
    """Returns what rules of the operator must accept, since the daemon is not to, a line each.

    Nothing is said where exactly the rules are there that the daemon would have.
    """
    tables = layout.parse(text)
    found = []
    for name, jump, accepts in _needed(tables, net, lease):
        wanted = [layout.bare(rule) for rule in accepts]
        if name in lease.left and not set(wanted) <= set(_rules(tables, name, jump)):
            found.append(
                f"the chain {jump.chain} of table {name} drops packets of the overlay unless rules "
                f"of yours accept them, since tunneld runs with {lease.left[name]}; it would have "
                f"there: {'; '.join(wanted)}"
            )
    return found


def _needed(
    tables: layout.Tables, net: AnyNet, lease: LocalLease
) -> Iterator[tuple[str, layout.Jump, tuple[str, ...]]]:
    """Yields where packets of the overlay are dropped: table, jump, and the rules it leads to."""
    if lease.devices is None:
        return
    wanted = FamilyRules(
        version=4 if net.subnet.version == 4 else 6,
        network=net.network,
        subnet=net.subnet,
        devices=lease.devices,
        direct=not lease.devices,
    )
    for name, needed in layout.beside_nftables(tables, lease.owner, wanted).items():
        for jump in needed.jumps:
            yield name, jump, needed.chains[jump.target]


def _rules(tables: layout.Tables, name: str, jump: layout.Jump) -> list[str]:
    return tables[name].rules.get(jump.chain, [])


def _run(program: str) -> str:
    try:
        done = subprocess.run(
            [program], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"cannot run {program}: {error}; expected it to list the rules") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise HostError(f"{program} does not list the rules: {lines[0]}; run the command as root")
    return done.stdout

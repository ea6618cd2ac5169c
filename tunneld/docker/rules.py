"""Whether the packet filter lets the overlay's packets reach Docker's containers. Reads only.

The daemon puts its accepts among Docker's rules and keeps them there; this looks from outside.

Source: `host.firewall.layout` for where they belong; iptables-save(8).
"""

from __future__ import annotations

import shutil
import subprocess

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
    """Returns what the rules lack for packets of the overlay to pass, a line each.

    Args:
        text: the output of iptables-save or ip6tables-save.
        net: the overlay in that family.
        lease: of this host. Nothing is known to lack while nobody tells its devices.
    """
    if lease.devices is None:
        return []
    tables, owner = layout.parse(text), lease.owner
    wanted = FamilyRules(
        version=4 if net.subnet.version == 4 else 6,
        network=net.network,
        subnet=net.subnet,
        devices=lease.devices,
        direct=not lease.devices,
    )
    own = layout.own_rules(tables, owner)
    found = []
    for name, needed in layout.beside_nftables(tables, owner, wanted).items():
        there = own.get(name, {})
        for jump in needed.jumps:
            rules = tables[name].rules.get(jump.chain, [])
            if not there.get(jump.target) or jump.rule not in rules:
                found.append(
                    f"the chain {jump.chain} of table {name} drops packets of the overlay, and "
                    f"does not lead to {jump.target}, which accepts them"
                )
    return found


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

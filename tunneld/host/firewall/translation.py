"""Who else on this host translates source addresses: only there must ours be kept by translation.

Path of a lease: `host.firewall.choice` -> **`host.firewall.translation`** -> nft (reads only).

A packet that any NAT rule may see is tracked as a connection, which costs a tenth of the CPU time
of a host's overlay traffic. So a host without NAT is left without it.

Source: libnftables-json(5).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from tunneld.errors import HostError
from tunneld.host.firewall.family import NFT_FAMILY, Version
from tunneld.host.firewall.layout import is_keeping, own_chains
from tunneld.host.firewall.program import attempt, nft_items

_VERSIONS: dict[str, frozenset[Version]] = {
    "ip": frozenset({4}),
    "ip6": frozenset({6}),
    "inet": frozenset({4, 6}),
}


@dataclass(frozen=True, slots=True)
class Translation:
    """What nftables holds of others, as far as it may translate sources."""

    versions: frozenset[Version] = frozenset()
    """The families in which a rule does."""
    tables: frozenset[str] = frozenset()
    """Names of the tables that have a chain for such rules, even an empty one."""


async def by_nftables(owner: str) -> Translation:
    """Returns what there is beside the chains of the daemon `owner`; nothing without nft.

    Raises:
        HostError: the chains cannot be listed.
    """
    if shutil.which("nft") is None:
        return Translation()
    chains = [
        item["chain"]
        for item in await _list("chains")
        if "chain" in item and _is_foreign(item["chain"], owner)
    ]
    versions: frozenset[Version] = frozenset()
    for chain in chains:
        if not _VERSIONS[chain["family"]] <= versions:
            rules = await _list("chain", chain["family"], chain["table"], chain["name"])
            if any(_may_translate(item["rule"], owner) for item in rules if "rule" in item):
                versions |= _VERSIONS[chain["family"]]
    return Translation(versions, frozenset(chain["table"] for chain in chains))


def _is_foreign(chain: dict[str, Any], owner: str) -> bool:
    table = str(chain["table"])
    is_ours = table == f"tunneld-{owner}" and chain["family"] in NFT_FAMILY.values()
    keeps = table.startswith("tunneld-") and chain["name"] == "identity"
    return (
        chain.get("type") == "nat"
        and chain.get("hook") == "postrouting"
        and chain["family"] in _VERSIONS
        and not is_ours
        and not keeps
    )


def _may_translate(rule: dict[str, Any], owner: str) -> bool:
    """Returns False for the jumps to our own chains, where iptables-nft carries them out."""
    targets = [item["jump"]["target"] for item in rule["expr"] if item.get("jump")]
    return not any(is_keeping(chain) or chain in own_chains(owner) for chain in targets)


async def _list(*what: str) -> list[dict[str, Any]]:
    outcome = await attempt("list the chains", "nft", "-j", "list", *what)
    if outcome.status != 0:
        raise HostError(
            f"cannot list the chains: nft says {outcome.said!r}; expected a kernel with nftables"
        )
    return nft_items("list the chains", outcome, _checked)


def _checked(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Raises KeyError or TypeError where a chain or rule lacks what is read of it."""
    for item in items:
        if "chain" in item:
            str(item["chain"]["family"] + item["chain"]["table"] + item["chain"]["name"])
        if "rule" in item:
            [part.get("jump", {})["target"] for part in item["rule"]["expr"] if part.get("jump")]
    return items

"""Whether a subnet goes to an identity: only if lease, claim and trust agree.

Beside the path of a lease: `lease` (with the node's record), a confirmed handshake and
`trust.identities` -> **`trust.decision`** -> `trust.policy`. Pure.

The lease says who holds a subnet, and where; the handshake, once confirmed, who really claims it;
local trust whether that one may. Whoever writes the store writes the first, and none of the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tunneld.lease.model import IPAddress, IPNetwork
from tunneld.trust.bindings import Bindings
from tunneld.trust.identities import Identity
from tunneld.trust.key import PublicKey

Kind: TypeAlias = Literal["identities", "psk", "identities+psk", "store"]
Party: TypeAlias = Literal["lease", "claim", "trust"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a confirmed handshake has said of the other side."""

    key: PublicKey
    subnets: frozenset[IPNetwork]


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Why a subnet goes to nobody."""

    party: Party
    """Who does not agree."""
    detail: str
    """What is missing, and what the operator can do; without the name of the subnet."""


class Trust:
    """Whom this host trusts, by its own files alone."""

    def __init__(
        self,
        *,
        identities: Iterable[Identity] | None = None,
        has_psk: bool = False,
        revoked: Iterable[PublicKey] = (),
    ) -> None:
        """`identities` is None where no file of them is configured: an empty file trusts nobody."""
        self._by_key = None if identities is None else {one.key: one for one in identities}
        self._has_psk = has_psk
        self._revoked = frozenset(revoked)
        self._bound: Bindings[Identity] = Bindings()
        for one in (self._by_key or {}).values():
            for subnet in one.subnets:
                self._bound.add(subnet, one)

    @property
    def kind(self) -> Kind:
        """What trust rests on."""
        if self._by_key is None:
            return "psk" if self._has_psk else "store"
        return "identities+psk" if self._has_psk else "identities"

    @property
    def is_local(self) -> bool:
        """Whether trust rests on this host's own files; False: on whoever writes the store."""
        return self.kind != "store"

    @property
    def explanation(self) -> str:
        """What that means, in one sentence."""
        match self.kind:
            case "store":
                return (
                    "no identities and no PSK are configured: whoever writes the store is believed"
                )
            case "psk":
                return "whoever has the PSK is trusted, with any subnet that the store gives it"
            case "identities":
                return "the hosts of the identities file are trusted"
            case "identities+psk":
                return "the hosts of the identities file are trusted, if they have the PSK"

    def name_of(self, key: PublicKey) -> str | None:
        """Returns the name of a trusted key, where keys have names."""
        found = (self._by_key or {}).get(key)
        return None if found is None else found.name

    def refusal(
        self, key: PublicKey, subnet: IPNetwork, addresses: Iterable[IPAddress]
    ) -> str | None:
        """Returns why a key may not hold a subnet at these underlay addresses; None: it may."""
        if key in self._revoked:
            return f"key {key} is revoked here"
        if self._by_key is None:
            return None
        identity = self._by_key.get(key)
        if identity is None:
            return (
                f"key {key} is not among the identities; if it is that host's, add it with "
                "`tunneld trust add KEY NAME`"
            )
        return self._not_its_subnet(identity, subnet) or _not_its_address(identity, addresses)

    def _not_its_subnet(self, identity: Identity, subnet: IPNetwork) -> str | None:
        if identity.subnets:
            if any(_within(subnet, bound) for bound in identity.subnets):
                return None
            return f"{identity.name} is bound to {_listed(identity.subnets)} by subnets="
        found = self._bound.overlapping(subnet)
        if found is None:
            return None
        bound, owner = found
        return f"{bound} is bound to {owner.name} by subnets="


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What the store says of the holder of a subnet: its lease, with its node's record."""

    key: PublicKey | None
    """None: the record, or what can be read of it, names none."""
    addresses: frozenset[IPAddress] = field(default_factory=frozenset)
    """Underlay addresses of the holder."""


def holder(
    subnet: IPNetwork, announced: Announced | None, claim: Claim | None, trust: Trust
) -> PublicKey | Missing:
    """Returns the identity that a subnet goes to, or who of the three does not agree.

    Args:
        subnet: the subnet.
        announced: what its lease says; None: nobody holds it.
        claim: what the confirmed handshake with the announced key has said; None: there is none.
        trust: of this host.
    """
    key = None if announced is None else announced.key
    if announced is None or key is None:
        detail = "the record of its holder names no key" if announced else "no lease holds it"
        return Missing(party="lease", detail=detail)
    if (refusal := trust.refusal(key, subnet, announced.addresses)) is not None:
        return Missing(party="trust", detail=refusal)
    if claim is None:
        return Missing(party="claim", detail="no handshake with its holder is confirmed")
    if claim.key != key:
        return Missing(party="lease", detail=f"its lease names key {key}, not {claim.key}")
    if subnet not in claim.subnets:
        claimed = _listed(sorted(claim.subnets, key=str)) or "nothing"
        return Missing(party="claim", detail=f"its holder claims {claimed} in the handshake")
    return key


def _not_its_address(identity: Identity, addresses: Iterable[IPAddress]) -> str | None:
    for address in addresses:
        if identity.addresses and not any(address in net for net in identity.addresses):
            allowed = _listed(identity.addresses)
            return f"{identity.name} is at {address}, and addresses= allows {allowed}"
    return None


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _listed(networks: Iterable[IPNetwork]) -> str:
    return ", ".join(map(str, networks))

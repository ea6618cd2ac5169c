from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trust.values import addresses, key, net, nets
from tunneld.lease.model import IPNetwork
from tunneld.trust.decision import Announced, Claim, Missing, Trust, holder
from tunneld.trust.identities import Identity
from tunneld.trust.key import PublicKey

SUBNET = net("10.5.1.0/24")
ALICE, BOB, EVE = key(1), key(2), key(3)
AT = addresses("192.0.2.1")


def identity(of: PublicKey, name: str, subnets: str = "", at: str = "") -> Identity:
    return Identity(
        key=of,
        name=name,
        subnets=tuple(map(net, filter(None, subnets.split(",")))),
        addresses=tuple(map(net, filter(None, at.split(",")))),
    )


BOUND = Trust(
    identities=[identity(ALICE, "alice", "10.5.1.0/24", "192.0.2.1"), identity(BOB, "bob")]
)


LEASED = Announced(key=ALICE, addresses=AT)
CLAIMED = Claim(key=ALICE, subnets=frozenset({SUBNET}))


def ask(
    announced: Announced | None = LEASED, claim: Claim | None = CLAIMED, trust: Trust = BOUND
) -> PublicKey | Missing:
    return holder(SUBNET, announced, claim, trust)


def test_a_subnet_goes_to_whom_lease_claim_and_trust_name() -> None:
    assert ask() == ALICE


@pytest.mark.parametrize(
    ("announced", "claim", "trust", "party", "says"),
    [
        (None, ALICE, BOUND, "lease", "no lease holds it"),
        (Announced(key=None, addresses=AT), ALICE, BOUND, "lease", "names no key"),
        (Announced(key=EVE, addresses=AT), EVE, BOUND, "trust", "not among the identities"),
        (Announced(key=BOB, addresses=AT), BOB, BOUND, "trust", "10.5.1.0/24 is bound to alice"),
        (
            Announced(key=ALICE, addresses=addresses("192.0.2.9")),
            ALICE,
            BOUND,
            "trust",
            "alice is at 192.0.2.9, and addresses= allows 192.0.2.1/32",
        ),
        (Announced(key=ALICE, addresses=AT), None, BOUND, "claim", "no handshake"),
        (Announced(key=ALICE, addresses=AT), BOB, BOUND, "lease", f"names key {ALICE}, not {BOB}"),
        (
            Announced(key=ALICE, addresses=AT),
            ALICE,
            Trust(identities=[identity(ALICE, "alice", "10.5.2.0/24")]),
            "trust",
            "alice is bound to 10.5.2.0/24",
        ),
        (
            Announced(key=ALICE, addresses=AT),
            ALICE,
            Trust(identities=[identity(ALICE, "alice")], revoked=[ALICE]),
            "trust",
            "revoked",
        ),
        (Announced(key=ALICE, addresses=AT), ALICE, Trust(identities=[]), "trust", "not among"),
        (Announced(key=ALICE, addresses=AT), ALICE, Trust(revoked=[ALICE]), "trust", "revoked"),
    ],
)  # fmt: skip
def test_who_does_not_agree_is_named(
    announced: Announced | None, claim: PublicKey | None, trust: Trust, party: str, says: str
) -> None:
    made = None if claim is None else Claim(key=claim, subnets=frozenset({SUBNET}))
    found = ask(announced, made, trust)
    assert isinstance(found, Missing)
    assert found.party == party
    assert says in found.detail


def test_a_handshake_that_claims_another_subnet_does_not_agree() -> None:
    found = ask(claim=Claim(key=ALICE, subnets=nets("10.5.0.0/16", "fd00::/64")))
    assert found == Missing(
        party="claim", detail="its holder claims 10.5.0.0/16, fd00::/64 in the handshake"
    )


@pytest.mark.parametrize(
    ("trust", "kind", "is_local"),
    [
        (Trust(), "store", False),
        (Trust(has_psk=True), "psk", True),
        (Trust(identities=[]), "identities", True),
        (Trust(identities=[], has_psk=True), "identities+psk", True),
    ],
)
def test_trust_says_what_it_rests_on(trust: Trust, kind: str, *, is_local: bool) -> None:
    assert (trust.kind, trust.is_local) == (kind, is_local)
    assert ("whoever writes the store is believed" in trust.explanation) is (kind == "store")


@pytest.mark.parametrize("trust", [Trust(), Trust(has_psk=True)])
def test_without_identities_the_key_of_the_lease_is_believed(trust: Trust) -> None:
    assert ask(Announced(key=EVE), Claim(key=EVE, subnets=frozenset({SUBNET})), trust) == EVE


keys = st.sampled_from([ALICE, BOB, EVE])
subnets = st.sampled_from(sorted(nets("10.5.1.0/24", "10.5.2.0/24", "fd00:5:1::/64"), key=str))


@given(
    subnet=subnets,
    announced=st.none() | st.builds(Announced, key=st.none() | keys, addresses=st.just(AT)),
    claim=st.none() | st.builds(Claim, key=keys, subnets=st.frozensets(subnets)),
    trusted=st.none() | st.frozensets(keys),
    bound=st.dictionaries(keys, st.frozensets(subnets, min_size=1), max_size=1),
    revoked=st.frozensets(keys),
    has_psk=st.booleans(),
)
def test_nobody_gets_a_subnet_that_one_of_the_three_does_not_give(
    subnet: IPNetwork,
    announced: Announced | None,
    claim: Claim | None,
    trusted: frozenset[PublicKey] | None,
    bound: dict[PublicKey, frozenset[IPNetwork]],
    revoked: frozenset[PublicKey],
    has_psk: bool,
) -> None:
    identities = None
    if trusted is not None:
        identities = [
            Identity(key=one, name=f"h{place}", subnets=tuple(bound.get(one, ())))
            for place, one in enumerate(trusted)
        ]
    found = holder(
        subnet, announced, claim, Trust(identities=identities, has_psk=has_psk, revoked=revoked)
    )
    owners = [one for one in bound if trusted and one in trusted and subnet in bound[one]]
    key = announced.key if announced else None
    agree = (
        key is not None
        and claim is not None
        and key == claim.key
        and subnet in claim.subnets
        and key not in revoked
        and (trusted is None or key in trusted)
        and (trusted is None or (owners == [key] if owners or key in bound else True))
    )
    assert found == key if agree else isinstance(found, Missing)

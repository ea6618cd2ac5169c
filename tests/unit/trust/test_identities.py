from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trust.values import ALICE, BOB, key, nets
from tunneld.errors import TrustError
from tunneld.trust.identities import Identity, parse_identities

FILE = f"""\
# hosts of the network

{ALICE} alice subnets=10.5.1.0/24,fd00:5:1::/64 addresses=192.0.2.1   # in the first rack
  {BOB}\tbob.example-2_x\r
"""

SECRET = "cFsKvqK3dVPVR6Fc0gfDs2nUqLzCR9sCtdYNWY6k5mc="
"""Of the form of a private key, as somebody may paste it in the wrong place."""


def refusal(text: str) -> str:
    with pytest.raises(TrustError) as caught:
        parse_identities(text, "/etc/tunneld/identities")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_file_says_who_may_hold_what() -> None:
    alice, bob = parse_identities(FILE, "identities")
    assert (str(alice.key), alice.name) == (ALICE, "alice")
    assert frozenset(alice.subnets) == nets("10.5.1.0/24", "fd00:5:1::/64")
    assert frozenset(alice.addresses) == nets("192.0.2.1/32")
    assert (str(bob.key), bob.name) == (BOB, "bob.example-2_x")
    assert (bob.subnets, bob.addresses) == ((), ())


def test_a_line_is_written_as_it_is_read() -> None:
    alice, _ = parse_identities(FILE, "identities")
    assert parse_identities(str(alice), "identities") == (alice,)
    assert str(alice) == f"{ALICE} alice subnets=10.5.1.0/24,fd00:5:1::/64 addresses=192.0.2.1"


def test_a_file_without_hosts_trusts_nobody() -> None:
    assert parse_identities("# none yet\n", "identities") == ()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("!", "no public key: it is not base64"),
        (ALICE[:-2] + "= alice", "no public key"),
        ("A" * 43 + "= zero", "small order"),
        ("AQ" + "A" * 41 + "= one", "small order"),
        (ALICE, "a name is missing"),
        (f"{ALICE} -alice", "name '-alice' is not usable"),
        (f"{ALICE} {'a' * 64}", "name of 64 characters is not usable"),
        (f"{ALICE} älice", "is not usable"),
        (f"{ALICE} alice bob", "'bob' is no option"),
        (f"{ALICE} alice subnet=10.5.1.0/24", "'subnet=10.5.1.0/24' is no option"),
        (f"{ALICE} alice subnets=", "'': expected"),
        (f"{ALICE} alice subnets=10.5.1.0/24,", "'': expected"),
        (f"{ALICE} alice subnets=10.5.1.7/24", "'10.5.1.7/24': expected"),
        (f"{ALICE} alice subnets=10.5.1.0/33", "'10.5.1.0/33': expected"),
        (f"{ALICE} alice addresses=fe80::1%eth0", "expected an address"),
        (f"{ALICE} alice subnets=10.5.1.0/24 subnets=10.5.2.0/24", "given twice"),
        (f"{ALICE} alice subnets=10.5.0.0/16,10.5.1.0/24", "overlaps 10.5.0.0/16 of the same line"),
        (f"{ALICE} alice addresses=192.0.2.1\ue000", "expected an address"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_what_is_wrong(line: str, says: str) -> None:
    message = refusal(f"# one\n\n{line}\n{BOB} bob\n")
    assert "/etc/tunneld/identities, line 3: " in message
    assert says in message


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (f"{ALICE} bob", "the key of bob is that of alice in line 1"),
        (f"{ALICE} alice", "the key of alice is that of alice in line 1"),
        (f"{BOB} alice", "the name alice is taken by line 1"),
        (f"{BOB} bob subnets=10.5.1.0/24", "overlaps 10.5.1.0/24 of alice in line 1"),
        (f"{BOB} bob subnets=10.5.0.0/16", "overlaps 10.5.1.0/24 of alice in line 1"),
        (f"{BOB} bob subnets=10.5.1.128/25", "overlaps 10.5.1.0/24 of alice in line 1"),
        (f"{BOB} bob subnets=fd00:5:1::/48", "overlaps fd00:5:1::/64 of alice in line 1"),
    ],
)
def test_a_line_that_contradicts_another_names_both(second: str, says: str) -> None:
    message = refusal(f"{ALICE} alice subnets=10.5.1.0/24,fd00:5:1::/64\n\n{second}\n")
    assert "line 3" in message
    assert says in message


def test_hosts_may_share_an_address_behind_nat() -> None:
    text = f"{ALICE} alice addresses=192.0.2.1\n{BOB} bob addresses=192.0.2.1"
    assert len(parse_identities(text, "identities")) == 2


def test_a_byte_order_mark_is_named() -> None:
    assert "line 1: it begins with a byte order mark" in refusal("\ufeff" + FILE)


@pytest.mark.parametrize(
    "line",
    [
        SECRET[:-1] + "!",
        f"{SECRET[:-1]}! host",
        f"{ALICE} {SECRET}",
        f"{ALICE} alice {SECRET}",
        f"{ALICE} alice subnets={SECRET}",
        f"psk={SECRET}",
    ],
)
def test_a_secret_in_the_wrong_place_is_not_quoted(line: str) -> None:
    assert SECRET[:20] not in refusal(line)


def test_ten_thousand_hosts_are_read() -> None:
    lines = [
        f"{key(number)} host{number} subnets=10.{number >> 8}.{number & 255}.0/24"
        for number in range(10_000)
    ]
    # A comparison of each with each would take minutes.
    assert len(parse_identities("\n".join(lines), "identities")) == 10_000


identities = st.builds(
    Identity,
    key=st.integers(0, 500).map(key),
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    subnets=st.lists(
        st.sampled_from(sorted(nets("10.5.1.0/24", "10.6.0.0/16"), key=str)),
        max_size=2,
        unique=True,
    ).map(tuple),
    addresses=st.lists(
        st.sampled_from(sorted(nets("192.0.2.1/32", "2001:db8::/64"), key=str)),
        max_size=2,
        unique=True,
    ).map(tuple),
)


@given(identities)
def test_whatever_is_written_reads_back(identity: Identity) -> None:
    assert parse_identities(str(identity), "identities") == (identity,)


@given(st.text(max_size=200))
def test_no_text_does_worse_than_an_error(text: str) -> None:
    said = ["identities, line"]
    try:
        parse_identities(text, "identities")
    except TrustError as error:
        said.append(str(error))
    assert "identities, line" in said[-1]

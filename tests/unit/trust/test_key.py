from __future__ import annotations

import base64

import pytest

from tests.unit.trust.values import ALICE
from tunneld.trust.key import PublicKey

# https://cr.yp.to/ecdh.html, "Don't I have to validate public keys?", little-endian; the last two
# are its 1 and its large ones as RFC 7748 reads them, with the highest bit masked.
SMALL_ORDER = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "cdeb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880",
    "4c9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7",
    "d9ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "daffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "dbffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)


def test_a_key_is_written_as_it_was_read() -> None:
    key = PublicKey.parse(ALICE)
    assert key.raw.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert str(key) == ALICE


def points() -> list[str]:
    """Returns those of the list that are points of small order when the highest bit is masked."""
    prime, order = 2**255 - 19, []
    for text in SMALL_ORDER:
        number = int.from_bytes(bytes.fromhex(text), "little") % 2**255
        if _eight_times(number % prime) in (0, None):
            order.append(text)
    return order


def _eight_times(u: int) -> int | None:
    """Returns u of the point times 8 by RFC 7748's ladder step for doubling; None: infinity."""
    prime = 2**255 - 19
    x, z = u, 1
    for _ in range(3):
        a, b = (x + z) ** 2 % prime, (x - z) ** 2 % prime
        c = (a - b) % prime
        x, z = a * b % prime, c * (b + (486662 + 2) // 4 * c) % prime
    return None if z == 0 else x * pow(z, -1, prime) % prime


@pytest.mark.parametrize("text", points())
def test_points_of_small_order_are_no_keys(text: str) -> None:
    with pytest.raises(ValueError, match="small order"):
        PublicKey.from_bytes(bytes.fromhex(text))


def test_the_list_has_all_points_of_small_order() -> None:
    assert len(points()) >= 7


@pytest.mark.parametrize("number", [2**255 - 19 + 9, 2**255 + 9, 2**256 - 1 - 2])
def test_a_key_has_one_spelling(number: int) -> None:
    with pytest.raises(ValueError, match="second spelling"):
        PublicKey.from_bytes(number.to_bytes(32, "little"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "0 bytes"),
        ("hello", "not base64"),
        (ALICE[:-1], "not base64"),
        (ALICE.replace("/", "_"), "not base64"),
        (ALICE[:-2] + "p=", "one spelling"),
        (base64.b64encode(bytes(31)).decode(), "31 bytes"),
        (base64.b64encode(bytes(33)).decode(), "33 bytes"),
        (None, "not a text"),
        (7, "not a text"),
    ],
)
def test_what_is_no_key_is_refused_and_not_quoted(text: object, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        PublicKey.parse(text)
    assert not isinstance(text, str) or len(text) < 6 or text not in str(caught.value)

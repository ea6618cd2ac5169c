"""The proofs of both ends: what a stranger, a listener and a mirror can do with them."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from tunneld.bench.hosts.challenge import (
    MAGIC,
    VERSION,
    Frames,
    Secret,
    hello,
    is_proved,
    require_version,
)
from tunneld.errors import BenchError

SECRET = Secret(bytes(range(16)))
NONCES = b"s" * 32 + b"r" * 32


def test_a_secret_is_read_as_it_is_printed_and_as_a_person_copies_it() -> None:
    assert Secret.read(SECRET.text) == SECRET
    assert Secret.read(f"  {SECRET.text.upper()}\n") == SECRET
    assert Secret.read(SECRET.text.replace("-", "")) == SECRET


@pytest.mark.parametrize("text", ["", "abc", "!" * 26, "a" * 27, "ä" * 26])
def test_what_is_no_secret_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(BenchError) as refused:
        Secret.read(text)
    assert len(text) < 4 or text not in str(refused.value)


def test_a_secret_does_not_show_itself() -> None:
    assert SECRET.text not in repr(SECRET)
    assert "\\x" not in repr(SECRET)


def test_a_proof_is_an_hmac_over_role_and_nonces() -> None:
    key = hashlib.sha256(bytes(range(16))).digest()
    expected = hmac.new(key, b"tunneld bench 1 run " + NONCES, hashlib.sha256).digest()
    assert SECRET.key("run", NONCES) == expected
    assert is_proved(SECRET, "run", NONCES, expected)


def test_a_proof_is_of_no_use_for_the_other_role_another_connection_or_another_secret() -> None:
    proof = SECRET.key("run", NONCES)
    assert not is_proved(SECRET, "serve", NONCES, proof)
    assert not is_proved(SECRET, "run", b"S" + NONCES[1:], proof)
    assert not is_proved(Secret(bytes(16)), "run", NONCES, proof)


def test_another_version_and_another_program_are_named() -> None:
    other = MAGIC + bytes([VERSION + 1]) + bytes(32)
    with pytest.raises(BenchError, match=f"h1 speaks version {VERSION + 1}, this one {VERSION}"):
        require_version(other, "h1")
    with pytest.raises(BenchError, match="h1 does not speak as `tunneld bench`"):
        require_version(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", "h1")
    require_version(hello(b"n" * 32), "h1")


def test_a_frame_counts_once_in_its_place_and_in_its_direction() -> None:
    ours, theirs = Frames(SECRET, "run", NONCES), Frames(SECRET, "run", NONCES)
    first, second = ours.mac(b"one"), ours.mac(b"two")
    assert theirs.is_next(first, b"one")
    assert not theirs.is_next(first, b"one"), "again"
    fresh = Frames(SECRET, "run", NONCES)
    assert not fresh.is_next(second, b"two"), "the first is missing"
    mirrored = Frames(SECRET, "serve", NONCES)
    assert not mirrored.is_next(first, b"one"), "back to who sent it"
    assert not Frames(SECRET, "run", NONCES).is_next(first, b"ont"), "changed"

"""Hostile handshake messages at a live engine: they give nobody keys, and take nobody's.

Each moves its own counter and no other, while the packets of an honest peer go on.
"""

from __future__ import annotations

import base64
import os
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.netns import Namespace
from testbed.wait import wait_until
from tests.native.packets import inner
from tests.native.protected import (
    STRANGER,
    Case,
    Honest,
    ProtectedHost,
    Station,
    agreed,
    assault,
    network,
    public_of,
    subnets,
)
from tests.native.second_peer import Answered, SecondPeer, mac1, psk_id

PSK = bytes(range(32))
SMALL_ORDER = bytes(32)
"""A public key that makes every agreement zero. Source: RFC 7748 section 6.1."""


@pytest.fixture
def psk_file(tmp_path: Path) -> Path:
    path = tmp_path / "psk"
    path.write_text(base64.b64encode(PSK).decode() + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def stations(space: Namespace) -> Iterator[list[Station]]:
    """Of `b`, of `c`, and of nobody."""
    with ExitStack() as opened:
        addresses = ("127.0.0.2", "127.0.0.3", STRANGER)
        yield [opened.enter_context(Station(space, address)) for address in addresses]


def with_mac1(receiver: bytes, message: bytes, place: int, content: bytes) -> bytes:
    """Returns an initiation with other bytes, and a mac1 that is right for them."""
    before = message[:place] + content + message[place + len(content) : -32]
    return before + mac1(receiver, before) + bytes(16)


def changed(message: bytes, place: int, bit: int) -> bytes:
    return message[:place] + bytes([message[place] ^ 1 << bit]) + message[place + 1 :]


def without_proof(public: bytes, b: SecondPeer) -> Iterator[Case]:
    """What is not even an initiation for this host."""
    message = b.initiate(public).message
    for length in range(1, len(message)):
        reason = "handshake_length" if length >= 8 else "handshake_header"
        yield "esp_malformed" if length < 4 else reason, message[:length]
    yield "handshake_length", message + b"\0"
    yield "handshake_length", message + bytes(256 - 204)
    yield "handshake_length", message + bytes(1_000)
    # The cookie, in the last 16 bytes, says something under load alone.
    for place in range(len(message) - 16):
        # Its first zeros, then its type and version.
        reason = "esp_malformed" if place < 4 else "handshake_header"
        if place > 5:
            reason = "handshake_mac1"
        yield reason, changed(message, place, place % 8)
    response = bytes([0, 0, 0, 0, 2, 1, 0, 0]) + os.urandom(120)
    cookie = bytes([0, 0, 0, 0, 3, 1, 0, 0]) + os.urandom(36)
    yield "handshake_mac1", response + bytes(32)
    yield "handshake_unknown_index", response + mac1(public, response) + bytes(16)
    yield "handshake_unknown_index", cookie


def without_right(public: bytes, b: SecondPeer) -> Iterator[Case]:
    """Whole initiations by those who have no right to an answer, or who ask for what cannot be."""
    message = b.initiate(public).message
    for place in (12, 43, 44, 91, 92, 171):  # the ends of e, s and the payload
        other = bytes([message[place] ^ 0x5A])
        yield "handshake_noise", with_mac1(public, message, place, other)
    yield "handshake_noise", with_mac1(public, message, 12, SMALL_ORDER)
    yield "handshake_noise", with_mac1(public, message, 12, os.urandom(160))
    elsewhere = SecondPeer(b.claim, "/other/network", PSK, b.private)
    yield "handshake_noise", elsewhere.initiate(public).message
    yield "handshake_mac1", b.initiate(SecondPeer(()).public).message
    yield "handshake_unknown_identity", SecondPeer(b.claim, psk=PSK).initiate(public).message
    without = SecondPeer(b.claim, private=b.private)
    yield "psk_unknown", without.initiate(public).message
    stale = SecondPeer(b.claim, psk=os.urandom(32), private=b.private)
    yield "psk_unknown", stale.initiate(public).message
    yield "handshake_cipher", b.initiate(public, ciphers=0b0001).message
    for lanes in (0, 65, 255):
        yield "handshake_payload", b.initiate(public, lanes=lanes).message
    for base in (0x4000_0000, 0xC000_0001, 0xC000_0020):
        yield "handshake_payload", b.initiate(public, base=base).message


def test_a_message_that_proves_nothing_changes_nothing(
    space: Namespace, tmp_path: Path, psk_file: Path, stations: list[Station]
) -> None:
    b, c = (SecondPeer(subnets(number), psk=PSK) for number in (2, 3))
    with ProtectedHost(space, tmp_path, network([b, c]), psk_file=psk_file) as host:
        public = public_of(host)
        started = time.time()
        past = [b.initiate(public, at=started - year * 31_536_000) for year in (0, 1, 50)]
        pair = agreed(host, b, stations[0], "10.5.2.2")
        honest = Honest(pair, "10.5.2.2", 2)
        before = host.state_of(b)
        # Fewer at once than are load.
        assault(host, stations, without_proof(public, b), honest, at_once=5)
        assault(host, stations[1:], without_right(public, b), honest, at_once=5)
        # What was never confirmed is old when a later one was, wherever it comes from.
        cases = [("handshake_old", one.message) for one in past]
        assault(host, stations, cases * 3, honest, at_once=5)
        after = host.state_of(b)
        assert {**after, "age_s": 0, "last_handshake_s": 0, "last_error": None} == {
            **before,
            "age_s": 0,
            "last_handshake_s": 0,
        }
        assert host.state_of(c)["state"] == "none"
        assert host.state_of(c)["sets"] == 0


def test_an_answer_without_the_right_psk_gives_keys_to_neither_side(
    space: Namespace, tmp_path: Path, psk_file: Path, stations: list[Station]
) -> None:
    b, c = (SecondPeer(subnets(number), psk=PSK) for number in (2, 3))
    at_b, at_c, stranger = stations
    with ProtectedHost(space, tmp_path, network([b, c]), psk_file=psk_file) as host:
        honest = Honest(agreed(host, b, at_b, "10.5.2.2"), "10.5.2.2", 2)
        # It names the PSK that this host has, and goes on by another one.
        thief = SecondPeer(c.claim, psk=os.urandom(32), private=c.private)
        begun = thief.initiate(public_of(host), psks=(psk_id(PSK),))
        at_c.send(begun.message)
        with pytest.raises(Exception, match=r"Failed authentication|^$"):
            begun.finish(at_c.next(160, 2))
        # And answers so where this host begins.
        packet = inner("10.5.1.2", "10.5.3.2")
        host.write(packet)
        while True:
            asked = at_c.newest_initiation()
            right = c.answer(asked).message
            stated = right[:12] + bytes(4) + right[16:-32]
            cases: list[Case] = [
                ("handshake_noise", thief.answer(asked).message),
                # Not its whole answer, or to another.
                ("handshake_mac1", changed(right, 20, 0)),
                ("handshake_unknown_index", stated + mac1(public_of(host), stated) + bytes(16)),
            ]
            try:
                assault(host, [at_b, stranger], cases, honest, at_once=5)
            except AssertionError:
                if not at_c.has_more():
                    raise  # Else it has asked anew, and these were to nothing.
            else:
                break
        assert host.state_of(c)["state"] == "handshake"
        assert host.state_of(c)["claim"] == []
        assert host.state_of(c)["waiting_packets"] == 1
        # The right one after all these, and once more.
        answers: list[Answered] = []

        def answer(initiation: bytes) -> Answered:
            answers.append(c.answer(initiation))
            return answers[-1]

        assert at_c.first_data(answer, asked)[2] == packet
        cases = [("handshake_unknown_index", answered.message) for answered in answers]
        assault(host, [at_c], cases, honest)


def test_what_was_seen_before_a_restart_gives_nobody_anything_after_it(
    space: Namespace, tmp_path: Path, stations: list[Station]
) -> None:
    """A host that has started anew knows no timestamps: it answers an old initiation, in vain."""
    b, c = SecondPeer(subnets(2)), SecondPeer(subnets(3))
    at_b, at_c, stranger = stations
    with ProtectedHost(space, tmp_path, network([b, c])) as host:
        begun = b.initiate(public_of(host))
        at_b.send(begun.message)
        former = at_b.response(begun)
        packet = inner("10.5.2.2", "10.5.1.2")
        old = [former.out.seal(packet, number) for number in range(1, 6)]
        at_b.send(old[0])
        assert host.read() == packet
    change = network([b, c])
    with ProtectedHost(space, tmp_path, change, identity=host.identity) as host:
        honest = Honest(agreed(host, c, at_c, "10.5.3.2"), "10.5.3.2", 2)
        before = host.state_of(b)
        stranger.send(begun.message)
        response = stranger.next(160, 2)
        after = host.state_of(b)
        assert (after["sets"], before["sets"]) == (1, 0)
        assert {**after, "sets": 0} == before, "no endpoint, no claim, no keys to seal by"
        assert (after["state"], after["endpoint"]) == ("none", "127.0.0.2:8286")
        cases: list[Case] = [("handshake_replayed", begun.message)]
        cases += [("esp_unknown_spi", datagram) for datagram in old]
        # The keys that were agreed before, by the SPIs of the answer, which nobody can read.
        base = int.from_bytes(response[16:20]) >> 6 << 6 | 0xC000_0000
        cases.append(("esp_unknown_spi", former.out.seal(packet, 7, as_spi=base)))
        assault(host, [stranger, at_b], cases, honest, at_once=5)
        host.write(to_b := inner("10.5.1.2", "10.5.2.2"))
        wait_until(lambda: host.state_of(b)["waiting_packets"] == 1, what="a packet that waits")
        # The real peer, whom this host has asked, since somebody has keys of before.
        assert at_b.first_data(b.answer)[2] == to_b
        host.wait_for_news("keys_confirmed", b)
        assert host.state_of(b)["endpoint"] == "127.0.0.2:8286"


def test_a_flood_of_initiations_stops_neither_data_nor_who_answers_with_a_cookie(
    space: Namespace, tmp_path: Path, stations: list[Station]
) -> None:
    b, c = (SecondPeer(subnets(number)) for number in (2, 3))
    at_b, at_c, stranger = stations
    with ProtectedHost(space, tmp_path, network([b, c])) as host:
        public = public_of(host)
        honest = Honest(agreed(host, b, at_b, "10.5.2.2"), "10.5.2.2", 2)
        message = b.initiate(public).message
        flood = [with_mac1(public, message, 12, os.urandom(160)) for _ in range(200)]
        begun = c.initiate(public)
        at_c.socket.setblocking(False)
        rounds, pair, cookies, sent = 0, None, 0, 0
        while rounds < 200 or pair is None:
            for hostile in flood[rounds % 4 * 50 :][:50]:
                stranger.send(hostile)
            for _ in range(10):
                # Of the address of a peer, with keys that nobody has any more.
                stations[rounds % 2].send(struct.pack(">II", 0xC000_0040, rounds) + bytes(40))
            sent += 60
            datagram, packet = honest.next()
            at_b.send(datagram)
            assert host.read() == packet
            is_loaded = host.drops().get("handshake_cookie", 0) > 0
            if is_loaded and rounds % 10 == 0 and pair is None:
                at_c.send(begun.message)
                sent += 1
            try:
                heard = at_c.socket.recv(2_000)
            except BlockingIOError:
                heard = b""
            if len(heard) == 44:
                cookies += 1
                at_c.send(begun.with_cookie(heard))
                sent += 1
            elif len(heard) == 160:
                pair = begun.finish(heard)
            rounds += 1
        at_c.send(pair.out.seal(inner("10.5.3.2", "10.5.1.2"), 1))
        assert host.read() == inner("10.5.3.2", "10.5.1.2")
        wait_until(lambda: sum(host.drops().values()) >= sent - 1, what="each counted")
        drops = host.drops()
        assert drops.pop("esp_unknown_spi") == rounds * 10
        assert cookies > 0
        assert drops.keys() <= {
            *("handshake_overflow", "handshake_cookie", "handshake_rate", "handshake_noise"),
            *("handshake_replayed", "handshake_old"),
        }
        assert sum(drops.values()) == sent - rounds * 10 - 1, "all but the one that was answered"
        # Thousands of unknown SPIs from their addresses made this host ask them a few times.
        at_b.socket.setblocking(False)
        asked = 0
        while True:
            try:
                asked += len(at_b.socket.recv(2_000)) == 204
            except BlockingIOError:
                break
        assert asked <= 8

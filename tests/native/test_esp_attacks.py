"""Hostile datagrams at the port of encryption of a live engine: nothing of theirs is delivered.

Every hostile one moves its own counter and no other; what an honest peer sends in between comes.
The peers' handshake and ESP are a second implementation's (`second_peer`).
"""

from __future__ import annotations

import base64
import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.netns import Namespace, inside
from testbed.wait import wait_until
from tests.native.hosts import PORT as PLAIN_PORT
from tests.native.hosts import udp_socket
from tests.native.packets import inner, inner_v6, numbered
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
from tests.native.second_peer import IPV4, IPV6, Answered, Direction, Pair, SecondPeer
from tests.native.super_packets import udp_super_packet
from tunneld import _native

FORGED, REPLAYED, UNKNOWN = "esp_forged", "esp_replayed", "esp_unknown_spi"
TOLD = frozenset(
    {"counters", "digest", "drain_events", "event_fd", "generation", "heartbeat", "offloads"}
    | {"security", "security_self", "take_used"}
)
"""What an engine tells, whatever it is asked."""
CHANGING = frozenset(
    {"commit", "connect", "forget_keys", "pause", "probe", "renew", "resume", "set_claim"}
    | {"set_offload", "set_psks", "start", "stop"}
)
MALFORMED, SEQUENCE = "esp_malformed", "esp_sequence"


@dataclass
class Scene:
    """Host a with keys for `b`, whose lanes are 4, and whose first packet has come."""

    host: ProtectedHost
    b: SecondPeer
    c: SecondPeer
    at_b: Station
    at_c: Station
    stranger: Station
    pair: Pair


@pytest.fixture
def scene(space: Namespace, tmp_path: Path) -> Iterator[Scene]:
    b, c = SecondPeer(subnets(2)), SecondPeer(subnets(3))
    with (
        Station(space, "127.0.0.2") as at_b,
        Station(space, "127.0.0.3") as at_c,
        Station(space, STRANGER) as stranger,
        ProtectedHost(space, tmp_path, network([b, c])) as host,
    ):
        pair = agreed(host, b, at_b, "10.5.2.2")
        yield Scene(host, b, c, at_b, at_c, stranger, pair)


def changed(datagram: bytes, place: int, bit: int) -> bytes:
    return datagram[:place] + bytes([datagram[place] ^ 1 << bit]) + datagram[place + 1 :]


def changed_everywhere(datagram: bytes, lanes: int) -> Iterator[Case]:
    """Every bit of a datagram under lane 0, changed: what is not forged has another SPI."""
    for place in range(len(datagram)):
        for bit in range(8):
            hostile = changed(datagram, place, bit)
            spi = int.from_bytes(hostile[:4])
            is_other_lane = spi >> 6 == int.from_bytes(datagram[:4]) >> 6 and spi & 0x3F < lanes
            if spi >> 30 != 0b11:
                yield MALFORMED, hostile
            elif is_other_lane:
                yield FORGED, hostile
            else:
                yield UNKNOWN, hostile


def cut_everywhere(datagram: bytes) -> Iterator[Case]:
    """A datagram cut at every length, and with bytes behind it."""
    for length in range(len(datagram)):
        hostile = datagram[:length]
        if hostile == b"\xff":
            yield "keepalive", hostile
        else:
            yield FORGED if length >= 36 else MALFORMED, hostile
    for extra in (1, 2, 4, 16, 1_000):
        yield FORGED, datagram + bytes(extra)


def test_what_is_changed_cut_or_made_without_the_key_is_refused_from_wherever_it_comes(
    scene: Scene,
) -> None:
    pair, out = scene.pair, scene.pair.out
    # Far from all numbers that come: each number one bit away is new, or below the window.
    target = out.seal(inner("10.5.2.2", "10.5.1.2", payload=b""), 0x5555)
    honest = Honest(pair, "10.5.2.2", 0x6000)
    backwards = Direction(pair.into.secret, out.cipher, out.base)
    as_other_cipher = Direction(out.secret, 3 if out.cipher != 3 else 1, out.base)
    packet = inner("10.5.2.2", "10.5.1.2")
    cases = [
        *changed_everywhere(target, lanes=4),
        *cut_everywhere(target),
        (FORGED, backwards.seal(packet, 0x5000)),
        (FORGED, as_other_cipher.seal(packet, 0x5000)),
        (FORGED, out.seal(packet, 0x5000, 1, as_spi=out.base)),
        (FORGED, out.seal(packet, 0x5000, 0, as_spi=out.base | 1)),
        (FORGED, out.seal(packet, 0x5000 + (1 << 32))),
        (UNKNOWN, out.seal(packet, 1, 4)),
        (UNKNOWN, out.seal(packet, 1, 63)),
        (UNKNOWN, out.seal(packet, 0x5000, as_spi=pair.into.base)),
        (MALFORMED, packet),
        (MALFORMED, inner_v6("fd00:5:2::2", "fd00:5:1::2")),
        (MALFORMED, b"\x08" + bytes(7) + os.urandom(100)),
        ("keepalive", b"\xff"),
        (MALFORMED, b"\xff\xff"),
    ]
    assault(scene.host, [scene.at_b, scene.stranger], cases, honest)


def test_a_packet_is_taken_once_within_the_window_and_after_a_rekey(scene: Scene) -> None:
    host, out = scene.host, scene.pair.out
    packet = inner("10.5.2.2", "10.5.1.2", payload=b"a packet that comes again")
    top = 20_000
    edge, behind, last = (out.seal(packet, number) for number in (top - 8_127, top - 8_128, top))
    for datagram in (last, edge):
        scene.at_b.send(datagram)
        assert host.read() == packet
    fresh = out.seal(packet, 5, 3)
    again = agreed(host, scene.b, scene.at_b, "10.5.2.2")
    renamed = struct.pack(">I", again.out.base) + last[4:]
    cases = [
        *[(REPLAYED, last), (REPLAYED, edge)] * 3,
        # Below the window its number is taken for the next with these lower halves.
        (FORGED, behind),
        (FORGED, out.seal(packet, 0)),
        (FORGED, renamed),
        # Of a lane under which nothing has come, and no number can be below 1 yet.
        (SEQUENCE, out.seal(packet, 0, 3)),
        (SEQUENCE, out.seal(packet, 0xFFFF_FFFF, 3)),
        (SEQUENCE, out.seal(packet, 0x1_0000_0000 - 8_127, 3)),
        (FORGED, changed(out.seal(packet, 0x1_0000_0000 - 8_128, 3), 40, 0)),
    ]
    assault(host, [scene.at_b, scene.stranger], cases, Honest(again, "10.5.2.2", 2))
    scene.at_b.send(fresh)
    assert host.read() == packet, "and what is new under the former keys comes"
    assault(host, [scene.at_b], [(REPLAYED, fresh)], Honest(again, "10.5.2.2", 1_000))


def test_what_this_host_sealed_is_not_opened_by_it(scene: Scene) -> None:
    host = scene.host
    packet = inner("10.5.1.2", "10.5.3.2")
    host.write(packet)

    def answer(initiation: bytes) -> Answered:
        # The peer chooses the SPIs that this host chose.
        return scene.c.answer(initiation, base=scene.c.answer(initiation).pair.out.base)

    mirror, theirs, opened = scene.at_c.first_data(answer)
    assert opened == packet
    assert mirror[:4] == struct.pack(">I", theirs.out.base)
    host.write(to_b := inner("10.5.1.2", "10.5.2.2"))
    reflected = scene.at_b.next()
    while scene.pair.into.open(reflected)[2] != to_b:
        reflected = scene.at_b.next()
    cases = [(FORGED, mirror), (UNKNOWN, reflected)] * 5
    assault(host, [scene.at_b, scene.at_c], cases, Honest(scene.pair, "10.5.2.2", 100))


def test_keys_speak_for_what_their_peer_claims_and_leases_and_for_nobody_else(
    scene: Scene,
) -> None:
    host, out = scene.host, scene.pair.out
    # `c` claims the subnets of `b`, which are leased to `b`.
    greedy = SecondPeer(subnets(2), private=scene.c.private)
    begun = greedy.initiate(public_of(host))
    scene.at_c.send(begun.message)
    theirs = scene.at_c.response(begun)
    lie = theirs.out
    v4, v6 = inner("10.5.2.2", "10.5.1.2"), inner_v6("fd00:5:2::2", "fd00:5:1::2")
    of_c = inner("10.5.3.2", "10.5.1.2")
    long = v4[:2] + struct.pack(">H", len(v4) + 4) + v4[4:]
    short = v4[:2] + struct.pack(">H", 19) + v4[4:]
    bad_sum = v4[:10] + b"\0\0" + v4[12:]
    numbers = iter(range(10, 1_000))

    def by_b(packet: bytes, **how: object) -> bytes:
        return out.seal(packet, next(numbers), **how)  # type: ignore[arg-type]

    def by_c(packet: bytes) -> bytes:
        return lie.seal(packet, next(numbers))

    cases = [
        ("source_of_other_peer", by_c(v4)),
        ("source_of_other_peer", by_c(v6)),
        ("esp_claim", by_c(of_c)),
        (FORGED, lie.seal(v4, next(numbers), as_spi=out.base)),
        ("esp_claim", by_b(of_c)),
        ("esp_claim", by_b(inner("10.5.4.2", "10.5.1.2"))),
        ("esp_claim", by_b(inner("10.5.1.7", "10.5.1.2"))),
        ("esp_claim", by_b(inner("127.0.0.2", "10.5.1.2"))),
        ("esp_claim", by_b(inner("203.0.113.1", "10.5.1.2"))),
        ("esp_claim", by_b(inner_v6("fd00:5:3::2", "fd00:5:1::2"))),
        ("esp_claim", by_b(inner_v6("::ffff:10.5.2.2", "fd00:5:1::2"))),
        ("wrong_destination", by_b(inner("10.5.2.2", "10.5.3.2"))),
        ("wrong_destination", by_b(inner("10.5.2.2", "203.0.113.1"))),
        ("wrong_destination", by_b(inner_v6("fd00:5:2::2", "fd00:5:4::2"))),
        ("esp_next_header", by_b(v4, next_header=IPV6)),
        ("esp_next_header", by_b(v6, next_header=IPV4)),
        ("esp_next_header", by_b(v4, next_header=17)),
        ("esp_padding", by_b(v4, padding=b"\0\0")),
        ("esp_padding", by_b(v4, padding=b"\1\2\3\4\5\7")),
        ("esp_inner_length", by_b(long)),
        ("esp_inner_length", by_b(short)),
        ("esp_inner_length", by_b(v4[:19])),
        ("esp_inner_length", by_b(v6[:39])),
        ("bad_header_checksum", by_b(bad_sum)),
    ]
    honest = Honest(scene.pair, "10.5.2.2", 2_000)
    assault(host, [scene.at_b], cases, honest)
    # What they claim but do not lease is not sealed for them either.
    host.write(inner("10.5.1.2", "10.5.3.2"))
    host.wait_for_drop("claim")
    # A sign of life, and traffic-flow padding, are no fault.
    scene.at_b.send(out.seal(b"", 1_500))
    scene.at_b.send(out.seal(v4 + os.urandom(7), 1_501))
    assert host.read() == v4
    assault(host, [scene.at_b], [(REPLAYED, out.seal(b"", 1_500))], honest)


@pytest.mark.parametrize("source_check", ["strict", "loose", "off"])
def test_nothing_plain_speaks_for_a_peer_with_keys(
    space: Namespace, tmp_path: Path, source_check: str
) -> None:
    peers = [SecondPeer(subnets(2)), SecondPeer(subnets(3))]
    with ProtectedHost(space, tmp_path, network(peers, source_check)) as host:
        sent = 0
        for address in ("127.0.0.2", "127.0.0.3", "127.0.0.4", STRANGER):
            with inside(space), udp_socket(address) as sock:
                for packet in (
                    inner("10.5.2.2", "10.5.1.2"),
                    inner("10.5.3.2", "10.5.1.2"),
                    inner_v6("fd00:5:2::2", "fd00:5:1::2"),
                    inner("127.0.0.2", "10.5.1.2"),
                    inner("127.0.0.3", "10.5.1.2"),
                ):
                    sock.sendto(packet, ("127.0.0.1", PLAIN_PORT))
                    sent += 1
        with inside(space), udp_socket("127.0.0.4") as sock:
            sock.sendto(inner("10.5.4.2", "10.5.1.2"), ("127.0.0.1", PLAIN_PORT))
        honest = inner("10.5.4.2", "10.5.1.2", ttl=63)
        assert host.read() == honest, "and what is plain and a plain peer's comes"
        assert host.drops() == {"plain_refused": sent}
        assert host.reads_nothing()


def test_a_handshake_and_a_keepalive_are_found_behind_data_that_the_kernel_joined(
    scene: Scene,
) -> None:
    host, out = scene.host, scene.pair.out
    begun = scene.b.initiate(public_of(host))
    packets = [inner("10.5.2.2", "10.5.1.2", payload=bytes([n]) * 180) for n in range(5)]
    train = b"".join(out.seal(packet, 10 + n) for n, packet in enumerate(packets))
    length = len(train) // len(packets)
    assert length > len(begun.message)
    for tail in (begun.message, b"\xff", train[:35]):
        ancillary = [(socket.IPPROTO_UDP, 103, struct.pack("H", length))]  # UDP_SEGMENT
        scene.at_b.socket.sendmsg([train + tail], ancillary, 0, ("127.0.0.1", 8286))
    assert [host.read() for _ in packets] == packets
    scene.at_b.response(begun)
    expected = {REPLAYED: 2 * len(packets), "keepalive": 1, MALFORMED: 1}
    wait_until(lambda: host.drops() == expected, what=f"drops of {expected}, not {host.drops()}")
    assert host.reads_nothing()


def test_no_number_of_a_key_is_sealed_twice(space: Namespace, tmp_path: Path) -> None:
    """By two workers, of super-packets, single packets and signs of life, while keys change."""
    b = SecondPeer(subnets(2))
    seen: set[bytes] = set()
    lanes: set[int] = set()
    pairs: dict[int, Pair] = {}

    def take(datagram: bytes) -> int:
        """Returns how much payload is in a datagram; nothing, of a message."""
        if datagram[:4] == bytes(4):
            return 0
        spi, iv = datagram[:4], datagram[8:16]
        assert spi + iv not in seen, "the same nonce under the same key"
        seen.add(spi + iv)
        into = pairs[int.from_bytes(spi) & ~0x3F].into
        number, lane, packet = into.open(datagram)
        assert number == int.from_bytes(iv)
        lanes.add(lane)
        return max(0, len(packet) - 28)

    header, whole = udp_super_packet(numbered(59_000), 1_380)
    with (
        Station(space, "127.0.0.2") as at_b,
        ProtectedHost(space, tmp_path, network([b]), workers=2) as host,
    ):
        for number in range(24):
            if number % 4 == 0:
                begun = b.initiate(public_of(host))
                at_b.send(begun.message)
                while len(answer := at_b.next_of_any()) != 160:
                    take(answer)
                pair = begun.finish(answer)
                pairs[pair.into.base] = pair
                at_b.send(pair.out.seal(b"", 1))
            for device in host.devices:
                device.send(header + whole)
                device.send(bytes(10) + inner("10.5.1.2", "10.5.2.2", payload=bytes(100)))
            left = 2 * 59_100
            while left > 0:
                left -= take(at_b.next_of_any())
            assert left == 0
    assert lanes == {0, 1}
    assert len(seen) > 24 * 2 * 44


def test_no_key_comes_out_of_an_engine(scene: Scene) -> None:
    """Whatever it can be asked: there is no way to have a key, for a capture or for anything."""
    engine, pair = scene.host.engine, scene.pair
    scene.host.write(inner("10.5.1.2", "10.5.2.2"))
    names = {name for name in dir(engine) if not name.startswith("_")}
    assert names - TOLD == CHANGING, "who adds one thinks of what it tells"
    made = {"create", "load", "replace", "public_key"}
    assert {name for name in dir(_native.Identity) if name[0] != "_"} == made
    assert {name for name in dir(_native.Psks) if name[0] != "_"} == {"load", "ids"}
    told = [getattr(engine, name) for name in sorted(TOLD)]
    said = repr(engine) + repr([one() if callable(one) else one for one in told])
    assert scene.b.key in said
    for direction in (pair.out, pair.into):
        for secret in (direction.secret, *(direction.material(lane)[:32] for lane in range(4))):
            for text in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)[2:-1]):
                assert text not in said


def test_two_threads_that_receive_take_each_packet_once(space: Namespace, tmp_path: Path) -> None:
    b = SecondPeer(subnets(2))
    with ExitStack() as opened:
        addresses = [f"127.0.0.{last}" for last in (2, *range(20, 36))]
        stations = [opened.enter_context(Station(space, address)) for address in addresses]
        host = opened.enter_context(ProtectedHost(space, tmp_path, network([b]), workers=2))
        begun = b.initiate(public_of(host))
        stations[0].send(begun.message)
        pair = stations[0].response(begun)
        packets = {
            inner("10.5.2.2", "10.5.1.2", payload=number.to_bytes(8)): number
            for number in range(1, 401)
        }
        sealed = {number: pair.out.seal(packet, number) for packet, number in packets.items()}
        for datagram in sealed.values():
            for station in stations:
                station.send(datagram)
        expected = len(sealed) * (len(stations) - 1)
        came: list[int] = []

        def is_through() -> bool:
            readable = select.select(host.devices, [], [], 0)[0]
            came.extend(packets[device.recv(2_000)[10:]] for device in readable)
            return len(came) >= len(sealed) and sum(host.drops().values()) >= expected

        wait_until(is_through, what="each datagram taken or counted", poll_s=0)
        assert host.drops() == {REPLAYED: expected}
        assert sorted(came) == sorted(sealed)
        by_worker = [
            one["packets"]
            for one in host.engine.counters()["workers"]
            if one["direction"] == "inbound"
        ]
        assert min(by_worker) > 0, "both threads received some"

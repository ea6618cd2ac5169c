"""Keys agreed between engines over a real underlay, and packets that wait for them."""

from __future__ import annotations

import base64
import hmac
import os
import threading
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest

from testbed.netns import Namespace, inside
from testbed.wait import wait_until
from tests.native.hosts import settings, udp_socket
from tests.native.keyed import (
    PORT,
    HostMaker,
    KeyedHost,
    acquaint,
    address,
    events,
    numbered,
    passes,
    psks,
    subnets,
    wait_for_event,
)
from tests.native.packets import inner, inner_v6
from tests.native.test_life import thread_names
from tunneld import _native
from tunneld.errors import EngineError


@pytest.fixture
def pair(make: HostMaker) -> tuple[KeyedHost, KeyedHost]:
    """Two hosts that run and know each other, without keys."""
    a, b = make(1), make(2)
    acquaint(a, b)
    a.engine.start()
    b.engine.start()
    return a, b


def test_packets_wait_for_keys_and_arrive_in_their_order_both_ways(make: HostMaker) -> None:
    a, b = make(1), make(2)
    acquaint(a, b)
    a.engine.start()
    for number in range(20):
        a.write(numbered(a, b, number))
    wait_until(lambda: a.peer()["waiting_packets"] == 20, what="20 packets that wait")
    assert (a.peer()["state"], a.peer()["sets"], a.drops()) == ("handshake", 0, {})
    b.engine.start()
    assert [b.read() for _ in range(20)] == [numbered(a, b, number) for number in range(20)]
    b.write(numbered(b, a, 20))
    assert a.read() == numbered(b, a, 20)
    for host, other in ((a, b), (b, a)):
        peer = host.peer()
        assert (peer["key"], peer["state"], peer["waiting_packets"]) == (other.key, "confirmed", 0)
        assert (peer["claim"], peer["endpoint"]) == (
            subnets(other.number),
            f"{address(other.number)}:{PORT}",
        )
        assert (peer["instance"], peer["last_error"]) == (other.instance.hex(), None)
        assert host.drops() == {}
        event = wait_for_event(host, "keys_confirmed")
        assert (event["key"], event["claim"]) == (other.key, subnets(other.number))
        assert (event["endpoint"], event["instance"]) == (peer["endpoint"], other.instance.hex())
    [worker, _] = a.engine.counters()["workers"]
    assert worker["packets"] == 20, "each came in once, whatever it waited for"
    assert a.engine.counters()["adjacencies"]["peer 10.5.2.0/24"]["tx_packets"] == 20


def test_both_families_go_over_the_one_underlay_that_there_is(
    make: HostMaker, space: Namespace
) -> None:
    for number in (1, 2):
        space.run("ip", "-6", "address", "replace", f"{address(number, 6)}/128", "dev", "lo")
    a, b = make(1, family=6), make(2, family=6)
    acquaint(a, b)
    a.engine.start()
    b.engine.start()
    packet = inner_v6("fd00:5:1::2", "fd00:5:2::2")
    a.write(packet)
    assert b.read() == packet
    passes(b, a)
    assert a.peer()["endpoint"] == f"[{address(2, 6)}]:{PORT}"
    assert a.peer()["claim"] == subnets(2, 6)


def test_what_arrives_is_told_apart_by_its_socket(
    space: Namespace, tmp_path: Path, split: bool
) -> None:
    """Of both ports and both families: by one port plain packets alone, by the other none."""
    for number in (1, 2):
        space.run("ip", "-6", "address", "replace", f"{address(number, 6)}/128", "dev", "lo")
    ends = [address(1), address(1, 6)]
    with ExitStack() as opened:
        with inside(space):
            plain, sealed = (
                [opened.enter_context(udp_socket(end, port)) for end in ends]
                for port in (8285, PORT)
            )
            peers = [opened.enter_context(udp_socket(address(2, family), 0)) for family in (4, 6)]
        sockets: _native.UnderlaySockets = {
            "ipv4": [plain[0].fileno()],
            "ipv6": [plain[1].fileno()],
            "esp_ipv4": [sealed[0].fileno()],
            "esp_ipv6": [sealed[1].fileno()],
        }
        host = KeyedHost(
            space, 1, _native.Identity.create(tmp_path / "key"), split=split, sockets=sockets
        )
        opened.enter_context(host)
        host.engine.commit(
            {
                "settings": settings("off", 1438),
                "put_entries": [{"prefix": "10.5.1.0/24", "target": "local"}],
            }
        )
        packet = inner("10.5.2.2", "10.5.1.2", ttl=64)
        for peer, end in zip(peers, ends, strict=True):
            peer.sendto(packet, (end, 8285))
            # A hop is taken at the end of the tunnel (flannel's proxy_amd64.c).
            assert host.read() == inner("10.5.2.2", "10.5.1.2", ttl=63)
            peer.sendto(packet, (end, PORT))
            peer.sendto(b"\xff", (end, PORT))
        host.wait_for_drop("esp_malformed", 2)
        host.wait_for_drop("keepalive", 2)
        assert host.reads_nothing()


def test_keys_are_made_anew_under_way_and_every_packet_arrives_once(
    pair: tuple[KeyedHost, KeyedHost],
) -> None:
    a, b = pair
    passes(a, b)
    passes(b, a)
    for round_number in range(3):
        before = a.peer()["sets"]
        a.engine.renew()

        def is_renewed(before: int = before) -> bool:
            passes(a, b)
            passes(b, a)
            return a.peer()["sets"] > before or before == 4

        wait_until(is_renewed, what=f"new keys, round {round_number}")
    assert (a.drops(), b.drops()) == ({}, {})
    assert b.peer()["sets"] >= 3
    assert (a.reads_nothing(), b.reads_nothing()) == (True, True)


def test_a_peer_that_has_started_anew_is_reached_again(make: HostMaker) -> None:
    a, old = make(1), make(2)
    acquaint(a, old)
    a.engine.start()
    old.engine.start()
    passes(a, old)
    old.close()
    new = make(2)
    new.knows(1, a.key)
    new.engine.start()

    def comes_through() -> bool:
        a.write(numbered(a, new, 7))
        return not new.reads_nothing()

    # It has no keys for what comes, and asks: nobody else tells either that it has restarted.
    wait_until(comes_through, what="a packet at the new process")
    assert new.read() == numbered(a, new, 7)
    assert new.drops()["esp_unknown_spi"] >= 1
    wait_until(lambda: a.peer()["instance"] == new.instance.hex(), what="the new instance")


def initiation(receiver: KeyedHost) -> bytes:
    """What looks like an initiation for `receiver`, as far as everybody can make one."""
    key = sha256(b"tunneld/1 mac1" + base64.b64decode(receiver.key)).digest()
    body = bytes([0, 0, 0, 0, 1, 1, 0, 0]) + os.urandom(204 - 8 - 32)
    return body + hmac.digest(key, body, "sha256")[:16] + bytes(16)


def test_a_flood_of_messages_stops_no_data_and_each_is_counted(
    pair: tuple[KeyedHost, KeyedHost], space: Namespace
) -> None:
    a, b = pair
    passes(a, b)
    with inside(space):
        flooder = udp_socket("127.0.0.9", 0)
    is_over = threading.Event()
    sent: list[int] = []

    def flood() -> None:
        message = initiation(a)
        while not is_over.is_set():
            sent.extend(flooder.sendto(message, (address(1), PORT)) for _ in range(500))
            # No more than the socket takes: what the kernel drops, nobody counts.
            wait_until(lambda: sum(a.drops().values()) == len(sent), what="each message counted")

    with flooder:
        thread = threading.Thread(target=flood)
        thread.start()
        try:
            passes(b, a, 300)
            wait_until(lambda: "handshake_overflow" in a.drops(), what="a full queue")
            wait_until(lambda: "handshake_cookie" in a.drops(), what="one asked for a cookie")
        finally:
            is_over.set()
            thread.join()
    reasons = {"handshake_overflow", "handshake_cookie", "handshake_noise"}
    assert (set(a.drops()) <= reasons, sum(a.drops().values())) == (True, len(sent))
    assert (a.peer()["state"], a.peer()["sets"]) == ("confirmed", 1)
    passes(a, b)


def test_whom_nobody_trusts_any_more_is_cut_off_both_ways_when_the_call_returns(
    pair: tuple[KeyedHost, KeyedHost],
) -> None:
    a, b = pair
    passes(a, b)
    passes(b, a)
    events(a)
    a.engine.commit({"drop_identities": [b.key]})
    assert (a.engine.security(), events(a)) == ([], [("keys_lost", b.key)])
    assert a.engine.digest()["identities"] == []
    b.write(numbered(b, a, 1))
    a.write(numbered(a, b, 2))
    a.wait_for_drop("esp_unknown_spi")
    a.wait_for_drop("no_keys")
    b.engine.forget_keys()
    b.write(numbered(b, a, 3))
    a.wait_for_drop("handshake_unknown_identity")
    assert (a.reads_nothing(), b.reads_nothing()) == (True, True)
    counters = a.engine.counters()
    assert counters["icmp_sent"] + counters["icmp_suppressed"] == 1, "the sender is told"
    # Trusted again, they agree again.
    a.engine.commit({"put_identities": [a.identity_of(2, b.key)]})
    passes(a, b)


def test_a_psk_is_exchanged_under_way(make: HostMaker, tmp_path: Path) -> None:
    old, both, new = (psks(tmp_path / "psk", *fill) for fill in ((1,), (2, 1), (2,)))
    a, b = make(1, psks=old), make(2, psks=old)
    acquaint(a, b)
    a.engine.start()
    b.engine.start()
    passes(a, b)
    b.engine.set_psks(both)
    a.engine.set_psks(new)

    def is_renewed() -> bool:
        passes(a, b)
        return a.peer()["sets"] > 1

    wait_until(is_renewed, what="keys under the new PSK")
    assert b.drops() == {}
    # Whoever still has the old one alone is out.
    b.engine.set_psks(old)
    a.engine.forget_keys()
    a.write(numbered(a, b, 1))
    b.wait_for_drop("psk_unknown")


def test_forgotten_keys_are_gone_and_made_anew(pair: tuple[KeyedHost, KeyedHost]) -> None:
    a, b = pair
    passes(a, b)
    passes(b, a)
    events(a)
    a.engine.forget_keys()
    wait_for_event(a, "keys_confirmed")
    passes(a, b)
    passes(b, a)
    # The other side keeps what it had: nobody has told it.
    assert (a.peer()["sets"], b.peer()["sets"]) == (1, 2)


def test_keys_are_agreed_without_a_packet_where_somebody_asks(
    pair: tuple[KeyedHost, KeyedHost],
) -> None:
    a, b = pair
    a.engine.connect(a.key)
    a.engine.connect(b.key)
    a.wait_for_keys()
    b.wait_for_keys()
    assert (a.drops(), b.drops()) == ({}, {})
    assert (a.reads_nothing(), b.reads_nothing()) == (True, True)


def test_a_new_claim_is_told(pair: tuple[KeyedHost, KeyedHost]) -> None:
    a, b = pair
    passes(a, b)
    wait_for_event(b, "keys_confirmed")
    a.engine.set_claim(["10.5.9.0/24"])
    assert wait_for_event(b, "keys_confirmed")["claim"] == ["10.5.9.0/24"]
    b.write(numbered(b, a, 1))
    b.wait_for_drop("claim")
    assert b.peer()["sets"] == 2


def test_the_cipher_is_the_one_that_is_asked_for(make: HostMaker) -> None:
    a, b = make(1, cipher="chacha20-poly1305"), make(2)
    acquaint(a, b)
    a.engine.start()
    b.engine.start()
    passes(a, b)
    passes(b, a)
    assert {host.peer()["cipher"] for host in (a, b)} == {"chacha20-poly1305"}
    own = a.engine.security_self()
    assert (own["public_key"], own["cipher"], own["port"]) == (a.key, "chacha20-poly1305", PORT)
    assert a.peer()["provider"] == own["provider"]


def test_the_thread_of_the_keys_beats_and_ends_with_the_engine(
    pair: tuple[KeyedHost, KeyedHost], split: bool
) -> None:
    a, b = pair
    passes(a, b)
    duties = ["outbound", "inbound", "keying"] if split else ["both", "keying"]
    assert [beat["duty"] for beat in a.engine.heartbeat()] == duties

    def beats() -> int:
        return a.engine.heartbeat()[-1]["beats"]

    a.engine.pause()
    before = beats()
    wait_until(lambda: beats() > before, what="a beat in a pause")
    a.engine.resume()
    passes(a, b)
    assert "tunneld-keying" in thread_names()
    b.engine.commit({"drop_identities": [a.key]})
    b.engine.stop()
    a.write(numbered(a, b, 1))
    events(a)
    a.engine.stop()
    wait_until(lambda: "tunneld-keying" not in thread_names())
    assert (a.engine.security(), events(a)) == ([], [])
    assert [item["key"] for item in a.engine.digest()["identities"]] == [b.key]
    assert not any(beat["alive"] for beat in a.engine.heartbeat())
    for call in (a.engine.renew, a.engine.forget_keys, lambda: a.engine.connect(b.key)):
        with pytest.raises(EngineError, match="it is stopped"):
            call()


def test_what_waits_when_the_engine_is_stopped_is_counted(make: HostMaker) -> None:
    a = make(1)
    a.knows(2, _native_key(make))
    a.engine.start()
    for number in range(5):
        a.write(inner("10.5.1.2", "10.5.2.2", payload=bytes([number]) * 40))
    wait_until(lambda: a.peer()["waiting_packets"] == 5, what="5 packets that wait")
    a.engine.stop()
    assert a.drops() == {"stopped": 5}


def _native_key(make: HostMaker) -> str:
    return make(2).key


def test_no_more_packets_wait_than_there_is_room_for(make: HostMaker) -> None:
    a = make(1)
    a.knows(2, _native_key(make))
    a.engine.start()
    for number in range(200):
        a.write(inner("10.5.1.2", "10.5.2.2", payload=number.to_bytes(2, "big") * 20))

    def is_counted() -> bool:
        return a.drops().get("no_keys", 0) + a.peer()["waiting_packets"] == 200

    wait_until(is_counted, what="each packet waiting or dropped")
    assert a.peer()["waiting_packets"] == 64

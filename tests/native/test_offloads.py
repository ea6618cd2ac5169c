"""Super-packets, trains, and what happens where the kernel refuses them."""

from __future__ import annotations

import select
import socket

import pytest

from testbed.netns import Namespace, inside
from testbed.wait import wait_until
from tests.native.conftest import PeerSocket
from tests.native.hosts import (
    PORT,
    TIMEOUT_S,
    Host,
    adjacency,
    in_order,
    network,
    pause,
    settings,
    udp_socket,
)
from tests.native.packets import inner, numbered, sized
from tests.native.super_packets import (
    tcp_super_packet,
    udp_super_packet,
)

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
SO_NO_CHECK = 11


def test_trains_span_super_packets_and_arrive_in_one_piece(
    host: Host, peer_socket: PeerSocket
) -> None:
    peer = peer_socket("127.0.0.2")
    peer.setsockopt(SOL_UDP, UDP_GRO, 1)
    pause(host.engine)
    for _ in range(3):
        header, packet = udp_super_packet(numbered(4_000), 1_000)
        host.write(packet, header)
    host.engine.resume()
    train, control, *_ = peer.recvmsg(70_000, 64)
    assert len(train) == 12 * 1_028
    assert [int.from_bytes(data[:4], "little") for *_, data in control] == [1_028]


def test_what_goes_to_others_in_between_does_not_end_a_train(
    host: Host, peer_socket: PeerSocket
) -> None:
    peers = {"10.5.2.2": peer_socket("127.0.0.2"), "10.5.3.2": peer_socket("127.0.0.3")}
    for peer in peers.values():
        peer.setsockopt(SOL_UDP, UDP_GRO, 1)
    pause(host.engine)
    for number in range(4):
        for address in peers:
            host.write(inner("10.5.1.2", address, payload=bytes([number]) * 100))
    host.engine.resume()
    for address, peer in peers.items():
        train, control, *_ = peer.recvmsg(70_000, 64)
        datagrams = [inner("10.5.1.2", address, ttl=63, payload=bytes([n]) * 100) for n in range(4)]
        assert train == b"".join(datagrams)
        assert [int.from_bytes(data[:4], "little") for *_, data in control] == [128]


def socket_without_checksums() -> socket.socket:
    """A UDP socket on which the kernel answers every train with EINVAL."""
    sock = udp_socket("127.0.0.1")
    sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    return sock


def udp_lite_socket() -> socket.socket:
    """A socket on which the kernel answers every train with EIO, as it does behind IPsec."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDPLITE)
    sock.bind(("127.0.0.1", PORT))
    return sock


REFUSALS = {
    "Invalid argument": (socket_without_checksums, socket.IPPROTO_UDP),
    "Input/output error": (udp_lite_socket, socket.IPPROTO_UDPLITE),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_train_falls_back_and_loses_nothing(space: Namespace, refusal: str) -> None:
    opened, protocol = REFUSALS[refusal]
    with inside(space):
        underlay = opened()
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, protocol)
        peer.bind(("127.0.0.2", PORT))
    peer.settimeout(TIMEOUT_S)
    with peer, Host(space, network(), underlay=[underlay]) as host:
        header, packet = tcp_super_packet(numbered(50_000), 1_000)
        host.write(packet, header)
        got = [peer.recv(70_000) for _ in range(50)]
        assert b"".join(part[52:] for part in got) == numbered(50_000)
        assert select.select([host.engine.event_fd], [], [], TIMEOUT_S)[0]
        [event] = host.engine.drain_events()
        assert event["kind"] == "offload_lost"
        assert event["detail"].startswith(f"udp_gso: {refusal}")
        assert host.engine.offloads()["udp_gso"].startswith(f"fallback: {refusal}")
        # From here on without a try, and without another word.
        host.write(packet, header)
        assert [peer.recv(70_000) for _ in range(50)] == got
        assert host.engine.drain_events() == []
        wait_until(lambda: host.traffic("b")["tx_packets"] == 100)
        assert host.drops() == {}
        host.engine.set_offload("udp_gso", True)
        assert host.engine.offloads()["udp_gso"] == "on"


def test_what_a_path_refused_is_tried_again_by_itself(
    space: Namespace, peer_socket: PeerSocket
) -> None:
    peer = peer_socket("127.0.0.2")
    with inside(space):
        underlay = socket_without_checksums()
    with underlay.dup() as same, Host(space, network(), underlay=[underlay]) as host:
        header, packet = tcp_super_packet(numbered(10_000), 1_000)
        host.write(packet, header)
        got = [peer.recv(70_000) for _ in range(10)]
        state = "fallback: Invalid argument (os error 22), to 1 peer"
        wait_until(lambda: host.engine.offloads()["udp_gso"] == state, what=state)
        [event] = host.engine.drain_events()
        assert (event["kind"], event["adjacency"]) == ("offload_lost", "b")
        same.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 0)

        def is_back() -> bool:
            host.write(packet, header)
            assert [peer.recv(70_000) for _ in range(10)] == got
            return host.engine.offloads()["udp_gso"] == "on"

        wait_until(is_back, what="trains to b")
        [event] = host.engine.drain_events()
        assert (event["kind"], event["detail"]) == ("offload_back", "udp_gso")
        assert host.drops() == {}


def test_emsgsize_mid_train_lowers_the_adjacencys_mtu_and_keeps_gso(rig_space: Namespace) -> None:
    rig_space.run("ip", "link", "set", "lo", "mtu", "1300")
    with inside(rig_space):
        peer = udp_socket("127.0.0.2")
    peer.settimeout(TIMEOUT_S)
    with peer, Host(rig_space) as host:
        host.engine.commit(
            {
                "settings": settings(),
                "put_adjacencies": [adjacency("b", "127.0.0.2")],
                "put_entries": [{"prefix": "10.5.2.0/24", "target": "b"}],
            }
        )
        # Ten segments that do not fit, and a short one that does.
        header, packet = udp_super_packet(numbered(14_100), 1_400)
        host.write(packet, header)
        assert len(peer.recv(70_000)) == 128
        [event] = host.engine.drain_events()
        assert (event["kind"], event["adjacency"], event["size_bytes"]) == ("path_mtu", "b", 1428)
        assert event["path_mtu_bytes"] == 1300
        assert host.drops() == {"too_big_for_underlay": 10}
        assert host.engine.offloads()["udp_gso"] == "on"
        header, packet = udp_super_packet(numbered(12_000), 1_200)
        host.write(packet, header)
        assert [len(peer.recv(70_000)) for _ in range(10)] == [1_228] * 10


def test_a_batch_for_many_peers_goes_out_in_order_without_gso(
    host: Host, peer_socket: PeerSocket
) -> None:
    peers = {"10.5.2.2": peer_socket("127.0.0.2"), "10.5.3.2": peer_socket("127.0.0.3")}
    host.engine.set_offload("udp_gso", False)
    sent: dict[str, list[bytes]] = {"10.5.2.2": [], "10.5.3.2": []}
    with in_order(host.engine):
        for number in range(200):
            address = ("10.5.2.2", "10.5.3.2")[number // 3 % 2]
            data = number.to_bytes(4, "big") * (1 + number % 3)
            host.write(inner("10.5.1.2", address, payload=data))
            sent[address].append(data)
        for address, peer in peers.items():
            assert [peer.recv(70_000)[28:] for _ in sent[address]] == sent[address]
    assert host.drops() == {}


def test_arriving_trains_are_split(host: Host, peer_socket: PeerSocket) -> None:
    peer = peer_socket("127.0.0.2")
    datagrams = [sized("10.5.2.2", "10.5.1.2", 1_000) for _ in range(20)]
    datagrams.append(sized("10.5.2.2", "10.5.1.2", 60))
    peer.setsockopt(SOL_UDP, UDP_SEGMENT, 1_000)
    for switch in (True, False):
        host.engine.set_offload("udp_gro", switch)
        peer.sendto(b"".join(datagrams), ("127.0.0.1", 8285))
        got = [host.read() for _ in datagrams]
        assert [len(packet) for packet in got] == [1_000] * 20 + [60]
    assert host.drops() == {}

"""VXLAN over an underlay of two families, and over sockets that only send."""

from __future__ import annotations

import pytest

from testbed.netns import Namespace, inside
from tests.native.conftest import PeerSocket
from tests.native.hosts import TIMEOUT_S, Host, adjacency, in_order, udp_socket
from tests.native.packets import inner, sized
from tests.native.super_packets import udp_super_packet
from tests.native.vxlan import HERE, HONEST, MTU_BYTES, OTHER_MAC, PEER_MAC, B, C, framed, network
from tunneld import _native

IPV6_HERE, IPV6_B, IPV6_STRANGER = "2001:db8::1", "2001:db8::2", "2001:db8::9"


@pytest.fixture
def ipv6_space(rig_space: Namespace) -> Namespace:
    for address in (IPV6_HERE, IPV6_B, IPV6_STRANGER):
        rig_space.add_ipv6(f"{address}/128", "lo")
    return rig_space


def both_families(space: Namespace) -> Host:
    """A host with an underlay of each family."""
    with inside(space):
        sockets = [udp_socket("127.0.0.1"), udp_socket(IPV6_HERE, 8285)]
    return Host(space, ipv6_network(), sockets)


def ipv6_network() -> _native.Change:
    change = network()
    change["put_adjacencies"] = [
        adjacency("b", IPV6_B, MTU_BYTES, vtep_mac=PEER_MAC),
        adjacency("c", C, 1400, vtep_mac=OTHER_MAC),
    ]
    return change


def test_both_families_of_the_underlay_are_received_and_sent_by(ipv6_space: Namespace) -> None:
    with inside(ipv6_space):
        b, c = udp_socket(IPV6_B, 8285), udp_socket(C, 8285)
        stranger = udp_socket(IPV6_STRANGER, 8285)
    with b, c, stranger, both_families(ipv6_space) as host:
        for sock in (b, c):
            sock.settimeout(TIMEOUT_S)
        for number in range(20):
            by_b = inner("10.5.2.2", "10.5.1.2", payload=bytes([number]))
            by_c = inner("10.5.3.2", "10.5.1.2", payload=bytes([number]))
            b.sendto(framed(by_b), (IPV6_HERE, 8285))
            assert host.read() == by_b
            c.sendto(framed(by_c, src=OTHER_MAC), HERE)
            assert host.read() == by_c
            host.write(inner("10.5.1.2", "10.5.2.2"))
            host.write(inner("10.5.1.2", "10.5.3.2"))
            assert b.recv(2000)[22:] == inner("10.5.1.2", "10.5.2.2")
            assert c.recv(2000)[22:] == inner("10.5.1.2", "10.5.3.2")
        assert host.drops() == {}
        # The outer source is checked in its own family.
        stranger.sendto(HONEST, (IPV6_HERE, 8285))
        host.wait_for_drop("unknown_peer")
        c.sendto(HONEST, HERE)
        host.wait_for_drop("source_of_other_peer")
        assert host.reads_nothing()


def test_a_peer_in_a_family_without_a_socket_is_unreachable(space: Namespace) -> None:
    with Host(space, ipv6_network()) as host:
        host.write(inner("10.5.1.2", "10.5.2.2"))
        host.wait_for_drop("underlay_unreachable")
        assert host.drops() == {"underlay_unreachable": 1}


def test_a_size_that_an_ipv6_underlay_refuses_is_reported_and_keeps_gso(
    ipv6_space: Namespace,
) -> None:
    ipv6_space.run("ip", "link", "set", "lo", "mtu", "1300")
    for address in (IPV6_HERE, IPV6_B):
        ipv6_space.add_ipv6(f"{address}/128", "lo")
    with inside(ipv6_space):
        peer = udp_socket(IPV6_B, 8285)
    with peer, both_families(ipv6_space) as host:
        peer.settimeout(TIMEOUT_S)
        # Ten segments that do not fit, and a short one that does.
        header, packet = udp_super_packet(bytes(14_100), 1_400)
        host.write(packet, header)
        assert len(peer.recv(70_000)) == 22 + 28 + 100
        [event] = host.engine.drain_events()
        assert (event["kind"], event["adjacency"], event["size_bytes"]) == ("path_mtu", "b", 1428)
        assert event["path_mtu_bytes"] == 1300
        assert host.drops() == {"too_big_for_underlay": 10}
        assert host.engine.offloads()["udp_gso"] == "on"
        header, packet = udp_super_packet(bytes(12_000), 1_200)
        host.write(packet, header)
        assert [len(peer.recv(70_000)) for _ in range(10)] == [22 + 1_228] * 10


def test_a_flow_keeps_its_source_port_and_flows_are_spread_over_all(
    space: Namespace, peer_socket: PeerSocket
) -> None:
    peer = peer_socket(B)
    with inside(space):
        sockets = [udp_socket("127.0.0.1", 0 if number else 8285) for number in range(5)]
    ports = [sock.getsockname()[1] for sock in sockets]
    with Host(space, network(), sockets) as host, in_order(host.engine):
        for number in range(400):
            address = f"10.5.2.{2 + number % 100}"
            host.write(inner("10.5.1.2", address, payload=number.to_bytes(4, "big")))
        got = [peer.recvfrom(70_000) for _ in range(400)]
    flows: dict[bytes, list[tuple[int, int]]] = {}
    for frame, (_, port) in got:
        number = int.from_bytes(frame[-4:], "big")
        flows.setdefault(frame[38:42], []).append((number, port))
    assert len(flows) == 100
    for packets in flows.values():
        assert [number for number, _ in packets] == sorted(number for number, _ in packets)
        assert len({port for _, port in packets}) == 1
    used = {packets[0][1] for packets in flows.values()}
    assert used == set(ports[1:]), "all that only send, and none else"


def test_a_stranger_at_a_port_that_only_sends_is_not_heard(
    space: Namespace, peer_socket: PeerSocket
) -> None:
    peer = peer_socket(B)
    with inside(space):
        sockets = [udp_socket("127.0.0.1", 0 if number else 8285) for number in range(2)]
    port = sockets[1].getsockname()[1]
    with Host(space, network(), sockets) as host:
        peer.sendto(HONEST, ("127.0.0.1", port))
        peer.sendto(framed(sized("10.5.2.2", "10.5.1.2", 99)), HERE)
        assert host.read() == sized("10.5.2.2", "10.5.1.2", 99)
        assert host.reads_nothing()

"""Inner IPv6, with scapy as the second opinion."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import ICMPv6MLReport2, ICMPv6ND_RS, IPv6
from scapy.packet import Raw

from testbed.netns import Namespace, inside
from testbed.wait import wait_until
from tests.native.conftest import PeerSocket
from tests.native.hosts import (
    TIMEOUT_S,
    Host,
    dual_stack,
    in_order,
    open_tun,
    over_ipv4,
    pause,
    udp_socket,
)
from tests.native.packets import inner_v6
from tunneld import _native

CONTAINER, AT_B, AT_C = "fd00:5:1::2", "fd00:5:2::2", "fd00:5:3::2"
HERE = ("127.0.0.1", 8285)


@pytest.fixture
def both(host: Host) -> Host:
    host.engine.commit(dual_stack())
    return host


@pytest.fixture
def container(space: Namespace) -> Iterator[socket.socket]:
    """A socket that sees all ICMPv6 for fd00:5:1::2, which the namespace has as its own."""
    for address in (f"{CONTAINER}/128", "fd00:5:1::/128"):
        space.add_ipv6(address, "lo")
    with inside(space):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with sock:
        sock.bind((CONTAINER, 0))
        sock.settimeout(TIMEOUT_S)
        yield sock


def test_a_packet_crosses_one_hop_older_each_way(both: Host, peer_socket: PeerSocket) -> None:
    peer = peer_socket("127.0.0.2")
    both.write(inner_v6(CONTAINER, AT_B))
    assert peer.recv(70_000) == inner_v6(CONTAINER, AT_B, hlim=63)
    peer.sendto(inner_v6(AT_B, CONTAINER), HERE)
    assert both.read() == inner_v6(AT_B, CONTAINER, hlim=63)
    assert both.drops() == {}
    assert both.engine.digest()["entries"][3:] == dual_stack()["put_entries"][3:]


ANSWERED = {
    "no route": (inner_v6(CONTAINER, "fd00:5:fa::7"), (1, 0, 0), "no_route"),
    "hop limit": (inner_v6(CONTAINER, AT_B, hlim=1), (3, 0, 0), "hop_limit_exceeded"),
    "too big": (inner_v6(CONTAINER, AT_C, payload=bytes(1_353)), (2, 0, 1_400), "too_big"),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_errors_reach_the_sender(both: Host, container: socket.socket, name: str) -> None:
    offender, (kind, code, field), reason = ANSWERED[name]
    both.write(offender)
    message, source = container.recvfrom(2_000)
    # The kernel has verified its checksum, or it would not be here.
    # The kernel's choice: never the subnet's anycast address (RFC 4291 section 2.6.1).
    assert source[0] == "fd00:5:1::2"
    assert (message[0], message[1]) == (kind, code)
    assert int.from_bytes(message[4:8], "big") == field
    assert message[8:] == offender[: 1_280 - 48]
    assert both.drops() == {reason: 1}
    wait_until(lambda: both.engine.counters()["icmp_sent"] == 1)


def test_what_the_host_itself_says_on_its_link_is_no_fault(both: Host) -> None:
    said = [
        IPv6(src="fe80::1", dst="ff02::2") / ICMPv6ND_RS(),
        IPv6(src="::", dst="ff02::16") / ICMPv6MLReport2(),
    ]
    for packet in said:
        both.write(bytes(packet))
    both.wait_for_drop("not_routable", len(said))
    assert both.drops() == {"not_routable": len(said)}
    assert both.engine.counters()["icmp_suppressed"] == 0


def test_a_network_without_ipv4_drops_it_by_name(host: Host, peer_socket: PeerSocket) -> None:
    change = dual_stack()
    change["settings"]["icmp_source"] = None
    host.engine.commit(change)
    peer = peer_socket("127.0.0.2")
    host.write(b"\x45" + bytes(39))
    peer.sendto(b"\x45" + bytes(39), HERE)
    host.wait_for_drop("ipv4_disabled", 2)


@pytest.fixture
def device(rig_space: Namespace) -> Iterator[tuple[_native.Engine, socket.socket]]:
    """An engine over a real TUN device, and a socket that sees what the device delivers."""
    with inside(rig_space):
        tun = open_tun("flannel0")
        with udp_socket("127.0.0.1") as underlay:
            engine = _native.Engine(
                tun_fds=[tun],
                underlay=[over_ipv4(underlay)],
                icmp_fd=None,
                icmp6_fd=None,
                split=False,
            )
        rig_space.run("ip", "link", "set", "flannel0", "mtu", "1472", "up")
        seen = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
    seen.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
    seen.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
    seen.bind(("flannel0", 0x86DD))
    seen.settimeout(TIMEOUT_S)
    engine.commit(dual_stack())
    engine.start()
    with seen:
        yield engine, seen
    engine.stop()
    socket.close(tun)


def flow(chosen: random.Random, number: int) -> list[bytes]:
    """A few packets of one flow, mostly such as may be joined."""
    base = IPv6(src=AT_B, dst=CONTAINER, hlim=64, fl=number, tc=chosen.choice((0, 0x2E)))
    sequence, made = chosen.randrange(1 << 32), []
    for _ in range(chosen.randrange(1, 20)):
        data = chosen.randbytes(chosen.choice((500, 500, 500, 100)))
        if number % 2:
            head: TCP | UDP = TCP(sport=1000 + number, dport=9, seq=sequence, flags="A")
            sequence = (sequence + len(data)) % (1 << 32)
        else:
            head = UDP(sport=1000 + number, dport=9)
        packet = bytearray(bytes(base / head / Raw(data)))
        if chosen.randrange(8) == 0:
            packet[-1] ^= 0x20  # a wrong checksum from here on
        made.append(bytes(packet))
    return made


def segments(vnet: bytes, packet: bytes) -> list[bytes]:
    """Cuts by scapy what a capture shows as a super-packet."""
    kind, size = vnet[1] & 0x7F, int.from_bytes(vnet[4:6], "little")
    if kind == 0:
        return [packet]
    whole = IPv6(packet)
    transport = TCP if whole.nh == 6 else UDP
    data, made = bytes(whole[transport].payload), []
    for start in range(0, len(data), size):
        part = whole.copy()
        part[transport].remove_payload()
        part = part / Raw(data[start : start + size])
        if transport is TCP:
            part[TCP].seq = (whole[TCP].seq + start) % (1 << 32)
        else:
            part[UDP].len = None
        part.plen = None
        part[transport].chksum = None
        made.append(bytes(part))
    return made


def test_random_flows_come_out_as_they_went_in(
    device: tuple[_native.Engine, socket.socket], rig_space: Namespace
) -> None:
    engine, seen = device
    with inside(rig_space):
        peer = udp_socket("127.0.0.2")
    with peer, in_order(engine):
        joined = exchange(engine, peer, seen)
    assert joined > 30
    # The host's own words on the link are all that was dropped.
    drops = {reason for reason, count in engine.counters()["drops"].items() if count}
    assert drops <= {"not_routable"}


def exchange(engine: _native.Engine, peer: socket.socket, seen: socket.socket) -> int:
    """Sends random flows and compares what is seen; returns the number of super-packets."""
    chosen = random.Random(6)
    joined = 0
    for _ in range(30):
        flows = {number: flow(chosen, number) for number in range(1, 7)}
        pause(engine)
        for number in chosen.sample(sorted(flows), len(flows)):
            for packet in flows[number]:
                peer.sendto(packet, HERE)
        engine.resume()
        got: dict[int, list[bytes]] = {number: [] for number in flows}
        while sum(map(len, got.values())) < sum(map(len, flows.values())):
            data = seen.recv(70_000)
            if data[10 + 8 : 10 + 24] != socket.inet_pton(socket.AF_INET6, AT_B):
                continue
            parts = segments(data[:10], data[10:])
            joined += len(parts) > 1
            for part in parts:
                got[IPv6(part).fl].append(part)
        for number, packets in flows.items():
            aged = [packet[:7] + b"\x3f" + packet[8:] for packet in packets]
            assert got[number] == aged
    return joined

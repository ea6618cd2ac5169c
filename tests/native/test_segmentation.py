"""Super-packets are cut as the kernel cuts them: byte for byte, whatever their headers are."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest

from testbed.netns import Rig
from tests.native.conftest import PeerSocket
from tests.native.hosts import Host, dual_stack
from tests.native.packets import numbered
from tests.native.super_packets import (
    KernelSegmentation,
    extended_super_packet,
    kernel_segmentation,
    tcp_super_packet,
    tcp_super_packet_v6,
    udp_super_packet,
    udp_super_packet_v6,
    vnet_header,
)

HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS = 0, 43, 60


@pytest.fixture(scope="module")
def kernel(module_rig: Rig) -> Iterator[KernelSegmentation]:
    with kernel_segmentation(module_rig.namespace("kernel")) as made:
        yield made


SUPER_PACKETS = {
    "plain": tcp_super_packet(numbered(10_000), 1_000),
    "short last segment": tcp_super_packet(numbered(10_001), 1_400),
    "odd segments": tcp_super_packet(numbered(9_999), 999, options=False),
    "PSH, FIN and CWR": tcp_super_packet(numbered(5_000), 1_000, flags="FPAEC", ecn=True),
    "CWR without the ECN bit": tcp_super_packet(numbered(5_000), 1_000, flags="PAC"),
    "urgent": tcp_super_packet(numbered(5_000), 1_000, flags="AU"),
    "may be fragmented": tcp_super_packet(numbered(5_000), 1_000, df=False, identification=9),
    "64 KiB": tcp_super_packet(numbered(65_535 - 52), 1_420),
    "more than 64 segments": tcp_super_packet(numbered(20_000), 100),
    "UDP": udp_super_packet(numbered(10_000), 1_000),
    "UDP, odd and short": udp_super_packet(numbered(9_998), 999, identification=0xFFFF),
    "UDP, may be fragmented": udp_super_packet(numbered(3_000), 1_400, df=False),
}


@pytest.mark.parametrize("name", SUPER_PACKETS)
def test_segmentation_equals_the_kernels_own_byte_for_byte(
    kernel: KernelSegmentation, host: Host, peer_socket: PeerSocket, name: str
) -> None:
    peer = peer_socket("127.0.0.2")
    header, packet = SUPER_PACKETS[name]
    gso_size = int.from_bytes(header[4:6], "little")
    headers = 28 if packet[9] == 17 else 20 + (packet[32] >> 4) * 4
    count = -(-(len(packet) - headers) // gso_size)
    expected = kernel.cut(header, packet, count)
    host.write(packet, header)
    assert [peer.recv(70_000) for _ in range(count)] == expected
    assert host.drops() == {}


SUPER_PACKETS_V6 = {
    "plain": (tcp_super_packet_v6(numbered(10_000), 1_000), 72, 10),
    "short last segment": (tcp_super_packet_v6(numbered(10_001), 1_400), 72, 8),
    "PSH, FIN and CWR": (
        tcp_super_packet_v6(numbered(5_000), 1_000, flags="FPAEC", ecn=True),
        72,
        5,
    ),
    "extension header": (tcp_super_packet_v6(numbered(5_000), 1_000, extended=True), 80, 5),
    "64 KiB": (tcp_super_packet_v6(numbered(65_535 - 72), 1_400), 72, 47),
    "UDP": (udp_super_packet_v6(numbered(10_000), 1_000), 48, 10),
    "UDP, odd and short": (udp_super_packet_v6(numbered(9_998), 999), 48, 11),
}


@pytest.mark.parametrize("name", SUPER_PACKETS_V6)
def test_segmentation_over_ipv6_equals_the_kernels_own_byte_for_byte(
    kernel: KernelSegmentation, host: Host, peer_socket: PeerSocket, name: str
) -> None:
    peer = peer_socket("127.0.0.2")
    host.engine.commit(dual_stack())
    (header, packet), headers, count = SUPER_PACKETS_V6[name]
    expected = kernel.cut(header, packet, count)
    host.write(packet, header)
    got = [peer.recv(70_000) for _ in range(count)]
    assert got == expected
    assert b"".join(part[headers:] for part in got) == packet[headers:]
    assert host.drops() == {}


def test_hdr_len_of_the_device_is_not_believed(host: Host, peer_socket: PeerSocket) -> None:
    peer = peer_socket("127.0.0.2")
    header, packet = tcp_super_packet(numbered(3_000), 1_000)
    host.write(packet, header)
    expected = [peer.recv(70_000) for _ in range(3)]
    for header_len in (1, 40, 1_052, 65_535):
        host.write(packet, vnet_header(1, 1_000, 16, header_len))
        assert [peer.recv(70_000) for _ in range(3)] == expected


def options_header(chosen: random.Random, size_bytes: int) -> bytes:
    """Returns options that are skipped where they are unknown (RFC 4727), next header left 0."""
    body, rest = bytes([0, size_bytes // 8 - 1]), size_bytes - 2
    while rest > 1:
        size = min(rest, chosen.choice((12, 120, 200)))
        size -= rest - size == 1
        body += bytes([0x1E, size - 2]) + chosen.randbytes(size - 2)
        rest -= size
    return body + bytes(rest)


def routing_header(chosen: random.Random) -> bytes:
    """Returns a segment routing header, ended or not (RFC 8754), next header left 0."""
    segments = chosen.randint(1, 4)
    left = chosen.randint(0, segments - 1)
    fixed = bytes([0, 2 * segments, 4, left, segments - 1, 0, 0, 0])
    return fixed + b"".join(b"\xfd" + chosen.randbytes(15) for _ in range(segments))


def extension_headers(chosen: random.Random) -> list[tuple[int, bytes]]:
    """Returns up to twelve extension headers, each with its number."""
    headers = []
    if chosen.random() < 0.4:
        headers.append((HOP_BY_HOP, options_header(chosen, 8 * chosen.randint(1, 13))))
    for _ in range(chosen.choice((0, 1, 2, 10))):
        if chosen.random() < 0.4:
            headers.append((ROUTING, routing_header(chosen)))
        else:
            size = 8 * chosen.choice((1, 2, 8, 12, 13, 16, 31))
            headers.append((DESTINATION_OPTIONS, options_header(chosen, size)))
    return headers


def test_random_extension_headers_are_no_reason_to_cut_otherwise(
    kernel: KernelSegmentation, host: Host, peer_socket: PeerSocket
) -> None:
    peer = peer_socket("127.0.0.2")
    host.engine.commit(dual_stack())
    chosen = random.Random(8200)
    longest = 0
    for number in range(120):
        headers = extension_headers(chosen)
        room = 1_472 - 40 - sum(len(header) for _, header in headers) - 60
        if room < 40:
            continue
        gso_size = chosen.randint(40, room)
        payload = numbered(gso_size * chosen.randint(2, 9) + chosen.randint(0, gso_size - 1))
        udp = chosen.random() < 0.4
        final = "fd00:5:9::9" if any(kind == ROUTING for kind, _ in headers) else None
        header, packet = extended_super_packet(
            payload, gso_size, headers, udp=udp, final_destination=final
        )
        count = -(-len(payload) // gso_size)
        expected = kernel.cut(header, packet, count)
        host.write(packet, header)
        assert [peer.recv(70_000) for _ in range(count)] == expected, f"{number}: {headers}"
        longest = max(longest, struct.unpack("=H", header[6:8])[0])
    assert longest > 500
    assert host.drops() == {}

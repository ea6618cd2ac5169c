"""Super-packets as a kernel hands them to a device, and what its own segmentation makes of them."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, PadN
from scapy.packet import Raw

from testbed.netns import Namespace, inside
from tests.native.hosts import TIMEOUT_S, open_tun

NEEDS_CSUM = 1
ETH_P_ALL = 3
SOURCE_V6 = socket.inet_pton(socket.AF_INET6, "fd00:5:1::2")
GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 1, 4, 5, 0x80


def vnet_header(
    kind: int, gso_size: int, checksum_offset: int, header_len: int = 0, checksum_start: int = 20
) -> bytes:
    """struct virtio_net_hdr in the machine's byte order (linux/virtio_net.h)."""
    header: bytes = struct.pack(
        "=BBHHHH", NEEDS_CSUM, kind, header_len, gso_size, checksum_start, checksum_offset
    )
    return header


def _unfinished(packet: bytes, protocol: int, checksum_offset: int) -> bytes:
    """Returns the packet with only the pseudo-header's sum in its transport checksum."""
    pseudo = packet[12:20] + struct.pack("!HH", protocol, len(packet) - 20)
    total = sum(struct.unpack("!6H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    place = 20 + checksum_offset
    return packet[:place] + int(total).to_bytes(2, "big") + packet[place + 2 :]


def tcp_super_packet(
    payload: bytes,
    gso_size: int,
    *,
    flags: str = "A",
    options: bool = True,
    ecn: bool = False,
    identification: int = 0xFFFE,
    df: bool = True,
) -> tuple[bytes, bytes]:
    """Returns a vnet header and a TCP super-packet from 10.5.1.2 to 10.5.2.2."""
    header = TCP(sport=40000, dport=5201, seq=0xFFFFF000, ack=7, flags=flags, window=501)
    if options:
        header.options = [("NOP", None), ("NOP", None), ("Timestamp", (123456, 654321))]
    packet = IP(src="10.5.1.2", dst="10.5.2.2", ttl=64, id=identification, flags="DF" if df else 0)
    whole = bytes(packet / header / Raw(payload))
    kind = GSO_TCPV4 | (GSO_ECN if ecn else 0)
    return vnet_header(kind, gso_size, 16), _unfinished(whole, 6, 16)


def udp_super_packet(
    payload: bytes, gso_size: int, *, identification: int = 7, df: bool = True
) -> tuple[bytes, bytes]:
    """Returns a vnet header and a UDP super-packet from 10.5.1.2 to 10.5.2.2."""
    packet = IP(src="10.5.1.2", dst="10.5.2.2", ttl=64, id=identification, flags="DF" if df else 0)
    whole = bytes(packet / UDP(sport=4000, dport=9) / Raw(payload))
    return vnet_header(GSO_UDP_L4, gso_size, 6), _unfinished(whole, 17, 6)


def _unfinished_v6(packet: bytes, protocol: int, start: int, checksum_offset: int) -> bytes:
    """Returns the packet with only the pseudo-header's sum in its transport checksum."""
    pseudo = packet[8:40] + struct.pack("!IHH", len(packet) - start, 0, protocol)
    total = sum(struct.unpack("!20H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    place = start + checksum_offset
    return packet[:place] + int(total).to_bytes(2, "big") + packet[place + 2 :]


def _ipv6(options: bool) -> IPv6:
    packet = IPv6(src="fd00:5:1::2", dst="fd00:5:2::2", hlim=64, tc=0x2E, fl=0x12345)
    return packet / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))]) if options else packet


def tcp_super_packet_v6(
    payload: bytes, gso_size: int, *, flags: str = "A", ecn: bool = False, extended: bool = False
) -> tuple[bytes, bytes]:
    """Returns a vnet header and a TCP super-packet from fd00:5:1::2 to fd00:5:2::2."""
    header = TCP(sport=40000, dport=5201, seq=0xFFFFF000, ack=7, flags=flags, window=501)
    header.options = [("NOP", None), ("NOP", None), ("Timestamp", (123456, 654321))]
    whole = bytes(_ipv6(extended) / header / Raw(payload))
    start = 48 if extended else 40
    kind = GSO_TCPV6 | (GSO_ECN if ecn else 0)
    vnet = vnet_header(kind, gso_size, 16, checksum_start=start)
    return vnet, _unfinished_v6(whole, 6, start, 16)


def udp_super_packet_v6(payload: bytes, gso_size: int) -> tuple[bytes, bytes]:
    """Returns a vnet header and a UDP super-packet from fd00:5:1::2 to fd00:5:2::2."""
    whole = bytes(_ipv6(False) / UDP(sport=4000, dport=9) / Raw(payload))
    vnet = vnet_header(GSO_UDP_L4, gso_size, 6, checksum_start=40)
    return vnet, _unfinished_v6(whole, 17, 40, 6)


def extended_super_packet(
    payload: bytes,
    gso_size: int,
    headers: list[tuple[int, bytes]],
    *,
    udp: bool,
    final_destination: str | None,
) -> tuple[bytes, bytes]:
    """Returns a vnet header and a super-packet from fd00:5:1::2 to fd00:5:2::2 behind extension
    headers, each given as its number and its bytes with next header 0. The checksum covers
    `final_destination`, if there is one (RFC 8200 section 8.1)."""
    protocol, offset = (17, 6) if udp else (6, 16)
    transport = UDP(sport=4000, dport=9) if udp else TCP(sport=40000, dport=5201, flags="PA")
    plain = IPv6(src="fd00:5:1::2", dst=final_destination or "fd00:5:2::2", hlim=64)
    whole = _unfinished_v6(bytes(plain / transport / Raw(payload)), protocol, 40, offset)
    kinds = [kind for kind, _ in headers] + [protocol]
    chain = b"".join(
        bytes([following]) + header[1:]
        for (_, header), following in zip(headers, kinds[1:], strict=True)
    )
    length = struct.pack("!H", len(whole) - 40 + len(chain))
    fixed = whole[:4] + length + bytes([kinds[0], 64])
    addresses = SOURCE_V6 + socket.inet_pton(socket.AF_INET6, "fd00:5:2::2")
    kind = GSO_UDP_L4 if udp else GSO_TCPV6
    vnet = vnet_header(kind, gso_size, offset, checksum_start=40 + len(chain))
    return vnet, fixed + addresses + chain + whole[40:]


class KernelSegmentation:
    """A kernel that routes what it reads from a TUN device out of a link without any offload."""

    def __init__(self, tun: int, far: socket.socket) -> None:
        self._tun = tun
        self._far = far

    def cut(self, header: bytes, packet: bytes, count: int) -> list[bytes]:
        """Returns the `count` packets that leave for a super-packet, one hop older.

        Raises:
            AssertionError: fewer came.
        """
        os.write(self._tun, header + packet)
        found: list[bytes] = []
        while len(found) < count:
            ready = select.select([self._far], [], [], TIMEOUT_S)[0]
            assert ready, f"{len(found)} of {count} packets came"
            frame, _ = self._far.recvfrom(70_000)
            is_v4 = frame[12:14] == b"\x08\x00" and frame[26:30] == bytes([10, 5, 1, 2])
            is_v6 = frame[12:14] == b"\x86\xdd" and frame[22:38] == SOURCE_V6
            if is_v4 or is_v6:
                found.append(frame[14:])
        return found


@contextmanager
def kernel_segmentation(space: Namespace) -> Iterator[KernelSegmentation]:
    """Builds one in `space`, which must be empty but for its loopback."""
    space.run("ip", "link", "add", "out", "type", "veth", "peer", "name", "far")
    space.sysctl("net/ipv6/conf/far/disable_ipv6", 1)
    for end in ("out", "far"):
        off = ("tx", "off", "gso", "off", "gro", "off", "tso", "off")
        space.run("ethtool", "-K", end, *off)
        space.run("ip", "link", "set", end, "up")
    space.run("ip", "address", "add", "10.5.2.1/24", "dev", "out")
    space.run("ip", "neighbour", "add", "10.5.2.2", "lladdr", "02:00:00:00:00:02", "dev", "out")
    space.sysctl("net/ipv4/ip_forward", 1)
    space.run("ip", "address", "add", "fd00:5:2::1/64", "dev", "out", "nodad")
    space.run("ip", "neighbour", "add", "fd00:5:2::2", "lladdr", "02:00:00:00:00:02", "dev", "out")
    space.sysctl("net/ipv6/conf/all/forwarding", 1)
    with inside(space):
        tun = open_tun("in")
        far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    with far:
        far.bind(("far", 0))
        far.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        space.run("ip", "link", "set", "in", "up")
        space.run("ip", "route", "add", "10.5.1.0/24", "dev", "in")
        space.run("ip", "route", "add", "fd00:5:1::/64", "dev", "in")
        try:
            yield KernelSegmentation(tun, far)
        finally:
            os.close(tun)

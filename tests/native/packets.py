"""Inner packets, built by scapy: a second implementation of every format."""

from __future__ import annotations

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw


def inner(
    source: str, destination: str, *, ttl: int = 64, payload: bytes = b"x" * 32, flags: str = "DF"
) -> bytes:
    """Returns a UDP packet with every field and checksum right."""
    packet = IP(src=source, dst=destination, ttl=ttl, flags=flags, id=7)
    return bytes(packet / UDP(sport=4000, dport=9) / Raw(payload))


def sized(source: str, destination: str, size_bytes: int, *, ttl: int = 64) -> bytes:
    """Returns a UDP packet of that many bytes, IP header included."""
    return inner(source, destination, ttl=ttl, payload=bytes(size_bytes - 28))


def numbered(size_bytes: int) -> bytes:
    """Returns a payload that tells one place from another."""
    return bytes((place * 7 + place // 251) & 0xFF for place in range(size_bytes))


def icmp_error(kind: int, code: int, offender: bytes, *, mtu_bytes: int = 0) -> bytes:
    """Returns the ICMP message of an error about `offender`."""
    message = ICMP(type=kind, code=code, unused=0, nexthopmtu=mtu_bytes)
    return bytes(message / Raw(offender[: 576 - 28]))


def inner_v6(source: str, destination: str, *, hlim: int = 64, payload: bytes = b"x" * 32) -> bytes:
    """Returns a UDP packet over IPv6 with every field and checksum right."""
    packet = IPv6(src=source, dst=destination, hlim=hlim, fl=0x12345)
    return bytes(packet / UDP(sport=4000, dport=9) / Raw(payload))

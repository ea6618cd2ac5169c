"""Keys and hosts that the tests of this folder share."""

from __future__ import annotations

import hashlib
from ipaddress import ip_address, ip_network

from tunneld.lease.model import IPAddress, IPNetwork, RecordEncryption
from tunneld.trust.key import PublicKey

ALICE = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
"""RFC 7748 §6.1, Alice's public key."""
BOB = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="
"""RFC 7748 §6.1, Bob's."""


def key(number: int) -> PublicKey:
    """Returns one of many keys; that nobody has its secret half is no matter here."""
    raw = hashlib.sha256(f"key {number}".encode()).digest()
    return PublicKey.from_bytes(raw[:31] + bytes([raw[31] & 0x3F]))


def net(text: str) -> IPNetwork:
    return ip_network(text)


def nets(*texts: str) -> frozenset[IPNetwork]:
    return frozenset(map(ip_network, texts))


def addresses(*texts: str) -> frozenset[IPAddress]:
    return frozenset(map(ip_address, texts))


def recorded(of: PublicKey) -> RecordEncryption:
    return RecordEncryption(key=str(of), port=8286, instance="00112233445566aa")

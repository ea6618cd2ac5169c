"""ESP packets beside scapy's: each opens the other's, and both seal to the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scapy.compat import raw
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Packet, Raw

from tests.interop.esp.exchange import CIPHERS, PROVIDERS, Cipher, Exchange, Sa, running

NUMBERS = (1, 2, 2**32 - 1, 2**32, 2**32 + 7, 5 * 2**32 + 3, 2**35, 2**36 - 1)
PORT = 8286


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with running() as program:
        yield program


def sa_of(cipher: Cipher) -> Sa:
    return Sa(cipher, bytes(range(7, 7 + cipher.material_bytes)), 0xC0AB_CDC3)


def outer() -> Packet:
    return IP(src="192.0.2.1", dst="192.0.2.2")


def theirs(sa: Sa, number: int) -> Any:
    make: Any = SecurityAssociation
    return make(
        ESP,
        spi=sa.spi,
        crypt_algo=sa.cipher.scapy,
        crypt_key=sa.material,
        esn_en=True,
        esn=number >> 32,
        tunnel_header=outer(),
        nat_t_header=UDP(sport=PORT, dport=PORT),
    )


def inner(content: str, extra: int) -> Packet:
    """Returns a packet whose length is that of its headers and `extra` bytes."""
    ip = IP(src="10.5.1.2", dst="10.5.2.2") if content == "ipv4" else IPv6(src="fd00:1::2")
    return ip / UDP(sport=1, dport=2) / Raw(bytes(range(extra)))


@pytest.mark.parametrize("content", ["ipv4", "ipv6"])
@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("cipher", CIPHERS, ids=lambda cipher: cipher.name)
def test_scapy_opens_ours_and_we_open_scapys(
    exchange: Exchange, cipher: Cipher, provider: str, content: str
) -> None:
    sa = sa_of(cipher)
    for place, number in enumerate(NUMBERS):
        packet = raw(inner(content, 20 + place))  # one of each length of padding, twice
        ours = exchange.outbound(provider, sa, number).seal(content, packet)
        around = outer() / UDP(sport=PORT, dport=PORT) / ESP(ours)
        opened = theirs(sa, number).decrypt(around)
        assert raw(opened) == packet, f"number {number:#x}"
        if number & 0xFFFF_FFFF == 0:
            continue  # scapy takes it for "not given"
        sealed = theirs(sa, number).encrypt(
            type(inner(content, 0))(packet),
            seq_num=number & 0xFFFF_FFFF,
            iv=number.to_bytes(8),
            esn_en=True,
            esn=number >> 32,
        )
        by_scapy = raw(sealed)[28:]
        assert by_scapy == ours, f"number {number:#x}"
        receiver = exchange.inbound(provider, sa, seen=number - 1)
        assert receiver.open(by_scapy) == f"{content} {packet.hex()}"
        assert receiver.open(by_scapy) == "esp_replayed"


@pytest.mark.parametrize("cipher", CIPHERS, ids=lambda cipher: cipher.name)
def test_an_iv_of_scapys_own_choice_opens(exchange: Exchange, cipher: Cipher) -> None:
    sa, packet = sa_of(cipher), inner("ipv4", 30)
    sealed = theirs(sa, 1).encrypt(packet, seq_num=1, iv=b"anything", esn_en=True, esn=0)
    receiver = exchange.inbound("ring", sa)
    assert receiver.open(raw(sealed)[28:]) == f"ipv4 {raw(packet).hex()}"

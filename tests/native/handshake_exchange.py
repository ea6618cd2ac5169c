"""One whole handshake by a second implementation of Noise, in pure Python, from fixed keys.

`python -m tests.native.handshake_exchange` prints tests/vectors/noise/exchange.json; the Rust tests
of native/handshake read that file, and `test_handshake_exchange.py` makes it again and compares.
The bytes around Noise are written here by the tables of the specification, not by our code.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

from noise.connection import Keypair, NoiseConnection

from tests.native.second_peer import mac1, psk_id, psk_key

EXCHANGE: Final = Path(__file__).parents[1] / "vectors" / "noise" / "exchange.json"

_NETWORK: Final = "/coreos.com/network"
_PSKS: Final = (bytes(range(32)), b"the PSK that is to be given up, of 48 random bytes")
_PRIVATE: Final = {name: hashlib.sha256(name.encode()).digest() for name in ("i", "r", "ei", "er")}


def _public(private: bytes) -> bytes:
    connection = _connection()
    connection.set_keypair_from_private_bytes(Keypair.STATIC, private)
    return bytes(connection.noise_protocol.keypairs["s"].public_bytes)


def _connection() -> NoiseConnection:
    connection = NoiseConnection.from_name(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
    connection.set_prologue(b"tunneld/1\x00" + _NETWORK.encode())
    # The first PSK that the initiator names, and that the responder has.
    connection.set_psks(psk=psk_key(_PSKS[1], _NETWORK))
    return connection


def _payloads() -> tuple[bytes, bytes]:
    """Returns what initiator and responder say, 64 bytes each."""
    timestamp = struct.pack(">QI", 0x400000000000000A + 1_790_000_000, 123_456_789)
    subnet_v6 = IPv6Address("fd00:1::").packed
    ids = psk_id(_PSKS[0]) + psk_id(_PSKS[1])
    first = struct.pack(
        ">12s8sIBBBB4sBB2x16s8s4x",
        *(timestamp, b"instance", 0xC1234540, 4, 0b1110, 1, 0),
        *(bytes([10, 5, 1, 0]), 24, 64, subnet_v6, ids),
    )
    second = struct.pack(
        ">12s8sIBBBB4sBB2x16s8s4x",
        *(bytes(12), b"INSTANCE", 0xFFFFFF80, 64, 0b1110, 3, 0),
        *(bytes([10, 5, 2, 0]), 24, 0, bytes(16), bytes(8)),
    )
    return first, second


def exchange() -> dict[str, str]:
    """Returns all that goes in and comes out, in hexadecimal."""
    publics = {name: _public(private) for name, private in _PRIVATE.items()}
    initiator, responder = _connection(), _connection()
    initiator.set_as_initiator()
    responder.set_as_responder()
    for end, static, ephemeral in ((initiator, "i", "ei"), (responder, "r", "er")):
        end.set_keypair_from_private_bytes(Keypair.STATIC, _PRIVATE[static])
        end.set_keypair_from_private_bytes(Keypair.EPHEMERAL, _PRIVATE[ephemeral])
    initiator.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, publics["r"])
    initiator.start_handshake()
    responder.start_handshake()
    first, second = _payloads()
    initiation = bytes([0, 0, 0, 0, 1, 1, 0, 0]) + struct.pack(">I", 0x01020304)
    initiation += bytes(initiator.write_message(first))
    if bytes(responder.read_message(initiation[12:])) != first:
        raise AssertionError("the second implementation does not read what it wrote")
    response = bytes([0, 0, 0, 0, 2, 1, 0, 0]) + struct.pack(">II", 0x05060708, 0x01020304)
    response += bytes(responder.write_message(second))
    if bytes(initiator.read_message(response[16:])) != second:
        raise AssertionError("the second implementation does not read what it wrote")
    keys = initiator.noise_protocol
    found = {
        "initiator": _PRIVATE["i"],
        "responder": _PRIVATE["r"],
        "initiator_ephemeral": _PRIVATE["ei"],
        "responder_ephemeral": _PRIVATE["er"],
        "psk_first": _PSKS[0],
        "psk_second": _PSKS[1],
        "payload_1": first,
        "payload_2": second,
        "initiation": initiation + mac1(publics["r"], initiation) + bytes(16),
        "response": response + mac1(publics["i"], response) + bytes(16),
        "from_initiator": bytes(keys.cipher_state_encrypt.k),
        "from_responder": bytes(keys.cipher_state_decrypt.k),
    }
    return {name: value.hex() for name, value in found.items()}


def as_text() -> str:
    """Returns the file's content."""
    return json.dumps({"network": _NETWORK, **exchange()}, indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_text())

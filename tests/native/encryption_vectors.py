"""The test vectors of docs/encryption.md, by implementations that are not ours.

`python -m tests.native.encryption_vectors` prints the block that stands in the page. The handshake
is noiseprotocol's, keys of SAs and packets are those of `cryptography`, written here by the page.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import sys
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.native.handshake_exchange import exchange

PAGE: Final = Path(__file__).parents[2] / "docs" / "encryption.md"

_FENCE: Final = "```vectors\n"
_DIGITS: Final = 80
_PSK_SECOND: Final = "psk_second"

_KEY_LEN: Final = {1: 32, 2: 16, 3: 32}
_TO_RESPONDER: Final = 0xFFFFFF80
_TO_INITIATOR: Final = 0xC1234540
_COOKIE_SECRET: Final = bytes(range(0x40, 0x60))

# 10.5.1.2 to 10.5.2.2, UDP from port 40000 to 9, "tunneld".
_PACKET: Final = bytes.fromhex(
    "4500002300014000401123bc 0a050102 0a050202 9c400009000fa028 74756e6e656c64"
)


def _material(secret: bytes, cipher: int, spi: int) -> bytes:
    info = b"tunneld/1 esp" + bytes([cipher]) + struct.pack(">I", spi)
    return HKDFExpand(SHA256(), _KEY_LEN[cipher] + 4, info).derive(secret)


def _sealed(secret: bytes, cipher: int, spi: int, number: int, payload: bytes) -> bytes:
    material = _material(secret, cipher, spi)
    key, salt = material[:-4], material[-4:]
    padding = bytes(range(1, 1 + -(len(payload) + 2) % 4))
    text = payload + padding + bytes([len(padding), 4 if payload else 59])
    iv = struct.pack(">Q", number)
    aead = ChaCha20Poly1305(key) if cipher == 3 else AESGCM(key)
    sealed = aead.encrypt(salt + iv, text, struct.pack(">IQ", spi, number))
    return struct.pack(">II", spi, number & 0xFFFFFFFF) + iv + sealed


def vectors() -> dict[str, bytes]:
    """Returns all vectors by name, in the order of the page."""
    made = {name: bytes.fromhex(value) for name, value in exchange().items()}
    network = b"/coreos.com/network"
    extracted = hmac.digest(b"tunneld/1 psk", made[_PSK_SECOND], "sha256")
    source = bytes([192, 0, 2, 1]) + struct.pack(">H", 8286)
    cookie = hmac.digest(_COOKIE_SECRET, source, "sha256")[:16]
    ir, ri = made["from_initiator"], made["from_responder"]
    lane = _TO_RESPONDER + 5
    return {
        "prologue": b"tunneld/1\x00" + network,
        **made,
        "psk_second_id": hashlib.sha256(b"tunneld/1 psk id" + made[_PSK_SECOND]).digest()[:4],
        "psk_second_noise": hmac.digest(extracted, network + b"\x01", "sha256"),
        "cookie_secret": _COOKIE_SECRET,
        "cookie_message": bytes.fromhex("000000000301000001020304")
        + made["initiation"][172:188]
        + cookie,
        "packet": _PACKET,
        "sa_ir_lane_0_chacha20": _material(ir, 3, _TO_RESPONDER),
        "sa_ir_lane_5_chacha20": _material(ir, 3, lane),
        "sa_ri_lane_0_chacha20": _material(ri, 3, _TO_INITIATOR),
        "sa_ir_lane_0_aes256": _material(ir, 1, _TO_RESPONDER),
        "sa_ir_lane_0_aes128": _material(ir, 2, _TO_RESPONDER),
        "esp_ir_lane_0_chacha20_number_1": _sealed(ir, 3, _TO_RESPONDER, 1, _PACKET),
        "esp_ir_lane_5_chacha20_number_2_32": _sealed(ir, 3, lane, 1 << 32, _PACKET),
        "esp_ri_lane_0_chacha20_number_7_dummy": _sealed(ri, 3, _TO_INITIATOR, 7, b""),
        "esp_ir_lane_0_aes256_number_1": _sealed(ir, 1, _TO_RESPONDER, 1, _PACKET),
        "esp_ir_lane_0_aes128_number_1": _sealed(ir, 2, _TO_RESPONDER, 1, _PACKET),
    }


def as_text(made: dict[str, bytes]) -> str:
    """Returns the block's content: a name, below it its bytes in hexadecimal, indented."""
    lines = []
    for name, value in made.items():
        digits = value.hex()
        lines.append(f"{name}:")
        lines += [f"  {digits[at : at + _DIGITS]}" for at in range(0, len(digits), _DIGITS)]
    return "\n".join(lines) + "\n"


def of_page() -> str:
    """Returns the block that stands in the page."""
    _, _, after = PAGE.read_text().partition(_FENCE)
    return after.partition("```")[0]


if __name__ == "__main__":
    sys.stdout.write(as_text(vectors()))

"""A peer that agrees keys and speaks ESP by a second implementation: noiseprotocol, cryptography.

The bytes around both are written here by the tables of the specification, not by our code, and any
field may be set to what an honest peer never writes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import struct
import time
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from noise.connection import Keypair, NoiseConnection

PORT: Final = 8286
NETWORK: Final = "/coreos.com/network"
MAC_BYTES: Final = 16
INITIATION_BYTES: Final = 204
RESPONSE_BYTES: Final = 160
COOKIE_BYTES: Final = 44
IPV4, IPV6, DUMMY = 4, 41, 59

_MATERIAL_BYTES: Final = {1: 36, 2: 20, 3: 36}
"""Key and salt, by the number of the cipher."""


def mac1(receiver: bytes, before: bytes) -> bytes:
    key = hashlib.sha256(b"tunneld/1 mac1" + receiver).digest()
    return hmac.new(key, before, "sha256").digest()[:MAC_BYTES]


def psk_id(psk: bytes) -> bytes:
    return hashlib.sha256(b"tunneld/1 psk id" + psk).digest()[:4]


def psk_key(psk: bytes, network: str) -> bytes:
    extracted = hmac.new(b"tunneld/1 psk", psk, "sha256").digest()
    return hmac.new(extracted, network.encode() + b"\x01", "sha256").digest()


def timestamp(unix_s: float) -> bytes:
    """Returns a time of day as TAI64N."""
    seconds = int(unix_s)
    return struct.pack(">QI", 0x400000000000000A + seconds, int((unix_s - seconds) * 1e9))


@dataclass(frozen=True, slots=True)
class Said:
    """A payload of the handshake, 64 bytes."""

    spi_base: int
    lanes: int = 4
    claim: tuple[str, ...] = ()
    ciphers: int = 0b1110
    cipher: int = 1
    timestamp: bytes = bytes(12)
    instance: bytes = b"second!!"
    psks: tuple[bytes, ...] = ()

    def emit(self) -> bytes:
        subnets = [ip_network(text) for text in self.claim]
        v4 = next((one for one in subnets if one.version == 4), None)
        v6 = next((one for one in subnets if one.version == 6), None)
        return struct.pack(
            ">12s8sIBBBB4sBB2x16s8s4x",
            *(self.timestamp, self.instance, self.spi_base),
            *(self.lanes, self.ciphers, self.cipher, 0),
            v4.network_address.packed if v4 else bytes(4),
            *(v4.prefixlen if v4 else 0, v6.prefixlen if v6 else 0),
            v6.network_address.packed if v6 else bytes(16),
            b"".join(self.psks),
        )


def heard(payload: bytes) -> Said:
    """Reads what our side says; the claim is left out."""
    parts = struct.unpack(">12s8sIBBBB", payload[:28])
    psks = (payload[52:56], payload[56:60])
    return Said(parts[2], parts[3], (), parts[4], parts[5], parts[0], parts[1], psks)


def spi_base() -> int:
    return 0xC000_0000 | (int.from_bytes(os.urandom(3)) << 6)


@dataclass(slots=True)
class Direction:
    """The SAs of one direction."""

    secret: bytes
    cipher: int
    base: int

    def material(self, lane: int) -> bytes:
        """Returns key and salt of a lane."""
        info = b"tunneld/1 esp" + bytes([self.cipher]) + (self.base | lane).to_bytes(4)
        return HKDFExpand(SHA256(), _MATERIAL_BYTES[self.cipher], info).derive(self.secret)

    def _aead(self, lane: int) -> tuple[AESGCM | ChaCha20Poly1305, bytes]:
        material = self.material(lane)
        make = ChaCha20Poly1305 if self.cipher == 3 else AESGCM
        return make(material[:-4]), material[-4:]

    def seal(
        self,
        packet: bytes,
        number: int,
        lane: int = 0,
        *,
        as_spi: int | None = None,
        next_header: int | None = None,
        padding: bytes | None = None,
        iv: int | None = None,
    ) -> bytes:
        """Returns a datagram with `packet`; sealed for `lane`, it may name another SPI."""
        spi = self.base | lane
        if next_header is None:
            next_header = {4: IPV4, 6: IPV6}[packet[0] >> 4] if packet else DUMMY
        if padding is None:
            padding = bytes(range(1, 1 + -(len(packet) + 2) % 4))
        text = packet + padding + bytes([len(padding), next_header])
        aead, salt = self._aead(lane)
        nonce = struct.pack(">Q", number if iv is None else iv)
        aad = struct.pack(">IQ", spi, number)
        head = struct.pack(">II", spi if as_spi is None else as_spi, number & 0xFFFF_FFFF)
        return head + nonce + aead.encrypt(salt + nonce, text, aad)

    def open(self, datagram: bytes) -> tuple[int, int, bytes]:
        """Returns number, lane and packet (nothing, of a dummy) of a datagram below 2^32."""
        spi, low = struct.unpack(">II", datagram[:8])
        assert spi & ~0x3F == self.base
        aead, salt = self._aead(spi & 0x3F)
        aad = struct.pack(">IQ", spi, low)
        text = aead.decrypt(salt + datagram[8:16], datagram[16:], aad)
        padded, (padding, next_header) = text[:-2], text[-2:]
        assert padded[len(padded) - padding :] == bytes(range(1, padding + 1))
        packet = padded[: len(padded) - padding]
        assert next_header == ({4: IPV4, 6: IPV6}[packet[0] >> 4] if packet else DUMMY)
        return low, spi & 0x3F, packet


@dataclass(slots=True)
class Pair:
    """What a handshake made: `out` is sealed here and opened by the other side."""

    out: Direction
    into: Direction
    said: Said
    """What the other side said."""


@dataclass(slots=True)
class SecondPeer:
    """A peer with a key of its own."""

    claim: tuple[str, ...]
    network: str = NETWORK
    psk: bytes | None = None
    private: bytes = field(default_factory=lambda: os.urandom(32))

    @property
    def public(self) -> bytes:
        connection = self._connection()
        return bytes(connection.noise_protocol.keypairs["s"].public_bytes)

    @property
    def key(self) -> str:
        """Its public key, as our side writes it."""
        return base64.b64encode(self.public).decode()

    def _connection(self) -> NoiseConnection:
        connection = NoiseConnection.from_name(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
        connection.set_prologue(b"tunneld/1\x00" + self.network.encode())
        connection.set_psks(psk=psk_key(self.psk, self.network) if self.psk else bytes(32))
        connection.set_keypair_from_private_bytes(Keypair.STATIC, self.private)
        return connection

    def _ids(self) -> tuple[bytes, ...]:
        return (psk_id(self.psk),) if self.psk else ()

    def initiate(
        self,
        responder: bytes,
        *,
        at: float | None = None,
        lanes: int = 4,
        claim: tuple[str, ...] | None = None,
        psks: tuple[bytes, ...] | None = None,
        ciphers: int = 0b1110,
        base: int | None = None,
    ) -> Initiated:
        """Begins a handshake with whoever has that public key, with the time `at` in it."""
        connection = self._connection()
        connection.set_as_initiator()
        connection.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, responder)
        connection.start_handshake()
        said = Said(
            spi_base() if base is None else base,
            lanes,
            self.claim if claim is None else claim,
            ciphers=ciphers,
            timestamp=timestamp(time.time() if at is None else at),
            psks=self._ids() if psks is None else psks,
        )
        index = os.urandom(4)
        before = bytes([0, 0, 0, 0, 1, 1, 0, 0]) + index
        before += bytes(connection.write_message(said.emit()))
        message = before + mac1(responder, before) + bytes(MAC_BYTES)
        return Initiated(self, connection, index, said, message)

    def answer(self, initiation: bytes, base: int | None = None) -> Answered:
        """Answers an initiation to this peer, by SPIs of that base."""
        connection = self._connection()
        connection.set_as_responder()
        connection.start_handshake()
        asked = heard(bytes(connection.read_message(initiation[12:-32])))
        initiator = bytes(connection.noise_protocol.handshake_state.rs.public_bytes)
        said = Said(spi_base() if base is None else base, 4, self.claim)
        before = bytes([0, 0, 0, 0, 2, 1, 0, 0]) + os.urandom(4) + initiation[8:12]
        before += bytes(connection.write_message(said.emit()))
        message = before + mac1(initiator, before) + bytes(MAC_BYTES)
        from_here, from_there = _split(connection)
        out = Direction(from_here, said.cipher, asked.spi_base)
        into = Direction(from_there, said.cipher, said.spi_base)
        return Answered(message, Pair(out, into, asked))


@dataclass(slots=True)
class Initiated:
    """A handshake under way from the second peer."""

    peer: SecondPeer
    connection: NoiseConnection
    index: bytes
    said: Said
    message: bytes

    def with_cookie(self, cookie: bytes) -> bytes:
        """Returns the message once more, with the answer to load in it."""
        assert (len(cookie), cookie[4], cookie[8:12]) == (COOKIE_BYTES, 3, self.index)
        assert cookie[12:28] == self.message[-32:-16]
        return self.message[:-16] + cookie[28:]

    def finish(self, response: bytes) -> Pair:
        assert (len(response), response[:8]) == (RESPONSE_BYTES, bytes([0, 0, 0, 0, 2, 1, 0, 0]))
        assert response[12:16] == self.index
        assert response[-32:-16] == mac1(self.peer.public, response[:-32])
        theirs = heard(bytes(self.connection.read_message(response[16:-32])))
        from_here, from_there = _split(self.connection)
        out = Direction(from_here, theirs.cipher, theirs.spi_base)
        into = Direction(from_there, theirs.cipher, self.said.spi_base)
        return Pair(out, into, theirs)


@dataclass(slots=True)
class Answered:
    """The answer of the second peer, and what it makes."""

    message: bytes
    pair: Pair


def _split(connection: NoiseConnection) -> tuple[bytes, bytes]:
    """Returns the keys of what this end sends, and of what it hears."""
    ends = connection.noise_protocol
    return bytes(ends.cipher_state_encrypt.k), bytes(ends.cipher_state_decrypt.k)

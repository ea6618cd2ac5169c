"""How two ends prove to each other that they know a secret, without telling it. Pure.

    serve -> run: MAGIC, version, nonce
    run -> serve: MAGIC, version, nonce, HMAC("run", both nonces)
    serve -> run: verdict, HMAC("serve", both nonces)

Every message has a fixed length, so that a stranger has nothing parsed. Nonces are new for each
connection: what was heard once proves nothing later. Each direction and each frame has a MAC of its
own afterwards. Source: RFC 2104 (HMAC), RFC 5869 (keys by use).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Final, Literal

from tunneld.errors import BenchError

VERSION: Final = 1
MAGIC: Final = b"tnbench\x00"
NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
MAC_BYTES: Final = 16
SECRET_BYTES: Final = 16
HEAD_BYTES: Final = len(MAGIC) + 1
HELLO_BYTES: Final = HEAD_BYTES + NONCE_BYTES
ANSWER_BYTES: Final = HELLO_BYTES + PROOF_BYTES
VERDICT_BYTES: Final = 1 + PROOF_BYTES

Role = Literal["serve", "run"]


@dataclass(frozen=True, slots=True)
class Secret:
    """What one run is authenticated by; its repr does not tell it."""

    _bytes: bytes

    def __repr__(self) -> str:
        return "Secret(...)"

    @property
    def text(self) -> str:
        """The secret in letters and digits that are not mistaken for each other, in groups."""
        letters = base64.b32encode(self._bytes).decode().rstrip("=").lower()
        return "-".join(letters[at : at + 5] for at in range(0, len(letters), 5))

    @classmethod
    def read(cls, text: str) -> Secret:
        """Reads a secret as a person copies it.

        Raises:
            BenchError: it is none; the message does not repeat it.
        """
        letters = "".join(text.split()).replace("-", "").upper()
        try:
            found = base64.b32decode(letters + "=" * (-len(letters) % 8))
        except ValueError:
            found = b""
        if len(found) != SECRET_BYTES:
            msg = (
                f"bench: a secret of {len(letters)} letters cannot be one; expected the line "
                "that `tunneld bench serve` printed"
            )
            raise BenchError(msg)
        return cls(found)

    def key(self, purpose: str, nonces: bytes) -> bytes:
        """Returns 32 bytes for one purpose in one connection."""
        said = f"tunneld bench {VERSION} {purpose} ".encode() + nonces
        return hmac.digest(hashlib.sha256(self._bytes).digest(), said, "sha256")


def hello(nonce: bytes) -> bytes:
    """Returns what an end says first."""
    return MAGIC + bytes([VERSION]) + nonce


def require_version(said: bytes, whose: str) -> None:
    """Checks what a hello begins with: magic and version.

    Raises:
        BenchError: it is none of this version.
    """
    if not said.startswith(MAGIC):
        msg = f"bench: {whose} does not speak as `tunneld bench`; expected the other end there"
        raise BenchError(msg)
    version = said[len(MAGIC)]
    if version != VERSION:
        msg = f"bench: {whose} speaks version {version}, this one {VERSION}; expected the same "
        raise BenchError(f"{msg}tunneld on both")


def is_proved(secret: Secret, role: Role, nonces: bytes, proof: bytes) -> bool:
    """Returns whether an end knows the secret."""
    return hmac.compare_digest(secret.key(role, nonces), proof)


class Frames:
    """Makes and checks the MACs of one direction, frame after frame."""

    def __init__(self, secret: Secret, sender: Role, nonces: bytes) -> None:
        self._key = secret.key(f"frames of {sender}", nonces)
        self._count = 0

    def mac(self, payload: bytes) -> bytes:
        """Returns the MAC of the next frame."""
        said = self._count.to_bytes(8) + payload
        self._count += 1
        return hmac.digest(self._key, said, "sha256")[:MAC_BYTES]

    def is_next(self, mac: bytes, payload: bytes) -> bool:
        """Returns whether this is the next frame, whole and unchanged."""
        return hmac.compare_digest(self.mac(payload), mac)

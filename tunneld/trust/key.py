"""An X25519 public key, as files, records and people write it: base64, as WireGuard shows it.

Beside the path of a lease: `store.format`, `trust.identities` -> **`trust.key`**. Pure.
A key has one spelling, and the points of small order are none: with them everybody knows the
outcome of a key exchange.

Source: RFC 7748 §5 (encoding) and §7 (small order); D. J. Bernstein, "Curve25519" (the points).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

KEY_BYTES: Final = 32

_PRIME: Final = 2**255 - 19

_SMALL_ORDER: Final = frozenset(
    {
        0,
        1,
        _PRIME - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key that a handshake may be made with. `parse` and `from_bytes` make it."""

    raw: bytes

    @classmethod
    def parse(cls, text: object) -> PublicKey:
        """Returns the key of a base64 text.

        Raises:
            ValueError: it is none; says why, and never quotes it: it may be a secret in the wrong
                place.
        """
        if not isinstance(text, str):
            raise ValueError("it is not a text")  # noqa: TRY004 - a bad value, as all others
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("it is not base64") from None
        if base64.b64encode(raw).decode() != text:
            raise ValueError("it is not base64 in its one spelling")
        return cls.from_bytes(raw)

    @classmethod
    def from_bytes(cls, raw: bytes) -> PublicKey:
        """Returns the key of 32 bytes, little-endian. Raises ValueError as `parse` does."""
        if len(raw) != KEY_BYTES:
            raise ValueError(f"it has {len(raw)} bytes, not {KEY_BYTES}")
        number = int.from_bytes(raw, "little")
        if number % 2**255 % _PRIME in _SMALL_ORDER:
            raise ValueError("it is a point of small order, with which nothing is secret")
        if number >= _PRIME:
            raise ValueError("it is a second spelling of another key")
        return cls(raw)

    def __str__(self) -> str:
        return base64.b64encode(self.raw).decode()

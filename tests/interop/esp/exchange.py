"""Seals and opens packets by native/esp, through its example program `exchange`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from testbed.cache import cache_dir
from tests.repo.source import ROOT

PROVIDERS: Final = ("aws-lc-rs", "ring")

# Steps in which a receiver follows a sender who uses up numbers without sending them.
_STEP: Final = 1 << 31


@dataclass(frozen=True, slots=True)
class Cipher:
    """A cipher of ESP: its name here, in scapy and in Linux, and the length of key and salt."""

    name: str
    scapy: str
    linux: str
    material_bytes: int


CIPHERS: Final = (
    Cipher("aes-256-gcm", "AES-GCM", "rfc4106(gcm(aes))", 36),
    Cipher("aes-128-gcm", "AES-GCM", "rfc4106(gcm(aes))", 20),
    Cipher("chacha20-poly1305", "CHACHA20-POLY1305", "rfc7539esp(chacha20,poly1305)", 36),
)


@dataclass(frozen=True, slots=True)
class Sa:
    """What both ends of an SA know."""

    cipher: Cipher
    material: bytes
    spi: int


class Exchange:
    """A running `exchange`."""

    def __init__(self, program: subprocess.Popen[str]) -> None:
        self._program = program
        self._count = 0

    def outbound(self, provider: str, sa: Sa, first: int = 1) -> Outbound:
        """Returns the sending end of an SA whose next packet has the number `first`."""
        name = self._make("outbound", provider, sa)
        assert self.said(f"skip {name} {first - 1}") == ""
        return Outbound(self, name)

    def inbound(self, provider: str, sa: Sa, seen: int = 0) -> Inbound:
        """Returns the receiving end of an SA where `seen` is the highest number that has come."""
        inbound = Inbound(self, self._make("inbound", provider, sa))
        sender = Outbound(self, self._make("outbound", provider, sa))
        at = 0
        while at < seen:
            step = min(_STEP, seen - at)
            assert self.said(f"skip {sender.name} {step - 1}") == ""
            assert inbound.open(sender.seal("dummy", b"")) == "dummy "
            at += step
        return inbound

    def said(self, command: str) -> str:
        """Returns the line that answers `command`."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(f"{command}\n")
        self._program.stdin.flush()
        line = self._program.stdout.readline()
        assert line.endswith("\n"), f"exchange ended at {command!r}"
        return line.removesuffix("\n")

    def _make(self, side: str, provider: str, sa: Sa) -> str:
        self._count += 1
        name = f"{side}-{self._count}"
        made = f"{side} {name} {provider} {sa.cipher.name} {sa.material.hex()} {sa.spi:08x}"
        assert self.said(made) == ""
        return name


@dataclass(frozen=True, slots=True)
class Outbound:
    """The sending end of an SA."""

    exchange: Exchange
    name: str

    def seal(self, content: str, packet: bytes) -> bytes:
        return bytes.fromhex(self.exchange.said(f"seal {self.name} {content} {packet.hex()}"))


@dataclass(frozen=True, slots=True)
class Inbound:
    """The receiving end of an SA."""

    exchange: Exchange
    name: str

    def open(self, packet: bytes) -> str:
        """Returns what is in a packet, its kind and its bytes in hexadecimal, or the fault."""
        return self.exchange.said(f"open {self.name} {packet.hex()}")


@contextmanager
def running() -> Iterator[Exchange]:
    """Builds the program, if need be, and runs it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or cache_dir() / "target")
    subprocess.run(
        ["cargo", "build", "--quiet", "--package", "tunneld-esp", "--example", "exchange"],
        cwd=ROOT,
        env={**os.environ, "CARGO_TARGET_DIR": str(target)},
        check=True,
    )
    program = subprocess.Popen(
        [target / "debug/examples/exchange"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Exchange(program)
    finally:
        program.communicate()

"""`tunneld bench crypto`: what AEADs cost alone, all cases in turn in every round.

OpenSSL stands next to them where the `cryptography` package is installed. Each of its calls goes
through Python, which at 64 bytes is most of what it costs; the providers are called natively.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from tunneld.bench import machine, native
from tunneld.bench.aead_paths import code_path
from tunneld.bench.conditions import Watch, frequencies_mhz
from tunneld.bench.document import Document
from tunneld.bench.progress import Progress
from tunneld.bench.session import Output, Session, about_now, carry_out

SIZES: Final = (64, 256, 1024, 1438, 16384)
MACHINE: Final = "machine"
OPENSSL: Final = "OpenSSL"
Operation = Literal["seal", "open"]
OPERATIONS: Final[tuple[Operation, ...]] = ("seal", "open")

Timed = Callable[[float], tuple[int, int]]
"""Takes seconds; returns texts, and the nanoseconds they took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One AEAD in one direction on one size."""

    subject: str
    size_bytes: int
    operation: Operation
    timed: Timed


def run(*, rounds: int, sizes: Sequence[int], duration_s: float, output: Output) -> int:
    """Measures; returns the exit status.

    Raises:
        BenchError: the report cannot be written.
    """
    about = machine.describe()
    openssl = _openssl_version()
    about |= {"openssl": openssl, "clock_mhz": max(frequencies_mhz(), default=None)}
    about["code_paths"] = [
        f"{provider} {cipher}: {code_path(provider, cipher, machine.cpu_flags())}"
        for provider, cipher in _pairs()
    ]
    cases = [*_built_in(sizes), *(openssl_cases(sizes) if openssl else ())]
    cases.sort(key=lambda case: (case.size_bytes, case.operation))
    plan = {"rounds": rounds, "sizes": list(sizes), "seconds": duration_s}
    base = " ".join(native.aead_choices()["auto"])
    document = Document("crypto", about_now(about), plan, base)
    if openssl is None:
        document.notes.append("OpenSSL is absent: the Python package cryptography is not installed")
    document.notes.append(
        "code paths are told by the rules by which each provider chooses; cycles per byte are "
        "nanoseconds times the clock that the kernel tells"
    )

    def measure(session: Session) -> None:
        progress = Progress(rounds * len(cases) * duration_s, rounds * len(cases))
        try:
            for number in range(1, rounds + 1):
                for case in cases:
                    _sample(session, progress, number, case, duration_s)
                session.checkpoint()
        finally:
            progress.close()

    return carry_out(document, output, measure)


def _sample(
    session: Session, progress: Progress, number: int, case: Case, duration_s: float
) -> None:
    what = f"round {number}: {case.subject} {case.operation} {case.size_bytes} bytes"
    progress.step(what, duration_s)
    with Watch() as watch:
        count, passed_ns = case.timed(duration_s)
    assert watch.spent is not None  # noqa: S101 - the watch is over
    conditions = watch.spent.conditions
    ns = passed_ns / count
    values: dict[str, Any] = {"ns": ns, "bytes_per_s": case.size_bytes / ns * 1e9}
    if conditions.mhz_high:
        values["cycles_per_byte"] = ns * conditions.mhz_high / 1e3 / case.size_bytes
    session.document.add(
        "aead",
        number,
        {"subject": case.subject, "operation": case.operation, "size": case.size_bytes},
        values,
        {MACHINE: conditions},
    )


def _pairs() -> list[tuple[str, str]]:
    choices = native.aead_choices()
    return [(p, c) for c in choices["ciphers"] for p in choices["providers"]]


def _built_in(sizes: Sequence[int]) -> Iterator[Case]:
    for size in sizes:
        for operation in OPERATIONS:
            for provider, cipher in _pairs():
                aead = native.Aead(provider=provider, cipher=cipher, size_bytes=size)
                yield Case(
                    subject=f"{provider} {cipher}",
                    size_bytes=size,
                    operation=operation,
                    timed=aead.seal if operation == "seal" else aead.open,
                )


def _openssl_version() -> str | None:
    try:
        from cryptography.hazmat.backends.openssl import backend  # noqa: PLC0415 - may be absent
    except ImportError:
        return None
    return str(backend.openssl_version_text())


def openssl_cases(sizes: Sequence[int]) -> Iterator[Case]:
    """Yields the AEADs of OpenSSL, which must be there."""
    from cryptography.hazmat.primitives.ciphers import aead  # noqa: PLC0415 - may be absent

    ciphers: tuple[tuple[str, Any], ...] = (
        ("aes-256-gcm", aead.AESGCM(bytes(32))),
        ("aes-128-gcm", aead.AESGCM(bytes(16))),
        ("chacha20-poly1305", aead.ChaCha20Poly1305(bytes(32))),
    )
    for size in sizes:
        for operation in OPERATIONS:
            for cipher, key in ciphers:
                yield Case(
                    subject=f"{OPENSSL} {cipher}",
                    size_bytes=size,
                    operation=operation,
                    timed=_by_python(key, size, operation),
                )


def _by_python(key: Any, size_bytes: int, operation: Operation) -> Timed:  # noqa: ANN401
    nonce, aad, text = bytes(12), bytes(12), bytes(size_bytes)
    call = key.encrypt if operation == "seal" else key.decrypt
    text = text if operation == "seal" else key.encrypt(nonce, text, aad)

    def timed(duration_s: float) -> tuple[int, int]:
        count, began = 0, time.perf_counter_ns()
        while True:
            for _ in range(64):
                call(nonce, text, aad)
            count += 64
            passed = time.perf_counter_ns() - began
            if passed >= duration_s * 1e9:
                return count, passed

    return timed

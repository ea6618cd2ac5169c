"""The native crates: which may depend on which, and which are pure."""

from __future__ import annotations

import tomllib

from tests.repo.source import ROOT

# A crate may depend on crates of lower rank only.
RANK = {"simd": 0, "wire": 1, "esp": 1, "handshake": 2, "core": 2, "io": 3, "py": 4, "fuzz": 4}

# The time is passed to these, and so is every byte; the compiler refuses `unsafe` in them.
PURE = ("wire", "esp", "handshake", "core")

EFFECTS = {"libc", "mio", "rustix", "tokio"}


def manifest(crate: str) -> dict[str, dict[str, object]]:
    return tomllib.loads((ROOT / "native" / crate / "Cargo.toml").read_text())


def test_every_crate_has_a_rank() -> None:
    crates = {path.parent.name for path in (ROOT / "native").glob("*/Cargo.toml")}
    assert crates == RANK.keys()


def test_a_crate_depends_only_on_crates_below() -> None:
    for crate, rank in RANK.items():
        needed = manifest(crate).get("dependencies", {}).keys()
        ours = {name.removeprefix("tunneld-") for name in needed if name.startswith("tunneld-")}
        assert not [other for other in ours if RANK[other] >= rank], crate


def test_a_pure_crate_forbids_unsafe_and_needs_no_crate_of_effects() -> None:
    for crate in PURE:
        source = (ROOT / "native" / crate / "src/lib.rs").read_text()
        assert "#![forbid(unsafe_code)]" in source, crate
        assert not manifest(crate)["dependencies"].keys() & EFFECTS, crate

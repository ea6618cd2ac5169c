"""No modules of a native crate use each other in a circle: each can be read after those it uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.repo.circles import circles, uses
from tests.repo.source import ROOT

CRATES = sorted(path.parent.name for path in ROOT.glob("native/*/Cargo.toml"))


@pytest.mark.parametrize("crate", CRATES)
def test_no_modules_of_a_native_crate_use_each_other_in_a_circle(crate: str) -> None:
    assert circles(uses(ROOT / "native" / crate / "src")) == []


def test_a_circle_is_found_wherever_it_runs(tmp_path: Path) -> None:
    for name, source in {
        "lib": "mod a;\nmod b;\nmod c;\nmod d;\n#[cfg(test)]\nmod testing;\n",
        "a": "use crate::b::{B, Inner};\nuse crate::d::D;\n",
        "b": "use crate::{\n    c::{a, d},\n    d::D,\n};\n",
        "c": "//! See crate::d.\nmod inner;\n#[cfg(test)]\nmod tests {\n    use crate::d::D;\n}\n",
        "c/inner": "fn f() -> crate::a::A {}\n",
        "d": "use std::a::b;\n",
        "testing": "use crate::a::A;\nuse crate::d::D;\n",
        "d/tests": "use crate::testing::T;\nuse crate::a::A;\n",
    }.items():
        path = tmp_path / f"{name}.rs"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
    found = uses(tmp_path)
    assert found == {"a": {"b", "d"}, "b": {"c", "d"}, "c": {"a"}, "d": set()}
    assert circles(found) == [["a", "b", "c"]]

"""The wheel works where there is no source tree, no compiler and no Rust."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from testbed.cache import one_at_a_time
from tests.repo.source import ROOT
from tunneld import __version__

pytestmark = pytest.mark.timeout(900)  # the first builds, when nobody else does


def run(*argv: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    maturin = Path(sys.executable).with_name("maturin")
    with one_at_a_time("wheel"):
        run(maturin, "build", "--release", "--quiet", "--out", out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh virtual environment, away from the tree, with the wheel in it."""
    place = tmp_path_factory.mktemp("away") / "venv"
    run(sys.executable, "-m", "venv", place)
    pins = ROOT / "requirements-dev.txt"
    run(place / "bin/pip", "install", "--quiet", "--constraint", pins, wheel, cwd=place)
    return place / "bin"


def test_one_wheel_serves_every_python_from_3_11(wheel: Path) -> None:
    assert wheel.name.startswith(f"tunneld-{__version__}-cp311-abi3-")


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "tunneld/_native.abi3.so" in names
    assert "tunneld/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.startswith("tunneld-")} <= {"tunneld", "tunneld.libs"}


def test_the_installed_command_says_its_version(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "tunneld", "--version", cwd=tmp_path) == f"tunneld {__version__}\n"


def test_the_installed_native_core_loads_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import tunneld._native as n; print(n.__file__, n.Engine.__name__)"
    place, engine = run(installed / "python", "-c", code, cwd=tmp_path).split()
    assert Path(place).is_relative_to(installed.parent)
    assert engine == "Engine"

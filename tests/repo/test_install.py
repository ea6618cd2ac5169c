"""`make install`: everything is in its place, works there, and does not know where it was built."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.repo.source import ROOT, relative
from tunneld import __version__

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

EXPECTED = """
etc/tunneld/tunneld.toml
usr/lib/NetworkManager/conf.d/tunneld.conf
usr/lib/sysctl.d/50-tunneld.conf
usr/lib/systemd/network/10-tunneld.link
usr/lib/systemd/network/10-tunneld.network
usr/lib/systemd/system/tunneld.service
usr/lib/systemd/system/tunneld@.service
usr/lib/sysusers.d/tunneld.conf
usr/lib/tmpfiles.d/tunneld.conf
usr/lib/udev/rules.d/90-tunneld.rules
usr/share/tunneld/docker.service.d/tunneld.conf
usr/share/tunneld/network/udp-tuned.json
usr/share/tunneld/network/udp.json
usr/share/tunneld/network/vxlan-dual-stack.json
usr/share/tunneld/network/vxlan.json
usr/share/tunneld/tunneld.service.d/credentials.conf
usr/share/tunneld/tunneld.toml
"""


def own_files(root: Path) -> list[Path]:
    """Returns what is installed, but for the virtual environment."""
    environment = root / "usr/lib/tunneld"
    return sorted(
        path for path in root.rglob("*") if path.is_file() and environment not in path.parents
    )


def test_every_file_is_in_its_place(installed: Path) -> None:
    found = [path.relative_to(installed).as_posix() for path in own_files(installed)]
    assert [path for path in found if not path.startswith("usr/bin/")] == EXPECTED.split()
    assert (installed / "usr/bin/tunneld").readlink() == Path("/usr/lib/tunneld/bin/tunneld")


def test_every_file_of_the_tree_for_systemd_is_installed(installed: Path) -> None:
    names = sorted(path.name for path in own_files(installed) if "tunneld.toml" not in path.name)
    for path in (ROOT / "systemd").rglob("*"):
        assert path.is_dir() or path.name in names, relative(path)


def test_nothing_remembers_where_it_was_built(installed: Path) -> None:
    place = str(installed).encode()
    remembering = [
        path
        for path in installed.rglob("*")
        if path.is_file() and not path.is_symlink() and place in path.read_bytes()
    ]
    assert not remembering


def test_everybody_may_read_it(installed: Path) -> None:
    for path in installed.rglob("*"):
        if not path.is_symlink():
            mode = path.stat().st_mode
            assert mode & 0o004, path
            assert not path.is_dir() or mode & 0o001, path


def test_the_command_runs_by_an_interpreter_that_the_service_may_see(installed: Path) -> None:
    interpreter = (installed / "usr/lib/tunneld/bin/python3").resolve()
    assert not any(interpreter.is_relative_to(home) for home in ("/root", "/home"))
    done = subprocess.run(
        [installed / "usr/lib/tunneld/bin/python3", "-m", "tunneld", "--version"],
        cwd="/",
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    assert done.stdout == f"tunneld {__version__}\n"


def install(wheel: Path, **environment: str) -> None:
    """Installs once more, by the script alone; no package is fetched."""
    done = subprocess.run(
        ["tools/install.sh", wheel, "true"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "INSTALL_PYTHON": "/usr/bin/python3", **environment},
        capture_output=True,
        text=True,
        timeout=360,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_operators_options_are_never_written_over(tmp_path: Path) -> None:
    config = tmp_path / "etc/tunneld/tunneld.toml"
    config.parent.mkdir(parents=True)
    config.write_text("ip-masq = true\n")
    for _ in range(2):
        install(tmp_path / "any.whl", DESTDIR=str(tmp_path), PREFIX="/usr")
    assert config.read_text() == "ip-masq = true\n"


@pytest.mark.parametrize(
    ("prefix", "unit"),
    [
        ("/usr/local", "usr/local/lib/systemd/system/tunneld.service"),
        ("/opt/tunneld", "etc/systemd/system/tunneld.service"),
    ],
)
def test_units_are_where_systemd_looks_and_start_what_was_installed(
    tmp_path: Path, prefix: str, unit: str
) -> None:
    install(tmp_path / "any.whl", DESTDIR=str(tmp_path), PREFIX=prefix)
    lines = (tmp_path / unit).read_text().splitlines()
    assert f"ExecStart={prefix}/bin/tunneld run" in lines
    drop_in = tmp_path / prefix.lstrip("/") / "share/tunneld/docker.service.d/tunneld.conf"
    assert f"ExecStartPre={prefix}/bin/tunneld docker-opts" in drop_in.read_text()
    assert (tmp_path / "etc/NetworkManager/conf.d/tunneld.conf").exists()

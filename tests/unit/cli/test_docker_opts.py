"""`tunneld docker-opts`: the spellings of flannel's script, and how it ends."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from testbed.process import Process
from tests.unit.cli.conftest import Tunneld

SUBNET_ENV = """\
FLANNEL_NETWORK=10.1.0.0/16
FLANNEL_SUBNET=10.1.74.1/24
FLANNEL_MTU=1472
FLANNEL_IPMASQ=false
"""


@pytest.fixture
def subnet_file(tmp_path: Path) -> Path:
    path = tmp_path / "subnet.env"
    path.write_text(SUBNET_ENV)
    return path


def test_wait_waits_for_the_file_and_says_so(subnet_file: Path, tmp_path: Path) -> None:
    late, output = tmp_path / "late.env", tmp_path / "docker.env"
    waiting = Process(
        (
            *(sys.executable, "-P", "-m", "tunneld", "docker-opts", "--wait", "-i"),
            *("-f", str(late), "-d", str(output)),
        ),
        log=tmp_path / "log",
    )
    waiting.wait_for_output(f"waiting for {late}")
    assert not output.exists()
    subnet_file.rename(late)
    assert waiting.wait() == 0
    assert 'DOCKER_OPT_BIP="--bip=10.1.74.1/24"' in output.read_text()


@pytest.mark.parametrize(
    ("spelling", "names"),
    [
        ([], ["DOCKER_OPT_BIP", "DOCKER_OPT_IPMASQ", "DOCKER_OPT_MTU", "DOCKER_OPTS"]),
        (["-i"], ["DOCKER_OPT_BIP", "DOCKER_OPT_IPMASQ", "DOCKER_OPT_MTU"]),
        (["-c"], ["DOCKER_OPTS"]),
        (["-c", "-k", "X"], ["X"]),
        (["-c", "-k=X"], ["X"]),
        (["-i", "-c"], ["DOCKER_OPT_BIP", "DOCKER_OPT_IPMASQ", "DOCKER_OPT_MTU", "DOCKER_OPTS"]),
        (["-im"], ["DOCKER_OPT_BIP", "DOCKER_OPT_MTU"]),
    ],
    ids=" ".join,
)
def test_options_choose_the_lines(
    tunneld: Tunneld, subnet_file: Path, tmp_path: Path, spelling: list[str], names: list[str]
) -> None:
    output = tmp_path / "docker.env"
    outcome = tunneld("docker-opts", "-f", subnet_file, "-d", output, *spelling)
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
    assert [line.split("=")[0] for line in output.read_text().splitlines()] == names


def test_dash_is_stdout(tunneld: Tunneld, subnet_file: Path) -> None:
    outcome = tunneld("docker-opts", "-f", subnet_file, "-d", "-", "-c")
    assert outcome.out == 'DOCKER_OPTS=" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"\n'


def test_without_a_subnet_env_dockerd_gets_no_options_and_somebody_is_told(
    tunneld: Tunneld, tmp_path: Path
) -> None:
    output = tmp_path / "docker.env"
    outcome = tunneld("docker-opts", "-f", tmp_path / "none", "-d", output)
    assert outcome.status == 0
    assert output.read_text() == 'DOCKER_OPTS=""\n'
    assert outcome.err.startswith(f"tunneld: there is no {tmp_path / 'none'}: ")


@pytest.mark.parametrize(
    ("content", "output", "says"),
    [
        ("FLANNEL_IPMASQ=maybe\n", "docker.env", "FLANNEL_IPMASQ is 'maybe'"),
        (SUBNET_ENV, "none/docker.env", "cannot write"),
        ("", "docker.env", "subnet.env is damaged: it names no subnet"),
        ("FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUB", "docker.env", "it names no subnet"),
        ("FLANNEL_SUBNET=10.1.74.1\n", "docker.env", "FLANNEL_SUBNET is '10.1.74.1'"),
        ("FLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=٩\n", "docker.env", "FLANNEL_MTU is '٩'"),
    ],
)
def test_failure_is_one_line_and_status_1(
    tunneld: Tunneld, subnet_file: Path, content: str, output: str, says: str
) -> None:
    subnet_file.write_text(content)
    outcome = tunneld("docker-opts", "-f", subnet_file, "-d", subnet_file.parent / output)
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert says in outcome.err


def test_file_is_for_everybody_to_read_whatever_the_umask_and_written_as_a_whole(
    tunneld: Tunneld, subnet_file: Path, tmp_path: Path
) -> None:
    output, target = tmp_path / "docker.env", tmp_path / "target"
    output.symlink_to(target)
    umask = os.umask(0o077)
    try:
        assert tunneld("docker-opts", "-f", subnet_file, "-d", output, "-c").status == 0
    finally:
        os.umask(umask)
    assert output.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    subnet_file.write_text("FLANNEL_SUBNET=10.1.74.1\n")
    before = target.read_text()
    assert tunneld("docker-opts", "-f", subnet_file, "-d", output, "-c").status == 1
    assert target.read_text() == before


def test_byte_order_mark_in_front_of_subnet_env_is_no_part_of_a_name(
    tunneld: Tunneld, subnet_file: Path
) -> None:
    subnet_file.write_text("\ufeffFLANNEL_SUBNET=10.1.74.1/24\n")
    outcome = tunneld("docker-opts", "-f", subnet_file, "-d", "-", "-c")
    assert outcome.out == 'DOCKER_OPTS=" --bip=10.1.74.1/24"\n'

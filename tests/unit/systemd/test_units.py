"""The units as systemd judges them, without a running systemd."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from testbed.wait import PATIENCE

ROOT = Path(__file__).parents[3]
UNITS = ROOT / "systemd"
SERVICES = ("tunneld.service", "tunneld@.service")

MAX_EXPOSURE = 2.3
"""sched_setscheduler, the one call of @resources that is allowed, counts 0.1 of it."""

DOCKER_SERVICES = {
    # What matters of docker.service here: where dockerd is, and what its command line reads.
    "Debian": ("/usr/sbin", "EnvironmentFile=-/etc/default/docker", " $DOCKER_OPTS"),
    "Docker": ("/usr/bin", "", ""),
}


def lines(name: str) -> list[str]:
    """Returns the directives of a unit, each on one line, without comments."""
    text = (UNITS / name).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def values(name: str, directive: str) -> list[str]:
    found = [line.partition("=") for line in lines(name)]
    return [value for key, _, value in found if key == directive]


def analyze(*argv: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    assert program, "systemd-analyze is missing; `make setup` installs it"
    return subprocess.run(
        [program, *argv], capture_output=True, text=True, timeout=60 * PATIENCE, check=False
    )


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The root directory of a host with our units, and with what they start."""
    system = tmp_path / "usr/lib/systemd/system"
    shutil.copytree(UNITS, system, ignore=lambda _, names: {n for n in names if "tunneld" not in n})
    for target in Path("/usr/lib/systemd/system").glob("*.target"):
        shutil.copy(target, system)
    for program in ("tunneld", "kill", "chgrp"):
        place_program(tmp_path / "usr/bin" / program)
    return tmp_path


def place_program(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


@pytest.mark.parametrize("unit", ["tunneld.service", "tunneld@blue.service"])
def test_verify_prints_nothing(host: Path, unit: str) -> None:
    done = analyze("verify", f"--root={host}", "--man=no", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("maker", DOCKER_SERVICES)
def test_verify_prints_nothing_of_docker_with_our_drop_in(host: Path, maker: str) -> None:
    folder, environment, options = DOCKER_SERVICES[maker]
    place_program(host / folder.strip("/") / "dockerd")
    system = host / "usr/lib/systemd/system"
    exec_start = f"{folder}/dockerd -H fd:// --containerd=/run/containerd/containerd.sock{options}"
    (system / "docker.service").write_text(
        f"[Service]\nType=notify\n{environment}\nExecStart={exec_start}\n"
    )
    (system / "docker.service.d").mkdir(exist_ok=True)
    shutil.copy(UNITS / "docker.service.d/tunneld.conf", system / "docker.service.d")
    done = analyze("verify", f"--root={host}", "--man=no", "docker.service")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("service", SERVICES)
def test_exposure_is_low(service: str) -> None:
    done = analyze("security", "--offline=true", "--json=short", str(UNITS / service))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    said = analyze("security", "--offline=true", "--no-pager", str(UNITS / service)).stdout
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", said)
    assert exposure is not None, said
    assert float(exposure[1]) <= MAX_EXPOSURE


def test_template_differs_from_the_service_in_its_places_only() -> None:
    plain, template = set(lines("tunneld.service")), set(lines("tunneld@.service"))
    named = {line for line in template if "%i" in line}
    assert template - named <= plain
    keys = {line.partition("=")[0] for line in named}
    assert {line.partition("=")[0] for line in plain - template} <= keys
    assert len(named) >= 8


@pytest.mark.parametrize("service", SERVICES)
def test_service_is_what_the_daemon_expects(service: str) -> None:
    assert values(service, "Type") == ["notify"]
    assert values(service, "Restart") == ["always"]
    assert values(service, "RuntimeDirectoryPreserve") == ["yes"]
    assert float(values(service, "WatchdogSec")[0]) >= 5
    assert values(service, "User") == ["tunneld"]
    assert values(service, "AmbientCapabilities") == values(service, "CapabilityBoundingSet")


@pytest.mark.parametrize("service", SERVICES)
def test_no_unit_gives_up_waiting(service: str) -> None:
    assert values(service, "TimeoutStartSec") == ["infinity"]
    assert values(service, "StartLimitIntervalSec") == ["0"]
    drop_in = "docker.service.d/tunneld.conf"
    assert values(drop_in, "TimeoutStartSec") == ["infinity"]
    assert [line for line in values(drop_in, "ExecStartPre") if "--wait" in line]


def test_every_place_of_the_template_is_the_instances_own() -> None:
    places = dict(
        value.split("=", 1)
        for value in values("tunneld@.service", "Environment")
        if value.startswith("TUNNELD_")
    )
    assert places.keys() == {
        *("TUNNELD_CONFIG", "TUNNELD_STATE_DIR", "TUNNELD_CONTROL_SOCKET", "TUNNELD_SUBNET_FILE")
    }
    assert all("%i" in place for place in places.values())
    runtime = values("tunneld@.service", "RuntimeDirectory")[0].split()
    for name in ("TUNNELD_CONTROL_SOCKET", "TUNNELD_SUBNET_FILE"):
        assert Path(places[name]).parent.name in runtime


def test_networkd_leaves_every_overlay_device_alone_before_any_other_file_matches() -> None:
    network = configparser.ConfigParser(interpolation=None)
    network.read(UNITS / "network/10-tunneld.network")
    assert network["Match"]["Name"] == "flannel*"
    assert network["Link"]["Unmanaged"] == "yes"


def test_sysctl_file_leaves_global_forwarding_to_docker() -> None:
    text = (UNITS / "sysctl.d/50-tunneld.conf").read_text()
    assert not [line for line in text.splitlines() if line.startswith("net.ipv4.ip_forward")]

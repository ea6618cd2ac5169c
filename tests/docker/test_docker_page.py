"""Every command of docs/docker.md, on hosts where its reader would give it.

Way (a) is tried with systemd as PID 1, the units of Debian's Docker and the installed drop-in;
way (b), which needs neither, with both Dockers.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from testbed.booted import PREFIX, SUBNET_FILE
from testbed.docker import IMAGE, RELEASES, Release, image, package_dir, remove_cgroups
from testbed.document import Command, commands, scripts
from testbed.etcd import Etcd
from testbed.machine import SOURCE_TREE, wait_nothing_off
from testbed.netns import Namespace, Rig
from testbed.systemd_machine import SystemdMachine
from testbed.wait import wait_until
from tests.docker.site import START_TIMEOUT_S, Host, Kind, Site

pytestmark = pytest.mark.root

PAGE = SOURCE_TREE / "docs" / "docker.md"
DOCKER0, NETWORK, CHECK = (
    "(a) docker0 on the leased subnet",
    "(b) A network on the leased subnet",
    "Checking",
)

IMAGE_PLACE = "/opt/image"

# dockerd mounts control groups and loads filters for its containers.
_NSPAWN_OPTIONS = ("--capability=all", "--system-call-filter=keyctl bpf add_key")
_CONTROLLERS = ("blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids")


def below(heading: str) -> list[Command]:
    return [command for command in commands(PAGE) if command.heading == heading]


def answers_http(space: Namespace, address: IPv4Address) -> bool:
    """Says whether a web server answers at `address`, whatever it answers."""
    code = "import http.client as h,sys;c=h.HTTPConnection(sys.argv[1],timeout=2);"
    code += "c.request('GET','/');c.getresponse()"
    return space.try_run(sys.executable, "-c", code, str(address)).returncode == 0


def test_the_page_has_no_command_that_is_not_run_here() -> None:
    assert {command.heading for command in commands(PAGE)} == {DOCKER0, NETWORK, CHECK}


@pytest.fixture(scope="module", params=RELEASES)
def plain_site(
    request: pytest.FixtureRequest,
    docker_programs: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Two hosts with tunneld and dockerd, which do not know of each other yet."""
    release: Release = request.param
    with Rig("page", tmp_path_factory.mktemp("page")) as rig:
        site = Site(rig, Kind(release, "network", "nft", "tunneld", 2))
        try:
            for name in ("h1", "h2"):
                host = site.add(name)
                host.docker.start("--live-restore")
                host.start_tunneld()
            yield site
        finally:
            site.close()


def test_the_network_made_by_hand_is_the_one_the_command_makes(plain_site: Site) -> None:
    host = plain_site.hosts[0]
    (script,) = scripts(PAGE, NETWORK)
    host.machine.run("sh", "-ec", script)
    # It ends with an error when anything differs from what it would have made.
    assert "is there" in host.machine.run("tunneld", "docker", "network", "overlay")
    host.docker.cli("network", "rm", "overlay")


def test_way_b_joins_containers_and_the_checker_agrees(plain_site: Site) -> None:
    for host in plain_site.hosts:
        for command in below(NETWORK):
            host.machine.run("sh", "-ec", command.text)
        for command in below(CHECK):
            wait_nothing_off(partial(host.machine.try_run, "sh", "-ec", command.text))
    for first, second in plain_site.pairs:
        answers = partial(answers_http, first.machine.space, web_address(second))
        wait_until(answers, START_TIMEOUT_S, f"the web server of {second.name}")


def web_address(host: Host) -> IPv4Address:
    what = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return IPv4Address(host.docker.cli("inspect", "--format", what, "web-overlay").strip())


@pytest.fixture(scope="module")
def with_docker(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make install` and Debian's Docker packages put on a host."""
    root = tmp_path_factory.mktemp("with-docker")
    packages = package_dir("bookworm")
    for source, place in (
        (installed, root),
        (packages / "usr", root / "usr"),
        (packages / "lib", root / "usr/lib"),
    ):
        shutil.copytree(source, place, symlinks=True, dirs_exist_ok=True, copy_function=link)
    return root


def link(source: str, target: str) -> None:
    """Copies a file as a hard link where that is possible: there are hundreds of megabytes."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture
def booted(with_docker: Path, tmp_path: Path) -> Iterator[list[SystemdMachine]]:
    """Two booted hosts with tunneld enabled and Docker as its package leaves it."""
    with Rig("pagea", tmp_path) as rig:
        switch = rig.namespace("switch")
        switch.switch("switch", "192.0.2.1/24")
        etcd = Etcd(switch, "192.0.2.1")
        etcd.start()
        config = {"Network": "10.5.0.0/16", "Backend": {"Type": "udp"}}
        ipv6 = {"EnableIPv6": True, "IPv6Network": "fd00:10:5::/48"}
        etcd.put(f"{PREFIX}/config", json.dumps(config | ipv6))
        machines = []
        try:
            for number in (1, 2):
                space = rig.namespace(f"m{number}")
                rig.link(
                    *(switch, f"m{number}", space, "eth0"),
                    first_bridge="switch",
                    second_address=f"192.0.2.{10 + number}/24",
                )
                space.run("ip", "route", "add", "default", "via", "192.0.2.1")
                place = f"2001:db8::{10 + number}/64"
                space.run("ip", "address", "add", place, "dev", "eth0", "nodad")
                machine = SystemdMachine(
                    space,
                    installed=with_docker,
                    borrowed=[(image().parent, IMAGE_PLACE)],
                    options=_NSPAWN_OPTIONS,
                )
                machines.append(machine)
                boot_with_docker(machine)
            yield machines
        finally:
            for machine in machines:
                # Its web server is deaf to SIGTERM, and Docker patient.
                machine.try_run("docker", "rm", "--force", "web")
                machine.shut_down()
                remove_cgroups(f"{machine.space.name}docker")


def boot_with_docker(machine: SystemdMachine) -> None:
    config = 'etcd-endpoints = ["http://192.0.2.1:2379"]\nip-masq = true\n'
    machine.write("/etc/tunneld/tunneld.toml", config)
    # Apart from other Dockers of this machine, whose control groups these are.
    parent = f"/{machine.space.name}docker"
    machine.write("/etc/docker/daemon.json", json.dumps({"cgroup-parent": parent}))
    machine.enable("tunneld.service")
    machine.boot()
    for controller in _CONTROLLERS:
        place = f"/sys/fs/cgroup/{controller}"
        machine.try_run("mount", "-o", "remount,bind,rw", place)
    machine.run("systemctl", "start", "docker.service")
    machine.run("docker", "import", f"{IMAGE_PLACE}/{image().name}", IMAGE)


def docker0(machine: SystemdMachine) -> str:
    return machine.run("ip", "-o", "address", "show", "docker0")


def test_way_a_joins_containers_of_booted_hosts(booted: list[SystemdMachine]) -> None:
    addresses = []
    for machine in booted:
        for command in below(DOCKER0):
            machine.run("sh", "-ec", command.text)
        for command in below(CHECK):
            wait_nothing_off(partial(machine.try_run, "sh", "-ec", command.text))
        lines = machine.run("cat", SUBNET_FILE).splitlines()
        env = dict(line.split("=", 1) for line in lines)
        gateway = env["FLANNEL_SUBNET"]
        assert gateway in docker0(machine)
        assert env["FLANNEL_IPV6_SUBNET"] in docker0(machine)
        addresses.append(IPv4Address(gateway.partition("/")[0]) + 1)
    for machine, address in zip(booted, reversed(addresses), strict=True):
        answers = partial(answers_http, machine.space, address)
        wait_until(answers, START_TIMEOUT_S, f"the web server at {address}")

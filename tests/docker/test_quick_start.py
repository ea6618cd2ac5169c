"""The README's quick start, command by command, on two hosts with the addresses it names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from testbed.cache import one_at_a_time
from testbed.document import scripts
from testbed.etcd import Etcd
from testbed.machine import SOURCE_TREE, Machine
from testbed.netns import Namespace, Rig
from testbed.wait import wait_until

pytestmark = pytest.mark.root

STORE = "192.0.2.1"
HOSTS = ("192.0.2.11", "192.0.2.12")
READY_TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def steps() -> list[str]:
    """The blocks of the quick start: install, write the config, run, bridge, look."""
    return scripts(SOURCE_TREE / "README.md", "Quick start on real hosts")


@pytest.fixture(scope="module")
def wheel(steps: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the command that builds it, in a directory where it is alone."""
    command = steps[0].splitlines()[0]
    assert re.fullmatch(r"make build +# dist/tunneld-\*\.whl", command)
    with one_at_a_time("wheel"):
        built = subprocess.run(
            ["sh", "-ec", command],
            cwd=SOURCE_TREE,
            env={**os.environ, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            check=False,
        )
        assert built.returncode == 0, built.stdout + built.stderr
        wheels = sorted((SOURCE_TREE / "dist").glob("tunneld-*.whl"), key=os.path.getmtime)
        return Path(shutil.copy(wheels[-1], tmp_path_factory.mktemp("dist")))


@pytest.fixture(scope="module")
def hosts(wheel: Path, steps: list[str], module_rig: Rig) -> Iterator[list[Machine]]:
    """Two hosts as they are before the quick start, and the etcd that it takes for granted."""
    switch = module_rig.namespace("switch")
    switch.switch("switch", f"{STORE}/24")
    etcd = Etcd(switch, STORE)
    etcd.start()
    machines = []
    for number, address in enumerate(HOSTS, 1):
        space = module_rig.namespace(f"h{number}")
        module_rig.link(
            *(switch, f"h{number}", space, "eth0"),
            first_bridge="switch",
            second_address=f"{address}/24",
        )
        space.run("ip", "route", "add", "default", "via", STORE)
        machine = Machine(space)
        # Not a link: a virtual environment would look for the library beside the link.
        python = Path(sys.base_prefix, "bin", "python3")
        machine.write("/usr/local/bin/python3", f'#!/bin/sh\nexec {python} "$@"\n', 0o755)
        machines.append(machine)
    yield machines
    etcd.stop()


def test_every_block_of_the_quick_start_is_run_here(steps: list[str]) -> None:
    assert [step.split()[0] for step in steps] == ["make", "echo", "tunneld", ".", "tunneld"]


def test_containers_of_two_hosts_reach_each_other_after_the_quick_start(
    hosts: list[Machine], wheel: Path, steps: list[str], module_rig: Rig
) -> None:
    install, configure, run, bridge, look = steps
    for machine in hosts:
        without_build = install.partition("\n")[2]
        machine.run_connected("sh", "-ec", without_build, directory=wheel.parent)
    hosts[0].run("sh", "-ec", configure)
    containers = []
    for machine in hosts:
        daemon = machine.start(*run.split(), log=machine.directory / "tunneld.log")
        subnet_file = ("test", "-e", "/run/flannel/subnet.env")

        def ready(machine: Machine = machine, probe: tuple[str, ...] = subnet_file) -> bool:
            return machine.try_run(*probe).returncode == 0

        try:
            wait_until(ready, READY_TIMEOUT_S, "subnet.env")
        except TimeoutError as error:
            error.add_note(daemon.output()[-3000:])
            raise
        machine.run("sh", "-ec", bridge)
        containers.append(_container(module_rig, machine))

    (first, _), (_, second_address) = containers
    reached = ("ping", "-c1", "-W5", str(second_address))
    wait_until(lambda: first.try_run(*reached).returncode == 0, READY_TIMEOUT_S, "a ping")
    for machine in hosts:

        def both_are_seen(machine: Machine = machine) -> bool:
            said = machine.run("sh", "-ec", look)
            return all(address in said for address in HOSTS)

        wait_until(both_are_seen, READY_TIMEOUT_S, f"both hosts, as {machine.name} sees them")


def _container(rig: Rig, machine: Machine) -> tuple[Namespace, IPv4Address]:
    """Puts a namespace on the bridge, as a container runtime would."""
    space = rig.namespace(machine.space.name.rpartition("-")[2] + "c")
    gateway = IPv4Address(
        machine.run("sh", "-c", ". /run/flannel/subnet.env; echo ${FLANNEL_SUBNET%/*}").strip()
    )
    rig.link(
        *(machine.space, "container", space, "eth0"),
        first_bridge="br0",
        second_address=f"{gateway + 1}/24",
    )
    space.run("ip", "route", "add", "default", "via", str(gateway))
    return space, gateway + 1

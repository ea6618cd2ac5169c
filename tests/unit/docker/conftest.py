"""A machine with real Docker and a real daemon of tunneld, alone in its network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from testbed.docker import RELEASES, Docker, Release, image, programs
from testbed.machine import Machine
from testbed.netns import Rig
from testbed.process import Process
from testbed.wait import wait_until

CONFIG = '{"Network": "10.5.0.0/16", "SubnetLen": 24}'
IPV6 = '"EnableIPv6": true, "IPv6Network": "fd00:10:5::/48", "Backend": {"Type": "vxlan"}'
DUAL = f'{{"Network": "10.5.0.0/16", {IPV6}}}'
ONLY_V6 = f'{{"EnableIPv4": false, {IPV6}}}'
HOST_GW = '{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}'
STORE = "--store=sqlite:/var/lib/tunneld/leases.db"

NAME = "overlay"
TRUSTED = "com.docker.network.bridge.trusted_host_interfaces"


class DockerHost:
    """dockerd as it comes, and a daemon of tunneld that forwards."""

    def __init__(self, rig: Rig, release: Release, config: str = CONFIG, *options: str) -> None:
        """`options` are those of `tunneld run`."""
        self.config = config
        self.options = options
        programs(release)
        image()
        space, self.switch = rig.namespace("h"), rig.namespace("sw")
        rig.link(space, "eth0", self.switch, "port1", first_address="192.0.2.11/24")
        space.run("ip", "route", "add", "default", "via", "192.0.2.1")
        space.run("ip", "address", "add", "2001:db8::11/64", "dev", "eth0", "nodad")
        self.machine = Machine(space)
        self.machine.install_tunneld()
        self.docker = Docker(self.machine, release)

    def start(self) -> None:
        self.docker.start()
        self.machine.run("mkdir", "-p", "/var/lib/tunneld")
        self.machine.run("tunneld", "network", "set", "-", STORE, stdin=self.config)
        self.start_tunneld()

    def run_tunneld(self, *options: str) -> Process:
        """Starts a daemon, without waiting for anything."""
        log = self.machine.directory / "tunneld.log"
        options = ("--iface", "eth0", "--ip-masq", *self.options, *options)
        self.daemon = self.machine.start("tunneld", "run", *options, log=log)
        return self.daemon

    def start_tunneld(self) -> None:
        daemon = self.run_tunneld(STORE)

        def is_ready() -> bool:
            assert daemon.exit_status is None, daemon.output()
            return self.machine.tunneld_is_ready()

        wait_until(is_ready, 30.0, "a tunneld that is ready", poll_s=0.1)

    def subnet_env(self) -> dict[str, str]:
        lines = self.machine.run("cat", "/run/flannel/subnet.env").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def tunneld(self, *argv: str) -> tuple[int, str, str]:
        """Runs a tunneld command; returns exit status, stdout and stderr."""
        done = self.machine.try_run("tunneld", *argv)
        return done.returncode, done.stdout, done.stderr

    def wait_nothing_off(self, *options: str) -> str:
        """Waits until `tunneld docker check` finds nothing off; returns what it says."""
        return self.machine.wait_nothing_off(*options)

    def inspected(self, name: str = NAME) -> dict[str, Any]:
        """Returns what `docker network inspect` says."""
        (found,) = self.docker.json("network", "inspect", name)
        assert isinstance(found, dict)
        return found

    def expect_fit(self, said: str) -> None:
        """Makes the network twice, and has it checked."""
        status, out, err = self.tunneld("docker", "network", NAME)
        assert (status, out, err) == (0, f"network {NAME} made: {said}\n", "")
        status, out, err = self.tunneld("docker", "network", NAME)
        assert (status, err) == (0, ""), err
        assert "is there, on " in out
        self.wait_nothing_off()


def jumps(text: str) -> list[str]:
    """Returns the lines of iptables-save that lead to our chains."""
    return [line for line in text.splitlines() if re.fullmatch(r"-A .* -j TUNNELD-.*", line)]


@contextmanager
def standing(
    rig: Rig, release: Release, config: str = CONFIG, *options: str
) -> Iterator[DockerHost]:
    """A host that is up, with that network config and those options of `tunneld run`."""
    made = DockerHost(rig, release, config, *options)
    try:
        made.start()
        yield made
    finally:
        made.docker.close()


@pytest.fixture(scope="module", params=RELEASES)
def host(
    request: pytest.FixtureRequest, root_tools: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerHost]:
    with (
        Rig("dkcmd", tmp_path_factory.mktemp("docker")) as rig,
        standing(rig, request.param) as made,
    ):
        yield made


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest, root_tools: None) -> Release:
    found: Release = request.param
    return found

"""A machine with real Docker and a real daemon of tunneld, alone in its network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.docker import RELEASES, Docker, Release, image, programs
from tests.support.machine import Machine
from tests.support.netns import Rig
from tests.support.wait import wait_until

CONFIG = '{"Network": "10.5.0.0/16", "SubnetLen": 24}'
IPV6 = '"EnableIPv6": true, "IPv6Network": "fd00:10:5::/48", "Backend": {"Type": "vxlan"}'
DUAL = f'{{"Network": "10.5.0.0/16", {IPV6}}}'
ONLY_V6 = f'{{"EnableIPv4": false, {IPV6}}}'
STORE = "--store=sqlite:/var/lib/tunneld/leases.db"


class DockerHost:
    """dockerd as it comes, and a daemon of tunneld that forwards."""

    def __init__(self, rig: Rig, release: Release, config: str = CONFIG, *options: str) -> None:
        """`options` are those of `tunneld run`."""
        self.config = config
        self.options = options
        programs(release)
        image()
        space, switch = rig.namespace("h"), rig.namespace("sw")
        rig.link(space, "eth0", switch, "port1", first_address="192.0.2.11/24")
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

    def start_tunneld(self) -> None:
        log = self.machine.directory / "tunneld.log"
        options = (STORE, "--iface", "eth0", "--ip-masq", *self.options)
        daemon = self.daemon = self.machine.start("tunneld", "run", *options, log=log)

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


@pytest.fixture(scope="module", params=RELEASES)
def host(
    request: pytest.FixtureRequest, root_tools: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerHost]:
    with Rig("dkcmd", tmp_path_factory.mktemp("docker")) as rig:
        made = DockerHost(rig, request.param)
        try:
            made.start()
            yield made
        finally:
            made.docker.close()

"""The commands of the pages on systemd and on Docker's drop-in, given on booted hosts.

dockerd is a program here that says which options it was started with; its unit is Debian's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.booted import SUBNET_FILE, BootedHost, BootedNetwork, configure
from testbed.debian import unpacked
from testbed.document import commands
from testbed.netns import Rig
from testbed.wait import wait_until
from tests.systemd.conftest import MakeNetwork

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first installs tunneld

DOCS = Path(__file__).resolve().parents[2] / "docs"
START = ["-H", "fd://", "--containerd=/run/containerd/containerd.sock"]
GIVEN = "/run/dockerd.options"

DOCKERD = f"""\
#!/bin/sh
printf '%s\\n' "$@" > {GIVEN}
systemd-notify --ready
exec sleep infinity
"""


def given(page: str, heading: str) -> list[str]:
    """Returns the commands below a heading of a page."""
    found = [c.text for c in commands(DOCS / page) if c.heading == heading]
    assert found, f"{page} has no commands below {heading!r}"
    return found


def test_the_commands_that_install_the_service_start_it(network_of: MakeNetwork) -> None:
    with network_of("a") as network:
        network.start_store()
        machine = network.hosts[0].machine
        machine.disable("tunneld.service")
        machine.disable("container.service")
        machine.boot()
        install, *others = given("operations.md", "As a service of systemd")
        assert install == "make install PREFIX=/usr"  # what the machine was made with
        for command in others:
            machine.run("sh", "-ec", command)
        assert machine.is_active("tunneld")
        assert machine.show("tunneld", "StatusText").startswith("forwarding, 10.5.")
        mode = machine.run("stat", "--format=%a %U %G", "/run/xtables.lock")
        assert mode == "640 root tunneld\n"


def test_a_password_only_root_can_read_reaches_the_daemon_as_a_credential(
    network_of: MakeNetwork, installed: Path
) -> None:
    password = "as7-long+as!you%like"
    with network_of("a") as network:
        network.start_store()
        for command in (
            ("user", "add", f"root:{password}"),
            ("user", "grant-role", "root", "root"),
            ("auth", "enable"),
        ):
            network.etcd.ctl(*command)
        machine = network.hosts[0].machine
        machine.disable("container.service")
        machine.write("/etc/tunneld/etcd-password", f"{password}\n", 0o600)
        example = installed / "usr/share/tunneld/tunneld.service.d/credentials.conf"
        folder = "/etc/systemd/system/tunneld.service.d"
        machine.write(f"{folder}/credentials.conf", example.read_text())
        machine.write(f"{folder}/user.conf", "[Service]\nEnvironment=TUNNELD_ETCD_USERNAME=root\n")
        machine.boot()
        assert machine.is_active("tunneld")
        assert password not in machine.journal("tunneld")
        read = ("runuser", "-u", "tunneld", "--", "cat", "/etc/tunneld/etcd-password")
        assert machine.try_run(*read).returncode != 0


@pytest.fixture(scope="module")
def host(
    root_tools: None, installed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BootedHost]:
    """A booted host with tunneld and Docker's units, and no drop-in yet."""
    programs = tmp_path_factory.mktemp("programs")
    (programs / "dockerd").write_text(DOCKERD)
    (programs / "dockerd").chmod(0o755)
    units = unpacked("docker-units", ("docker.io/bookworm",))
    with Rig("docs", tmp_path_factory.mktemp("docs")) as rig:
        network = BootedNetwork(rig, installed=installed, borrowed=[(programs, "/usr/local/sbin")])
        try:
            network.start_store()
            made = network.add("a")
            configure(made)
            for name in ("docker.service", "docker.socket"):
                shutil.copy(
                    next(units.rglob(name)), made.machine.root / "etc/systemd/system" / name
                )
            made.machine.write("/etc/default/docker", 'DOCKER_OPTS="--debug"\n')
            made.machine.boot()
            yield made
        finally:
            network.shut_down()


def options(host: BootedHost) -> list[str]:
    """Returns what dockerd was started with."""
    return host.machine.run("cat", GIVEN).split()


def expected(host: BootedHost) -> list[str]:
    env = host.subnet_env
    masquerades = "false" if env["FLANNEL_IPMASQ"] == "true" else "true"
    return [
        *(*START, "--debug", f"--bip={env['FLANNEL_SUBNET']}"),
        *(f"--ip-masq={masquerades}", f"--mtu={env['FLANNEL_MTU']}"),
    ]


def give(host: BootedHost) -> str:
    """Gives the commands of way (a); returns what the last one prints."""
    said = ""
    for command in given("docker.md", "(a) docker0 on the leased subnet"):
        if not command.startswith("docker run"):
            said = host.machine.run("sh", "-ec", command)
    return said


def test_docker_gets_its_options_at_each_start_and_they_do_not_grow(host: BootedHost) -> None:
    said = give(host)
    assert options(host) == expected(host)
    assert [line.partition('"')[2].rstrip('"') for line in said.splitlines()] == options(host)[4:]
    for _ in range(2):
        host.machine.run("systemctl", "restart", "docker")
        assert options(host) == expected(host)


def test_docker_starts_after_tunneld_at_boot(host: BootedHost) -> None:
    give(host)
    host.machine.enable("docker.service")
    try:
        host.machine.shut_down()
        host.machine.boot()
        assert options(host) == expected(host)
    finally:
        host.machine.disable("docker.service")


def test_docker_waits_for_our_options_where_tunneld_fails_and_has_them_once_it_is_mended(
    host: BootedHost,
) -> None:
    give(host)
    machine = host.machine
    config = machine.run("cat", "/etc/tunneld/tunneld.toml")
    machine.run("systemctl", "stop", "docker.socket", "docker", "tunneld")
    machine.run("rm", SUBNET_FILE, "/run/docker_opts.env", GIVEN)  # as a boot does
    machine.write("/etc/tunneld/tunneld.toml", "ip-mask = true\n")
    try:
        machine.run("systemctl", "start", "--no-block", "docker")
        wait_until(
            lambda: machine.show("tunneld", "ActiveState") == "failed", 20, "a failed tunneld"
        )
        machine.wait_for_journal("tunneld", "unknown key 'ip-mask'")
        machine.wait_for_journal("docker", f"waiting for {SUBNET_FILE}")
        assert machine.show("docker", "ActiveState") == "activating"
    finally:
        machine.write("/etc/tunneld/tunneld.toml", config)
        machine.run("systemctl", "restart", "tunneld")
    wait_until(lambda: machine.is_active("docker"), 30, "docker with its options")
    assert options(host) == expected(host)

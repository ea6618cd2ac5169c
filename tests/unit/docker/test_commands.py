"""`tunneld docker` on real dockerds: what it makes, and what it says when something is off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network

import pytest

from testbed.wait import wait_until
from tests.unit.docker.conftest import NAME, TRUSTED, DockerHost, jumps
from tunneld.docker import rules
from tunneld.docker.lease import LocalLease
from tunneld.fib.state import OverlayNet

pytestmark = pytest.mark.root


@contextmanager
def network(host: DockerHost, *options: str) -> Iterator[None]:
    """A network of Docker for the length of a test, made by Docker's own command."""
    host.docker.cli("network", "create", *options, NAME)
    try:
        yield
    finally:
        host.docker.cli("network", "rm", NAME)


def other_subnet_env(host: DockerHost, **changed: str) -> tuple[str, str]:
    """Returns the option that names another subnet.env; the daemon keeps its own as it was."""
    path = "/run/other.env"
    values = {**host.subnet_env(), **changed}
    host.machine.write(path, "".join(f"{key}={value}\n" for key, value in values.items()))
    return ("--subnet-file", path)


def fitting_options(host: DockerHost) -> dict[str, str]:
    """What a network on the lease has, by the names of `docker network create`."""
    env = host.subnet_env()
    gateway = env["FLANNEL_SUBNET"].partition("/")[0]
    options = {
        "--subnet": f"{gateway.removesuffix('.1')}.0/24",
        "--gateway": gateway,
        "com.docker.network.driver.mtu": env["FLANNEL_MTU"],
        "com.docker.network.bridge.enable_ip_masquerade": "false",
    }
    if host.docker.version_number >= (28,):
        options[TRUSTED] = "flannel0"
    return options


def as_arguments(options: dict[str, str]) -> list[str]:
    return [
        word
        for name, value in options.items()
        for word in ((name, value) if name.startswith("--") else ("--opt", f"{name}={value}"))
    ]


def test_a_network_is_made_once_and_fits_the_lease(host: DockerHost) -> None:
    before = host.docker.process
    assert host.tunneld("docker", "check")[0] == 1
    status, out, err = host.tunneld("docker", "network", NAME)
    try:
        subnet = fitting_options(host)["--subnet"]
        assert (status, err) == (0, "")
        assert out == f"network {NAME} made: {subnet} on br-{NAME}, MTU 1472\n"
        found = host.inspected()
        config = {"Subnet": subnet, "Gateway": host.subnet_env()["FLANNEL_SUBNET"][:-3]}
        assert found["IPAM"]["Config"] == [config]
        expected = {k: v for k, v in fitting_options(host).items() if not k.startswith("--")}
        assert found["Options"].items() >= expected.items()
        assert f"br-{NAME}" in host.machine.run("ip", "-br", "link", "show", "type", "bridge")

        status, out, err = host.tunneld("docker", "network", NAME)
        assert (status, out, err) == (0, f"network {NAME} is there, on {subnet}, MTU 1472\n", "")
        assert host.inspected()["Id"] == found["Id"]

        container = host.docker.run("c1", "--network", NAME)
        assert str(container.address) == f"{config['Gateway'][:-2]}.2"
        link = container.run("ip", "-o", "link", "show", "eth0")
        assert " mtu 1472 " in link
        host.docker.remove(container)

        assert host.wait_nothing_off().endswith("nothing is off\n")
        assert host.docker.process is before, "dockerd was started anew"
    finally:
        host.docker.cli("network", "rm", NAME)


def test_a_network_that_fits_but_was_made_by_docker_is_taken_as_it_is(host: DockerHost) -> None:
    with network(host, *as_arguments(fitting_options(host))):
        assert host.tunneld("docker", "network", NAME)[0] == 0
        host.wait_nothing_off()
        status, _, err = host.tunneld("docker", "network", NAME, "--bridge", "tn0")
        assert status == 1
        assert "com.docker.network.bridge.name" in err


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("com.docker.network.driver.mtu", "1500", "its MTU is 1500, the lease's is 1472"),
        ("com.docker.network.bridge.enable_ip_masquerade", "true", "both masquerade"),
        ("--gateway", ".254", "its gateway is 10.5."),
        ("--subnet", "10.5.255.0/24", "its subnet is 10.5.255.0/24, the lease is"),
    ],
)
def test_what_does_not_fit_is_named_by_network_and_by_check(
    host: DockerHost, option: str, value: str, says: str
) -> None:
    options = fitting_options(host)
    if value.startswith("."):
        value = options["--subnet"].removesuffix(".0/24") + value
    options[option] = value
    if option == "--subnet":
        del options["--gateway"]
    with network(host, *as_arguments(options)):
        status, out, err = host.tunneld("docker", "network", NAME)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert says in err
        assert f"docker network rm {NAME}" in err

        def the_only_line() -> str:
            status, out, _ = host.tunneld("docker", "check")
            off = [line for line in out.splitlines() if line.startswith("off: ")]
            return off[0] if (status, len(off)) == (1, 1) else ""

        assert says in wait_until(the_only_line)


def test_a_network_that_does_not_trust_the_device_is_named_where_docker_drops(
    host: DockerHost,
) -> None:
    options = fitting_options(host)
    trusted = options.pop(TRUSTED, None)
    with network(host, *as_arguments(options)):
        status, _, err = host.tunneld("docker", "network", NAME)
        assert status == (1 if trusted else 0)
        assert ("does not trust flannel0" in err) == bool(trusted)


def test_another_network_on_the_lease_is_in_the_way(host: DockerHost) -> None:
    with network(host, *as_arguments(fitting_options(host))):
        status, out, err = host.tunneld("docker", "network", "second")
        assert (status, out) == (1, "")
        assert f"network {NAME} (" in err or f"network {NAME} already" in err
        assert "already has addresses of 10.5." in err


def test_a_network_of_another_driver_is_not_taken(host: DockerHost) -> None:
    with network(host, "--driver", "macvlan", "--opt", "parent=eth0"):
        status, _, err = host.tunneld("docker", "network", NAME)
        assert status == 1
        assert "its driver is macvlan, expected bridge" in err


def test_a_subnet_env_that_is_not_the_daemons_lease_is_off(host: DockerHost) -> None:
    option = other_subnet_env(host, FLANNEL_SUBNET="10.5.254.1/24")
    status, out, _ = host.tunneld("docker", "check", *option)
    assert status == 1
    assert "but subnet.env says 10.5.254.0/24" in out
    assert "no network of Docker is on 10.5.254.0/24: docker0 has 172.17.0.0/16" in out


def test_whoever_masquerades_the_other_does_not(host: DockerHost) -> None:
    option = other_subnet_env(host, FLANNEL_IPMASQ="false")
    with network(host, *as_arguments(fitting_options(host))):
        status, out, _ = host.tunneld("docker", "check", *option)
    assert status == 1
    assert "nobody masquerades" in out
    assert host.tunneld("docker", "network", NAME, *option)[0] == 0
    try:
        options = host.inspected()["Options"]
        assert options["com.docker.network.bridge.enable_ip_masquerade"] == "true"
        host.wait_nothing_off(*option)
    finally:
        host.docker.cli("network", "rm", NAME)


def test_rules_that_drop_the_overlay_are_off_while_no_daemon_keeps_them_open(
    host: DockerHost,
) -> None:
    with network(host, *as_arguments(fitting_options(host))):
        host.wait_nothing_off()
        host.machine.run("iptables", "-w", "-P", "FORWARD", "DROP")
        host.wait_nothing_off()
        assert host.daemon.stop() == 0
        try:
            status, out, _ = host.tunneld("docker", "check")
            assert status == 1
            assert "no daemon answers" in out
            if host.docker.version_number >= (28,):
                status, _, err = host.tunneld("docker", "network", NAME)
                assert status == 1
                assert "must be told the overlay device" in err
        finally:
            host.start_tunneld()


def test_each_accept_that_is_missing_among_dockers_rules_is_named(host: DockerHost) -> None:
    env = host.subnet_env()
    net = OverlayNet(
        network=IPv4Network(env["FLANNEL_NETWORK"]),
        subnet=IPv4Interface(env["FLANNEL_SUBNET"]).network,
    )
    lease = LocalLease(ipv4=net, mtu_bytes=1472, ip_masq=True, devices=("flannel0",))
    expected = {"DOCKER-USER"}
    with network(host, *as_arguments(fitting_options(host))):
        # Docker's rules in raw come with the first container.
        container = host.docker.run("c1", "--network", NAME)
        if host.docker.version_number >= (28,):
            expected.add("PREROUTING")

        def kept_open() -> str:
            found = host.machine.run("iptables-nft-save")
            chains = {line.split()[1] for line in jumps(found)}
            return found if chains == expected and not rules.missing(found, net, lease) else ""

        text = wait_until(kept_open, 10.0, "accepts in front of Docker's drops")
        host.docker.remove(container)
    accepts = jumps(text)
    for line in accepts:
        (said,) = rules.missing(text.replace(f"{line}\n", ""), net, lease)
        assert said.startswith(f"the chain {line.split()[1]} of table ")
    assert rules.missing(text, net, replace(lease, devices=("flannel7",))) != []


def test_check_names_forwarding_that_is_off(host: DockerHost) -> None:
    host.machine.space.sysctl("net/ipv4/ip_forward", 0)
    try:
        _, out, _ = host.tunneld("docker", "check")
    finally:
        host.machine.space.sysctl("net/ipv4/ip_forward", 1)
    assert "off: IPv4 forwarding is off" in out


def test_check_names_an_option_given_to_dockerd_twice(host: DockerHost) -> None:
    folder = "/etc/systemd/system/docker.service.d"
    host.machine.write("/etc/docker/daemon.json", json.dumps({"bip": "10.9.0.1/24", "debug": True}))
    try:
        assert "daemon.json" not in host.tunneld("docker", "check")[1]
        host.machine.write(f"{folder}/tunneld.conf", "")
        assert "/etc/docker/daemon.json sets bip, " in host.tunneld("docker", "check")[1]
    finally:
        host.machine.run("rm", "-rf", folder, "/etc/docker/daemon.json")


def test_no_dockerd_is_one_line(host: DockerHost) -> None:
    for action in (["network", NAME], ["check"]):
        status, out, err = host.tunneld("docker", *action, "--docker-host", "unix:///run/none.sock")
        assert (status, out) == (1, "")
        assert err.startswith("tunneld: no dockerd answers on /run/none.sock: ")
        assert err.count("\n") == 1


def test_what_is_no_dockerd_is_one_line(host: DockerHost) -> None:
    socket = "unix:///run/tunneld/tunneld.sock"
    status, _, err = host.tunneld("docker", "check", "--docker-host", socket)
    assert status == 1
    assert err.count("\n") == 1
    assert "does not answer GET /version" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "--docker-host", "tcp://192.0.2.1:2375"], "expected unix:///PATH"),
        (["network", "a-name-of-many-letters"], "give it a name with --bridge"),
        (["network"], "required: NAME"),
    ],
)
def test_wrong_command_line_is_status_2(host: DockerHost, arguments: list[str], says: str) -> None:
    status, out, err = host.tunneld("docker", *arguments)
    assert (status, out) == (2, "")
    assert says in err

"""`tunneld docker` on real dockerds where the lease has IPv6, beside IPv4 or alone."""

from __future__ import annotations

from ipaddress import IPv6Interface, IPv6Network

import pytest

from testbed.docker import Release
from testbed.document import scripts
from testbed.machine import SOURCE_TREE
from testbed.netns import Rig
from tests.unit.docker.conftest import DUAL, NAME, ONLY_V6, TRUSTED, DockerHost, standing

pytestmark = pytest.mark.root


def subnet_v6(host: DockerHost) -> IPv6Network:
    return IPv6Interface(host.subnet_env()["FLANNEL_IPV6_SUBNET"]).network


def configs(host: DockerHost) -> list[dict[str, str]]:
    """Returns subnets and gateways of the network, without what Docker adds of its own."""
    found = host.inspected()["IPAM"]["Config"]
    return [{name: one[name] for name in ("Subnet", "Gateway")} for one in found]


@pytest.mark.parametrize(
    ("options", "devices"),
    [((), "flannel.1"), (("--datapath", "kernel"), "flannel.1:flannel-v6.1")],
    ids=["userspace", "kernel"],
)
def test_a_network_has_the_subnets_of_both_families(
    rig: Rig, release: Release, options: tuple[str, ...], devices: str
) -> None:
    with standing(rig, release, DUAL, *options) as host:
        env, subnet = host.subnet_env(), subnet_v6(host)
        gateway = env["FLANNEL_SUBNET"].removesuffix("/24")
        ipv4 = f"{gateway.removesuffix('.1')}.0/24"
        host.expect_fit(f"{ipv4}, {subnet} on br-{NAME}, MTU 1430")
        assert configs(host) == [
            {"Subnet": ipv4, "Gateway": gateway},
            {"Subnet": str(subnet), "Gateway": str(subnet[1])},
        ]
        assert host.inspected()["EnableIPv6"] is True
        if host.docker.version_number >= (28,):
            assert host.inspected()["Options"][TRUSTED] == devices
        container = host.docker.run("c1", "--network", NAME)
        assert container.address_v6 in subnet
        assert container.address_v6 > subnet[1]
        route = container.run("ip", "-6", "route", "show", "default")
        assert f"via {subnet[1]} " in route
        host.docker.remove(container)


def test_a_network_of_ipv6_alone_is_made_as_far_as_docker_can(rig: Rig, release: Release) -> None:
    with standing(rig, release, ONLY_V6) as host:
        subnet = subnet_v6(host)
        host.expect_fit(f"{subnet} on br-{NAME}, MTU 1430")
        ours = {"Subnet": str(subnet), "Gateway": str(subnet[1])}
        if host.docker.version_number >= (28,):
            assert configs(host) == [ours]
            assert host.inspected()["EnableIPv4"] is False
        else:
            assert ours in configs(host)
        container = host.docker.run("c1", "--network", NAME)
        assert container.address_v6 in subnet
        host.docker.remove(container)


def test_what_does_not_fit_in_ipv6_is_named(rig: Rig, release: Release) -> None:
    with standing(rig, release, DUAL) as host:
        subnet = subnet_v6(host)
        gateway = host.subnet_env()["FLANNEL_SUBNET"].removesuffix("/24")
        ipv4 = ("--subnet", f"{gateway.removesuffix('.1')}.0/24", "--gateway", gateway)
        good = ("--ipv6", "--subnet", str(subnet), "--gateway", str(subnet[1]))
        for options, says in {
            (): f"its IPv6 subnet is none, the lease is {subnet}",
            ("--ipv6", "--subnet", "fd00:10:5:ffff::/64"): "its IPv6 subnet is fd00:10:5:ffff::/64",
            (*good[:4], str(subnet[7])): f"its IPv6 gateway is {subnet[7]}, expected {subnet[1]}",
        }.items():
            host.docker.cli("network", "create", *ipv4, *options, NAME)
            status, out, err = host.tunneld("docker", "network", NAME)
            assert (status, out) == (1, "")
            assert says in err
            assert says in host.tunneld("docker", "check")[1]
            host.docker.cli("network", "rm", NAME)
        # Another network in the way in IPv6 only.
        host.docker.cli("network", "create", *good, NAME)
        status, _, err = host.tunneld("docker", "network", "second")
        assert status == 1
        assert f"network {NAME}" in err
        assert f"already has addresses of {ipv4[1]}, {subnet}" in err
        host.docker.cli("network", "rm", NAME)

        host.machine.space.sysctl("net/ipv6/conf/all/forwarding", 0)
        assert (
            "IPv6 forwarding is off (net.ipv6.conf.all.forwarding)"
            in (host.tunneld("docker", "check")[1])
        )


def test_the_network_made_by_hand_is_the_one_the_command_makes(rig: Rig, release: Release) -> None:
    (script,) = scripts(SOURCE_TREE / "docs" / "docker.md", "IPv6")
    with standing(rig, release, DUAL) as host:
        host.machine.run("sh", "-ec", script.replace("flannel0", "flannel.1"))
        status, out, err = host.tunneld("docker", "network", NAME)
        assert (status, err) == (0, "")
        assert "is there" in out


def test_docker0_is_on_both_subnets_with_the_options_that_are_written(
    rig: Rig, release: Release
) -> None:
    with standing(rig, release, DUAL) as host:
        subnet = subnet_v6(host)
        off = host.tunneld("docker", "check")[1]
        assert "no network of Docker is on 10.5." in off
        host.machine.run("tunneld", "docker-opts", "-6")
        lines = host.machine.run("cat", "/run/docker_opts.env").splitlines()
        said = dict(line.split("=", 1) for line in lines)
        host.docker.stop()
        host.docker.start(*said["DOCKER_OPTS"].strip('"').split())
        assert str(subnet[1]) in host.machine.run("ip", "-6", "address", "show", "dev", "docker0")
        host.wait_nothing_off()
        container = host.docker.run("c1")
        assert container.address_v6 in subnet
        host.docker.remove(container)

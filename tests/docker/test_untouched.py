"""What Docker set up on a host is as it would be without tunneld."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest

from testbed.docker import Container
from testbed.netns import Place
from tests.docker.site import MARGIN_TIMEOUT_S, Host, Site, answering, ask

pytestmark = pytest.mark.root

FOREIGN_SUBNET = "10.6.1.0/24"
FOREIGN_BIP = "10.6.1.1/24"


@dataclass(frozen=True)
class Seen:
    """What a host lets through, seen from outside and by its containers."""

    forward_policy: str
    ip_forward: str
    forwarding_default: str
    own_bridge_reaches_other: bool
    other_reaches_own_bridge: bool
    neighbours_reach_each_other: bool
    outside_reaches_unpublished: bool
    outside_reaches_published_directly: bool
    outside_reaches_published: bool


@contextmanager
def second_network(host: Host) -> Iterator[Container]:
    """Makes another network of Docker's on a host, with one container on it."""
    host.docker.cli("network", "create", "other")
    container = host.docker.run("apart", "--network", "other")
    try:
        yield container
    finally:
        host.docker.remove(container)
        host.docker.cli("network", "rm", "other")


def reaches(question: tuple[Place, IPv4Address, int], timeout_s: float) -> bool:
    place, address, port = question
    return ask(place, "tcp", address, port, timeout_s=timeout_s) is not None


def look(site: Site, host: Host, own: Container, subnet: str, expected: Seen | None = None) -> Seen:
    """Tries everything that Docker decides on a host.

    How long an answer may take is enough for one that is late; where none is expected, waiting
    long for it would show nothing more.
    """
    neighbour = host.container("neighbour", "--publish", "8082:7201")
    site.switch.run("ip", "route", "add", subnet, "via", str(host.address))
    try:
        with (
            second_network(host) as apart,
            answering(own, 7200),
            answering(neighbour, 7201),
            answering(apart, 7202),
        ):
            outside = site.switch
            questions: dict[str, tuple[Place, IPv4Address, int]] = {
                "own_bridge_reaches_other": (own, apart.address, 7202),
                "other_reaches_own_bridge": (apart, own.address, 7200),
                "neighbours_reach_each_other": (own, neighbour.address, 7201),
                "outside_reaches_unpublished": (outside, own.address, 7200),
                "outside_reaches_published_directly": (outside, neighbour.address, 7201),
                "outside_reaches_published": (outside, host.address, 8082),
            }
            timeouts_s = {
                name: 8.0 if expected is None else 30.0 if getattr(expected, name) else 2.0
                for name in questions
            }
            with ThreadPoolExecutor(len(questions)) as pool:
                answers = pool.map(reaches, questions.values(), timeouts_s.values())
            return Seen(
                forward_policy=host.forward_policy,
                ip_forward=host.file("/proc/sys/net/ipv4/ip_forward"),
                forwarding_default=host.file("/proc/sys/net/ipv4/conf/default/forwarding"),
                **dict(zip(questions, answers, strict=True)),
            )
    finally:
        site.switch.run("ip", "route", "del", subnet)
        host.docker.remove(neighbour)


def rules(host: Host) -> list[str]:
    """Returns the iptables rules in their order, without counters and without ours."""
    lines = host.machine.run("iptables-save").splitlines()
    return [
        re.sub(r"\[\d+:\d+\]", "", line)
        for line in lines
        if "tunneld" not in line.lower() and not line.startswith("#")
    ]


def test_policies_and_isolation_are_those_of_a_host_without_tunneld(site: Site) -> None:
    host = site.hosts[0]
    plain = site.add("plain")
    try:
        if site.kind.way == "bip":
            plain.docker.start("--bip", FOREIGN_BIP)
        else:
            plain.docker.start("--live-restore=false")
            plain.docker.cli("network", "create", "--subnet", FOREIGN_SUBNET, "overlay")
            plain.network = ("--network", "overlay")
        expected = look(site, plain, plain.container("own"), FOREIGN_SUBNET)
    finally:
        plain.close()
        site.hosts.remove(plain)
    # What makes the comparison worth something: this Docker does keep these apart.
    assert expected.forward_policy == "DROP"
    assert not expected.own_bridge_reaches_other
    assert not expected.outside_reaches_unpublished
    assert expected.outside_reaches_published

    own = site.containers[host.name]
    assert look(site, host, own, str(host.subnet), expected) == expected


def test_another_network_of_a_host_is_not_reached_through_the_overlay(site: Site) -> None:
    first, last = site.hosts[0], site.hosts[-1]
    with second_network(first) as apart, answering(apart, 7202):
        route = (f"{apart.address}/32", "dev", "flannel0")
        last.machine.run("ip", "route", "add", *route)
        try:
            assert (
                ask(site.containers[last.name], "tcp", apart.address, 7202, timeout_s=2.0) is None
            )
        finally:
            last.machine.run("ip", "route", "del", *route)


def test_the_rules_of_docker_are_the_same_with_tunneld_and_without(site: Site) -> None:
    host = site.hosts[0]
    with_tunneld = rules(host)
    host.stop_tunneld()
    everything = host.machine.run("iptables-save")
    if site.kind.rules == "nft":
        everything += host.machine.run("nft", "list", "ruleset")
    assert "tunneld" not in everything.lower()
    assert rules(host) == with_tunneld
    host.start_tunneld()
    site.wait_connected(MARGIN_TIMEOUT_S)
    assert rules(host) == with_tunneld

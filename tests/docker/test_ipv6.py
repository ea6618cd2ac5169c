"""Containers of different Docker hosts reach each other over IPv6, beside IPv4 and alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Interface, IPv6Network
from typing import Literal

import pytest

from testbed.capture import Capture
from testbed.docker import Release
from testbed.exchange import send_stream
from testbed.netns import Rig
from testbed.wait import wait_until
from tests.docker.site import START_TIMEOUT_S, SUBNET_FILE, Host, Kind, Site, Way, situation

pytestmark = pytest.mark.root

STREAM_BYTES = 20_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """Which Docker, which way, which families."""

    release: Release
    way: Way
    families: tuple[Literal[4, 6], ...]

    def __str__(self) -> str:
        return f"{self.release}-{self.way}-{'dual' if 4 in self.families else 'ipv6'}"


CASES = [
    Case("bookworm", "bip", (4, 6)),
    Case("bookworm", "network", (6,)),
    Case("sid", "bip", (4, 6)),
    Case("sid", "network", (4, 6)),
    Case("sid", "network", (6,)),
]


@pytest.fixture(scope="module", params=CASES, ids=str)
def site_v6(
    request: pytest.FixtureRequest,
    docker_programs: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Two hosts with a container each."""
    case: Case = request.param
    with Rig("docker6", tmp_path_factory.mktemp(str(case))) as rig:
        site = Site(rig, Kind(case.release, case.way, "nft", "tunneld", 2), case.families)
        try:
            for name in ("h1", "h2"):
                host = site.add(name)
                host.set_up()
                site.containers[name] = host.container(f"c-{name}")
            yield site
        finally:
            site.close()


def subnet_v6(host: Host) -> IPv6Network:
    env = dict(line.split("=", 1) for line in host.file(SUBNET_FILE).splitlines())
    return IPv6Interface(env["FLANNEL_IPV6_SUBNET"]).network


def pings(site: Site, first: Host, second: Host) -> bool:
    target = str(site.containers[second.name].address_v6)
    return site.containers[first.name].try_run("ping", "-c1", "-W5", target).returncode == 0


def test_containers_ping_each_other_from_addresses_of_their_own(site_v6: Site) -> None:
    for first, second in site_v6.pairs:
        asking, asked = (site_v6.containers[host.name] for host in (first, second))
        assert asking.address_v6 in subnet_v6(first)
        path = asked.directory / f"from-{first.name}.pcap"
        with Capture(asked, "eth0", "icmp6 and ip6[40] == 128", path) as capture:
            try:
                reached = partial(pings, site_v6, first, second)
                wait_until(reached, START_TIMEOUT_S, f"{first.name} -> {second.name}")
            except TimeoutError as error:
                for host in (first, second):
                    error.add_note(situation(host))
                    error.add_note(host.machine.run("ip6tables-save"))
                raise
            (request, *_) = wait_until(capture.packets, 5, "an echo request in the capture")
        assert request["IPv6"].src == str(asking.address_v6), "masqueraded"
    if 4 in site_v6.families:
        site_v6.wait_connected()


def test_a_tcp_stream_arrives_unchanged_over_ipv6(site_v6: Site) -> None:
    first, last = (site_v6.containers[host.name] for host in site_v6.hosts)
    send_stream(first, last, last.address_v6, STREAM_BYTES)


def test_the_checker_finds_nothing_off_in_either_family(site_v6: Site) -> None:
    for host in site_v6.hosts:
        assert str(subnet_v6(host)) in host.machine.wait_nothing_off()

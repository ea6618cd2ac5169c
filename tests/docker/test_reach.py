"""Containers of different Docker hosts reach each other by plain `docker run`."""

from __future__ import annotations

import pytest

from testbed.exchange import send_stream
from tests.docker.site import MARGIN_TIMEOUT_S, Protocol, Site, answering, ask

pytestmark = pytest.mark.root

STREAM_BYTES = 100_000_000


def test_containers_of_all_hosts_ping_each_other(site: Site) -> None:
    site.wait_connected()


def test_containers_are_on_the_leased_subnets(site: Site) -> None:
    for host in site.hosts:
        assert site.containers[host.name].address in host.subnet


def test_the_checker_finds_nothing_off(site: Site) -> None:
    for host in site.hosts:
        host.machine.wait_nothing_off()


def test_a_tcp_stream_arrives_unchanged(site: Site) -> None:
    first, last = (site.containers[host.name] for host in (site.hosts[0], site.hosts[-1]))
    send_stream(first, last, last.address, STREAM_BYTES)


@pytest.mark.parametrize("size_bytes", [1, 1000, 8000])
def test_datagrams_arrive_unchanged_and_so_do_their_answers(site: Site, size_bytes: int) -> None:
    first, last = (site.containers[host.name] for host in (site.hosts[0], site.hosts[-1]))
    with answering(last, 7002):
        assert ask(first, "udp", last.address, 7002, size_bytes) == first.address


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_container_sees_the_address_of_the_container_that_asks(
    site: Site, protocol: Protocol
) -> None:
    for first, second in site.pairs:
        asking, asked = site.containers[first.name], site.containers[second.name]
        with answering(asked, 7003):
            assert ask(asking, protocol, asked.address, 7003) == asking.address


def test_a_container_sees_the_overlay_address_of_a_host_that_asks(site: Site) -> None:
    first, last = site.hosts[0], site.hosts[-1]
    asked = site.containers[last.name]
    with answering(asked, 7004):
        assert ask(first.machine, "tcp", asked.address, 7004) == first.subnet.network_address


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_published_port_answers_everybody(site: Site, protocol: Protocol) -> None:
    first, last = site.hosts[0], site.hosts[-1]
    client = site.containers[first.name]
    published = f"8080:7005/{protocol}"
    server = last.container(f"published-{protocol}", "--publish", published)
    with answering(server, 7005):
        # Who comes by the underlay is masqueraded by the host it leaves, as without an overlay.
        assert ask(client, protocol, last.address, 8080) == first.address
        assert ask(first.machine, protocol, last.address, 8080) == first.address
        assert ask(site.switch, protocol, last.address, 8080) == site.outside
        # By the overlay a published port is like any other one.
        assert ask(client, protocol, server.address, 7005) == client.address
    last.docker.remove(server)


def test_a_container_without_published_ports_reaches_the_world_masqueraded(site: Site) -> None:
    with answering(site.switch, 7006):
        for host in site.hosts:
            client = site.containers[host.name]
            assert ask(client, "tcp", site.outside, 7006) == host.address


def test_a_restarted_container_is_reached_again(site: Site) -> None:
    first, last = site.hosts[0], site.hosts[-1]
    last.docker.cli("restart", "--time", "1", site.containers[last.name].name)
    site.wait_connected(MARGIN_TIMEOUT_S)
    asked, asking = site.containers[last.name], site.containers[first.name]
    with answering(asked, 7007):
        assert ask(asking, "tcp", asked.address, 7007) == asking.address

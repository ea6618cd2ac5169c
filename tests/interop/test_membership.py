"""Hosts come and go: flanneld and tunneld follow each other, and nobody else is disturbed."""

from __future__ import annotations

import itertools
import json
import re
import signal
import sys
import time

import pytest

from testbed.netns import Rig
from testbed.network import (
    PREFIX,
    Host,
    Kind,
    Network,
    pings,
    wait_connected,
)
from testbed.wait import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first may build flanneld

LEASE_TTL_S = 8
"""It is renewed after a third: a daemon that is held up for two seconds must not lose it."""


@pytest.fixture
def network(interop_tools: None, rig: Rig) -> Network:
    """Two flanneld hosts and a tunneld one, connected."""
    network = Network(rig)
    for name in ("f1", "f2", "t1"):
        network.add(name)
    network.wait_connected()
    return network


def subnets(host: Host, event: str) -> list[str]:
    """Returns the subnets whose routes flanneld says it has `added` or `removed`, in order."""
    return re.findall(rf"Subnet {event}: (\S+)", host.running.output())


def assert_connected(hosts: list[Host]) -> None:
    pairs = itertools.permutations(hosts, 2)
    assert [f"{a.name}->{b.name}" for a, b in pairs if not pings(a, b, patience_s=30)] == []


def assert_undisturbed(network: Network, gone: list[str]) -> None:
    """Every flanneld runs without an error and has dropped the routes to `gone`, no others."""
    for host in network.of("flanneld"):
        assert host.running.exit_status is None, host.running.output()[-2000:]
        assert subnets(host, "removed") == gone, host.name
        assert re.findall(r"^[EF]\d{4} .*", host.running.output(), re.MULTILINE) == []


def wait_removed(network: Network, subnet: str, timeout_s: float) -> None:
    def removed() -> bool:
        return all(subnet in subnets(host, "removed") for host in network.of("flanneld"))

    wait_until(removed, timeout_s, f"the removal of {subnet} by every flanneld")


def join(network: Network, name: str) -> Host:
    """Adds a tunneld host with a short lease and waits until all others reach it."""
    host = network.add(name, "--lease-ttl", f"{LEASE_TTL_S}s")
    host.wait_ready()
    for other in network.hosts[:-1]:
        wait_connected(other, host)
        wait_connected(host, other)
    return host


def test_flanneld_follows_a_tunneld_that_joins_keeps_its_lease_and_leaves(
    network: Network,
) -> None:
    others = list(network.hosts)
    host = join(network, "t2")
    subnet, lease_key, container_ip = str(host.subnet), host.lease_key, host.container_ip
    joined_at_s = time.monotonic()
    for flanneld in network.of("flanneld"):
        assert subnets(flanneld, "added").count(subnet) >= 1

    def outlived() -> bool:
        assert lease_key in network.leases()
        assert pings(others[0], host, patience_s=30)
        return time.monotonic() > joined_at_s + 3 * LEASE_TTL_S

    wait_until(outlived, 4 * LEASE_TTL_S, "three times the TTL", poll_s=0.2)
    assert_undisturbed(network, gone=[])

    left = host.ctl("leave")
    assert left.returncode == 0, left.stderr
    assert host.running.wait() == 0
    assert lease_key not in network.leases()
    wait_removed(network, subnet, timeout_s=10)
    lost = others[0].container.try_run("ping", "-c1", "-W1", str(container_ip))
    assert lost.returncode == 1, lost.stdout
    assert_connected(others)
    assert_undisturbed(network, gone=[subnet])


def test_a_tunneld_whose_lease_expired_comes_back_with_its_subnet(network: Network) -> None:
    host = join(network, "t2")
    subnet = str(host.subnet)
    host.end(signal.SIGKILL)
    wait_removed(network, subnet, timeout_s=10 * LEASE_TTL_S)
    host.start()
    for other in network.hosts[:-1]:
        wait_connected(other, host)
        wait_connected(host, other)
    assert str(host.subnet) == subnet
    assert_connected(network.hosts)
    assert_undisturbed(network, gone=[subnet])


def test_tunneld_follows_a_flanneld_that_loses_its_lease_and_returns(network: Network) -> None:
    flanneld, (tunneld,) = network.host("f2"), network.of("tunneld")
    network.etcd.delete(flanneld.lease_key)
    # flanneld takes the loss of its lease for a request to end.
    assert flanneld.running.wait() == 0

    def answer() -> str:
        return tunneld.container.run("ping", "-c1", "-W1", str(flanneld.container_ip), check=False)

    wait_until(lambda: "Net Unreachable" in answer(), 10, "net unreachable from the own host")
    left = {str(network.host("f1").subnet)}
    wait_until(
        lambda: {peer["subnet"] for peer in tunneld.status()["peers"]} == left, 10, "one peer left"
    )

    flanneld.start()
    for other in (network.host("f1"), tunneld):
        wait_connected(other, flanneld)
        wait_connected(flanneld, other)


def test_a_network_config_written_by_tunneld_serves_flanneld(network: Network) -> None:
    config = {"Network": "10.5.0.0/16", "Backend": {"Type": "udp", "Port": 8285}}
    before = network.leases()
    network.switch.run(
        *(sys.executable, "-m", "tunneld", "network", "set", "-"),
        *("--etcd-endpoints", network.etcd.endpoint, "--etcd-prefix", PREFIX),
        stdin=json.dumps(config),
    )
    assert json.loads(network.etcd.everything(PREFIX)[f"{PREFIX}/config"]) == config
    assert network.leases() == before
    assert_connected(network.hosts)
    assert_undisturbed(network, gone=[])

    newcomer = network.add("f3")
    newcomer.wait_ready()
    for other in network.hosts[:-1]:
        wait_connected(other, newcomer)
        wait_connected(newcomer, other)


def test_a_host_that_changes_its_daemon_keeps_its_lease(network: Network) -> None:
    host, others = network.host("f2"), [network.host("f1"), network.host("t1")]
    subnet, leases = host.subnet, network.leases()
    kinds: tuple[Kind, ...] = ("tunneld", "flanneld")
    for kind in kinds:
        assert host.end(signal.SIGTERM) == 0
        host.kind = kind
        host.start()
        for other in others:
            wait_connected(other, host)
            wait_connected(host, other)
        assert host.subnet == subnet
        assert network.leases() == leases
        assert_undisturbed(network, gone=[])

"""`tunneld docker` on real dockerds where the overlay has no device of its own."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network

import pytest

from testbed.docker import Release
from testbed.netns import Rig
from testbed.wait import wait_until
from tests.unit.docker.conftest import HOST_GW, NAME, TRUSTED, DockerHost, jumps, standing
from tunneld.docker import rules
from tunneld.docker.lease import LocalLease
from tunneld.fib.state import OverlayNet

pytestmark = pytest.mark.root

NETWORK = IPv4Network("10.5.0.0/16")
NEIGHBOUR, PEER = "192.0.2.1", "10.5.255.2"


def subnet(host: DockerHost) -> IPv4Network:
    return IPv4Interface(host.subnet_env()["FLANNEL_SUBNET"]).network


def pings(host: DockerHost, source: str, address: object) -> bool:
    """Whether an answer comes to a ping from the switch, by the underlay."""
    done = host.switch.try_run("ping", "-c1", "-W1", "-I", source, str(address))
    return done.returncode == 0


def test_the_overlay_reaches_a_network_that_trusts_no_device_and_nobody_else_does(
    rig: Rig, release: Release
) -> None:
    with standing(rig, release, HOST_GW) as host:
        leased = subnet(host)
        host.expect_fit(f"{leased} on br-{NAME}, MTU 1500")
        assert TRUSTED not in host.inspected()["Options"]
        container = host.docker.run("c1", "--network", NAME)
        host.switch.run("ip", "address", "add", f"{NEIGHBOUR}/24", "dev", "port1")
        host.switch.run("ip", "address", "add", f"{PEER}/32", "dev", "lo")
        host.switch.run("ip", "route", "add", str(leased), "via", "192.0.2.11")
        wait_until(lambda: pings(host, PEER, container.address), 10.0, "an answer to a peer")
        if host.docker.version_number >= (28,):
            assert not pings(host, NEIGHBOUR, container.address)
        host.wait_nothing_off()

        accepting = host.machine.run("iptables-nft-save")
        net = OverlayNet(network=NETWORK, subnet=leased)
        lease = LocalLease(ipv4=net, mtu_bytes=1500, ip_masq=True, devices=())
        assert rules.missing(accepting, net, lease) == []
        assert jumps(accepting) != []
        for line in jumps(accepting):
            (said,) = rules.missing(accepting.replace(f"{line}\n", ""), net, lease)
            assert said.startswith(f"the chain {line.split()[1]} of table ")
        host.docker.remove(container)


def test_a_daemon_that_is_not_ready_tells_nothing_of_a_device(rig: Rig, release: Release) -> None:
    with standing(rig, release, HOST_GW) as host:
        assert host.daemon.stop() == 0
        host.run_tunneld("--store=sqlite:/var/lib/tunneld/empty.db", "--state-dir=/var/lib/other")
        wait_until(lambda: host.tunneld("status")[0] == 0, 10.0, "a daemon that answers")
        status, _, err = host.tunneld("docker", "network", NAME)
        if host.docker.version_number >= (28,):
            assert status == 1
            assert "must be told the overlay device" in err
        else:
            assert (status, err) == (0, "")
        off = host.tunneld("docker", "check")[1]
        assert f"tunneld holds no lease, but subnet.env says {subnet(host)}" in off

"""What becomes of the underlay of a running host, and what the host makes of it.

Two hosts on a real etcd; a move is over when containers of both reach each other again.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.etcd import Etcd
from testbed.netns import Namespace, Rig
from testbed.network import Host, Network, pings
from testbed.wait import wait_until
from tests.e2e.single_host import SingleHost
from tests.e2e.site import PREFIX
from tests.e2e.test_bad_input import GOOD_CONFIG

pytestmark = pytest.mark.root

PATIENCE_S = 30.0
VIP = "10.99.0.200"


@pytest.fixture
def network(root_tools: None, rig: Rig) -> Network:
    network = Network(rig)
    network.add("t1")
    network.add("t2")
    network.wait_connected()
    return network


def keep_secondaries(space: Namespace) -> None:
    """Lets the other addresses of a subnet stay when the first one goes, as systemd does."""
    space.sysctl("net/ipv4/conf/all/promote_secondaries", 1)


def published(network: Network, host: Host) -> str:
    """Returns the address of a host in its lease."""
    found: str = json.loads(network.leases()[host.lease_key])["PublicIP"]
    return found


def ip(host: Host, *words: str) -> None:
    host.space.run("ip", *words)


def take(host: Host, address: str, device: str = "eth0") -> None:
    keep_secondaries(host.space)
    ip(host, "address", "del", f"{address}/24", "dev", device)


def give(host: Host, address: str, device: str = "eth0") -> None:
    ip(host, "address", "add", f"{address}/24", "dev", device)
    ip(host, "route", "replace", "default", "via", str(host.network.outside))


def change(host: Host, old: str, new: str) -> None:
    """Changes the address as a network manager does."""
    ip(host, "address", "add", f"{new}/24", "dev", "eth0")
    take(host, old)
    ip(host, "route", "replace", "default", "via", str(host.network.outside))


def start_anew(host: Host) -> None:
    assert host.running.stop() == 0
    host.start()
    host.running.wait_for_output("daemon: forwarding")


def is_content(host: Host) -> bool:
    said = host.status()
    return (said["state"], said["problems"]) == ("ready", [])


def wait_at(network: Network, host: Host, address: str) -> None:
    """Waits until a host is at an address, with nothing to complain of, and is reached there."""
    other = next(one for one in network.hosts if one is not host)
    wait_until(lambda: published(network, host) == address, PATIENCE_S, f"{address} in the lease")
    wait_until(lambda: is_content(host), PATIENCE_S, "a host with nothing to complain of")
    wait_until(lambda: pings(other, host), PATIENCE_S, "the way to the host")
    assert pings(host, other)


def test_nothing_moves_while_the_own_address_stands_or_is_back_soon(network: Network) -> None:
    host = network.host("t1")
    own, key, before = str(host.public_ip), host.lease_key, network.leases()
    ip(host, "address", "add", f"{VIP}/24", "dev", "eth0")
    # What comes after it has an effect that is seen: the new address has been seen by then.
    ip(host, "link", "set", "eth0", "mtu", "1400")
    wait_until(lambda: host.subnet_env["FLANNEL_MTU"] == "1372", PATIENCE_S, "the new MTU")
    assert network.leases() == before
    # To a daemon that starts anew it is an old one.
    start_anew(host)

    take(host, own)
    host.running.wait_for_output(f"underlay address {own} is gone from eth0")
    assert host.status()["state"] == "degraded"
    give(host, own)
    host.running.wait_for_output("the underlay is there")
    addresses = host.space.run("ip", "-4", "-o", "address", "show", "dev", "eth0").splitlines()
    assert VIP in addresses[0], "the virtual one is the first now"
    wait_at(network, host, own)
    assert published(network, host) == own
    assert host.lease_key == key
    assert "has moved" not in host.running.output()


def test_an_address_that_stays_away_is_replaced_and_taken_again_when_it_returns(
    network: Network,
) -> None:
    host = network.host("t1")
    own, key = str(host.public_ip), host.lease_key
    ip(host, "address", "add", f"{VIP}/24", "dev", "eth0")
    take(host, own)
    ip(host, "route", "replace", "default", "via", str(network.outside))
    wait_at(network, host, VIP)

    # The daemon that starts anew meanwhile knows of it too.
    start_anew(host)
    wait_at(network, host, VIP)
    give(host, own)
    wait_at(network, host, own)
    assert host.lease_key == key

    # Nor does a start choose anew between the two, whichever is the first.
    start_anew(host)
    wait_at(network, host, own)


def test_changes_in_a_row_are_followed_though_the_store_is_silent(network: Network) -> None:
    host = network.host("t1")
    addresses = [str(host.public_ip), *(f"10.99.0.{number}" for number in (77, 78, 79))]
    key = host.lease_key

    def is_bound() -> bool:
        return f"{addresses[-1]}:8285" in host.space.run("ss", "-lun")

    etcd = network.etcd.process
    assert etcd is not None
    etcd.pause()
    for old, new in itertools.pairwise(addresses):
        change(host, old, new)
    wait_until(is_bound, PATIENCE_S, "the data path on the last address, without the store")
    etcd.signal(signal.SIGCONT)
    wait_at(network, host, addresses[-1])
    assert host.lease_key == key


@pytest.mark.parametrize("backend", ["udp", "vxlan"])
def test_a_flapping_address_ends_nothing(root_tools: None, rig: Rig, backend: str) -> None:
    network = Network(rig, backend={"Type": backend})
    host = network.add("t1", *(("--datapath", "kernel") if backend == "vxlan" else ()))
    network.add("t2")
    network.wait_connected()
    own = str(host.public_ip)
    for _ in range(15):
        change(host, own, "10.99.0.77")
        change(host, "10.99.0.77", own)
    # It is at its own address between two moves, too. What comes after all of them has an effect
    # that is seen: from then on it moves no more.
    ip(host, "link", "set", "eth0", "mtu", "1400")
    mtu = {"udp": "1372", "vxlan": "1350"}[backend]
    wait_until(lambda: host.subnet_env["FLANNEL_MTU"] == mtu, PATIENCE_S, "the new MTU")
    wait_at(network, host, own)


def test_what_fails_during_a_move_is_tried_again(root_tools: None, rig: Rig) -> None:
    network = Network(rig)
    host = network.add("t1")
    programs = host.space.directory / "bin"
    network.add("t2")
    network.wait_connected()
    assert host.running.stop() == 0
    fails = failing(programs, "nft")
    host.daemon = host.space.start(
        *host.command(),
        log=host.space.directory / "daemon-nft.log",
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
    )
    host.running.wait_for_output("daemon: forwarding")
    fails.touch()
    change(host, str(host.public_ip), "10.99.0.77")
    wait_until(
        lambda: "does not work today" in str(host.status()["problems"]),
        PATIENCE_S,
        "a status that says why",
    )
    change(host, "10.99.0.77", "10.99.0.78")
    fails.unlink()
    wait_at(network, host, "10.99.0.78")

    # The port is taken where it moves to.
    ip(host, "address", "add", "10.99.0.79/24", "dev", "eth0")
    holder = host.space.start("socat", "-u", "UDP4-RECV:8285,bind=10.99.0.79", "-")
    wait_until(lambda: "10.99.0.79:8285" in host.space.run("ss", "-lun"), what="a held port")
    take(host, "10.99.0.78")
    ip(host, "route", "replace", "default", "via", str(network.outside))
    wait_until(lambda: "socat" in str(host.status()["problems"]), PATIENCE_S, "the port's holder")
    holder.stop()
    wait_at(network, host, "10.99.0.79")
    assert host.running.stop() == 0
    assert "tunneld" not in host.space.run("nft", "list", "ruleset")


def failing(folder: Path, name: str) -> Path:
    """Puts a program into `folder` that fails as long as the file that is returned exists."""
    folder.mkdir()
    fails = folder / "fails"
    program = folder / name
    program.write_text(
        f"#!/bin/sh\n[ -e {fails} ] && {{ echo {name} does not work today >&2; exit 1; }}\n"
        f'PATH={os.environ["PATH"]} exec {name} "$@"\n'
    )
    program.chmod(0o755)
    return fails


def made_again(network: Network, host: Host) -> str:
    ip(host, "link", "del", "eth0")
    host.running.wait_for_output("waiting for an underlay address")
    network.rig.link(*(network.switch, "again", host.space, "eth0"), first_bridge=host.link.bridge)
    # The address comes last, when the interface has been seen without one.
    wait_until(lambda: "no IPv4 address" in str(host.status()["problems"]), 20.0, "the interface")
    give(host, str(host.public_ip))
    return str(host.public_ip)


def made_again_elsewhere(network: Network, host: Host) -> str:
    ip(host, "link", "del", "eth0")
    network.rig.link(*(network.switch, "again", host.space, "eth0"), first_bridge=host.link.bridge)
    give(host, "10.99.0.77")
    return "10.99.0.77"


def into_a_bridge(network: Network, host: Host) -> str:
    ip(host, "address", "flush", "dev", "eth0")
    ip(host, "link", "add", "vmbr0", "type", "bridge", "forward_delay", "0")
    ip(host, "link", "set", "eth0", "master", "vmbr0")
    ip(host, "link", "set", "vmbr0", "up")
    give(host, str(host.public_ip), "vmbr0")
    return str(host.public_ip)


def renamed(network: Network, host: Host) -> str:
    ip(host, "link", "set", "eth0", "down")
    ip(host, "link", "set", "eth0", "name", "wan0")
    ip(host, "link", "set", "wan0", "up")
    ip(host, "route", "replace", "default", "via", str(network.outside))
    return str(host.public_ip)


@pytest.mark.parametrize("backend", ["udp", "vxlan", "host-gw"])
@pytest.mark.parametrize("fate", [made_again, made_again_elsewhere, into_a_bridge, renamed])
def test_the_interface_becomes_another(
    root_tools: None, rig: Rig, backend: str, fate: Callable[[Network, Host], str]
) -> None:
    network = Network(rig, backend={"Type": backend})
    options = ("--datapath", "kernel") if backend == "vxlan" else ()
    host = network.add("t1", *options)
    network.add("t2", *options)
    network.wait_connected()
    key = host.lease_key
    wait_at(network, host, fate(network, host))
    assert host.lease_key == key
    told = "the interface asked for is a port"
    assert (told in host.running.output()) == (fate is into_a_bridge)


def test_an_address_changes_while_a_first_start_waits_for_a_lease(
    host: SingleHost, etcd: Etcd
) -> None:
    # One subnet in all, and somebody has it.
    text = {"Network": "10.5.0.0/16", "SubnetMin": "10.5.1.0", "SubnetMax": "10.5.1.0"}
    etcd.put(f"{PREFIX}/config", json.dumps({**text, "Backend": {"Type": "udp"}}))
    taken = f"{PREFIX}/subnets/10.5.1.0-24"
    etcd.put(taken, '{"PublicIP":"192.0.2.99","PublicIPv6":null}')
    daemon = host.start_daemon()
    daemon.wait_for_output("no lease yet")
    keep_secondaries(host.space)
    for address in ("192.0.2.77", "192.0.2.78"):
        host.space.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
    for address in (str(host.address), "192.0.2.77"):
        host.space.run("ip", "address", "del", f"{address}/24", "dev", "eth0")
    wait_until(lambda: "192.0.2.78:8285" in host.space.run("ss", "-lun"), 30.0, "the last address")
    etcd.delete(taken)
    assert host.wait_ready()["lease"]["public_ip"] == "192.0.2.78"
    assert daemon.stop() == 0


def test_a_better_default_route_moves_nothing_not_even_at_a_start(
    host: SingleHost, etcd: Etcd
) -> None:
    etcd.put(f"{PREFIX}/config", GOOD_CONFIG)
    via_eth0 = ("default", "via", str(host.switch_address), "dev", "eth0", "metric", "100")
    host.space.run("ip", "route", "add", *via_eth0)
    host.space.run("ip", "route", "del", "default", "metric", "0")
    daemon = host.start_daemon()
    assert host.wait_ready()["lease"]["public_ip"] == str(host.address)
    host.space.bridge("vpn0", "198.51.100.1/24")
    host.space.run("ip", "route", "add", "default", "via", "198.51.100.254", "metric", "50")
    host.space.run("ip", "link", "set", "eth0", "mtu", "1400")
    wait_until(
        lambda: "FLANNEL_MTU=1372\n" in host.subnet_file.read_text(), 30.0, "the MTU of eth0"
    )
    assert host.wait_ready()["lease"]["public_ip"] == str(host.address)
    assert daemon.stop() == 0
    daemon = host.start_daemon()
    assert host.wait_ready()["lease"]["public_ip"] == str(host.address)
    assert daemon.stop() == 0


def test_mtu_is_that_of_the_uplinks_where_the_address_is_on_lo(
    host: SingleHost, etcd: Etcd, rig: Rig
) -> None:
    etcd.put(f"{PREFIX}/config", GOOD_CONFIG)
    rig.link(
        *(host.space, "eth1", host.switch, "port2"),
        first_address="198.51.100.2/30",
        second_address="198.51.100.1/30",
        mtu_bytes=1600,
    )
    for space, device in ((host.space, "eth0"), (host.switch, "port1")):
        space.run("ip", "link", "set", device, "mtu", "9000")
    host.space.run("ip", "address", "add", "203.0.113.7/32", "dev", "lo")
    hops = ("nexthop", "via", str(host.switch_address), "nexthop", "via", "198.51.100.1")
    host.space.run("ip", "route", "replace", "default", *hops)
    daemon = host.start_daemon("--iface", "203.0.113.7")
    status = host.wait_ready()
    assert status["lease"]["public_ip"] == "203.0.113.7"
    assert "FLANNEL_MTU=1572\n" in host.subnet_file.read_text(), "1600 less 28 bytes of headers"
    # The narrow one goes: the wide one is left.
    host.space.run("ip", "route", "replace", "default", *hops[1:3])
    wait_until(
        lambda: "FLANNEL_MTU=8972\n" in host.subnet_file.read_text(), 30.0, "that of the other"
    )
    assert daemon.stop() == 0

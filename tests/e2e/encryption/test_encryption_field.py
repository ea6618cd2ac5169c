"""What operators reported of other encrypted overlays, done to hosts that encrypt.

Each docstring names reports of the kind. Needs root, etcd, iproute2, nft and ping.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.exchange import send_stream
from testbed.netns import Rig
from testbed.network import LINKS, PREFIX, Host, Network, pings, wait_connected
from testbed.probe import Probe
from testbed.wait import wait_until
from tests.interop.encryption import config, psk_file
from tunneld.control.client import NotRunningError, request

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

NAT = (
    "add table ip nat",
    "add chain ip nat out { type nat hook postrouting priority 100; }",
    "add rule ip nat out oifname switch udp dport 8286 masquerade fully-random",
    "add chain ip nat in { type filter hook forward priority 0; }",
    "add rule ip nat in oifname switch2 udp dport 8286 ct state new drop",
)


def status(host: Host) -> dict[str, Any]:
    try:
        found: dict[str, Any] = request(host.control_socket, "status", timeout_s=60.0)
    except NotRunningError:
        return {"peers": [], "refused": [], "problems": [], "state": "none", "encryption": {}}
    return found


def keys(host: Host, other: Host) -> dict[str, Any]:
    """Returns what a host says of its keys with another one."""
    subnet = str(other.subnet)
    found = [peer["security"] for peer in status(host)["peers"] if peer["subnet"] == subnet]
    return found[0] if found else {"state": "no peer", "detail": ""}


def own_psk(host: Host) -> Path:
    return host.space.directory / "psk"


def add(network: Network, name: str, **where: Any) -> Host:
    """Adds a host with a PSK file of its own."""
    path = network.rig.directory / name / "psk"
    path.parent.mkdir()
    shutil.copy(psk_file(network.rig), path)
    return network.add(name, "--psk-file", str(path), **where)


@pytest.fixture(scope="module")
def pair(
    root_tools: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Host, Host, list[Probe]]]:
    """Two hosts in a network that requires encryption, under probes."""
    with Rig("field", tmp_path_factory.mktemp("field")) as rig:
        network = Network(rig, backend=config("udp", "required"))
        first, second = (add(network, name) for name in ("t1", "t2"))
        network.wait_connected()
        probes = [Probe(*ends, rate_hz=200.0) for ends in network.pairs()]
        yield first, second, probes
        for probe in probes:
            probe.stop()


def wait_steady(probes: list[Probe], count: int = 50) -> None:
    now_s = time.monotonic()
    for probe in probes:
        probe.wait_steady(now_s, 60.0, count)


def new_identity(host: Host) -> None:
    state = str(host.space.directory / "state")
    done = host.space.try_run(
        *(sys.executable, "-m", "tunneld", "identity", "new", "--state-dir", state)
    )
    assert done.returncode == 0, done.stderr


def test_a_host_comes_back_with_another_key_at_the_same_place(
    pair: tuple[Host, Host, list[Probe]],
) -> None:
    """cilium#35644, cilium#25492, k3s#5216: others keep the former key, or both."""
    first, second, probes = pair
    subnet, key = second.subnet, keys(first, second)
    assert key["state"] == "confirmed"
    assert second.end(signal.SIGTERM) == 0
    new_identity(second)
    second.start()
    wait_steady(probes)
    assert second.subnet == subnet
    assert [peer["subnet"] for peer in status(first)["peers"]] == [str(subnet)]
    assert status(first)["refused"] == []


def test_the_key_on_disk_becomes_another_while_the_host_runs(
    pair: tuple[Host, Host, list[Probe]],
) -> None:
    """It goes on by the key it has, also where files are read again, until it is started."""
    first, second, probes = pair
    before = status(second)["encryption"]["public_key"]
    wait_steady(probes)
    lost = [probe.lost() for probe in probes]
    for change in (
        new_identity,
        lambda host: (host.space.directory / "state/identity.key").unlink(),
    ):
        change(second)
        since_s = time.monotonic()
        second.running.signal(signal.SIGHUP)
        wait_until(
            lambda since_s=since_s: keys(first, second)["age_s"] < time.monotonic() - since_s,  # type: ignore[misc]
            30.0,
            "new keys by the identity of before",
        )
        assert status(second)["encryption"]["public_key"] == before
    wait_steady(probes)
    assert [probe.lost() for probe in probes] == lost
    second.end(signal.SIGKILL)
    second.start()
    wait_steady(probes)
    assert status(second)["encryption"]["public_key"] != before


def test_both_sides_make_keys_anew_at_once_while_handshakes_are_lost(
    pair: tuple[Host, Host, list[Probe]],
) -> None:
    """strongswan#1896, strongswan#2477: of two that collide, neither or half is put in place."""
    first, second, probes = pair
    wait_steady(probes)
    lost = [probe.lost() for probe in probes]
    for host in (first, second):
        for words in (
            "add table ip loss",
            "add chain ip loss in { type filter hook input priority 0; }",
            # Initiations and responses, each second one of either host.
            "add rule ip loss in udp dport 8286 udp length { 212, 168 } "
            "numgen inc mod 2 == 0 counter drop",
        ):
            host.space.run("nft", words)
    for _ in range(6):
        since_s = time.monotonic()
        for host in (first, second):
            host.running.signal(signal.SIGHUP)
        for ends in ((first, second), (second, first)):
            wait_until(
                lambda ends=ends, since_s=since_s: (  # type: ignore[misc]
                    keys(*ends)["age_s"] < time.monotonic() - since_s
                ),
                60.0,
                "new keys",
            )
    for host in (first, second):
        assert "packets 0" not in host.space.run("nft", "list", "table", "ip", "loss")
        host.space.run("nft", "delete table ip loss")
    wait_steady(probes)
    assert [probe.lost() for probe in probes] == lost


def test_a_host_that_missed_a_rotation_is_told_apart_and_comes_back(
    pair: tuple[Host, Host, list[Probe]],
) -> None:
    """weave#3579, weave#39: one host has another password, and nobody says so.

    The other side's keys of before live on for minutes, and are of no use.
    """
    first, second, probes = pair
    assert second.end(signal.SIGTERM) == 0
    old = own_psk(first).read_bytes()
    new = base64.b64encode(os.urandom(32))  # and no newline at the end
    ids = status(first)["encryption"]["psk_ids"]
    own_psk(first).write_bytes(new)
    first.running.signal(signal.SIGHUP)
    wait_until(lambda: status(first)["encryption"]["psk_ids"] != ids, 30.0, "the new PSK")
    second.start()
    for host, other in ((first, second), (second, first)):
        wait_until(
            lambda ends=(host, other): "psk_unknown" in keys(*ends)["detail"],  # type: ignore[misc]
            20.0,
            "why there are no keys",
        )
        assert status(host)["drops"]["psk_unknown"] > 0
    assert not pings(first, second, patience_s=1)

    own_psk(second).write_bytes(new)
    second.running.signal(signal.SIGHUP)
    wait_steady(probes)
    # A file that is gone takes nothing away while the host runs, and is said.
    own_psk(second).unlink()
    second.running.signal(signal.SIGHUP)
    wait_until(lambda: "cannot read the PSK" in str(status(second)["problems"]), 30.0, "the lack")
    wait_steady(probes)
    own_psk(second).touch(0o600)
    for host in (first, second):
        own_psk(host).write_bytes(old)
        host.running.signal(signal.SIGHUP)
    wait_until(lambda: status(second)["problems"] == [], 30.0, "nothing to complain of")
    wait_steady(probes)


def test_one_side_has_a_narrower_underlay(pair: tuple[Host, Host, list[Probe]]) -> None:
    """cilium#46100, terraform-hcloud-kubernetes#450: what is too big is lost silently."""
    first, second, probes = pair
    second.space.run("ip", "link", "set", "eth0", "mtu", "1400")
    second.network.switch.run("ip", "link", "set", second.name, "mtu", "1400")
    # 1400 - 20 - 8 - 32, a multiple of four, without its last two bytes.
    wait_until(lambda: second.subnet_env["FLANNEL_MTU"] == "1338", 30.0, "the MTU")
    for one, other in ((first, second), (second, first)):
        send_stream(one.container, other.container, other.container_ip, 3_000_000)
    whole = ("ping", "-c1", "-W30", "-M", "do", "-s", str(1338 - 28))
    first.container.run(*whole, str(second.container_ip))
    second.space.run("ip", "link", "set", "eth0", "mtu", "1500")
    second.network.switch.run("ip", "link", "set", second.name, "mtu", "1500")
    wait_until(lambda: second.subnet_env["FLANNEL_MTU"] == "1438", 30.0, "the MTU of before")
    wait_steady(probes)


def test_two_hosts_behind_one_address_are_told_apart_and_found_again(
    root_tools: None, rig: Rig
) -> None:
    """flannel#2073, nebula#889, kilo#273: the second takes the first one's place; a record that is
    written again takes the learned endpoint away; the box between forgets."""
    network = Network(rig, backend=config("udp", "required"))
    for words in NAT:
        network.switch.run("nft", words)
    outside = add(network, "t1")
    hidden = [add(network, name, link=LINKS[1]) for name in ("t2", "t3")]
    for host in network.hosts:
        host.wait_ready()
    for host in hidden:
        wait_connected(host, outside)
        wait_connected(outside, host)
    endpoints = {keys(outside, host)["endpoint"] for host in hidden}
    assert len(endpoints) == 2
    assert {text.rpartition(":")[0] for text in endpoints} == {str(network.outside)}

    probes = [Probe(*ends) for host in hidden for ends in ((host, outside), (outside, host))]
    wait_steady(probes)
    for name, value in network.etcd.everything(f"{PREFIX}/tunneld/nodes/").items():
        network.etcd.put(name, value.decode())
    wait_steady(probes)
    assert [probe.lost() for probe in probes] == [0] * 4

    # Both are at other ports from now on; what is sent to the former ones gets lost.
    forget(network)
    wait_steady(probes)
    assert not endpoints & {keys(outside, host)["endpoint"] for host in hidden}
    # Nobody outside knows where they are: they shake hands.
    outside.end(signal.SIGKILL)
    outside.start()
    wait_steady(probes)
    for probe in probes:
        probe.stop()


def forget(network: Network) -> None:
    """Has the box between forget what it has translated, as it does of hosts that are silent."""
    for name in ("timeout", "timeout_stream"):
        network.switch.sysctl(f"net/netfilter/nf_conntrack_udp_{name}", 1)
    network.switch.run(
        "nft", "add chain ip nat early { type filter hook prerouting priority -400; }"
    )
    network.switch.run("nft", "add rule ip nat early meta l4proto udp drop")
    wait_until(
        lambda: "dport=8286" not in network.switch.run("cat", "/proc/net/nf_conntrack"),
        60.0,
        "the end of all translations",
    )
    network.switch.run("nft", "flush chain ip nat early")


def test_an_underlay_without_ipv4_and_both_hosts_started_at_once(
    root_tools: None, rig: Rig
) -> None:
    network = Network(rig, backend=config("udp", "required"), families=(6,))
    one, other = (add(network, name) for name in ("t1", "t2"))
    network.wait_connected()
    send_stream(one.container, other.container, other.container_address(6), 3_000_000)
    probes = [Probe(a, b, b.container_address(6)) for a, b in network.pairs()]
    for number in (signal.SIGKILL, signal.SIGTERM):
        for host in (one, other):
            host.end(number)
        for host in (one, other):
            host.start()
        wait_steady(probes)
    for host in (one, other):
        (peer,) = status(host)["peers"]
        assert peer["security"]["endpoint"].startswith("[fd99::")
    for probe in probes:
        probe.stop()

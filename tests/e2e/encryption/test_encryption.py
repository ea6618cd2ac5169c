"""Two hosts of a network that requires encryption: what leaves them, and what they do without.

Needs root, etcd, iproute2, tcpdump and ping.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.capture import Capture
from testbed.etcd import Etcd
from testbed.netns import Rig
from testbed.process import Process
from testbed.wait import wait_until
from tests.e2e.single_host import SingleHost
from tests.e2e.site import PREFIX
from tunneld.control.client import NotRunningError

pytestmark = pytest.mark.root

CONFIG = {
    "Network": "10.5.0.0/16",
    "Backend": {"Type": "udp", "Encryption": {"Mode": "required"}},
}
OVERLAY = "udp or net 10.5.0.0/16"
MEGABYTES = 4
SECRET = b"nobody on the way reads this, byte by byte. "

SERVE = """
import hashlib, socket, sys
with socket.create_server((sys.argv[1], 7777)) as server:
    print("listening", flush=True)
    taken, _ = server.accept()
    found = hashlib.sha256()
    while chunk := taken.recv(65536):
        found.update(chunk)
    print(found.hexdigest(), flush=True)
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 7777), timeout=30) as out:
    out.sendall(bytes.fromhex(sys.argv[2]) * int(sys.argv[3]))
"""


@pytest.fixture
def hosts(rig: Rig, host: SingleHost, etcd: Etcd) -> tuple[SingleHost, SingleHost]:
    """Two hosts on links of their own, which a router connects."""
    other = SingleHost(rig, beside=host)
    host.switch.sysctl("net/ipv4/ip_forward", 1)
    etcd.put(f"{PREFIX}/config", json.dumps(CONFIG))
    return host, other


def own_address(host: SingleHost) -> str:
    """Returns this host's address in the overlay."""
    subnet: str = host.status()["lease"]["subnet"]
    return subnet.partition("/")[0]


def answers(one: SingleHost, other: SingleHost) -> bool:
    done = one.space.try_run("ping", "-c", "1", "-W", "1", own_address(other))
    return done.returncode == 0


def reaches(one: SingleHost, other: SingleHost) -> None:
    for source, target in ((one, other), (other, one)):
        wait_until(lambda s=source, t=target: answers(s, t), 30.0, "an answer through the overlay")  # type: ignore[misc]


def security(host: SingleHost) -> dict[str, Any]:
    """Returns what the status says of the only peer's keys."""
    try:
        peers = host.status()["peers"]
    except NotRunningError:
        return {}
    found: dict[str, Any] = peers[0]["security"] if peers else {}
    return found


def record(etcd: Etcd, key: str) -> dict[str, Any]:
    """Returns what the record of a node says of its keys."""
    records = [
        json.loads(value)["Encryption"]
        for name, value in etcd.everything().items()
        if "/tunneld/nodes/" in name
    ]
    (found,) = [one for one in records if one["Key"] == key]
    return dict(found)


def revisions(etcd: Etcd, below: str) -> set[int]:
    """Returns the revisions at which entries were written last."""
    listing = json.loads(etcd.ctl("get", "--prefix", f"{PREFIX}/{below}/", "-w", "json"))
    return {item["mod_revision"] for item in listing["kvs"]}


def send_megabytes(one: SingleHost, other: SingleHost) -> None:
    """Sends a file by TCP through the overlay and compares what arrives."""
    content = SECRET * (MEGABYTES * 2**20 // len(SECRET))
    log = other.directory / "serve.log"
    address = own_address(other)
    server = other.space.start(sys.executable, "-I", "-c", SERVE, address, log=log)
    server.wait_for_output("listening")
    times = str(len(content) // len(SECRET))
    one.space.run(sys.executable, "-I", "-c", SEND, address, SECRET.hex(), times, timeout_s=60.0)
    server.wait_for_output(hashlib.sha256(content).hexdigest())
    server.stop()


@contextmanager
def only_ciphertext(one: SingleHost, name: str) -> Iterator[None]:
    """Asserts that encryption passes the first host's link, and nothing else."""
    path = one.directory / f"{name}.pcap"
    with Capture(one.switch, "port1", OVERLAY, path) as capture:
        yield
    packets = capture.packets()
    assert packets
    strange = [
        packet.summary()
        for packet in packets
        if not packet.haslayer("UDP") or packet["UDP"].dport != 8286
    ]
    assert strange == []
    for packet in packets:
        head = bytes(packet["UDP"].payload)[:4]
        assert head == bytes(4) or head[0] >> 6 == 3, "neither a handshake nor an SPI"
    assert SECRET not in path.read_bytes()


def test_two_hosts_talk_in_nothing_but_esp(
    hosts: tuple[SingleHost, SingleHost], etcd: Etcd, tmp_path: Path
) -> None:
    one, other = hosts
    identities = tmp_path / "identities"
    identities.write_text("")
    keys = {}
    for host, name in ((one, "one"), (other, "other")):
        made = host.tunneld("identity", "new", "--state-dir", str(host.directory / "state"))
        assert made.returncode == 0, made.stderr
        shown = host.tunneld("identity", "show", "--state-dir", str(host.directory / "state"))
        keys[name] = shown.stdout.split()[-1]
    identities.write_text("".join(f"{key} {name}\n" for name, key in keys.items()))
    trusting = ("--identities", str(identities))
    with only_ciphertext(one, "first"):
        # Of the second each worker seals in a lane of its own, and sends from a port of its own.
        trusting_twice = (*trusting, "--workers", "2", "--encryption-provider", "ring")
        first = one.start_daemon(*trusting, "--encryption-provider", "aws-lc-rs")
        second = other.start_daemon(*trusting_twice)
        for host in hosts:
            host.wait_ready()
        reaches(one, other)
        send_megabytes(one, other)
        send_megabytes(other, one)
    for host in hosts:
        assert "8285" not in host.space.run("ss", "-uln"), "the backend's port is not open"
        assert "8286" in host.space.run("ss", "-uln")
        # 1500 - 20 - 8 - 32, a multiple of four, without its last two bytes.
        assert "mtu 1438" in host.space.run("ip", "link", "show", "dev", "flannel0")
        assert "FLANNEL_MTU=1438" in host.subnet_file.read_text()
    status = one.status()
    (peer,) = status["peers"]
    said, own = peer["security"], status["encryption"]
    assert (peer["encrypted"], peer["encapsulation"]) == (True, "esp")
    assert (said["mode"], said["state"], said["name"]) == ("encrypted", "confirmed", "other")
    assert said["cipher"] in ("aes-256-gcm", "chacha20-poly1305")
    assert said["endpoint"] == f"{other.address}:8286"
    assert (own["mode"], own["trust"], own["port"]) == ("required", "identities", 8286)
    assert own["public_key"] == keys["one"]
    providers = [host.status()["encryption"]["provider"] for host in hosts]
    assert providers == ["aws-lc-rs", "ring"]
    assert (record(etcd, keys["one"])["Port"], record(etcd, keys["other"])["Port"]) == (8286, 8286)
    # Nobody has seen their leases without keys: both were written at one revision.
    leases, records = revisions(etcd, "subnets"), revisions(etcd, "tunneld/nodes")
    assert leases == records
    text = one.tunneld("status", "--control-socket", str(one.control_socket)).stdout
    assert "crypto:   required by " in text
    assert "not encrypted now" not in text

    wait_until(lambda: path_mtu(one) == ("found", 1438), 30.0, "a path that was probed")

    goes_on_without_the_store(hosts, etcd, first)
    resumes(hosts, second, first, trusting_twice, etcd)
    is_reached_only_while_it_is_trusted(hosts, identities, first, keys)
    moves(hosts)
    is_not_taken_over(one, first, trusting, etcd)
    leaves(one)


def resumes(
    hosts: tuple[SingleHost, SingleHost],
    killed: Process,
    peer: Process,
    options: tuple[str, ...],
    etcd: Etcd,
) -> None:
    """One side is killed and started again: it agrees keys before it is ready, or has tried."""
    one, other = hosts
    key = other.status()["encryption"]["public_key"]
    instance = record(etcd, key)["Instance"]
    agreed = other.directory / "state" / "agreed.json"
    wait_until(agreed.exists, 30.0, "the list of those it is in agreement with")
    killed.kill()
    # Of itself the other side would begin as soon as it hears of a start.
    peer.signal(signal.SIGSTOP)
    started = other.start_daemon(*options, "--network-name", "another")
    other.wait_ready()
    assert security(other)["state"] == "handshake", "no packet has asked for it"
    peer.signal(signal.SIGCONT)
    # Under another name it is of another network, whoever it is.
    wait_until(lambda: one.status()["drops"]["handshake_noise"] > 0, 30.0, "a strange handshake")
    assert not answers(one, other)
    started.kill()
    other.start_daemon(*options)
    other.wait_ready()
    assert security(other)["state"] == "confirmed"
    with only_ciphertext(one, "again"):
        reaches(one, other)
    wait_until(lambda: record(etcd, key)["Instance"] != instance, 30.0, "another instance is told")


def goes_on_without_the_store(
    hosts: tuple[SingleHost, SingleHost], etcd: Etcd, daemon: Process
) -> None:
    """Without a store keys are made anew as ever: handshakes need none."""
    one, other = hosts
    etcd.stop()
    # Those of both sides' starts are over by then.
    wait_until(lambda: security(one)["age_s"] > 3.0, 30.0, "keys that have settled")
    with Capture(one.switch, "port1", OVERLAY, one.directory / "rekey.pcap") as capture:
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: handshakes(capture) >= {1, 2}, 60.0, "initiation and response")
    with only_ciphertext(one, "alone"):
        reaches(one, other)
    etcd.start()


def handshakes(capture: Capture) -> set[int]:
    """Returns the types of the handshake messages that were seen."""
    payloads = [bytes(packet["UDP"].payload) for packet in capture.packets()]
    return {payload[4] for payload in payloads if payload[:4] == bytes(4)}


def is_reached_only_while_it_is_trusted(
    hosts: tuple[SingleHost, SingleHost],
    identities: Path,
    daemon: Process,
    keys: dict[str, str],
) -> None:
    one, other = hosts
    whole = identities.read_text()
    identities.write_text(f"{keys['one']} one\n")
    daemon.signal(signal.SIGHUP)

    def refused() -> str:
        return "\n".join(entry["detail"] for entry in one.status()["refused"])

    wait_until(lambda: f"key {keys['other']} is not among the identities" in refused(), 30.0)
    assert one.status()["peers"] == []
    assert not answers(one, other)
    assert not answers(other, one)
    identities.write_text(whole)
    daemon.signal(signal.SIGHUP)
    with only_ciphertext(one, "trusted"):
        reaches(one, other)


def path_mtu(host: SingleHost) -> tuple[str, int]:
    (peer,) = host.status()["peers"]
    reach = peer["reach"]["ipv4"]
    return reach["path_mtu"], reach["mtu_bytes"]


def moves(hosts: tuple[SingleHost, SingleHost]) -> None:
    """A host that gets another address agrees keys from there, and is found there."""
    one, other = hosts
    address = other.switch_address + 77
    other.space.sysctl("net/ipv4/conf/eth0/promote_secondaries", 1)
    other.space.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
    other.space.run("ip", "address", "del", f"{other.address}/24", "dev", "eth0")
    other.space.run("ip", "route", "replace", "default", "via", str(other.switch_address))
    where = f"{address}:8286"
    wait_until(lambda: security(one).get("endpoint") == where, 60.0, "a peer at its new address")
    with only_ciphertext(one, "moved"):
        reaches(one, other)


def is_not_taken_over(
    one: SingleHost, daemon: Process, options: tuple[str, ...], etcd: Etcd
) -> None:
    """A record under its own id and key that it has not written: a copy of it lives."""
    key = one.status()["encryption"]["public_key"]
    assert daemon.stop() == 0
    (name,) = [
        name
        for name, value in etcd.everything().items()
        if "/tunneld/nodes/" in name and key.encode() in value
    ]
    document = json.loads(etcd.everything()[name])
    document["Encryption"]["Instance"] = "00112233445566aa"
    etcd.put(name, json.dumps(document))
    daemon = one.start_daemon(*options)

    def problems() -> str:
        try:
            return "\n".join(one.status()["problems"])
        except NotRunningError:
            return ""

    wait_until(lambda: "is a copy of the other's" in problems(), 30.0, "a copy that is named")
    assert one.status()["state"] == "starting"
    assert json.loads(etcd.everything()[name]) == document
    assert daemon.stop() == 0
    daemon = one.start_daemon(*options, "--take-over")
    one.wait_ready()
    assert daemon.stop() == 0


def leaves(one: SingleHost) -> None:
    """What stops keeps packets back; who leaves does not."""

    def routes() -> str:
        return one.space.run("ip", "route", "show", "proto", "116")

    assert "unreachable 10.5.0.0/16" in routes()
    with Capture(one.switch, "port1", "net 10.5.0.0/16", one.directory / "stop.pcap") as capture:
        assert one.space.try_run("ping", "-c", "1", "-W", "1", "10.5.200.1").returncode != 0
    assert capture.packets() == []
    done = one.tunneld(
        *("leave", "--etcd-endpoints", one.endpoint, "--subnet-file", str(one.subnet_file)),
        *("--state-dir", str(one.directory / "state")),
        *("--control-socket", str(one.control_socket)),
    )
    assert done.returncode == 0, done.stderr
    assert routes() == ""


def numbers(probes: Process) -> list[int]:
    """Returns which probes were answered, in the order of the answers."""
    return [int(found) for found in re.findall(r"icmp_seq=([0-9]+) ttl", probes.output())]


def test_a_host_that_begins_to_encrypt_loses_no_packet_by_that(
    hosts: tuple[SingleHost, SingleHost], etcd: Etcd
) -> None:
    """Both sides go over while packets pass: neither waits for the other."""
    one, other = hosts
    plain = {"Network": "10.5.0.0/16", "Backend": {"Type": "udp"}}
    etcd.put(f"{PREFIX}/config", json.dumps(plain))
    preferring = ("--encryption-floor", "preferred")
    one.start_daemon(*preferring)
    second = other.start_daemon()
    for host in hosts:
        host.wait_ready()
    reaches(one, other)
    assert security(one)["mode"] == "plain"
    subnet: str = other.status()["lease"]["subnet"]
    assert second.stop() == 0
    address = subnet.partition("/")[0]
    probes = one.space.start("ping", "-i", "0.001", address, log=one.directory / "probes.log")
    other.start_daemon(*preferring)
    other.wait_ready()
    for host in hosts:
        wait_until(lambda h=host: h.status()["peers"][0]["encrypted"], 30.0, "keys in use")  # type: ignore[misc]
    arrived = len(numbers(probes))
    wait_until(lambda: len(numbers(probes)) > arrived + 1000, 30.0, "probes after the switch")
    probes.stop()
    # The start of the daemon is the one gap.
    gaps = [(a, b) for a, b in itertools.pairwise(numbers(probes)) if b - a > 1]
    assert len(gaps) <= 1, gaps
    for host in hosts:
        assert host.status()["drops"]["plain_refused"] == 0

"""What becomes of hosts that encrypt, and of the network between them: no packet in plain.

Needs root, etcd, iproute2, nft, tcpdump and ping.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from testbed.capture import Capture
from testbed.etcd import Etcd
from testbed.netns import Rig
from testbed.process import Process
from testbed.wait import wait_until
from tests.e2e.encryption.test_encryption import answers, own_address, reaches, security
from tests.e2e.single_host import SingleHost
from tests.e2e.site import PREFIX
from tunneld.control.client import NotRunningError

pytestmark = pytest.mark.root

FLOWS = 24
PLAIN = "net 10.0.0.0/8 or udp port 8285 or udp port 8472"

ECHO = """
import socket, sys
taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
taken.bind((sys.argv[1], 7001))
print("listening", flush=True)
while True:
    taken.sendto(*taken.recvfrom(99))
"""
ASK = """
import socket, sys
for number in range(int(sys.argv[2])):
    flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    flow.settimeout(1)
    for _ in range(20):
        flow.sendto(b"?", (sys.argv[1], 7001))
        try:
            flow.recv(9)
            break
        except TimeoutError:
            pass
    else:
        sys.exit(f"flow {number} gets no answer")
"""
HOLD = """
import socket, time
held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
held.bind(("0.0.0.0", 8286))
print("listening", flush=True)
time.sleep(999)
"""


FORGE = """
from scapy.layers.inet import IP, UDP
from scapy.sendrecv import send
inside = IP(src="{inner[0]}", dst="{inner[1]}") / UDP(dport=7) / b"forged"
outside = IP(src="{outer[0]}", dst="{outer[1]}") / UDP(sport=8285, dport=8285)
send(outside / bytes(inside), verbose=False)
"""


def config(mode: str, network: str = "10.5.0.0/16") -> str:
    backend = {"Type": "udp", "Encryption": {"Mode": mode}}
    return json.dumps({"Network": network, "Backend": backend})


@pytest.fixture
def hosts(rig: Rig, host: SingleHost, etcd: Etcd) -> tuple[SingleHost, SingleHost]:
    """Two hosts on links of their own, which a router connects."""
    other = SingleHost(rig, beside=host)
    host.switch.sysctl("net/ipv4/ip_forward", 1)
    etcd.put(f"{PREFIX}/config", config("required"))
    return host, other


def start(host: SingleHost, *options: str) -> Process:
    host.control_socket.unlink(missing_ok=True)
    return host.start_daemon(*options)


def refused(host: SingleHost) -> list[str]:
    try:
        return [one["detail"] for one in host.status()["refused"]]
    except NotRunningError:
        return []


@contextmanager
def nothing_in_plain(hosts: tuple[SingleHost, SingleHost]) -> Iterator[None]:
    """Asserts that neither host's link carries a plain packet, while both send all the time."""
    one, other = hosts
    pings = [
        source.space.start(
            *("ping", "-i", "0.02", own_address(target)), log=source.directory / "pings.log"
        )
        for source, target in ((one, other), (other, one))
    ]
    captures = [Capture(one.switch, port, PLAIN) for port in ("port1", "port2")]
    with captures[0], captures[1]:
        yield
    for ping in pings:
        ping.stop()
    seen = [packet.summary() for capture in captures for packet in capture.packets()]
    assert seen == []


def test_no_plain_packet_leaves_whatever_is_done_to_a_host(
    hosts: tuple[SingleHost, SingleHost], etcd: Etcd
) -> None:
    one, other = hosts
    psk = one.directory / "psk"
    psk.write_text(base64.b64encode(hashlib.sha256(b"not seen yet").digest()).decode())
    psk.chmod(0o600)
    trusting = ("--psk-file", str(psk))
    daemons = [start(host, *trusting) for host in hosts]
    for host in hosts:
        host.wait_ready()
    reaches(one, other)
    # Nothing can keep packets back in the moment in which all routes are gone.
    one.space.run("ip", "route", "flush", "proto", "116")
    wait_until(lambda: "unreachable 10.5.0.0/16" in one.space.run("ip", "route"), 30.0)
    reaches(one, other)
    with nothing_in_plain(hosts):
        # Somebody cleans up: device and rules are gone.
        one.space.run("ip", "link", "del", "flannel0")
        one.space.run("nft", "flush", "ruleset")
        reaches(one, other)
        wait_until(lambda: "fib saddr" in one.space.run("nft", "list", "ruleset"), 30.0)
        # Its network becomes a wider one: what kept its packets back does not stand in the way.
        etcd.put(f"{PREFIX}/config", config("required", "10.0.0.0/8"))
        for daemon, host in zip(daemons, hosts, strict=True):
            assert daemon.stop() == 0
            start(host, *trusting)
        for host in hosts:
            host.wait_ready()
        reaches(one, other)
        routes = one.space.run("ip", "route", "show", "proto", "116")
        assert "unreachable 10.5.0.0/16" in routes
        assert "unreachable 10.0.0.0/8" in routes


def test_a_host_that_cannot_open_its_port_is_not_sent_to_in_plain(
    hosts: tuple[SingleHost, SingleHost], etcd: Etcd
) -> None:
    one, other = hosts
    etcd.put(f"{PREFIX}/config", config("preferred"))
    start(one, "--source-check", "off")
    one.wait_ready()
    holder = other.space.start(sys.executable, "-I", "-c", HOLD, log=other.directory / "hold.log")
    holder.wait_for_output("listening")
    start(other)
    wait_until(lambda: any("names no Port" in detail for detail in refused(one)), 60.0, "refused")
    (refusal,) = one.status()["refused"]
    with Capture(one.switch, "port1", PLAIN) as capture:
        target = refusal["subnet"].partition("/")[0]
        assert one.space.try_run("ping", "-c", "2", "-W", "1", target).returncode != 0
    assert capture.packets() == []
    # Nor does anything plain speak for it, however little sources are checked here.
    outer, inner = (str(other.address), str(one.address)), (target, own_address(one))
    one.switch.run(sys.executable, "-c", FORGE.format(outer=outer, inner=inner))
    wait_until(
        lambda: one.status()["drops"]["plain_refused"] == 1, 20.0, "the refusal of a forgery"
    )
    assert any("holds the port" in problem for problem in other.status()["problems"])
    holder.stop()
    other.wait_ready()
    reaches(one, other)
    assert security(one)["state"] == "confirmed"


def test_each_lane_gets_through_a_translation_of_addresses(
    hosts: tuple[SingleHost, SingleHost],
) -> None:
    """One host is behind it: what was not sent to from there does not get in."""
    one, other = hosts
    for rule in (
        "add table ip nat",
        "add chain ip nat out { type nat hook postrouting priority 100; }",
        "add rule ip nat out oifname port2 udp dport 8286 masquerade fully-random",
        "add chain ip nat in { type filter hook forward priority 0; }",
        "add rule ip nat in iifname port2 udp sport != 2379 ct state new drop",
    ):
        one.switch.run("nft", rule)
    daemons = [start(host, "--workers", "2") for host in hosts]
    for host in hosts:
        host.wait_ready()
    wait_until(lambda: answers(one, other), 30.0, "an answer through the overlay")
    for source, target in ((one, other), (other, one)):
        address = own_address(target)
        server = target.space.start(
            *(sys.executable, "-I", "-c", ECHO, address), log=target.directory / "echo.log"
        )
        server.wait_for_output("listening")
        source.space.run(sys.executable, "-I", "-c", ASK, address, str(FLOWS), timeout_s=90.0)
        server.stop()

    def elsewhere() -> Any:
        return security(other).get("endpoint")

    assert elsewhere() not in (None, f"{one.address}:8286")
    # Either side is started again, and is found again.
    for daemon, host in zip(daemons, hosts, strict=True):
        daemon.kill()
        start(host, "--workers", "2")
        host.wait_ready()
        wait_until(lambda: answers(one, other), 60.0, "an answer")
        wait_until(lambda: answers(other, one), 60.0, "an answer")

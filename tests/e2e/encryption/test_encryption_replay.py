"""Somebody on the way sends again what he has seen of two encrypted hosts: all of it, in every way.

Needs root, etcd, iproute2, tcpdump and ping.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from testbed.capture import Capture
from testbed.etcd import Etcd
from testbed.netns import Rig, inside
from testbed.wait import wait_until
from tests.e2e.single_host import SingleHost
from tests.e2e.site import PREFIX

pytestmark = pytest.mark.root

CONFIG = {
    "Network": "10.5.0.0/16",
    "Backend": {"Type": "udp", "Encryption": {"Mode": "required"}},
}
PINGS = 200
ATTACKS = frozenset(
    {"esp_malformed", "esp_unknown_spi", "esp_forged", "esp_replayed", "esp_sequence", "keepalive"}
    | {"handshake_header", "handshake_length", "handshake_mac1", "handshake_noise"}
    | {"handshake_replayed", "handshake_old", "handshake_unknown_index", "plain_refused"}
)


def own_address(host: SingleHost) -> str:
    subnet: str = host.status()["lease"]["subnet"]
    return subnet.partition("/")[0]


def drops(host: SingleHost) -> Counter[str]:
    """Returns what attacks were counted."""
    return Counter(
        {reason: count for reason, count in host.status()["drops"].items() if reason in ATTACKS}
    )


class Attacker:
    """Who is on the way between two hosts, and sends as either."""

    def __init__(self, one: SingleHost, other: SingleHost) -> None:
        self._hosts = {str(one.address): one, str(other.address): other}
        with inside(one.switch):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.expected = {address: drops(host) for address, host in self._hosts.items()}

    def send(self, packet: Any, payload: bytes, reason: str, *, is_back: bool = False) -> None:
        """Sends another payload in the headers of a packet that was seen, also back to its sender;
        it is to be counted for `reason`."""
        source, target, sport, dport = packet.src, packet.dst, packet.sport, packet.dport
        if is_back:
            source, target, sport, dport = target, source, dport, sport
        made = IP(src=source, dst=target) / UDP(sport=sport, dport=dport) / Raw(payload)
        self._socket.sendto(bytes(made), (target, 0))
        self.expected[target][reason] += 1

    def missing(self) -> dict[str, Counter[str]]:
        """Returns what has not been counted yet, by host."""
        found = {
            address: self.expected[address] - drops(host) for address, host in self._hosts.items()
        }
        return {address: reasons for address, reasons in found.items() if reasons}

    def close(self) -> None:
        self._socket.close()


def send_again(attacker: Attacker, seen: list[Any]) -> None:
    """Sends each datagram again as it was, back, cut, changed, and as another."""
    for packet in seen:
        payload = bytes(packet[UDP].payload)
        is_handshake = payload[:4] == bytes(4)
        if is_handshake:
            again = "handshake_replayed" if payload[4] == 1 else "handshake_unknown_index"
            attacker.send(packet[IP], payload, again)
            attacker.send(packet[IP], payload, "handshake_mac1", is_back=True)
            attacker.send(packet[IP], payload[:-1], "handshake_length")
            attacker.send(packet[IP], payload[:-20] + bytes(20), "handshake_mac1")
            continue
        attacker.send(packet[IP], payload, "esp_replayed")
        attacker.send(packet[IP], payload, "esp_unknown_spi", is_back=True)
        attacker.send(packet[IP], payload[:35], "esp_malformed")
        number = int.from_bytes(payload[4:8]) + 5_000
        ahead = payload[:4] + number.to_bytes(4) + number.to_bytes(8) + payload[16:]
        attacker.send(packet[IP], ahead, "esp_forged")
        # A dummy is as short as can be.
        cut = "esp_malformed" if len(ahead) == 36 else "esp_forged"
        attacker.send(packet[IP], ahead[:-1], cut)
        attacker.send(packet[IP], ahead + bytes(4), "esp_forged")


def test_what_was_seen_on_the_way_is_of_no_use(rig: Rig, host: SingleHost, etcd: Etcd) -> None:
    one, other = host, SingleHost(rig, beside=host)
    one.switch.sysctl("net/ipv4/ip_forward", 1)
    etcd.put(f"{PREFIX}/config", json.dumps(CONFIG))
    with Capture(one.switch, "port1", "udp port 8286", one.directory / "seen.pcap") as capture:
        for each in (one, other):
            each.start_daemon()
        for each in (one, other):
            each.wait_ready()
        target = own_address(other)
        wait_until(
            lambda: one.space.try_run("ping", "-c", "1", "-W", "1", target).returncode == 0,
            30.0,
            "an answer through the overlay",
        )
        one.space.run("ping", "-q", "-i", "0.01", "-c", "50", target, timeout_s=60.0)
    seen = capture.packets()
    kinds = {bytes(packet[UDP].payload)[4] for packet in seen if _is_handshake(packet)}
    assert kinds == {1, 2}, "both messages of a handshake"
    attacker = Attacker(one, other)
    delivered = Capture(other.space, "flannel0", "icmp", one.directory / "delivered.pcap")
    log = one.directory / "ping.log"
    with delivered:
        ping = one.space.start("ping", "-i", "0.01", "-c", str(PINGS), target, log=log)
        send_again(attacker, seen)
        wait_until(lambda: not attacker.missing(), 30.0, "every hostile datagram counted")
        wait_until(lambda: "packets transmitted" in log.read_text(), 60.0, "the last ping")
        ping.stop()
    attacker.close()
    for address, each in ((str(one.address), one), (str(other.address), other)):
        assert drops(each) == attacker.expected[address]
    assert f"{PINGS} packets transmitted, {PINGS} received, 0% packet loss" in log.read_text()
    requests = [packet for packet in delivered.packets() if packet["ICMP"].type == 8]
    numbers = Counter((packet["ICMP"].id, packet["ICMP"].seq) for packet in requests)
    assert len(numbers) == PINGS
    assert set(numbers.values()) == {1}, "each came once, and nothing else"


def _is_handshake(packet: Any) -> bool:
    return bytes(packet[UDP].payload)[:4] == bytes(4)

"""Sends packets and collects what comes back; run with Python inside a namespace.

Reads one JSON object from stdin, writes one to stdout; packets are hex. Needs nothing but the
standard library.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from typing import Any

IP_MTU_DISCOVER = 10
IP_PMTUDISC_DONT = 0
IP_PMTUDISC_PROBE = 3
IPV6_MTU_DISCOVER = 23
IPV6_PMTUDISC_PROBE = 3


def datagram(order: dict[str, Any]) -> list[str]:
    """Sends UDP payloads from `source` to `target`, fragmented by the kernel where needed."""
    family = socket.AF_INET6 if ":" in order["target"] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        if family == socket.AF_INET:
            sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        # A hostile host minds no packet filter: its datagrams pass our own as the data path's do.
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x1000)
        sender.bind((order["source"], 0))
        for payload in order["payloads"]:
            sender.sendto(bytes.fromhex(payload), (order["target"], order["port"]))
    return []


def udp_ports(sender: socket.socket) -> bytes:
    """Returns how the UDP header of what `sender` sends to port 9 begins.

    What an earlier probe has caused may arrive late; its source port was another.
    """
    return struct.pack("!HH", sender.getsockname()[1], 9)


def icmp_answers(order: dict[str, Any]) -> list[str]:
    """Sends a DF datagram of `size` bytes (IP) with `ttl`; returns the ICMP errors that arrive."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        # PROBE sets DF and ignores what the kernel has learnt of the path.
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, order["ttl"])
        deadline = time.monotonic() + order["timeout_s"]
        sender.bind(("", 0))
        mark = udp_ports(sender)
        answers: list[str] = []
        while not answers and (left := deadline - time.monotonic()) > 0:
            sender.sendto(bytes(order["size"] - 28), (order["target"], 9))
            while select.select([listener], [], [], min(left, 0.2))[0]:
                packet = listener.recv(65535)
                if packet[48:52] == mark:  # behind two IPv4 headers and that of ICMP
                    answers.append(packet.hex())
                    break
    return answers


def icmp6_answers(order: dict[str, Any]) -> list[str]:
    """As `icmp_answers` over IPv6; each answer is its source and, behind a blank, its bytes."""
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as listener,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender,
    ):
        sender.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, order["ttl"])
        sender.bind(("", 0))
        mark = udp_ports(sender)
        deadline = time.monotonic() + order["timeout_s"]
        answers: list[str] = []
        while not answers and (left := deadline - time.monotonic()) > 0:
            sender.sendto(bytes(order["size"] - 48), (order["target"], 9))
            while select.select([listener], [], [], min(left, 0.2))[0]:
                packet, source = listener.recvfrom(65535)
                # RFC 4443 section 2.1: an error; 3.1: it quotes the packet from octet 8 on.
                if packet[0] < 128 and packet[48:52] == mark:
                    answers.append(f"{source[0]} {packet.hex()}")
                    break
        return answers


if __name__ == "__main__":
    order = json.load(sys.stdin)
    work = {
        "datagram": datagram,
        "icmp_answers": icmp_answers,
        "icmp6_answers": icmp6_answers,
    }[order.pop("do")]
    json.dump(work(order), sys.stdout)

"""VXLAN against a bare kernel vxlan device: what each sends, the other takes whole."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from testbed.netns import Namespace, Rig
from tests.native.hosts import keep_order
from tests.native.transfer import transfer
from tests.native.tunnels import Tunnel, tunnel

pytestmark = pytest.mark.root

SIZE = 20_000_000


@pytest.fixture(params=[("wire", 4), ("gso", 4), ("wire", 6), ("gso", 6)], ids=str)
def ends(rig: Rig, request: pytest.FixtureRequest) -> Iterator[Tunnel]:
    flavour, family = request.param
    with tunnel(rig, flavour, family) as made:
        yield made


def test_tcp_arrives_whole_both_ways_with_offloads_on(ends: Tunnel) -> None:
    assert set(ends.user.engine.offloads().values()) == {"on"}
    transfer(ends.user.container, ends.container, "10.5.2.2", SIZE)
    transfer(ends.container, ends.user.container, "10.5.1.2", SIZE)
    transfer(ends.user.container, ends.container, "fd00:5:2::2", SIZE)
    transfer(ends.container, ends.user.container, "fd00:5:1::2", SIZE)
    # Also to and from the hosts themselves.
    transfer(ends.user.space, ends.kernel, "10.5.2.0", SIZE)
    transfer(ends.kernel, ends.user.space, "10.5.1.0", SIZE)
    assert ends.user.drops() == {}
    assert ends.user.engine.drain_events() == []
    assert set(ends.user.engine.offloads().values()) == {"on"}


def inbound(ends: Tunnel) -> tuple[int, int]:
    """Packets and bytes that the engine received."""
    [_, reading] = ends.user.engine.counters()["workers"]
    return reading["packets"], reading["bytes"]


def test_super_packets_of_the_kernel_arrive_in_one_datagram_where_the_link_is_virtual(
    ends: Tunnel,
) -> None:
    """That the transfers above meet what they are to meet."""
    transfer(ends.container, ends.user.container, "10.5.1.2", SIZE)
    packets, size = inbound(ends)
    frame = ends.mtu_bytes + 22
    if ends.flavour == "gso":
        # How much more is the sender's to say: on a slow path it sends less at once.
        assert size / packets > frame
    else:
        assert 1_000 < size / packets <= frame


RECEIVE_DATAGRAMS = """
import select, socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
s.bind(("::", 9))
print("bound", flush=True)
got = []
while len(got) < int(sys.argv[1]) and select.select([s], [], [], 60)[0]:
    got.append(s.recv(70_000))
print([data[0] for data in got] == [n % 256 for n in range(len(got))],
      sorted({len(data) for data in got}), len(got), flush=True)
"""

SEND_TRAINS = """
import os, socket, sys
# Moved to another processor, a sender may overtake himself.
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.setsockopt(17, 103, 1_000)  # UDP_SEGMENT
for first in range(0, int(sys.argv[2]), 40):
    s.sendto(b"".join(bytes([(first + n) % 256] * 1_000) for n in range(40)), (sys.argv[1], 9))
"""


@pytest.mark.parametrize("direction", ["from the kernel", "to the kernel"])
def test_trains_of_an_application_come_apart_into_its_datagrams(
    ends: Tunnel, direction: str
) -> None:
    keep_order(ends.user.engine)
    source, destination, number = ends.container, ends.user.container, 1
    if direction == "to the kernel":
        source, destination, number = destination, source, 2
    for address in (f"10.5.{number}.2", f"fd00:5:{number}::2"):
        # The neighbours get to know each other: a queue that waits for that is short.
        source.run("ping", "-n", "-c", "1", "-W", "30", address)
        receiver = destination.start(sys.executable, "-c", RECEIVE_DATAGRAMS, "400")
        receiver.wait_for_output("bound")
        source.run(sys.executable, "-c", SEND_TRAINS, address, "400")
        receiver.wait_for_output("True [1000] 400")
    assert ends.user.drops() == {}


def test_the_tunnel_itself_takes_no_hop(ends: Tunnel) -> None:
    for address in ("10.5.2.2", "fd00:5:2::2"):
        output = ends.user.container.run("ping", "-n", "-c", "1", "-W", "30", address)
        # Two hosts forward.
        assert re.findall(r"ttl=(\d+)", output) == ["62"]


def told_to_send_less(space: Namespace) -> int:
    """Returns how many frag-needed and packet-too-big a host has sent."""
    counted = space.run("nstat", "-az", "IcmpOutDestUnreachs", "Icmp6OutPktTooBigs")
    return sum(int(line.split()[1]) for line in counted.splitlines() if line[:1] != "#")


def test_super_packets_are_cut_as_a_receiver_of_smaller_packets_asked(ends: Tunnel) -> None:
    for space, device in ((ends.user.space, "cni0"), (ends.user.container, "eth0")):
        space.run("ip", "link", "set", device, "mtu", "1300")
    for address in ("10.5.1.2", "fd00:5:1::2"):
        transfer(ends.container, ends.user.container, address, SIZE // 4)
    assert told_to_send_less(ends.user.space) == 0
    assert ends.user.drops() == {}


def test_super_packets_are_cut_as_a_router_behind_the_tunnel_asked(ends: Tunnel) -> None:
    ends.user.space.run("ip", "link", "set", "cni0", "mtu", "1300")
    for address in ("10.5.1.2", "fd00:5:1::2"):
        transfer(ends.container, ends.user.container, address, SIZE // 4)
    # Once for each connection, and for what was on its way.
    assert 2 <= told_to_send_less(ends.user.space) < 100
    assert ends.user.drops() == {}


def test_tcp_by_segment_routing_arrives_whole(ends: Tunnel) -> None:
    """The headers of RFC 8754, put in by the container: the checksum covers the last segment."""
    for space in (ends.user.space, ends.user.container, ends.container):
        for device in space.run("ls", "/proc/sys/net/ipv6/conf").split():
            space.sysctl(f"net/ipv6/conf/{device}/seg6_enabled", 1)
    inline = ("encap", "seg6", "mode", "inline", "segs", "fd00:5:1::1")
    way = ("via", "fd00:5:2::1", "dev", "eth0", "mtu", "1300")
    ends.container.run("ip", "-6", "route", "add", "fd00:5:1::2", *inline, *way)
    transfer(ends.container, ends.user.container, "fd00:5:1::2", SIZE // 4)
    assert ends.user.drops() == {}


def test_tcp_in_packets_of_segment_routing_arrives_whole(ends: Tunnel) -> None:
    """Whole packets in packets, with a routing header between them (RFC 8754)."""
    ways = ((ends.user.container, 1, 2), (ends.container, 2, 1))
    for space, near, far in ways:
        for device in ("all", "eth0"):
            space.sysctl(f"net/ipv6/conf/{device}/seg6_enabled", 1)
        space.add_ipv6(f"fd00:77::{near}/128", "lo")
        outer = ("encap", "seg6", "mode", "encap", "segs", f"fd00:5:{far}::2")
        way = ("dev", "eth0", "mtu", "1280", "src", f"fd00:77::{near}")
        space.run("ip", "-6", "route", "add", f"fd00:77::{far}", *outer, *way)
    transfer(ends.container, ends.user.container, "fd00:77::1", SIZE // 4)
    transfer(ends.user.container, ends.container, "fd00:77::2", SIZE // 4)
    assert ends.user.drops() == {}


def test_a_containers_own_tunnel_inside_the_tunnel_arrives_whole(ends: Tunnel) -> None:
    nested = ("type", "vxlan", "id", "9", "dstport", "4789", "udpcsum")
    for family, near, far in ((4, "10.5.1.2", "10.5.2.2"), (6, "fd00:5:1::2", "fd00:5:2::2")):
        device = f"nested{family}"
        places = ((ends.user.container, near, far), (ends.container, far, near))
        for number, (space, local, remote) in enumerate(places, 1):
            way = ("local", local, "remote", remote)
            space.run("ip", "link", "add", device, "mtu", "1300", *nested, *way)
            space.run("ip", "link", "set", device, "up")
            space.run("ip", "address", "add", f"10.{family}.0.{number}/24", "dev", device)
        transfer(ends.container, ends.user.container, f"10.{family}.0.1", SIZE // 4)
        transfer(ends.user.container, ends.container, f"10.{family}.0.2", SIZE // 4)
    assert ends.user.drops() == {}


def test_tcp_behind_long_destination_options_is_joined_and_cut_like_any_other(
    ends: Tunnel,
) -> None:
    # 128 bytes: an option that is skipped where it is unknown (RFC 4727).
    options = bytes([0, 15, 0x1E, 124]) + bytes(124)
    transfer(ends.user.container, ends.container, "fd00:5:2::2", SIZE // 4, options)
    [outbound, _] = ends.user.engine.counters()["workers"]
    assert outbound["bytes"] / outbound["packets"] > ends.mtu_bytes
    transfer(ends.container, ends.user.container, "fd00:5:1::2", SIZE // 4, options)
    assert ends.user.drops() == {}

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from tests.support.capture import Capture
from tests.support.netns import Namespace, Rig
from tests.support.wait import wait_until
from tests.unit.host.conftest import inside, refusal, without
from tunneld.errors import HostError, PortInUseError
from tunneld.host.sockets import (
    IP_MTU_DISCOVER,
    IP_PMTUDISC_DO,
    RECEIVE_BUFFER_BYTES,
    SEND_BUFFER_BYTES,
    open_icmp_socket,
    open_underlay_sockets,
)

pytestmark = pytest.mark.root

LOCAL = IPv4Address("127.0.0.1")
PORT = 8285


@pytest.fixture
def in_space(space: Namespace) -> Iterator[Namespace]:
    with inside(space):
        yield space


def close_all(sockets: list[socket.socket]) -> None:
    for opened in sockets:
        opened.close()


def test_socket_is_bound_to_the_address_and_sends_with_df(in_space: Namespace) -> None:
    (opened,) = sockets = open_underlay_sockets(LOCAL, PORT, 1)
    assert opened.getsockname() == ("127.0.0.1", 8285)
    assert not opened.getblocking()
    assert opened.getsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER) == IP_PMTUDISC_DO
    with Capture(in_space, "lo", "udp") as capture:
        opened.sendto(b"datagram", ("127.0.0.1", PORT))
        packet = wait_until(capture.packets)[0]["IP"]
    assert "DF" in packet.flags
    assert packet["UDP"].chksum != 0
    close_all(sockets)


def test_buffers_go_past_the_systems_limit(in_space: Namespace) -> None:
    (opened,) = sockets = open_underlay_sockets(LOCAL, PORT, 1)
    wanted = {socket.SO_RCVBUF: RECEIVE_BUFFER_BYTES, socket.SO_SNDBUF: SEND_BUFFER_BYTES}
    for option, size_bytes in wanted.items():
        assert opened.getsockopt(socket.SOL_SOCKET, option) == 2 * size_bytes  # socket(7)
    close_all(sockets)


def test_without_net_admin_the_socket_opens_with_the_buffers_it_gets(space: Namespace) -> None:
    code = (
        "from tunneld.host.sockets import open_underlay_sockets as o; "
        "from ipaddress import IPv4Address as A; o(A('127.0.0.1'), 8285, 1)"
    )
    assert refusal(code, *space.command(*without("net_admin"))) == "done"


def test_arriving_flows_spread_over_several_sockets(in_space: Namespace) -> None:
    sockets = open_underlay_sockets(LOCAL, PORT, 2)
    for _ in range(64):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"flow", ("127.0.0.1", PORT))
    counts = []
    for opened in sockets:
        count = 0
        while True:
            try:
                opened.recv(100)
            except BlockingIOError:
                break
            count += 1
        counts.append(count)
    assert sum(counts) == 64
    assert min(counts) > 0
    close_all(sockets)


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "with SO_REUSEPORT"])
@pytest.mark.parametrize("count", [1, 2])
def test_port_held_by_another_is_refused_and_named(
    in_space: Namespace, shares: bool, count: int
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares))
        holder.bind(("0.0.0.0", PORT))
        with pytest.raises(PortInUseError, match=r"UDP 127\.0\.0\.1:8285.*ss -ulpn"):
            open_underlay_sockets(LOCAL, PORT, count)


@pytest.mark.parametrize("count", [1, 2])
def test_second_daemon_finds_the_port_in_use(in_space: Namespace, count: int) -> None:
    sockets = open_underlay_sockets(LOCAL, PORT, count)
    for other in (1, 2):
        with pytest.raises(PortInUseError):
            open_underlay_sockets(LOCAL, PORT, other)
    close_all(sockets)
    close_all(open_underlay_sockets(LOCAL, PORT, count))


def test_address_of_another_host_is_refused(in_space: Namespace) -> None:
    with pytest.raises(HostError, match=r"192\.0\.2\.7:8285: this host does not have the address"):
        open_underlay_sockets(IPv4Address("192.0.2.7"), PORT, 1)


def test_privileged_port_without_its_capability_is_refused(space: Namespace) -> None:
    code = (
        "from tunneld.host.sockets import open_underlay_sockets as o; "
        "from ipaddress import IPv4Address as A; o(A('127.0.0.1'), 53, 1)"
    )
    said = refusal(code, *space.command(*without("net_bind_service")))
    assert said.startswith("CapabilityError: cannot bind UDP 127.0.0.1:53: not permitted")


def test_icmp_socket_sends_whole_packets_and_receives_nothing(rig: Rig) -> None:
    near, far = rig.namespace("near"), rig.namespace("far")
    rig.link(near, "eth0", far, "eth0", first_address="192.0.2.1/24", second_address="192.0.2.2/24")
    from scapy.layers.inet import ICMP, IP, UDP

    offender = IP(src="192.0.2.2", dst="10.5.2.5") / UDP(sport=1, dport=2)
    packet = IP(src="10.5.1.0", dst="192.0.2.2", ttl=64) / ICMP(type=3, code=0) / bytes(offender)
    with inside(near), open_icmp_socket() as opened, Capture(far, "eth0", "icmp") as capture:
        near.run("ping", "-c", "1", "-W", "5", "192.0.2.2")
        opened.sendto(bytes(packet), ("192.0.2.2", 0))
        wait_until(lambda: any(p["ICMP"].type == 3 for p in capture.packets()), what="the error")
        with pytest.raises(BlockingIOError):
            opened.recv(100)
    (seen,) = (p["IP"] for p in capture.packets() if p["ICMP"].type == 3)
    assert (seen.src, seen.dst) == ("10.5.1.0", "192.0.2.2")


def test_icmp_socket_without_its_capability_is_refused(space: Namespace) -> None:
    code = "from tunneld.host.sockets import open_icmp_socket as o; o()"
    said = refusal(code, *space.command(*without("net_raw")))
    assert said.startswith("CapabilityError: cannot open a raw IPv4 socket")
    assert "CAP_NET_RAW" in said

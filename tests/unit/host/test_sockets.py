from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

import pytest

from testbed.capture import Capture
from testbed.netns import Namespace, Rig, inside
from testbed.wait import wait_until
from tests.unit.host.conftest import refusal, without
from tunneld.errors import HostError, PortInUseError
from tunneld.host.sockets import (
    IP_MTU_DISCOVER,
    PMTUDISC_DO,
    RECEIVE_BUFFER_BYTES,
    SEND_BUFFER_BYTES,
    WorkerSockets,
    open_encryption_sockets,
    open_icmp6_socket,
    open_icmp_socket,
    open_underlay_sockets,
)

pytestmark = pytest.mark.root

LOCAL = IPv4Address("127.0.0.1")
LOCAL_V6 = IPv6Address("::1")
PORT = 8285


@pytest.fixture
def in_space(space: Namespace) -> Iterator[Namespace]:
    with inside(space):
        yield space


def close_all(sockets: list[WorkerSockets]) -> None:
    for worker in sockets:
        worker.close()


def test_socket_is_bound_to_the_address_and_sends_with_df(in_space: Namespace) -> None:
    sockets = open_underlay_sockets([LOCAL], PORT, 1)
    (opened,) = sockets[0].ipv4
    assert opened.getsockname() == ("127.0.0.1", 8285)
    assert not opened.getblocking()
    assert opened.getsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER) == PMTUDISC_DO
    with Capture(in_space, "lo", "udp") as capture:
        opened.sendto(b"datagram", ("127.0.0.1", PORT))
        packet = wait_until(capture.packets)[0]["IP"]
    assert "DF" in packet.flags
    assert packet["UDP"].chksum != 0
    close_all(sockets)


def test_buffers_go_past_the_systems_limit(in_space: Namespace) -> None:
    sockets = open_underlay_sockets([LOCAL], PORT, 1)
    (opened,) = sockets[0].ipv4
    wanted = {socket.SO_RCVBUF: RECEIVE_BUFFER_BYTES, socket.SO_SNDBUF: SEND_BUFFER_BYTES}
    for option, size_bytes in wanted.items():
        assert opened.getsockopt(socket.SOL_SOCKET, option) == 2 * size_bytes  # socket(7)
    close_all(sockets)


def test_without_net_admin_the_socket_opens_with_the_buffers_it_gets(space: Namespace) -> None:
    code = (
        "from tunneld.host.sockets import open_underlay_sockets as o; "
        "from ipaddress import IPv4Address as A; o([A('127.0.0.1')], 8285, 1)"
    )
    assert refusal(code, *space.command(*without("net_admin"))) == "done"


def test_arriving_flows_spread_over_several_sockets(in_space: Namespace) -> None:
    sockets = open_underlay_sockets([LOCAL], PORT, 2)
    for _ in range(64):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"flow", ("127.0.0.1", PORT))
    counts = [0, 0]

    def have_all_come() -> bool:
        for number, worker in enumerate(sockets):
            counts[number] += len(sources_of_what_came(worker))
        return sum(counts) >= 64

    wait_until(have_all_come, what="64 datagrams")
    assert sum(counts) == 64
    assert min(counts) > 0
    close_all(sockets)


def sources_of_what_came(worker: WorkerSockets) -> list[int]:
    """Returns the source port of each datagram that lies at the worker's port; takes them away."""
    found = []
    while True:
        try:
            found.append(worker_sockets(worker)[0].recvfrom(100)[1][1])
        except BlockingIOError:
            return found


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "with SO_REUSEPORT"])
@pytest.mark.parametrize("count", [1, 2])
def test_port_held_by_another_is_refused_and_named(
    in_space: Namespace, shares: bool, count: int
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares))
        holder.bind(("0.0.0.0", PORT))
        with pytest.raises(PortInUseError, match=r"UDP 127\.0\.0\.1:8285.*ss -ulpn"):
            open_underlay_sockets([LOCAL], PORT, count)


@pytest.mark.parametrize("count", [1, 2])
def test_second_daemon_finds_the_port_in_use(in_space: Namespace, count: int) -> None:
    sockets = open_underlay_sockets([LOCAL], PORT, count)
    for other in (1, 2):
        with pytest.raises(PortInUseError):
            open_underlay_sockets([LOCAL], PORT, other)
    close_all(sockets)
    close_all(open_underlay_sockets([LOCAL], PORT, count))


def test_address_of_another_host_is_refused(in_space: Namespace) -> None:
    with pytest.raises(HostError, match=r"192\.0\.2\.7:8285: this host does not have the address"):
        open_underlay_sockets([IPv4Address("192.0.2.7")], PORT, 1)


def test_privileged_port_without_its_capability_is_refused(space: Namespace) -> None:
    code = (
        "from tunneld.host.sockets import open_underlay_sockets as o; "
        "from ipaddress import IPv4Address as A; o([A('127.0.0.1')], 53, 1)"
    )
    said = refusal(code, *space.command(*without("net_bind_service")))
    assert said.startswith("CapabilityError: cannot bind UDP 127.0.0.1:53: not permitted")


def test_ipv6_socket_is_bound_to_its_family_and_sends_nothing_in_fragments(
    in_space: Namespace,
) -> None:
    sockets = open_underlay_sockets([LOCAL, LOCAL_V6], PORT, 2)
    for worker in sockets:
        assert [one.getsockname()[:2] for one in worker.ipv4] == [("127.0.0.1", 8285)]
        assert [one.getsockname()[:2] for one in worker.ipv6] == [("::1", 8285)]
        assert worker.descriptors() == {
            "ipv4": [worker.ipv4[0].fileno()],
            "ipv6": [worker.ipv6[0].fileno()],
            "ipv4_sidings": [one.fileno() for one in worker.ipv4_sidings],
            "ipv6_sidings": [one.fileno() for one in worker.ipv6_sidings],
        }
    (opened,) = sockets[0].ipv6
    assert not opened.getblocking()
    assert opened.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    in_space.run("ip", "link", "set", "lo", "mtu", "1300")
    with Capture(in_space, "lo", "ip6 and udp") as capture:
        with pytest.raises(OSError, match="Message too long"):
            opened.sendto(bytes(1300 - 48 + 1), ("::1", PORT))
        opened.sendto(bytes(1300 - 48), ("::1", PORT))
        packet = wait_until(capture.packets)[0]["IPv6"]
    assert packet.nh == socket.IPPROTO_UDP  # no fragment header
    assert packet["UDP"].chksum != 0
    close_all(sockets)


@pytest.mark.parametrize("address", [LOCAL, LOCAL_V6], ids=["IPv4", "IPv6"])
def test_flows_leave_by_ports_of_their_own_and_nothing_comes_in_there(
    in_space: Namespace, address: IPv4Address | IPv6Address
) -> None:
    sockets = open_underlay_sockets([address], PORT, 2, source_ports=4)
    receiving = {worker_sockets(worker)[0].getsockname()[1] for worker in sockets}
    sending = [one for worker in sockets for one in worker_sockets(worker)[1:]]
    ports = {one.getsockname()[1] for one in sending}
    assert receiving == {PORT}
    assert len(sending) == 8
    assert len(ports) == 8
    assert not ports & {PORT, 0}
    for one in sending:
        assert not one.getblocking()
        one.sendto(b"out", (str(address), PORT))
        with socket.socket(one.family, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"in", one.getsockname())
        with pytest.raises(BlockingIOError):
            one.recv(100)
    sources: set[int] = set()

    def have_all_come() -> bool:
        for worker in sockets:
            sources.update(sources_of_what_came(worker))
        return len(sources) >= len(ports)

    wait_until(have_all_come, what="a datagram of each socket")
    assert sources == ports
    close_all(sockets)


def test_each_worker_encrypts_by_a_port_of_its_own_and_the_first_by_the_port_itself(
    in_space: Namespace,
) -> None:
    sockets = open_encryption_sockets([LOCAL, LOCAL_V6], 8286, 3)
    for family in ("ipv4", "ipv6"):
        ports = [[one.getsockname()[1] for one in getattr(worker, family)] for worker in sockets]
        assert [of_worker[0] for of_worker in ports] == [8286, 8286, 8286]
        senders = [port for of_worker in ports for port in of_worker[1:]]
        assert [len(of_worker) for of_worker in ports] == [1, 2, 2]
        assert len({8286, *senders}) == 3
        # What is set aside leaves by the port of its worker, too.
        aside = [
            {one.getsockname()[1] for one in getattr(worker, f"{family}_sidings")}
            for worker in sockets
        ]
        assert aside == [{8286}, {senders[0]}, {senders[1]}]
    with pytest.raises(PortInUseError, match=r"8286.*another Backend\.Encryption\.Port"):
        open_encryption_sockets([LOCAL], 8286, 1)
    close_all(sockets)


def test_a_lane_arrives_at_one_worker_whatever_port_it_comes_from(in_space: Namespace) -> None:
    sockets = open_encryption_sockets([LOCAL, LOCAL_V6], 8286, 3)
    for family, address in (("ipv4", LOCAL), ("ipv6", LOCAL_V6)):
        receivers = [getattr(worker, family)[0] for worker in sockets]
        for lane in range(64):
            kind = socket.AF_INET if address.version == 4 else socket.AF_INET6
            with socket.socket(kind, socket.SOCK_DGRAM) as sender:
                sender.sendto(bytes([0xC1, 2, 3, 0x40 | lane]) + bytes(40), (str(address), 8286))
            assert [came(one) for one in receivers] == [
                44 if place == lane % 3 else None for place in range(3)
            ]
        # Messages of the handshake, and what has no SPI.
        for datagram in (bytes(204), b"\xff"):
            with socket.socket(kind, socket.SOCK_DGRAM) as sender:
                sender.sendto(datagram, (str(address), 8286))
            assert [came(one) for one in receivers] == [len(datagram), None, None]
    close_all(sockets)


def came(receiver: socket.socket) -> int | None:
    """Returns the length of the datagram that has come: over the loopback they come at once."""
    try:
        return len(receiver.recv(2000))
    except BlockingIOError:
        return None


def worker_sockets(worker: WorkerSockets) -> list[socket.socket]:
    return worker.ipv4 or worker.ipv6


def test_kernel_device_that_holds_the_port_is_named(in_space: Namespace) -> None:
    in_space.bridge("eth0", "192.0.2.1/24")
    settings = "id 7 local 192.0.2.1 dev eth0 dstport 8285"
    in_space.run("ip", "link", "add", "vx7", "type", "vxlan", *settings.split())
    in_space.run("ip", "link", "set", "vx7", "up")
    with pytest.raises(PortInUseError, match=r"no process, hence the kernel .*type vxlan"):
        open_underlay_sockets([LOCAL], PORT, 1)


def test_second_family_that_fails_leaves_no_socket_of_the_first(in_space: Namespace) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as holder:
        holder.bind(("::1", PORT))
        with pytest.raises(PortInUseError, match=r"UDP \[::1\]:8285: process \d+ "):
            open_underlay_sockets([LOCAL, LOCAL_V6], PORT, 1)
    close_all(open_underlay_sockets([LOCAL, LOCAL_V6], PORT, 1))


def test_icmp6_socket_leaves_source_and_checksum_to_the_kernel_and_receives_nothing(
    rig: Rig,
) -> None:
    near, far = rig.namespace("near"), rig.namespace("far")
    rig.link(near, "eth0", far, "eth0")
    near.run("ip", "address", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
    far.run("ip", "address", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
    from scapy.layers.inet import UDP
    from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6

    offender = IPv6(src="2001:db8::2", dst="fd00:5:2::5") / UDP(sport=1, dport=2)
    message = bytes(ICMPv6DestUnreach(cksum=0)) + bytes(offender)
    with inside(near), open_icmp6_socket() as opened, Capture(far, "eth0", "icmp6") as capture:
        near.wait_for_answer("2001:db8::2")
        opened.sendto(message, ("2001:db8::2", 0))
        wait_until(lambda: any(ICMPv6DestUnreach in p for p in capture.packets()), what="the error")
        with pytest.raises(BlockingIOError):
            opened.recv(100)
    (seen,) = (p["IPv6"] for p in capture.packets() if ICMPv6DestUnreach in p)
    assert (seen.src, seen.dst) == ("2001:db8::1", "2001:db8::2")
    rebuilt = seen.copy()
    del rebuilt[ICMPv6DestUnreach].cksum
    assert bytes(rebuilt) == bytes(seen)


def test_icmp_socket_sends_whole_packets_and_receives_nothing(rig: Rig) -> None:
    near, far = rig.namespace("near"), rig.namespace("far")
    rig.link(near, "eth0", far, "eth0", first_address="192.0.2.1/24", second_address="192.0.2.2/24")
    from scapy.layers.inet import ICMP, IP, UDP

    offender = IP(src="192.0.2.2", dst="10.5.2.5") / UDP(sport=1, dport=2)
    packet = IP(src="10.5.1.0", dst="192.0.2.2", ttl=64) / ICMP(type=3, code=0) / bytes(offender)
    with inside(near), open_icmp_socket() as opened, Capture(far, "eth0", "icmp") as capture:
        near.wait_for_answer("192.0.2.2")
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


def test_sidings_have_the_ports_that_send_and_are_found_by_nothing_that_arrives(
    in_space: Namespace,
) -> None:
    sockets = open_underlay_sockets([LOCAL, LOCAL_V6], PORT, 2, source_ports=4)
    places = set()
    for worker in sockets:
        for own, sidings in (
            (worker.ipv4, worker.ipv4_sidings),
            (worker.ipv6, worker.ipv6_sidings),
        ):
            ports = [opened.getsockname()[1] for opened in own[1:]]
            found = [opened.getsockname()[:2] for opened in sidings]
            assert [port for _, port in found] == ports * 8
            places.update(found)
    assert len(places) == 2 * 64, "no two in the same place"
    assert {ip_address(address) in IPv4Network("127.83.0.0/16") for address, _ in places} == {
        *(True, False)
    }
    close_all(sockets)


def test_a_second_address_has_sidings_on_the_same_port(in_space: Namespace) -> None:
    sockets = [
        *open_underlay_sockets([LOCAL], PORT, 1),
        *open_underlay_sockets([IPv4Address("127.0.0.9")], PORT, 1),
    ]
    assert [len(worker.ipv4_sidings) for worker in sockets] == [64, 64]
    close_all(sockets)


def test_where_descriptors_run_out_there_are_whole_sidings_or_none(space: Namespace) -> None:
    code = (
        "import resource; from tunneld.host.sockets import open_underlay_sockets as o; "
        "from ipaddress import IPv4Address as A; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)); "
        "[w] = o([A('127.0.0.1')], 8285, 1, source_ports=4); "
        "assert 0 < len(w.ipv4_sidings) < 40 and len(w.ipv4_sidings) % 4 == 0"
    )
    assert refusal(code, *space.command()).endswith("done")

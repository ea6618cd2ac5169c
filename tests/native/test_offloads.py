"""Super-packets, trains, and what happens where the kernel refuses them."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.native.conftest import PeerSocket
from tests.native.hosts import (
    PORT,
    TIMEOUT_S,
    Host,
    adjacency,
    dual_stack,
    in_order,
    inside,
    network,
    open_tun,
    over_ipv4,
    pause,
    raw_icmp_socket,
    settings,
    udp_socket,
)
from tests.native.older_kernel import refuse_uso
from tests.native.packets import inner, sized
from tests.native.super_packets import (
    KernelSegmentation,
    kernel_segmentation,
    tcp_super_packet,
    tcp_super_packet_v6,
    udp_super_packet,
    udp_super_packet_v6,
    vnet_header,
)
from tests.support.netns import Namespace, Rig
from tests.support.wait import wait_until
from tunneld import _native
from tunneld.errors import EngineError

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
SO_NO_CHECK = 11
DISCARD = 9
"""The port of the datagrams in `tests.native.packets`."""
NAMES = ["tun_tso", "tun_uso", "udp_gso", "udp_gro", "coalesce_tcp", "coalesce_udp"]


@pytest.fixture(scope="module")
def kernel(module_rig: Rig) -> Iterator[KernelSegmentation]:
    with kernel_segmentation(module_rig.namespace("kernel")) as made:
        yield made


def payload(size: int) -> bytes:
    return bytes((place * 7 + place // 251) & 0xFF for place in range(size))


SUPER_PACKETS = {
    "plain": tcp_super_packet(payload(10_000), 1_000),
    "short last segment": tcp_super_packet(payload(10_001), 1_400),
    "odd segments": tcp_super_packet(payload(9_999), 999, options=False),
    "PSH, FIN and CWR": tcp_super_packet(payload(5_000), 1_000, flags="FPAEC", ecn=True),
    "CWR without the ECN bit": tcp_super_packet(payload(5_000), 1_000, flags="PAC"),
    "urgent": tcp_super_packet(payload(5_000), 1_000, flags="AU"),
    "may be fragmented": tcp_super_packet(payload(5_000), 1_000, df=False, identification=9),
    "64 KiB": tcp_super_packet(payload(65_535 - 52), 1_420),
    "more than 64 segments": tcp_super_packet(payload(20_000), 100),
    "UDP": udp_super_packet(payload(10_000), 1_000),
    "UDP, odd and short": udp_super_packet(payload(9_998), 999, identification=0xFFFF),
    "UDP, may be fragmented": udp_super_packet(payload(3_000), 1_400, df=False),
}


@pytest.mark.parametrize("name", SUPER_PACKETS)
def test_segmentation_equals_the_kernels_own_byte_for_byte(
    kernel: KernelSegmentation, host: Host, peer_socket: PeerSocket, name: str
) -> None:
    peer = peer_socket("127.0.0.2")
    header, packet = SUPER_PACKETS[name]
    gso_size = int.from_bytes(header[4:6], "little")
    headers = 28 if packet[9] == 17 else 20 + (packet[32] >> 4) * 4
    count = -(-(len(packet) - headers) // gso_size)
    expected = kernel.cut(header, packet, count)
    host.write(packet, header)
    assert [peer.recv(70_000) for _ in range(count)] == expected
    assert host.drops() == {}


SUPER_PACKETS_V6 = {
    "plain": (tcp_super_packet_v6(payload(10_000), 1_000), 72, 10),
    "short last segment": (tcp_super_packet_v6(payload(10_001), 1_400), 72, 8),
    "PSH, FIN and CWR": (
        tcp_super_packet_v6(payload(5_000), 1_000, flags="FPAEC", ecn=True),
        72,
        5,
    ),
    "extension header": (tcp_super_packet_v6(payload(5_000), 1_000, extended=True), 80, 5),
    "64 KiB": (tcp_super_packet_v6(payload(65_535 - 72), 1_400), 72, 47),
    "UDP": (udp_super_packet_v6(payload(10_000), 1_000), 48, 10),
    "UDP, odd and short": (udp_super_packet_v6(payload(9_998), 999), 48, 11),
}


@pytest.mark.parametrize("name", SUPER_PACKETS_V6)
def test_segmentation_over_ipv6_equals_the_kernels_own_byte_for_byte(
    kernel: KernelSegmentation, host: Host, peer_socket: PeerSocket, name: str
) -> None:
    peer = peer_socket("127.0.0.2")
    host.engine.commit(dual_stack())
    (header, packet), headers, count = SUPER_PACKETS_V6[name]
    expected = kernel.cut(header, packet, count)
    host.write(packet, header)
    got = [peer.recv(70_000) for _ in range(count)]
    assert got == expected
    assert b"".join(part[headers:] for part in got) == packet[headers:]
    assert host.drops() == {}


def test_hdr_len_of_the_device_is_not_believed(host: Host, peer_socket: PeerSocket) -> None:
    peer = peer_socket("127.0.0.2")
    header, packet = tcp_super_packet(payload(3_000), 1_000)
    host.write(packet, header)
    expected = [peer.recv(70_000) for _ in range(3)]
    for header_len in (1, 40, 1_052, 65_535):
        host.write(packet, vnet_header(1, 1_000, 16, header_len))
        assert [peer.recv(70_000) for _ in range(3)] == expected


def test_trains_span_super_packets_and_arrive_in_one_piece(
    host: Host, peer_socket: PeerSocket
) -> None:
    peer = peer_socket("127.0.0.2")
    peer.setsockopt(SOL_UDP, UDP_GRO, 1)
    pause(host.engine)
    for _ in range(3):
        header, packet = udp_super_packet(payload(4_000), 1_000)
        host.write(packet, header)
    host.engine.resume()
    train, control, *_ = peer.recvmsg(70_000, 64)
    assert len(train) == 12 * 1_028
    assert [int.from_bytes(data[:4], "little") for *_, data in control] == [1_028]


def test_what_goes_to_others_in_between_does_not_end_a_train(
    host: Host, peer_socket: PeerSocket
) -> None:
    peers = {"10.5.2.2": peer_socket("127.0.0.2"), "10.5.3.2": peer_socket("127.0.0.3")}
    for peer in peers.values():
        peer.setsockopt(SOL_UDP, UDP_GRO, 1)
    pause(host.engine)
    for number in range(4):
        for address in peers:
            host.write(inner("10.5.1.2", address, payload=bytes([number]) * 100))
    host.engine.resume()
    for address, peer in peers.items():
        train, control, *_ = peer.recvmsg(70_000, 64)
        datagrams = [inner("10.5.1.2", address, ttl=63, payload=bytes([n]) * 100) for n in range(4)]
        assert train == b"".join(datagrams)
        assert [int.from_bytes(data[:4], "little") for *_, data in control] == [128]


def socket_without_checksums() -> socket.socket:
    """A UDP socket on which the kernel answers every train with EINVAL."""
    sock = udp_socket("127.0.0.1")
    sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    return sock


def udp_lite_socket() -> socket.socket:
    """A socket on which the kernel answers every train with EIO, as it does behind IPsec."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDPLITE)
    sock.bind(("127.0.0.1", PORT))
    return sock


REFUSALS = {
    "Invalid argument": (socket_without_checksums, socket.IPPROTO_UDP),
    "Input/output error": (udp_lite_socket, socket.IPPROTO_UDPLITE),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_train_falls_back_and_loses_nothing(space: Namespace, refusal: str) -> None:
    opened, protocol = REFUSALS[refusal]
    with inside(space):
        underlay = opened()
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, protocol)
        peer.bind(("127.0.0.2", PORT))
    peer.settimeout(TIMEOUT_S)
    with peer, Host(space, network(), underlay=[underlay]) as host:
        header, packet = tcp_super_packet(payload(50_000), 1_000)
        host.write(packet, header)
        got = [peer.recv(70_000) for _ in range(50)]
        assert b"".join(part[52:] for part in got) == payload(50_000)
        assert select.select([host.engine.event_fd], [], [], TIMEOUT_S)[0]
        [event] = host.engine.drain_events()
        assert event["kind"] == "offload_lost"
        assert event["detail"].startswith(f"udp_gso: {refusal}")
        assert host.engine.offloads()["udp_gso"].startswith(f"fallback: {refusal}")
        # From here on without a try, and without another word.
        host.write(packet, header)
        assert [peer.recv(70_000) for _ in range(50)] == got
        assert host.engine.drain_events() == []
        wait_until(lambda: host.traffic("b")["tx_packets"] == 100)
        assert host.drops() == {}
        host.engine.set_offload("udp_gso", True)
        assert host.engine.offloads()["udp_gso"] == "on"


def test_emsgsize_mid_train_lowers_the_adjacencys_mtu_and_keeps_gso(rig_space: Namespace) -> None:
    rig_space.run("ip", "link", "set", "lo", "mtu", "1300")
    with inside(rig_space):
        peer = udp_socket("127.0.0.2")
    peer.settimeout(TIMEOUT_S)
    with peer, Host(rig_space) as host:
        host.engine.commit(
            {
                "settings": settings(),
                "put_adjacencies": [adjacency("b", "127.0.0.2")],
                "put_entries": [{"prefix": "10.5.2.0/24", "target": "b"}],
            }
        )
        # Ten segments that do not fit, and a short one that does.
        header, packet = udp_super_packet(payload(14_100), 1_400)
        host.write(packet, header)
        assert len(peer.recv(70_000)) == 128
        [event] = host.engine.drain_events()
        assert (event["kind"], event["adjacency"], event["size_bytes"]) == ("path_mtu", "b", 1428)
        assert host.drops() == {"too_big_for_underlay": 10}
        assert host.engine.offloads()["udp_gso"] == "on"
        header, packet = udp_super_packet(payload(12_000), 1_200)
        host.write(packet, header)
        assert [len(peer.recv(70_000)) for _ in range(10)] == [1_228] * 10


def test_a_batch_for_many_peers_goes_out_in_order_without_gso(
    host: Host, peer_socket: PeerSocket
) -> None:
    peers = {"10.5.2.2": peer_socket("127.0.0.2"), "10.5.3.2": peer_socket("127.0.0.3")}
    host.engine.set_offload("udp_gso", False)
    sent: dict[str, list[bytes]] = {"10.5.2.2": [], "10.5.3.2": []}
    with in_order(host.engine):
        for number in range(200):
            address = ("10.5.2.2", "10.5.3.2")[number // 3 % 2]
            data = number.to_bytes(4, "big") * (1 + number % 3)
            host.write(inner("10.5.1.2", address, payload=data))
            sent[address].append(data)
        for address, peer in peers.items():
            assert [peer.recv(70_000)[28:] for _ in sent[address]] == sent[address]
    assert host.drops() == {}


def test_arriving_trains_are_split(host: Host, peer_socket: PeerSocket) -> None:
    peer = peer_socket("127.0.0.2")
    datagrams = [sized("10.5.2.2", "10.5.1.2", 1_000) for _ in range(20)]
    datagrams.append(sized("10.5.2.2", "10.5.1.2", 60))
    peer.setsockopt(SOL_UDP, UDP_SEGMENT, 1_000)
    for switch in (True, False):
        host.engine.set_offload("udp_gro", switch)
        peer.sendto(b"".join(datagrams), ("127.0.0.1", 8285))
        got = [host.read() for _ in datagrams]
        assert [len(packet) for packet in got] == [1_000] * 20 + [60]
    assert host.drops() == {}


def test_a_socket_pair_is_no_device_with_offloads(host: Host) -> None:
    states = host.engine.offloads()
    assert list(states) == sorted(NAMES)
    assert {name for name, state in states.items() if state == "unsupported"} == {
        *("tun_tso", "tun_uso", "coalesce_tcp", "coalesce_udp")
    }
    assert states["udp_gso"] == states["udp_gro"] == "on"


def test_a_switch_must_be_known_and_supported(host: Host) -> None:
    with pytest.raises(EngineError, match=r'offload "warp" is not known, expected one of tun_tso'):
        host.engine.set_offload("warp", True)
    with pytest.raises(EngineError, match="offload tun_tso is not supported"):
        host.engine.set_offload("tun_tso", True)
    host.engine.set_offload("tun_tso", False)
    assert host.engine.offloads()["tun_tso"] == "unsupported"
    host.engine.stop()
    with pytest.raises(EngineError, match="set_offload is not possible, it is stopped"):
        host.engine.set_offload("udp_gso", False)


def device_engine(space: Namespace) -> tuple[_native.Engine, int]:
    """Makes an engine over a real TUN device, flannel0; returns the device's descriptor too."""
    with inside(space):
        tun = open_tun("flannel0")
        with udp_socket("127.0.0.1") as underlay, raw_icmp_socket() as icmp:
            engine = _native.Engine(
                tun_fds=[tun],
                underlay=[over_ipv4(underlay)],
                icmp_fd=icmp.fileno(),
                icmp6_fd=None,
                split=False,
            )
    return engine, tun


@pytest.fixture
def device(rig_space: Namespace) -> Iterator[_native.Engine]:
    engine, tun = device_engine(rig_space)
    yield engine
    engine.stop()
    socket.close(tun)


def test_switches_reach_the_device(device: _native.Engine, rig_space: Namespace) -> None:
    def is_on(feature: str) -> bool:
        return f"{feature}: on" in rig_space.run("ethtool", "-k", "flannel0")

    assert set(device.offloads().values()) == {"on"}
    assert is_on("tcp-segmentation-offload")
    assert is_on("tx-udp-segmentation")
    device.set_offload("tun_uso", False)
    assert is_on("tcp-segmentation-offload")
    assert not is_on("tx-udp-segmentation")
    device.set_offload("tun_tso", False)
    assert not is_on("tcp-segmentation-offload")
    device.set_offload("tun_uso", True)
    assert is_on("tx-udp-segmentation")
    assert not is_on("tcp-segmentation-offload")
    assert device.offloads()["tun_tso"] == "off"


def test_a_kernel_without_uso_carries_datagrams_one_by_one(
    rig_space: Namespace, peer_socket: PeerSocket
) -> None:
    with ThreadPoolExecutor(1) as older_kernel:
        older_kernel.submit(refuse_uso).result()
        engine, tun = older_kernel.submit(device_engine, rig_space).result()
    try:
        states = engine.offloads()
        without = {name for name, state in states.items() if state == "unsupported"}
        assert without == {"tun_uso", "coalesce_udp"}
        assert {states[name] for name in states if name not in without} == {"on"}
        features = rig_space.run("ethtool", "-k", "flannel0")
        assert "tcp-segmentation-offload: on" in features
        assert "tx-udp-segmentation: off" in features
        rig_space.sysctl("net/ipv6/conf/flannel0/disable_ipv6", 1)
        rig_space.run("ip", "address", "add", "10.5.1.0/32", "dev", "flannel0")
        rig_space.run("ip", "link", "set", "flannel0", "mtu", "1472", "up")
        rig_space.run("ip", "route", "add", "10.5.0.0/16", "dev", "flannel0")
        engine.commit(network())
        engine.start()
        with inside(rig_space):
            peer, program = udp_socket("127.0.0.2"), udp_socket("10.5.1.0", DISCARD)
        with peer, program:
            for opened in (peer, program):
                opened.settimeout(TIMEOUT_S)
                opened.setsockopt(SOL_UDP, UDP_SEGMENT, 1_000)
            program.sendto(payload(10_000), ("10.5.2.2", DISCARD))
            got = [peer.recv(70_000) for _ in range(10)]
            assert b"".join(packet[28:] for packet in got) == payload(10_000)
            arriving = [sized("10.5.2.2", "10.5.1.0", 1_000) for _ in range(10)]
            peer.sendto(b"".join(arriving), ("127.0.0.1", PORT))
            assert [program.recv(70_000) for _ in arriving] == [one[28:] for one in arriving]
        assert not any(engine.counters()["drops"].values())
        assert engine.drain_events() == []
    finally:
        engine.stop()
        socket.close(tun)

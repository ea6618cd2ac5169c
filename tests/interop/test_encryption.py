"""Encryption beside flanneld: who is reached how, what leaves in plain, what is taken."""

from __future__ import annotations

import signal
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from testbed.capture import Capture
from testbed.exchange import send_stream, start_traffic
from testbed.netns import Rig
from testbed.network import PREFIX, Host, Network, pings, wait_connected
from testbed.wait import wait_until
from tests.interop.encryption import (
    STREAM_BYTES,
    config,
    is_encrypted,
    peer_of,
    psk_file,
    refusal_of,
    set_mode,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first may build flanneld

ESP_PORT = 8286
PLAIN_PORTS = {"udp": 8285, "vxlan": 8472}
# RFC 7348: an inner packet of 1450 bytes is the largest at 1500; flannel's udp takes 28 bytes.
PLAIN_MTU = {"udp": 1472, "vxlan": 1450}


def marker_of(first: Host, second: Host) -> bytes:
    """16 bytes that only the pings of one host to another hold."""
    return f"{first.name}>{second.name} in plain".encode().ljust(16, b".")[:16]


def ping_marked(first: Host, second: Host) -> bool:
    address, marker = str(second.container_ip), marker_of(first, second).hex()
    done = first.container.try_run("ping", "-c1", "-W30", "-p", marker, address)
    return done.returncode == 0


def readable(packets: list[Any], marker: bytes) -> int:
    return sum(marker in bytes(packet) for packet in packets)


def ports(packets: list[Any], *, source: Host) -> set[int]:
    """Returns the UDP ports that a host sent to, other than to etcd's."""
    from scapy.layers.inet import IP, UDP

    address = str(source.public_ip)
    return {p[UDP].dport for p in packets if UDP in p and IP in p and p[IP].src == address}


@pytest.fixture(scope="module", params=["udp", "vxlan"])
def backend(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def network(
    backend: str, interop_tools: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Network]:
    """Two flanneld and two tunneld hosts in a network that prefers encryption."""
    with Rig("enc", tmp_path_factory.mktemp(backend)) as rig:
        network = Network(rig, backend=config(backend, "preferred"))
        secret = ("--psk-file", str(psk_file(rig)), "--encryption-floor", "preferred")
        for name in ("f1", "t1", "f2", "t2"):
            network.add(name, *(secret if name.startswith("t") else ()))
        network.wait_connected()
        yield network


def test_preferred_encrypts_between_tunnelds_and_reaches_flannelds_in_plain(
    network: Network, backend: str, figures: list[dict[str, object]]
) -> None:
    f1, t1, f2, t2 = (network.host(name) for name in ("f1", "t1", "f2", "t2"))
    for first, second in ((t1, t2), (t2, t1)):
        wait_until(lambda a=first, b=second: is_encrypted(a, b), 30.0, "keys")  # type: ignore[misc]
    path = network.rig.directory / "preferred.pcap"
    with Capture(network.switch, "switch", "udp", path) as capture:
        silent = [f"{a.name}->{b.name}" for a, b in network.pairs() if not ping_marked(a, b)]
    assert silent == []
    packets = capture.packets()
    for first, second in network.pairs():
        is_plain = f1 in (first, second) or f2 in (first, second)
        seen = readable(packets, marker_of(first, second))
        # Request and reply; between tunnelds neither can be read.
        assert seen == (2 if is_plain else 0), f"{first.name}->{second.name}"
    assert ports(packets, source=t1) == {ESP_PORT, PLAIN_PORTS[backend]}
    assert ports(packets, source=f1) == {PLAIN_PORTS[backend]}

    for first, second in ((t1, t2), (t1, f1), (f2, t2)):
        seed = zlib.crc32(f"{first.name}{second.name}".encode())
        rate = send_stream(
            first.container, second.container, second.container_ip, STREAM_BYTES, seed=seed
        )
        name = f"{backend} {first.kind}->{second.kind}"
        figures.append({"encrypted": name, "bytes": STREAM_BYTES, "mbit_s": round(rate)})

    # The largest that a flanneld host sends comes whole, though FLANNEL_MTU is less here.
    size = PLAIN_MTU[backend]
    assert int(f1.subnet_env["FLANNEL_MTU"]) == size
    assert int(t1.subnet_env["FLANNEL_MTU"]) == 1438
    largest = ("ping", "-c1", "-W30", "-M", "do", "-s", str(size - 28))
    f1.container.run(*largest, str(t1.overlay_ip))
    # A container that was there before the network preferred encryption has its MTU of before.
    for space, device in ((t1.space, "br0"), (t1.space, "container"), (t1.container, "eth0")):
        space.run("ip", "link", "set", device, "mtu", str(size))
    teller = start_traffic(t1.container, "tell-sources", 7_009)
    teller.wait_for_output("listening")
    asker = start_traffic(*(f1.container, "ask", "udp", t1.container_ip, 7_009, size - 28, 30.0))
    assert asker.wait(60.0) == 0, asker.output()
    teller.stop()

    detail = peer_of(t1, t2)["security"]
    assert (detail["mode"], peer_of(t1, t2)["encapsulation"]) == ("encrypted", "esp")
    assert not is_encrypted(t1, f1)


def test_a_peer_that_had_keys_and_comes_back_in_plain_is_refused(
    network: Network, backend: str
) -> None:
    t1, t2, f1 = (network.host(name) for name in ("t1", "t2", "f1"))
    subnet = t2.subnet
    options, t2.options = t2.options, ()
    assert t2.end(signal.SIGTERM) == 0
    t2.kind = "flanneld"
    t2.start()
    wait_connected(f1, t2)
    assert t2.subnet == subnet
    # Its record is still there, and shows keys: it is reached by these or not at all.
    before = t1.status()["drops"].get("plain_refused", 0)
    assert not pings(t1, t2, patience_s=1)
    assert not pings(t2, t1, patience_s=1)
    assert t1.status()["drops"]["plain_refused"] > before
    assert pings(t1, f1, patience_s=30), "the other flanneld is reached as ever"
    # Somebody takes the record away, too: that it had keys is not forgotten.
    nodes = f"{PREFIX}/tunneld/nodes/"
    ((record, value),) = (
        item for item in network.etcd.everything(nodes).items() if str(subnet[0]) in str(item)
    )
    network.etcd.ctl("del", record)
    wait_until(lambda: "had keys" in refusal_of(t1, t2), 30.0, "why t2 is not reached")
    assert not pings(t1, t2, patience_s=1)
    network.etcd.put(record, value.decode())
    wait_until(lambda: not refusal_of(t1, t2), 30.0, "the record to be there again")
    assert not pings(t1, t2, patience_s=1)

    assert "forgot that" in t1.ctl("trust", "allow-plain", str(subnet)).stdout
    wait_connected(t1, t2)
    assert t2.end(signal.SIGTERM) in (0, -signal.SIGTERM)
    t2.kind, t2.options = "tunneld", options
    t2.start()
    wait_connected(t2, t1)
    wait_until(lambda: is_encrypted(t1, t2), 30.0, "keys again")


def test_required_sends_and_takes_nothing_in_plain(network: Network, backend: str) -> None:
    f1, t1, t2 = (network.host(name) for name in ("f1", "t1", "t2"))
    assert t1.end(signal.SIGTERM) == 0
    set_mode(network, backend, "required")
    wait_until(lambda: t2.status()["encryption"]["mode"] == "required", 30.0, "t2 requires keys")
    with Capture(t1.space, "eth0", "not tcp port 2379", t1.space.directory / "r.pcap") as capture:
        t1.start()
        wait_connected(t1, t2)
        wait_connected(t2, t1)
        assert ping_marked(t1, t2)
        assert not ping_marked(t1, f1)
        assert f1.container.try_run("ping", "-c3", "-W1", str(t1.container_ip)).returncode != 0
        assert not pings(t2, f1, patience_s=1)
        wait_until(lambda: "required" in refusal_of(t1, f1), 30.0, "why f1 is not reached")
        assert t1.end(signal.SIGTERM) == 0
    packets = capture.packets()
    # flanneld still sends to the port of its backend: nobody is there.
    assert ports(packets, source=f1) == {PLAIN_PORTS[backend]}
    assert ports(packets, source=t1) == {ESP_PORT}
    for first, second in ((t1, t2), (t1, f1)):
        assert readable(packets, marker_of(first, second)) == 0
    t1.start()
    wait_connected(t1, t2)

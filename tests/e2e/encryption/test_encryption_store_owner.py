"""Whoever owns the store writes what he likes: nothing is read, nothing forged gets in.

He has a host on the underlay, with a key of his own, and the key of a member that he captured. What
he writes makes hosts unreachable, which `status` explains, and they are back when it is undone.

Needs root, etcd, iproute2, nft and tcpdump.
"""

from __future__ import annotations

import base64
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from testbed.capture import Capture
from testbed.netns import Namespace, Rig, inside
from testbed.network import PREFIX, Host, Network, pings, wait_connected
from testbed.probe import Probe
from testbed.wait import wait_until
from tests.interop.encryption import config
from tests.native.second_peer import PORT, SecondPeer, spi_base
from tunneld.control.client import NotRunningError, request

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

PLAIN = "net 10.5.0.0/16 or udp port 8285 or udp port 8472"
FORGED = b"forged by the owner of the store"
ELSEWHERE = "10.5.200.0/24"


def status(host: Host) -> dict[str, Any]:
    try:
        found: dict[str, Any] = request(host.control_socket, "status", timeout_s=60.0)
    except NotRunningError:
        return {"peers": [], "refused": [], "problems": [], "state": "none"}
    return found


def why(host: Host, subnet: str) -> str:
    """Returns what a host says of a subnet: why it is refused, or what its keys are like."""
    found = status(host)
    refused = [one["detail"] for one in found["refused"] if one["subnet"] == subnet]
    peers = [one["security"] for one in found["peers"] if one["subnet"] == subnet]
    return "; ".join([*refused, *(f"{one['state']}: {one['detail']}" for one in peers)])


class Intruder:
    """The host of the store's owner: he answers what he can, and sends what he has made up."""

    def __init__(self, network: Network, captured: Host) -> None:
        self.space: Namespace = network.rig.namespace("evil")
        self.address = str(network.hosts[0].link.ipv4[66])
        network.rig.link(
            *(network.switch, "evil", self.space, "eth0"),
            first_bridge="switch",
            second_address=f"{self.address}/24",
        )
        self.peer = SecondPeer((ELSEWHERE,), PREFIX)
        secret = (captured.space.directory / "state" / "identity.key").read_text()
        self.captured = SecondPeer((ELSEWHERE,), PREFIX, private=base64.b64decode(secret))
        with inside(self.space):
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.udp.bind((self.address, PORT))
            self.udp.setblocking(False)
            self.raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def attack(self, target: Host, claimed: Host, *, as_captured: bool = False) -> None:
        """Sends packets that are said to be of `claimed`, in every way he has.

        `as_captured`: also by the captured key, which then is where he is. Returns once the target
        has dealt with all of them.
        """
        before = status(target)["drops"]["keepalive"]
        source, to = str(claimed.container_ip), (str(target.public_ip), PORT)
        inner = bytes(
            IP(src=source, dst=str(target.container_ip)) / UDP(sport=7, dport=7_777) / Raw(FORGED)
        )
        for outer in (self.address, str(claimed.public_ip)):
            plain = IP(src=outer, dst=to[0]) / UDP(sport=8285, dport=8285) / Raw(inner)
            self.raw.sendto(bytes(plain), (to[0], 0))
        key = base64.b64decode(status(target)["encryption"]["public_key"])
        for peer in (self.peer, self.captured) if as_captured else (self.peer,):
            begun = peer.initiate(key, claim=(str(claimed.subnet),))
            self.udp.sendto(begun.message, to)
            if peer is self.captured:
                response = self.answer_to(begun.index)
                pair = begun.finish(response)
                self.udp.sendto(pair.out.seal(b"", 1), to)
                self.udp.sendto(pair.out.seal(inner, 2), to)
        made_up = spi_base().to_bytes(4) + (1).to_bytes(4) + (1).to_bytes(8)
        self.udp.sendto(made_up + inner + bytes(18), to)
        self.udp.sendto(b"\xff", to)  # which is counted by itself, after all before it
        wait_until(lambda: status(target)["drops"]["keepalive"] > before, 30.0, "the last datagram")

    def answer_to(self, index: bytes) -> bytes:
        """Returns the response to a message; answers what asks meanwhile."""
        head = bytes([0, 0, 0, 0, 2])

        def found() -> bytes:
            return b"".join(it for it in self.take() if it[:5] == head and it[12:16] == index)

        return wait_until(found, 30.0, "an answer to the captured key")

    def take(self) -> list[bytes]:
        """Takes what has come; tries to answer initiations as one he knows the key of."""
        taken: list[bytes] = []
        while True:
            try:
                datagram, source = self.udp.recvfrom(2_000)
            except BlockingIOError:
                return taken
            taken.append(datagram)
            if datagram[:5] == bytes([0, 0, 0, 0, 1]):
                for peer in (self.peer, self.captured):
                    with suppress(Exception):  # it is not to this key
                        self.udp.sendto(peer.answer(datagram).message, source)

    def close(self) -> None:
        self.udp.close()
        self.raw.close()


@dataclass
class Scene:
    """Three hosts that trust each other by identities, and the store's owner."""

    network: Network
    intruder: Intruder
    probes: list[Probe] = field(default_factory=list)

    @property
    def hosts(self) -> list[Host]:
        return self.network.hosts

    def entry(self, host: Host) -> tuple[str, dict[str, Any]]:
        """Returns name and value of a host's record."""
        found = self.network.etcd.everything(f"{PREFIX}/tunneld/nodes/")
        node = status(host)["node_id"]
        ((name, value),) = [item for item in found.items() if item[0].endswith(node)]
        return name, json.loads(value)

    @contextmanager
    def cut_off(self, host: Host) -> Iterator[None]:
        """Keeps a host from the store: it would put its entries right at once."""
        rule = f"ip saddr {host.public_ip} tcp dport 2379 drop"
        for words in (
            "add table ip cut",
            "add chain ip cut in { type filter hook input priority 0; }",
            f"add rule ip cut in {rule}",
        ):
            self.network.switch.run("nft", words)
        try:
            yield
        finally:
            self.network.switch.run("nft", "delete table ip cut")

    def without(self, host: Host) -> list[Probe]:
        """Returns the probes between the others."""
        return [probe for probe in self.probes if host.name not in probe.name]

    def wait_whole(self) -> None:
        now_s = time.monotonic()
        for probe in self.probes:
            probe.wait_steady(now_s, 60.0, 30)


@pytest.fixture(scope="module")
def scene(root_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Rig("owner", tmp_path_factory.mktemp("owner")) as rig:
        network = Network(rig, backend=config("udp", "required"))
        identities = rig.directory / "identities"
        identities.touch()
        for name in ("t1", "t2", "t3"):
            network.add(name, "--identities", str(identities))
        for host in network.hosts:
            host.wait_ready()
        identities.write_text(
            "".join(
                f"{status(host)['encryption']['public_key']} {host.name}{bound(host)}\n"
                for host in network.hosts
            )
        )
        for host in network.hosts:
            host.running.signal(signal.SIGHUP)
        for pair in network.pairs():
            wait_connected(*pair)
        made = Scene(network, Intruder(network, network.host("t3")))
        made.probes = [Probe(a, b, rate_hz=50.0) for a, b in network.pairs()]
        yield made
        made.intruder.close()
        for probe in made.probes:
            probe.stop()


def bound(host: Host) -> str:
    """Returns what binds a host to its subnet; the captured one may hold any that is free."""
    return "" if host.name == "t3" else f" subnets={host.subnet}"


Write = Callable[[Scene, Host], str]
"""Writes into the store about a host; returns the subnet that others hold against him."""


def put_keys(scene: Scene, host: Host, **keys: object) -> str:
    """Changes what the record of a host says of its keys."""
    name, value = scene.entry(host)
    scene.network.etcd.put(name, json.dumps({**value, "Encryption": keys}))
    return str(host.subnet)


def keys_of(scene: Scene, host: Host) -> dict[str, object]:
    found: dict[str, object] = scene.entry(host)[1]["Encryption"]
    return found


def key_of_the_intruder(scene: Scene, host: Host) -> str:
    return put_keys(scene, host, **{**keys_of(scene, host), "Key": scene.intruder.peer.key})


def key_of_the_captured(scene: Scene, host: Host) -> str:
    """The lease, too: its subnet is said to be at the intruder's, by the key he captured."""
    put_keys(scene, host, **{**keys_of(scene, host), "Key": scene.intruder.captured.key})
    return at_the_intruder(scene, host)


def copy_of_another(scene: Scene, host: Host) -> str:
    return put_keys(scene, host, **keys_of(scene, scene.network.host("t3")))


def copy_of_the_reader(scene: Scene, host: Host) -> str:
    return put_keys(scene, host, **keys_of(scene, scene.network.host("t1")))


def no_keys(scene: Scene, host: Host) -> str:
    name, value = scene.entry(host)
    del value["Encryption"]
    scene.network.etcd.put(name, json.dumps(value))
    return str(host.subnet)


def no_record(scene: Scene, host: Host) -> str:
    scene.network.etcd.delete(scene.entry(host)[0])
    return str(host.subnet)


def at_the_intruder(scene: Scene, host: Host) -> str:
    """Lease and record say that he is at the intruder's address."""
    name, value = scene.entry(host)
    lease = json.loads(scene.network.leases()[host.lease_key])
    address = {"PublicIP": scene.intruder.address}
    scene.network.etcd.put(name, json.dumps({**value, **address}))
    scene.network.etcd.put(host.lease_key, json.dumps({**lease, **address}))
    return str(host.subnet)


def another_subnet(scene: Scene, host: Host) -> str:
    """Lease and record are moved to a subnet that he does not hold."""
    etcd = scene.network.etcd
    name, value = scene.entry(host)
    moved = f"{PREFIX}/subnets/{ELSEWHERE.replace('/', '-')}"
    etcd.put(moved, scene.network.leases()[host.lease_key].decode())
    etcd.put(name, json.dumps({**value, "Subnet": ELSEWHERE.replace("/", "-")}))
    etcd.delete(host.lease_key)
    return ELSEWHERE


def no_lease(scene: Scene, host: Host) -> str:
    scene.network.etcd.delete(host.lease_key)
    return str(host.subnet)


EXPLAINED: list[tuple[Write, str, str]] = [
    (key_of_the_intruder, "t2", "is not among the identities"),
    (key_of_the_captured, "t2", "is bound to t2"),
    (copy_of_another, "t2", "is bound to t2"),
    (copy_of_the_reader, "t2", "the key of this host itself"),
    (no_keys, "t2", "encryption is required, and it has no keys"),
    (no_record, "t2", "encryption is required, and it has no keys"),
    (another_subnet, "t2", "is bound to"),
    (another_subnet, "t3", "its holder claims"),
    (no_lease, "t2", ""),
]


@contextmanager
def nothing_told_nothing_let_in(scene: Scene) -> Iterator[None]:
    """Asserts that no member sends anything in plain, and that nothing made up is delivered."""
    t1 = scene.hosts[0]
    captures = [
        Capture(scene.network.switch, host.name, f"-Q in {PLAIN}", host.space.directory / "p.pcap")
        for host in scene.hosts
    ]
    got = Capture(t1.container, "eth0", "udp port 7777", t1.space.directory / "got.pcap")
    with captures[0], captures[1], captures[2], got:
        yield
    for capture in (*captures, got):
        assert [packet.summary() for packet in capture.packets()] == [], capture.device


@contextmanager
def put_back(scene: Scene) -> Iterator[None]:
    """Writes at the end what stood in the store at the beginning."""
    etcd = scene.network.etcd
    before = etcd.everything(f"{PREFIX}/")
    yield
    for name in etcd.everything(f"{PREFIX}/").keys() - before.keys():
        etcd.delete(name)
    for name, value in before.items():
        etcd.put(name, value.decode())


@pytest.mark.parametrize(
    ("write", "name", "says"), EXPLAINED, ids=lambda it: getattr(it, "__name__", None)
)
def test_what_is_written_of_a_host_lets_nobody_in(
    scene: Scene, write: Write, name: str, says: str
) -> None:
    t1, host = scene.hosts[0], scene.network.host(name)
    # By the key of the captured host he takes its place, until that one shakes hands again.
    as_captured = write is key_of_the_captured
    others = [] if as_captured else scene.without(host)
    scene.wait_whole()
    lost = [probe.lost() for probe in others]
    with nothing_told_nothing_let_in(scene):
        # He keeps the host away, which would put its own entries right.
        with scene.cut_off(host), put_back(scene):
            subnet = write(scene, host)

            def is_explained() -> bool:
                said = why(t1, subnet)
                return says in said if says else said == ""

            wait_until(is_explained, 30.0, f"{says} in status")
            assert not pings(t1, host, patience_s=1)
            scene.intruder.attack(t1, host, as_captured=as_captured)
        scene.wait_whole()
    assert why(t1, str(host.subnet)).startswith("confirmed: lease, claim and trust agree")
    assert [probe.lost() for probe in others] == lost


def test_a_host_that_is_said_to_be_elsewhere_is_found_by_its_own_word(scene: Scene) -> None:
    t1, t2, _ = scene.hosts
    sent = Capture(scene.network.switch, "evil", "-Q out udp", t1.space.directory / "sent.pcap")
    with nothing_told_nothing_let_in(scene):
        with scene.cut_off(t2), put_back(scene), sent:
            at_the_intruder(scene, t2)
            wait_until(lambda: len(sent.packets()) > 10, 30.0, "what t1 sends to the intruder")
            scene.intruder.attack(t1, t2)
            # It hears nothing of what it sends to, and shakes hands: from where it is.
            scene.wait_whole()
            assert any(
                peer["security"]["endpoint"] == f"{t2.public_ip}:8286"
                for peer in status(t1)["peers"]
            )
        scene.wait_whole()
    ports = {packet[UDP].dport for packet in sent.packets()}
    assert ports == {PORT}
    for packet in sent.packets():
        head = bytes(packet[UDP].payload)[:4]
        assert head == bytes(4) or head[0] >> 6 == 3, "neither a handshake nor an SPI"


def config_text(network: str = "10.5.0.0/16", **backend: object) -> str:
    return json.dumps({"Network": network, "Backend": {"Type": "udp", **backend}})


CONFIGS: list[tuple[str, str]] = [
    (config_text(), ""),
    (config_text(Encryption={"Mode": "off"}), ""),
    (config_text(Encryption={"Mode": "preferred", "Port": 9_286}), ""),
    (config_text(Encryption={"Mode": "off", "Cipher": "aes-128-gcm"}), ""),
    (config_text("10.4.0.0/15", Encryption={"Mode": "off"}), ""),
    (config_text(Type="host-gw"), "the host-gw backend leaves packets as they are"),
    (config_text(Encryption={"Mode": "none"}), "Backend.Encryption.Mode"),
    ("no config at all", "not valid JSON"),
]
"""What the network config becomes, and what a host says that starts with it; empty: it serves."""


def test_no_config_that_is_written_lets_anybody_in(scene: Scene) -> None:
    """One host is started with each; the others run on."""
    t1, t2, _ = scene.hosts
    with nothing_told_nothing_let_in(scene), put_back(scene):
        for text, says in CONFIGS:
            scene.network.etcd.put(f"{PREFIX}/config", text)
            assert t2.end(signal.SIGTERM) == 0
            t2.start()
            if says:
                wait_until(lambda says=says: says in str(status(t2)["problems"]), 30.0, says)  # type: ignore[misc]
                assert not pings(t1, t2, patience_s=1)
            else:
                scene.wait_whole()
                assert status(t2)["encryption"]["mode"] == "required"
            scene.intruder.attack(t1, t2)
    assert t2.end(signal.SIGTERM) == 0
    t2.start()
    scene.wait_whole()

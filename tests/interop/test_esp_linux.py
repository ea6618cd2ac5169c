"""ESP packets beside Linux' own (xfrm, in a virtual machine): each opens what the other sealed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from scapy.compat import raw
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from testbed import guest
from tests.interop.esp.exchange import CIPHERS, PROVIDERS, Cipher, Exchange, Sa, running

pytestmark = pytest.mark.timeout(600)

INDEX = {cipher.name: place for place, cipher in enumerate(CIPHERS)}
TURN = 1 << 32
SENT_BY_LINUX = 5


@dataclass(frozen=True, slots=True)
class Case:
    """An SA in each direction, and the highest number that has been used before."""

    cipher: Cipher
    seen: int
    version: int

    @property
    def name(self) -> str:
        return f"{self.cipher.name}-v{self.version}"

    def sa(self, *, to_linux: bool) -> Sa:
        material = bytes((7 * place + self.seen) % 251 for place in range(36))
        spi = 0xC000_0000 | INDEX[self.cipher.name] << 12 | self.version << 6 | to_linux
        return Sa(self.cipher, material[: self.cipher.material_bytes], spi)

    @property
    def ends(self) -> tuple[str, str]:
        """The addresses of our container and of the guest's."""
        return ("10.5.1.2", "10.5.2.2") if self.version == 4 else ("fd00:1::2", "fd00:2::2")

    def inner(self, payload: bytes) -> Packet:
        """Returns a datagram from our container to the one of the guest."""
        source, destination = self.ends
        ip = {4: IP, 6: IPv6}[self.version](src=source, dst=destination)
        return ip / UDP(sport=7, dport=9) / Raw(payload)


# One direction of each begins with number 1, the other goes across 2^32.
CASES = tuple(
    Case(cipher, seen, version)
    for cipher in CIPHERS
    for seen, version in ((0, 6), (7 * TURN - 3, 4))
)


@dataclass(frozen=True, slots=True)
class Sent:
    """What goes to the guest: packets, and which of them are to arrive."""

    packets: tuple[bytes, ...]
    payloads: tuple[bytes, ...]


def sent(exchange: Exchange, case: Case) -> Sent:
    """Seals packets of every padding; they come out of order, some twice, one forged."""
    provider = PROVIDERS[INDEX[case.cipher.name] % 2]
    sender = exchange.outbound(provider, case.sa(to_linux=True), first=case.seen + 1)
    payloads = [b"p%d" % place + b"x" * place for place in range(6)]
    kind = f"ipv{case.version}"
    sealed = [sender.seal(kind, raw(case.inner(payload))) for payload in payloads]
    forged = sealed[5][:-1] + bytes([sealed[5][-1] ^ 1])
    order = (0, 1, 3, 2, 4)
    packets = [*(sealed[place] for place in order), sealed[0], sealed[3], forged, sealed[5]]
    return Sent(tuple(packets), tuple(payloads[place] for place in (*order, 5)))


NETWORK = """
ip=/sbin/ip
$ip link set lo up; $ip netns add A; $ip link add v0 type veth peer name v1 netns A
$ip addr add 192.0.2.2/24 dev v0; $ip link set v0 up
$ip netns exec A $ip addr add 192.0.2.1/24 dev v1; $ip netns exec A $ip link set v1 up
$ip addr add 10.5.2.2/32 dev lo; $ip route add 10.5.1.0/24 via 192.0.2.1
$ip addr add fd00:2::2/128 dev lo nodad; $ip route add fd00:1::/64 dev v0
guest encap 192.0.2.2 4500 >/encap & until grep -q READY /encap; do :; done
"""


def script(cases: dict[Case, Sent]) -> str:
    """Returns what the guest does. Its namespace `A` only hands over what we sealed."""
    lines = [NETWORK]
    for case, packets in cases.items():
        lines += [f"echo CASE {case.name}", "$ip xfrm state flush; $ip xfrm policy flush"]
        lines += [*arrivals(case, packets), *departures(case)]
    return "\n".join((*lines, "cat /encap"))


def arrivals(case: Case, packets: Sent) -> Iterator[str]:
    here = case.ends[1]
    high, low = divmod(case.seen, TURN)
    seen = f"replay-window 4096 replay-seq-hi {high:#x} replay-seq {low:#x}"
    yield from association(case, "192.0.2.1", "192.0.2.2", "in", seen)
    yield "echo BEFORE; cat /proc/net/xfrm_stat"
    yield f"guest receive {here} 9 IN & receiver=$!"
    yield f"until grep -q ':0009' /proc/net/udp{'' if case.version == 4 else 6}; do :; done"
    sealed = " ".join(packet.hex() for packet in packets.packets)
    yield f"$ip netns exec A guest send 192.0.2.1 4500 192.0.2.2 4500 {sealed}"
    yield f"guest send {here} 10 {here} 9 {b'end'.hex()}; wait $receiver"
    yield "echo AFTER; cat /proc/net/xfrm_stat"


def departures(case: Case) -> Iterator[str]:
    there, here = case.ends
    high, low = divmod(case.seen, TURN)
    used = f"replay-window 4096 replay-oseq-hi {high:#x} replay-oseq {low:#x}"
    yield from association(case, "192.0.2.2", "192.0.2.1", "out", used)
    yield f"$ip netns exec A guest take 192.0.2.1 4500 OUT {SENT_BY_LINUX} & taker=$!"
    yield "until $ip netns exec A grep -q ':1194' /proc/net/udp; do :; done"
    payloads = " ".join((b"k%d" % place + b"x" * place).hex() for place in range(SENT_BY_LINUX))
    yield f"guest send {here} 7 {there} 9 {payloads}; wait $taker"


def association(
    case: Case, source: str, destination: str, direction: str, numbers: str
) -> Iterator[str]:
    """Yields the commands that make an SA and its policy."""
    sa = case.sa(to_linux=direction == "in")
    ends = f"src {source} dst {destination} proto esp"
    yield (
        f"$ip xfrm state add {ends} spi {sa.spi:#x} reqid {sa.spi} mode tunnel "
        f"flag esn af-unspec {numbers} aead '{sa.cipher.linux}' 0x{sa.material.hex()} 128 "
        "encap espinudp 4500 4500 0.0.0.0 || fail state"
    )
    between = [f"{end}/{32 if case.version == 4 else 128}" for end in case.ends]
    first, second = between if direction == "in" else reversed(between)
    yield (
        f"$ip xfrm policy add src {first} dst {second} dir {direction} "
        f"tmpl {ends} reqid {sa.spi} mode tunnel || fail policy"
    )


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with running() as program:
        yield program


@pytest.fixture(scope="module")
def packets(exchange: Exchange) -> dict[Case, Sent]:
    return {case: sent(exchange, case) for case in CASES}


@pytest.fixture(scope="module")
def parts(packets: dict[Case, Sent], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the guest said, for each case."""
    assert shutil.which("qemu-system-x86_64"), "QEMU is missing; `make setup` installs it"
    said = guest.run(script(packets), tmp_path_factory.mktemp("guest"))
    assert "PLAIN" not in said, "the kernel took a packet for something else"
    return dict(re.findall(r"CASE (\S+)\n(.*?)(?=CASE|GUEST DONE)", said, re.DOTALL))


def counted(part: str) -> dict[str, int]:
    """Returns by how much each of the kernel's counters moved while our packets arrived."""
    before, after = (
        {name: int(count) for name, count in re.findall(r"^(Xfrm\w+)\s+(\d+)$", text, re.MULTILINE)}
        for text in part.partition("BEFORE")[2].split("AFTER")
    )
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_linux_opens_ours_once_and_counts_replays_and_forgeries(
    case: Case, packets: dict[Case, Sent], parts: dict[str, str]
) -> None:
    part = parts[case.name]
    arrived = [bytes.fromhex(hexed) for hexed in re.findall(r"^IN (\w+)$", part, re.MULTILINE)]
    assert arrived == list(packets[case].payloads)
    assert counted(part) == {"XfrmInStateSeqError": 2, "XfrmInStateProtoError": 1}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_we_open_what_linux_seals_once(
    case: Case, provider: str, parts: dict[str, str], exchange: Exchange
) -> None:
    receiver = exchange.inbound(provider, case.sa(to_linux=False), seen=case.seen)
    sealed = re.findall(r"^OUT (\w+)$", parts[case.name], re.MULTILINE)
    assert len(sealed) == SENT_BY_LINUX
    for place, packet in enumerate(map(bytes.fromhex, sealed)):
        assert int.from_bytes(packet[4:8]) == (case.seen + 1 + place) % TURN
        forged = packet[:-1] + bytes([packet[-1] ^ 1])
        assert receiver.open(forged) == "esp_forged"
        kind, opened = receiver.open(packet).split()
        assert kind == f"ipv{case.version}"
        assert bytes.fromhex(opened).endswith(b"k%d" % place + b"x" * place)
        assert receiver.open(packet) == "esp_replayed"

"""What a live engine sealed, captured on the way and read by tshark, which is told the keys.

They are those of the other end, a second implementation: the engine gives none away. tshark 4.0
opens AES-GCM, and knows neither the ICV of extended numbers nor ChaCha20-Poly1305. Needs root,
tcpdump and tshark.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from testbed.capture import Capture
from testbed.netns import Rig
from tests.native.packets import inner, inner_v6
from tests.native.protected import A, ProtectedHost, Station, agreed, network, subnets
from tests.native.second_peer import PORT, SecondPeer

V6 = ("fd00:5:1::2", "fd00:5:2::2")

Read = tuple[int, str, str, bytes]
"""Number, inner source and destination, what the inner UDP packet holds."""


def read(path: Path, spi: int, material: bytes) -> list[Read]:
    """Returns what tshark opens of a capture."""
    cipher = "AES-GCM with 16 octet ICV [RFC4106]"
    sa = f'"IPv4","*","*","{spi:#010x}","{cipher}","0x{material.hex()}","NULL",""'
    fields = ("esp.sequence", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "udp.payload")
    done = subprocess.run(
        [
            *("tshark", "-r", str(path), "-Y", "esp", "-d", f"udp.port=={PORT},udpencap"),
            *("-o", "esp.enable_encryption_decode:TRUE", "-o", f"uat:esp_sa:{sa}"),
            *("-T", "fields", "-E", "occurrence=l"),
            *(word for field in fields for word in ("-e", field)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    opened = []
    for line in done.stdout.splitlines():
        number, v4_source, v4_target, v6_source, v6_target, payload = line.split("\t")
        source, target = v6_source or v4_source, v6_target or v4_target
        content = bytes.fromhex(payload.replace(":", ""))
        opened.append((int(number), source, target, content))
    return opened


@pytest.mark.parametrize("cipher", ["aes-256-gcm", "aes-128-gcm"])
def test_tshark_reads_what_the_engine_seals(rig: Rig, tmp_path: Path, cipher: str) -> None:
    space = rig.namespace("wire")
    b = SecondPeer(subnets(2))
    expected: list[Read] = []
    with (
        Station(space, "127.0.0.2") as station,
        ProtectedHost(space, tmp_path, network([b]), cipher=cipher) as host,
        Capture(space, "lo", f"udp and src host {A[0]}", tmp_path / "wire.pcap") as capture,
    ):
        pair = agreed(host, b, station, "10.5.2.2")
        for size in range(1, 9):
            payload = bytes(range(0xA0, 0xA0 + size))
            for packet, source, target in (
                (inner("10.5.1.2", "10.5.2.2", payload=payload), "10.5.1.2", "10.5.2.2"),
                (inner_v6("fd00:5:1::2", "fd00:5:2::2", payload=payload), *V6),
            ):
                host.write(packet)
                number, _, opened = pair.into.open(station.next())
                while not opened:
                    number, _, opened = pair.into.open(station.next())
                assert opened == packet
                expected.append((number, source, target, payload))
        capture.stop()
    seen = read(capture.path, pair.into.base, pair.into.material(0))
    # A dummy has nothing inside: what is last there is the packet around it.
    assert [one for one in seen if one[1] != A[0]] == expected
    other_key = pair.into.material(1)
    assert [one for one in read(capture.path, pair.into.base, other_key) if one[1] != A[0]] == []

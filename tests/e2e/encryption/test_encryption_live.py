"""A live network goes from plain over preferred to required and back; every probe arrives.

Three hosts with a PSK whose operator lets the network decide (`--encryption-floor off`).

Needs root, etcd, iproute2 and tcpdump.
"""

from __future__ import annotations

import itertools
import sys
import time

import pytest
from scapy.layers.inet import IP, UDP

from testbed.capture import Capture
from testbed.netns import Rig
from testbed.network import Network
from testbed.probe import Probe
from testbed.wait import wait_until
from tests.interop.encryption import IS_LONG, is_encrypted, psk_file, set_mode

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

RATE_HZ = 1_000.0
PORTS = {"udp": 8285, "vxlan": 8472}
HOSTS = ("t1", "t2", "t3") if IS_LONG else ("t1", "t2")


def modes(network: Network) -> set[str]:
    return {host.status()["encryption"]["mode"] for host in network.hosts}


def all_encrypted(network: Network) -> bool:
    return all(is_encrypted(a, b) and is_encrypted(b, a) for a, b in network.pairs())


def none_encrypted(network: Network) -> bool:
    return not any(is_encrypted(a, b) or is_encrypted(b, a) for a, b in network.pairs())


def probed(probes: list[Probe]) -> None:
    """Waits until each flow has moved on by some hundred probes."""
    heard = [len(probe.arrivals()) for probe in probes]
    wait_until(
        lambda: all(
            len(probe.arrivals()) > before + 500
            for probe, before in zip(probes, heard, strict=True)
        ),
        60.0,
        "500 more probes of each flow",
    )


def missing(probes: list[Probe], stages: list[tuple[float, str]]) -> list[str]:
    """Returns which probes never arrived, by what was asked of the network last before that."""
    found = []
    for probe in probes:
        arrivals = sorted(probe.arrivals(), key=lambda one: one.number)
        for a, b in itertools.pairwise(arrivals):
            if b.number > a.number + 1:
                at_s, what = max(one for one in stages if one[0] < b.at_s)
                found.append(
                    f"{probe.name}: {b.number - a.number - 1} within {b.at_s - a.at_s:.3f} s, "
                    f"until {b.at_s - at_s:.3f} s after {what}"
                )
    return found


SEND = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
    out.sendto(bytes.fromhex(sys.argv[1]), (sys.argv[2], int(sys.argv[3])))
"""


def refuses_plain(network: Network) -> None:
    """A plain packet to the port that stays open, from an address of nobody, is not let in."""
    victim = network.hosts[0]
    packet = bytes(IP(src="10.5.250.2", dst=str(victim.container_ip)) / UDP(dport=9))
    before = victim.status()["drops"].get("unknown_peer", 0)
    network.switch.run(
        *(sys.executable, "-I", "-c", SEND, packet.hex()),
        *(str(victim.public_ip), str(PORTS["udp"])),
    )
    wait_until(
        lambda: victim.status()["drops"].get("unknown_peer", 0) == before + 1,
        20.0,
        "a plain packet that is dropped",
    )


@pytest.mark.parametrize("backend", ["udp", "vxlan"])
def test_no_probe_is_lost_while_the_mode_goes_up_and_down(
    root_tools: None, rig: Rig, backend: str, figures: list[dict[str, object]]
) -> None:
    network = Network(rig, backend={"Type": backend})
    # Loosened, so that what the port lets in with `required` is seen not to depend on it.
    options = ["--psk-file", str(psk_file(rig)), "--encryption-floor", "off"]
    options += ["--source-check", "off"]
    for name in HOSTS:
        network.add(
            name,
            "--psk-file",
            str(psk_file(rig)),
            "--encryption-floor",
            "off",
            "--source-check",
            "off",
        )
    network.wait_connected()
    port = PORTS[backend]
    first = network.hosts[0]
    probes = [Probe(a, b, rate_hz=RATE_HZ) for a, b in network.pairs()]
    for probe in probes:
        probe.wait_steady(0.0, 60.0)

    stages = [(0.0, "start")]

    def stage(mode: str) -> None:
        stages.append((time.monotonic(), mode))
        set_mode(network, backend, mode)

    stage("preferred")
    wait_until(lambda: all_encrypted(network), 60.0, "keys between all")
    probed(probes)
    stage("required")
    wait_until(lambda: modes(network) == {"required"}, 60.0, "required everywhere")
    path = first.space.directory / "required.pcap"
    with Capture(network.switch, first.name, f"udp port {port}", path) as capture:
        probed(probes)
    assert capture.packets() == [], "nothing plain of a pair in required"
    if backend == "udp":
        refuses_plain(network)
    assert {host.subnet_env["FLANNEL_MTU"] for host in network.hosts} == {"1438"}

    stage("preferred")
    wait_until(lambda: modes(network) == {"preferred"}, 60.0, "preferred everywhere")
    probed(probes)
    assert all_encrypted(network), "keys stay"
    stage("off")
    wait_until(lambda: none_encrypted(network), 60.0, "plain between all")
    probed(probes)

    walk = missing(probes, stages)
    # Twice within a second, and back: whoever hears of it late may miss a packet, and no more.
    for mode in ("preferred", "required", "preferred", "off", "preferred"):
        stage(mode)
    wait_until(lambda: all_encrypted(network), 60.0, "keys between all again")
    probed(probes)
    for probe in probes:
        probe.stop()
    figures.extend(
        {
            "backend": backend,
            "flow": probe.name,
            "probes": len(probe.arrivals()),
            "lost": probe.lost(),
            "longest gap (ms)": round(1e3 * probe.longest_gap_s(), 1),
        }
        for probe in probes
    )
    assert walk == []

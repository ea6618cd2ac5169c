"""Encryption under load: keys made anew, a PSK rotated, hosts restarted, the store away."""

from __future__ import annotations

import base64
import math
import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from testbed.exchange import json_lines, start_traffic
from testbed.netns import Rig
from testbed.network import Host, Network
from testbed.probe import Probe
from testbed.wait import wait_until
from tests.interop.encryption import (
    RATE_HZ,
    STREAM_BYTES,
    config,
    is_encrypted,
    psk_file,
)

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def live(
    root_tools: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Network, tuple[Probe, ...]]]:
    """Three tunneld hosts with a PSK in a network that requires encryption, under probes."""
    with Rig("live", tmp_path_factory.mktemp("live")) as rig:
        network = Network(rig, backend=config("udp", "required"))
        for name in ("t1", "t2", "t3"):
            network.add(name, "--psk-file", str(psk_file(rig)))
        network.wait_connected()
        probes = tuple(Probe(a, b, rate_hz=RATE_HZ) for a, b in network.pairs())
        for probe in probes:
            probe.wait_steady(0.0, 30.0)
        yield network, probes
        for probe in probes:
            probe.stop()


def all_encrypted(network: Network) -> bool:
    return all(is_encrypted(first, second) for first, second in network.pairs())


def write_psks(network: Network, *psks: bytes) -> None:
    """Gives all hosts these PSKs, which they read one after the other."""
    text = b"\n".join(base64.b64encode(psk) for psk in psks) + b"\n"
    psk_file(network.rig).write_bytes(text)
    for host in network.hosts:
        host.running.signal(signal.SIGHUP)
        wait_until(
            lambda host=host: len(host.status()["encryption"]["psk_ids"]) == len(psks),  # type: ignore[misc]
            20.0,
            f"{len(psks)} PSKs of {host.name}",
        )


def ages(network: Network) -> list[float]:
    """Returns how old the keys of each direction are; endless where there are none."""
    found = [peer["security"]["age_s"] for host in network.hosts for peer in host.status()["peers"]]
    return [math.inf if age_s is None else age_s for age_s in found]


def wait_renewed(network: Network, since_s: float) -> None:
    """Waits until all pairs have keys that are younger than a moment of the monotonic clock."""
    wait_until(
        lambda: max(ages(network)) < time.monotonic() - since_s, 30.0, "new keys of all pairs"
    )


def test_a_psk_is_rotated_under_load_without_loss_or_disorder(
    live: tuple[Network, tuple[Probe, ...]],
) -> None:
    network, probes = live
    t1, t2, _ = network.hosts
    begun = [len(probe.arrivals()) for probe in probes]
    receiver = start_traffic(t2.container, "receive-stream", 7_002)
    receiver.wait_for_output("listening")
    size = STREAM_BYTES * 8
    sender = start_traffic(t1.container, "send-stream", t2.container_ip, 7_002, size, 5)
    old = base64.b64decode(psk_file(network.rig).read_bytes())
    new = os.urandom(48)
    for psks in ((old, new), (new, old), (new,)):
        since_s = time.monotonic()
        write_psks(network, *psks)
        wait_renewed(network, since_s)
    assert sender.wait(240.0) == 0, sender.output()
    assert receiver.wait(60.0) == 0, receiver.output()
    assert json_lines(receiver)[-1]["sha256"] == json_lines(sender)[-1]["sha256"]
    for probe, start in zip(probes, begun, strict=True):
        numbers = [arrival.number for arrival in probe.arrivals()][start:]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), probe.name


def start_until_ready(host: Host) -> float:
    """Starts a daemon; returns when it said that it is ready, on the monotonic clock."""
    path = host.space.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(60.0)
        log = host.space.directory / "daemon-told.log"
        env = {**os.environ, "NOTIFY_SOCKET": str(path)}
        host.daemon = host.space.start(*host.command(), log=log, env=env)
        while b"READY=1" not in manager.recv(65536):
            pass
        return time.monotonic()


def test_a_killed_host_loses_nothing_from_the_first_packet_on_and_the_others_nothing_at_all(
    live: tuple[Network, tuple[Probe, ...]], figures: list[dict[str, object]]
) -> None:
    network, probes = live
    victim = network.host("t3")
    others = [probe for probe in probes if victim.name not in probe.name]
    lost = [probe.lost() for probe in others]
    victim.end(signal.SIGKILL)
    killed_s = time.monotonic()
    ready_s = start_until_ready(victim)
    for probe in probes:
        probe.wait_steady(ready_s, 30.0)
    assert all_encrypted(network)
    assert [probe.lost() for probe in others] == lost
    for probe in probes:
        if probe not in others:
            since = [arrival for arrival in probe.arrivals() if arrival.at_s > killed_s]
            numbers = [arrival.number for arrival in since]
            # From the first one on, which comes before it says that it is ready.
            assert since[0].at_s < ready_s, probe.name
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), probe.name
            gap_s = probe.gap_after_s(killed_s)
            figures.append(
                {
                    "killed and started": probe.name,
                    "gap_s": round(gap_s, 3),
                    "from_ready_to_first_s": round(since[0].at_s - ready_s, 4),
                }
            )


def test_keys_are_renewed_and_a_host_restarts_while_the_store_is_away(
    live: tuple[Network, tuple[Probe, ...]],
) -> None:
    network, probes = live
    network.etcd.stop()
    try:
        since_s = time.monotonic()
        for host in network.hosts:  # reading files again makes new keys
            host.running.signal(signal.SIGHUP)
        wait_renewed(network, since_s)
        victim = network.host("t2")
        assert victim.end(signal.SIGTERM) == 0
        stopped_s = time.monotonic()
        victim.start()
        for probe in probes:
            probe.wait_steady(stopped_s, 30.0)
        assert all_encrypted(network)
    finally:
        network.etcd.start()

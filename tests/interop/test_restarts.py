"""A daemon that is killed or stopped and started again carries on, its neighbours undisturbed."""

from __future__ import annotations

import signal
import time

import pytest

from testbed.network import Network
from testbed.probe import RATE_HZ, Probe

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first may build flanneld

RECOVERY_TIMEOUT_S = 30.0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize(
    ("victim_name", "peer_names", "bystander_names"),
    [("f2", ("f1", "t1"), ("f1", "t1")), ("t2", ("f1", "t1"), ("f1", "t1"))],
    ids=["flanneld", "tunneld"],
)
def test_a_restarted_daemon_recovers_by_itself(
    mixed: Network,
    figures: list[dict[str, object]],
    victim_name: str,
    peer_names: tuple[str, str],
    bystander_names: tuple[str, str],
    number: signal.Signals,
) -> None:
    victim = mixed.host(victim_name)
    subnet, leases = victim.subnet, mixed.leases()
    peers = [mixed.host(name) for name in peer_names]
    first, second = (mixed.host(name) for name in bystander_names)
    affected = [Probe(peer, victim) for peer in peers] + [Probe(victim, peer) for peer in peers]
    bystanders = [Probe(first, second), Probe(second, first)]
    for probe in (*affected, *bystanders):
        probe.wait_steady(0.0, 20)

    ended_with = victim.end(number)
    restarted_at_s = time.monotonic()
    victim.start()
    for probe in affected:
        probe.wait_steady(restarted_at_s, RECOVERY_TIMEOUT_S)
    for probe in (*affected, *bystanders):
        probe.stop()

    assert ended_with == (0 if number is signal.SIGTERM else -signal.SIGKILL)
    assert victim.subnet == subnet
    assert mixed.leases() == leases
    for probe in bystanders:
        assert probe.lost() == 0, probe.name
    for probe, peer in zip(affected, [*peers, *peers], strict=True):
        figures.append(
            {
                "restart": f"{victim.kind} {number.name}",
                "probe": probe.name,
                "other_end": peer.kind,
                "rate_hz": RATE_HZ,
                "gap_s": round(probe.longest_gap_s(), 3),
                "lost": probe.lost(),
            }
        )

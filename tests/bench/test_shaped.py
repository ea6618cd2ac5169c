"""Through a shaped path between two hosts: what is reported is what the path lets through.

tbf holds the rate, nft drops one packet of a hundred at random, and nft counts on both sides of
that, and tcpdump keeps the time: sources that know nothing of the bench.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from testbed.capture import Capture
from testbed.netns import Namespace, Rig
from tests.bench.hosts import run, serving

RATE_MBIT = 100
SIZE = 1024
FRAME_BYTES = SIZE + 8 + 20 + 14
"""What tbf counts of a datagram: UDP, IPv4 and Ethernet headers too."""
LOSS = 0.01
BURST_BYTES = 100_000
COUNT = f"""
table inet shaper {{
    chain input {{
        type filter hook prerouting priority -300;
        udp length {SIZE + 8} counter name "before"
        udp length {SIZE + 8} numgen random mod 100 < 1 drop
        udp length {SIZE + 8} counter name "after"
    }}
    counter before {{ }}
    counter after {{ }}
}}
"""


@pytest.fixture
def hosts(rig: Rig) -> tuple[Namespace, Namespace]:
    near, far = rig.namespace("near"), rig.namespace("far")
    rig.link(near, "u0", far, "u0", first_address="192.0.2.1/24", second_address="192.0.2.2/24")
    near.run(
        *("tc", "qdisc", "add", "dev", "u0", "root", "tbf", "rate", f"{RATE_MBIT}mbit"),
        *("burst", str(BURST_BYTES), "limit", "500k"),
    )
    near.run("ethtool", "-K", "u0", "tso", "off", "gso", "off")
    far.run("nft", "-f", "-", stdin=COUNT)
    return near, far


def counted(far: Namespace) -> dict[str, int]:
    said = far.run("nft", "-j", "list", "counters")
    found = [it["counter"] for it in json.loads(said)["nftables"] if "counter" in it]
    return {it["name"]: it["packets"] for it in found}


def spans(times: list[float]) -> list[list[float]]:
    """Cuts moments into trials: between two of them nothing is sent for a while."""
    found = [[times[0]]]
    for before, now in pairwise(times):
        if now - before > 0.25:
            found.append([])
        found[-1].append(now)
    return found


def test_rate_and_loss_are_what_the_shaper_lets_through(
    hosts: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    near, far = hosts
    options = (
        *("--figures", "udp", "loss", "--sizes", str(SIZE), "--rounds", "1", "--seconds", "1"),
        *("--report", str(tmp_path / "out")),
    )
    seen = Capture(far, "u0", f"udp and dst host 192.0.2.2 and greater {FRAME_BYTES}")
    with (
        seen,
        serving("--listen", "192.0.2.2", "--max-rate", "1000", inside=far.command()) as one,
    ):
        done = run("192.0.2.2", one.port, one.secret, *options, inside=near.command())
        assert done.returncode == 0, done.stderr
        assert one.end()[0] == 0
    samples = json.loads((tmp_path / "out/bench.json").read_text())["samples"]
    up = [s for s in samples if s["case"]["subject"] == "to the other host"]
    [full_sample] = [s for s in up if s["figure"] == "udp"]
    full = full_sample["values"]
    [search] = [s["values"] for s in up if s["figure"] == "loss"]
    reached, passed = (counted(far)[name] for name in ("before", "after"))
    lost = 1 - passed / reached

    # Every datagram that nft let through was counted, and no other one.
    trials: list[dict[str, Any]] = [full, *search["points"]]
    assert sum(trial["received"] for trial in trials) == passed
    # At full speed what arrived is what came out of tbf, by the wire's own time, less nft's share.
    wire = spans([float(packet.time) for packet in seen.packets()])[0]
    rate = len(wire) / (wire[-1] - wire[0])
    # A receiver that got no processor in time sees a shorter span; then the sample says so.
    is_close = full["delivered_per_s"] == pytest.approx(rate * (1 - lost), rel=0.03)
    assert is_close or full_sample["marks"], (full, rate)
    # tbf lets no more through: its rate, and once its burst.
    most = RATE_MBIT * 1e6 * 1.03 + BURST_BYTES * 8
    assert rate * FRAME_BYTES * 8 < most
    assert full["loss"] > 2 * LOSS, "more than tbf lets through was offered"
    # Below the rate only nft loses; three deviations of what chance does to so many.
    least = min(trials, key=lambda trial: trial["loss"])
    assert least["loss"] == pytest.approx(lost, abs=3 * (LOSS / least["sent"]) ** 0.5)
    # No rate is clean, and it is said so.
    assert search["clean_bits_per_s"] is None
    assert "least loss at any rate" in done.stdout

"""`python -m bench.recovery`: measures what faults and migration cost. Needs root.

python -m bench.recovery              the figures of docs/recovery.md, about 8 minutes
python -m bench.recovery --rounds 1   a first look
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.lab import environment, raw
from tests.migration.moves import MOVE, MOVE_BACK, PREPARE, FlannelNetwork
from tests.support.booted import BootedNetwork, wait_connected
from tests.support.install import install_below
from tests.support.netns import Rig, remove_leftovers
from tests.systemd.conftest import configure
from tests.systemd.events import FLUSHES, KILL, measure

Sample = dict[str, object]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.recovery",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=10, help="of each event (default: 10)")
    rounds = parser.parse_args().rounds
    began = datetime.now(tz=UTC)
    path = raw.place(began, "recovery")
    document: dict[str, Any] = {
        "kind": "recovery",
        "began": began.isoformat(timespec="seconds"),
        "machine": environment.describe(),
        "samples": [],
    }
    remove_leftovers()
    with tempfile.TemporaryDirectory(prefix="tunneld-bench-") as directory:
        installed = Path(directory) / "installed"
        install_below(installed)
        for measured in (_events, _migration):
            with Rig("recovery", Path(directory) / measured.__name__) as rig:
                for sample in measured(rig, installed, rounds):
                    document["samples"].append(sample)
                    raw.write(path, document)
                    print(f"{datetime.now(tz=UTC):%H:%M:%S} {sample}", flush=True)
    _show(document["samples"])
    print(f"raw figures: {path}")
    return 0


def _events(rig: Rig, installed: Path, rounds: int) -> Iterator[Sample]:
    """Two hosts with tunneld as a service; everything happens to the second."""
    network = BootedNetwork(rig, installed=installed)
    try:
        network.start_store()
        for name in ("a", "b"):
            host = network.add(name)
            configure(host)
            host.machine.boot()
        other, host = network.hosts
        wait_connected(other, host)
        for number in range(1, rounds + 1):
            for event in (KILL, *FLUSHES):  # the events take turns, so that drift hits all alike
                for sample in measure(event, host, other):
                    yield {"round": number, **sample}
    finally:
        network.shut_down()


def _migration(rig: Rig, installed: Path, rounds: int) -> Iterator[Sample]:
    """Three flanneld hosts, moved to tunneld and back by the commands of the guide."""
    flannel = FlannelNetwork(rig, installed)
    try:
        flannel.start()
        for host in flannel.hosts:
            flannel.carry_out(PREPARE, host)
        for number in range(1, rounds + 1):
            for heading in (MOVE, MOVE_BACK):
                for host in flannel.hosts:
                    for loss in flannel.move(heading, host):
                        event = heading if loss.is_affected else f"{heading}: the other hosts"
                        yield {"round": number, "event": event, **loss.figure()}
    finally:
        flannel.net.shut_down()


def _show(samples: list[Any]) -> None:
    """Prints median and worst of each event."""
    by_event = defaultdict(list)
    for sample in samples:
        by_event[sample["event"]].append(sample)
    print(f"\n{'event':<40} {'flows':>5}  {'packets lost':>16}  {'gap (s)':>16}")
    for event, found in by_event.items():
        columns = []
        for name, form in (("lost", ".0f"), ("gap_s", ".2f")):
            values = [sample[name] for sample in found]
            columns.append(f"{statistics.median(values):{form}}, at most {max(values):{form}}")
        print(f"{event:<40} {len(found):>5}  {columns[0]:>16}  {columns[1]:>16}")


if __name__ == "__main__":
    sys.exit(main())

"""`python -m bench.recovery`: measures what faults and migration cost. Needs root.

python -m bench.recovery              all of it, about 7 minutes
python -m bench.recovery --rounds 1   a first look
python -m bench.recovery --show RAW   puts a raw file's tables into the pages that have them
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.lab import environment, raw
from bench.recovery import tables
from bench.report.document import ROOT, filled, with_raw
from bench.report.tables import as_markdown
from testbed.booted import BootedNetwork, configure, wait_connected
from testbed.events import FLUSHES, KILL, measure
from testbed.install import install_below
from testbed.moves import MOVE, MOVE_BACK, PREPARE, FlannelNetwork
from testbed.netns import Rig, remove_leftovers
from testbed.systemd_machine import remove_leftover_cgroups

Sample = dict[str, object]

PAGES = tuple(ROOT / "docs" / name for name in ("recovery.md", "migration.md"))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.recovery",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=10, help="of each event (default: 10)")
    parser.add_argument("--show", type=Path, metavar="RAW", help="measure nothing")
    args = parser.parse_args()
    if args.show is not None:
        for page in PAGES:
            page.write_text(filled(with_raw(page.read_text(), args.show)))
        return 0
    rounds = args.rounds
    began = datetime.now(tz=UTC)
    path = raw.place(began, "recovery")
    document: dict[str, Any] = {
        "kind": "recovery",
        "began": began.isoformat(timespec="seconds"),
        "machine": environment.describe(),
        "samples": [],
    }
    remove_leftovers()
    remove_leftover_cgroups()
    with tempfile.TemporaryDirectory(prefix="tunneld-bench-") as directory:
        installed = Path(directory) / "installed"
        install_below(installed)
        for measured in (_events, _migration):
            with Rig("recovery", Path(directory) / measured.__name__) as rig:
                for sample in measured(rig, installed, rounds):
                    document["samples"].append(sample)
                    raw.write(path, document)
                    print(f"{datetime.now(tz=UTC):%H:%M:%S} {sample}", flush=True)
    _show(document)
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


def _show(document: dict[str, Any]) -> None:
    for table in (tables.faults(document), tables.moves(document)):
        print(f"\n{as_markdown(table)}")


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.chaos`: rounds of chaos on demand, with figures. Needs root.

python -m tests.chaos --rounds 200 --seed 7 --json figures.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from testbed.netns import Rig, remove_leftovers
from tests.chaos.hosts import KINDS, Site, built_clock
from tests.chaos.rounds import Chaos

BOUND_S = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="over all kinds (default: 200)")
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=[str(kind) for kind in KINDS], action="append")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    remove_leftovers()
    figures: list[dict[str, object]] = []
    times: list[float] = []
    broken = []
    kinds = [kind for kind in KINDS if not args.kind or str(kind) in args.kind]
    for kind in kinds:
        with (
            tempfile.TemporaryDirectory(prefix="tunneld-chaos-") as directory,
            Rig("chaos", Path(directory)) as rig,
        ):
            site = Site(rig, kind, args.hosts, built_clock(Path(directory)))
            try:
                site.start()
                chaos = Chaos(site, args.seed)
                for number, outcome in enumerate(chaos.rounds(args.rounds // len(kinds)), 1):
                    figure = {"kind": str(kind), "round": number, **outcome.figure()}
                    print(figure, flush=True)
                    figures.append(figure)
                    times += outcome.back_s
                broken += chaos.growth()
                broken += site.stop()
            finally:
                site.close()
        if args.json:
            args.json.write_text(json.dumps(figures, indent=1) + "\n")
    silent = [back_s for back_s in times if back_s > 0] or [0.0]
    print(
        f"{len(figures)} rounds, {len(times)} pairs: back after {statistics.median(times):.3f} s "
        f"(median), {max(times):.3f} s (worst); {len(silent)} still silent at a fault's end: "
        f"{statistics.median(silent):.3f} s (median); {sum(t > BOUND_S for t in times)} later "
        f"than {BOUND_S:g} s"
    )
    for line in broken:
        print(f"broken: {line}")
    return 1 if broken or max(times) > BOUND_S else 0


if __name__ == "__main__":
    sys.exit(main())

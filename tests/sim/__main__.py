"""`python -m tests.sim`: more seeds on demand, with how long leases took to come back.

python -m tests.sim --seeds 500 --first 1 --rounds 20
"""

from __future__ import annotations

import argparse
import logging
import sys

from tests.sim.faults import ALL
from tests.sim.network import simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    slowest_s, broken = 0.0, 0
    for seed in range(args.first, args.first + args.seeds):
        try:
            slowest_s = max(slowest_s, simulate(seed, ALL, args.rounds).slowest_s)
        except AssertionError as error:
            broken += 1
            print(f"{error}\n", flush=True)
    print(
        f"{args.seeds} networks, {args.rounds} faults each: {broken} broken; "
        f"after a fault all leases were back within {slowest_s:.1f} s"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

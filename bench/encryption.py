"""`python -m bench.encryption`: what ESP costs beside plain packets and wireguard-go. Needs root.

Every turn of every round has hosts and processes of its own. The AEAD alone is measured in each
round too, while the hosts are idle.

python -m bench.encryption             12 rounds, about 35 minutes
python -m bench.encryption --short     two rounds, under 4 minutes
python -m bench.encryption --rounds 3 --figures tcp1 --flavours gso --without wireguard-go
python -m bench.encryption --tunneld-options '--encryption-provider ring'
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.lab import environment, raw
from bench.lab.catalogue import OVERLAYS
from bench.lab.encrypted import WireguardGo
from bench.lab.rounds import Bench, Figure, Plan
from bench.lab.session import alone
from bench.micro import program
from bench.report.encryption import AEAD, as_text
from tunneld.bench import cpu
from tunneld.bench.local.ours import Tunneld, TunneldAes128, TunneldChaCha20, TunneldEsp
from tunneld.bench.local.pair import Flavour
from tunneld.errors import LabError
from tunneld.lab.main_job import Interrupted

_FLAVOURS: Final[tuple[Flavour, ...]] = ("wire", "gso")
_FIGURES: Final[tuple[Figure, ...]] = ("round trip", "tcp1", "tcp4", "flood")
_TURNS: Final = (
    *(Tunneld.name, TunneldEsp.name, WireguardGo.name, TunneldChaCha20.name),
    *(Tunneld.name, TunneldEsp.name, TunneldAes128.name),
)
"""Plain packets and ESP twice, by different processes: most figures are about these two."""


def main() -> int:
    args = _parser().parse_args()
    os.nice(args.nice)
    began = datetime.now(tz=UTC)
    path = raw.place(began, args.what or ("encryption-short" if args.short else "encryption"))
    document: dict[str, Any] = {
        "kind": "encryption",
        "began": began.isoformat(timespec="seconds"),
        "machine": environment.describe(),
    }
    try:
        with alone(), tempfile.TemporaryDirectory(prefix="tunneld-bench-") as directory:
            for seen in measured(_plan(args), Path(directory)):
                raw.write(path, document | seen)
    except Interrupted as interruption:
        return interruption.exit_status
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    print(as_text(raw.read(path)))
    print(f"raw figures: {path}")
    return 0


def measured(plan: Plan, directory: Path) -> Iterator[dict[str, Any]]:
    """Runs a plan; yields all that was seen so far after each round of a flavour.

    Raises:
        LabError: a step failed; the hosts are gone again.
    """
    micro = program.build()
    bench = Bench(plan, directory, _say)
    aead: list[dict[str, Any]] = []
    for _ in bench.run():
        where = {name: bench.samples[-1][name] for name in ("flavour", "round")}
        aead += ({**where, **sample} for sample in _aead(micro))
        seen = {"flavours": bench.flavours, "samples": bench.samples + aead}
        yield {"plan": asdict(plan)} | seen


def _aead(micro: Path) -> list[dict[str, Any]]:
    before = cpu.read(())
    cases = program.measure(micro, AEAD)
    usage = cpu.between(before, cpu.read(())).fields()
    return [
        {
            "figure": AEAD,
            "overlay": case["name"],
            "ns_per_packet": case["ns_per_packet"],
            "foreign_share": usage["foreign_share"],
        }
        for case in cases
    ]


def _plan(args: argparse.Namespace) -> Plan:
    plan = Plan(rounds=12, flavours=dict.fromkeys(args.flavours, args.figures))
    if args.short:
        plan = replace(plan, rounds=2, stream_s=1, flood_s=0.5, round_trips=200)
    left_out = {*args.without, *([TunneldAes128.name] if args.short else [])}
    return replace(
        plan,
        rounds=args.rounds or plan.rounds,
        turns=[name for name in _TURNS if name not in left_out],
        options={
            name: tuple(shlex.split(args.tunneld_options))
            for name in _TURNS
            if issubclass(OVERLAYS[name], Tunneld)
        },
        quiet_wait_s=args.quiet_wait,
        fresh=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.encryption",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--short", action="store_true", help="short measurements, two rounds")
    parser.add_argument("--rounds", type=int, help="rounds of every figure (default: 12)")
    choice: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument("--flavours", choices=_FLAVOURS, default=list(_FLAVOURS), **choice)
    parser.add_argument("--figures", choices=_FIGURES, default=list(_FIGURES), **choice)
    spared = {*_TURNS} - {Tunneld.name, TunneldEsp.name}
    parser.add_argument("--without", choices=spared, default=[], **choice)
    parser.add_argument(
        "--quiet-wait",
        type=float,
        default=0.0,
        metavar="S",
        help="wait this long at most, before each figure, for other programs to calm down",
    )
    parser.add_argument("--tunneld-options", default="", help="further options of `tunneld run`")
    parser.add_argument("--nice", type=int, default=-5, help="for all that is measured")
    parser.add_argument("--what", help="end of the raw file's name (default: encryption)")
    return parser


def _say(line: str) -> None:
    print(f"{datetime.now(tz=UTC):%H:%M:%S} {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

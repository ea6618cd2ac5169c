"""`tunneld bench`: measures what encryption costs. Arguments to calls, nothing else."""

from __future__ import annotations

import argparse
import getpass
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from tunneld.bench import crypto, keep
from tunneld.bench.compare import compare, differences
from tunneld.bench.hosts import remote
from tunneld.bench.hosts.challenge import Secret
from tunneld.bench.hosts.remote import Place
from tunneld.bench.hosts.serve import PORT, serve
from tunneld.bench.local import pair, peers, runner
from tunneld.bench.local.pair import Flavour
from tunneld.bench.local.paths import PATHS, QUICK
from tunneld.bench.plan import FIGURES, Figure, Scope, Size
from tunneld.bench.session import Output
from tunneld.bench.table import changes_as_text
from tunneld.errors import UsageError

if TYPE_CHECKING:
    SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]

_EXAMPLES: Final = """\
examples:
  tunneld bench serve                             on one host, then on the other:
  tunneld bench run HOST --secret-file FILE       what the network between them carries
  tunneld bench crypto                            the ciphers alone
  tunneld bench local --quick --report out        encapsulations on this machine, under 3 minutes
  tunneld bench --compare before.json after.json  what changed beyond noise
"""
_SECONDS: Final = 0.1
_UNDERLAYS: Final[tuple[Flavour, ...]] = ("wire", "gso")


def add_parser(subparsers: SubParsers) -> None:
    """Adds `bench` and its subcommands."""
    parser = subparsers.add_parser(
        "bench",
        help="measure what encryption costs",
        description="Measures what encryption costs: the ciphers alone, on this machine, or "
        "between two hosts.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A.json", "B.json"),
        help="what changed from A to B beyond noise",
    )
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(dest="bench_command", metavar="COMMAND")
    _add_crypto(commands)
    _add_local(commands)
    _add_serve(commands)
    _add_run(commands)


def run(args: argparse.Namespace) -> int:
    """Carries the command out; returns the exit status."""
    if args.compare is not None:
        return _compare(*map(Path, args.compare))
    commands = {"crypto": _crypto, "local": _local, "serve": _serve, "run": _run}
    if args.bench_command is None:
        args.parser.error(f"a command is missing: expected one of {', '.join(commands)}")
    return commands[args.bench_command](args)


def _add_crypto(commands: SubParsers) -> None:
    command = commands.add_parser(
        "crypto",
        help="AEADs alone: provider x cipher x size",
        description="Measures AEADs alone: seal and open, ns, GB/s and cycles per byte.",
        epilog="examples:\n  tunneld bench crypto\n  tunneld bench crypto --sizes 1438 --json",
    )
    _add_output(command)
    command.add_argument("--rounds", type=_count, default=7, help="default: 7")
    command.add_argument(
        "--sizes", type=_text_size, nargs="+", default=list(crypto.SIZES), metavar="BYTES"
    )
    command.add_argument("--seconds", type=_seconds, default=_SECONDS, help="of each sample")
    command.set_defaults(parser=command)


def _crypto(args: argparse.Namespace) -> int:
    return crypto.run(
        rounds=args.rounds, sizes=args.sizes, duration_s=args.seconds, output=_output(args)
    )


def _add_local(commands: SubParsers) -> None:
    command = commands.add_parser(
        "local",
        help="encapsulations between namespaces of this machine",
        description="Measures encapsulations between namespaces of this machine. Needs root.",
        epilog="examples:\n  tunneld bench local --quick --report out\n"
        "  tunneld bench local --paths raw 'esp aes-256-gcm' --figures tcp --underlays wire",
    )
    _add_output(command)
    command.add_argument("--name", type=_name, help="of this bench, next to others")
    command.add_argument("--quick", action="store_true", help="a first look, under 3 minutes")
    command.add_argument("--peers", action="store_true", help="other programs that encrypt too")
    command.add_argument(
        "--peer-path",
        type=_peer_path,
        action="append",
        default=[],
        metavar="NAME=PATH",
        help=f"of {', '.join(peers.PEERS)}, where it is not on the PATH",
    )
    _add_scope(command)
    choice = {"nargs": "+", "metavar": "NAME"}
    command.add_argument("--paths", choices=list(PATHS), help=", ".join(PATHS), **choice)  # type: ignore[arg-type]
    command.add_argument("--underlays", choices=_UNDERLAYS, help="wire, gso", **choice)  # type: ignore[arg-type]
    command.add_argument(
        "--offloads",
        choices=get_args(runner.Offloads),
        help="on (default), off",
        **choice,  # type: ignore[arg-type]
    )
    command.set_defaults(parser=command)


def _local(args: argparse.Namespace) -> int:
    usual = QUICK_SCOPE if args.quick else Scope(rounds=7)
    scope = _scope(args, usual)
    if args.name is not None:
        pair.use_name(args.name)
    there, absent = peers.found(dict(args.peer_path)) if args.peers else ([], [])
    choice = runner.Choice(
        peers=there,
        absent=absent,
        paths=args.paths or (QUICK if args.quick else tuple(PATHS)),
        underlays=args.underlays or (("wire",) if args.quick else _UNDERLAYS),
        offloads=args.offloads or ("on",),
    )
    return runner.run(choice, scope, _output(args))


def _add_serve(commands: SubParsers) -> None:
    command = commands.add_parser(
        "serve",
        help="let one run of another host measure against this one",
        description="Prints a secret that is good for one run, waits for it, serves it and ends.",
        epilog="examples:\n  tunneld bench serve\n"
        "  tunneld bench serve --listen 192.0.2.1 --max-rate 1000 --duration 300",
    )
    command.add_argument("--listen", metavar="ADDRESS", help="default: every address")
    command.add_argument(
        "--port", type=_any_port, default=PORT, help=f"TCP and UDP, default: {PORT}; 0: a free one"
    )
    command.add_argument(
        "--wait", type=_long, default=600.0, metavar="S", help="for a run (default: 600)"
    )
    command.add_argument(
        "--duration", type=_long, default=600.0, metavar="S", help="of the run (default: 600)"
    )
    command.add_argument(
        "--max-rate", type=_rate, default=10_000.0, metavar="MBIT", help="default: 10000 Mbit/s"
    )
    command.set_defaults(parser=command)


def _serve(args: argparse.Namespace) -> int:
    return serve(
        address=args.listen,
        port=args.port,
        wait_s=args.wait,
        run_s=args.duration,
        most_bits_per_s=args.max_rate * 1e6,
    )


def _add_run(commands: SubParsers) -> None:
    command = commands.add_parser(
        "run",
        help="measure between this host and one that serves",
        description="Measures between this host and one where `tunneld bench serve` waits. The "
        "secret comes from a file, from stdin, or is asked for: never from the command line.",
        epilog="examples:\n  tunneld bench run 192.0.2.1 --secret-file secret --report out\n"
        "  tunneld bench run 192.0.2.1 --quick < secret",
    )
    command.add_argument("host", metavar="HOST", help="name or address of the other host")
    command.add_argument("--port", type=_port, default=PORT, help=f"default: {PORT}")
    command.add_argument("--secret-file", type=Path, metavar="FILE", help="what serve printed")
    _add_output(command)
    command.add_argument("--quick", action="store_true", help="a first look, about a minute")
    _add_scope(command)
    command.set_defaults(parser=command)


def _run(args: argparse.Namespace) -> int:
    usual = QUICK_HOSTS if args.quick else Scope(rounds=5)
    place = Place(host=args.host, port=args.port)
    return remote.run(place, _secret(args.secret_file), _scope(args, usual), _output(args))


def _secret(path: Path | None) -> Secret:
    if path is not None:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{path}: cannot be read ({error}); expected the secret that serve printed"
            raise UsageError(msg) from error
    elif sys.stdin.isatty():
        text = getpass.getpass("secret: ")
    else:
        text = sys.stdin.readline(200)
    return Secret.read(text.strip().removeprefix("bench: ").removeprefix("secret: "))


def _add_scope(command: argparse.ArgumentParser) -> None:
    choice: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    command.add_argument("--rounds", type=_count, help="how often each figure is taken")
    command.add_argument("--figures", choices=FIGURES, help=", ".join(FIGURES), **choice)
    command.add_argument("--sizes", type=_size, nargs="+", metavar="BYTES", help="or IMIX")
    command.add_argument("--streams", type=_count, nargs="+", metavar="N")
    command.add_argument("--seconds", type=_seconds, help="of each measurement")


def _scope(args: argparse.Namespace, usual: Scope) -> Scope:
    return replace(
        usual,
        rounds=args.rounds or usual.rounds,
        figures=cast(list[Figure], args.figures) or usual.figures,
        sizes=args.sizes or usual.sizes,
        streams=args.streams or usual.streams,
        stream_s=args.seconds or usual.stream_s,
        datagrams_s=args.seconds or usual.datagrams_s,
        round_trips_s=args.seconds or usual.round_trips_s,
        loss_point_s=args.seconds or usual.loss_point_s,
    )


QUICK_HOSTS: Final = Scope(
    rounds=3,
    sizes=(64, 1024),
    streams=(1, 4),
    stream_s=1.5,
    datagrams_s=0.7,
    round_trips_s=1.5,
    loss_point_s=0.7,
    loss_points=6,
)
QUICK_SCOPE: Final = Scope(
    rounds=3,
    sizes=(64, 1024),
    streams=(1, 4),
    stream_s=1.0,
    datagrams_s=0.4,
    round_trips_s=0.7,
    loss_point_s=0.4,
    loss_points=6,
    budget_s=150.0,
)


def _compare(before: Path, after: Path) -> int:
    one, other = keep.read(before), keep.read(after)
    print(changes_as_text(compare(one, other), differences(one, other)))
    return 0


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print all of it as JSON")
    command.add_argument(
        "--report", type=Path, metavar="DIR", help="write DIR/index.html and DIR/bench.json"
    )


def _output(args: argparse.Namespace) -> Output:
    return Output(is_json=args.json, report=args.report)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000:
        msg = f"{text!r}, expected a number from 1 to 1000"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _peer_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or name not in peers.PEERS:
        msg = f"{text!r}, expected NAME=PATH with a name of {', '.join(peers.PEERS)}"
        raise argparse.ArgumentTypeError(msg)
    return name, path


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]{1,11}", text):
        msg = f"{text!r}, expected 1 to 11 of a-z and 0-9"
        raise argparse.ArgumentTypeError(msg)
    return text


def _number(text: str, least: float, most: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        msg = f"{text!r}, expected {what} from {least:g} to {most:g}"
        raise argparse.ArgumentTypeError(msg)
    return value


def _long(text: str) -> float:
    return _number(text, 1, 86_400, "seconds")


def _rate(text: str) -> float:
    return _number(text, 0.1, 1_000_000, "Mbit/s")


def _port(text: str) -> int:
    return int(_number(text, 1, 65_535, "a port"))


def _any_port(text: str) -> int:
    return int(_number(text, 0, 65_535, "a port"))


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.001 <= value <= 60:
        msg = f"{text!r}, expected seconds from 0.001 to 60"
        raise argparse.ArgumentTypeError(msg)
    return value


def _text_size(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1 << 20:
        msg = f"{text!r}, expected a size from 1 to {1 << 20} bytes"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _size(text: str) -> Size:
    if text.upper() == "IMIX":
        return "IMIX"
    if not text.isdecimal() or not 16 <= int(text) <= 65_507:
        msg = f"{text!r}, expected a UDP payload from 16 to 65507 bytes, or IMIX"
        raise argparse.ArgumentTypeError(msg)
    return int(text)

"""The command line: `main` finds the command, runs it, and turns errors into an exit status.

Exit statuses: 0, done; 1, it did not work; 2, the command line or the config file is wrong; 130,
interrupted. An error raised on purpose is one line on stderr; any other leaves its traceback.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Final, Protocol, cast

from tunneld import __version__, log
from tunneld.cli.parser import Parser
from tunneld.errors import TunneldError

SUMMARIES: Final[Mapping[str, str]] = {
    "run": "the daemon, in the foreground",
    "network": "show, set or check the network config: get, set FILE, check FILE",
    "status": "this host's lease, peers, counters and drops",
    "leases": "all leases of the network",
    "lease": "subnets kept for hosts: list, reserve, release",
    "offload": "switch an offload of the data path: NAME on|off",
    "identity": "the key other hosts know this one by: show, new",
    "trust": "whom this host trusts: add, list, revoke, allow-plain",
    "leave": "give up this host's lease and stop its daemon",
    "docker": "Docker on the leased subnet: network NAME, check",
    "docker-opts": "options of dockerd, as flannel's mk-docker-opts writes them",
    "lab": "a network of namespaces on this machine",
    "bench": "measure what encryption costs: crypto, local, serve, run",
    "version": "the version of tunneld",
}

EPILOG: Final = """\
examples: tunneld network set network.json; tunneld run --public-ip 192.0.2.1
'tunneld COMMAND --help' tells more. Options also: /etc/tunneld/tunneld.toml"""


class Command(Protocol):
    """What a module of a command offers."""

    def add_parser(self, subparsers: object) -> None:
        """Adds the command's parser."""
        ...

    def run(self, args: object) -> int:
        """Runs the command; returns the exit status."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line (of this process when None); returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except TunneldError as error:
        log.last_words(f"tunneld: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `tunneld leases | head`: nobody reads any more. Python would complain at its exit.
        sys.stdout = None
        return 1
    except Exception:  # the last resort: say all there is to say
        traceback.print_exc()
        return 1


def _run(arguments: list[str]) -> int:
    parser = Parser(
        prog="tunneld",
        usage="tunneld [--version | --help] COMMAND ...",
        add_help=False,
        description=_overview(),
        epilog=EPILOG,
    )
    # Named in the usage; the screen belongs to the commands.
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    parser.add_argument(
        "--version",
        action="version",
        version=f"tunneld {__version__}",
        help=argparse.SUPPRESS,
    )
    subparsers = parser.add_subparsers(
        dest="command", prog="tunneld", metavar="COMMAND", help=argparse.SUPPRESS
    )
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    for name, summary in SUMMARIES.items():
        if name == chosen:
            # Only the chosen command's module is loaded: `tunneld status` needs no data path.
            _command(name).add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    try:
        found = parser.parse_args(arguments)
    except SystemExit as ending:  # --help and --version
        return int(ending.code or 0)
    if found.command is None:
        parser.error(f"a command is missing: expected one of {', '.join(SUMMARIES)}")
    return _command(found.command).run(found)


def _overview() -> str:
    # Written here since argparse breaks the line behind a long name, and the screen is short.
    return "\n".join(
        [
            "Joins the container networks of many hosts into one, compatible with flannel.",
            "",
            "commands:",
            *(f"  {name:<11} {summary}" for name, summary in SUMMARIES.items()),
        ]
    )


def _command(name: str) -> Command:
    return cast(Command, importlib.import_module(f"tunneld.cli.{name.replace('-', '_')}"))

"""`tunneld docker-opts`: options of dockerd, as flannel's mk-docker-opts writes them."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from tunneld.cli import SUMMARIES
from tunneld.cli.parser import Parser
from tunneld.config.options import BY_NAME
from tunneld.docker import options
from tunneld.errors import DockerError
from tunneld.host import subnet_env, text_file
from tunneld.log import Periodic

POLL_S = 0.5
REMINDER_S = 60.0

_DESCRIPTION = """\
Reads subnet.env and writes the options that put docker0 on the leased subnet, with its MTU and with
masquerading by exactly one of the two daemons, for the EnvironmentFile= of docker.service. Takes
the place of flannel's mk-docker-opts.sh: same options, same output. Without -i and -c it writes
both. Ends with 1 when a route already leads the subnet to somebody else's gateway."""

_EPILOG = """\
examples:
  tunneld docker-opts -d /run/tunneld/docker.env -i --wait
  tunneld docker-opts -d - -c -k DOCKER_NETWORK_OPTIONS"""


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command's parser."""
    parser = subparsers.add_parser(
        "docker-opts",
        usage="tunneld docker-opts [OPTION ...]",
        help=SUMMARIES["docker-opts"],
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    subnet_file = BY_NAME["subnet-file"].default
    parser.add_argument(
        *("-f", "--subnet-file"),
        metavar="FILE",
        default=subnet_file,
        help=f"the file to read (default: {subnet_file})",
    )
    parser.add_argument(
        *("-d", "--output"),
        metavar="FILE",
        default=str(options.DEFAULT_OUTPUT),
        help=f"the file to write; - is stdout (default: {options.DEFAULT_OUTPUT})",
    )
    parser.add_argument(
        "-i", action="store_true", help="write each option as a line, like DOCKER_OPT_MTU"
    )
    parser.add_argument("-c", action="store_true", help="write all options as one line")
    parser.add_argument("-m", action="store_true", help="leave out --ip-masq")
    parser.add_argument(
        *("-6", "--ipv6"),
        action="store_true",
        help="put docker0 on the IPv6 subnet too, if there is one; not flannel's",
    )
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait for the file, however long tunneld takes to write it; not flannel's",
    )
    parser.add_argument(
        "-k",
        metavar="NAME",
        default=options.DEFAULT_KEY,
        help=f"name of that one line (default: {options.DEFAULT_KEY})",
    )
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Writes the file."""
    neither = not (args.i or args.c)
    form = options.Form(
        individual=args.i or neither,
        combined=args.c or neither,
        key=args.k,
        ip_masq=not args.m,
        ipv6=args.ipv6,
    )
    path = Path(args.subnet_file)
    text = _awaited(path) if args.wait else subnet_env.read_text(path)
    if text is None:
        # dockerd shall start all the same, as without us: a host is more than its overlay.
        print(
            f"tunneld: there is no {args.subnet_file}: dockerd gets no options of the overlay; is "
            "tunneld running? (systemctl status tunneld)",
            file=sys.stderr,
        )
    lines = options.render(text, form, os.environ)
    if text is not None:
        options.check(text, os.environ, where=args.subnet_file)
    _write(args.output, lines)
    route = options.foreign_route(text, os.environ)
    if route is not None:
        raise DockerError(
            f"the routing table already has the leased subnet: {route}; expected no gateway to "
            "it: remove that route, or take that network out of the overlay's"
        )
    return 0


def _awaited(path: Path) -> str:
    """Returns what the file says once it is there; tells once a minute that it is not."""
    told = Periodic(REMINDER_S)
    while (text := subnet_env.read_text(path)) is None:
        if told.due(time.monotonic()):
            print(
                f"tunneld: waiting for {path}, which tunneld writes once it forwards "
                "(systemctl status tunneld)",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(POLL_S)
    return text


def _write(path: str, text: str) -> None:
    if path == "-":
        sys.stdout.write(text)
        return
    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")  # a FIFO, /dev/stdout
        else:
            # As a whole, and to be read by whoever starts dockerd, whatever the umask.
            text_file.replace(target.resolve(), text, 0o644)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DockerError(
            f"cannot write {path}: {reason}; expected a place for the options: make the "
            "directory, or name another file with -d"
        ) from error

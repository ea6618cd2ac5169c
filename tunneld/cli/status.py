"""`tunneld status`: what the running daemon says of itself, as text or as JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys

from tunneld.cli import SUMMARIES
from tunneld.cli.parser import Parser, add_options, option_texts
from tunneld.config import load
from tunneld.control.client import request
from tunneld.control.status import render_text

_EPILOG = """\
examples:
  tunneld status
  tunneld status --json | jq .drops
  tunneld status --control-socket /run/tunneld/second.sock"""


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command's parser."""
    parser = subparsers.add_parser(
        "status",
        help=SUMMARIES["status"],
        description="Shows this host's lease, backend, MTU, peers, counters, and drops by reason.",
        epilog=_EPILOG,
    )
    parser.add_argument("--json", action="store_true", help="print everything, as one JSON object")
    add_options(parser, ["control-socket"])
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Asks the daemon and prints its answer."""
    options = load(option_texts(args), os.environ)
    document = request(options.control_socket, "status")
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        sys.stdout.write(render_text(document))
    return 0

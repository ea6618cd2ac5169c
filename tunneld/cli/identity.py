"""`tunneld identity`: the key by which other hosts know this one."""

from __future__ import annotations

import argparse
import os
import sys

from tunneld.cli import SUMMARIES
from tunneld.cli.parser import Parser, add_options, option_texts
from tunneld.cli.state_dir import make_state_dir
from tunneld.config import RunOptions, load
from tunneld.control.client import NotRunningError, request
from tunneld.trust.secrets import KEY_FILE, NodeKey

_EPILOG = """\
examples:
  tunneld identity show               # for the identities files of the other hosts
  tunneld identity new                # after a key was lost or copied"""


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command's parser, and those of `show` and `new`."""
    parser = subparsers.add_parser(
        "identity",
        help=SUMMARIES["identity"],
        description="Shows or replaces this host's X25519 key, which lies in the state directory.\n"
        "Only the public half is ever shown.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    for name, summary in (
        ("show", "print the public key; makes a key where there is none"),
        ("new", "replace the key by a new one, and print its public half"),
    ):
        action = actions.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"examples:\n  tunneld identity {name}",
        )
        add_options(action, ["state-dir", "control-socket"])
        action.set_defaults(parser=action)


def run(args: argparse.Namespace) -> int:
    """Does what the action says."""
    options = load(option_texts(args), os.environ)
    path = options.state_dir / KEY_FILE
    make_state_dir(options.state_dir)
    if args.action == "show":
        print((NodeKey.load(path) or NodeKey.create(path)).public)
        return 0
    print(NodeKey.replace(path).public)
    if _runs(options):
        print(
            "tunneld: warning: the daemon that runs goes on with the former key until it is started"
            " again",
            file=sys.stderr,
        )
    return 0


def _runs(options: RunOptions) -> bool:
    try:
        request(options.control_socket, "ping")
    except NotRunningError:
        return False
    return True

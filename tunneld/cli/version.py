"""`tunneld version`."""

from __future__ import annotations

import argparse

from tunneld import __version__
from tunneld.cli import SUMMARIES


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command's parser."""
    subparsers.add_parser(
        "version",
        help=SUMMARIES["version"],
        description="Prints the version of tunneld.",
        epilog="examples:\n  tunneld version",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the version."""
    print(f"tunneld {__version__}")
    return 0

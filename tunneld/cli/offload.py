"""`tunneld offload`: switches an offload of the running daemon's data path, or shows them."""

from __future__ import annotations

import argparse
import os

from tunneld.cli import SUMMARIES
from tunneld.cli.parser import Parser, add_options, option_texts
from tunneld.config import load
from tunneld.control.client import request

_EPILOG = """\
examples:
  tunneld offload                     # how each stands
  tunneld offload udp_gso off         # send datagram by datagram
  tunneld offload udp_gso on          # trains again; ends a fallback at once

tun_tso, tun_uso            the overlay device hands over super-packets
udp_gso, udp_gro            the underlay's sockets take and give trains of datagrams
coalesce_tcp, coalesce_udp  packets that arrive are joined

A switch holds until the daemon ends. What the kernel refuses falls back by itself and
is tried again by itself: 'tunneld status' says so."""


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command's parser."""
    parser = subparsers.add_parser(
        "offload",
        help=SUMMARIES["offload"],
        description="Switches what the kernel does for many packets at once, while packets move.",
        epilog=_EPILOG,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="name of the offload")
    parser.add_argument("state", nargs="?", choices=["on", "off"], help="what it is to be")
    add_options(parser, ["control-socket"])
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Switches, and prints how it stands."""
    options = load(option_texts(args), os.environ)
    if args.name is not None and args.state is None:
        args.parser.error(f"offload {args.name}: expected 'on' or 'off' behind the name")
    if args.name is None:
        offloads = request(options.control_socket, "status")["offloads"]
    else:
        order = {"name": args.name, "enabled": args.state == "on"}
        offloads = {args.name: request(options.control_socket, "offload", order)[args.name]}
    for name, state in offloads.items():
        print(f"{name}: {state}")
    return 0

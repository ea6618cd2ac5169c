"""`tunneld lab`: a network of namespaces on this machine. Arguments to calls, nothing else."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunneld.control.client import NotRunningError
from tunneld.lab import build, main_job, namespaces
from tunneld.lab.daemons import status_of, view_of
from tunneld.lab.drawing import draw
from tunneld.lab.topology import DEFAULT_NAME, parse_topology

if TYPE_CHECKING:
    SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]

_EXAMPLES = """\
examples:
  tunneld lab up --hosts 3 --store etcd      three hosts with a container each
  tunneld lab exec h1-c -- ping 10.5.7.2     in the container of the first host
  tunneld lab exec h2 -- ip route            on the second host
  tunneld lab status
  tunneld lab down
  tunneld lab run --hosts 3                  up, traffic, checks, down
  tunneld lab run --backend vxlan --ipv6 1
  tunneld lab run --encryption required
"""


def add_parser(subparsers: SubParsers) -> None:
    """Adds `lab` and its subcommands."""
    parser = subparsers.add_parser(
        "lab",
        help="build a network of namespaces on this machine",
        description="Builds hosts as network namespaces, with a bridge and a container each.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="lab_command", required=True, metavar="COMMAND")

    up = commands.add_parser(
        "up",
        help="build a lab and leave it running",
        description="Builds a lab and leaves it running, until 'tunneld lab down'.",
        epilog="examples:\n  tunneld lab up\n  tunneld lab up --hosts 3 --store etcd",
    )
    _add_shape(up)
    run_ = commands.add_parser(
        "run",
        help="build a lab, send traffic, judge it, take it down",
        description="Builds a lab, sends traffic, judges it and takes it down: as make run does.",
        epilog="examples:\n  tunneld lab run\n  tunneld lab run --backend vxlan --ipv6 1",
    )
    _add_shape(run_)
    execute = commands.add_parser(
        "exec",
        help="run a command on a host or in a container",
        description="Runs a command on a host of the lab or in a container, by default a shell.",
        epilog="examples:\n  tunneld lab exec h1-c -- ping 10.5.7.2\n"
        "  tunneld lab exec --name second h2 -- ip route",
    )
    # The place and the command are one argument: argparse would take the -- between two away.
    execute.add_argument(
        "words",
        metavar="PLACE",
        nargs=argparse.PARSER,
        help="h1, h1-c (its container), sw (the switch); then -- and the command",
    )
    status = commands.add_parser(
        "status",
        help="draw the lab with its leases",
        description="Draws the lab with its leases. Ends with 1 when a host has none.",
        epilog="examples:\n  tunneld lab status\n  tunneld lab status --name second",
    )
    down = commands.add_parser(
        "down",
        help="remove the lab, also what a killed run left",
        description="Removes the lab, also what a killed run left.",
        epilog="examples:\n  tunneld lab down\n  tunneld lab down --name run",
    )
    for command in (up, execute, status, down):
        command.add_argument("--name", default=DEFAULT_NAME, help=f"default: {DEFAULT_NAME}")
    run_.add_argument("--name", default="run", help="default: run")
    for command in (up, run_, execute, status, down):
        command.set_defaults(parser=command)


def run(args: argparse.Namespace) -> int:
    """Carries the command out; returns the exit status."""
    command: str = args.lab_command
    commands = {"up": _up, "run": _run, "exec": _exec, "status": _status, "down": _down}
    try:
        return commands[command](args)
    except main_job.Interrupted as interruption:
        main_job.say("interrupted; the lab is down")
        return interruption.exit_status


def _add_shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hosts", default="2", help="number of hosts (default: 2)")
    parser.add_argument("--store", default="sqlite", help="sqlite (default) or etcd")
    parser.add_argument("--backend", default="udp", help="udp (default), vxlan or host-gw")
    parser.add_argument(
        "--datapath", default="userspace", help="userspace (default), or kernel for vxlan"
    )
    parser.add_argument(
        "--encryption", default="off", help="off (default), preferred or required: with a PSK"
    )
    parser.add_argument(
        "--cipher",
        default="auto",
        help="auto (default), aes-256-gcm, aes-128-gcm or chacha20-poly1305",
    )
    parser.add_argument("--ipv6", default="0", help="0 (default), 1: beside IPv4, or only")


def _shape(args: argparse.Namespace) -> dict[str, str]:
    names = ("name", "hosts", "store", "backend", "datapath", "encryption", "cipher", "ipv6")
    return {name: getattr(args, name) for name in names}


def _up(args: argparse.Namespace) -> int:
    topology = parse_topology(**_shape(args))
    build.require_rights()
    with build.sole_use(topology.name), main_job.interruptible():
        build.require_absent(topology.name)
        lab = build.Lab(topology)
        try:
            lab.build(main_job.say)
        except BaseException:
            with main_job.uninterruptible():
                lab.take_down()
            raise
    print(f"\n{draw(topology, lab.views)}\n")
    option = build.name_option(topology.name)
    print(f"tunneld lab exec{option} h1-c -- ping {lab.views[-1].container}")
    print(f"tunneld lab down{option}")
    return 0


def _run(args: argparse.Namespace) -> int:
    return main_job.run_main_job(parse_topology(**_shape(args)))


def _exec(args: argparse.Namespace) -> int:
    place, *argv = args.words
    if argv[:1] == ["--"]:
        argv = argv[1:]
    elif argv and argv[0].startswith("-"):
        # It would be run as a command, in the lab of the default name.
        args.parser.error(
            f"{argv[0]} stands after {place}; expected options of the lab before the place, "
            f"and the command after --: tunneld lab exec [--name NAME] {place} -- COMMAND"
        )
    build.require_rights()
    namespace = build.find(args.name).namespace_of(place)
    command = namespaces.inside(namespace, *(argv or ("sh",)))
    os.execvp(command[0], command)  # noqa: S606 - an argument list, no shell


def _status(args: argparse.Namespace) -> int:
    build.require_rights()
    topology = build.find(args.name)
    views, lines = [], []
    for host in topology.hosts:
        try:
            status = status_of(host)
        except NotRunningError:
            lines.append(f"{host.label}: no daemon answers, log {host.log}")
            continue
        if host.subnet_file.exists():
            views.append(view_of(host))
        lines.append(f"{host.label}: {status['state']}, {_peers(status)}, log {host.log}")
    print(draw(topology, views), *lines, sep="\n")
    return 0 if len(views) == topology.size else 1


def _peers(status: Mapping[str, Any]) -> str:
    count = len(status["peers"])
    return f"{count} {'peer' if count == 1 else 'peers'}"


def _down(args: argparse.Namespace) -> int:
    build.require_rights()
    with build.sole_use(args.name):
        was_there = build.is_there(args.name)
        build.take_down(args.name)
    main_job.say(f"{args.name} is down" if was_there else f"there is no lab {args.name}")
    return 0

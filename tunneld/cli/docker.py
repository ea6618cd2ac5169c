"""`tunneld docker`: a Docker network on this host's lease, and whether Docker and lease agree."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from tunneld.cli import SUMMARIES
from tunneld.cli.parser import Parser, add_options, option_texts
from tunneld.config import RunOptions, load
from tunneld.docker import lease as local_lease
from tunneld.docker import network as docker_network
from tunneld.docker.api import DEFAULT_HOST, DockerApi
from tunneld.docker.check import check
from tunneld.errors import DockerError

DROP_IN = "docker.service.d/tunneld.conf"
_UNIT_FOLDERS = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system")
_DAEMON_JSON = "/etc/docker/daemon.json"

_EPILOG = """\
examples:
  tunneld docker network overlay
  tunneld docker check"""


_SETTLING_S = 2.0
"""tunneld answers a change of Docker's rules within a second: only what outlasts that is off."""

_LOOK_AGAIN_S = 0.2


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command's parser, and those of `network` and `check`."""
    parser = subparsers.add_parser(
        "docker",
        help=SUMMARIES["docker"],
        description="Puts Docker's containers on this host's lease, and checks that they are.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    network = actions.add_parser(
        "network",
        help="make a bridge network on the lease's subnet, unless it is there",
        description="Makes a bridge network on the lease's subnet, with its MTU, masqueraded once,"
        "\nwithout starting dockerd anew. Does nothing when it is there and as it must be.",
        epilog="examples:\n  tunneld docker network overlay\n"
        "  tunneld docker network overlay --bridge tn0",
    )
    network.add_argument(
        "name", metavar="NAME", help="the network's name, for docker run --network"
    )
    network.add_argument(
        "--bridge", metavar="DEVICE", help="name of the bridge device (default: br-NAME)"
    )
    _add_places(network)
    checker = actions.add_parser(
        "check",
        help="compare Docker's networks with the lease",
        description="Compares Docker's networks with the lease, and says what is off. Ends with 1"
        "\nwhen something is.",
        epilog="examples:\n  tunneld docker check",
    )
    checker.add_argument(
        "--daemon-json",
        metavar="FILE",
        default=_DAEMON_JSON,
        help=f"dockerd's config file (default: {_DAEMON_JSON})",
    )
    _add_places(checker)


def run(args: argparse.Namespace) -> int:
    """Does what the action says."""
    options = load(option_texts(args), os.environ)
    api = DockerApi(args.docker_host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST)
    lease = local_lease.read(options.subnet_file, options.control_socket)
    return (
        _check(args, api, lease) if args.action == "check" else _network(args, options, api, lease)
    )


def _network(
    args: argparse.Namespace, options: RunOptions, api: DockerApi, lease: local_lease.LocalLease
) -> int:
    name: str = args.name
    bridge = docker_network.bridge_name(name, args.bridge)
    version = api.version()
    if docker_network.drops_overlay(version) and lease.devices is None:
        raise DockerError(
            f"Docker {version} must be told the overlay device, which no daemon on "
            f"{options.control_socket} tells; expected a tunneld that is ready (tunneld status)"
        )
    there = api.network(name)
    if there is not None:
        wrong = docker_network.differences(
            there, lease, version, bridge if args.bridge is not None else None
        )
        if wrong:
            raise docker_network.refuse(name, there, wrong)
        print(f"network {name} is there, on {lease}, MTU {lease.mtu_bytes}")
        return 0
    other = docker_network.in_the_way(api.networks(), lease, name)
    if other is not None:
        raise DockerError(_taken(other, lease))
    api.create_network(docker_network.create_body(name, bridge, lease, version))
    print(f"network {name} made: {lease} on {bridge}, MTU {lease.mtu_bytes}")
    return 0


def _taken(other: docker_network.DockerNetwork, lease: local_lease.LocalLease) -> str:
    has = f"{docker_network.described(other)} already has addresses of {lease}"
    if docker_network.is_default(other):
        return (
            f"{has}: containers on it are in the overlay without a network of their own; start "
            "dockerd without --bip first if you want one"
        )
    return f"{has}: use that one, or remove it first (docker network rm {other['Name']})"


def _check(args: argparse.Namespace, api: DockerApi, lease: local_lease.LocalLease) -> int:
    deadline_s = time.monotonic() + _SETTLING_S
    while True:
        finding = check(
            api,
            lease,
            daemon_json=Path(args.daemon_json),
            drop_ins=[Path(folder, DROP_IN) for folder in _UNIT_FOLDERS],
        )
        if not finding.off or time.monotonic() >= deadline_s:
            break
        time.sleep(_LOOK_AGAIN_S)
    for line in finding.seen:
        print(line)
    for line in finding.notes:
        print(f"note: {line}")
    for line in finding.off:
        print(f"off: {line}")
    if not finding.off:
        print("nothing is off")
    return 1 if finding.off else 0


def _add_places(parser: Parser) -> None:
    parser.add_argument(
        "--docker-host",
        metavar="URL",
        help=f"dockerd's socket (default: DOCKER_HOST, else {DEFAULT_HOST})",
    )
    add_options(parser, ["control-socket", "subnet-file"])
    parser.set_defaults(parser=parser)

"""`tunneld network`: the network config in the store, which every host of the network obeys."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tunneld.backend import parse_backend
from tunneld.backend.encryption import encryption_of
from tunneld.cli import SUMMARIES
from tunneld.cli.parser import Parser, add_store_options, option_texts
from tunneld.cli.store import opened
from tunneld.config import load
from tunneld.errors import NetworkConfigError
from tunneld.lease.network import NetworkConfig, parse
from tunneld.store import StoreOptions

_EPILOG = """\
examples:
  tunneld network check network.json
  tunneld network set network.json
  echo '{"Network": "10.5.0.0/16"}' | tunneld network set -
  tunneld network get"""


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command's parser, and those of `get`, `set` and `check`."""
    parser = subparsers.add_parser(
        "network",
        help=SUMMARIES["network"],
        description="Shows, sets or checks the network config: flannel's JSON at <prefix>/config.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    get = actions.add_parser(
        "get",
        help="print the config in the store, as it is",
        description="Prints the network config in the store, byte for byte.",
        epilog="examples:\n  tunneld network get --etcd-prefix /coreos.com/network",
    )
    add_store_options(get)
    get.set_defaults(parser=get)
    write = actions.add_parser(
        "set",
        help="check a config and write it to the store",
        description="Checks a network config and, if it is good, writes it byte for byte.",
        epilog="examples:\n  tunneld network set network.json\n  tunneld network set - <config",
    )
    write.add_argument("file", metavar="FILE", help="the config, JSON; - reads stdin")
    add_store_options(write)
    write.set_defaults(parser=write)
    check = actions.add_parser(
        "check",
        help="check a config and say what it means",
        description="Checks a network config and says what it means. Touches no store.",
        epilog="examples:\n  tunneld network check network.json",
    )
    check.add_argument("file", metavar="FILE", help="the config, JSON; - reads stdin")
    check.set_defaults(parser=check)


def run(args: argparse.Namespace) -> int:
    """Does what the action says."""
    if args.action == "check":
        _explain(_checked(_read(args.file)))
        return 0
    options = load(option_texts(args), os.environ).store
    if args.action == "get":
        text = asyncio.run(_get(options))
        sys.stdout.buffer.write(text.encode() + (b"" if text.endswith("\n") else b"\n"))
        return 0
    text = _read(args.file)
    config = _checked(text)
    asyncio.run(_set(options, text))
    _explain(config)
    return 0


async def _get(options: StoreOptions) -> str:
    async with opened(options) as store:
        config = (await store.read()).config
    if config is None:
        raise NetworkConfigError(
            f"the store has no network config at {options.prefix}/config; write one with"
            " 'tunneld network set FILE', or name another --etcd-prefix"
        )
    return config


async def _set(options: StoreOptions, text: str) -> None:
    async with opened(options, is_new=True) as store:
        await store.write_config(text)


def _read(file: str) -> str:
    where = "stdin" if file == "-" else file
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise NetworkConfigError(
            f"cannot read the network config {where}: {error.strerror}; name a file with JSON, or -"
        ) from error
    try:
        # Decoded from bytes, so that line ends reach the store as they are.
        return content.decode()
    except UnicodeDecodeError as error:
        raise NetworkConfigError(
            f"the network config {where} is not UTF-8 (byte {error.start}); expected JSON"
        ) from error


def _checked(text: str) -> NetworkConfig:
    config = parse(text)
    parse_backend(config)
    return config


def _explain(config: NetworkConfig) -> None:
    print(_meaning(config))
    for warning in (*parse_backend(config).remarks, *_warnings(config)):
        print(f"tunneld: warning: {warning}", file=sys.stderr)


def _warnings(config: NetworkConfig) -> Iterator[str]:
    """Yields what hosts of this network would lack."""
    if not config.enable_ipv4:
        yield (
            "no flanneld may join a network without IPv4: all hosts have PublicIP 0.0.0.0 there, by"
            " which flanneld takes other hosts' leases for its own"
        )
    elif config.enable_ipv6 and config.backend_type == "udp":
        yield (
            "flanneld's udp backend carries no IPv6: hosts that run flanneld are reached over IPv4"
            " only"
        )


def _meaning(config: NetworkConfig) -> str:
    networks = " and ".join(str(pool.network) for pool in config.pools)
    subnets = ", ".join(str(pool) for pool in config.pools)
    return f"network {networks}, backend {config.backend_type}, {subnets}{_encryption(config)}"


def _encryption(config: NetworkConfig) -> str:
    found = encryption_of(config)
    if found.mode == "off":
        return ""
    keepalive = f", keepalive {found.keepalive_s} s" if found.keepalive_s else ""
    return f", encryption {found.mode} (cipher {found.cipher}, port {found.port}{keepalive})"

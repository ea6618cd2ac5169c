"""`tunneld leave`: gives up this host's lease, through the daemon if it runs, else directly."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
from pathlib import Path

from tunneld import __version__
from tunneld.cli import SUMMARIES
from tunneld.cli.parser import Parser, add_store_options, option_texts
from tunneld.cli.store import opened
from tunneld.config import RunOptions, load
from tunneld.control.client import NotRunningError, request
from tunneld.errors import HostError, LeaseError
from tunneld.host import subnet_env, text_file
from tunneld.host.machine import machine
from tunneld.host.netlink import Netlink
from tunneld.host.remains import remove_barriers
from tunneld.host.state_dir import StateDir
from tunneld.lease.kinship import are_apart, machine_of
from tunneld.lease.model import Lease, Snapshot
from tunneld.lease.registry import Store
from tunneld.lease.roll_call import unanswered
from tunneld.store import StoreOptions

LEAVE_S = 30.0
"""How long the daemon may take: it writes to the store and takes its host settings down."""

_EPILOG = """\
examples:
  tunneld leave                       # before a host is taken out of service
  tunneld leave --etcd-endpoints http://192.0.2.1:2379"""


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command's parser."""
    parser = subparsers.add_parser(
        "leave",
        help=SUMMARIES["leave"],
        description="Gives up this host's lease. A daemon that runs does it, and stops; else it is"
        " done in\nthe store, under the node id of the state directory.",
        epilog=_EPILOG,
    )
    add_store_options(parser, "state-dir", "control-socket", "subnet-file")
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Gives up the lease."""
    options = load(option_texts(args), os.environ)
    try:
        request(options.control_socket, "leave", timeout_s=LEAVE_S)
    except NotRunningError:
        lease = _leave_without_daemon(options)
        print(f"left: {lease.key} is free again (no daemon was running)")
    else:
        print("left: the daemon gave up its lease and stops")
    return 0


def _leave_without_daemon(options: RunOptions) -> Lease:
    try:
        has_run = text_file.read(options.state_dir / "node-id") is not None
    except OSError as error:
        raise LeaseError(
            f"cannot leave: no daemon runs, and the node id in {options.state_dir} cannot be read:"
            f" {error.strerror}; run the command as the daemon's user or root"
        ) from error
    if not has_run:
        raise LeaseError(
            f"cannot leave: no daemon runs, and {options.state_dir} holds no node id; expected the"
            " state directory of a daemon that has run: name it with --state-dir"
        )
    with StateDir(options.state_dir) as state_dir:
        lease = asyncio.run(_withdraw(options.store, state_dir.node_id))
    # The lease is gone by now, whatever becomes of the file.
    try:
        _forget_subnet(options.subnet_file, lease)
    except (HostError, OSError) as error:
        print(
            f"tunneld: warning: {options.subnet_file} stays, and names the subnet that was given"
            f" up: {error}",
            file=sys.stderr,
        )
    try:
        asyncio.run(_let_through())
    except HostError as error:
        print(
            "tunneld: warning: packets for the network may still be kept back, by routes of"
            f" protocol 116: {error}",
            file=sys.stderr,
        )
    return lease


async def _let_through() -> None:
    """Takes away what an encrypting daemon leaves for its next start."""
    async with Netlink.opened() as netlink:
        await remove_barriers(netlink)


def _forget_subnet(subnet_file: Path, lease: Lease) -> None:
    # A node that comes back asks for the subnet of this file. Another's file stays.
    written = subnet_env.read(subnet_file)
    if written is not None and subnet_env.key(written) == lease.key:
        subnet_file.unlink(missing_ok=True)


async def _withdraw(options: StoreOptions, node_id: str) -> Lease:
    async with opened(options) as store:
        lease = own_lease(await store.read(), node_id)
        if lease is None:
            raise LeaseError(
                f"cannot leave: node {node_id} holds no lease under {options.prefix}; nothing to"
                " give up (see: tunneld leases)"
            )
        await _require_no_twin(store, lease, node_id)
        if not await store.withdraw(lease, node_id):
            raise LeaseError(
                f"cannot leave: somebody wrote the lease of {lease.key} in the same moment;"
                " look at 'tunneld leases' and try again"
            )
        return lease


async def _require_no_twin(store: Store, lease: Lease, node_id: str) -> None:
    """Refuses to give up the lease of a live host, from which the state directory was copied."""
    record = next(one for one in (await store.read()).records if one.node_id == node_id)
    is_ours = not are_apart(machine_of(record), machine())
    if is_ours:
        silent = await unanswered(
            store,
            lambda: (),
            [lease],
            question_id=secrets.token_hex(16),
            asker=lease.holder,
            version=__version__,
        )
        is_ours = lease.key in silent
    if not is_ours:
        raise LeaseError(
            f"cannot leave: the lease of {lease.key} is another host's, at {lease.holder}: the"
            " state directory is a copy of that host's; delete it, this host holds no lease"
        )


def own_lease(snapshot: Snapshot, node_id: str) -> Lease | None:
    """Returns the lease a node's record names, if it is still that node's."""
    records = [record for record in snapshot.records if record.node_id == node_id]
    return next(
        (lease for lease in snapshot.leases for record in records if record.describes(lease)), None
    )

"""`tunneld lease`: subnets that are kept for hosts, whatever becomes of their leases."""

from __future__ import annotations

import argparse
import asyncio
import os
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from tunneld.cli import SUMMARIES, leases
from tunneld.cli.parser import Parser, add_store_options, option_texts
from tunneld.cli.store import opened
from tunneld.config import RunOptions, load
from tunneld.errors import LeaseError, NetworkConfigError, UsageError
from tunneld.host import text_file
from tunneld.lease.model import NO_IPV4_SUBNET, UNSPECIFIED, Holder, Lease, Snapshot, SubnetKey
from tunneld.lease.network import parse
from tunneld.lease.reserving import check, lease_of, reservation_for, to_release

LAST_TTL_S = 24 * 3600.0
"""How long a lease without an end lasts after its release: the TTL of flannel's leases."""

_EPILOG = """\
examples:
  tunneld lease list
  tunneld lease reserve                             # this host keeps the subnet it has
  tunneld lease reserve 10.5.7.0/24 192.0.2.7       # for a host that may be yet to come
  tunneld lease reserve 10.5.7.0/24,fd00:5:7::/64 192.0.2.7
  tunneld lease release 10.5.7.0/24

A reservation holds until it is released. Its host asks for the subnet when it needs one, and no
tunneld gives it to another host. flanneld honours lease keys without a TTL alone."""


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command's parser, and those of its actions."""
    parser = subparsers.add_parser(
        "lease",
        help=SUMMARIES["lease"],
        description="Keeps subnets for hosts beyond the end of their leases.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    listing = actions.add_parser(
        "list",
        help="all leases and reservations",
        description="Shows all leases and reservations, as 'tunneld leases' does.",
    )
    listing.add_argument("--json", action="store_true", help="print one JSON object")
    add_store_options(listing, "state-dir")
    listing.set_defaults(parser=listing)
    keep = actions.add_parser(
        "reserve",
        help="keep a subnet for a host",
        description="Keeps SUBNET for the host with address HOST; by default the subnet of this"
        " host for\nthis host.",
    )
    keep.add_argument("subnet", metavar="SUBNET", nargs="?", help="a subnet of the network")
    keep.add_argument("host", metavar="HOST", nargs="?", help="the host's PublicIP")
    add_store_options(keep, "state-dir")
    keep.set_defaults(parser=keep)
    give = actions.add_parser(
        "release",
        help="keep a subnet no longer",
        description="Deletes the reservation of SUBNET. A lease of it goes on while its host renews"
        " it; one\nwithout an end gets one, 24 hours from now.",
    )
    give.add_argument("subnet", metavar="SUBNET", help="a reserved subnet")
    add_store_options(give)
    give.set_defaults(parser=give)


def run(args: argparse.Namespace) -> int:
    """Does what the action says."""
    options = load(option_texts(args), os.environ)
    match args.action:
        case "list":
            return leases.show(options, as_json=args.json)
        case "reserve":
            if args.subnet is not None and args.host is None:
                args.parser.error(
                    f"reserve {args.subnet}: expected the PublicIP of its host after the subnet"
                )
            print(asyncio.run(_reserve(options, args.subnet, args.host)))
        case _:
            print(asyncio.run(_release(options, subnet_key(args.subnet))))
    return 0


def subnet_key(text: str) -> SubnetKey:
    """Returns the subnets of `10.5.7.0/24`, `10.5.7.0/24,fd00:5:7::/64` or `fd00:5:7::/64`.

    Raises:
        UsageError: it is neither of them.
    """
    try:
        networks = [ip_network(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"{text!r} is not a subnet ({error}); expected one as 10.5.7.0/24, or both of a"
            " dual-stack lease as 10.5.7.0/24,fd00:5:7::/64"
        ) from error
    match networks:
        case [IPv4Network() as ipv4]:
            return SubnetKey(ipv4)
        case [IPv6Network() as ipv6]:
            return SubnetKey(NO_IPV4_SUBNET, ipv6)
        case [IPv4Network() as ipv4, IPv6Network() as ipv6]:
            return SubnetKey(ipv4, ipv6)
        case _:
            raise UsageError(
                f"{text!r} names {len(networks)} subnets; expected one, or an IPv4 and an IPv6 one"
                " of a dual-stack lease"
            )


def holder_of(text: str) -> Holder:
    """Returns the host with this address. Raises UsageError when it is none."""
    try:
        address = ip_address(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is not an address; expected the PublicIP of a host, as 192.0.2.7"
        ) from error
    if address.is_unspecified or address.is_multicast:
        raise UsageError(f"{text} is no host's address; expected the PublicIP of a host")
    match address:
        case IPv4Address():
            return Holder(address)
        case IPv6Address():
            return Holder(UNSPECIFIED, address)


async def _reserve(options: RunOptions, subnet: str | None, host: str | None) -> str:
    key = None if subnet is None else subnet_key(subnet)
    holder = None if host is None else holder_of(host)
    async with opened(options.store) as store:
        view = await store.read()
        if view.config is None:
            raise NetworkConfigError(
                f"the store has no network config at {options.store.prefix}/config; write one with"
                " 'tunneld network set FILE', or name another --etcd-prefix"
            )
        config = parse(view.config)
        if key is None or holder is None:
            own = _own(view, options)
            key, holder = own.key, own.holder
        elif not holder.has_public_ip and config.enable_ipv4:
            raise UsageError(
                f"{holder} is an IPv6 address, and the network has IPv4: hosts are known by their"
                " IPv4 address here; expected that"
            )
        wanted = reservation_for(key, holder)
        held = check(view, config, wanted)
        if wanted not in view.reservations:
            await store.reserve(wanted, lease_revision=held.mod_revision if held else 0)
        other = lease_of(view, holder)
    if other is None or other.key == key:
        return f"reserved: {key} for {holder}"
    return (
        f"reserved: {key} for {holder}, which has {other.key} now and keeps it; it takes {key} when"
        " it starts after 'tunneld leave'"
    )


async def _release(options: RunOptions, key: SubnetKey) -> str:
    async with opened(options.store) as store:
        lasting = to_release(await store.read(), key)
        grant = None if lasting is None else await store.grant(LAST_TTL_S)
        if not await store.release(key, lasting, grant):
            raise LeaseError(
                f"cannot release {key}: somebody wrote its lease in the same moment; look at"
                " 'tunneld lease list' and try again"
            )
    if lasting is None:
        return f"released: {key} is not reserved any more"
    return f"released: {key} is not reserved any more; its lease ends in 24 hours unless renewed"


def _own(view: Snapshot, options: RunOptions) -> Lease:
    """Returns the lease of the node of the state directory."""
    try:
        node_id = text_file.read(options.state_dir / "node-id")
    except OSError as error:
        raise LeaseError(
            f"cannot read the node id in {options.state_dir}: {error.strerror}; run the command as"
            " the daemon's user or root, or name SUBNET and HOST"
        ) from error
    records = [one for one in view.records if node_id and one.node_id == node_id.strip()]
    found = (lease for one in records for lease in view.leases if one.describes(lease))
    lease = next(found, None)
    if lease is None:
        raise LeaseError(
            f"this host (state directory {options.state_dir}) holds no lease under"
            f" {options.store.prefix}; name the subnet and the host: tunneld lease reserve SUBNET"
            " HOST"
        )
    return lease

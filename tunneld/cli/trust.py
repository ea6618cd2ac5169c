"""`tunneld trust`: whom this host trusts. Changes files, and has a daemon that runs read them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from tunneld.cli import SUMMARIES
from tunneld.cli.parser import Parser, add_options, option_texts
from tunneld.cli.state_dir import make_state_dir
from tunneld.clock import Now
from tunneld.config import RunOptions, load
from tunneld.control.client import NotRunningError, request
from tunneld.control.status import table
from tunneld.errors import TrustError, UsageError
from tunneld.host.state_dir import StateDir
from tunneld.trust import files
from tunneld.trust.decision import Trust
from tunneld.trust.identities import Identity, parse_line
from tunneld.trust.key import PublicKey
from tunneld.trust.memory import NAME as MEMORY
from tunneld.trust.memory import Memory
from tunneld.trust.secrets import Psks, credential

_EPILOG = """\
examples:
  tunneld trust add hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo= web1 subnets=10.5.3.0/24
  tunneld trust list
  tunneld trust revoke web1
  tunneld trust allow-plain 10.5.3.0/24   # the host went back to flanneld"""

_ACTIONS = {
    "add": "add a host to the identities file",
    "list": "show whom this host trusts, and on what that rests",
    "revoke": "trust a key no more, for good",
    "allow-plain": "forget that a subnet, or an address, had keys",
}


@dataclass(frozen=True, slots=True)
class _Places:
    """The files in use: those of the daemon that runs, else those of the options."""

    identities: Path | None
    psk_file: Path | None
    state_dir: Path
    psk_ids: tuple[str, ...] | None = None
    """Of the daemon; None: it does not run."""

    @property
    def runs(self) -> bool:
        return self.psk_ids is not None

    def ids(self) -> tuple[str, ...]:
        """Returns the ids of the PSKs in force."""
        if self.psk_ids is not None:
            return self.psk_ids
        return () if self.psk_file is None else Psks.load(self.psk_file, os.environ).ids


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command's parser, and those of its actions."""
    parser = subparsers.add_parser(
        "trust",
        help=SUMMARIES["trust"],
        description="Shows and changes whom this host trusts. Files are changed, and a daemon that"
        " runs\nreads them at once.",
        epilog=_EPILOG,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    for name, summary in _ACTIONS.items():
        action = actions.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog="\n".join(
                ["examples:", *(line for line in _EPILOG.splitlines() if f"trust {name}" in line)]
            ),
        )
        match name:
            case "add":
                action.add_argument("key", metavar="KEY", help="the other host's public key")
                action.add_argument("name", metavar="NAME", help="how it is called here")
                action.add_argument(
                    "bounds", metavar="BOUND", nargs="*", help="subnets=... or addresses=..."
                )
            case "list":
                action.add_argument("--json", action="store_true", help="print one JSON object")
            case "revoke":
                action.add_argument("host", metavar="NAME|KEY", help="of the identities, or a key")
            case "allow-plain":
                action.add_argument("subnet", metavar="SUBNET|IP", help="of the other host")
        add_options(action, ["state-dir", "control-socket", "identities", "psk-file"])
        action.set_defaults(parser=action)


def run(args: argparse.Namespace) -> int:
    """Does what the action says."""
    options = load(option_texts(args), os.environ)
    places = _places(options)
    match args.action:
        case "add":
            _add(args, places, options)
        case "list":
            _list(places, as_json=args.json)
        case "revoke":
            _revoke(args.host, places, options)
        case "allow-plain":
            _allow_plain(args.subnet, places, options)
    return 0


def _places(options: RunOptions) -> _Places:
    try:
        found = request(options.control_socket, "trust", {"action": "show"})
    except NotRunningError:
        psk_file = options.psk_file or credential(os.environ)
        return _Places(options.identities, psk_file, options.state_dir)
    return _Places(
        None if found["identities"] is None else Path(found["identities"]),
        None if found["psk_file"] is None else Path(found["psk_file"]),
        Path(found["state_dir"]),
        tuple(found["psk_ids"]),
    )


def _add(args: argparse.Namespace, places: _Places, options: RunOptions) -> None:
    try:
        identity = parse_line(" ".join([args.key, args.name, *args.bounds]))
    except ValueError as error:
        raise UsageError(f"cannot add {args.name!r}: {error}") from None
    if places.identities is None:
        raise UsageError(
            "no identities file is configured; name one with --identities or in the config file, "
            "and start tunneld again with it: from then on only the hosts in it are trusted"
        )
    if identity.key in files.read_revoked(places.state_dir):
        raise TrustError(
            f"the key of {identity.name} was revoked on this host: give that host a new one with "
            f"`tunneld identity new`, or take its line out of {places.state_dir}/"
            f"{files.REVOKED_FILE}"
        )
    files.add_identity(places.identities, identity)
    _reload(places, options)
    print(f"added {identity.name} to {places.identities}{_told(places)}")


def _list(places: _Places, *, as_json: bool) -> None:
    identities = _identities(places)
    revoked = files.read_revoked(places.state_dir)
    psk_ids = places.ids()
    trust = Trust(identities=identities, has_psk=bool(psk_ids))
    if as_json:
        document = {
            "trust": trust.kind,
            "explanation": trust.explanation,
            "psk_ids": list(psk_ids),
            "identities": [_entry(one, revoked) for one in identities or ()],
            "revoked": {str(key): name for key, name in revoked.items()},
        }
        print(json.dumps(document, indent=2))
        return
    print(f"trust: {trust.explanation}")
    if psk_ids:
        print(f"PSK: {', '.join(psk_ids)}" + (" (rotation)" if len(psk_ids) > 1 else ""))
    rows: list[tuple[object, ...]] = [
        (one.name, one.key, _nets(one.subnets), _nets(one.addresses), _state(one.key, revoked))
        for one in identities or ()
    ]
    known = {one.key for one in identities or ()}
    rows += [(name or "-", key, "-", "-", "revoked") for key, name in revoked.items()
             if key not in known]  # fmt: skip
    if rows:
        print("\n".join(table(("name", "key", "subnets", "addresses", "state"), rows)))


def _revoke(host: str, places: _Places, options: RunOptions) -> None:
    identities = _identities(places)
    if identities is None and places.psk_file is not None:
        raise TrustError(
            f"cannot revoke {host}: trust rests on the PSK alone, which every member has; rotate "
            "the PSK: add a new one as second line on all hosts but that one, put it first, then "
            "take the former one out"
        )
    key, name = _named(host, identities or ())
    make_state_dir(places.state_dir)
    files.revoke(places.state_dir, key, name)
    _reload(places, options)
    print(f"revoked {name or key}{_told(places)}")
    if identities is None:
        print(
            "tunneld: warning: no identities are configured: whoever writes the store can announce "
            "another key",
            file=sys.stderr,
        )


def _named(host: str, identities: tuple[Identity, ...]) -> tuple[PublicKey, str]:
    by_name = next((one for one in identities if one.name == host), None)
    if by_name is not None:
        return by_name.key, by_name.name
    try:
        key = PublicKey.parse(host)
    except ValueError:
        shown = host if len(host) <= 63 else f"{host[:63]}…"
        raise UsageError(
            f"{shown!r} is no name of the identities and no key; expected one of them (see: tunneld"
            " trust list)"
        ) from None
    return key, next((one.name for one in identities if one.key == key), "")


def _allow_plain(text: str, places: _Places, options: RunOptions) -> None:
    try:
        what = ip_network(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is no subnet; expected one like 10.5.3.0/24, or an address"
        ) from None
    if places.runs:
        arguments = {"action": "allow-plain", "subnet": str(what)}
        gone: list[str] = request(options.control_socket, "trust", arguments)["forgotten"]
    else:
        with StateDir(places.state_dir) as state_dir:
            now = Now.read()
            try:
                memory = Memory.load(state_dir.load(MEMORY), now)
            except ValueError as error:
                raise TrustError(
                    f"what {places.state_dir} remembers of peers is damaged: {error}; the daemon "
                    "begins anew when it is started"
                ) from None
            gone = [str(one) for one in memory.allow_plain(what, now.boot_s)]
            if gone:
                state_dir.save(MEMORY, memory.dump(now))
                _give_to_owner(places.state_dir, f"{MEMORY}.json")
    if not gone:
        print(f"nothing to forget: no peer of {what} had keys within 24 h")
    for subnets in gone:
        print(f"forgot that {subnets} had keys: it may be reached in plain")


def _give_to_owner(state_dir: Path, name: str) -> None:
    """Leaves a file that root has written to the daemon's user, whose directory it is in."""
    if os.geteuid() == 0:
        owner = state_dir.stat()
        os.chown(state_dir / name, owner.st_uid, owner.st_gid)


def _identities(places: _Places) -> tuple[Identity, ...] | None:
    return None if places.identities is None else files.read_identities(places.identities)


def _reload(places: _Places, options: RunOptions) -> None:
    if places.runs:
        request(options.control_socket, "trust", {"action": "reload"})


def _told(places: _Places) -> str:
    return "; the daemon knows" if places.runs else "; no daemon was running"


def _entry(one: Identity, revoked: dict[PublicKey, str]) -> dict[str, Any]:
    return {
        "name": one.name,
        "key": str(one.key),
        "subnets": list(map(str, one.subnets)),
        "addresses": list(map(str, one.addresses)),
        "state": _state(one.key, revoked),
    }


def _state(key: PublicKey, revoked: dict[PublicKey, str]) -> str:
    return "revoked" if key in revoked else "trusted"


def _nets(networks: tuple[object, ...]) -> str:
    return ",".join(map(str, networks)) or "any"

"""The file of identities: which key is whose, and what that host may hold.

Beside the path of a lease: a local file -> **`trust.identities`** -> `trust.decision`. Pure.

    KEY NAME [subnets=CIDR,…] [addresses=IP or CIDR,…]    # a host a line

A mistake in it must not let anybody in, nor shut a host out in silence: the first one found is
named by file and line, and nothing of the file counts. What stands in the place of a key is never
quoted: it may be a secret that somebody has pasted there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from tunneld.errors import TrustError
from tunneld.lease.model import IPNetwork
from tunneld.trust.bindings import Bindings
from tunneld.trust.key import PublicKey

FORM: Final = "KEY NAME [subnets=CIDR,…] [addresses=IP,…]"

_BOM: Final = "\N{ZERO WIDTH NO-BREAK SPACE}"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_OPTIONS: Final = ("subnets", "addresses")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A host that is trusted."""

    key: PublicKey
    name: str
    subnets: tuple[IPNetwork, ...] = ()
    """What it alone may hold; it may hold nothing else. Empty: any subnet bound to nobody."""
    addresses: tuple[IPNetwork, ...] = ()
    """Underlay addresses it may be at. Empty: any."""

    def __str__(self) -> str:
        """Returns its line of the file."""
        words = [str(self.key), self.name]
        for option in _OPTIONS:
            networks: tuple[IPNetwork, ...] = getattr(self, option)
            if networks:
                words.append(f"{option}={','.join(map(_short, networks))}")
        return " ".join(words)


def check_name(text: str) -> str:
    """Returns a name. Raises ValueError when it is not usable."""
    if _NAME.fullmatch(text) is None:
        raise ValueError(
            f"name {_shown(text)} is not usable: expected up to 63 letters, digits, dots, dashes "
            "and underscores"
        )
    return text


def parse_identities(text: str, path: object) -> tuple[Identity, ...]:
    """Returns the identities of a file, in its order; `path` is where it lies, for errors.

    Raises:
        TrustError: a line is not usable, or contradicts another; names file and line.
    """
    if text.startswith(_BOM):
        raise TrustError(
            f"identities {path}, line 1: it begins with a byte order mark (U+FEFF); save the file "
            "as UTF-8 without one"
        )
    found: list[Identity] = []
    known = _Known()
    for number, line in content_lines(text):
        try:
            identity = parse_line(line)
            known.add(number, identity)
        except ValueError as error:
            raise TrustError(
                f"identities {path}, line {number}: {error}; correct the line ({FORM})"
            ) from None
        found.append(identity)
    return tuple(found)


def parse_revoked(text: str, path: object) -> dict[PublicKey, str]:
    """Returns the keys of a file of revocations, `KEY [NAME]` a line, with the names they had.

    Raises:
        TrustError: a line is not usable. Nobody may come back by a damaged file.
    """
    found = {}
    for number, line in content_lines(text):
        word, _, name = line.partition(" ")
        try:
            found[PublicKey.parse(word)] = name.strip()
        except ValueError as error:
            raise TrustError(
                f"revoked keys {path}, line {number}: the first word is no public key: {error}; "
                "restore the file, or correct the line"
            ) from None
    return found


def content_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields the lines that say something, comments taken off, with their numbers from 1."""
    # Not splitlines(): editors and people count the ends that are "\n".
    for number, line in enumerate(text.split("\n"), 1):
        content = line.partition("#")[0].strip()
        if content:
            yield number, content


def parse_line(line: str) -> Identity:
    """Returns the identity of one line. Raises ValueError when it is not usable."""
    word, *rest = line.split()
    try:
        key = PublicKey.parse(word)
    except ValueError as error:
        raise ValueError(
            f"the first word is no public key: {error}; expected 44 characters of base64, as "
            "`tunneld identity show` prints them"
        ) from None
    if not rest:
        raise ValueError("a name is missing behind the key")
    name, *options = rest
    given: dict[str, tuple[IPNetwork, ...]] = {}
    for word in options:
        option, equals, value = word.partition("=")
        if not equals or option not in _OPTIONS:
            raise ValueError(
                f"{_shown(word)} is no option; expected subnets=… or addresses=… without blanks"
            )
        if option in given:
            raise ValueError(f"{option}= is given twice; write all values behind one, with commas")
        given[option] = parse_networks(option, value)
    return Identity(key=key, name=check_name(name), **given)


def parse_networks(option: str, value: str) -> tuple[IPNetwork, ...]:
    """Returns networks that are separated by commas. Raises ValueError when one is not usable."""
    return tuple(_network(option, part) for part in value.split(","))


def _network(option: str, text: str) -> IPNetwork:
    try:
        if "%" in text:
            raise ValueError
        return ip_network(text)
    except ValueError:
        raise ValueError(
            f"{option}= names {_shown(text)}: expected an address or a network without host bits, "
            "like 10.5.3.0/24"
        ) from None


class _Known:
    """The lines before, by all that a further one could contradict."""

    def __init__(self) -> None:
        self._keys: dict[PublicKey, tuple[int, Identity]] = {}
        self._names: dict[str, int] = {}
        self._bound: Bindings[tuple[int, Identity]] = Bindings()

    def add(self, line: int, new: Identity) -> None:
        """Takes a line over. Raises ValueError when it contradicts one."""
        if new.key in self._keys:
            number, other = self._keys[new.key]
            raise ValueError(
                f"the key of {new.name} is that of {other.name} in line {number}; a key is one "
                "host's alone: run `tunneld identity new` on the other"
            )
        if new.name in self._names:
            raise ValueError(f"the name {new.name} is taken by line {self._names[new.name]}")
        for subnet in new.subnets:
            found = self._bound.overlapping(subnet)
            if found is not None:
                theirs, (number, other) = found
                whose = "the same line" if other == new else f"{other.name} in line {number}"
                raise ValueError(
                    f"subnets= names {subnet}, which overlaps {theirs} of {whose}; a subnet is "
                    "bound to one host, once"
                )
            self._bound.add(subnet, (line, new))
        self._keys[new.key] = (line, new)
        self._names[new.name] = line


def _short(network: IPNetwork) -> str:
    is_host = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if is_host else str(network)


def _shown(text: str) -> str:
    # A key has 44 characters, and may be a private one.
    return repr(text) if len(text) <= 43 else f"of {len(text)} characters"

"""What a lab consists of: names, addresses and places, from its name and size. Pure.

Underlay: 192.0.2.0/24 (RFC 5737 TEST-NET-1), the switch and its store at .1, host N at .10 + N.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Literal, cast

from tunneld.errors import NotBuiltError, UsageError

ROOT = Path("/run/tunneld-lab")
UNDERLAY = IPv4Network("192.0.2.0/24")
OVERLAY = IPv4Network("10.5.0.0/16")
UDP_PORT = 8285
MAX_HOSTS = 64

StoreKind = Literal["sqlite", "etcd"]

_NAME = re.compile(r"[a-z0-9]{1,16}")
_STORES = ("sqlite", "etcd")
_BACKENDS = ("udp", "vxlan", "host-gw", "ipip", "alloc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host of a lab: a namespace, and beside it one container's namespace."""

    number: int
    namespace: str
    container_namespace: str
    address: IPv4Address
    """On the underlay."""
    directory: Path

    @property
    def label(self) -> str:
        return f"h{self.number}"

    @property
    def control_socket(self) -> Path:
        return self.directory / "tunneld.sock"

    @property
    def subnet_file(self) -> Path:
        return self.directory / "subnet.env"

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    @property
    def log(self) -> Path:
        return self.directory / "tunneld.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """A lab as a value; everything else about it follows from these four."""

    name: str = "lab"
    size: int = 2
    store: StoreKind = "sqlite"
    backend: str = "udp"

    @property
    def prefix(self) -> str:
        """What the names of all namespaces of this lab begin with."""
        return f"tnl-{self.name}-"

    @property
    def directory(self) -> Path:
        return ROOT / self.name

    @property
    def switch(self) -> str:
        """The namespace of the underlay's bridge and of the store."""
        return f"{self.prefix}sw"

    @property
    def switch_address(self) -> IPv4Interface:
        return IPv4Interface((UNDERLAY[1], UNDERLAY.prefixlen))

    @property
    def hosts(self) -> tuple[Host, ...]:
        return tuple(
            Host(
                number=number,
                namespace=f"{self.prefix}h{number}",
                container_namespace=f"{self.prefix}h{number}-c",
                address=UNDERLAY[10 + number],
                directory=self.directory / f"h{number}",
            )
            for number in range(1, self.size + 1)
        )

    @property
    def etcd_endpoint(self) -> str:
        return f"http://{self.switch_address.ip}:2379"

    @property
    def store_options(self) -> tuple[str, ...]:
        """Options that lead a tunneld command to this lab's store."""
        if self.store == "etcd":
            return ("--store", "etcd", "--etcd-endpoints", self.etcd_endpoint)
        return ("--store", f"sqlite:{self.directory / 'store.db'}")

    @property
    def network_config(self) -> str:
        """The network config, as `tunneld network set` takes it."""
        return json.dumps({"Network": str(OVERLAY), "Backend": {"Type": self.backend}})

    def namespace_of(self, label: str) -> str:
        """Returns the namespace called `sw`, `h1`, `h1-c`, ... in this lab.

        Raises:
            UsageError: there is no such place.
        """
        places = {"sw": self.switch}
        for host in self.hosts:
            places[host.label] = host.namespace
            places[f"{host.label}-c"] = host.container_namespace
        if label not in places:
            msg = f"lab {self.name}: no place {label!r}; there are {', '.join(places)}"
            raise UsageError(msg)
        return places[label]

    def to_json(self) -> str:
        """Returns the text that `from_json` reads back."""
        return json.dumps(
            {"name": self.name, "size": self.size, "store": self.store, "backend": self.backend}
        )

    @classmethod
    def from_json(cls, text: str) -> Topology:
        return cls(**json.loads(text))


def parse_topology(
    *, name: str, hosts: str, store: str, backend: str, encryption: str, ipv6: str
) -> Topology:
    """Returns the lab that the command line asks for.

    Raises:
        NotBuiltError: a value that is planned, but not built yet.
        UsageError: a value that means nothing.
    """
    if _NAME.fullmatch(name) is None:
        msg = f"lab name {name!r}: expected 1 to 16 lower-case letters and digits"
        raise UsageError(msg)
    if not hosts.isascii() or not hosts.isdecimal() or not 1 <= int(hosts) <= MAX_HOSTS:
        msg = f"hosts {hosts!r}: expected a number from 1 to {MAX_HOSTS}"
        raise UsageError(msg)
    _require("store", store, known=_STORES, built=_STORES)
    _require("backend", backend, known=_BACKENDS, built=("udp",))
    _require("encryption", encryption, known=("off", "preferred", "required"), built=("off",))
    _require("ipv6", ipv6, known=("0", "1"), built=("0",))
    return Topology(name=name, size=int(hosts), store=cast(StoreKind, store), backend=backend)


def _require(option: str, value: str, *, known: tuple[str, ...], built: tuple[str, ...]) -> None:
    if value not in known:
        msg = f"{option} {value!r}: expected one of {', '.join(known)}"
        raise UsageError(msg)
    if value not in built:
        msg = f"{option} {value!r} is not built yet; use {' or '.join(built)}"
        raise NotBuiltError(msg)

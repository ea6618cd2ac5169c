"""What a lab consists of: names, addresses and places, from its name and size. Pure.

Underlay: 192.0.2.0/24 (RFC 5737 TEST-NET-1), the switch and its store at .1, host N at .10 + N;
with IPv6 also 2001:db8::/64 (RFC 3849), with the same numbers at its end.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import Path
from typing import Literal, cast

from tunneld.backend.encryption import CIPHERS, DEFAULT_PORT, Cipher
from tunneld.errors import NotBuiltError, UsageError
from tunneld.trust.policy import MODES, Mode

ROOT = Path("/run/tunneld-lab")
UNDERLAY = IPv4Network("192.0.2.0/24")
UNDERLAY_V6 = IPv6Network("2001:db8::/64")
OVERLAY = IPv4Network("10.5.0.0/16")
OVERLAY_V6 = IPv6Network("fd00:10:5::/48")
MAX_HOSTS = 64
DEFAULT_NAME = "lab"
ESP_PORT = DEFAULT_PORT

StoreKind = Literal["sqlite", "etcd"]
Datapath = Literal["userspace", "kernel"]
IPv6 = Literal["0", "1", "only"]
"""`1`: beside IPv4."""

_NAME = re.compile(r"[a-z0-9]{1,16}")
_STORES = ("sqlite", "etcd")
_DATAPATHS = ("userspace", "kernel")
_IPV6 = ("0", "1", "only")
_BACKENDS = ("udp", "vxlan", "host-gw", "ipip", "wireguard")
_BUILT = ("udp", "vxlan", "host-gw")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host of a lab: a namespace, and beside it one container's namespace."""

    number: int
    namespace: str
    container_namespace: str
    address: IPv4Address
    """On the underlay."""
    address_v6: IPv6Address
    """The same, where the lab has IPv6."""
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
    """A lab as a value; everything else about it follows from these.

    Raises:
        UsageError: the name is none of a lab.
    """

    name: str = DEFAULT_NAME
    size: int = 2
    store: StoreKind = "sqlite"
    backend: str = "udp"
    datapath: Datapath = "userspace"
    encryption: Mode = "off"
    cipher: Cipher = "auto"
    ipv6: IPv6 = "0"

    def __post_init__(self) -> None:
        # The name becomes part of paths that are removed with all that is in them.
        if _NAME.fullmatch(self.name) is None:
            msg = f"lab name {self.name!r}: expected 1 to 16 lower-case letters and digits"
            raise UsageError(msg)

    @property
    def has_ipv4(self) -> bool:
        """Whether the overlay has it; the underlay always does, for the store."""
        return self.ipv6 != "only"

    @property
    def has_ipv6(self) -> bool:
        return self.ipv6 != "0"

    @property
    def moves_by_kernel(self) -> bool:
        """Whether no packet passes through a daemon."""
        return self.datapath == "kernel" or self.backend == "host-gw"

    @property
    def is_encrypted(self) -> bool:
        """Whether every packet between hosts is: no host of a lab is without keys."""
        return self.encryption != "off"

    @property
    def psk_file(self) -> Path:
        """The PSK of all hosts, where the lab is encrypted."""
        return self.directory / "psk"

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
    def switch_address_v6(self) -> IPv6Interface:
        return IPv6Interface((UNDERLAY_V6[1], UNDERLAY_V6.prefixlen))

    @property
    def hosts(self) -> tuple[Host, ...]:
        return tuple(
            Host(
                number=number,
                namespace=f"{self.prefix}h{number}",
                container_namespace=f"{self.prefix}h{number}-c",
                address=UNDERLAY[10 + number],
                address_v6=IPv6Address(f"{UNDERLAY_V6[0]}{10 + number}"),
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
        ipv4 = {"Network": str(OVERLAY)} if self.has_ipv4 else {"EnableIPv4": False}
        ipv6 = {"EnableIPv6": True, "IPv6Network": str(OVERLAY_V6)} if self.has_ipv6 else {}
        backend: dict[str, object] = {"Type": self.backend}
        if self.is_encrypted:
            backend["Encryption"] = {"Mode": self.encryption, "Cipher": self.cipher}
        return json.dumps({**ipv4, **ipv6, "Backend": backend})

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
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Topology:
        return cls(**json.loads(text))


def parse_topology(
    *,
    name: str,
    hosts: str,
    store: str,
    backend: str,
    datapath: str = "userspace",
    encryption: str,
    cipher: str = "auto",
    ipv6: str,
) -> Topology:
    """Returns the lab that the command line asks for.

    Raises:
        NotBuiltError: a value that is planned, but not built yet.
        UsageError: a value that means nothing.
    """
    if not hosts.isascii() or not hosts.isdecimal() or not 1 <= int(hosts) <= MAX_HOSTS:
        msg = f"hosts {hosts!r}: expected a number from 1 to {MAX_HOSTS}"
        raise UsageError(msg)
    _require("store", store, known=_STORES, built=_STORES)
    _require("backend", backend, known=_BACKENDS, built=_BUILT)
    _require("datapath", datapath, known=_DATAPATHS, built=_DATAPATHS)
    if (backend, datapath) == ("udp", "kernel"):
        msg = "datapath 'kernel': the udp backend has none; expected userspace, or backend vxlan"
        raise UsageError(msg)
    _require("encryption", encryption, known=MODES, built=MODES)
    _require("cipher", cipher, known=CIPHERS, built=CIPHERS)
    if encryption != "off" and (backend == "host-gw" or datapath == "kernel"):
        msg = (
            f"encryption {encryption!r}: backend {backend} by datapath {datapath} sends in plain; "
        )
        raise UsageError(f"{msg}expected backend udp or vxlan, and datapath userspace")
    _require("ipv6", ipv6, known=_IPV6, built=_IPV6)
    return Topology(
        name=name,
        size=int(hosts),
        store=cast(StoreKind, store),
        backend=backend,
        datapath=cast(Datapath, datapath),
        encryption=cast(Mode, encryption),
        cipher=cast(Cipher, cipher),
        ipv6=cast(IPv6, ipv6),
    )


def _require(option: str, value: str, *, known: tuple[str, ...], built: tuple[str, ...]) -> None:
    if value not in known:
        msg = f"{option} {value!r}: expected one of {', '.join(known)}"
        raise UsageError(msg)
    if value not in built:
        msg = f"{option} {value!r} is not built yet; use {' or '.join(built)}"
        raise NotBuiltError(msg)

"""The network config: what `<prefix>/config` says about all hosts of one network.

Path of a lease: `<prefix>/config` -> **`lease.network`** -> `lease.allocation`, `backend`.
Pure. Decides nothing about the backend but its name: the backends read their own options.

Source: flannel `pkg/subnet/config.go` (members, defaults, limits).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Generic, TypeAlias, TypeVar

from tunneld.errors import NetworkConfigError
from tunneld.lease.gojson import Json, dumps, loads, member, others
from tunneld.lease.model import NO_IPV4_SUBNET, IPNetwork, SubnetKey

DEFAULT_BACKEND_TYPE = "udp"

_MEMBERS = (
    "Network",
    "EnableIPv4",
    "EnableIPv6",
    "IPv6Network",
    "EnableNFTables",
    "SubnetLen",
    "SubnetMin",
    "SubnetMax",
    "IPv6SubnetLen",
    "IPv6SubnetMin",
    "IPv6SubnetMax",
    "Backend",
)

_ABSENT: Any = object()

_CIDR = re.compile(r"[0-9A-Fa-f.:]+/[0-9]{1,3}", re.ASCII)

_Network = TypeVar("_Network", IPv4Network, IPv6Network)
_Address = TypeVar("_Address", IPv4Address, IPv6Address)


@dataclass(frozen=True, slots=True)
class Pool(Generic[_Network, _Address]):
    """The subnets that hosts may get, in one address family."""

    prefix: str
    """In front of the name of each of its members in the config: empty or `IPv6`."""
    network: _Network
    subnet_len: int
    """Prefix length of every host's subnet."""
    first: _Address
    """Base address of the first subnet a host may get."""
    last: _Address

    @property
    def count(self) -> int:
        """How many subnets there are."""
        bits = self.network.max_prefixlen
        return ((int(self.last) - int(self.first)) >> (bits - self.subnet_len)) + 1

    def admits(self, subnet: IPNetwork) -> bool:
        """Returns whether a host may hold `subnet`, which is of the pool's family."""
        base = int(subnet.network_address)
        return subnet.prefixlen == self.subnet_len and int(self.first) <= base <= int(self.last)

    def __str__(self) -> str:
        return f"{self.count} subnets of /{self.subnet_len} from {self.first} to {self.last}"


AnyPool: TypeAlias = Pool[IPv4Network, IPv4Address] | Pool[IPv6Network, IPv6Address]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """The network config with every default filled in."""

    network: IPv4Network
    """0.0.0.0/0 when IPv4 is switched off."""
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    enable_nftables: bool = False
    subnet_len: int
    """Prefix length of every host's subnet; 0 when IPv4 is switched off."""
    subnet_min: IPv4Address
    """Base address of the first subnet a host may get."""
    subnet_max: IPv4Address
    """Base address of the last subnet a host may get."""
    ipv6_network: IPv6Network | None = None
    ipv6_subnet_len: int = 0
    ipv6_subnet_min: IPv6Address | None = None
    ipv6_subnet_max: IPv6Address | None = None
    backend_type: str = DEFAULT_BACKEND_TYPE
    """In lower case; empty when there is a `Backend` without `Type`: then no backend fits."""
    backend: Mapping[str, Any] = field(default_factory=dict)
    """The members of `Backend` but `Type`, as they came."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Members tunneld does not know, as they came."""

    @property
    def ipv4(self) -> Pool[IPv4Network, IPv4Address] | None:
        """The IPv4 subnets hosts may get; None when IPv4 is switched off."""
        if not self.enable_ipv4:
            return None
        return Pool("", self.network, self.subnet_len, self.subnet_min, self.subnet_max)

    @property
    def ipv6(self) -> Pool[IPv6Network, IPv6Address] | None:
        """The IPv6 subnets hosts may get; None when IPv6 is switched off."""
        first, last = self.ipv6_subnet_min, self.ipv6_subnet_max
        if not self.enable_ipv6 or self.ipv6_network is None or first is None or last is None:
            return None
        return Pool("IPv6", self.ipv6_network, self.ipv6_subnet_len, first, last)

    @property
    def pools(self) -> tuple[AnyPool, ...]:
        """The pools there are, IPv4 first."""
        return tuple(pool for pool in (self.ipv4, self.ipv6) if pool is not None)

    def admits(self, key: SubnetKey) -> bool:
        """Returns whether a host of this network may hold `key`."""
        ipv4, ipv6 = self.ipv4, self.ipv6
        fits_ipv4 = ipv4.admits(key.ipv4) if ipv4 else not key.has_ipv4
        fits_ipv6 = ipv6 is not None and key.ipv6 is not None and ipv6.admits(key.ipv6)
        return fits_ipv4 and (fits_ipv6 if ipv6 else key.ipv6 is None)


def parse(text: str) -> NetworkConfig:
    """Returns the config that `text` (JSON) means, with flannel's defaults.

    Raises:
        NetworkConfigError: the text is not JSON, or a member has a wrong type or value.
    """
    if text.startswith("\N{ZERO WIDTH NO-BREAK SPACE}"):
        raise NetworkConfigError(
            "network config begins with a byte order mark (U+FEFF), which is no JSON: save it as "
            "UTF-8 without one"
        )
    try:
        config = loads(text)
    except ValueError as error:
        raise NetworkConfigError(
            f"network config is not valid JSON: {error}; "
            'expected an object like {"Network": "10.5.0.0/16"}'
        ) from error
    if not isinstance(config, dict):
        raise NetworkConfigError(
            f"network config {_show(config)} is not a JSON object; "
            'expected something like {"Network": "10.5.0.0/16"}'
        )
    enable_ipv4 = _boolean(config, "EnableIPv4", default=True)
    enable_ipv6 = _boolean(config, "EnableIPv6", default=False)
    if not (enable_ipv4 or enable_ipv6):
        raise NetworkConfigError(
            "network config switches off both EnableIPv4 and EnableIPv6; leave one of them on"
        )
    ipv4 = _IPV4.read(config, is_enabled=enable_ipv4)
    ipv6 = _IPV6.read(config, is_enabled=enable_ipv6)
    backend_type, backend = _backend(config)
    return NetworkConfig(
        network=ipv4.network if ipv4 else NO_IPV4_SUBNET,
        enable_ipv4=enable_ipv4,
        enable_ipv6=enable_ipv6,
        enable_nftables=_boolean(config, "EnableNFTables", default=False),
        subnet_len=ipv4.subnet_len if ipv4 else 0,
        subnet_min=ipv4.first if ipv4 else NO_IPV4_SUBNET.network_address,
        subnet_max=ipv4.last if ipv4 else NO_IPV4_SUBNET.network_address,
        ipv6_network=ipv6.network if ipv6 else None,
        ipv6_subnet_len=ipv6.subnet_len if ipv6 else 0,
        ipv6_subnet_min=ipv6.first if ipv6 else None,
        ipv6_subnet_max=ipv6.last if ipv6 else None,
        backend_type=backend_type,
        backend=backend,
        extra=others(config, _MEMBERS),
    )


def render(config: NetworkConfig) -> str:
    """Returns the config as indented JSON with every default written out.

    `parse` of it gives an equal config.
    """
    document: dict[str, Any] = {}
    if config.enable_ipv4:
        document |= {
            "Network": str(config.network),
            "SubnetLen": config.subnet_len,
            "SubnetMin": str(config.subnet_min),
            "SubnetMax": str(config.subnet_max),
        }
    else:
        document["EnableIPv4"] = False
    if config.enable_ipv6:
        document |= {
            "EnableIPv6": True,
            "IPv6Network": str(config.ipv6_network),
            "IPv6SubnetLen": config.ipv6_subnet_len,
            "IPv6SubnetMin": str(config.ipv6_subnet_min),
            "IPv6SubnetMax": str(config.ipv6_subnet_max),
        }
    if config.enable_nftables:
        document["EnableNFTables"] = True
    document["Backend"] = {"Type": config.backend_type, **config.backend}
    document |= config.extra
    return json.dumps(document, indent=2, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class _Family(Generic[_Network, _Address]):
    """The members and limits of one address family."""

    prefix: str
    """In front of each member's name."""
    network_type: type[_Network]
    address_type: type[_Address]
    bits: int
    default_len: int

    @property
    def smallest(self) -> int:
        """Longest prefix a network may have: four subnets of four addresses."""
        return self.bits - 4

    def read(
        self, config: Mapping[str, Json], *, is_enabled: bool
    ) -> Pool[_Network, _Address] | None:
        """Returns the family's subnets; None when it is off. Checks types in both cases."""
        network = self._network(config)
        subnet_len = _unsigned(config, f"{self.prefix}SubnetLen")
        first = self._address(config, f"{self.prefix}SubnetMin")
        last = self._address(config, f"{self.prefix}SubnetMax")
        if not is_enabled:
            return None
        name = f"{self.prefix}Network"
        if network is None:
            raise NetworkConfigError(
                f"network config has no {name}; "
                f'please define a correct {name}, like "{name}": "{self._example}"'
            )
        subnet_len = self._subnet_len(network, subnet_len)
        size = 2 ** (self.bits - subnet_len)
        base, broadcast = int(network.network_address), int(network.broadcast_address)
        # flannel leaves the first subnet out: its base is the base of the whole network.
        lower = self.address_type(base + size) if first is None else first
        upper = self.address_type(broadcast + 1 - size) if last is None else last
        self._check_bound(network, subnet_len, lower, f"{self.prefix}SubnetMin")
        self._check_bound(network, subnet_len, upper, f"{self.prefix}SubnetMax")
        if int(lower) > int(upper):
            raise NetworkConfigError(
                f"{self.prefix}SubnetMin {lower} is above {self.prefix}SubnetMax {upper}: "
                "no host could get a subnet; set SubnetMin to the smaller of the two"
            )
        return Pool(self.prefix, network, subnet_len, lower, upper)

    def _subnet_len(self, network: _Network, wanted: int) -> int:
        name = f"{self.prefix}SubnetLen"
        if wanted > self.bits - 2:
            raise NetworkConfigError(
                f"{name} {wanted}: {name} must be less than /{self.bits - 1}, "
                "for a host needs more than two addresses; choose a smaller number"
            )
        if wanted:
            if wanted < network.prefixlen + 2:
                raise NetworkConfigError(
                    f"{name} {wanted} in {network}: "
                    "network must be able to accommodate at least four subnets; "
                    f"choose {network.prefixlen + 2} or more, or widen {self.prefix}Network"
                )
            return wanted
        if network.prefixlen > self.smallest:
            raise NetworkConfigError(
                f"{self.prefix}Network {network}: network is too small. "
                f"Minimum useful network prefix is /{self.smallest}; widen {self.prefix}Network"
            )
        return max(self.default_len, network.prefixlen + 2)

    def _check_bound(
        self, network: _Network, subnet_len: int, address: _Address, name: str
    ) -> None:
        value = int(address)
        if not int(network.network_address) <= value <= int(network.broadcast_address):
            raise NetworkConfigError(
                f"{name} is not in the range of the {self.prefix}Network: {address} is not in "
                f"{network}; choose the base of a /{subnet_len} inside"
            )
        size = 2 ** (self.bits - subnet_len)
        if value % size:
            raise NetworkConfigError(
                f"{name} is not on a {self.prefix}SubnetLen boundary: {address}; "
                f"choose the base of a /{subnet_len}, "
                f"like {self.address_type(value - value % size)}"
            )

    def _network(self, config: Mapping[str, Json]) -> _Network | None:
        name = f"{self.prefix}Network"
        value = member(config, name, _ABSENT)
        if value is _ABSENT:
            return None
        network: _Network | None = None
        if isinstance(value, str) and _CIDR.fullmatch(value):
            try:
                network = self.network_type(value, strict=False)
            except ValueError:
                network = None
        if network is None:
            raise NetworkConfigError(
                f"{name} {_show(value)} is not a network; "
                f'expected an address and a prefix length, like "{self._example}"'
            )
        is_empty = int(network.network_address) == 0 and network.prefixlen == 0
        return None if is_empty else network

    def _address(self, config: Mapping[str, Json], name: str) -> _Address | None:
        value = member(config, name, _ABSENT)
        if value is _ABSENT:
            return None
        address: _Address | None = None
        if isinstance(value, str) and "%" not in value:
            try:
                address = self.address_type(value)
            except ValueError:
                address = None
        if address is None:
            example = self.network_type(self._example).network_address
            raise NetworkConfigError(
                f'{name} {_show(value)} is not an address; expected one like "{example}"'
            )
        # flannel keeps these as numbers: the zero address is the same as none.
        return address if int(address) else None

    @property
    def _example(self) -> str:
        return "fd00::/48" if self.prefix else "10.5.0.0/16"


_IPV4 = _Family("", IPv4Network, IPv4Address, bits=32, default_len=24)
_IPV6 = _Family("IPv6", IPv6Network, IPv6Address, bits=128, default_len=64)


def _backend(config: Mapping[str, Json]) -> tuple[str, dict[str, Json]]:
    backend = member(config, "Backend", _ABSENT)
    if backend is _ABSENT:
        return DEFAULT_BACKEND_TYPE, {}
    if backend is None:
        return "", {}
    if not isinstance(backend, dict):
        raise NetworkConfigError(
            f'Backend {_show(backend)} is not a JSON object; expected one like {{"Type": "udp"}}'
        )
    backend_type = member(backend, "Type")
    if backend_type is not None and not isinstance(backend_type, str):
        raise NetworkConfigError(
            f'Backend.Type {_show(backend_type)} is not a string; expected one like "udp"'
        )
    return (backend_type or "").lower(), others(backend, ("Type",))


def _boolean(config: Mapping[str, Json], name: str, *, default: bool) -> bool:
    value = member(config, name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise NetworkConfigError(f"{name} {_show(value)} is neither true nor false; write one")
    return value


def _unsigned(config: Mapping[str, Json], name: str) -> int:
    """Returns a prefix length; 0 when absent, which flannel takes for the default."""
    value = member(config, name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise NetworkConfigError(
            f"{name} {_show(value)} is not a whole number; expected a prefix length, like 24"
        )
    return value


def _show(value: Json) -> str:
    text = dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."

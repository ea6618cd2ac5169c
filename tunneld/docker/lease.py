"""What a Docker network must fit: this host's lease, as subnet.env and the daemon tell it.

Path of a lease: `host.subnet_env`, `control` -> **`docker.lease`** -> `docker.network`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

from tunneld import __version__
from tunneld.control.client import NotRunningError, request
from tunneld.errors import ControlError, DockerError
from tunneld.fib.state import OverlayNet
from tunneld.host import subnet_env
from tunneld.host.firewall import layout
from tunneld.lease.model import IPAddress, IPNetwork

_Net = TypeVar("_Net", IPv4Network, IPv6Network)

AnyNet = OverlayNet[IPv4Network] | OverlayNet[IPv6Network]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalLease:
    """The lease of this host, as far as Docker is concerned with it."""

    ipv4: OverlayNet[IPv4Network] | None
    ipv6: OverlayNet[IPv6Network] | None = None
    """None, of either: the network has no such family."""
    mtu_bytes: int
    ip_masq: bool
    """Whether tunneld masquerades what leaves the network; Docker must if it does not."""
    devices: tuple[str, ...] | None = None
    """The overlay devices; empty: there are none, packets come by the underlay as they are
    (`host-gw`). None: no daemon is ready to tell."""
    left: Mapping[str, str] = field(default_factory=dict)
    """Tables of iptables in which rules of the operator must accept the overlay, since the daemon
    is not to, with the option that says so."""
    problems: tuple[str, ...] = ()
    """What the daemon itself finds wrong, a line each."""

    @property
    def nets(self) -> tuple[AnyNet, ...]:
        """The families of the network, IPv4 first."""
        return tuple(net for net in (self.ipv4, self.ipv6) if net is not None)

    @property
    def subnets(self) -> tuple[IPNetwork, ...]:
        """The leased subnets, of IPv4 first."""
        return tuple(net.subnet for net in self.nets)

    @property
    def owner(self) -> str:
        """What the daemon's chains are called after."""
        return layout.owner_of(self.devices or (), [net.network for net in self.nets])

    def __str__(self) -> str:
        return ", ".join(map(str, self.subnets))


def gateway(subnet: IPNetwork) -> IPAddress:
    """Returns the address of the bridge: the first after the subnet's base, which is the host's."""
    return subnet.network_address + 1


def read(subnet_file: Path, control_socket: Path) -> LocalLease:
    """Returns the lease in `subnet_file`, with what the daemon adds to it.

    Raises:
        DockerError: there is no file, or it is not whole.
        ControlError: a daemon runs, but does not say how it fares, or in the form of a different
            version.
        HostError: the file cannot be read.
    """
    found = subnet_env.read(subnet_file)
    if found is None:
        raise DockerError(
            f"there is no {subnet_file}: this host holds no lease yet; expected a running tunneld "
            "(systemctl status tunneld; another file: --subnet-file)"
        )
    whole = (
        (found.network is None) == (found.subnet is None)
        and (found.network_v6 is None) == (found.subnet_v6 is None)
        and (found.subnet is not None or found.subnet_v6 is not None)
    )
    if not whole or not found.mtu_bytes:
        raise DockerError(
            f"{subnet_file} lacks a usable FLANNEL_NETWORK, FLANNEL_SUBNET or FLANNEL_MTU, or one "
            "of FLANNEL_IPV6_NETWORK and FLANNEL_IPV6_SUBNET; expected what tunneld writes: start "
            "it anew"
        )
    lease = LocalLease(
        ipv4=_net(found.network, found.subnet),
        ipv6=_net(found.network_v6, found.subnet_v6),
        mtu_bytes=found.mtu_bytes,
        ip_masq=found.ip_masq,
    )
    try:
        status = request(control_socket, "status")
    except NotRunningError as error:
        return replace(lease, problems=(str(error),))
    try:
        is_starting = status["state"] == "starting"
        return replace(
            lease,
            devices=None if is_starting else tuple(status["backend"]["devices"]),
            left=_left(status["firewall"]),
            problems=tuple(_problems(status, lease)),
        )
    except (KeyError, TypeError) as error:
        raise ControlError(_other_version(control_socket, status, error)) from error


def _other_version(control_socket: Path, status: object, error: Exception) -> str:
    """Returns what to say of a daemon whose status lacks something or has it in another form."""
    version = status.get("version", "unknown") if isinstance(status, dict) else "unknown"
    lacking = f"no {error}" if isinstance(error, KeyError) else f"a part that is unusable ({error})"
    return (
        f"the daemon on {control_socket} has version {version}, and its status has {lacking}; "
        f"expected the version of this command, {__version__}: restart the daemon "
        "(systemctl restart tunneld)"
    )


def _net(network: _Net | None, subnet: _Net | None) -> OverlayNet[_Net] | None:
    if network is None or subnet is None:
        return None
    return OverlayNet(network=network, subnet=subnet)


def _left(firewall: Mapping[str, Any]) -> dict[str, str]:
    if firewall["mode"] in ("nftables", "off"):
        return dict.fromkeys(("filter", "raw"), f"--firewall={firewall['mode']}")
    return {} if firewall["forward_rules"] else {"filter": "--iptables-forward-rules=false"}


def _problems(status: dict[str, Any], lease: LocalLease) -> Iterator[str]:
    yield from (f"tunneld: {line}" for line in status["problems"])
    held = [status["lease"][name] for name in ("subnet", "ipv6_subnet")]
    text = ", ".join(subnet for subnet in held if subnet)
    if text != str(lease):
        yield (
            f"tunneld holds {text or 'no lease'}, but subnet.env says {lease}: it is not ready "
            "yet, or --subnet-file and --control-socket belong to two daemons"
        )

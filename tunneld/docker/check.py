"""Compares Docker's bridges with the lease, and says what is off, a line each.

Reads only. What the daemon finds wrong with its own rules, routes and store comes with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunneld.docker import network as docker_network
from tunneld.docker import rules
from tunneld.docker.api import DockerApi
from tunneld.docker.lease import LocalLease
from tunneld.errors import HostError

_FORWARDING = {
    4: Path("/proc/sys/net/ipv4/ip_forward"),
    6: Path("/proc/sys/net/ipv6/conf/all/forwarding"),
}
_SYSCTL = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
_FLAGS = ("bip", "mtu", "ip-masq")
_FLAGS_V6 = ("ipv6", "fixed-cidr-v6")
"""What `tunneld docker-opts -6` gives dockerd on its command line."""


_NFTABLES_NOTE = (
    "Docker uses nftables itself, which no rule of others overrules: dockerd and tunneld must run "
    "with the same --bridge-accept-fwmark; whether they do cannot be seen from here"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the check has seen."""

    seen: tuple[str, ...]
    """What is there, a line each."""
    off: tuple[str, ...]
    """What is not as it must be, a line each."""
    notes: tuple[str, ...] = ()
    """What cannot be seen from here, a line each."""


def check(
    api: DockerApi,
    lease: LocalLease,
    *,
    daemon_json: Path,
    drop_ins: Iterable[Path],
) -> Finding:
    """Compares everything.

    Raises:
        DockerError: dockerd does not answer.
        HostError: /proc or the packet filter's rules cannot be read.
    """
    version, backend = api.version(), _firewall_backend(api.info())
    networks = api.networks()
    device = f" on {', '.join(lease.devices)}" if lease.devices else ""
    seen = [
        f"Docker {version}, firewall {backend}",
        f"lease {lease}{device}, MTU {lease.mtu_bytes}, "
        f"{'tunneld' if lease.ip_masq else 'Docker'} masquerades",
    ]
    off = list(lease.problems)
    ours = [n for n in networks if _is_of_overlay(n, lease)]
    if not ours:
        off.append(_nobody(networks, lease))
    for network in ours:
        subnets = ", ".join(map(str, docker_network.subnets(network)))
        seen.append(f"{docker_network.described(network)}: {subnets}")
        remedy = _remedy(network)
        off += [
            f"{docker_network.described(network)}: {line}; {remedy}"
            for line in docker_network.differences(network, lease, version)
        ]
    flags = _FLAGS + (_FLAGS_V6 if lease.ipv6 is not None else ())
    off += _daemon_json(daemon_json, drop_ins, flags)
    notes = [_NFTABLES_NOTE] if backend == "nftables" else []
    for net in lease.nets:
        family = net.subnet.version
        if _read(_FORWARDING[family]).strip() != "1":
            off.append(
                f"IPv{family} forwarding is off ({_SYSCTL[family]}): packets of containers go "
                "nowhere; dockerd switches it on when it starts with --ip-forward"
            )
        for program, text in rules.listings(family).items():
            off += [
                f"{program}: {line}; tunneld puts it there"
                for line in rules.missing(text, net, lease)
            ]
            notes += [
                f"{program}: {line}; whether others accept them cannot be seen from here"
                for line in rules.left(text, net, lease)
            ]
    return Finding(seen=tuple(seen), off=tuple(off), notes=tuple(notes))


def _is_of_overlay(network: Mapping[str, Any], lease: LocalLease) -> bool:
    networks = [net.network for net in lease.nets]
    return docker_network.overlap(docker_network.subnets(network), networks)


def _nobody(networks: Iterable[Mapping[str, Any]], lease: LocalLease) -> str:
    has = [
        f"docker0 has {', '.join(map(str, docker_network.subnets(network)))}, "
        for network in networks
        if docker_network.is_default(network)
    ]
    return (
        f"no network of Docker is on {lease}: {''.join(has)}so that no container is "
        "reached; make one (tunneld docker network NAME), or start dockerd with the options of "
        "tunneld docker-opts"
    )


def _remedy(network: Mapping[str, Any]) -> str:
    if docker_network.is_default(network):
        return "start dockerd anew with the options of `tunneld docker-opts`"
    name = network["Name"]
    return f"remove it (docker network rm {name}), then `tunneld docker network {name}`"


def _daemon_json(path: Path, drop_ins: Iterable[Path], flags: Iterable[str]) -> list[str]:
    """Returns what dockerd would refuse to start with: one option in two places."""
    if not any(drop_in.exists() for drop_in in drop_ins):
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        return [f"cannot read {path}: {error}"]
    double = [name for name in flags if isinstance(content, dict) and name in content]
    if not double:
        return []
    return [
        f"{path} sets {', '.join(double)}, which the drop-in of docker.service gives too: dockerd "
        "refuses to start with an option in both; remove it from the file"
    ]


def _firewall_backend(info: Mapping[str, Any]) -> str:
    backend = info.get("FirewallBackend")
    return str(backend.get("Driver")) if isinstance(backend, dict) else "iptables"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}; expected /proc") from error

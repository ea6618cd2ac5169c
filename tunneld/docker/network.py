"""The bridge network that fits a lease, and how one that is there differs from it.

Path of a lease: `docker.lease` -> **`docker.network`** -> `docker.api` -> dockerd.

Source: Docker's bridge network driver, its options `com.docker.network.*`; flannel for whom to
masquerade (one of the two daemons, never both).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from tunneld.docker.lease import LocalLease, gateway
from tunneld.errors import DockerError, UsageError
from tunneld.lease.model import IPNetwork

BRIDGE = "com.docker.network.bridge.name"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
MTU = "com.docker.network.driver.mtu"
TRUSTED = "com.docker.network.bridge.trusted_host_interfaces"
DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"

DockerNetwork = Mapping[str, Any]
"""A network as `docker network inspect` shows it."""

DOCKER_MTU_BYTES = 1500
"""What Docker gives a bridge when nobody says."""

MAX_DEVICE_NAME = 15

_MAJOR = re.compile(r"[0-9]{1,6}")
_DEVICE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")


def drops_overlay(version: str) -> bool:
    """Returns whether this Docker drops what comes to a container by another host interface.

    Since 28 it does, in the raw table, unless the interface is trusted. Our own rule in front lets
    the overlay pass; an underlay interface is not to be trusted: anybody may be on it.
    """
    return _is_since_28(version)


def has_networks_of_ipv6_alone(version: str) -> bool:
    """Returns whether this Docker can do without IPv4 (its API 1.48: EnableIPv4).

    Before, it gives an IPv4 subnet of its own choice to a network that names none.
    """
    return _is_since_28(version)


def _is_since_28(version: str) -> bool:
    found = _MAJOR.match(version)
    return found is not None and int(found[0]) >= 28


def bridge_name(name: str, asked: str | None) -> str:
    """Returns the name of the bridge device for a network.

    Raises:
        UsageError: the kernel would not take it.
    """
    bridge = asked or f"br-{name}"
    if not _DEVICE_NAME.fullmatch(bridge):
        raise UsageError(
            f"the bridge would be called {bridge!r}; expected at most {MAX_DEVICE_NAME} letters, "
            "digits, dots, dashes: give it a name with --bridge"
        )
    return bridge


def options(lease: LocalLease, version: str, bridge: str | None) -> dict[str, str]:
    """Returns the driver's options for a network on the lease's subnet."""
    wanted = {
        MASQUERADE: "false" if lease.ip_masq else "true",
        MTU: str(lease.mtu_bytes),
    }
    if bridge is not None:
        wanted[BRIDGE] = bridge
    if drops_overlay(version) and lease.devices:
        wanted[TRUSTED] = ":".join(lease.devices)
    return wanted


def create_body(name: str, bridge: str, lease: LocalLease, version: str) -> dict[str, Any]:
    """Returns what to ask dockerd for."""
    families: dict[str, Any] = {"EnableIPv6": lease.ipv6 is not None}
    if lease.ipv4 is None and has_networks_of_ipv6_alone(version):
        families["EnableIPv4"] = False
    return {
        "Name": name,
        "Driver": "bridge",
        "CheckDuplicate": True,
        **families,
        "IPAM": {
            "Driver": "default",
            "Config": [
                {"Subnet": str(subnet), "Gateway": str(gateway(subnet))} for subnet in lease.subnets
            ],
        },
        "Options": options(lease, version, bridge),
    }


def subnets(network: DockerNetwork) -> list[IPNetwork]:
    """Returns the subnets of a network of Docker, in its order."""
    return [subnet for subnet, _ in _configs(network)]


def _configs(network: DockerNetwork) -> Iterator[tuple[IPNetwork, str]]:
    """Yields each subnet of a network of Docker with its gateway; empty: Docker does not say."""
    for item in (network.get("IPAM") or {}).get("Config") or []:
        if subnet := item.get("Subnet"):
            yield ip_network(subnet, strict=False), str(item.get("Gateway") or "").split("/")[0]


def is_default(network: DockerNetwork) -> bool:
    """Returns whether it is the network of docker0, which only dockerd's own options change."""
    return bool((network.get("Options") or {}).get(DEFAULT_BRIDGE) == "true")


def described(network: DockerNetwork) -> str:
    """Returns a network's name and its bridge device."""
    bridge = (network.get("Options") or {}).get(BRIDGE)
    return f"network {network['Name']}" + (f" ({bridge})" if bridge else "")


def in_the_way(
    networks: Iterable[DockerNetwork], lease: LocalLease, name: str
) -> DockerNetwork | None:
    """Returns another network that has addresses of the lease's subnet, or None."""
    for network in networks:
        if network["Name"] != name and overlap(subnets(network), lease.subnets):
            return network
    return None


def overlap(some: Iterable[IPNetwork], others: Collection[IPNetwork]) -> bool:
    """Returns whether any network of the one kind shares addresses with any of the other."""
    return any(one.overlaps(other) for one in some for other in others)


def differences(
    network: DockerNetwork, lease: LocalLease, version: str, bridge: str | None = None
) -> list[str]:
    """Returns how a network of Docker differs from what the lease asks for, a line each."""
    found = []
    if network.get("Driver") != "bridge":
        return [f"its driver is {network.get('Driver')}, expected bridge"]
    for subnet in lease.subnets:
        found += _addresses(network, subnet)
    has_options = network.get("Options") or {}
    for option, wanted in options(lease, version, bridge).items():
        if option == TRUSTED and is_default(network):
            continue  # dockerd knows no such option for docker0; our own rule lets packets pass
        difference = _option(option, wanted, has_options.get(option), lease)
        if difference:
            found.append(difference)
    return found


def _addresses(network: DockerNetwork, leased: IPNetwork) -> list[str]:
    """Returns how subnet and gateway differ in one family. What the lease has not is not asked."""
    which = "" if leased.version == 4 else "IPv6 "
    there = [one for one in _configs(network) if one[0].version == leased.version]
    if [subnet for subnet, _ in there] != [leased]:
        has = ", ".join(str(subnet) for subnet, _ in there) or "none"
        return [f"its {which}subnet is {has}, the lease is {leased}"]
    wanted, (_, has) = str(gateway(leased)), there[0]
    # dockerd of 20.10 does not say the gateway of docker0.
    if has and ip_address(has) != gateway(leased):
        return [f"its {which}gateway is {has}, expected {wanted}"]
    return []


def _option(option: str, wanted: str, has: str | None, lease: LocalLease) -> str | None:
    """Returns how one option differs, or None."""
    if option == MTU:
        mtu = has or str(DOCKER_MTU_BYTES)
        return None if mtu == wanted else f"its MTU is {mtu}, the lease's is {wanted}"
    if option == MASQUERADE:
        who = "Docker and tunneld both masquerade" if lease.ip_masq else "nobody masquerades"
        is_equal = (has or "true").lower() == wanted
        return None if is_equal else f"{who} what leaves it; expected one of Docker and tunneld"
    if option == TRUSTED:
        is_trusted = has is not None and set(wanted.split(":")) <= set(has.split(":"))
        return None if is_trusted else f"it does not trust {wanted} ({option})"
    return None if has == wanted else f"its {option} is {has}, expected {wanted}"


def refuse(name: str, network: DockerNetwork, wrong: Iterable[str]) -> DockerError:
    """Returns the error about a network that is there, but does not fit."""
    return DockerError(
        f"{described(network)} is there, but {'; '.join(wrong)}: take its containers off and "
        f"remove it (docker network rm {name}), then try again"
    )

"""The options of dockerd that put docker0 on the leased subnet, as lines of an environment file.

Path of a lease: `host.subnet_env` -> **`docker.options`** -> EnvironmentFile= -> dockerd.

Order, quotes and blanks are those of flannel's script, whose output users' units read. It does not
handle IPv6: the options for that come only when they are asked for.

Source: flannel `dist/mk-docker-opts.sh`, by what it prints and ends with.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface
from pathlib import Path

from tunneld.errors import DockerError, HostError
from tunneld.host import subnet_env

DEFAULT_OUTPUT = Path("/run/docker_opts.env")
DEFAULT_KEY = "DOCKER_OPTS"

_PREFIX = "DOCKER_OPT_"
_MASQUERADE = {"true": "false", "false": "true"}
"""dockerd masquerades exactly when the overlay daemon does not."""

_ROUTES = Path("/proc/net/route")
_GATEWAY_FLAG = 0x2


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Which lines are wanted."""

    individual: bool = True
    combined: bool = True
    key: str = DEFAULT_KEY
    """Name of the combined line; what the environment has under it is kept in front."""
    ip_masq: bool = True
    """False leaves `--ip-masq` out, which old dockers do not know."""
    ipv6: bool = False
    """Whether docker0 is to be on the IPv6 subnet too, where there is one."""


def render(text: str | None, form: Form, environment: Mapping[str, str]) -> str:
    """Returns the environment file for the text of a `subnet.env`; None: there is none.

    Variables of `environment` count where the text is silent, as for a shell that sources it.

    Raises:
        DockerError: FLANNEL_IPMASQ is neither `true` nor `false`, or an IPv6 subnet is none.
    """
    given = {**environment, **(subnet_env.fields(text) if text is not None else {})}
    options = {name: value for name, value in given.items() if name.startswith(_PREFIX)}
    if subnet := given.get("FLANNEL_SUBNET"):
        options[f"{_PREFIX}BIP"] = f"--bip={subnet}"
    if mtu := given.get("FLANNEL_MTU"):
        options[f"{_PREFIX}MTU"] = f"--mtu={mtu}"
    if form.ipv6 and (subnet_v6 := given.get("FLANNEL_IPV6_SUBNET")):
        options[f"{_PREFIX}IPV6"] = f"--ipv6 --fixed-cidr-v6={_base(subnet_v6)}"
    masquerades = given.get("FLANNEL_IPMASQ")
    if masquerades and form.ip_masq:
        if masquerades not in _MASQUERADE:
            raise DockerError(
                f"FLANNEL_IPMASQ is {masquerades!r}; expected true or false: it is written by the "
                "daemon that holds the lease, start that anew"
            )
        options[f"{_PREFIX}IPMASQ"] = f"--ip-masq={_MASQUERADE[masquerades]}"
    lines = [f'{name}="{options[name]}"' for name in sorted(options)] if form.individual else []
    if form.combined:
        before = given.get(form.key, "")
        words = [f"{before} "] if before else [""]
        words += [options[name] for name in sorted(options)]
        joined = " ".join(words) if options else words[0]
        lines.append(f'{form.key}="{joined}"')
    return "".join(f"{line}\n" for line in lines)


def check(text: str, environment: Mapping[str, str], *, where: str) -> None:
    """Checks that a `subnet.env` is whole: dockerd would not start with half of it, or without.

    `where` is the file's path, for the message.

    Raises:
        DockerError: it names no subnet, or one of its values is none.
    """
    given = {**environment, **subnet_env.fields(text)}
    ipv4, ipv6 = given.get("FLANNEL_SUBNET"), given.get("FLANNEL_IPV6_SUBNET")
    mtu = given.get("FLANNEL_MTU")
    found = subnet_env.parse(
        "".join(f"{name}={value}\n" for name, value in given.items() if name.startswith("FLANNEL_"))
    )
    fault = None
    if not ipv4 and not ipv6:
        fault = "it names no subnet; expected FLANNEL_SUBNET or FLANNEL_IPV6_SUBNET"
    elif ipv4 and found.subnet is None:
        fault = f"FLANNEL_SUBNET is {ipv4!r}; expected an IPv4 address with a length"
    elif mtu and not 68 <= found.mtu_bytes <= 65535:
        fault = f"FLANNEL_MTU is {mtu!r}; expected a whole number from 68 to 65535"
    if fault is not None:
        raise DockerError(
            f"{where} is damaged: {fault}: it is written by the daemon that holds the lease, "
            "which puts it back; see 'tunneld status'"
        )


def _base(text: str) -> str:
    """Returns the subnet of the bridge's address; docker0 gets the first address after its base."""
    try:
        return str(IPv6Interface(text).network)
    except ValueError:
        raise DockerError(
            f"FLANNEL_IPV6_SUBNET is {text!r}; expected an IPv6 address with a length: it is "
            "written by the daemon that holds the lease, start that anew"
        ) from None


def foreign_route(text: str | None, environment: Mapping[str, str]) -> str | None:
    """Returns the route by which somebody else's gateway already has the leased subnet, or None.

    Raises:
        HostError: the kernel's routing table cannot be read.
    """
    given = {**environment, **(subnet_env.fields(text) if text is not None else {})}
    try:
        subnet = IPv4Interface(given.get("FLANNEL_SUBNET", "")).network
    except ValueError:
        return None
    try:
        table = _ROUTES.read_text(encoding="ascii")
    except OSError as error:
        raise HostError(f"cannot read {_ROUTES}: {error.strerror}; expected /proc") from error
    for line in table.splitlines()[1:]:
        device, destination, gateway, flags, *_, mask, _, _, _ = line.split()
        network = IPv4Network((_address(destination), str(_address(mask))))
        if network == subnet and int(flags, 16) & _GATEWAY_FLAG:
            return f"{network} via {_address(gateway)} dev {device}"
    return None


def _address(text: str) -> IPv4Address:
    """Reads an address of the kernel's table: hexadecimal, in the machine's byte order."""
    return IPv4Address(struct.pack("=I", int(text, 16)))

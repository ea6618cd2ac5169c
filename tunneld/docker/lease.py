"""What a Docker network must fit: this host's lease, as subnet.env and the daemon tell it.

Path of a lease: `host.subnet_env`, `control` -> **`docker.lease`** -> `docker.network`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from tunneld.control.client import NotRunningError, request
from tunneld.errors import DockerError
from tunneld.host import subnet_env


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalLease:
    """The lease of this host, as far as Docker is concerned with it."""

    network: IPv4Network
    subnet: IPv4Network
    mtu_bytes: int
    ip_masq: bool
    """Whether tunneld masquerades what leaves the network; Docker must if it does not."""
    device: str | None = None
    """The overlay device; None: no daemon runs that has one."""
    problems: tuple[str, ...] = ()
    """What the daemon itself finds wrong, a line each."""

    @property
    def gateway(self) -> IPv4Address:
        """The address of the bridge: the first after the subnet's base, which is the host's."""
        return self.subnet.network_address + 1


def read(subnet_file: Path, control_socket: Path) -> LocalLease:
    """Returns the lease in `subnet_file`, with what the daemon adds to it.

    Raises:
        DockerError: there is no file, or it is not whole.
        ControlError: a daemon runs, but does not say how it fares.
        HostError: the file cannot be read.
    """
    found = subnet_env.read(subnet_file)
    if found is None:
        raise DockerError(
            f"there is no {subnet_file}: this host holds no lease yet; expected a running tunneld "
            "(systemctl status tunneld; another file: --subnet-file)"
        )
    if found.network is None or found.subnet is None or not found.mtu_bytes:
        raise DockerError(
            f"{subnet_file} lacks a usable FLANNEL_NETWORK, FLANNEL_SUBNET or FLANNEL_MTU; "
            "expected what tunneld writes: start it anew"
        )
    device, problems = _daemon(control_socket, found.subnet)
    return LocalLease(
        network=found.network,
        subnet=found.subnet,
        mtu_bytes=found.mtu_bytes,
        ip_masq=found.ip_masq,
        device=device,
        problems=problems,
    )


def _daemon(control_socket: Path, subnet: IPv4Network) -> tuple[str | None, tuple[str, ...]]:
    try:
        status = request(control_socket, "status")
    except NotRunningError as error:
        return None, (str(error),)
    problems = [f"tunneld: {line}" for line in status["problems"]]
    held = status["lease"]["subnet"]
    if held != str(subnet):
        problems.append(
            f"tunneld holds {held or 'no lease'}, but subnet.env says {subnet}: it is not ready "
            "yet, or --subnet-file and --control-socket belong to two daemons"
        )
    return status["backend"]["device"], tuple(problems)

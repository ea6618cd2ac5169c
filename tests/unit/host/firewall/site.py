"""A host with an overlay device, a bridge with a container, and a stranger outside.

Packets of the remote container are written to the TUN, packets for it are read from there: what
happens in between is all the kernel's doing, by the rules under test.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Final, Literal

from testbed.netns import Namespace, Rig, inside
from testbed.wait import PATIENCE
from tests.unit.host.conftest import eventually, overlay
from tunneld.fib.state import Device, Firewall, OverlayNet, Route
from tunneld.host.device import OverlayDevice
from tunneld.host.firewall.family import Version
from tunneld.host.routes import Exits, Routes, Sources

NETWORK: Final = IPv4Network("10.5.0.0/16")
SUBNET: Final = IPv4Network("10.5.1.0/24")
WANTED: Final = Firewall(
    ipv4=OverlayNet(network=NETWORK, subnet=SUBNET),
    devices=frozenset({"flannel0"}),
    masquerade=True,
)

WANTED_IN_BOTH: Final = replace(
    WANTED,
    ipv6=OverlayNet(network=IPv6Network("fd05::/48"), subnet=IPv6Network("fd05:0:0:1::/64")),
)

BRIDGE = "docker0"
REMOTE = "10.5.2.5"
CONTAINER = "10.5.1.2"
DEVICE = "10.5.1.0"
COMES_S: Final = 10.0 * PATIENCE
"""How long what passes may take; it comes at once unless the machine is busy."""
DROPPED_S: Final = 0.5
"""How long to look for what must not come."""
HOST_OUTSIDE = "192.0.2.1"
STRANGER = "192.0.2.2"


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Who is who in one address family."""

    version: Version
    remote: str
    container: str
    device: str
    host_outside: str
    stranger: str
    group: str


ADDRESSES: Final[dict[Version, Addresses]] = {
    4: Addresses(
        version=4,
        remote=REMOTE,
        container=CONTAINER,
        device=DEVICE,
        host_outside=HOST_OUTSIDE,
        stranger=STRANGER,
        group="224.0.1.7",
    ),
    6: Addresses(
        version=6,
        remote="fd05:0:0:2::5",
        container="fd05:0:0:1::2",
        device="fd05:0:0:1::",
        host_outside="2001:db8::1",
        stranger="2001:db8::2",
        group="ff0e::7",
    ),
}


@dataclass
class Site:
    """A host with an overlay device, a bridge with a container, and a stranger outside."""

    host: Namespace
    container: Namespace
    stranger: Namespace
    tun_fd: int


@asynccontextmanager
async def site(rig: Rig, host: Namespace) -> AsyncIterator[Site]:
    container, stranger = rig.namespace("container"), rig.namespace("stranger")
    host.bridge(BRIDGE, "10.5.1.1/24")
    rig.link(
        host, "veth0", container, "eth0", first_bridge=BRIDGE, second_address=f"{CONTAINER}/24"
    )
    rig.link(
        host,
        "eth0",
        stranger,
        "eth0",
        first_address=f"{HOST_OUTSIDE}/24",
        second_address=f"{STRANGER}/24",
    )
    host.sysctl("net/ipv4/ip_forward", 1)
    container.run("ip", "route", "add", "default", "via", "10.5.1.1")
    stranger.run("ip", "route", "add", str(NETWORK), "via", HOST_OUTSIDE)
    six = ADDRESSES[6]
    for space, name, address in (
        (host, BRIDGE, "fd05:0:0:1::1/64"),
        (container, "eth0", f"{six.container}/64"),
        (host, "eth0", f"{six.host_outside}/64"),
        (stranger, "eth0", f"{six.stranger}/64"),
    ):
        space.run("ip", "address", "add", address, "dev", name, "nodad")
    host.sysctl("net/ipv6/conf/all/forwarding", 1)
    container.run("ip", "route", "add", "default", "via", "fd05:0:0:1::1")
    stranger.run("ip", "route", "add", "fd05::/48", "via", six.host_outside)
    for space, address in ((container, "fd05:0:0:1::1"), (stranger, six.host_outside)):
        await knows_its_neighbour(space, address)
    async with overlay() as (tun, netlink):
        device = OverlayDevice(tun.name, netlink)
        link = await device.link()
        assert link is not None
        networks = (NETWORK, IPv6Network("fd05::/48"))
        routes = Routes(netlink, networks)
        wanted = Device(
            address=IPv4Address(DEVICE),
            address_v6=IPv6Address(six.device),
            mtu_bytes=1472,
            txqueuelen=1000,
            forwarding=True,
        )
        await device.apply(link, wanted, routes)
        exits = Exits(
            overlay=link.index, sources=Sources(ipv4=wanted.address, ipv6=wanted.address_v6)
        )
        whole = {Route(destination=network, kind="overlay") for network in networks}
        await routes.apply(exits, put=whole, drop=())
        yield Site(host, container, stranger, tun.fds[0])


async def knows_its_neighbour(space: Namespace, address: str) -> None:
    """Waits until a neighbour answers: what is lost before, while links come up, takes seconds."""

    def answers() -> bool:
        return space.try_run("ping", "-c", "1", "-W", "1", address).returncode == 0

    await eventually(answers, f"an answer of {address}")


def udp_socket(space: Namespace, *, bound: str = "", port: int = 0, to: str = "") -> socket.socket:
    """Opens a socket for either family, or for that of `to` or `bound`."""
    with inside(space):
        if ":" in bound or ":" in to:
            opened = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        else:
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.settimeout(COMES_S)
    opened.bind((bound, port))
    return opened


def sends(space: Namespace, to: str, *, bound: str = "", port: int = 7) -> None:
    with udp_socket(space, bound=bound, to=to) as sender:
        sender.sendto(b"probe", (to, port))


async def leaves_by_the_tun(place: Site, within_s: float = COMES_S, *, to: str = REMOTE) -> str:
    """Returns the source of the next datagram to the remote container, read from the TUN."""
    version = ip_address(to).version
    async with asyncio.timeout(within_s):
        while True:
            try:
                frame = os.read(place.tun_fd, 65536)
            except BlockingIOError:
                await asyncio.sleep(0.01)
                continue
            packet = frame[10:]  # behind the offload header
            if packet[0] >> 4 != version or not packet.endswith(b"probe"):
                continue
            if version == 4:
                protocol, source, target = packet[9], packet[12:16], packet[16:20]
            else:
                protocol, source, target = packet[6], packet[8:24], packet[24:40]
            # An ICMP error about a datagram ends like it too.
            if protocol == socket.IPPROTO_UDP and target == ip_address(to).packed:
                return str(ip_address(source))


def comes_in_by_the_tun(place: Site, to: str, port: int) -> None:
    """Writes a datagram of the remote container to the TUN."""
    version: Version = 4 if ip_address(to).version == 4 else 6
    source, target = ip_address(ADDRESSES[version].remote).packed, ip_address(to).packed
    udp = struct.pack("!HHHH", 999, port, 8 + 5, 0) + b"probe"
    if version == 4:
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 33, 0, 0, 64, 17, 0, source, target)
        header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    else:
        header = struct.pack("!IHBB16s16s", 6 << 28, len(udp), 17, 64, source, target)
        pseudo = source + target + struct.pack("!II", len(udp), 17)
        udp = udp[:6] + struct.pack("!H", checksum(pseudo + udp)) + udp[8:]
    os.write(place.tun_fd, bytes(10) + header + udp)


def checksum(data: bytes) -> int:
    """Returns the Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def source_seen_by(receiver: socket.socket) -> str:
    with receiver:
        _, (source, *_) = receiver.recvfrom(100)
    return str(source)


async def arrives(place: Site, to: str = CONTAINER) -> str:
    """Returns the source that the container sees of a datagram off the TUN."""
    receiver = udp_socket(place.container, to=to)
    comes_in_by_the_tun(place, to, receiver.getsockname()[1])
    return source_seen_by(receiver)


async def is_kept_out(place: Site, to: str = CONTAINER) -> bool:
    """Says whether the container sees nothing of a datagram off the TUN."""
    receiver = udp_socket(place.container, to=to)
    receiver.settimeout(DROPPED_S)
    comes_in_by_the_tun(place, to, receiver.getsockname()[1])
    try:
        source_seen_by(receiver)
    except TimeoutError:
        return True
    return False


async def departs(place: Site, to: str = REMOTE) -> str:
    """Returns the source of the container's datagram when it reaches the TUN."""
    sends(place.container, to)
    return await leaves_by_the_tun(place, to=to)


async def is_kept_in(place: Site, to: str = REMOTE) -> bool:
    """Says whether the container's datagram does not reach the TUN."""
    sends(place.container, to)
    try:
        await leaves_by_the_tun(place, DROPPED_S, to=to)
    except TimeoutError:
        return True
    return False


Tools = Literal["all", "nft only", "iptables-nft only", "iptables-legacy only"]

_FILTER_TOOLS = ("nft", "iptables", "ip6tables", "xtables", "arptables", "ebtables")


def path_with(tools: Tools, directory: Path) -> str:
    """Returns a PATH on which these are the only programs that change packet filters."""
    if tools == "all":
        return os.environ["PATH"]
    directory.mkdir(exist_ok=True)
    for folder in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"):
        for program in Path(folder).iterdir():
            link = directory / program.name
            if not program.name.startswith(_FILTER_TOOLS) and not link.exists():
                link.symlink_to(program)
    if tools == "nft only":
        _link(directory, "nft", "nft")
        return str(directory)
    variant = tools.removesuffix(" only")
    for ending in ("", "-save", "-restore"):
        for number in ("", "6"):
            name = f"ip{number}tables{ending}"
            _link(directory, name, f"{variant.replace('ip', f'ip{number}', 1)}{ending}")
    return str(directory)


def _link(directory: Path, name: str, program: str) -> None:
    found = shutil.which(program)
    assert found is not None, f"{program} is missing on the PATH"
    (directory / name).symlink_to(found)

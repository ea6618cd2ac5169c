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
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final, Literal

from tests.support.netns import Namespace, Rig
from tests.unit.host.conftest import inside, overlay
from tunneld.fib.state import Device, Firewall, OverlayNet, Route
from tunneld.host.device import OverlayDevice
from tunneld.host.routes import Exits, Routes, Sources

NETWORK: Final = IPv4Network("10.5.0.0/16")
SUBNET: Final = IPv4Network("10.5.1.0/24")
WANTED: Final = Firewall(
    ipv4=OverlayNet(network=NETWORK, subnet=SUBNET),
    devices=frozenset({"flannel0"}),
    masquerade=True,
)

REMOTE = "10.5.2.5"
REMOTE_BYTES = IPv4Address(REMOTE).packed
CONTAINER = "10.5.1.2"
DEVICE = "10.5.1.0"
HOST_OUTSIDE = "192.0.2.1"
STRANGER = "192.0.2.2"


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
    host.bridge("docker0", "10.5.1.1/24")
    rig.link(
        host, "veth0", container, "eth0", first_bridge="docker0", second_address=f"{CONTAINER}/24"
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
    async with overlay() as (tun, netlink):
        device = OverlayDevice(tun.name, netlink)
        link = await device.link()
        assert link is not None
        routes = Routes(netlink, [NETWORK])
        wanted = Device(
            address=IPv4Address(DEVICE), mtu_bytes=1472, txqueuelen=1000, forwarding=True
        )
        await device.apply(link, wanted, routes)
        whole = Route(destination=NETWORK, kind="overlay")
        exits = Exits(overlay=link.index, sources=Sources(ipv4=wanted.address))
        await routes.apply(exits, put={whole}, drop=())
        yield Site(host, container, stranger, tun.fds[0])


def udp_socket(space: Namespace, *, bound: str = "0.0.0.0", port: int = 0) -> socket.socket:
    with inside(space):
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.settimeout(5)
    opened.bind((bound, port))
    return opened


def sends(space: Namespace, to: str, *, bound: str = "0.0.0.0", port: int = 7) -> None:
    with udp_socket(space, bound=bound) as sender:
        sender.sendto(b"probe", (to, port))


async def leaves_by_the_tun(place: Site, within_s: float = 5.0) -> str:
    """Returns the source of the next datagram to the remote container, read from the TUN."""
    async with asyncio.timeout(within_s):
        while True:
            try:
                frame = os.read(place.tun_fd, 65536)
            except BlockingIOError:
                await asyncio.sleep(0.01)
                continue
            packet = frame[10:]  # behind the offload header
            is_udp = packet[9] == socket.IPPROTO_UDP  # and no ICMP error about one
            if is_udp and packet.endswith(b"probe") and packet[16:20] == REMOTE_BYTES:
                return str(IPv4Address(packet[12:16]))


def comes_in_by_the_tun(place: Site, to: str, port: int) -> None:
    """Writes a datagram of the remote container to the TUN."""
    udp = struct.pack("!HHHH", 999, port, 8 + 5, 0) + b"probe"
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 33, 0, 0, 64, 17, 0,
        IPv4Address(REMOTE).packed, IPv4Address(to).packed,
    )  # fmt: skip
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:]
    os.write(place.tun_fd, bytes(10) + header + udp)


def source_seen_by(receiver: socket.socket) -> str:
    with receiver:
        _, (source, _) = receiver.recvfrom(100)
    return str(source)


async def arrives(place: Site, to: str = CONTAINER) -> str | None:
    """Returns the source that the container sees of a datagram off the TUN; None: nothing came."""
    receiver = udp_socket(place.container, port=0)
    receiver.settimeout(0.5)
    comes_in_by_the_tun(place, to, receiver.getsockname()[1])
    try:
        return source_seen_by(receiver)
    except TimeoutError:
        return None


async def departs(place: Site) -> str | None:
    """Returns the source of the container's datagram when it reaches the TUN; None: it did not."""
    sends(place.container, REMOTE)
    try:
        return await leaves_by_the_tun(place, within_s=0.5)
    except TimeoutError:
        return None


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
        _link(directory, f"iptables{ending}", f"{variant}{ending}")
    return str(directory)


def _link(directory: Path, name: str, program: str) -> None:
    found = shutil.which(program)
    assert found is not None, f"{program} is missing on the PATH"
    (directory / name).symlink_to(found)

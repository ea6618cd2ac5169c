from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from tests.support.netns import Namespace, Rig
from tests.unit.host.conftest import inside, overlay, refusal, run_inside, without
from tunneld.errors import HostError
from tunneld.fib.state import Device, Firewall, Route
from tunneld.host.device import OverlayDevice
from tunneld.host.firewall import NftTable
from tunneld.host.routes import Routes

NETWORK = IPv4Network("10.5.0.0/16")
SUBNET = IPv4Network("10.5.1.0/24")
WANTED = Firewall(network=NETWORK, subnet=SUBNET, masquerade=True)

pytestmark = pytest.mark.root

FOREIGN = """
table ip other {
  chain forward { type filter hook forward priority 0; policy accept; counter accept; }
}
table inet tunneld-other { set s { type ipv4_addr; elements = { 10.5.1.1 }; }; }
"""

# `forward` and `postrouting` are flannel's iptables rules, in their order
# (pkg/trafficmngr/iptables/iptables.go); 0x4000 is kube-proxy's mark.
GOLDEN = """\
table ip tunneld-flannel0 {
  chain identity {
    type nat hook postrouting priority srcnat - 1; policy accept;
    meta mark & 0x00004000 == 0x00004000 return
    ip saddr 10.5.1.0/24 ip daddr 10.5.1.0/24 return
    ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 snat to ip saddr
    ip saddr 10.5.0.0/16 ip daddr 10.5.1.0/24 snat to ip saddr
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    ip saddr 10.5.0.0/16 accept
    ip daddr 10.5.0.0/16 accept
  }
  chain postrouting {
    type nat hook postrouting priority srcnat + 1; policy accept;
    meta mark & 0x00004000 == 0x00004000 return
    ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 return
    ip saddr 10.5.0.0/16 ip daddr 10.5.1.0/24 return
    ip saddr != 10.5.0.0/16 ip daddr 10.5.1.0/24 return
    ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
    ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random
  }
}
"""


def ruleset(space: Namespace) -> str:
    return space.run("nft", "list", "ruleset")


def test_table_holds_flannels_rules_in_flannels_order(space: Namespace) -> None:
    async def work() -> None:
        table = NftTable("flannel0")
        assert await table.observe() is None
        await table.apply(WANTED)
        assert await table.observe() == WANTED

    run_inside(space, work)
    # The meaning is compared, not the layout: nft lists what it understood.
    listed = re.sub(r"[ \t]+", " ", ruleset(space).replace("\n\n", "\n"))
    assert listed == re.sub(r"[ \t]+", " ", GOLDEN)


def test_without_masquerade_no_source_becomes_the_hosts(space: Namespace) -> None:
    async def work() -> None:
        table = NftTable("flannel0")
        await table.apply(WANTED)
        await table.apply(Firewall(network=NETWORK, subnet=SUBNET, masquerade=False))

    run_inside(space, work)
    assert "chain forward" in ruleset(space)
    assert "masquerade" not in ruleset(space)


def test_plain_masquerade_keeps_the_ports_where_it_can(space: Namespace) -> None:
    async def work() -> None:
        wanted = Firewall(network=NETWORK, subnet=SUBNET, masquerade=True, random_fully=False)
        await NftTable("flannel0").apply(wanted)

    run_inside(space, work)
    assert ruleset(space).count("masquerade\n") == 2
    assert "fully-random" not in ruleset(space)


def test_applying_twice_leaves_one_table(space: Namespace) -> None:
    async def work() -> None:
        table = NftTable("flannel.1")
        await table.apply(WANTED)
        first = ruleset(space)
        await table.apply(WANTED)
        assert ruleset(space) == first
        assert await table.observe() == WANTED

    run_inside(space, work)


@pytest.mark.parametrize(
    "spoiling",
    [
        "flush ruleset",
        "delete table ip tunneld-flannel0",
        "flush chain ip tunneld-flannel0 forward",
        "add rule ip tunneld-flannel0 forward ip saddr 10.0.0.0/8 drop",
        "insert rule ip tunneld-flannel0 postrouting accept",
        "add chain ip tunneld-flannel0 more",
    ],
)
def test_what_somebody_changes_in_it_is_noticed_and_mended(space: Namespace, spoiling: str) -> None:
    async def work() -> None:
        table = NftTable("flannel0")
        await table.apply(WANTED)
        before = ruleset(space)
        space.run("nft", *spoiling.split())
        assert await table.observe() is None
        await table.apply(WANTED)
        assert await table.observe() == WANTED
        assert ruleset(space) == before

    run_inside(space, work)


def test_rules_of_others_are_untouched(space: Namespace) -> None:
    space.run("nft", "-f", "-", stdin=FOREIGN)
    before = ruleset(space)

    async def work() -> None:
        table = NftTable("flannel0")
        await table.apply(WANTED)
        space.run("nft", "add", "rule", "ip", "other", "forward", "ip", "saddr", "1.2.3.4", "drop")
        assert await table.observe() == WANTED
        handle = re.search(
            r"1\.2\.3\.4 drop # handle (\d+)", space.run("nft", "-a", "list", "ruleset")
        )
        assert handle is not None
        space.run("nft", "delete", "rule", "ip", "other", "forward", "handle", handle[1])
        await table.clear()
        await table.clear()
        assert await table.observe() is None

    run_inside(space, work)
    assert ruleset(space) == before


def test_table_of_a_killed_daemon_is_replaced(space: Namespace) -> None:
    space.run("nft", "add", "table", "ip", "tunneld-flannel0")
    space.run("nft", "add", "chain", "ip", "tunneld-flannel0", "stale")

    async def work() -> None:
        table = NftTable("flannel0")
        assert await table.observe() is None
        await table.apply(WANTED)

    run_inside(space, work)
    assert "stale" not in ruleset(space)


def test_missing_nft_says_what_to_install(
    space: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    async def work() -> None:
        table = NftTable("flannel0")
        await table.clear()
        with pytest.raises(HostError, match=r"no program `nft`.*apt-get install nftables"):
            await table.apply(WANTED)

    with inside(space):
        asyncio.run(work())


def test_missing_capability_is_one_clear_line(space: Namespace) -> None:
    code = (
        "from tunneld.host.firewall import NftTable as T; "
        "from tunneld.fib.state import Firewall as F; from ipaddress import IPv4Network as N; "
        "await T('flannel0').apply(F(network=N('10.5.0.0/16'), subnet=N('10.5.1.0/24'), "
        "masquerade=True))"
    )
    said = refusal(code, *space.command(*without("net_admin")))
    assert said.startswith("CapabilityError: cannot replace table tunneld-flannel0: not permitted")


# --- what the rules do to real packets ------------------------------------------------------

REMOTE = "10.5.2.5"
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
        routes = Routes(netlink, NETWORK)
        wanted = Device(
            address=IPv4Address(DEVICE), mtu_bytes=1472, txqueuelen=1000, forwarding=True
        )
        await device.apply(link, wanted, routes)
        whole = Route(destination=NETWORK, kind="device")
        await routes.apply(link.index, wanted.address, put={whole}, drop=())
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


async def leaves_by_the_tun(place: Site) -> str:
    """Returns the source of the next datagram to the remote container, read from the TUN."""
    async with asyncio.timeout(5):
        while True:
            try:
                frame = os.read(place.tun_fd, 65536)
            except BlockingIOError:
                await asyncio.sleep(0.01)
                continue
            if frame.endswith(b"probe") and frame[26:30] == IPv4Address(REMOTE).packed:
                return str(IPv4Address(frame[22:26]))


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


@pytest.mark.parametrize("masquerade", [True, False], ids=["masquerade", "no masquerade"])
def test_sources_are_rewritten_where_flannels_iptables_rules_rewrite_them(
    rig: Rig, space: Namespace, masquerade: bool
) -> None:
    """Each line is one packet; the comment is the iptables rule that decides."""

    async def work() -> dict[str, str]:
        async with site(rig, space) as place:
            host, container, stranger = place.host, place.container, place.stranger
            await NftTable("flannel0").apply(
                Firewall(network=NETWORK, subnet=SUBNET, masquerade=masquerade)
            )
            host.run("nft", "-f", "-", stdin=MARKING)
            seen = {}

            sends(container, REMOTE)
            seen["container to remote container"] = await leaves_by_the_tun(place)
            sends(host, REMOTE)
            seen["host to remote container"] = await leaves_by_the_tun(place)
            sends(host, REMOTE, bound=HOST_OUTSIDE)
            seen["host's own address to remote container"] = await leaves_by_the_tun(place)
            sends(stranger, REMOTE)
            seen["stranger to remote container"] = await leaves_by_the_tun(place)
            sends(stranger, REMOTE, port=4000)
            seen["marked stranger to remote container"] = await leaves_by_the_tun(place)

            receiver = udp_socket(stranger, port=70)
            sends(container, STRANGER, port=70)
            seen["container to stranger"] = source_seen_by(receiver)
            receiver = udp_socket(stranger, port=71)
            comes_in_by_the_tun(place, STRANGER, 71)
            seen["remote container to stranger"] = source_seen_by(receiver)
            receiver = udp_socket(stranger, port=4000)
            sends(container, STRANGER, port=4000)
            seen["marked container to stranger"] = source_seen_by(receiver)

            receiver = udp_socket(container, port=72)
            comes_in_by_the_tun(place, CONTAINER, 72)
            seen["remote container to container"] = source_seen_by(receiver)
            receiver = udp_socket(container, port=73)
            sends(stranger, CONTAINER, port=73)
            seen["stranger to container"] = source_seen_by(receiver)

            receiver = udp_socket(stranger, port=74)
            with inside(stranger):
                group = socket.inet_aton("224.0.1.7") + socket.inet_aton(STRANGER)
                receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
            with udp_socket(host, bound=DEVICE) as sender:
                out = socket.inet_aton(HOST_OUTSIDE)
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, out)
                sender.sendto(b"probe", ("224.0.1.7", 74))
            seen["overlay address to a group"] = source_seen_by(receiver)
            return seen

    seen = run_inside(space, work)
    assert seen == {
        "container to remote container": CONTAINER,  # -s SUB -d NET -j RETURN
        "host to remote container": DEVICE,  # -s SUB -d NET -j RETURN
        "host's own address to remote container":  # ! -s NET -d NET -j MASQUERADE
        DEVICE if masquerade else HOST_OUTSIDE,
        "stranger to remote container":  # ! -s NET -d NET -j MASQUERADE
        DEVICE if masquerade else STRANGER,
        "marked stranger to remote container": STRANGER,  # mark 0x4000/0x4000 -j RETURN
        "container to stranger":  # -s NET ! -d 224.0.0.0/4 -j MASQUERADE
        HOST_OUTSIDE if masquerade else CONTAINER,
        "remote container to stranger":  # -s NET ! -d 224.0.0.0/4 -j MASQUERADE
        HOST_OUTSIDE if masquerade else REMOTE,
        "marked container to stranger": CONTAINER,  # mark 0x4000/0x4000 -j RETURN
        "remote container to container": REMOTE,  # -s NET -d SUB -j RETURN
        "stranger to container": STRANGER,  # ! -s NET -d SUB -j RETURN
        "overlay address to a group": DEVICE,  # ! -d 224.0.0.0/4
    }


MARKING = """
table ip marking {
  chain prerouting {
    type filter hook prerouting priority mangle;
    udp dport 4000 meta mark set 0x0000c001
  }
}
"""

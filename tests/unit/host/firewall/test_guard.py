"""Only the data path sends to the overlay's port of a peer, on every kind of host."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from testbed.netns import Namespace, Rig
from tests.unit.host.conftest import run_inside
from tests.unit.host.firewall.hosts import HOSTS, Variant, restore, run_on, saved
from tests.unit.host.firewall.site import (
    ADDRESSES,
    BRIDGE,
    COMES_S,
    DROPPED_S,
    HOST_OUTSIDE,
    REMOTE,
    STRANGER,
    WANTED,
    WANTED_IN_BOTH,
    Addresses,
    Site,
    Tools,
    arrives,
    path_with,
    source_seen_by,
    udp_socket,
)
from tunneld.fib.state import Firewall, UnderlayGuard
from tunneld.host.firewall import HostFirewall, NftTable
from tunneld.host.firewall.family import in_families
from tunneld.host.netlink import Netlink
from tunneld.host.sockets import mark_as_ours, open_underlay_sockets

pytestmark = pytest.mark.root

PORT, ESP_PORT = 8285, 8286


def guarded(*peers: str, by: str | None = None, interface: int = 0) -> Firewall:
    """Rules of a host that knows these peers, and whose kernel's device `by` encapsulates."""
    guard = UnderlayGuard(
        ports=(PORT, ESP_PORT),
        peers=frozenset(map(ip_address, peers)),
        devices=frozenset({by} if by else ()),
        own=frozenset(ip_address(it.host_outside) for it in ADDRESSES.values()),
        vni=1 if by else 0,
        interface=interface,
    )
    return replace(WANTED_IN_BOTH, guard=guard)


def arrives_from(
    place: Site,
    sender: Namespace,
    to: str,
    *,
    port: int = PORT,
    marked: bool = False,
    patience_s: float = COMES_S,
) -> str | None:
    """Sends a datagram to the stranger; returns the source it is seen with, None: it is not."""
    receiver = udp_socket(place.stranger, bound=to, port=port)
    receiver.settimeout(patience_s)
    with udp_socket(sender, to=to) as opened:
        if marked:
            mark_as_ours(opened)
        try:
            opened.sendto(b"probe", (to, port))
        except PermissionError:  # what a program on this host is told
            receiver.settimeout(DROPPED_S)
    try:
        return source_seen_by(receiver)
    except TimeoutError:
        return None


def is_dropped_from(place: Site, sender: Namespace, to: str, *, port: int = PORT) -> bool:
    return arrives_from(place, sender, to, port=port, patience_s=DROPPED_S) is None


@contextmanager
def another_address(place: Site, it: Addresses) -> Iterator[str]:
    """Gives the stranger an address at which no peer is."""
    other = "192.0.2.77" if it.version == 4 else "2001:db8::77"
    if it.version == 4:
        place.stranger.run("ip", "address", "add", f"{other}/24", "dev", "eth0")
    else:
        place.stranger.add_ipv6(f"{other}/24", "eth0")
    yield other


@pytest.mark.parametrize(
    ("tools", "docker"),
    [
        ("all", False),
        ("all", True),
        ("nft only", False),
        ("iptables-nft only", True),
        ("iptables-legacy only", False),
    ],
)
def test_nothing_but_the_data_path_sends_to_the_port_of_a_peer(
    rig: Rig,
    space: Namespace,
    tools: Tools,
    docker: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", path_with(tools, tmp_path / "bin"))

    async def work(place: Site, firewall: HostFirewall) -> None:
        if docker:
            for version in (4, 6):
                restore(space, "nft", HOSTS["docker-28"], version)
        wanted = guarded(*(it.stranger for it in ADDRESSES.values()))
        await firewall.apply(wanted)
        assert await firewall.observe() == wanted
        for it in ADDRESSES.values():
            assert is_dropped_from(place, place.host, it.stranger)
            assert arrives_from(place, place.host, it.stranger, marked=True) == it.host_outside
            # It would leave with the host's own address, which the peer takes for the overlay's.
            assert is_dropped_from(place, place.container, it.stranger)
            # Containers may have overlays of their own, and everything else.
            assert is_dropped_from(place, place.container, it.stranger, port=ESP_PORT)
            assert arrives_from(place, place.container, it.stranger, port=8287) == it.host_outside
            with another_address(place, it) as other:
                assert arrives_from(place, place.container, other) == it.host_outside
                assert arrives_from(place, place.host, other) == it.host_outside
        await firewall.apply(replace(wanted, guard=None))
        assert arrives_from(place, place.host, ADDRESSES[4].stranger) is not None
        await firewall.clear()
        assert "tunneld" not in saved(space).lower()

    run_on(rig, space, work)


def test_datagrams_of_a_peer_pass_through_where_they_come_its_way_alone(
    rig: Rig, space: Namespace
) -> None:
    """A guest of this host may be a host of the overlay; a neighbour of its may not play it."""

    async def work(place: Site, firewall: HostFirewall) -> None:
        it = ADDRESSES[4]
        place.host.run("ip", "route", "add", "198.51.100.1", "via", it.container)
        place.container.run("ip", "address", "add", "198.51.100.1/32", "dev", "lo")
        place.stranger.run("ip", "route", "add", "198.51.100.1", "via", it.host_outside)
        wanted = replace(guarded(it.stranger, "198.51.100.1"), masquerade=False)
        await firewall.apply(wanted)

        def by_guest(patience_s: float = COMES_S) -> str | None:
            receiver = udp_socket(place.stranger, bound=it.stranger, port=PORT)
            receiver.settimeout(patience_s)
            with udp_socket(place.container, bound="198.51.100.1") as opened:
                opened.sendto(b"probe", (it.stranger, PORT))
            try:
                return source_seen_by(receiver)
            except TimeoutError:
                return None

        assert by_guest() == "198.51.100.1"
        place.host.run("ip", "route", "replace", "198.51.100.1", "via", it.stranger)
        assert by_guest(DROPPED_S) is None

    run_on(rig, space, work)


def reaches_us(
    place: Site,
    sender: Namespace,
    source: str,
    to: str,
    patience_s: float = COMES_S,
    *,
    vni: int = 1,
) -> bool:
    """Says whether a datagram from one of the sender's addresses gets to this host's port."""
    receiver = udp_socket(place.host, bound=to, port=PORT)
    receiver.settimeout(patience_s)
    with udp_socket(sender, bound=source) as opened:
        opened.sendto(struct.pack("!II", 0x0800_0000, vni << 8) + b"frame", (to, PORT))
    try:
        return source_seen_by(receiver) == source
    except TimeoutError:
        return False


def index_of(space: Namespace, device: str) -> int:
    return int(space.run("ip", "-oneline", "link", "show", device).split(":")[0])


def arrives_another_way(place: Site) -> None:
    """Lets the stranger's packets come by another device, by which no route of this host leads."""
    for space in (place.host, place.stranger):
        space.run("ip", "link", "add", "eth1", "link", "eth0", "type", "macvlan")
        space.run("ip", "link", "set", "eth1", "up")
    mac = place.host.run("ip", "-brief", "link", "show", "eth1").split()[2]
    for it in ADDRESSES.values():
        us = it.host_outside
        place.stranger.run("ip", "neigh", "add", us, "lladdr", mac, "dev", "eth1")
        place.stranger.run("ip", "route", "add", us, "dev", "eth1", "src", it.stranger)
    place.host.sysctl("net/ipv4/conf/eth1/rp_filter", 0)


@pytest.mark.parametrize("by", [None, "flannel.1"])
@pytest.mark.parametrize("tools", ["all", "iptables-nft only", "iptables-legacy only"])
def test_a_container_reaches_the_own_port_neither_as_a_peer_nor_as_itself(
    rig: Rig,
    space: Namespace,
    tools: Tools,
    by: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A guest that is a peer does, and so do peers outside, whatever way they come."""
    monkeypatch.setenv("PATH", path_with(tools, tmp_path / "bin"))

    async def work(place: Site, _: HostFirewall) -> None:
        for name in ("all", BRIDGE):
            place.host.sysctl(f"net/ipv4/conf/{name}/rp_filter", 0)
        guests = {4: "10.5.1.9", 6: "fd05:0:0:1::9"}
        for it in ADDRESSES.values():
            for address in (it.stranger, guests[it.version]):
                place.container.run("ip", "address", "add", address, "dev", "lo")
        wanted = guarded(
            *(it.stranger for it in ADDRESSES.values()),
            *guests.values(),
            by=by,
            interface=index_of(place.host, "eth0"),
        )

        def outcome(it: Addresses) -> list[bool]:
            us, box = it.host_outside, place.container
            return [
                reaches_us(place, box, it.stranger, us, DROPPED_S),
                reaches_us(place, box, it.container, us, DROPPED_S),
                reaches_us(place, box, guests[it.version], us),
                reaches_us(place, place.stranger, it.stranger, us),
            ]

        async with Netlink.opened() as netlink:
            firewall = HostFirewall("flannel0", "auto", netlink.links)
            await firewall.apply(wanted)
            assert await firewall.observe() == wanted
            for it in ADDRESSES.values():
                assert outcome(it) == [False, False, True, True]
                if by is not None and tools == "all":
                    # A tunnel of others between this host and its guest, on the kernel's port.
                    us = it.host_outside
                    assert reaches_us(place, place.container, it.container, us, vni=7)
            # Somebody begins to put the interface into a bridge; its address is still where it was.
            place.host.bridge("br2")
            place.host.sysctl("net/ipv4/conf/br2/rp_filter", 0)
            place.host.run("ip", "link", "set", "eth0", "master", "br2")
            assert await firewall.observe() is None
            await firewall.apply(wanted)
            assert await firewall.observe() == wanted
            assert outcome(ADDRESSES[4]) == [False, False, True, True]
            place.host.run("ip", "link", "set", "eth0", "nomaster")
            assert await firewall.observe() is None
            await firewall.apply(wanted)
            arrives_another_way(place)
            for it in ADDRESSES.values():
                assert outcome(it) == [False, False, True, True]
            # Networks of others come and go; where rules name their bridges, that is a change.
            place.host.bridge("br1", "172.30.0.1/24")
            assert (await firewall.observe() is None) == firewall.names_devices
            assert firewall.names_devices == (tools != "all")
            await firewall.apply(wanted)
            assert await firewall.observe() == wanted
            assert outcome(ADDRESSES[4]) == [False, False, True, True]
            await firewall.clear()
            assert outcome(ADDRESSES[4]) == [True] * 4

    run_on(rig, space, work)


def test_without_rpfilter_nothing_comes_by_the_bridges_of_containers(
    rig: Rig, space: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = path_with("iptables-legacy only", tmp_path / "bin")
    program = Path(folder.split(":")[0]) / "iptables-restore"
    program.unlink()
    program.write_text(
        "#!/bin/sh\ntext=$(cat); case $text in *rpfilter*) echo no such match >&2; exit 2;; esac\n"
        'echo "$text" | exec /usr/sbin/iptables-legacy-restore "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", folder)

    async def work(place: Site, _: HostFirewall) -> None:
        place.host.sysctl("net/ipv4/conf/all/rp_filter", 0)
        place.host.sysctl(f"net/ipv4/conf/{BRIDGE}/rp_filter", 0)
        place.container.run("ip", "address", "add", STRANGER, "dev", "lo")
        async with Netlink.opened() as netlink:
            firewall = HostFirewall("flannel0", "auto", netlink.links)
            interface = index_of(place.host, "eth0")
            wanted = replace(guarded(STRANGER, interface=interface), ipv6=None)
            await firewall.apply(wanted)
            assert await firewall.observe() == wanted
        assert not reaches_us(place, place.container, STRANGER, HOST_OUTSIDE, DROPPED_S)
        assert reaches_us(place, place.stranger, STRANGER, HOST_OUTSIDE)

    run_on(rig, space, work)


@pytest.mark.parametrize("tools", ["all", "iptables-legacy only"])
def test_what_the_kernels_devices_encapsulate_passes(
    rig: Rig, space: Namespace, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this host itself sends, and what it forwards."""
    monkeypatch.setenv("PATH", path_with(tools, tmp_path / "bin"))

    async def work(place: Site, firewall: HostFirewall) -> None:
        it = ADDRESSES[4]
        for at, remote, own in (
            (place.host, it.stranger, "10.9.1.1"),
            (place.stranger, it.host_outside, "10.9.1.2"),
        ):
            at.run(
                *("ip", "link", "add", "flannel.1", "type", "vxlan", "id", "1"),
                *("remote", remote, "dstport", str(PORT)),
            )
            at.run("ip", "address", "add", f"{own}/24", "dev", "flannel.1")
            at.run("ip", "link", "set", "flannel.1", "up")
        place.stranger.run("ip", "route", "add", "10.5.1.0/24", "via", "10.9.1.1")
        await firewall.apply(replace(guarded(it.stranger, by="flannel.1"), masquerade=False))
        for sender in (place.host, place.container):
            with udp_socket(sender) as opened:
                receiver = udp_socket(place.stranger, bound="10.9.1.2", port=99)
                opened.sendto(b"probe", ("10.9.1.2", 99))
                assert source_seen_by(receiver) in ("10.9.1.1", it.container)
        with udp_socket(place.host) as opened, pytest.raises(PermissionError):
            opened.sendto(b"probe", (it.stranger, PORT))

    run_on(rig, space, work)


def test_what_passes_through_meets_one_chain_of_ours(space: Namespace) -> None:
    """Each chain at a hook costs every packet of every container."""

    async def work() -> None:
        firewall = HostFirewall("flannel0", "nftables")
        await firewall.apply(guarded("192.0.2.7"))
        for family in ("ip", "ip6"):
            listed = space.run("nft", "list", "table", family, "tunneld-flannel0")
            assert listed.count("hook forward") == 1
            assert listed.count("jump guard_pass") == 1
        await firewall.clear()

    run_inside(space, work)


def test_peers_that_come_and_go_leave_all_else_of_the_table_alone(space: Namespace) -> None:
    many = [str(IPv4Address("10.128.0.0") + number * 7) for number in range(10_000)]

    def handles() -> list[str]:
        """Of the rules: a rule that is made anew has another."""
        listed = space.run("nft", "-a", "list", "table", "ip", "tunneld-flannel0")
        return re.findall(r"\S.* # handle \d+", re.sub(r"(?s)elements = \{.*?\}", "", listed))

    async def work() -> None:
        firewall = HostFirewall("flannel0", "nftables")
        await firewall.apply(guarded(*many))
        before = handles()
        assert before
        for peers in ((*many, "10.1.1.1"), (*many[1:], "10.1.1.2"), many):
            await firewall.apply(guarded(*peers))
            assert await firewall.observe() == guarded(*peers)
            assert handles() == before
        space.run("nft", "delete", "element", "ip", "tunneld-flannel0", "peers", f"{{{many[5]}}}")
        assert await firewall.observe() is None
        await firewall.apply(guarded(*many))
        assert await firewall.observe() == guarded(*many)

    run_inside(space, work)


@pytest.mark.parametrize("peers", [("192.0.2.2",), ("192.0.2.2", "192.0.2.3")])
@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_docker_that_starts_after_us_is_passed_whatever_becomes_of_the_peers(
    rig: Rig, space: Namespace, variant: Variant, peers: tuple[str, ...]
) -> None:
    async def work(place: Site, firewall: HostFirewall) -> None:
        await firewall.apply(guarded("192.0.2.2"))
        assert await firewall.observe() == guarded("192.0.2.2")
        restore(space, variant, HOSTS["docker-28"])
        assert await firewall.observe() is None
        await firewall.apply(guarded(*peers))
        assert await firewall.observe() == guarded(*peers)
        assert await arrives(place) == REMOTE

    run_on(rig, space, work)


def test_an_nft_that_knows_less_carries_out_the_guard_all_the_same(
    space: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "nft"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\nif [ "$1" = -f ]; then text=$(cat); case $text in *fib*|*oifkind*)\n'
        "echo 'Error: syntax error' >&2; exit 1;; esac; echo \"$text\" | /usr/sbin/nft -f -\n"
        'else exec /usr/sbin/nft "$@"; fi\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/sbin:/usr/bin:/sbin:/bin")
    wanted = in_families(replace(guarded("192.0.2.2", by="flannel.1"), ipv6=WANTED.ipv6))

    async def work() -> None:
        table = NftTable("flannel0")
        await table.apply(wanted)
        assert await table.observe() == wanted

    run_inside(space, work)
    listed = space.run("/usr/sbin/nft", "list", "table", "ip", "tunneld-flannel0")
    assert 'oifname "flannel.1" meta mark set meta mark | 0x00001000' in listed


def test_sockets_of_the_data_path_carry_the_mark(space: Namespace) -> None:
    async def work() -> None:
        (worker,) = open_underlay_sockets([IPv4Address("127.0.0.1")], PORT, 1, source_ports=2)
        for opened in worker.ipv4:
            mark = opened.getsockopt(socket.SOL_SOCKET, socket.SO_MARK)
            assert mark == 0x1000
        worker.close()

    run_inside(space, work)

"""Only the data path sends to the overlay's port of a peer, on every kind of host."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from tests.support.netns import Namespace, Rig
from tests.unit.host.conftest import run_inside
from tests.unit.host.firewall.hosts import HOSTS, Variant, restore, run_on, saved
from tests.unit.host.firewall.site import (
    ADDRESSES,
    COMES_S,
    DROPPED_S,
    REMOTE,
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
from tunneld.host.sockets import mark_as_ours, open_underlay_sockets

pytestmark = pytest.mark.root

PORT = 8285


def guarded(*peers: str, by: str | None = None) -> Firewall:
    """Rules of a host that knows these peers, and whose kernel's device `by` encapsulates."""
    guard = UnderlayGuard(
        port=PORT,
        peers=frozenset(map(ip_address, peers)),
        devices=frozenset({by} if by else ()),
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


def is_dropped_from(place: Site, sender: Namespace, to: str) -> bool:
    return arrives_from(place, sender, to, patience_s=DROPPED_S) is None


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
            assert arrives_from(place, place.container, it.stranger, port=8286) == it.host_outside
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

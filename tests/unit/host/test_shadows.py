"""Whatever takes packets for peers away is found, named, and gone when it is gone."""

from __future__ import annotations

import logging
from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest

from testbed.netns import Namespace
from tests.unit.host.conftest import run_inside
from tunneld.daemon.shadows import Shadows, require_store_outside
from tunneld.errors import InterfaceError
from tunneld.fib.state import Route
from tunneld.host.netlink import Netlink
from tunneld.lease.model import IPAddress, IPNetwork

pytestmark = pytest.mark.root

NETWORK = IPv4Network("172.16.0.0/12")
NETWORK_V6 = IPv6Network("fd00:5::/48")
OWN = IPv4Network("172.17.1.0/24")
PEERS: dict[IPNetwork, IPAddress | None] = {
    IPv4Network("172.17.5.0/24"): ip_address("192.0.2.5"),
    IPv4Network("172.20.6.0/24"): ip_address("192.0.2.6"),
    IPv6Network("fd00:5:0:7::/64"): ip_address("2001:db8::7"),
}


@pytest.fixture
def joined(space: Namespace) -> Namespace:
    """A host whose overlay has its routes, with its own bridge."""
    space.bridge("flannel0", "172.17.1.0/32")
    space.bridge("eth0", "192.0.2.1/24")
    space.bridge("br0", f"{OWN[1]}/24")
    for address in ("2001:db8::1/64", "fd00:5:0:1::1/64"):
        space.run("ip", "address", "add", address, "dev", "eth0", "nodad")
    space.run("ip", "route", "add", str(NETWORK), "dev", "flannel0", "proto", "116")
    space.run("ip", "route", "add", str(NETWORK_V6), "dev", "flannel0", "proto", "116")
    return space


async def routes() -> list[Route]:
    return [
        Route(destination=NETWORK, kind="overlay"),
        Route(destination=NETWORK_V6, kind="overlay"),
    ]


def shadows_of(netlink: Netlink) -> Shadows:
    return Shadows(
        netlink,
        networks=[NETWORK, NETWORK_V6],
        own=lambda: [OWN, IPv6Network("fd00:5:0:1::/64")],
        peers=lambda: PEERS,
        routes=routes,
        devices=["flannel0"],
    )


@pytest.mark.parametrize(
    ("command", "named", "hidden"),
    [
        ("ip address add 172.17.0.1/16 dev docker0", "172.17.0.0/16 dev docker0", "172.17.5.0/24"),
        ("ip route add 172.20.0.0/14 via 192.0.2.9", "172.20.0.0/14 dev eth0", "172.20.6.0/24"),
        ("ip route add 172.20.6.128/25 via 192.0.2.9", "172.20.6.128/25 dev eth0", ""),
        ("ip address add 172.20.6.77/32 dev docker0", "172.20.6.77/32 dev docker0", ""),
        ("ip route add blackhole 172.17.5.0/24", "no route", "172.17.5.0/24"),
        (
            "ip -6 route add fd00:5:0:4::/62 dev docker0",
            "fd00:5:0:4::/62 dev docker0",
            "fd00:5:0:7::/64",
        ),
        ("ip rule add to 172.17.5.0/24 table 77", "0.0.0.0/0 dev eth0", "172.17.5.0/24"),
        # The way to the peer itself leads into the overlay.
        ("ip route add 192.0.2.6/32 dev flannel0", "192.0.2.6/32 dev flannel0", "172.20.6.0/24"),
    ],
)
def test_what_takes_packets_for_a_peer_away_is_named(
    joined: Namespace, command: str, named: str, hidden: str, caplog: pytest.LogCaptureFixture
) -> None:
    joined.bridge("docker0")
    joined.run("ip", "route", "add", "default", "via", "192.0.2.9", "table", "77")

    async def work() -> None:
        async with Netlink.opened() as netlink:
            shadows = shadows_of(netlink)
            await shadows.look()
            assert shadows.problems() == []
            joined.run(*command.split())
            with caplog.at_level(logging.INFO, logger="tunneld"):
                await shadows.look()
                await shadows.look()
                (problem,) = shadows.problems()
                assert f"{named} takes packets for 1 peer away" in problem
                assert {str(peer) for peer in shadows.hidden} == ({hidden} if hidden else set())
                joined.run(*command.replace(" add ", " del ").split())
                await shadows.look()
            assert shadows.problems() == []
            assert not shadows.hidden
            assert [record.message for record in caplog.records] == [
                "packets for peers are taken away",
                "packets for peers are no longer taken away",
            ]

    run_inside(joined, work)


def test_what_leaves_the_peers_alone_is_not_named(joined: Namespace) -> None:
    """Wider routes, others' networks, and the containers of this host."""
    for command in (
        "ip route add 172.0.0.0/8 via 192.0.2.9",
        "ip route add 10.0.0.0/8 via 192.0.2.9",
        "ip route add 172.17.1.128/25 via 192.0.2.9",
        "ip route add 172.30.0.0/16 via 192.0.2.9",
        "ip route add default via 192.0.2.9",
    ):
        joined.run(*command.split())

    async def work() -> None:
        async with Netlink.opened() as netlink:
            shadows = shadows_of(netlink)
            await shadows.look()
            assert shadows.problems() == []

    run_inside(joined, work)


def test_store_that_the_overlay_would_cut_off_is_refused(joined: Namespace) -> None:
    joined.run("ip", "route", "add", "172.31.0.0/24", "via", "192.0.2.9")
    inside, beside, outside = (f"http://{host}:2379" for host in ("172.30.0.1", "172.31.0.1", "x"))

    async def work() -> None:
        async with Netlink.opened() as netlink:
            for urls in ([beside], [outside], [inside, beside], [inside, outside], []):
                await require_store_outside(netlink, [NETWORK], urls)
            with pytest.raises(InterfaceError, match=r"store's address 172\.30\.0\.1 lies in the"):
                await require_store_outside(netlink, [NETWORK], [inside])

    run_inside(joined, work)

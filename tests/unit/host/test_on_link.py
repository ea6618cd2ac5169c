from __future__ import annotations

from ipaddress import ip_address

import pytest

from testbed.netns import Namespace
from tests.unit.host.conftest import run_inside
from tunneld.host.netlink import Netlink
from tunneld.host.on_link import on_link
from tunneld.host.underlay import Selection, find_underlay

pytestmark = pytest.mark.root


@pytest.fixture
def host(space: Namespace) -> Namespace:
    """An underlay interface, a second one, and routes by gateways of both."""
    space.bridge("eth0", "192.0.2.1/24")
    space.bridge("eth1", "198.51.100.1/24")
    for command in (
        "ip address add 2001:db8::1/64 dev eth0 nodad",
        "ip address add 2001:db8:1::1/64 dev eth1 nodad",
        "ip route add default via 192.0.2.254",
        "ip route add default via 2001:db8::fe",
        "ip route add 203.0.113.0/24 dev eth0",
        "ip route add unreachable 203.0.113.128/25",
        "ip route add 192.0.2.128/25 via 192.0.2.254",
        "ip -6 route add 2001:db8:3::/64 dev eth0",
    ):
        space.run(*command.split())
    return space


def reached(space: Namespace, *addresses: str) -> set[str]:
    async def work() -> set[str]:
        async with Netlink.opened() as netlink:
            underlay = await find_underlay(Selection(interfaces=("eth0",)), netlink)
            found = await on_link(netlink, underlay, [ip_address(text) for text in addresses])
            return {str(address) for address in found}

    return run_inside(space, work)


def test_only_what_is_reached_without_a_gateway_by_the_underlay_is_on_link(
    host: Namespace,
) -> None:
    assert reached(
        host,
        *("192.0.2.2", "2001:db8::2"),  # on the interface's own network
        *("203.0.113.5", "2001:db8:3::5"),  # by a route without a gateway
        *("192.0.2.200", "10.9.9.9", "2001:db8:9::9"),  # by a gateway
        *("198.51.100.2", "2001:db8:1::2"),  # by another interface
        *("192.0.2.1", "2001:db8::1", "127.0.0.1"),  # this host
        "203.0.113.200",  # unreachable
    ) == {"192.0.2.2", "2001:db8::2", "203.0.113.5", "2001:db8:3::5"}


def test_answer_follows_the_routes(host: Namespace) -> None:
    host.run("ip", "route", "del", "default")
    assert reached(host, "10.9.9.9") == set()  # no route at all
    host.run("ip", "route", "add", "10.9.9.9", "dev", "eth0")
    assert reached(host, "10.9.9.9") == {"10.9.9.9"}
    host.run("ip", "route", "replace", "10.9.9.9", "via", "192.0.2.9")
    assert reached(host, "10.9.9.9") == set()
    host.run("ip", "route", "replace", "10.9.9.9", "via", "inet6", "2001:db8::9", "dev", "eth0")
    assert reached(host, "10.9.9.9") == set()

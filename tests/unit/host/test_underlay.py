from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

import pytest

from tests.support.netns import Namespace
from tests.unit.host.conftest import run_inside
from tunneld.errors import InterfaceError, UsageError
from tunneld.host.netlink import Netlink
from tunneld.host.underlay import Selection, Underlay, find_underlay

pytestmark = pytest.mark.root


@pytest.fixture
def host(space: Namespace) -> Namespace:
    """Three interfaces: `lan0` with two addresses, `wan0` with the default route, `bare0`."""
    space.bridge("lan0", "169.254.7.7/16", mtu_bytes=9000)
    space.run("ip", "address", "add", "10.1.0.1/24", "dev", "lan0")
    space.run("ip", "address", "add", "10.2.0.1/24", "dev", "lan0")
    space.bridge("wan0", "192.0.2.10/24")
    space.bridge("bare0")
    space.run("ip", "route", "add", "default", "via", "192.0.2.1", "dev", "wan0")
    return space


def find(space: Namespace, **selection: Any) -> Underlay:
    async def work() -> Underlay:
        async with Netlink.opened() as netlink:
            return await find_underlay(Selection(**selection), netlink)

    return run_inside(space, work)


def test_default_is_the_interface_of_the_default_route(host: Namespace) -> None:
    found = find(host)
    assert (found.name, str(found.address), found.mtu_bytes) == ("wan0", "192.0.2.10", 1500)
    assert found.public_ip == found.address
    assert host.run("cat", "/proc/net/dev_snmp6/wan0").split()[1] == str(found.index)


def test_default_route_with_the_lowest_metric_counts(host: Namespace) -> None:
    host.run("ip", "route", "add", "default", "via", "10.1.0.254", "dev", "lan0", "metric", "50")
    assert find(host).name == "wan0"
    host.run("ip", "route", "replace", "default", "via", "192.0.2.1", "dev", "wan0", "metric", "60")
    host.run("ip", "route", "del", "default", "metric", "0")
    assert find(host).name == "lan0"


def test_name_gives_the_first_address_that_is_not_link_local(host: Namespace) -> None:
    found = find(host, interfaces=("lan0",))
    assert (found.name, str(found.address), found.mtu_bytes) == ("lan0", "10.1.0.1", 9000)


def test_link_local_address_will_do_when_there_is_no_other(host: Namespace) -> None:
    host.run("ip", "address", "add", "169.254.8.8/16", "dev", "bare0")
    assert str(find(host, interfaces=("bare0",)).address) == "169.254.8.8"


def test_address_gives_its_interface_and_stays_the_one(host: Namespace) -> None:
    found = find(host, interfaces=("10.2.0.1",))
    assert (found.name, str(found.address)) == ("lan0", "10.2.0.1")


def test_first_interface_that_is_there_counts(host: Namespace) -> None:
    assert find(host, interfaces=("eth7", "10.9.9.9", "lan0", "wan0")).name == "lan0"


def test_interfaces_come_before_regexes_and_these_before_can_reach(host: Namespace) -> None:
    reach = IPv4Address("192.0.2.99")
    assert find(host, interfaces=("eth7",), regexes=("^lan",), can_reach=reach).name == "lan0"
    assert find(host, interfaces=("eth7",), regexes=("^eth",), can_reach=reach).name == "wan0"
    assert find(host, interfaces=("lan0",), regexes=("^wan",)).name == "lan0"


def test_regex_is_searched_in_addresses_before_names(host: Namespace) -> None:
    host.run("ip", "link", "add", "name", "x192", "type", "bridge")
    host.run("ip", "address", "add", "203.0.113.5/24", "dev", "x192")
    found = find(host, regexes=("192",))
    assert (found.name, str(found.address)) == ("wan0", "192.0.2.10")
    found = find(host, regexes=(r"^10\.2\.",))
    assert (found.name, str(found.address)) == ("lan0", "10.2.0.1")
    assert find(host, regexes=("^x",)).name == "x192"


def test_can_reach_takes_the_route_and_its_source_address(host: Namespace) -> None:
    found = find(host, can_reach=IPv4Address("10.2.0.77"))
    assert (found.name, str(found.address)) == ("lan0", "10.2.0.1")


def test_public_ip_is_published_in_place_of_the_address(host: Namespace) -> None:
    found = find(host, interfaces=("lan0",), public_ip=IPv4Address("198.51.100.1"))
    assert (str(found.address), str(found.public_ip)) == ("10.1.0.1", "198.51.100.1")


def test_public_ip_alone_finds_the_interface_that_holds_it(host: Namespace) -> None:
    found = find(host, public_ip=IPv4Address("10.2.0.1"))
    assert (found.name, str(found.address), str(found.public_ip)) == (
        ("lan0", "10.2.0.1", "10.2.0.1")
    )


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ({"interfaces": ("eth7",)}, "no interface is called 'eth7'"),
        ({"interfaces": ("10.9.9.9",)}, "no interface has the address 10.9.9.9"),
        ({"regexes": ("^eth",)}, "no address and no name matches '^eth'"),
        ({"can_reach": IPv4Address("198.51.100.1")}, "198.51.100.1 cannot be reached"),
        ({"public_ip": IPv4Address("198.51.100.1")}, "198.51.100.1 (the public IP)"),
        ({}, "there is no default route"),
    ],
)
def test_interface_that_is_not_found_is_told_with_what_there_is(
    host: Namespace, selection: dict[str, Any], said: str
) -> None:
    host.run("ip", "route", "del", "default")
    with pytest.raises(InterfaceError) as refused:
        find(host, **selection)
    message = str(refused.value)
    assert said in message
    assert "lan0 (10.1.0.1, 10.2.0.1, 169.254.7.7)" in message
    assert "wan0 (192.0.2.10)" in message
    assert "bare0 (no address)" in message
    assert "\n" not in message


@pytest.mark.parametrize("regex", ["10", "an0$"], ids=["by address", "by name"])
def test_regex_that_fits_several_interfaces_is_ambiguous(host: Namespace, regex: str) -> None:
    with pytest.raises(InterfaceError, match=r"ambiguous.*lan0 \(10.*wan0 \(192\.0\.2\.10\)"):
        find(host, regexes=(regex,), interfaces=("eth7",))


def test_regex_never_means_the_loopback_interface(host: Namespace) -> None:
    host.run("ip", "address", "add", "10.3.0.1/32", "dev", "lo")
    assert find(host, regexes=(r"^(127|10\.3|10\.2)\.", "^lo")).name == "lan0"
    assert str(find(host, interfaces=("10.3.0.1",)).address) == "10.3.0.1"


def test_address_on_two_interfaces_is_ambiguous(host: Namespace) -> None:
    host.run("ip", "address", "add", "10.1.0.1/32", "dev", "wan0")
    with pytest.raises(InterfaceError, match=r"ambiguous.*address 10\.1\.0\.1 fits lan0 .*wan0"):
        find(host, interfaces=("10.1.0.1",))
    assert find(host, interfaces=("lan0",)).name == "lan0"


def test_default_route_over_two_interfaces_is_ambiguous(host: Namespace) -> None:
    host.run(
        *("ip", "route", "replace", "default"),
        *("nexthop", "via", "192.0.2.1", "dev", "wan0"),
        *("nexthop", "via", "10.1.0.254", "dev", "lan0"),
    )
    with pytest.raises(InterfaceError, match=r"ambiguous.*default route fits lan0 .*wan0"):
        find(host)


def test_interface_without_an_address_is_refused(host: Namespace) -> None:
    with pytest.raises(InterfaceError, match="bare0 has no IPv4 address"):
        find(host, interfaces=("bare0",))
    with pytest.raises(InterfaceError, match="lo has no IPv4 address"):
        find(host, interfaces=("lo",))


def test_regex_that_does_not_compile_is_a_usage_error(host: Namespace) -> None:
    with pytest.raises(UsageError, match=r"--iface-regex '\(' does not compile"):
        find(host, regexes=("(",))

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from testbed.netns import Namespace
from tests.unit.host.conftest import run_inside
from tunneld.errors import InterfaceError, UsageError
from tunneld.host.interfaces import list_interfaces
from tunneld.host.netlink import Family, KernelRoute, Netlink, wire
from tunneld.host.underlay import Selection, Underlay, choose_underlay, find_underlay
from tunneld.lease.model import IPAddress

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


def find(
    space: Namespace, families: Collection[Family] = frozenset({4}), **selection: Any
) -> Underlay:
    async def work() -> Underlay:
        async with Netlink.opened() as netlink:
            return await find_underlay(Selection(**selection), netlink, families)

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


DUAL: frozenset[Family] = frozenset({4, 6})
ONLY_V6: frozenset[Family] = frozenset({6})


@pytest.fixture
def dual(host: Namespace) -> Namespace:
    """The same three interfaces with IPv6 on two of them, and its default route by `wan0`."""
    for address, device in (("2001:db8::10/64", "wan0"), ("2001:db8:1::1/64", "lan0")):
        host.run("ip", "address", "add", address, "dev", device, "nodad")
    host.run("ip", "route", "add", "default", "via", "2001:db8::1", "dev", "wan0")
    return host


def test_network_of_both_families_gets_both_addresses_of_one_interface(dual: Namespace) -> None:
    found = find(dual, DUAL)
    assert (found.name, str(found.address), str(found.address_v6)) == (
        ("wan0", "192.0.2.10", "2001:db8::10")
    )
    assert (found.public_ip, found.public_ipv6) == (found.address, found.address_v6)
    assert found.addresses == (found.address, found.address_v6)


def test_family_the_network_has_not_is_not_looked_at(dual: Namespace) -> None:
    found = find(dual)
    assert (found.address_v6, found.public_ipv6) == (None, None)
    found = find(dual, ONLY_V6)
    assert (found.address, found.public_ip) == (None, None)
    assert (found.name, str(found.address_v6)) == ("wan0", "2001:db8::10")
    assert found.addresses == (found.address_v6,)


def test_ipv6_address_gives_its_interface(dual: Namespace) -> None:
    dual.run("ip", "address", "add", "2001:db8:1::7/64", "dev", "lan0", "nodad")
    found = find(dual, DUAL, interfaces=("2001:db8:1::1",))
    assert (found.name, str(found.address), str(found.address_v6)) == (
        ("lan0", "10.1.0.1", "2001:db8:1::1")
    )
    assert find(dual, interfaces=("2001:db8:1::1",)).name == "lan0"


def test_way_to_an_ipv6_address_gives_the_interface(dual: Namespace) -> None:
    reach = IPv6Address("2001:db8:1::99")
    found = find(dual, DUAL, can_reach=reach)
    assert (found.name, str(found.address_v6)) == ("lan0", "2001:db8:1::1")


def test_regex_is_searched_in_addresses_of_the_families_of_the_network(dual: Namespace) -> None:
    assert find(dual, DUAL, regexes=("^2001:db8:1:",)).name == "lan0"
    with pytest.raises(InterfaceError, match="no address and no name matches"):
        find(dual, regexes=("^2001:db8:1:",))


def test_public_ipv6_is_published_and_finds_the_interface_of_an_ipv6_network(
    dual: Namespace,
) -> None:
    public = IPv6Address("2001:db8:ffff::1")
    found = find(dual, DUAL, public_ipv6=public)
    assert (found.name, found.public_ipv6) == ("wan0", public)
    found = find(dual, ONLY_V6, public_ipv6=IPv6Address("2001:db8:1::1"))
    assert found.name == "lan0"


def test_ipv6_address_that_is_added_moves_nothing(dual: Namespace) -> None:
    for address in ("2001:db8::5/64", "2001:db8::50/64"):
        dual.run("ip", "address", "add", address, "dev", "wan0", "nodad")
    assert str(find(dual, DUAL).address_v6) == "2001:db8::10"
    dual.run("ip", "address", "del", "2001:db8::10/64", "dev", "wan0")
    assert str(find(dual, DUAL).address_v6) == "2001:db8::5"


def test_lasting_address_goes_before_one_that_is_about_to_end(dual: Namespace) -> None:
    lifetime = ("preferred_lft", "0", "valid_lft", "3600")
    dual.run("ip", "address", "add", "2001:db8::5/64", "dev", "wan0", "nodad", *lifetime)
    assert str(find(dual, DUAL).address_v6) == "2001:db8::10"


def test_tentative_address_counts_as_what_it_is_about_to_be(dual: Namespace) -> None:
    # So many times, a second each, the kernel asks for others before an address counts.
    dual.sysctl("net/ipv6/conf/bare0/dad_transmits", 3600)
    dual.run("ip", "address", "add", "2001:db8:6::1/64", "dev", "bare0")
    dual.run("ip", "address", "add", "2001:db8:6::2/64", "dev", "bare0", "nodad")
    found = find(dual, ONLY_V6, interfaces=("bare0",))
    assert (str(found.address_v6), found.is_tentative) == ("2001:db8:6::1", True)
    assert not find(dual, ONLY_V6, interfaces=("2001:db8:6::2",)).is_tentative


def test_interface_without_a_global_ipv6_address_is_refused(dual: Namespace) -> None:
    dual.run("ip", "address", "del", "2001:db8::10/64", "dev", "wan0")
    with pytest.raises(InterfaceError, match="wan0 has no global IPv6 address"):
        find(dual, DUAL, interfaces=("wan0",))
    dual.bridge("x6")
    dual.run("ip", "address", "add", "2001:db8:6::1/64", "dev", "x6", "nodad")
    with pytest.raises(InterfaceError, match="x6 has no IPv4 address"):
        find(dual, DUAL, interfaces=("x6",))
    assert find(dual, ONLY_V6, interfaces=("x6",)).name == "x6"


def test_default_routes_that_part_are_ambiguous(dual: Namespace) -> None:
    dual.run("ip", "-6", "route", "replace", "default", "via", "2001:db8:1::fe", "dev", "lan0")
    with pytest.raises(InterfaceError, match=r"ambiguous.*families lead to wan0 .*, lan0 "):
        find(dual, DUAL)
    assert find(dual).name == "wan0"
    assert find(dual, ONLY_V6).name == "lan0"


def test_one_default_route_is_enough_for_both_families(dual: Namespace) -> None:
    dual.run("ip", "-6", "route", "del", "default")
    assert find(dual, DUAL).name == "wan0"
    with pytest.raises(InterfaceError, match="there is no default route"):
        find(dual, ONLY_V6)


def choose(
    space: Namespace, preferred: tuple[tuple[IPAddress, ...], ...], **selection: Any
) -> Underlay:
    async def work() -> Underlay:
        async with Netlink.opened() as netlink:
            interfaces = await list_interfaces(netlink, {4})
            return await choose_underlay(
                Selection(**selection), interfaces, netlink, {4}, preferred
            )

    return run_inside(space, work)


def test_an_alternative_name_is_a_name(host: Namespace) -> None:
    for name in ("enp1s0f0np0", "a-name-longer-than-fifteen-characters"):
        host.run("ip", "link", "property", "add", "dev", "wan0", "altname", name)
        assert find(host, interfaces=("eth7", name)).name == "wan0"


@pytest.mark.parametrize("selection", [{"interfaces": ("port0",)}, {"regexes": ("^port[01]$",)}])
def test_name_of_a_port_means_the_bridge_that_has_its_address(
    host: Namespace, selection: dict[str, Any]
) -> None:
    for name in ("port0", "port1"):
        host.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-far")
    host.run("ip", "link", "set", "port0", "master", "bare0")
    if "interfaces" in selection:
        # Without an address there either it is the port that lacks one.
        with pytest.raises(InterfaceError, match="interface port0 has no IPv4 address"):
            find(host, **selection)
    host.run("ip", "link", "set", "port1", "master", "wan0")
    host.run("ip", "link", "set", "port0", "master", "wan0")
    found = find(host, **selection)
    assert (found.name, str(found.address)) == ("wan0", "192.0.2.10")
    assert found.port in ("port0", "port1")
    # Its own address is what is meant, wherever else it is.
    host.run("ip", "address", "add", "10.3.0.1/24", "dev", "port0")
    host.run("ip", "link", "delete", "port1")
    assert (find(host, **selection).name, find(host, **selection).port) == ("port0", "")
    assert find(host, interfaces=("wan0",)).port == ""


SECOND = (IPv4Address("10.2.0.1"),)
GONE = (IPv4Address("10.9.9.9"),)


@pytest.mark.parametrize(
    ("selection", "taken"),
    [
        ({"interfaces": ("lan0",)}, "10.2.0.1"),
        ({"regexes": ("^lan",)}, "10.2.0.1"),
        ({"regexes": (r"^10\.",)}, "10.2.0.1"),
        ({"can_reach": IPv4Address("10.1.0.77")}, "10.2.0.1"),
        # What the operator says leaves no choice.
        ({"interfaces": ("10.1.0.1",)}, "10.1.0.1"),
        ({"regexes": (r"^10\.1\.",)}, "10.1.0.1"),
        ({"interfaces": ("wan0",)}, "192.0.2.10"),
        ({}, "192.0.2.10"),
    ],
)
def test_address_in_use_before_goes_first_where_there_is_a_choice(
    host: Namespace, selection: dict[str, Any], taken: str
) -> None:
    assert str(choose(host, (GONE, SECOND), **selection).address) == taken


def test_weaker_default_route_of_the_interface_in_use_goes_before_a_better_one(
    host: Namespace,
) -> None:
    host.run("ip", "route", "add", "default", "via", "10.1.0.254", "dev", "lan0", "metric", "50")
    assert choose(host, (SECOND,)).name == "lan0"
    assert choose(host, ()).name == "wan0"


def test_address_on_lo_has_the_mtu_of_the_narrowest_uplink(
    host: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.run("ip", "address", "add", "10.3.0.1/32", "dev", "lo")
    assert find(host, interfaces=("10.3.0.1",)).mtu_bytes == 1500
    hops = ("nexthop", "via", "192.0.2.1", "nexthop", "via", "10.1.0.254")
    host.run("ip", "route", "replace", "default", *hops)
    assert find(host, interfaces=("10.3.0.1",)).mtu_bytes == 1500
    host.run("ip", "route", "replace", "default", *hops[3:])
    assert find(host, interfaces=("10.3.0.1",)).mtu_bytes == 9000
    host.run("ip", "route", "replace", "default", *hops[4:], "mtu", "1280")
    assert find(host, interfaces=("10.3.0.1",)).mtu_bytes == 1280
    # Without a default route every other one counts, but for those into the overlay; of a table
    # of BGP, which may have a hundred thousand, one for each device is read.
    host.run("ip", "route", "del", "default")
    bgp = [f"route add 11.0.{n >> 8}.{n & 255}/32 dev lan0 proto bird" for n in range(3000)]
    host.run("ip", "-batch", "-", stdin="\n".join(bgp))
    read: list[bytes] = []
    whole = wire.route

    def counting(body: bytes) -> KernelRoute | None:
        read.append(body)
        return whole(body)

    monkeypatch.setattr(wire, "route", counting)
    host.run("ip", "link", "set", "wan0", "mtu", "1400")
    host.bridge("flannel0", mtu_bytes=1372)
    host.run("ip", "route", "add", "10.5.0.0/16", "dev", "flannel0", "proto", "116")
    assert find(host, interfaces=("10.3.0.1",)).mtu_bytes == 1400
    assert 0 < len(read) < 50
    assert find(host, interfaces=("lan0",)).mtu_bytes == 9000

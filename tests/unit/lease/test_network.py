"""The network config against what flannel v0.28.9 makes of the same texts."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.errors import NetworkConfigError
from tunneld.lease.model import NO_IPV4_SUBNET, SubnetKey
from tunneld.lease.network import NetworkConfig, parse, render


def config(**members: object) -> NetworkConfig:
    return parse(json.dumps(members))


@pytest.mark.parametrize(
    ("network", "subnet_len", "first", "last"),
    [
        ("10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0"),
        ("10.1.0.0/22", 24, "10.1.1.0", "10.1.3.0"),
        ("10.1.0.0/23", 25, "10.1.0.128", "10.1.1.128"),
        ("10.1.0.0/24", 26, "10.1.0.64", "10.1.0.192"),
        ("10.1.0.0/28", 30, "10.1.0.4", "10.1.0.12"),
    ],
)
def test_defaults_are_flannels(network: str, subnet_len: int, first: str, last: str) -> None:
    found = config(Network=network)
    assert (found.subnet_len, str(found.subnet_min), str(found.subnet_max)) == (
        subnet_len,
        first,
        last,
    )


def test_ipv6_defaults_are_flannels() -> None:
    found = config(Network="10.5.0.0/16", EnableIPv6=True, IPv6Network="fd00::/62")
    assert found.ipv6_network == IPv6Network("fd00::/62")
    assert found.ipv6_subnet_len == 64
    assert found.ipv6_subnet_min == IPv6Address("fd00:0:0:1::")
    assert found.ipv6_subnet_max == IPv6Address("fd00:0:0:3::")


@pytest.mark.parametrize(
    ("members", "wording"),
    [
        (
            {"Network": "10.1.0.0/29"},
            "network is too small. Minimum useful network prefix is /28",
        ),
        (
            {"Network": "10.1.0.0/16", "SubnetLen": 17},
            "network must be able to accommodate at least four subnets",
        ),
        ({"Network": "10.1.0.0/16", "SubnetLen": 31}, "SubnetLen must be less than /31"),
        (
            {"Network": "10.0.0.0/16", "SubnetMin": "10.0.0.5"},
            "SubnetMin is not on a SubnetLen boundary: 10.0.0.5",
        ),
        (
            {"Network": "10.0.0.0/16", "SubnetMax": "10.0.9.1"},
            "SubnetMax is not on a SubnetLen boundary: 10.0.9.1",
        ),
        (
            {"Network": "10.0.0.0/16", "SubnetMin": "10.1.0.0"},
            "SubnetMin is not in the range of the Network",
        ),
        (
            {"Network": "10.0.0.0/16", "SubnetMax": "10.1.0.0"},
            "SubnetMax is not in the range of the Network",
        ),
        ({}, "please define a correct Network"),
        ({"Network": "0.0.0.0/0"}, "please define a correct Network"),
        (
            {"Network": "10.0.0.0/16", "EnableIPv6": True},
            "please define a correct IPv6Network",
        ),
        ({"EnableIPv4": False}, "switches off both"),
        (
            {"Network": "10.0.0.0/16", "SubnetMin": "10.0.9.0", "SubnetMax": "10.0.8.0"},
            "SubnetMin 10.0.9.0 is above SubnetMax 10.0.8.0",
        ),
        (
            {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00::/125"},
            "Minimum useful network prefix is /124",
        ),
        (
            {
                "EnableIPv4": False,
                "EnableIPv6": True,
                "IPv6Network": "fd00::/48",
                "IPv6SubnetLen": 127,
            },
            "IPv6SubnetLen must be less than /127",
        ),
    ],
)
def test_invalid_config_is_refused_in_flannels_words(
    members: dict[str, object], wording: str
) -> None:
    with pytest.raises(NetworkConfigError) as caught:
        config(**members)
    assert wording in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"Network": "10.5.0.0/16"} x',
        "null",
        "[]",
        '"10.5.0.0/16"',
        '{"Network": null}',
        '{"Network": 5}',
        '{"Network": "10.5.0.0"}',
        '{"Network": "10.5.0.0/33"}',
        '{"Network": "10.5.0.0/255.255.0.0"}',
        '{"Network": "10.5.0/16"}',
        '{"Network": "fd00::/48"}',
        '{"Network": "10.5.0.0/16", "SubnetMin": null}',
        '{"Network": "10.5.0.0/16", "SubnetMin": 5}',
        '{"Network": "10.5.0.0/16", "SubnetMax": "10.5.300.0"}',
        '{"Network": "10.5.0.0/16", "SubnetLen": "24"}',
        '{"Network": "10.5.0.0/16", "SubnetLen": 24.0}',
        '{"Network": "10.5.0.0/16", "SubnetLen": -24}',
        '{"Network": "10.5.0.0/16", "SubnetLen": true}',
        '{"Network": "10.5.0.0/16", "EnableIPv4": "true"}',
        '{"Network": "10.5.0.0/16", "EnableNFTables": 1}',
        '{"Network": "10.5.0.0/16", "Backend": "udp"}',
        '{"Network": "10.5.0.0/16", "Backend": {"Type": 1}}',
        '{"Network": "10.5.0.0/16", "IPv6Network": null}',
    ],
)
def test_config_of_wrong_form_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(NetworkConfigError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_host_bits_of_the_network_are_masked_off() -> None:
    assert config(Network="10.1.2.3/16").network == IPv4Network("10.1.0.0/16")


def test_members_match_in_any_case() -> None:
    found = parse(
        '{"network": "10.5.0.0/16", "SUBNETLEN": 26, "enableIPv6": false,'
        ' "backend": {"type": "VXLAN", "vni": 7}}'
    )
    assert found.subnet_len == 26
    assert (found.backend_type, found.backend) == ("vxlan", {"vni": 7})


def test_null_leaves_a_switch_and_a_length_at_its_default() -> None:
    found = parse('{"Network": "10.5.0.0/16", "EnableIPv4": null, "SubnetLen": null}')
    assert found.enable_ipv4
    assert found.subnet_len == 24


@pytest.mark.parametrize(
    ("members", "backend_type"),
    [
        ({}, "udp"),
        ({"Backend": None}, ""),
        ({"Backend": {}}, ""),
        ({"Backend": {"Type": None}}, ""),
        ({"Backend": {"Type": "UDP"}}, "udp"),
        ({"Backend": {"Type": "host-gw"}}, "host-gw"),
    ],
)
def test_backend_is_udp_only_when_nothing_is_said(
    members: dict[str, object], backend_type: str
) -> None:
    assert config(Network="10.5.0.0/16", **members).backend_type == backend_type


def test_unknown_members_are_kept() -> None:
    assert config(Network="10.5.0.0/16", Comment={"a": 1}).extra == {"Comment": {"a": 1}}


def test_ipv6_only_network_has_no_ipv4_part() -> None:
    found = config(EnableIPv4=False, EnableIPv6=True, IPv6Network="fd00::/48")
    assert found.network == NO_IPV4_SUBNET
    assert found.ipv4 is None
    assert found.admits(SubnetKey(NO_IPV4_SUBNET, IPv6Network("fd00:0:0:1::/64")))


@pytest.mark.parametrize(
    ("subnet", "is_admitted"),
    [
        ("10.5.0.0/24", False),
        ("10.5.1.0/24", True),
        ("10.5.1.0/25", False),
        ("10.5.255.0/24", True),
        ("10.6.1.0/24", False),
    ],
)
def test_subnets_from_min_to_max_of_the_right_length_are_admitted(
    subnet: str, is_admitted: bool
) -> None:
    assert config(Network="10.5.0.0/16").admits(SubnetKey(IPv4Network(subnet))) is is_admitted


def test_dual_stack_lease_does_not_fit_a_network_without_ipv6() -> None:
    key = SubnetKey(IPv4Network("10.5.1.0/24"), IPv6Network("fd00:0:0:1::/64"))
    assert not config(Network="10.5.0.0/16").admits(key)
    dual = config(Network="10.5.0.0/16", EnableIPv6=True, IPv6Network="fd00::/48")
    assert dual.admits(key)
    assert not dual.admits(SubnetKey(key.ipv4))


@pytest.mark.parametrize(
    ("members", "counts"),
    [
        ({"Network": "10.5.0.0/16"}, [255]),
        ({"Network": "10.5.0.0/16", "SubnetMin": "10.5.8.0", "SubnetMax": "10.5.8.0"}, [1]),
        ({"Network": "10.5.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00::/48"}, [255, 65535]),
        ({"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00::/62"}, [3]),
    ],
)
def test_subnets_are_counted_from_min_to_max(members: dict[str, object], counts: list[int]) -> None:
    assert [pool.count for pool in config(**members).pools] == counts


@st.composite
def configs(draw: st.DrawFn) -> NetworkConfig:
    prefix_len = draw(st.integers(1, 28))
    base = draw(st.integers(1, 2**32 - 1)) >> (32 - prefix_len) << (32 - prefix_len)
    network = IPv4Network((base or 1 << 31, prefix_len))
    members: dict[str, object] = {"Network": str(network)}
    subnet_len = draw(st.integers(prefix_len + 2, 30))
    members["SubnetLen"] = subnet_len
    count = 2 ** (subnet_len - prefix_len)
    low, high = sorted(draw(st.tuples(*[st.integers(0, count - 1)] * 2)))
    size = 2 ** (32 - subnet_len)
    if draw(st.booleans()):
        members["SubnetMin"] = str(IPv4Address(int(network.network_address) + low * size))
        members["SubnetMax"] = str(IPv4Address(int(network.network_address) + high * size))
    if draw(st.booleans()):
        members["Backend"] = {"Type": draw(st.sampled_from(["udp", "vxlan", ""])), "Port": 8285}
    if draw(st.booleans()):
        members |= {"EnableIPv6": True, "IPv6Network": "fd00::/48", "Note": [1, None]}
    members["EnableNFTables"] = draw(st.booleans())
    return config(**members)


@given(configs())
def test_rendered_config_means_the_same(found: NetworkConfig) -> None:
    assert parse(render(found)) == found


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_text_is_a_config_or_one_clear_line(text: str) -> None:
    try:
        line = render(parse(text)).partition("\n")[0]
    except NetworkConfigError as error:
        line = str(error)
    assert line
    assert "\n" not in line

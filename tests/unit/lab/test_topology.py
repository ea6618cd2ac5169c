from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.backend.encryption import encryption_of
from tunneld.errors import NotBuiltError, TunneldError, UsageError
from tunneld.lab.drawing import HostView, draw
from tunneld.lab.topology import MAX_HOSTS, UNDERLAY, Topology, parse_topology
from tunneld.lease.network import parse

WORKING = {
    "name": "lab",
    "hosts": "2",
    "store": "sqlite",
    "backend": "udp",
    "encryption": "off",
    "ipv6": "0",
}


@given(size=st.integers(1, MAX_HOSTS))
def test_names_and_addresses_are_unique_and_on_the_underlay(size: int) -> None:
    topology = Topology(size=size)
    hosts = topology.hosts
    addresses = {host.address for host in hosts} | {topology.switch_address.ip}
    names = {host.namespace for host in hosts} | {host.container_namespace for host in hosts}
    assert len(addresses) == size + 1
    assert len(names) == 2 * size
    assert all(address in UNDERLAY for address in addresses)
    assert all(name.startswith("tnl-lab-") for name in names | {topology.switch})


@given(
    name=st.from_regex(r"[a-z0-9]{1,16}", fullmatch=True),
    size=st.integers(1, MAX_HOSTS),
    store=st.sampled_from(["sqlite", "etcd"]),
    ipv6=st.sampled_from(["0", "1", "only"]),
)
def test_a_topology_is_read_back_as_it_was_written(
    name: str, size: int, store: str, ipv6: str
) -> None:
    options = {"name": name, "hosts": str(size), "store": store, "ipv6": ipv6}
    topology = parse_topology(**WORKING | options | {"backend": "vxlan", "datapath": "kernel"})
    assert (topology.size, topology.ipv6, topology.datapath) == (size, ipv6, "kernel")
    assert Topology.from_json(topology.to_json()) == topology


def test_control_sockets_fit_into_a_unix_address() -> None:
    topology = Topology(name="a" * 16, size=MAX_HOSTS)
    assert all(len(str(host.control_socket)) < 108 for host in topology.hosts)


def test_the_network_config_names_the_backend() -> None:
    config = json.loads(Topology(backend="udp").network_config)
    assert config == {"Network": "10.5.0.0/16", "Backend": {"Type": "udp"}}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("backend", "ipip"),
        ("backend", "wireguard"),
    ],
)
def test_a_value_that_is_not_built_yet_ends_with_2_and_says_so(option: str, value: str) -> None:
    with pytest.raises(NotBuiltError, match=f"{option} '{value}' is not built yet") as caught:
        parse_topology(**WORKING | {option: value})
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("hosts", "0"),
        ("hosts", "65"),
        ("hosts", "two"),
        ("hosts", "²"),
        ("hosts", ""),
        ("hosts", "-1"),
        ("store", "consul"),
        ("backend", "gre"),
        ("encryption", "maybe"),
        ("cipher", "aes-192-gcm"),
        ("ipv6", "yes"),
        ("datapath", "ebpf"),
        ("datapath", "kernel"),  # there is none for udp
        ("name", ""),
        ("name", "a b"),
        ("name", "../x"),
        ("name", "a" * 17),
    ],
)
def test_a_value_that_means_nothing_is_named_with_what_was_expected(
    option: str, value: str
) -> None:
    with pytest.raises(UsageError, match="expected") as caught:
        parse_topology(**WORKING | {option: value})
    assert not isinstance(caught.value, NotBuiltError)
    assert repr(value) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_network_config_asks_for_encryption_and_each_cipher() -> None:
    for cipher in ("auto", "aes-256-gcm", "aes-128-gcm", "chacha20-poly1305"):
        topology = parse_topology(**WORKING | {"encryption": "preferred", "cipher": cipher})
        assert topology.is_encrypted
        asked = encryption_of(parse(topology.network_config))
        assert (asked.mode, asked.cipher) == ("preferred", cipher)
    assert not Topology().is_encrypted


@pytest.mark.parametrize(
    "options", [{"backend": "host-gw"}, {"backend": "vxlan", "datapath": "kernel"}]
)
def test_what_sends_in_plain_is_refused_with_encryption(options: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="sends in plain; expected backend udp or vxlan"):
        parse_topology(**WORKING | options | {"encryption": "required"})


@pytest.mark.parametrize(
    ("ipv6", "expected"),
    [
        ("1", {"Network": "10.5.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00:10:5::/48"}),
        ("only", {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00:10:5::/48"}),
    ],
)
def test_the_network_config_has_the_families(ipv6: Any, expected: dict[str, Any]) -> None:
    config = json.loads(Topology(backend="vxlan", ipv6=ipv6).network_config)
    assert config == expected | {"Backend": {"Type": "vxlan"}}
    assert parse(json.dumps(config)).backend_type == "vxlan"


def test_places_are_found_by_their_label_and_others_are_refused() -> None:
    topology = Topology(name="x", size=2)
    assert topology.namespace_of("sw") == "tnl-x-sw"
    assert topology.namespace_of("h2-c") == "tnl-x-h2-c"
    with pytest.raises(TunneldError, match="h1, h1-c, h2, h2-c"):
        topology.namespace_of("h3")


def test_the_drawing_shows_every_host_with_its_lease() -> None:
    topology = Topology(size=4, store="etcd")
    views = [
        HostView(
            label=host.label,
            underlays=(host.address,),
            devices=("flannel0",),
            bridges=(IPv4Interface(f"10.5.{host.number}.1/24"),),
            mtu_bytes=1472,
        )
        for host in topology.hosts
    ]
    drawing = draw(topology, views)
    for view in views:
        assert str(view.underlays[0]) in drawing
        assert str(view.bridge) in drawing
        assert f"{view.label}-c {view.container}" in drawing
    assert views[0].container == IPv4Address("10.5.1.2")
    boxes = [line for line in drawing.splitlines() if line.startswith(("│", "┌", "└"))]
    assert {len(line) % 28 for line in boxes} == {len(boxes[0]) % 28}


def test_the_drawing_makes_room_for_ipv6_and_long_names() -> None:
    topology = Topology(size=3, backend="vxlan", ipv6="1")
    views = [
        HostView(
            label=host.label,
            underlays=(host.address, host.address_v6),
            devices=("flannel.4096", "flannel-v6.4096"),
            bridges=(
                IPv4Interface("10.5.200.1/24"),
                IPv6Interface("fd00:1010:5555:200::1/64"),
            ),
            mtu_bytes=1430,
        )
        for host in topology.hosts
    ]
    drawing = draw(topology, views)
    assert drawing.count("flannel.4096    10.5.200.0/32") == 3
    assert drawing.count("flannel-v6.4096 fd00:1010:5555:200::/128 ") == 3
    assert drawing.count("h2-c fd00:1010:5555:200::2 ") == 1
    rows = [line for line in drawing.splitlines() if line.startswith(("│", "┌", "└"))]
    assert max(map(len, rows)) <= 100
    assert all(row.count("│") % 2 == 0 for row in rows)

"""The udp backend against flannel's facts: options, MTU, and who is reached."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from tests.unit.backend.values import HERE, OWN, Family, backend, dual_peer, network, peer
from tunneld.backend import parse_backend
from tunneld.backend.base import Adjacency, Reach, Unusable
from tunneld.errors import InterfaceError, NetworkConfigError
from tunneld.lease.network import parse


def test_network_without_a_backend_is_udp_on_port_8285() -> None:
    found = parse_backend(parse('{"Network": "10.5.0.0/16"}'))
    assert (found.type, found.port, found.source_check) == ("udp", 8285, "strict")
    assert (found.datapath, found.device_template) == ("userspace", "flannel%d")


def test_one_socket_sends_all_as_flannels_does() -> None:
    assert backend("udp").source_ports == 0


@pytest.mark.parametrize("families", ["ipv4", "dual"])
def test_mtu_option_is_the_outer_one(families: Family) -> None:
    overhead = 28 if families == "ipv4" else 48
    assert backend("udp", families, MTU=1400).device_mtu_bytes(9000) == 1400 - overhead
    assert backend("udp", families, MTU=0) == backend("udp", families)
    least = (68 if families == "ipv4" else 1280) + overhead
    backend("udp", families, MTU=least)
    with pytest.raises(NetworkConfigError, match=rf"^Backend\.MTU .* expected at least {least}"):
        backend("udp", families, MTU=least - 1)
    with pytest.raises(NetworkConfigError, match=r"^Backend\.MTU .* from 0 to 65535"):
        backend("udp", families, MTU=65_536)


@pytest.mark.parametrize(
    # RFC 768 and 791: a datagram of UDP holds 65,507 bytes; a bridge's MTU is at most 65,535.
    ("type_", "mtu_bytes"),
    [("udp", 65_507), ("vxlan", 65_485), ("host-gw", 65_535), ("alloc", 65_535)],
)
def test_link_larger_than_any_packet_leaves_what_a_packet_holds(type_: str, mtu_bytes: int) -> None:
    for underlay in (65_535, 65_536, 1_000_000):
        assert backend(type_).device_mtu_bytes(underlay) == mtu_bytes


def test_options_match_in_any_case() -> None:
    found = backend("udp", port=4789, sourcecheck="Loose")
    assert (found.port, found.source_check) == (4789, "loose")


def test_null_options_are_the_defaults() -> None:
    assert backend("udp", Port=None, SourceCheck=None) == backend("udp")


def test_options_of_other_backends_do_not_count() -> None:
    assert backend("udp", VNI=7, DirectRouting=True) == backend("udp")


@pytest.mark.parametrize("port", [0, -1, 65_536, "8285", 8285.0, True, [], {}])
def test_port_out_of_range_or_of_wrong_type_is_refused(port: object) -> None:
    with pytest.raises(NetworkConfigError, match=r"^Backend\.Port .* from 1 to 65535"):
        backend("udp", Port=port)


@pytest.mark.parametrize("check", ["", "none", 1, True, []])
def test_unknown_source_check_is_refused(check: object) -> None:
    with pytest.raises(NetworkConfigError, match="one of strict, loose, off"):
        backend("udp", SourceCheck=check)


def test_kernel_data_path_is_refused_with_the_reason() -> None:
    with pytest.raises(NetworkConfigError, match="no device of the kernel puts bare packets"):
        parse_backend(network("udp"), "kernel")


def test_1500_bytes_of_underlay_leave_flannels_1472() -> None:
    assert backend("udp").device_mtu_bytes(1500) == 1472


@pytest.mark.parametrize("families", ["ipv6", "dual"])
def test_outer_ipv6_header_takes_20_bytes_more(families: Family) -> None:
    found = backend("udp", families)
    assert found.device_mtu_bytes(1500) == 1452
    assert (found.overhead_bytes(4), found.overhead_bytes(6)) == (28, 48)


def test_underlay_too_small_for_ipv4_is_refused() -> None:
    assert backend("udp").device_mtu_bytes(96) == 68
    with pytest.raises(InterfaceError, match="at least 96"):
        backend("udp").device_mtu_bytes(95)


def test_underlay_too_small_for_ipv6_is_refused() -> None:
    assert backend("udp", "dual").device_mtu_bytes(1328) == 1280
    with pytest.raises(InterfaceError, match="at least 1328, for the overlay needs 1280"):
        backend("udp", "dual").device_mtu_bytes(1327)


@pytest.mark.parametrize("backend_type", ["", "udp", "vxlan"])
def test_peer_is_reached_whatever_backend_its_lease_names(backend_type: str) -> None:
    found = backend("udp", Port=9000)
    assert found.reach(peer(backend_type=backend_type), 4, HERE, on_link=()) == Reach(
        adjacency=Adjacency(
            encapsulation="raw", endpoint=IPv4Address("10.99.0.12"), port=9000, mtu_bytes=1472
        )
    )


def test_peer_of_both_families_is_reached_over_both() -> None:
    found = backend("udp", "dual")
    ends = [found.reach(dual_peer(), family, HERE, on_link=()) for family in found.families]
    assert [end.adjacency.endpoint for end in ends if end and end.adjacency] == [
        IPv4Address("10.99.0.12"),
        IPv6Address("fd99::12"),
    ]


def test_peer_without_an_address_in_a_family_is_unusable_there() -> None:
    with pytest.raises(Unusable, match="no PublicIP,") as caught:
        backend("udp").reach(peer(public_ip="0.0.0.0"), 4, HERE, on_link=())
    assert caught.value.reason == "no_underlay_address"
    with pytest.raises(Unusable, match="no PublicIPv6,") as caught:
        backend("udp", "dual").reach(peer(subnet_v6="fd00:10:5:2::/64"), 6, HERE, on_link=())
    assert caught.value.reason == "no_underlay_address"


def test_nothing_is_asked_of_the_kernel() -> None:
    found = backend("udp", "dual")
    assert (found.vtep(HERE), found.devices(HERE, OWN)) == (None, ())

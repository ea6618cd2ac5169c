"""The udp backend against flannel's facts: options, MTU, lease attributes."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from tunneld.backend import FLANNEL_TYPES, parse_backend
from tunneld.backend.base import Adjacency, Backend, Unusable
from tunneld.errors import InterfaceError, NetworkConfigError
from tunneld.lease.model import LeaseAttributes, SubnetKey
from tunneld.lease.network import parse
from tunneld.peer import Peer

HERE = IPv4Address("192.0.2.11")


def backend(**options: object) -> Backend:
    return parse_backend(
        parse(json.dumps({"Network": "10.5.0.0/16", "Backend": {"Type": "udp", **options}}))
    )


def peer(
    key: SubnetKey | None = None, public_ip: str = "192.0.2.12", backend_type: str = ""
) -> Peer:
    return Peer(
        key=key or SubnetKey(IPv4Network("10.5.2.0/24")),
        public_ip=IPv4Address(public_ip),
        public_ipv6=None,
        backend_type=backend_type,
        backend_data=None,
        backend_v6_data=None,
        node_id=None,
        version=None,
    )


def test_network_without_a_backend_is_udp_on_port_8285() -> None:
    found = parse_backend(parse('{"Network": "10.5.0.0/16"}'))
    assert (found.type, found.port, found.source_check) == ("udp", 8285, "strict")
    assert (found.datapath, found.encapsulation) == ("userspace", "raw")
    assert found.device_template == "flannel%d"


def test_options_match_in_any_case() -> None:
    found = backend(port=4789, sourcecheck="Loose")
    assert (found.port, found.source_check) == (4789, "loose")


def test_null_options_are_the_defaults() -> None:
    assert backend(Port=None, SourceCheck=None) == backend()


def test_options_of_other_backends_do_not_count() -> None:
    assert backend(VNI=7, DirectRouting=True) == backend()


@pytest.mark.parametrize("port", [0, -1, 65_536, "8285", 8285.0, True, [], {}])
def test_port_out_of_range_or_of_wrong_type_is_refused(port: object) -> None:
    with pytest.raises(NetworkConfigError, match=r"^Backend\.Port .* from 1 to 65535"):
        backend(Port=port)


@pytest.mark.parametrize("check", ["", "none", 1, True, []])
def test_unknown_source_check_is_refused(check: object) -> None:
    with pytest.raises(NetworkConfigError, match="one of strict, loose, off"):
        backend(SourceCheck=check)


def test_1500_bytes_of_underlay_leave_flannels_1472() -> None:
    assert backend().device_mtu_bytes(1500) == 1472


def test_underlay_too_small_for_ipv4_is_refused() -> None:
    assert backend().device_mtu_bytes(96) == 68
    with pytest.raises(InterfaceError, match="at least 96"):
        backend().device_mtu_bytes(95)


def test_lease_says_addresses_only() -> None:
    assert backend().attributes(HERE, None) == LeaseAttributes(public_ip=HERE)


@pytest.mark.parametrize("backend_type", ["", "udp", "vxlan"])
def test_peer_is_reached_whatever_backend_its_lease_names(backend_type: str) -> None:
    assert backend(Port=9000).adjacency(peer(backend_type=backend_type), mtu_bytes=1400) == (
        Adjacency(
            encapsulation="raw", endpoint=IPv4Address("192.0.2.12"), port=9000, mtu_bytes=1400
        )
    )


@pytest.mark.parametrize(
    "unreachable",
    [
        peer(SubnetKey(IPv4Network("0.0.0.0/0"), IPv6Network("fd00::/64"))),
        peer(public_ip="0.0.0.0"),
    ],
)
def test_peer_without_ipv4_is_unusable(unreachable: Peer) -> None:
    with pytest.raises(Unusable) as caught:
        backend().adjacency(unreachable, mtu_bytes=1472)
    assert caught.value.reason == "backend_no_ipv4"


@pytest.mark.parametrize("backend_type", sorted(set(FLANNEL_TYPES) - {"udp"}))
def test_flannels_other_backends_are_refused_by_name(backend_type: str) -> None:
    config = parse(json.dumps({"Network": "10.5.0.0/16", "Backend": {"Type": backend_type}}))
    with pytest.raises(NetworkConfigError, match=f"'{backend_type}' is not built yet"):
        parse_backend(config)


@pytest.mark.parametrize("members", [{"Type": "udpx"}, {}, None])
def test_unknown_backend_is_refused(members: object) -> None:
    with pytest.raises(NetworkConfigError, match=r"unknown backend type .*expected one of: udp"):
        parse_backend(parse(json.dumps({"Network": "10.5.0.0/16", "Backend": members})))

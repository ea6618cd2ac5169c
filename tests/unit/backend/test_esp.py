"""How peers with keys are reached, and what there is room for. Sums are RFC 4303's, by hand."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest

from tests.unit.backend.values import HERE, Family, backend, dual_peer, network, peer
from tests.unit.trust.values import BOB
from tunneld.backend.base import Adjacency, Here, Unusable
from tunneld.backend.esp import Esp, esp_in, inner_bytes
from tunneld.errors import InterfaceError, NetworkConfigError

A, A_V6 = IPv4Network("10.5.2.0/24"), IPv6Network("fd00:10:5:2::/64")


def sealed(
    families: Family = "dual", *, is_alone: bool = False, backend_type: str = "udp", **options: int
) -> Esp:
    return esp_in(network(backend_type, families, **options), is_alone=is_alone)


@pytest.mark.parametrize(
    ("outer_bytes", "outer", "expected"),
    [
        # 1500 = 20 + 8 + 8 (SPI, number) + 8 (IV) + 1438 + 2 + 16; of IPv6 20 less.
        (1500, 4, 1438),
        (1500, 6, 1418),
        # Up to three bytes of padding find no room.
        (1501, 4, 1438),
        (1503, 4, 1438),
        (1504, 4, 1442),
        (9000, 4, 8938),
    ],
)
def test_inner_packets_are_what_headers_padding_and_icv_leave(
    outer_bytes: int, outer: int, expected: int
) -> None:
    assert inner_bytes(outer_bytes, 4 if outer == 4 else 6) == expected


@pytest.mark.parametrize(
    ("backend_type", "families", "is_alone", "flannel", "device"),
    [
        ("udp", "ipv4", True, 1438, 1438),
        ("udp", "ipv4", False, 1438, 1472),
        ("udp", "ipv6", True, 1418, 1418),
        ("udp", "ipv6", False, 1418, 1452),
        # Both families travel encrypted over IPv4, and plain each over its own.
        ("udp", "dual", False, 1438, 1452),
        ("vxlan", "ipv4", False, 1438, 1450),
        ("vxlan", "dual", False, 1430, 1438),
        ("vxlan", "dual", True, 1438, 1438),
    ],
)
def test_containers_go_by_the_least_and_the_device_takes_the_most(
    backend_type: str, families: Family, *, is_alone: bool, flannel: int, device: int
) -> None:
    plain = backend(backend_type, families)
    found = sealed(families, is_alone=is_alone, backend_type=backend_type)
    assert found.flannel_mtu_bytes(plain, 1500) == flannel
    assert found.device_mtu_bytes(plain, 1500) == device


def test_mtu_of_the_network_config_is_that_of_the_datagrams() -> None:
    plain = backend("udp", "ipv4", MTU=1400)
    assert sealed("ipv4", is_alone=True, MTU=1400).device_mtu_bytes(plain, 1500) == 1338
    with pytest.raises(NetworkConfigError, match=r"Backend\.MTU 100 leaves 35 bytes"):
        sealed("ipv4", MTU=100)
    with pytest.raises(InterfaceError, match="underlay MTU 1300 leaves 1218 bytes for an encryp"):
        sealed("ipv6").device_mtu_bytes(plain, 1300)


def test_both_families_of_a_peer_are_reached_over_one_endpoint() -> None:
    for prefix in (A, A_V6):
        reach = sealed().reach(dual_peer(), prefix, BOB, 8299, HERE)
        assert reach.adjacency == Adjacency(
            encapsulation="esp",
            endpoint=ip_address("10.99.0.12"),
            port=8299,
            mtu_bytes=1438,
            of_peer={"key": BOB, "subnet": str(prefix)},
        )
        assert (reach.gateway, reach.kernel) == (None, None)


@pytest.mark.parametrize(
    ("here", "public_ip", "expected"),
    [
        (replace(HERE, address=None), "10.99.0.12", ("fd99::12", 1418)),
        (HERE, "0.0.0.0", ("fd99::12", 1418)),
        (replace(HERE, address=None, address_v6=None), "10.99.0.12", None),
    ],
)
def test_ipv6_is_the_way_only_where_ipv4_is_not_at_both_ends(
    here: Here, public_ip: str, expected: tuple[str, int] | None
) -> None:
    one = peer(public_ip=public_ip, public_ipv6="fd99::12")
    if expected is None:
        with pytest.raises(Unusable, match="has no PublicIP or PublicIPv6 of a family"):
            sealed().reach(one, A, BOB, 8286, here)
        return
    adjacency = sealed().reach(one, A, BOB, 8286, here).adjacency
    assert adjacency is not None
    assert (str(adjacency.endpoint), adjacency.mtu_bytes) == expected

"""Leases that publish one VTEP address."""

from __future__ import annotations

from ipaddress import IPv4Network

from tests.unit.fib.values import PEER, PEER_V6, Reaches, gateway, kernel, peer_mac, raw, vxlan
from tunneld.fib.shared_macs import shared_macs

OTHER = IPv4Network("10.5.3.0/24")
THIRD = IPv4Network("10.5.4.0/24")


def test_later_prefixes_are_named_with_the_first_one_in_the_order_they_come() -> None:
    mac = peer_mac(1)
    found: Reaches = {
        THIRD: vxlan(mac=mac),
        PEER: vxlan(mac=peer_mac(2)),
        OTHER: vxlan("192.0.2.3", mac),
    }
    assert list(shared_macs(found)) == [(THIRD, OTHER, mac)]
    assert list(shared_macs(found | {PEER: vxlan(mac=mac)})) == [
        (THIRD, PEER, mac),
        (THIRD, OTHER, mac),
    ]


def test_kernel_paths_count_too() -> None:
    mac = peer_mac(1)
    found: Reaches = {PEER: kernel(PEER, mac=mac), OTHER: kernel(OTHER, "192.0.2.3", mac)}
    assert list(shared_macs(found)) == [(PEER, OTHER, mac)]


def test_families_do_not_meet() -> None:
    mac = peer_mac(1)
    assert not list(shared_macs({PEER: vxlan(mac=mac), PEER_V6: vxlan("2001:db8::2", mac)}))


def test_what_has_no_address_shares_none() -> None:
    assert not list(shared_macs({PEER: raw(), OTHER: raw(), THIRD: gateway("192.0.2.4")}))

"""Datagrams that must not get through: each is dropped under its own reason, others go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from tests.e2e.site import Site
from tunneld.lease.model import IPAddress

pytestmark = pytest.mark.root


def packet(source: IPAddress | str, target: IPAddress | str, **header: Any) -> bytes:
    return bytes(IP(src=str(source), dst=str(target), **header) / ICMP() / Raw(b"hostile"))


def from_peer_to_us(site: Site) -> bytes:
    """A packet without any fault: from the second host's container to the first's."""
    return packet(site.views[1].container, site.views[0].container)


def with_longer_total(site: Site) -> bytes:
    return packet(site.views[1].container, site.views[0].container, len=200)


def with_shorter_total(site: Site) -> bytes:
    return packet(site.views[1].container, site.views[0].container, len=24)


def with_wrong_checksum(site: Site) -> bytes:
    good = from_peer_to_us(site)
    return good[:10] + bytes((good[10] ^ 0xFF,)) + good[11:]


Make = Callable[[Site], bytes]

FROM_A_PEER: dict[str, tuple[Make, str]] = {
    "empty": (lambda site: b"", "empty"),
    "one byte": (lambda site: from_peer_to_us(site)[:1], "truncated"),
    "19 bytes": (lambda site: from_peer_to_us(site)[:19], "truncated"),
    "ipv6": (lambda site: bytes(IPv6(src="fd00::1", dst="fd00::2") / UDP()), "ipv6_disabled"),
    "no ip at all": (lambda site: b"\xf0" * 60, "bad_version"),
    "header of 16 bytes": (
        lambda site: packet(site.views[1].container, site.views[0].container, ihl=4),
        "bad_header_length",
    ),
    "inner length too long": (with_longer_total, "inner_length_too_long"),
    "inner length too short": (with_shorter_total, "inner_length_too_short"),
    "inner checksum": (with_wrong_checksum, "bad_header_checksum"),
    "source outside the network": (
        lambda site: packet("203.0.113.9", site.views[0].container),
        "source_not_leased",
    ),
    "source of ours": (
        lambda site: packet(site.views[0].bridge.network[9], site.views[0].container),
        "source_is_local",
    ),
    "source of the third host": (
        lambda site: packet(site.views[2].container, site.views[0].container),
        "source_of_other_peer",
    ),
    "destination outside the network": (
        lambda site: packet(site.views[1].container, "203.0.113.9"),
        "wrong_destination",
    ),
    "destination of the third host": (
        lambda site: packet(site.views[1].container, site.views[2].container),
        "wrong_destination",
    ),
    "65,507 bytes": (
        lambda site: from_peer_to_us(site) + bytes(65_507 - len(from_peer_to_us(site))),
        "inner_length_too_short",
    ),
}


def test_bad_datagrams_from_a_peer_are_dropped_under_their_reasons(site: Site) -> None:
    """One of each; which reason is whose is the claim of tests/native/test_inbound.py."""
    victim, peer = site.hosts[:2]
    before = site.drops(victim)
    site.send(peer.namespace, victim.address, *(make(site) for make, _ in FROM_A_PEER.values()))
    expected = Counter(reason for _, reason in FROM_A_PEER.values())
    assert site.new_drops(victim, before, len(FROM_A_PEER)) == expected


def test_a_stranger_is_dropped_as_unknown_peer(site: Site) -> None:
    victim = site.hosts[0]
    before = site.drops(victim)
    site.send(site.topology.switch, victim.address, from_peer_to_us(site))
    assert site.new_drops(victim, before, 1) == {"unknown_peer": 1}


def test_a_good_datagram_from_a_peer_is_no_drop(site: Site) -> None:
    """The counterpart of the cases above: it is their fault, not their form, that is punished."""
    victim, peer = site.hosts[:2]
    before = site.drops(victim)
    site.send(peer.namespace, victim.address, from_peer_to_us(site))
    site.send(peer.namespace, victim.address, b"")  # a mark behind it: order is kept
    assert site.new_drops(victim, before, 1) == {"empty": 1}


def test_a_thousand_bad_datagrams_disturb_nobody_else(site: Site) -> None:
    victim, peer = site.hosts[:2]
    bad = [datagram for make, _ in FROM_A_PEER.values() if len(datagram := make(site)) < 1500]
    before, *others = [site.drops(host) for host in site.hosts]
    site.send(peer.namespace, victim.address, *(bad * (1000 // len(bad))))
    site.ping_all()
    risen = site.new_drops(victim, before, 1)
    assert set(risen) <= {reason for _, reason in FROM_A_PEER.values()}
    assert [site.drops(host) for host in site.hosts[1:]] == others

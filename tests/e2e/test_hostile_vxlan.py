"""VXLAN datagrams that must not get through: each is dropped under its own reason, others go on.

The frames are made by scapy and go through a real underlay; what counts is `tunneld status`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tests.e2e.site import Site

pytestmark = pytest.mark.root

VNI = 1
I_FLAG = 0x08
STRANGE_MAC = "0e:00:00:00:00:99"


class Post:
    """Datagrams from the second host to the first, and what is wrong with them."""

    def __init__(self, site: Site, family: int) -> None:
        self.site = site
        self.family = family
        name = "BackendData" if family == 4 else "BackendV6Data"
        self.victim_mac = str(site.data_of(0, name)["VtepMAC"])
        self.peer_mac = str(site.data_of(1, name)["VtepMAC"])

    def inner(self, sender: int = 1) -> Packet:
        place = 0 if self.family == 4 else 1
        source = str(self.site.views[sender].containers[place])
        target = str(self.site.views[0].containers[place])
        if self.family == 4:
            return IP(src=source, dst=target) / ICMP() / Raw(b"hostile")
        return IPv6(src=source, dst=target) / ICMPv6EchoRequest(data=b"hostile")

    def frame(self, **header: Any) -> Packet:
        return Ether(**{"src": self.peer_mac, "dst": self.victim_mac, **header})

    def vxlan(self, inner: Packet, **header: Any) -> bytes:
        return bytes(VXLAN(**{"flags": I_FLAG, "vni": VNI, **header}) / inner)

    def good(self, **header: Any) -> bytes:
        return self.vxlan(self.frame() / self.inner(), **header)


def with_reserved_bits(post: Post) -> bytes:
    good = bytearray(post.good())
    good[0] |= 0x01  # RFC 7348 section 5: R bits are zero
    return bytes(good)


def with_group_policy(post: Post) -> bytes:
    good = bytearray(post.good())
    good[0] |= 0x80  # draft-smith-vxlan-group-policy: the G bit, which this network does not speak
    good[3] = 7
    return bytes(good)


def arp(post: Post) -> bytes:
    question = ARP(psrc=str(post.site.views[1].container), pdst=str(post.site.views[0].container))
    return post.vxlan(post.frame(dst="ff:ff:ff:ff:ff:ff") / question)


def other_version_than_the_frame_says(post: Post) -> bytes:
    other = Post(post.site, 10 - post.family)
    ethertype = 0x86DD if post.family == 4 else 0x0800
    return post.vxlan(other.frame(type=ethertype) / post.inner())


Make = Callable[[Post], bytes]

FAULTS: dict[str, tuple[Make, str]] = {
    "nothing at all": (lambda post: b"", "truncated_frame"),
    "half a vxlan header": (lambda post: post.good()[:4], "truncated_frame"),
    "half an ethernet header": (lambda post: post.good()[:15], "truncated_frame"),
    "frame without a packet": (lambda post: post.good()[:22], "empty"),
    "frame cut in the inner header": (lambda post: post.good()[:30], "truncated"),
    "frame cut behind the inner header": (lambda post: post.good()[:-3], "inner_length_too_long"),
    "wrong vni": (lambda post: post.good(vni=2), "wrong_vni"),
    "i flag clear": (lambda post: post.good(flags=0), "vni_flag_clear"),
    "reserved bits": (with_reserved_bits, "reserved_bits"),
    "group policy that is not spoken": (with_group_policy, "reserved_bits"),
    "vlan tag": (
        lambda post: post.vxlan(post.frame() / Dot1Q(vlan=7) / post.inner()),
        "vlan_tag",
    ),
    "arp inside": (arp, "arp_inside"),
    "neither ip nor arp": (
        lambda post: post.vxlan(post.frame(type=0x88CC) / Raw(bytes(60))),
        "unknown_ethertype",
    ),
    "own mac as source": (
        lambda post: post.vxlan(post.frame(src=post.victim_mac) / post.inner()),
        "own_mac",
    ),
    "for another mac": (
        lambda post: post.vxlan(post.frame(dst=STRANGE_MAC) / post.inner()),
        "wrong_mac",
    ),
    "for everybody": (
        lambda post: post.vxlan(post.frame(dst="ff:ff:ff:ff:ff:ff") / post.inner()),
        "wrong_mac",
    ),
    "other version than the frame says": (other_version_than_the_frame_says, "ethertype_mismatch"),
    "source of the third host": (
        lambda post: post.vxlan(post.frame() / post.inner(sender=2)),
        "source_of_other_peer",
    ),
    "source of ours": (
        lambda post: post.vxlan(post.frame() / post.inner(sender=0)),
        "source_is_local",
    ),
}


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def post(vxlan_site: Site, request: pytest.FixtureRequest) -> Post:
    return Post(vxlan_site, request.param)


def send(post: Post, *payloads: bytes, sender: str | None = None) -> None:
    victim = post.site.views[0].underlays[0 if post.family == 4 else 1]
    post.site.send(sender or post.site.hosts[1].namespace, victim, *payloads)


def test_bad_datagrams_from_a_peer_are_dropped_under_their_reasons(post: Post) -> None:
    """One of each; which reason is whose is the claim of tests/native/test_vxlan.py."""
    victim = post.site.hosts[0]
    before = post.site.drops(victim)
    send(post, *(make(post) for make, _ in FAULTS.values()))
    expected = Counter(reason for _, reason in FAULTS.values())
    assert post.site.new_drops(victim, before, len(FAULTS)) == expected


def test_a_stranger_is_dropped_as_unknown_peer(post: Post) -> None:
    victim = post.site.hosts[0]
    before = post.site.drops(victim)
    send(post, post.good(), sender=post.site.topology.switch)
    assert post.site.new_drops(victim, before, 1) == {"unknown_peer": 1}


def test_a_good_datagram_from_a_peer_is_no_drop(post: Post) -> None:
    """The counterpart of the cases above: it is their fault, not their form, that is punished."""
    victim = post.site.hosts[0]
    before = post.site.drops(victim)
    send(post, post.good())
    send(post, b"")  # a mark behind it
    assert post.site.new_drops(victim, before, 1) == {"truncated_frame": 1}


def test_a_thousand_bad_datagrams_disturb_nobody_else(post: Post) -> None:
    victim, *bystanders = post.site.hosts
    bad = [make(post) for make, _ in FAULTS.values()]
    before, *others = [post.site.drops(host) for host in post.site.hosts]
    send(post, *(bad * (1000 // len(bad))))
    post.site.ping_all()
    risen = post.site.new_drops(victim, before, 1)
    assert set(risen) <= {reason for _, reason in FAULTS.values()}
    assert [post.site.drops(host) for host in bystanders] == others

"""What a container hears over IPv6 when its packet cannot go on: received inside the container.

Types and codes are those of RFC 4443, sections 3.1 to 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address

import pytest

from testbed.wait import wait_until
from tests.e2e.site import Site
from tunneld.lab.daemons import status_of
from tunneld.lease.model import IPAddress

pytestmark = pytest.mark.root

UNREACHABLE, TOO_BIG, TIME_EXCEEDED = 1, 2, 3
NO_ROUTE = 0
UDP_OVERHEAD = 48
IPV6_HEADER_BYTES = 40


@dataclass(frozen=True)
class Answer:
    """An ICMPv6 error."""

    source: IPv6Address
    type: int
    code: int
    mtu_bytes: int
    """Of a packet that was too big; else 0."""


@pytest.fixture(scope="module")
def wide_site(dual_site: Site) -> Site:
    """The first host's container believes in 1,500 bytes, as one without FLANNEL_MTU does."""
    dual_site.widen()
    return dual_site


def container(site: Site, number: int) -> IPAddress:
    return site.views[number].containers[1]


def answer(site: Site, target: IPAddress | str, *, size: int = 100, ttl: int = 64) -> Answer:
    """Sends from the first host's container; returns the first error that arrives there."""
    answers = site.probe_text(
        site.hosts[0].container_namespace,
        do="icmp6_answers",
        target=str(target),
        size=size,
        ttl=ttl,
        timeout_s=30.0,
    )
    assert answers, f"no ICMPv6 for {size} bytes to {target} with hop limit {ttl}"
    source, _, text = answers[0].partition(" ")
    said = bytes.fromhex(text)
    quoted = said[8:]
    assert quoted[8:24] == container(site, 0).packed
    assert quoted[24:40] == IPv6Address(str(target)).packed
    # RFC 4443 section 2.4 (c): as much of the packet as fits into the smallest MTU of IPv6.
    assert len(said) == min(8 + size, 1280 - IPV6_HEADER_BYTES)
    return Answer(IPv6Address(source), said[0], said[1], int.from_bytes(said[4:8], "big"))


def test_too_large_a_packet_is_answered_with_the_mtu_of_the_overlay(wide_site: Site) -> None:
    found = answer(wide_site, container(wide_site, 1), size=1500)
    assert (found.type, found.code, found.mtu_bytes) == (TOO_BIG, 0, 1500 - UDP_OVERHEAD)


@pytest.fixture
def narrow_underlay(wide_site: Site) -> Iterator[int]:
    """The first host's way to the second takes 1,400 bytes only."""
    with wide_site.narrowed(wide_site.hosts[1].address_v6, 1400):
        yield 1400


def test_a_narrow_way_to_one_peer_is_answered_with_its_own_mtu(
    wide_site: Site, narrow_underlay: int
) -> None:
    expected = narrow_underlay - UDP_OVERHEAD

    def lowered() -> bool:
        found = answer(wide_site, container(wide_site, 1), size=1452)
        return (found.type, found.mtu_bytes) == (TOO_BIG, expected)

    wait_until(lowered, 10.0, "packet-too-big with the peer's own MTU")
    near, other = (str(wide_site.views[number].bridges[1].network) for number in (1, 2))
    wide = 1500 - UDP_OVERHEAD

    def shown() -> bool:
        mtus = {
            peer["ipv6_subnet"]: {name: reach["mtu_bytes"] for name, reach in peer["reach"].items()}
            for peer in status_of(wide_site.hosts[0])["peers"]
        }
        return mtus == {
            near: {"ipv4": wide, "ipv6": expected},
            other: {"ipv4": wide, "ipv6": wide},
        }

    # The data path answers the first packet, and the daemon hears of it then.
    wait_until(shown, 10.0, "the peer's MTU in status")
    wide_site.ping_all()


def test_an_unleased_subnet_is_answered_with_no_route(dual_site: Site) -> None:
    leased = {view.bridges[1].network for view in dual_site.views}
    free = next(net for net in OVERLAY_SUBNETS if net not in {str(one) for one in leased})
    found = answer(dual_site, free.replace("::/64", "::7"))
    assert (found.type, found.code) == (UNREACHABLE, NO_ROUTE)
    assert found.source == dual_site.views[0].bridges[1].ip


OVERLAY_SUBNETS = [f"fd00:10:5:{number:x}::/64" for number in range(1, 255)]


def test_an_unused_address_of_the_own_subnet_is_the_bridges_business(dual_site: Site) -> None:
    own = dual_site.views[0].bridges[1]
    found = answer(dual_site, own.network[77])
    assert (found.type, found.source) == (UNREACHABLE, container(dual_site, 0))


@pytest.mark.parametrize(("ttl", "answers_by"), [(2, 0), (3, 1)])
def test_the_hop_limit_ends_at_each_end_of_the_tunnel(
    dual_site: Site, ttl: int, answers_by: int
) -> None:
    found = answer(dual_site, container(dual_site, 1), ttl=ttl)
    assert (found.type, found.code) == (TIME_EXCEEDED, 0)
    bridge = dual_site.views[answers_by].bridges[1]
    assert found.source == (bridge.network[0] if answers_by else bridge.ip)

"""What a container hears when its packet cannot go on: received inside the container."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, IPerror

from testbed.netns import run
from testbed.wait import wait_until
from tests.e2e.site import Site
from tunneld.lab import namespaces
from tunneld.lab.daemons import status_of
from tunneld.lease.model import IPAddress

pytestmark = pytest.mark.root

UNREACHABLE, TIME_EXCEEDED = 3, 11
NET_UNREACHABLE, HOST_UNREACHABLE, FRAG_NEEDED = 0, 1, 4
UDP_OVERHEAD = 28


@pytest.fixture(scope="module")
def wide_site(site: Site) -> Site:
    """The first host's container believes in 1,500 bytes, as one without FLANNEL_MTU does."""
    site.widen()
    return site


def answer(site: Site, target: IPAddress | str, *, size: int = 100, ttl: int = 64) -> IP:
    """Sends from the first host's container; returns the first ICMP error that arrives there."""
    answers = site.probe(
        site.hosts[0].container_namespace,
        do="icmp_answers",
        target=str(target),
        size=size,
        ttl=ttl,
        timeout_s=30.0,
    )
    assert answers, f"no ICMP for {size} bytes to {target} with TTL {ttl}"
    packet = IP(answers[0])
    assert packet.dst == str(site.views[0].container)
    assert packet[IPerror].dst == str(target)
    assert packet[IPerror].src == str(site.views[0].container)
    return packet


def test_too_large_a_df_packet_is_answered_with_the_mtu_of_the_overlay(wide_site: Site) -> None:
    packet = answer(wide_site, wide_site.views[1].container, size=1500)
    assert (packet[ICMP].type, packet[ICMP].code) == (UNREACHABLE, FRAG_NEEDED)
    assert packet[ICMP].nexthopmtu == 1500 - UDP_OVERHEAD


@pytest.fixture
def narrow_underlay(wide_site: Site) -> Iterator[int]:
    """The first host's way to the second takes 1,400 bytes only."""
    with wide_site.narrowed(wide_site.hosts[1].address, 1400):
        yield 1400


def test_a_narrow_way_to_one_peer_is_answered_with_its_own_mtu(
    wide_site: Site, narrow_underlay: int
) -> None:
    near, other = wide_site.views[1], wide_site.views[2]

    def lowered() -> bool:
        packet = answer(wide_site, near.container, size=1472)
        code = (packet[ICMP].type, packet[ICMP].code)
        return (*code, packet[ICMP].nexthopmtu) == (
            UNREACHABLE,
            FRAG_NEEDED,
            narrow_underlay - UDP_OVERHEAD,
        )

    wait_until(lowered, 10.0, "frag-needed with the peer's own MTU")

    def shown() -> bool:
        mtus = {
            peer["subnet"]: peer["mtu_bytes"] for peer in status_of(wide_site.hosts[0])["peers"]
        }
        return mtus == {
            str(near.bridge.network): narrow_underlay - UDP_OVERHEAD,
            str(other.bridge.network): 1500 - UDP_OVERHEAD,
        }

    # The data path answers the first packet, and the daemon hears of it then.
    wait_until(shown, 10.0, "the peer's MTU in status")

    def routed() -> bool:
        """The kernel of the host knows too, for what the host itself sends."""
        show = ("ip", "-4", "route", "show", "proto", "116", "exact", str(near.bridge.network))
        found = run(*namespaces.inside(wide_site.hosts[0].namespace, *show))
        return f" mtu {narrow_underlay - UDP_OVERHEAD} " in f"{' '.join(found.split())} "

    wait_until(routed, 10.0, "the peer's MTU on its route")
    wide_site.ping_all()


def test_an_unleased_subnet_is_answered_with_net_unreachable(site: Site) -> None:
    leased = {str(view.bridge.network[0]) for view in site.views}
    free = next(f"10.5.{n}.7" for n in range(1, 255) if f"10.5.{n}.0" not in leased)
    packet = answer(site, free)
    assert (packet[ICMP].type, packet[ICMP].code) == (UNREACHABLE, NET_UNREACHABLE)
    assert packet.src == str(site.views[0].bridge.ip)


def test_a_free_address_of_the_own_subnet_never_reaches_the_tunnel(site: Site) -> None:
    """The bridge answers for it; the `unreachable` route stands behind the bridge's own."""
    before = site.drops(site.hosts[0])
    packet = answer(site, site.views[0].bridge.network[77])
    assert (packet[ICMP].type, packet[ICMP].code) == (UNREACHABLE, HOST_UNREACHABLE)
    assert site.drops(site.hosts[0]) == before


@pytest.mark.parametrize(
    ("ttl", "answers_by"),
    [
        pytest.param(2, 0, id="at the tunnel's entry"),
        pytest.param(3, 1, id="at the tunnel's exit"),
        pytest.param(4, 1, id="in the kernel behind the exit"),
    ],
)
def test_a_ttl_that_runs_out_is_answered_by_the_hop_where_it_does(
    site: Site, ttl: int, answers_by: int
) -> None:
    packet = answer(site, site.views[1].container, ttl=ttl)
    assert (packet[ICMP].type, packet[ICMP].code) == (TIME_EXCEEDED, 0)
    # The container's own host answers as its gateway, the other one by its overlay address.
    bridge = site.views[answers_by].bridge
    assert packet.src == str(bridge.network[0] if answers_by else bridge.ip)


def test_a_ttl_of_five_arrives(site: Site) -> None:
    """Two kernels and both ends of the tunnel take one each; the answer is the target's own."""
    packet = answer(site, site.views[1].container, ttl=5)
    assert (packet[ICMP].type, packet[ICMP].code) == (UNREACHABLE, 3)
    assert packet.src == str(site.views[1].container)

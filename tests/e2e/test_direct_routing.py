"""Which peers are on the same link is asked anew whenever routes change.

Needs root, etcd and iproute2.
"""

from __future__ import annotations

from typing import Any

import pytest

from testbed.netns import Rig
from testbed.network import LINKS, Family, Host, Network, pings
from testbed.wait import wait_until

pytestmark = pytest.mark.root

PATIENCE_S = 30.0
FAMILIES: tuple[Family, ...] = (4, 6)
NAME = {4: "ipv4", 6: "ipv6"}


def stand(rig: Rig, backend: dict[str, Any], *options: str) -> Network:
    """Returns two hosts on one link, and a third behind the router."""
    network = Network(rig, backend=backend, families=FAMILIES)
    network.add("t1", *options)
    network.add("t2", *options)
    network.add("t3", *options, link=LINKS[1])
    for host in network.hosts:
        host.wait_ready()
    return network


def ways(host: Host, family: Family) -> dict[str, str]:
    """Returns how a host reaches each of its peers, by their underlay address."""
    reaches = (peer["reach"].get(NAME[family]) for peer in host.status()["peers"])
    return {reach["endpoint"]: reach["encapsulation"] for reach in reaches if reach}


def underlay(host: Host, family: Family) -> str:
    return str(host.public_ip if family == 4 else host.public_ipv6)


@pytest.mark.parametrize(
    ("datapath", "tunnelled"), [("userspace", "vxlan"), ("kernel", "kernel vxlan")]
)
def test_direct_routing_follows_the_routes(
    root_tools: None, rig: Rig, datapath: str, tunnelled: str
) -> None:
    backend = {"Type": "vxlan", "DirectRouting": True}
    network = stand(rig, backend, "--datapath", datapath)
    first, second, third = network.hosts
    for family in FAMILIES:
        near, far = underlay(second, family), underlay(third, family)

        def becomes(way: str, family: Family = family, near: str = near, far: str = far) -> None:
            expected = {near: way, far: tunnelled}
            wait_until(lambda: ways(first, family) == expected, PATIENCE_S, f"{way} to {near}")
            for one in (second, third):
                wait_until(lambda: pings(first, one, family), PATIENCE_S, f"{one.name} by {way}")  # noqa: B023
                wait_until(lambda: pings(one, first, family), PATIENCE_S, f"back from {one.name}")  # noqa: B023

        becomes("direct")
        wait_plain_route(first, second, family)

        router = LINKS[0].ipv4[1] if family == 4 else LINKS[0].ipv6[1]
        detour = (near, "via", str(router), "dev", "eth0")
        first.space.run("ip", f"-{family}", "route", "add", *detour)
        becomes(tunnelled)
        first.space.run("ip", f"-{family}", "route", "delete", *detour)
        becomes("direct")


@pytest.mark.parametrize(
    ("datapath", "tunnelled"), [("userspace", "vxlan"), ("kernel", "kernel vxlan")]
)
def test_strict_rp_filter_loses_ipv4_where_one_side_alone_sees_the_other_on_the_link(
    root_tools: None, rig: Rig, datapath: str, tunnelled: str
) -> None:
    """What docs/backends.md says of it, and that its ways out are ways out."""
    backend = {"Type": "vxlan", "DirectRouting": True}
    network = stand(rig, backend, "--datapath", datapath)
    first, second, _ = network.hosts
    # Whoever does not know the other yet would lose its packets.
    for family in FAMILIES:
        wait_plain_route(first, second, family)
        wait_plain_route(second, first, family)
    for host in (first, second):
        host.space.sysctl("net/ipv4/conf/all/rp_filter", 1)

    def pings_both_ways(family: Family) -> bool:
        return pings(first, second, family) and pings(second, first, family)

    for family in FAMILIES:
        wait_until(lambda: pings_both_ways(family), PATIENCE_S, "plain packets both ways")  # noqa: B023
    assert rp_filtered(first) == rp_filtered(second) == 0

    for family in FAMILIES:
        near = underlay(first, family)
        router = LINKS[0].ipv4[1] if family == 4 else LINKS[0].ipv6[1]
        second.space.run("ip", f"-{family}", "route", "add", near, "via", str(router))
        wait_until(lambda: ways(second, family)[near] == tunnelled, PATIENCE_S, "a tunnel")  # noqa: B023
        assert ways(first, family)[underlay(second, family)] == "direct"

    # Packets of the first host come in plain, where the second would never send to their source.
    assert not pings(first, second, patience_s=1)
    wait_until(lambda: rp_filtered(second) >= 1, PATIENCE_S, "a packet that came in plain")
    # Those of the second come in by the tunnel, where the first would never send to theirs.
    before = rp_filtered(first)
    assert not pings(second, first, patience_s=1)
    wait_until(lambda: rp_filtered(first) > before, PATIENCE_S, "one that came by the tunnel")
    # The kernel has no such check of IPv6.
    assert pings_both_ways(6)

    # One way out: loose on the interfaces where such packets come in. The larger value counts.
    second.space.sysctl("net/ipv4/conf/eth0/rp_filter", 2)
    first.space.sysctl("net/ipv4/conf/flannel.1/rp_filter", 2)
    assert pings_both_ways(4)
    # The other: routes that are the same seen from both sides.
    second.space.sysctl("net/ipv4/conf/eth0/rp_filter", 1)
    first.space.sysctl("net/ipv4/conf/flannel.1/rp_filter", 1)
    assert not pings_both_ways(4)
    second.space.run("ip", "route", "delete", str(first.public_ip))
    wait_until(lambda: pings_both_ways(4), PATIENCE_S, "plain packets both ways again")


def wait_plain_route(host: Host, peer: Host, family: Family) -> None:
    """Waits until the kernel of a host sends to a peer without a tunnel."""
    subnet, way = peer.subnet_of(family), f"via {underlay(peer, family)} dev eth0 proto 116"
    wait_until(
        lambda: way in host.space.run("ip", f"-{family}", "route", "show", str(subnet)),
        PATIENCE_S,
        f"a plain route from {host.name} to {peer.name}",
    )


def rp_filtered(host: Host) -> int:
    """Returns how many packets a host has dropped for the interface they came in by."""
    listed = host.space.run("nstat", "-asz", "TcpExtIPReversePathFilter")
    return int(listed.split("TcpExtIPReversePathFilter")[1].split()[0])


def test_host_gw_reaches_whom_it_can_and_names_the_others_once(root_tools: None, rig: Rig) -> None:
    network = stand(rig, {"Type": "host-gw"})
    first, second, third = network.hosts
    for family in FAMILIES:
        wait_until(lambda: pings(first, second, family), PATIENCE_S, "the peer")  # noqa: B023
        # The kernel has the route a moment before the status does.
        direct = {underlay(second, family): "direct"}
        wait_until(lambda: ways(first, family) == direct, PATIENCE_S, "the way in the status")  # noqa: B023

    def has_skipped() -> bool:
        status = first.status()
        skipped = status["skipped_leases"].get("not_on_link", 0)
        return bool(status["state"] == "ready" and skipped == 1)

    wait_until(has_skipped, PATIENCE_S, "a host that is ready, and has skipped the other")
    named = [line for line in first.running.output().splitlines() if "not_on_link" in line]
    assert len(named) == 1
    assert str(third.public_ip) in named[0]
    assert first.status()["backend"]["device"] is None
    links = first.space.run("ip", "-o", "link")
    assert "flannel" not in links


def test_link_that_becomes_too_narrow_ends_nothing_when_routes_change(
    root_tools: None, rig: Rig
) -> None:
    network = stand(rig, {"Type": "vxlan", "DirectRouting": True})
    first, second, third = network.hosts
    near, router = underlay(second, 4), str(LINKS[0].ipv4[1])

    def says(word: str) -> bool:
        return word in "; ".join(first.status()["problems"])

    first.space.run("ip", "link", "set", "eth0", "mtu", "1300")
    wait_until(lambda: says("underlay MTU 1300"), PATIENCE_S, "word of the link")
    first.space.run("ip", "route", "add", near, "via", router)
    # One echo may be late where other programs have the processors.
    wait_until(lambda: pings(first, third, 6), PATIENCE_S, "the third host")
    first.space.run("ip", "link", "set", "eth0", "mtu", "1500")
    wait_until(lambda: ways(first, 4)[near] == "vxlan", PATIENCE_S, "the detour to be followed")
    assert not first.status()["problems"]
    assert "no data path" not in first.running.output()

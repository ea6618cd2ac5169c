"""What daemons that are gone left is found by its mark, and what those that live hold stays."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from testbed.netns import Namespace
from tests.unit.host.conftest import run_inside
from tests.unit.host.firewall.hosts import HOSTS, Variant, restore, saved
from tests.unit.host.firewall.site import WANTED
from tests.unit.host.vxlan import WANTED as VXLAN
from tunneld.host.firewall import HostFirewall
from tunneld.host.netlink import Netlink
from tunneld.host.remains import Living, Presence, living, remove_devices_and_routes, remove_rules
from tunneld.host.vxlan import VxlanDevices

pytestmark = pytest.mark.root

ALIVE = Living(
    owner="flannel.7",
    devices=frozenset({"flannel.7", "flannel-v6.7"}),
    networks=frozenset({IPv4Network("10.7.0.0/16")}),
)


def test_a_daemon_is_seen_while_it_lives_and_in_its_namespace_alone(space: Namespace) -> None:
    async def work() -> None:
        assert living() == ()
        presence = Presence(ALIVE)
        assert living() == (ALIVE,)
        presence.close()
        assert living() == ()

    run_inside(space, work)


def test_devices_and_routes_of_the_dead_go_and_those_of_the_living_and_of_others_stay(
    space: Namespace,
) -> None:
    space.bridge("eth0", "192.0.2.1/24")
    for route in (
        "10.4.0.0/16 via 192.0.2.9 proto 116",
        "unreachable 10.4.1.0/24 proto 116",
        "10.5.2.0/24 via 192.0.2.9 proto 116",
        "10.7.2.0/24 via 192.0.2.9 proto 116",
        "10.6.0.0/16 via 192.0.2.9",
    ):
        space.run("ip", "route", "add", *route.split())
    # A flanneld, or whoever: it has not our mark.
    space.run(
        *[
            "ip",
            "link",
            "add",
            "flannel.3",
            "type",
            "vxlan",
            "id",
            "3",
            "local",
            "192.0.2.1",
            "dstport",
            "4789",
        ]
    )

    async def work() -> None:
        async with Netlink.opened() as netlink:
            underlay = await netlink.link("eth0")
            assert underlay is not None
            for vni in (1, 2, 7):
                devices = VxlanDevices(netlink, underlay.index)
                await devices.put(replace(VXLAN, name=f"flannel.{vni}", vni=vni))
            presence = Presence(ALIVE)
            await remove_devices_and_routes(
                netlink, keep=["flannel.1"], networks=[IPv4Network("10.5.0.0/16")]
            )
            presence.close()

    run_inside(space, work)
    links = space.run("ip", "-br", "link")
    assert [name for name in ("1", "2", "3", "7") if f"flannel.{name}" in links] == ["1", "3", "7"]
    routes = space.run("ip", "route", "show", "proto", "116") + space.run(
        "ip", "route", "show", "type", "unreachable"
    )
    assert [line.split()[0] for line in routes.splitlines()] == ["10.5.2.0/24", "10.7.2.0/24"]
    assert "10.6.0.0/16" in space.run("ip", "route")


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_rules_of_the_dead_go_and_those_of_the_living_and_of_others_stay(
    space: Namespace, variant: Variant
) -> None:
    restore(space, variant, HOSTS["docker-28"])
    space.run("nft", "add", "table", "inet", "tunneld-other")

    async def work() -> None:
        await HostFirewall("flannel.7").apply(WANTED)
        await HostFirewall("flannel0").apply(WANTED)
        expected = saved(space)
        await HostFirewall("flannel.1").apply(WANTED)
        await HostFirewall("routed-0a1b2c3d", "iptables").apply(WANTED)
        presence = Presence(ALIVE)
        await remove_rules("flannel0")
        presence.close()
        for owner in ("flannel.1", "routed-0a1b2c3d"):
            assert owner not in saved(space)
        for owner in ("flannel.7", "flannel0"):
            assert saved(space).count(owner) == expected.count(owner)
        await remove_rules("flannel.9")
        assert "flannel" not in saved(space)
        assert "table inet tunneld-other" in saved(space)

    run_inside(space, work)

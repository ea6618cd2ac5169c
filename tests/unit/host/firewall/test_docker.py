"""Overlay traffic passes beside Docker of any age, and what Docker or its user forbids stays so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from testbed.netns import Namespace, Rig
from tests.unit.host.conftest import run_inside
from tests.unit.host.firewall.hosts import HOSTS, Variant, iptables, restore, run_on, saved
from tests.unit.host.firewall.site import (
    ADDRESSES,
    CONTAINER,
    REMOTE,
    SUBNET,
    WANTED,
    WANTED_IN_BOTH,
    Site,
    arrives,
    departs,
    is_kept_out,
    path_with,
    site,
)
from tunneld.fib.state import FirewallMark, FirewallMode
from tunneld.host.firewall import HostFirewall
from tunneld.host.firewall.family import Version

pytestmark = pytest.mark.root


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_operators_rules_in_docker_user_keep_their_say(
    rig: Rig, space: Namespace, variant: Variant
) -> None:
    async def work(place: Site, firewall: HostFirewall) -> None:
        restore(space, variant, HOSTS["docker-20"])
        iptables(space, variant, "-I", "DOCKER-USER", "-s", REMOTE, "-j", "DROP")
        await firewall.apply(WANTED)
        assert await is_kept_out(place)
        iptables(space, variant, "-D", "DOCKER-USER", "-s", REMOTE, "-j", "DROP")
        assert await firewall.observe() == WANTED
        assert await arrives(place) == REMOTE

    run_on(rig, space, work)


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_what_docker_keeps_apart_stays_apart(rig: Rig, space: Namespace, variant: Variant) -> None:
    async def work(place: Site, firewall: HostFirewall) -> None:
        restore(space, variant, HOSTS["docker-20"])
        other = rig.namespace("other")
        space.bridge("br9", "172.18.0.1/16")
        rig.link(space, "veth9", other, "eth0", first_bridge="br9", second_address="172.18.0.2/16")
        other.run("ip", "route", "add", "default", "via", "172.18.0.1")
        await firewall.apply(WANTED)
        assert await arrives(place) == REMOTE
        for source, target in ((place.container, "172.18.0.2"), (other, CONTAINER)):
            done = source.try_run("ping", "-c", "1", "-W", "1", target)
            assert done.returncode == 1, done.stdout

    run_on(rig, space, work)


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_docker_that_starts_after_us_and_again_is_noticed_and_passed(
    rig: Rig, space: Namespace, variant: Variant
) -> None:
    async def work(place: Site, firewall: HostFirewall) -> None:
        await firewall.apply(WANTED)
        restore(space, variant, HOSTS["docker-28"])
        assert await firewall.observe() is None
        await firewall.apply(WANTED)
        assert await arrives(place) == REMOTE
        assert await departs(place) == CONTAINER
        # A restarted Docker writes its rules anew, and its MASQUERADE before everything else.
        iptables(space, variant, *["-t", "raw", "-F", "PREROUTING"])
        iptables(
            space,
            variant,
            *[
                "-t",
                "raw",
                "-A",
                "PREROUTING",
                "-d",
                "10.5.1.2",
                "!",
                "-i",
                "docker0",
                "-j",
                "DROP",
            ],
        )
        masquerade = f"-s {SUBNET} ! -o docker0 -j MASQUERADE"
        iptables(space, variant, *f"-t nat -D POSTROUTING {masquerade}".split())
        iptables(space, variant, *f"-t nat -I POSTROUTING {masquerade}".split())
        await firewall.apply(WANTED)
        assert await arrives(place) == REMOTE
        assert await departs(place) == CONTAINER

    run_on(rig, space, work)


def test_masquerade_that_docker_puts_first_again_is_noticed_without_nft(
    rig: Rig, space: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(place: Site, firewall: HostFirewall) -> None:
        monkeypatch.setenv("PATH", path_with("iptables-legacy only", tmp_path / "bin"))
        await firewall.apply(WANTED)
        masquerade = f"-t nat -I POSTROUTING -s {SUBNET} ! -o docker0 -j MASQUERADE"
        iptables(space, "legacy", *masquerade.split())
        assert await firewall.observe() is None
        await firewall.apply(WANTED)
        assert await firewall.observe() == WANTED
        assert await departs(place) == CONTAINER

    run_on(rig, space, work)


# What Docker 29 makes of --firewall-backend=nftables --bridge-accept-fwmark=0x100/0xf00 for
# docker0 (moby, integration/network/bridge/nftablesdoc), without the maps in between.
DOCKER_BRIDGES = """
table ip docker-bridges {
  chain filter-FORWARD {
    type filter hook forward priority filter; policy accept;
    meta mark & 0xf00 == 0x100 accept
    oifname docker0 ct state established,related accept
    oifname docker0 iifname docker0 accept
    oifname docker0 drop
  }
  chain raw-PREROUTING {
    type filter hook prerouting priority raw; policy accept;
    meta mark & 0xf00 == 0x100 accept
    ip daddr 10.5.1.2 iifname != { docker0 } drop
  }
  chain nat-POSTROUTING {
    type nat hook postrouting priority srcnat; policy accept;
    oifname != docker0 ip saddr 10.5.1.0/24 masquerade
  }
}
"""


def test_docker_that_uses_nftables_lets_pass_what_carries_its_mark(
    rig: Rig, space: Namespace
) -> None:
    async def work(place: Site, firewall: HostFirewall) -> None:
        space.run("nft", "-f", "-", stdin=DOCKER_BRIDGES)
        before = saved(space)
        await firewall.apply(WANTED)
        assert await is_kept_out(place)
        assert await departs(place) == CONTAINER
        marked = replace(WANTED, accept_mark=FirewallMark(value=0x100, mask=0xF00))
        await firewall.apply(marked)
        assert await firewall.observe() == marked
        assert await arrives(place) == REMOTE
        assert await departs(place) == CONTAINER
        await firewall.clear()
        assert saved(space) == before

    run_on(rig, space, work)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", ["auto", "iptables"])
@pytest.mark.parametrize("host", ["docker-20", "docker-28"])
def test_peers_reached_without_a_tunnel_pass_docker_by_the_underlay(
    rig: Rig, space: Namespace, host: str, mode: FirewallMode, version: Version
) -> None:
    it = ADDRESSES[version]

    async def work() -> None:
        async with site(rig, space) as place:
            restore(space, "nft", HOSTS[host], version)
            firewall = HostFirewall("host-gw", mode)
            assert place.stranger.try_run("ip", "address", "add", it.remote, "dev", "lo")

            def passes(source: str, within_s: int = 60) -> bool:
                ping = ("ping", "-c", "1", "-W", str(within_s), "-I", source, it.container)
                return place.stranger.try_run(*ping).returncode == 0

            space.run("ip", "route", "replace", it.remote, "via", it.stranger)
            assert not passes(it.remote, within_s=1)
            await firewall.apply(replace(WANTED_IN_BOTH, devices=frozenset()))
            assert passes(it.remote)
            assert not passes(it.stranger, within_s=1)
            await firewall.apply(WANTED_IN_BOTH)
            assert not passes(it.remote, within_s=1)
            await firewall.apply(replace(WANTED_IN_BOTH, direct=True))
            assert passes(it.remote)
            await firewall.clear()

    run_inside(space, work)

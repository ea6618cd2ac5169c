"""Overlay traffic passes on every kind of host, and what is not ours stays as it was."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.support.netns import Namespace, Rig
from tests.unit.host.conftest import run_inside
from tests.unit.host.firewall.site import (
    ADDRESSES,
    CONTAINER,
    REMOTE,
    SUBNET,
    WANTED,
    WANTED_IN_BOTH,
    Site,
    Tools,
    arrives,
    departs,
    path_with,
    site,
)
from tunneld.errors import HostError
from tunneld.fib.state import FirewallMark, FirewallMode
from tunneld.host.firewall import HostFirewall
from tunneld.host.firewall.family import IPTABLES, Version

pytestmark = pytest.mark.root

Variant = Literal["nft", "legacy"]

# Each is what iptables-save would show of the host; the comment says who makes such a host.
HOSTS = {
    "policy": "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n",  # an operator, ufw
    "reject": "*filter\n-A FORWARD -i br9 -j ACCEPT\n"  # the iptables service of Red Hat
    "-A FORWARD -j REJECT --reject-with icmp-host-prohibited\nCOMMIT\n",
    "docker-20": """\
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o br9 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*nat
-A POSTROUTING -s 10.5.1.0/24 ! -o docker0 -j MASQUERADE
COMMIT
""",
    "docker-28": """\
*raw
-A PREROUTING -d 10.5.1.2/32 ! -i docker0 -j DROP
COMMIT
*filter
:FORWARD ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-FORWARD -o docker0 -j DOCKER
-A DOCKER-FORWARD -i docker0 -j ACCEPT
COMMIT
*nat
-A POSTROUTING -s 10.5.1.0/24 ! -o docker0 -j MASQUERADE
COMMIT
""",
}


IN_IPV6 = {
    "10.5.1.2/32": "fd05:0:0:1::2/128",
    "10.5.1.2": "fd05:0:0:1::2",
    "10.5.1.0/24": "fd05:0:0:1::/64",
    "icmp-host-prohibited": "icmp6-adm-prohibited",
}


def translated(text: str, version: Version) -> str:
    """Returns rules of IPv4 as those of a family."""
    for ipv4, ipv6 in IN_IPV6.items() if version == 6 else ():
        text = text.replace(ipv4, ipv6)
    return text


def iptables(
    host: Namespace, variant: Variant, *argv: str, stdin: str = "", version: Version = 4
) -> str:
    program = IPTABLES[version]
    argv = tuple(translated(word, version) for word in argv)
    return host.run(f"/usr/sbin/{program}-{variant}", *argv, stdin=stdin)


def restore(host: Namespace, variant: Variant, text: str, version: Version = 4) -> None:
    program = f"/usr/sbin/{IPTABLES[version]}-{variant}-restore"
    host.run(program, "--noflush", stdin=translated(text, version))


def saved(host: Namespace) -> str:
    """Returns all rules of the host, of every kind, without counters."""
    text = "".join(
        host.run(*command)
        for command in (
            ("/usr/sbin/iptables-legacy-save",),
            ("/usr/sbin/iptables-nft-save",),
            ("/usr/sbin/ip6tables-legacy-save",),
            ("/usr/sbin/ip6tables-nft-save",),
            ("/usr/sbin/nft", "list", "ruleset"),
        )
    )
    return re.sub(r"(?m)^#.*\n|\[\d+:\d+\]|packets \d+ bytes \d+", "", text)


def run_on(
    rig: Rig, space: Namespace, work: Callable[[Site, HostFirewall], Coroutine[Any, Any, None]]
) -> None:
    async def main() -> None:
        async with site(rig, space) as place:
            firewall = HostFirewall("flannel0")
            await work(place, firewall)

    run_inside(space, main)


@pytest.mark.parametrize("tools", ["all", "iptables only"])
@pytest.mark.parametrize("variant", ["nft", "legacy"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("host", HOSTS)
def test_overlay_packets_pass_with_their_own_addresses_and_a_stop_leaves_no_trace(
    rig: Rig,
    space: Namespace,
    host: str,
    version: Version,
    variant: Variant,
    tools: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = ADDRESSES[version]

    async def work(place: Site, firewall: HostFirewall) -> None:
        restore(space, variant, HOSTS[host], version)
        before = saved(space)
        assert await arrives(place, it.container) is None
        usable: Tools = "all"
        if tools != "all":
            usable = "iptables-nft only" if variant == "nft" else "iptables-legacy only"
        monkeypatch.setenv("PATH", path_with(usable, tmp_path / "bin"))
        await firewall.apply(WANTED_IN_BOTH)
        assert await firewall.observe() == WANTED_IN_BOTH
        assert await arrives(place, it.container) == it.remote
        assert await departs(place, it.remote) == it.container
        await firewall.clear()
        assert await arrives(place, it.container) is None
        if tools == "all":
            assert saved(space) == before

    run_on(rig, space, work)


@pytest.mark.parametrize("variant", ["nft", "legacy"])
@pytest.mark.parametrize("tool", ["nft only", "iptables-nft only", "iptables-legacy only"])
def test_host_that_drops_nothing_gets_nothing_into_the_rules_of_others(
    space: Namespace, variant: Variant, tool: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = "*filter\n-A FORWARD -s 192.0.2.7/32 -j DROP\nCOMMIT\n"
    restore(space, variant, foreign)
    monkeypatch.setenv("PATH", path_with(tool, tmp_path / "bin"))
    foreign_rules = f"/usr/sbin/iptables-{variant}-save"
    before = space.run(foreign_rules)

    async def work() -> None:
        firewall = HostFirewall("flannel0")
        await firewall.apply(WANTED)
        assert await firewall.observe() == WANTED
        if tool == "nft only":
            assert strip(space.run(foreign_rules)) == strip(before)
        await firewall.clear()
        kept = space.run(foreign_rules)
        assert "TUNNELD" not in kept
        assert "-A FORWARD -s 192.0.2.7/32 -j DROP" in kept

    run_inside(space, work)


def strip(text: str) -> str:
    return re.sub(r"(?m)^#.*\n|\[\d+:\d+\]", "", text)


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_operators_rules_in_docker_user_keep_their_say(
    rig: Rig, space: Namespace, variant: Variant
) -> None:
    async def work(place: Site, firewall: HostFirewall) -> None:
        restore(space, variant, HOSTS["docker-20"])
        iptables(space, variant, "-I", "DOCKER-USER", "-s", REMOTE, "-j", "DROP")
        await firewall.apply(WANTED)
        assert await arrives(place) is None
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
@pytest.mark.parametrize(
    "commands",
    [
        ["-F"],
        ["-F DOCKER-USER"],
        ["-D FORWARD -j DOCKER-USER"],
        ["-I DOCKER-USER 1 -j RETURN"],
        ["-t raw -F"],
        ["-t raw -I PREROUTING 1 -d 10.5.1.0/24 ! -i docker0 -j DROP"],
        ["-F TUNNELD-FWD-flannel0"],
        ["-I TUNNELD-FWD-flannel0 1 -j DROP"],
        ["-F FORWARD", "-F DOCKER-USER", "-X DOCKER-USER"],
    ],
    ids=", ".join,
)
@pytest.mark.parametrize("version", [4, 6])
def test_what_somebody_changes_is_noticed_and_mended(
    rig: Rig, space: Namespace, variant: Variant, version: Version, commands: list[str]
) -> None:
    it = ADDRESSES[version]

    async def work(place: Site, firewall: HostFirewall) -> None:
        restore(space, variant, HOSTS["docker-28"], version)
        # Docker's rules go with the flush, the policy stays: nothing is forwarded but by us.
        iptables(space, variant, "-P", "FORWARD", "DROP", version=version)
        await firewall.apply(WANTED_IN_BOTH)
        for command in commands:
            iptables(space, variant, *command.split(), version=version)
        assert await firewall.observe() is None
        await firewall.apply(WANTED_IN_BOTH)
        assert await firewall.observe() == WANTED_IN_BOTH
        assert await arrives(place, it.container) == it.remote
        assert await departs(place, it.remote) == it.container

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


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_rules_of_a_killed_daemon_are_adopted_without_a_gap_or_a_second_copy(
    space: Namespace, variant: Variant
) -> None:
    restore(space, variant, HOSTS["docker-28"])

    async def work() -> None:
        await HostFirewall("flannel0").apply(WANTED)
        before = saved(space)
        successor = HostFirewall("flannel0")
        assert await successor.observe() is None
        await successor.apply(WANTED)
        assert saved(space) == before
        await successor.clear()
        assert "tunneld" not in saved(space).lower()

    run_inside(space, work)


def test_two_daemons_on_one_host_do_not_touch_each_others_rules(space: Namespace) -> None:
    restore(space, "nft", HOSTS["docker-28"])
    before = saved(space)

    async def work() -> None:
        first, second = HostFirewall("flannel0"), HostFirewall("flannel1")
        await first.apply(WANTED)
        await second.apply(WANTED)
        assert await first.observe() == WANTED
        assert await second.observe() == WANTED
        await first.clear()
        assert await second.observe() == WANTED
        await second.clear()

    run_inside(space, work)
    assert saved(space) == before


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_without_forward_rules_a_drop_stays_a_drop(
    rig: Rig, space: Namespace, variant: Variant
) -> None:
    async def work(place: Site, firewall: HostFirewall) -> None:
        restore(space, variant, HOSTS["policy"])
        await firewall.apply(replace(WANTED, forward=False))
        assert await arrives(place) is None
        assert await departs(place) is None

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
        assert await arrives(place) is None
        assert await departs(place) == CONTAINER
        marked = replace(WANTED, accept_mark=FirewallMark(value=0x100, mask=0xF00))
        await firewall.apply(marked)
        assert await firewall.observe() == marked
        assert await arrives(place) == REMOTE
        assert await departs(place) == CONTAINER
        await firewall.clear()
        assert saved(space) == before

    run_on(rig, space, work)


@pytest.mark.parametrize("family", ["inet", "ip"])
def test_firewall_that_nobody_can_overrule_is_named(
    space: Namespace, caplog: pytest.LogCaptureFixture, family: str
) -> None:
    space.run(
        *("nft", "-f", "-"),
        stdin=f"table {family} mine {{ chain f {{ type filter hook forward priority 0; "
        "policy drop; }; }",
    )
    caplog.set_level(logging.WARNING, "tunneld.host")

    async def work() -> None:
        await HostFirewall("flannel0").apply(WANTED)

    run_inside(space, work)
    (record,) = caplog.records
    assert "let it accept the overlay network" in record.message
    assert record.__dict__["fields"] == {"detail": f"{family} mine"}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("auto", {"nft", "iptables"}),
        ("nftables", {"nft"}),
        ("iptables", {"iptables"}),
        ("off", set()),
    ],
)
def test_mode_says_who_carries_the_rules(
    space: Namespace, mode: FirewallMode, expected: set[str]
) -> None:
    restore(space, "nft", HOSTS["policy"])

    async def work() -> None:
        # What another choice has left goes.
        await HostFirewall("flannel0", "iptables" if mode != "iptables" else "auto").apply(WANTED)
        firewall = HostFirewall("flannel0", mode)
        await firewall.apply(WANTED)
        assert await firewall.observe() == WANTED
        there = set()
        if "table ip tunneld-flannel0" in space.run("nft", "list", "ruleset"):
            there.add("nft")
        if "TUNNELD-FWD-flannel0" in space.run("iptables-nft-save"):
            there.add("iptables")
        assert there == expected
        await firewall.clear()
        assert "tunneld" not in saved(space).lower()

    run_inside(space, work)


def test_without_any_program_the_error_says_what_to_install(
    space: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    async def work() -> None:
        with pytest.raises(HostError, match=r"no program `nft`.*apt-get install nftables"):
            await HostFirewall("flannel0").apply(WANTED)
        with pytest.raises(HostError, match=r"no program `iptables`.*apt-get install iptables"):
            await HostFirewall("flannel0", "iptables").apply(WANTED)
        await HostFirewall("flannel0").clear()

    run_inside(space, work)


@pytest.mark.parametrize("mode", ["auto", "iptables"])
def test_a_family_that_the_network_has_no_longer_leaves_nothing(
    space: Namespace, mode: FirewallMode
) -> None:
    for version in (4, 6):
        restore(space, "nft", HOSTS["docker-28"], version)
    before = saved(space)

    async def work() -> None:
        firewall = HostFirewall("flannel0", mode)
        await firewall.apply(WANTED)
        only_ipv4 = saved(space)
        await firewall.apply(WANTED_IN_BOTH)
        assert await firewall.observe() == WANTED_IN_BOTH
        await firewall.apply(WANTED)
        assert saved(space) == only_ipv4
        await firewall.apply(replace(WANTED_IN_BOTH, ipv4=None))
        rules = saved(space)
        assert "10.5.0.0/16" not in rules
        assert "fd05::/48" in rules
        await firewall.clear()
        assert saved(space) == before

    run_inside(space, work)


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

            def passes(source: str) -> bool:
                ping = ("ping", "-c", "1", "-W", "1", "-I", source, it.container)
                return place.stranger.try_run(*ping).returncode == 0

            space.run("ip", "route", "replace", it.remote, "via", it.stranger)
            assert not passes(it.remote)
            await firewall.apply(replace(WANTED_IN_BOTH, devices=frozenset()))
            assert passes(it.remote)
            assert not passes(it.stranger)
            await firewall.apply(WANTED_IN_BOTH)
            assert not passes(it.remote)
            await firewall.apply(replace(WANTED_IN_BOTH, direct=True))
            assert passes(it.remote)
            await firewall.clear()

    run_inside(space, work)

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from testbed.netns import Namespace, inside
from tests.unit.host.conftest import refusal, run_inside, without
from tests.unit.host.firewall.site import WANTED as WANTED_OF_HOST
from tunneld.errors import HostError
from tunneld.fib.state import FirewallMark, UnderlayPort
from tunneld.host.firewall import NftTable
from tunneld.host.firewall.family import in_families

pytestmark = pytest.mark.root

(RULES,) = in_families(WANTED_OF_HOST)
WANTED = (RULES,)

FOREIGN = """
table ip other {
  chain forward { type filter hook forward priority 0; policy accept; counter accept; }
}
table inet tunneld-other { set s { type ipv4_addr; elements = { 10.5.1.1 }; }; }
"""

# `forward` and `postrouting` are flannel's iptables rules, in their order
# (pkg/trafficmngr/iptables/iptables.go); 0x4000 is kube-proxy's mark.
GOLDEN = """\
table ip tunneld-flannel0 {
  chain identity {
    type nat hook postrouting priority srcnat - 1; policy accept;
    meta mark & 0x00004000 == 0x00004000 return
    ip saddr 10.5.1.0/24 ip daddr 10.5.1.0/24 return
    ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 snat to ip saddr
    ip saddr 10.5.0.0/16 ip daddr 10.5.1.0/24 snat to ip saddr
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    ip saddr 10.5.0.0/16 accept
    ip daddr 10.5.0.0/16 accept
  }
  chain postrouting {
    type nat hook postrouting priority srcnat + 1; policy accept;
    meta mark & 0x00004000 == 0x00004000 return
    ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 return
    ip saddr 10.5.0.0/16 ip daddr 10.5.1.0/24 return
    ip saddr != 10.5.0.0/16 ip daddr 10.5.1.0/24 return
    ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
    ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random
  }
}
"""


def ruleset(space: Namespace) -> str:
    return space.run("nft", "list", "ruleset")


def test_table_holds_flannels_rules_in_flannels_order(space: Namespace) -> None:
    async def work() -> None:
        table = NftTable("flannel0")
        assert await table.observe() is None
        await table.apply(WANTED)
        assert await table.observe() == WANTED

    run_inside(space, work)
    # The meaning is compared, not the layout: nft lists what it understood.
    listed = re.sub(r"[ \t]+", " ", ruleset(space).replace("\n\n", "\n"))
    assert listed == re.sub(r"[ \t]+", " ", GOLDEN)


def test_without_masquerade_no_source_becomes_the_hosts(space: Namespace) -> None:
    async def work() -> None:
        table = NftTable("flannel0")
        await table.apply(WANTED)
        await table.apply((replace(RULES, masquerade=False),))

    run_inside(space, work)
    assert "chain forward" in ruleset(space)
    assert "masquerade" not in ruleset(space)


def test_plain_masquerade_keeps_the_ports_where_it_can(space: Namespace) -> None:
    async def work() -> None:
        await NftTable("flannel0").apply((replace(RULES, random_fully=False),))

    run_inside(space, work)
    assert ruleset(space).count("masquerade\n") == 2
    assert "fully-random" not in ruleset(space)


def test_without_forwarding_nothing_is_accepted(space: Namespace) -> None:
    async def work() -> None:
        await NftTable("flannel0").apply((replace(RULES, forward=False),))

    run_inside(space, work)
    assert "hook forward" not in ruleset(space)
    assert "masquerade" in ruleset(space)


def test_underlay_datagrams_are_left_alone_by_connection_tracking_where_wanted(
    space: Namespace,
) -> None:
    port = UnderlayPort(address=IPv4Address("192.0.2.1"), port=8285)
    wanted = (replace(RULES, notrack=(port,)),)

    async def work() -> None:
        table = NftTable("flannel0")
        await table.apply(wanted)
        assert await table.observe() == wanted

    run_inside(space, work)
    assert "ip daddr 192.0.2.1 udp dport 8285 notrack" in ruleset(space)
    assert "ip saddr 192.0.2.1 udp dport 8285 notrack" in ruleset(space)


def test_mark_for_docker_changes_only_the_bits_of_its_mask(space: Namespace) -> None:
    async def work() -> None:
        mark = FirewallMark(value=0x100, mask=0xF00)
        await NftTable("flannel0").apply((replace(RULES, accept_mark=mark),))

    run_inside(space, work)
    # nft writes the equal `clear 0xe00, set 0x100`.
    wanted = 'iifname "flannel0" ip daddr 10.5.1.0/24 meta mark set meta mark & 0xfffff1ff'
    assert f"{wanted} | 0x00000100" in ruleset(space)


def test_applying_twice_leaves_one_table(space: Namespace) -> None:
    async def work() -> None:
        table = NftTable("flannel.1")
        await table.apply(WANTED)
        first = ruleset(space)
        await table.apply(WANTED)
        assert ruleset(space) == first
        assert await table.observe() == WANTED

    run_inside(space, work)


@pytest.mark.parametrize(
    "spoiling",
    [
        "flush ruleset",
        "delete table ip tunneld-flannel0",
        "flush chain ip tunneld-flannel0 forward",
        "add rule ip tunneld-flannel0 forward ip saddr 10.0.0.0/8 drop",
        "insert rule ip tunneld-flannel0 postrouting accept",
        "add chain ip tunneld-flannel0 more",
    ],
)
def test_what_somebody_changes_in_it_is_noticed_and_mended(space: Namespace, spoiling: str) -> None:
    async def work() -> None:
        table = NftTable("flannel0")
        await table.apply(WANTED)
        before = ruleset(space)
        space.run("nft", *spoiling.split())
        assert await table.observe() is None
        await table.apply(WANTED)
        assert await table.observe() == WANTED
        assert ruleset(space) == before

    run_inside(space, work)


def test_rules_of_others_are_untouched(space: Namespace) -> None:
    space.run("nft", "-f", "-", stdin=FOREIGN)
    before = ruleset(space)

    async def work() -> None:
        table = NftTable("flannel0")
        await table.apply(WANTED)
        space.run("nft", "add", "rule", "ip", "other", "forward", "ip", "saddr", "1.2.3.4", "drop")
        assert await table.observe() == WANTED
        handle = re.search(
            r"1\.2\.3\.4 drop # handle (\d+)", space.run("nft", "-a", "list", "ruleset")
        )
        assert handle is not None
        space.run("nft", "delete", "rule", "ip", "other", "forward", "handle", handle[1])
        await table.clear()
        await table.clear()
        assert await table.observe() is None

    run_inside(space, work)
    assert ruleset(space) == before


def test_table_of_a_killed_daemon_is_replaced(space: Namespace) -> None:
    space.run("nft", "add", "table", "ip", "tunneld-flannel0")
    space.run("nft", "add", "chain", "ip", "tunneld-flannel0", "stale")

    async def work() -> None:
        table = NftTable("flannel0")
        assert await table.observe() is None
        await table.apply(WANTED)

    run_inside(space, work)
    assert "stale" not in ruleset(space)


def test_missing_nft_says_what_to_install(
    space: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    async def work() -> None:
        table = NftTable("flannel0")
        await table.clear()
        with pytest.raises(HostError, match=r"no program `nft`.*apt-get install nftables"):
            await table.apply(WANTED)

    with inside(space):
        asyncio.run(work())


def test_missing_capability_is_one_clear_line(space: Namespace) -> None:
    code = (
        "from tunneld.host.firewall import NftTable as T; "
        "from tunneld.host.firewall.family import FamilyRules as R; "
        "from ipaddress import IPv4Network as N; await T('flannel0').apply((R(version=4, "
        "network=N('10.5.0.0/16'), subnet=N('10.5.1.0/24')),))"
    )
    said = refusal(code, *space.command(*without("net_admin")))
    assert said.startswith("CapabilityError: cannot look for table tunneld-flannel0: not permitted")


def test_flush_that_falls_into_our_change_is_not_taken_for_our_rules(
    space: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first change is followed by a flush, before anybody can look at it.
    once = tmp_path / "once"
    nft = tmp_path / "bin" / "nft"
    nft.parent.mkdir()
    nft.write_text(
        f'#!/bin/sh\n/usr/sbin/nft "$@"\nended=$?\n'
        f'if [ "$1" = -f ] && mkdir {once}; then /usr/sbin/nft flush ruleset; fi\nexit $ended\n'
    )
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", f"{nft.parent}:{os.environ['PATH']}")

    async def work() -> None:
        table = NftTable("flannel0")
        await table.apply(WANTED)
        assert await table.observe() is None
        await table.apply(WANTED)
        assert await table.observe() == WANTED

    run_inside(space, work)
    assert "masquerade" in ruleset(space)

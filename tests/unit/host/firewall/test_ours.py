"""Our rules are found again, told apart from another daemon's, and go when they are not wanted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from testbed.netns import Namespace
from tests.unit.host.conftest import run_inside
from tests.unit.host.firewall.hosts import HOSTS, Variant, restore, saved
from tests.unit.host.firewall.site import WANTED, WANTED_IN_BOTH
from tunneld.errors import HostError
from tunneld.fib.state import FirewallMode
from tunneld.host.firewall import HostFirewall

pytestmark = pytest.mark.root


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

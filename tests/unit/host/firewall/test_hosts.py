"""Overlay traffic passes on every kind of host, and what is not ours stays as it was."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.netns import Namespace, Rig
from tests.unit.host.conftest import run_inside
from tests.unit.host.firewall.hosts import HOSTS, Variant, iptables, restore, run_on, saved
from tests.unit.host.firewall.site import (
    ADDRESSES,
    WANTED,
    WANTED_IN_BOTH,
    Site,
    Tools,
    arrives,
    departs,
    is_kept_in,
    is_kept_out,
    path_with,
)
from tunneld.host.firewall import HostFirewall
from tunneld.host.firewall.family import Version

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("host", "version", "variant", "tools"),
    [
        # Every two values meet, and every family, variant and set of tools.
        ("policy", 4, "nft", "all"),
        ("policy", 6, "legacy", "iptables only"),
        ("reject", 4, "nft", "iptables only"),
        ("reject", 6, "legacy", "all"),
        ("docker-20", 4, "legacy", "all"),
        ("docker-20", 6, "nft", "iptables only"),
        ("docker-28", 4, "legacy", "iptables only"),
        ("docker-28", 6, "nft", "all"),
    ],
)
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
        assert await is_kept_out(place, it.container)
        usable: Tools = "all"
        if tools != "all":
            usable = "iptables-nft only" if variant == "nft" else "iptables-legacy only"
        monkeypatch.setenv("PATH", path_with(usable, tmp_path / "bin"))
        await firewall.apply(WANTED_IN_BOTH)
        assert await firewall.observe() == WANTED_IN_BOTH
        assert await arrives(place, it.container) == it.remote
        assert await departs(place, it.remote) == it.container
        await firewall.clear()
        assert await is_kept_out(place, it.container)
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


CHANGES = (
    ["-F"],
    ["-F DOCKER-USER"],
    ["-D FORWARD -j DOCKER-USER"],
    ["-I DOCKER-USER 1 -j RETURN"],
    ["-t raw -F"],
    ["-t raw -I PREROUTING 1 -d 10.5.1.0/24 ! -i docker0 -j DROP"],
    ["-F TUNNELD-FWD-flannel0"],
    ["-I TUNNELD-FWD-flannel0 1 -j DROP"],
    ["-F FORWARD", "-F DOCKER-USER", "-X DOCKER-USER"],
)


@pytest.mark.parametrize(
    ("commands", "version", "variant"),
    [
        # Each change with each variant and in each family; both families are one reader's.
        pytest.param(commands, version, variant, id=f"{', '.join(commands)}-{version}-{variant}")
        for number, commands in enumerate(CHANGES)
        for version, variant in zip(
            (4, 6), ("nft", "legacy") if number % 2 else ("legacy", "nft"), strict=True
        )
    ],
)
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
def test_without_forward_rules_a_drop_stays_a_drop(
    rig: Rig, space: Namespace, variant: Variant
) -> None:
    async def work(place: Site, firewall: HostFirewall) -> None:
        restore(space, variant, HOSTS["policy"])
        await firewall.apply(replace(WANTED, forward=False))
        assert await is_kept_out(place)
        assert await is_kept_in(place)

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

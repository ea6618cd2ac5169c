"""Connections are tracked only where somebody translates addresses, and sources are kept there."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from testbed.netns import Namespace, Rig
from tests.unit.host.conftest import eventually, run_inside
from tests.unit.host.firewall.mending import actuated, mended
from tests.unit.host.firewall.site import (
    ADDRESSES,
    WANTED_IN_BOTH,
    Addresses,
    Site,
    Tools,
    arrives,
    departs,
    leaves_by_the_tun,
    path_with,
    site,
    udp_socket,
)
from tunneld.fib.state import FirewallMode, HostChange
from tunneld.host.firewall import HostFirewall
from tunneld.host.firewall.family import Version

pytestmark = pytest.mark.root

WANTED: Final = replace(WANTED_IN_BOTH, masquerade=False)

MASQUERADE = "table {family} theirs {{ chain out {{ type nat hook postrouting priority srcnat; "
MASQUERADE += 'oifname "flannel0" masquerade; }}; }}'


@pytest.fixture(autouse=True)
def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without dockerd on the PATH; the bridge of the site is another one then."""
    monkeypatch.setattr("tests.unit.host.firewall.site.BRIDGE", "br0")
    entries = os.environ["PATH"].split(":")
    kept = [entry for entry in entries if not Path(entry, "dockerd").exists()]
    monkeypatch.setenv("PATH", ":".join(kept))


def others(how: str, version: Version, *, add: bool = True) -> tuple[str, ...]:
    """Returns the command by which somebody else translates what leaves, or no longer does."""
    if how in ("own table", "inet table"):
        family = "inet" if how == "inet table" else {4: "ip", 6: "ip6"}[version]
        if not add:
            return ("nft", "delete", "table", family, "theirs")
        return ("nft", MASQUERADE.format(family=family))
    program = {4: "iptables", 6: "ip6tables"}[version]
    rule = f"-t nat {'-A' if add else '-D'} POSTROUTING -o flannel0 -j MASQUERADE"
    return (f"/usr/sbin/{program}-{how}", *rule.split())


def tracked(space: Namespace) -> int:
    """Returns how many connections of the namespace the kernel tracks."""
    return int(space.run("cat", "/proc/sys/net/netfilter/nf_conntrack_count"))


def run_on(rig: Rig, space: Namespace, work: Callable[[Site], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with site(rig, space) as place:
            await work(place)

    run_inside(space, main)


async def passes(place: Site, it: Addresses) -> None:
    assert await arrives(place, it.container) == it.remote
    assert await departs(place, it.remote) == it.container


@pytest.mark.parametrize("tools", ["all", "nft only", "iptables-nft only", "iptables-legacy only"])
@pytest.mark.parametrize("version", [4, 6])
def test_nothing_is_tracked_where_nobody_translates(
    rig: Rig,
    space: Namespace,
    tools: Tools,
    version: Version,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(place: Site) -> None:
        monkeypatch.setenv("PATH", path_with(tools, tmp_path / "bin"))
        firewall = HostFirewall("flannel0")
        await firewall.apply(WANTED)
        assert await firewall.observe() == WANTED
        await passes(place, ADDRESSES[version])
        assert tracked(space) == 0
        await firewall.apply(replace(WANTED, masquerade=True))
        await passes(place, ADDRESSES[version])
        assert tracked(space) > 0
        await firewall.clear()

    run_on(rig, space, work)


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        ("auto", "nft"),
        ("auto", "legacy"),
        ("auto", "own table"),
        ("auto", "inet table"),
        ("nftables", "legacy"),
        ("iptables", "nft"),
        ("iptables", "legacy"),
    ],
)
@pytest.mark.parametrize("version", [4, 6])
def test_source_is_kept_as_soon_as_somebody_translates(
    rig: Rig, space: Namespace, how: str, mode: FirewallMode, version: Version
) -> None:
    it = ADDRESSES[version]

    async def work(place: Site) -> None:
        firewall = HostFirewall("flannel0", mode)
        await firewall.apply(WANTED)
        with udp_socket(place.container, to=it.remote) as flow:
            flow.sendto(b"probe", (it.remote, 7))
            assert await leaves_by_the_tun(place, to=it.remote) == it.container
            space.run(*others(how, version))
            assert await firewall.observe() is None
            await firewall.apply(WANTED)
            assert await firewall.observe() == WANTED
            flow.sendto(b"probe", (it.remote, 7))
            assert await leaves_by_the_tun(place, to=it.remote) == it.container
        await passes(place, it)
        assert tracked(space) > 0
        space.run(*others(how, version, add=False))
        assert await firewall.observe() is None
        await firewall.apply(WANTED)
        assert await firewall.observe() == WANTED
        known = tracked(space)
        await passes(place, it)
        assert tracked(space) <= known

    run_on(rig, space, work)


def test_rules_of_another_daemon_of_ours_that_keep_sources_do_not_count(space: Namespace) -> None:
    async def work() -> None:
        first, second = HostFirewall("flannel0"), HostFirewall("flannel1")
        space.run(*others("nft", 4))
        await first.apply(WANTED)
        await second.apply(WANTED)
        assert space.run("nft", "list", "ruleset").count("snat to ip saddr") == 4
        space.run(*others("nft", 4, add=False))
        await first.apply(WANTED)
        assert await second.observe() is None
        await second.apply(WANTED)
        assert "snat" not in space.run("nft", "list", "ruleset")
        await first.clear()
        await second.clear()

    run_inside(space, work)


@pytest.mark.parametrize("how", ["nft", "legacy", "own table"])
@pytest.mark.parametrize("version", [4, 6])
def test_events_alone_tell_of_somebody_who_translates(
    rig: Rig, space: Namespace, how: str, version: Version, tmp_path: Path
) -> None:
    it = ADDRESSES[version]

    async def work(place: Site) -> None:
        async with actuated(tmp_path) as actuator:
            await actuator.apply(HostChange(firewall=WANTED))
            async with mended(actuator, WANTED):
                rules = ("nft", "list", "ruleset")
                assert "snat to" not in space.run(*rules)
                space.run(*others(how, version))
                await eventually(lambda: "snat to" in space.run(*rules), "kept sources")
                assert await departs(place, it.remote) == it.container

    run_on(rig, space, work)

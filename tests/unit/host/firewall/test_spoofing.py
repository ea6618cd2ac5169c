"""Where packets are encrypted nobody on a link speaks for a container of another host in plain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from testbed.netns import Namespace, Rig
from tests.unit.host.firewall.hosts import run_on, saved
from tests.unit.host.firewall.site import (
    ADDRESSES,
    COMES_S,
    DROPPED_S,
    WANTED_IN_BOTH,
    Addresses,
    Site,
    Tools,
    arrives,
    departs,
    path_with,
    source_seen_by,
    udp_socket,
)
from tests.unit.host.firewall.test_guard import guarded, index_of
from tunneld.host.firewall import HostFirewall
from tunneld.host.netlink import Netlink

pytestmark = pytest.mark.root

SEALED = replace(WANTED_IN_BOTH, sealed=True)


def gets_in(place: Site, it: Addresses, source: str, patience_s: float = DROPPED_S) -> bool:
    """Says whether what the stranger sends bare from an address gets to the container."""
    receiver = udp_socket(place.container, bound=it.container)
    receiver.settimeout(patience_s)
    with udp_socket(place.stranger, bound=source) as opened:
        opened.sendto(b"bare", (it.container, receiver.getsockname()[1]))
    try:
        return source_seen_by(receiver) == source
    except TimeoutError:
        return False


@pytest.mark.parametrize("tools", ["all", "nft only", "iptables-nft only", "iptables-legacy only"])
def test_what_comes_bare_does_not_speak_for_the_overlay(
    rig: Rig,
    space: Namespace,
    tools: Tools,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", path_with(tools, tmp_path / "bin"))

    async def work(place: Site, _: HostFirewall) -> None:
        # The kernel's own filter would hide what it does not do for IPv6, nor on every host.
        for name in ("all", "eth0"):
            place.host.sysctl(f"net/ipv4/conf/{name}/rp_filter", 0)
        others = {4: "10.5.1.77", 6: "fd05:0:0:1::77"}
        for it in ADDRESSES.values():
            for address in (it.remote, others[it.version]):
                place.stranger.run("ip", "address", "add", address, "dev", "lo")
        async with Netlink.opened() as netlink:
            firewall = HostFirewall("flannel0", "auto", netlink.links)
            await firewall.apply(WANTED_IN_BOTH)
            for it in ADDRESSES.values():
                assert gets_in(place, it, it.remote, COMES_S), "what there is to be dropped"
            await firewall.apply(SEALED)
            assert await firewall.observe() == SEALED
            for it in ADDRESSES.values():
                assert not gets_in(place, it, it.remote)
                if not tools.startswith("iptables"):
                    assert not gets_in(place, it, others[it.version]), "nor for one of this host"
                # What comes by the overlay's device does, and so do containers of this host.
                assert await arrives(place, it.container) == it.remote
                assert await departs(place, it.remote) == it.container
                assert gets_in(place, it, it.stranger, COMES_S), "it speaks for itself"
                # A container without masquerade speaks to this host's own address.
                receiver = udp_socket(place.host, bound=it.host_outside)
                with udp_socket(place.stranger, bound=it.remote) as opened:
                    opened.sendto(b"bare", (it.host_outside, receiver.getsockname()[1]))
                assert source_seen_by(receiver) == it.remote
                # A direct route leads there: so do its packets.
                subnet = it.remote.rpartition(".")[0] + ".0/24" if it.version == 4 else it.remote
                place.host.run("ip", "route", "add", subnet, "via", it.stranger)
                assert gets_in(place, it, it.remote, COMES_S)
                place.host.run("ip", "route", "del", subnet)
            await firewall.clear()
            assert "tunneld" not in saved(space).lower()

    run_on(rig, space, work)


def test_tools_that_cannot_ask_for_routes_know_the_underlay(
    rig: Rig, space: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "nft"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\nif [ "$1" = -f ]; then text=$(cat); case $text in *fib*) exit 1;; esac\n'
        'echo "$text" | /usr/sbin/nft -f -\nelse exec /usr/sbin/nft "$@"; fi\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/sbin:/usr/bin:/sbin:/bin")

    async def work(place: Site, _: HostFirewall) -> None:
        it = ADDRESSES[6]  # where the kernel has no filter of its own
        place.stranger.run("ip", "address", "add", it.remote, "dev", "lo")
        async with Netlink.opened() as netlink:
            firewall = HostFirewall("flannel0", "auto", netlink.links)
            wanted = replace(guarded(interface=index_of(place.host, "eth0")), sealed=True)
            await firewall.apply(wanted)
            assert await firewall.observe() == wanted
        assert not gets_in(place, it, it.remote)
        assert await arrives(place, it.container) == it.remote
        assert await departs(place, it.remote) == it.container

    run_on(rig, space, work)

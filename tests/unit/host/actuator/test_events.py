"""What others change is told, and mended where it is ours."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from testbed.netns import Namespace
from tests.unit.host.actuator.tun import WANTED, actuated, missing, run_actuated, whole
from tests.unit.host.conftest import eventually, run_inside
from tunneld.host.actuator import Actuator, HostEvent
from tunneld.host.netlink import Netlink
from tunneld.host.underlay import Selection, find_underlay

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("spoiling", "event"),
    [
        ("ip link set flannel0 down", "device"),
        ("ip link set flannel0 mtu 1400", "device"),
        ("ip address flush dev flannel0", "device"),
        ("sysctl -w net.ipv4.conf.flannel0.forwarding=0", "device"),
        ("sysctl -w net.ipv4.ip_forward=0", "device"),
        ("ip route del 10.5.0.0/16 dev flannel0", "routes"),
        ("ip route del unreachable 10.5.1.0/24", "routes"),
        ("ip route change 10.5.9.0/24 dev flannel0 proto 116 src 10.5.1.0 mtu 1000", "routes"),
        ("ip route flush table main proto 116", "routes"),
        ("nft flush ruleset", "firewall"),
        ("nft flush chain ip tunneld-flannel0 postrouting", "firewall"),
    ],
)
def test_what_somebody_spoils_is_told_observed_and_mended(
    host: Namespace, tmp_path: Path, spoiling: str, event: HostEvent
) -> None:
    events: list[HostEvent] = []

    async def work(actuator: Actuator) -> None:
        await actuator.apply(whole(WANTED))
        assert await actuator.observe() == WANTED
        actuator.on_change(events.append)
        host.run(*spoiling.split())
        await eventually(lambda: event in events, f"{event} after {spoiling}")
        actual = await actuator.observe()
        assert actual != WANTED
        await actuator.apply(missing(actual))
        # Two rounds at most: a device that was down had lost its routes.
        await actuator.apply(missing(await actuator.observe()))
        assert await actuator.observe() == WANTED

    run_actuated(host, tmp_path, work)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "FLANNEL_NETWORK=10.5.0.0/16\n",
        "FLANNEL_NETWORK='10.5.0.0/16'\nFLANNEL_SUBNET=10.5.1.1/24\n"
        "FLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n",
    ],
)
def test_subnet_env_that_somebody_changed_is_written_again(
    host: Namespace, tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "subnet.env"

    async def work(actuator: Actuator) -> None:
        await actuator.apply(whole(WANTED))
        good = path.read_text()
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        actual = await actuator.observe()
        assert actual.subnet_env != WANTED.subnet_env
        await actuator.apply(missing(actual))
        assert path.read_text() == good

    run_actuated(host, tmp_path, work)


@pytest.mark.parametrize(
    "command",
    [
        "ip link set eth0 mtu 1400",
        "ip address add 192.0.2.77/24 dev eth0",
        "ip route replace default via 192.0.2.253",
        "ip link del eth0",
    ],
)
def test_change_of_the_underlay_is_told(host: Namespace, tmp_path: Path, command: str) -> None:
    events: list[HostEvent] = []

    async def work(actuator: Actuator) -> None:
        actuator.on_change(events.append)
        host.run(*command.split())
        await eventually(lambda: "underlay" in events, f"underlay after {command}")

    run_actuated(host, tmp_path, work)


def test_underlay_that_comes_back_under_its_name_is_told(host: Namespace, tmp_path: Path) -> None:
    events: list[HostEvent] = []

    async def main() -> None:
        async with actuated(tmp_path / "subnet.env") as (actuator, _, netlink):
            host.run("ip", "link", "del", "eth0")
            actuator.on_change(events.append)
            host.bridge("eth0")
            await eventually(lambda: "underlay" in events, "the link's return")
            actuator.watch_underlay(
                replace(
                    await find_underlay_with_address(host, netlink),
                    mtu_bytes=1500,
                )
            )
            events.clear()
            host.run("ip", "address", "add", "192.0.2.78/24", "dev", "eth0")
            await eventually(lambda: "underlay" in events, "the new address")

    async def find_underlay_with_address(space: Namespace, netlink: Netlink) -> Any:
        space.run("ip", "address", "add", "192.0.2.1/24", "dev", "eth0")
        return await find_underlay(Selection(interfaces=("eth0",)), netlink)

    run_inside(host, main)


def test_changes_of_others_are_not_told_but_for_what_may_change_the_way_to_a_peer(
    host: Namespace, tmp_path: Path
) -> None:
    events: list[HostEvent] = []

    async def work(actuator: Actuator) -> None:
        await actuator.apply(whole(WANTED))
        await actuator.observe()
        actuator.on_change(events.append)
        host.bridge("br7", "10.7.0.1/24")
        host.run("ip", "route", "add", "10.8.0.0/16", "via", "192.0.2.9")
        host.run("nft", "add", "table", "ip", "another")
        host.run("ip", "link", "set", "flannel0", "txqueuelen", "7")
        await eventually(lambda: {"device", "on_link"} <= set(events), "the last change")
        assert set(events) == {"device", "on_link"}

    run_actuated(host, tmp_path, work)


def test_bridge_that_forwards_nothing_is_named_with_what_switches_it_on(
    host: Namespace, tmp_path: Path
) -> None:
    """A device's own switch; whatever the global one says, its packets go nowhere."""
    host.bridge("br1.x", "172.30.0.1/24")  # of another network, which is none of ours

    async def work() -> None:
        async with actuated(tmp_path / "subnet.env") as (actuator, _tun, _netlink):
            await actuator.apply(whole(WANTED))
            await actuator.observe()
            assert list(actuator.forwarding_problems) == []
            host.run("ip", "address", "add", "10.5.1.2/24", "dev", "br1.x")
            for name in ("br0", "br1/x"):
                host.run("sysctl", "-w", f"net.ipv4.conf.{name}.forwarding=0")
            assert await actuator.observe() == WANTED
            (problem,) = actuator.forwarding_problems
            assert problem.startswith("br0, br1.x: packets that come by there are not forwarded")
            for command in re.findall("`(.*?)`", problem):
                host.run(*command.split())
            await actuator.observe()
            assert list(actuator.forwarding_problems) == []

    run_inside(host, work)

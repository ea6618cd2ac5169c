from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from tests.support.netns import Namespace
from tests.unit.host.conftest import eventually, overlay, run_inside
from tunneld.errors import HostError
from tunneld.fib.state import (
    Device,
    Firewall,
    HostChange,
    HostState,
    OverlayNet,
    Route,
    SubnetEnv,
)
from tunneld.host.actuator import Actuator, HostEvent
from tunneld.host.netlink import Netlink
from tunneld.host.tun import Tun
from tunneld.host.underlay import Selection, find_underlay

pytestmark = pytest.mark.root

NETWORK = IPv4Network("10.5.0.0/16")
SUBNET = IPv4Network("10.5.1.0/24")
WANTED = HostState(
    device=Device(
        address=IPv4Address("10.5.1.0"), mtu_bytes=1472, txqueuelen=1000, forwarding=True
    ),
    routes=frozenset(
        {
            Route(destination=NETWORK, kind="overlay"),
            Route(destination=SUBNET, kind="unreachable", metric=4294967295),
            Route(destination=IPv4Network("10.5.9.0/24"), kind="overlay", mtu_bytes=1300),
        }
    ),
    firewall=Firewall(ipv4=OverlayNet(network=NETWORK, subnet=SUBNET), masquerade=True),
    subnet_env=SubnetEnv(network=NETWORK, subnet=SUBNET, mtu_bytes=1472, ip_masq=True),
)


def whole(state: HostState) -> HostChange:
    """Returns the change that brings an empty host to `state`."""
    return HostChange(
        device=state.device,
        put_routes=state.routes,
        firewall=state.firewall,
        subnet_env=state.subnet_env,
    )


def missing(actual: HostState) -> HostChange:
    """Returns the change from `actual` to `WANTED`, in whole parts."""
    return HostChange(
        device=None if actual.device == WANTED.device else WANTED.device,
        put_routes=WANTED.routes - actual.routes,
        drop_routes=actual.routes - WANTED.routes,
        firewall=None if actual.firewall == WANTED.firewall else WANTED.firewall,
        subnet_env=None if actual.subnet_env == WANTED.subnet_env else WANTED.subnet_env,
    )


@pytest.fixture
def host(space: Namespace) -> Namespace:
    """A host with an underlay interface, a bridge, and things of other people."""
    space.sysctl("net/ipv4/ip_forward", 0)
    # The kernel brings IPv6 up in its own time, which no comparison of two states can know.
    space.sysctl("net/ipv6/conf/default/disable_ipv6", 1)
    space.bridge("eth0", "192.0.2.1/24")
    space.bridge("br0", "10.5.1.1/24")
    space.run("ip", "route", "add", "default", "via", "192.0.2.254")
    space.run("ip", "route", "add", "10.5.77.0/24", "via", "192.0.2.9")
    space.run("ip", "route", "add", "10.6.0.0/16", "dev", "eth0", "proto", "116")
    space.run("ip", "rule", "add", "from", "10.5.0.0/16", "table", "100")
    space.run("nft", "-f", "-", stdin="table ip other { chain forward { counter; }; }\n")
    return space


@asynccontextmanager
async def actuated(
    subnet_file: Path,
) -> AsyncIterator[tuple[Actuator, Tun, Netlink]]:
    async with overlay(queues=2) as (tun, netlink):
        actuator = Actuator(
            netlink,
            device=tun.name,
            networks=[NETWORK],
            subnet_file=subnet_file,
            underlay=await find_underlay(Selection(interfaces=("eth0",)), netlink),
            forwarding="always",
        )
        try:
            yield actuator, tun, netlink
        finally:
            await actuator.close()


def run_actuated(
    space: Namespace,
    directory: Path,
    work: Callable[[Actuator], Coroutine[Any, Any, None]],
) -> None:
    async def main() -> None:
        async with actuated(directory / "subnet.env") as (actuator, _, _):
            await work(actuator)

    run_inside(space, main)


def everything(space: Namespace) -> list[str]:
    """Returns all that a daemon could change in a namespace."""
    commands = (
        ("ip", "link"),
        ("ip", "address"),
        ("ip", "route", "show", "table", "all"),
        ("ip", "-6", "route", "show", "table", "all"),
        ("ip", "rule"),
        ("ip", "neigh"),
        ("nft", "list", "ruleset"),
        ("sysctl", "-a", "--pattern", r"^net\.ipv[46]\.conf\..*|^net\.ipv4\.ip_forward"),
    )
    text = "\n".join(space.run(*command) for command in commands)
    return re.sub(r"\d+sec", "", text).splitlines()


def test_whole_state_is_applied_and_observed(host: Namespace, tmp_path: Path) -> None:
    async def work(actuator: Actuator) -> None:
        assert await actuator.observe() == HostState()
        await actuator.apply(whole(WANTED))
        assert await actuator.observe() == WANTED

    run_actuated(host, tmp_path, work)


def test_applying_again_changes_nothing(host: Namespace, tmp_path: Path) -> None:
    async def work(actuator: Actuator) -> None:
        await actuator.apply(whole(WANTED))
        before = everything(host)
        await actuator.apply(whole(WANTED))
        assert everything(host) == before
        assert await actuator.observe() == WANTED

    run_actuated(host, tmp_path, work)


def test_clean_stop_leaves_everything_as_it_was_but_subnet_env(
    host: Namespace, tmp_path: Path
) -> None:
    before = everything(host)

    async def work(actuator: Actuator) -> None:
        await actuator.apply(whole(WANTED))
        assert everything(host) != before
        assert host.run("sysctl", "-n", "net.ipv4.ip_forward") == "1\n"

    run_actuated(host, tmp_path, work)
    assert everything(host) == before
    assert (tmp_path / "subnet.env").read_text().startswith("FLANNEL_NETWORK=10.5.0.0/16\n")


def test_subnet_env_goes_too_when_the_lease_is_left(host: Namespace, tmp_path: Path) -> None:
    async def work(actuator: Actuator) -> None:
        await actuator.apply(whole(WANTED))
        await actuator.close(keep_subnet_env=False)
        await actuator.close(keep_subnet_env=False)

    run_actuated(host, tmp_path, work)
    assert not (tmp_path / "subnet.env").exists()


def test_stop_before_anything_was_applied_changes_nothing(host: Namespace, tmp_path: Path) -> None:
    before = everything(host)

    async def work(actuator: Actuator) -> None:
        await actuator.close()

    run_actuated(host, tmp_path, work)
    assert everything(host) == before


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


def test_device_that_somebody_deleted_is_an_error_with_its_name(
    host: Namespace, tmp_path: Path
) -> None:
    async def work(actuator: Actuator) -> None:
        await actuator.apply(whole(WANTED))
        host.run("ip", "link", "del", "flannel0")
        actual = await actuator.observe()
        assert actual.device is None
        assert {route.kind for route in actual.routes} == {"unreachable"}
        with pytest.raises(HostError, match="overlay device flannel0 is gone"):
            await actuator.apply(missing(actual))

    before = everything(host)
    run_actuated(host, tmp_path, work)
    assert everything(host) == before


def test_route_in_the_way_is_an_error_and_the_rest_is_taken_down_again(
    host: Namespace, tmp_path: Path
) -> None:
    host.run("ip", "route", "add", "10.5.0.0/16", "via", "192.0.2.9")
    before = everything(host)

    async def work(actuator: Actuator) -> None:
        with pytest.raises(HostError, match=r"10\.5\.0\.0/16 via 192\.0\.2\.9 dev eth0"):
            await actuator.apply(whole(WANTED))

    run_actuated(host, tmp_path, work)
    assert everything(host) == before


def test_leftovers_of_a_killed_daemon_are_taken_over(host: Namespace, tmp_path: Path) -> None:
    before = everything(host)
    host.run("ip", "route", "add", "unreachable", "10.5.3.0/24", "proto", "116", "metric", "9")
    host.run("nft", "-f", "-", stdin="table ip tunneld-flannel0 { chain forward { drop; }; }\n")

    async def work(actuator: Actuator) -> None:
        actual = await actuator.observe()
        assert {str(route.destination) for route in actual.routes} == {"10.5.3.0/24"}
        await actuator.apply(missing(actual))
        assert await actuator.observe() == WANTED

    run_actuated(host, tmp_path, work)
    assert everything(host) == before


def test_what_cannot_be_taken_away_does_not_keep_the_rest(
    host: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(actuator: Actuator) -> None:
        await actuator.apply(whole(WANTED))
        path = os.environ["PATH"]
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(HostError, match="no program `nft`"):
            await actuator.close()
        monkeypatch.setenv("PATH", path)
        assert "proto 116" not in host.run("ip", "route", "show", "dev", "flannel0")
        assert "unreachable" not in host.run("ip", "route")
        assert host.run("sysctl", "-n", "net.ipv4.ip_forward") == "0\n"

    run_actuated(host, tmp_path, work)


def test_change_of_subnet_moves_everything(
    host: Namespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    subnet = IPv4Network("10.5.2.0/24")
    whole_network = Route(destination=NETWORK, kind="overlay")
    moved = HostState(
        device=replace(WANTED.device, address=IPv4Address("10.5.2.0")) if WANTED.device else None,
        routes=frozenset(
            {whole_network, Route(destination=subnet, kind="unreachable", metric=4294967295)}
        ),
        firewall=Firewall(ipv4=OverlayNet(network=NETWORK, subnet=subnet), masquerade=False),
        subnet_env=SubnetEnv(network=NETWORK, subnet=subnet, mtu_bytes=1472, ip_masq=False),
    )

    async def work(actuator: Actuator) -> None:
        await actuator.apply(whole(WANTED))
        await actuator.apply(
            HostChange(
                device=moved.device,
                drop_routes=WANTED.routes - moved.routes,
                put_routes=moved.routes - WANTED.routes,
                firewall=moved.firewall,
                subnet_env=moved.subnet_env,
            )
        )
        assert await actuator.observe() == moved

    with caplog.at_level(logging.WARNING, logger="tunneld"):
        run_actuated(host, tmp_path, work)
    assert caplog.records == []


def test_cancelled_change_goes_on_after_no_stop(host: Namespace, tmp_path: Path) -> None:
    before = everything(host)

    async def main(turns: int) -> bool:
        async with actuated(tmp_path / "subnet.env") as (actuator, _, _):
            change = asyncio.create_task(actuator.apply(whole(WANTED)))
            for _ in range(turns):
                await asyncio.sleep(0)
                await actuator_turn()
            change.cancel()
            (outcome,) = await asyncio.gather(change, return_exceptions=True)
            return outcome is None

    async def actuator_turn() -> None:
        """Gives the threads and processes of the change a moment of their own."""
        await asyncio.to_thread(lambda: None)

    is_whole = False
    turns = 0
    while not is_whole:
        is_whole = run_inside(host, partial(main, turns))
        assert everything(host) == before, f"cancelled after {turns} turns"
        turns += max(1, turns // 4)

"""A state with a TUN device is put in place, whole or not at all."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from testbed.netns import Namespace
from tests.unit.host.actuator.conftest import everything
from tests.unit.host.actuator.tun import NETWORK, WANTED, actuated, missing, run_actuated, whole
from tests.unit.host.conftest import run_inside
from tunneld.errors import HostError
from tunneld.fib.state import Firewall, HostChange, HostState, OverlayNet, Route, SubnetEnv
from tunneld.host.actuator import Actuator

pytestmark = pytest.mark.root


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


def test_route_in_the_way_is_an_error_and_the_rest_is_there_and_taken_down_again(
    host: Namespace, tmp_path: Path
) -> None:
    host.run("ip", "route", "add", "10.5.0.0/16", "via", "192.0.2.9")
    before = everything(host)

    async def work(actuator: Actuator) -> None:
        with pytest.raises(HostError, match=r"10\.5\.0\.0/16 via 192\.0\.2\.9 dev eth0"):
            await actuator.apply(whole(WANTED))
        actual = await actuator.observe()
        assert {route.kind for route in WANTED.routes - actual.routes} == {"overlay"}
        assert actual.firewall == WANTED.firewall
        assert actual.subnet_env is None

    run_actuated(host, tmp_path, work)
    assert everything(host) == before


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


@pytest.mark.timeout(900)  # some thirty starts and stops, on a machine that may be busy
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

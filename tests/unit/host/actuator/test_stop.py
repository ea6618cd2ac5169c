"""What a stop takes away, and what a daemon finds that was killed before one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testbed.netns import Namespace
from tests.unit.host.actuator.conftest import everything
from tests.unit.host.actuator.tun import WANTED, missing, run_actuated, whole
from tunneld.errors import HostError
from tunneld.host.actuator import Actuator

pytestmark = pytest.mark.root


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

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.netns import Namespace
from tests.unit.host.conftest import inside
from tunneld.host.forwarding import GlobalForwarding, docker_sign
from tunneld.host.state_dir import StateDir

pytestmark = pytest.mark.root


@pytest.fixture
def host(space: Namespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Namespace]:
    """A host that forwards nothing, without Docker on the PATH, and this thread in it."""
    space.sysctl("net/ipv4/ip_forward", 0)
    entries = os.environ["PATH"].split(":")
    monkeypatch.setenv(
        "PATH", ":".join(entry for entry in entries if not Path(entry, "dockerd").exists())
    )
    with inside(space):
        yield space


def switch(space: Namespace, device: str = "") -> str:
    path = f"conf/{device}/forwarding" if device else "ip_forward"
    return space.run("cat", f"/proc/sys/net/ipv4/{path}").strip()


def test_switch_goes_on_without_docker_and_off_again(host: Namespace) -> None:
    forwarding = GlobalForwarding()
    forwarding.switch_on()
    assert switch(host) == "1"
    assert forwarding.is_ours
    forwarding.switch_on()
    forwarding.restore()
    assert switch(host) == "0"
    assert not forwarding.is_ours
    forwarding.restore()


def test_switch_that_was_on_stays_on(host: Namespace) -> None:
    host.sysctl("net/ipv4/ip_forward", 1)
    forwarding = GlobalForwarding()
    forwarding.switch_on()
    assert not forwarding.is_ours
    forwarding.restore()
    assert switch(host) == "1"


def test_switch_that_somebody_turned_off_meanwhile_is_not_touched(host: Namespace) -> None:
    host.bridge("br0")
    forwarding = GlobalForwarding()
    forwarding.switch_on()
    host.sysctl("net/ipv4/ip_forward", 0)
    host.sysctl("net/ipv4/conf/br0/forwarding", 1)
    forwarding.restore()
    assert (switch(host), switch(host, "br0")) == ("0", "1")


def test_device_that_forwarded_before_forwards_afterwards(host: Namespace) -> None:
    for device in ("br0", "br1", "br2"):
        host.bridge(device)
    host.sysctl("net/ipv4/conf/br0/forwarding", 1)
    host.sysctl("net/ipv4/conf/br1/forwarding", 1)
    forwarding = GlobalForwarding()
    forwarding.switch_on()
    host.run("ip", "link", "del", "br1")
    forwarding.restore()
    assert (switch(host, "br0"), switch(host, "br2")) == ("1", "0")


def test_docker_is_left_to_switch_it_on_itself(
    host: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    host.bridge("docker0")
    assert docker_sign() == "the device docker0 is there"
    forwarding = GlobalForwarding()
    with caplog.at_level(logging.INFO, logger="tunneld"):
        forwarding.switch_on()
        forwarding.switch_on()
    assert switch(host) == "0"
    assert [record.message for record in caplog.records] == [
        "global IPv4 forwarding is off and left to Docker"
    ]


def test_dockerd_on_the_path_is_a_sign_of_docker(
    host: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dockerd").write_text("#!/bin/sh\n")
    (tmp_path / "dockerd").chmod(0o755)
    assert docker_sign() is None
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert docker_sign() == "dockerd is installed"


def test_policy_of_the_operator_comes_before_docker(host: Namespace) -> None:
    GlobalForwarding("never").switch_on()
    assert switch(host) == "0"
    host.bridge("docker0")
    forwarding = GlobalForwarding("always")
    forwarding.switch_on()
    assert switch(host) == "1"
    forwarding.restore()
    assert switch(host) == "0"


def test_switch_of_a_killed_daemon_is_put_back_by_the_next(host: Namespace, tmp_path: Path) -> None:
    with StateDir(tmp_path) as state:
        GlobalForwarding(state_dir=state).switch_on()  # and this daemon is killed
    with StateDir(tmp_path) as state:
        heir = GlobalForwarding(state_dir=state)
        heir.switch_on()
        assert switch(host) == "1"
        heir.restore()
        assert switch(host) == "0"
        host.sysctl("net/ipv4/ip_forward", 1)
        later = GlobalForwarding(state_dir=state)
        later.restore()
        assert switch(host) == "1"


def test_memory_of_an_earlier_boot_is_void(host: Namespace, tmp_path: Path) -> None:
    with StateDir(tmp_path) as state:
        state.save("forwarding", {"boot": "11111111-2222-3333-4444-555555555555", "before": []})
        host.sysctl("net/ipv4/ip_forward", 1)
        GlobalForwarding(state_dir=state).restore()
    assert switch(host) == "1"

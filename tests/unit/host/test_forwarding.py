from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from testbed.netns import Namespace, Rig, inside
from testbed.wait import wait_until
from tunneld.host.forwarding import GlobalForwarding, Version, docker_sign
from tunneld.host.state_dir import StateDir

pytestmark = pytest.mark.root

BOTH: Final[tuple[Version, ...]] = (4, 6)


@pytest.fixture
def host(space: Namespace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Namespace]:
    """A host that forwards nothing, without Docker on the PATH, and this thread in it."""
    for version in BOTH:
        space.sysctl(f"net/ipv{version}/conf/all/forwarding", 0)
    entries = os.environ["PATH"].split(":")
    monkeypatch.setenv(
        "PATH", ":".join(entry for entry in entries if not Path(entry, "dockerd").exists())
    )
    with inside(space):
        yield space


def setting(space: Namespace, name: str) -> str:
    return space.run("cat", f"/proc/sys/net/{name}").strip()


def switch(space: Namespace, version: Version, device: str = "all") -> str:
    return setting(space, f"ipv{version}/conf/{device}/forwarding")


@pytest.mark.parametrize("version", BOTH)
def test_switch_goes_on_without_docker_and_off_again(host: Namespace, version: Version) -> None:
    forwarding = GlobalForwarding()
    forwarding.switch_on(BOTH)
    assert switch(host, version) == "1"
    assert forwarding.is_ours
    forwarding.switch_on(BOTH)
    forwarding.restore()
    assert switch(host, version) == "0"
    assert not forwarding.is_ours
    forwarding.restore()


@pytest.mark.parametrize("version", BOTH)
def test_switch_that_was_on_stays_on(host: Namespace, version: Version) -> None:
    host.sysctl(f"net/ipv{version}/conf/all/forwarding", 1)
    forwarding = GlobalForwarding()
    forwarding.switch_on((version,))
    assert not forwarding.is_ours
    forwarding.restore()
    assert switch(host, version) == "1"


@pytest.mark.parametrize("version", BOTH)
def test_switch_that_somebody_turned_off_meanwhile_is_not_touched(
    host: Namespace, version: Version
) -> None:
    host.bridge("br0")
    forwarding = GlobalForwarding()
    forwarding.switch_on(BOTH)
    host.sysctl(f"net/ipv{version}/conf/all/forwarding", 0)
    host.sysctl(f"net/ipv{version}/conf/br0/forwarding", 1)
    forwarding.restore()
    assert (switch(host, version), switch(host, version, "br0")) == ("0", "1")


@pytest.mark.parametrize("version", BOTH)
def test_device_that_forwarded_before_forwards_afterwards(
    host: Namespace, version: Version
) -> None:
    for device in ("br0", "br1", "br2"):
        host.bridge(device)
    host.sysctl(f"net/ipv{version}/conf/br0/forwarding", 1)
    host.sysctl(f"net/ipv{version}/conf/br1/forwarding", 1)
    forwarding = GlobalForwarding()
    forwarding.switch_on(BOTH)
    host.run("ip", "link", "del", "br1")
    forwarding.restore()
    assert (switch(host, version, "br0"), switch(host, version, "br2")) == ("1", "0")


def test_docker_is_left_to_switch_it_on_itself(
    host: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    host.bridge("docker0")
    assert docker_sign() == "the device docker0 is there"
    forwarding = GlobalForwarding()
    with caplog.at_level(logging.INFO, logger="tunneld"):
        forwarding.switch_on(BOTH)
        forwarding.switch_on(BOTH)
    assert [switch(host, version) for version in BOTH] == ["0", "0"]
    assert [record.message for record in caplog.records] == [
        "global IPv4 forwarding is off and left to Docker",
        "global IPv6 forwarding is off and left to Docker",
    ]
    assert not forwarding.is_due()


@pytest.mark.parametrize("version", BOTH)
def test_switch_that_is_off_and_not_ours_is_a_problem_until_it_is_on_again(
    host: Namespace, version: Version, caplog: pytest.LogCaptureFixture
) -> None:
    """On a Docker host: a later `sysctl ip_forward=0` stops every container's packets."""
    host.bridge("docker0")
    for each in BOTH:
        host.sysctl(f"net/ipv{each}/conf/all/forwarding", 1)
    forwarding = GlobalForwarding()
    forwarding.switch_on(BOTH)
    assert not forwarding.is_due()
    assert forwarding.problem is None
    host.sysctl(f"net/ipv{version}/conf/all/forwarding", 0)
    with caplog.at_level(logging.INFO, logger="tunneld"):
        for _ in range(3):
            assert not forwarding.is_due()
        name = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}[version]
        assert f"run `sysctl -w {name}=1`" in str(forwarding.problem)
        host.sysctl(f"net/ipv{version}/conf/all/forwarding", 1)
        forwarding.is_due()
    assert forwarding.problem is None
    assert [record.message for record in caplog.records] == [
        "global forwarding is off",
        "global forwarding is on again",
    ]


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("is_killed", [False, True])
def test_switch_that_others_may_rely_on_by_now_stays_on(
    host: Namespace, version: Version, is_killed: bool, tmp_path: Path
) -> None:
    """podman, libvirt and LXC write a 1 where there is one already, and make devices."""
    with StateDir(tmp_path) as state:
        forwarding = GlobalForwarding(state_dir=state)
        forwarding.switch_on((version,))
        host.bridge("flannel0")
        if is_killed:
            forwarding = GlobalForwarding(state_dir=state)
            forwarding.switch_on((version,))
        host.bridge("podman0")
        forwarding.restore(ours=["flannel0"])
        assert switch(host, version) == "1"
        host.run("ip", "link", "delete", "podman0")
        # By then it is the others': no later daemon takes it for ours.
        GlobalForwarding(state_dir=state).restore()
        assert switch(host, version) == "1"


@pytest.mark.parametrize("version", BOTH)
def test_switch_of_a_family_that_others_translate_in_stays_on(
    host: Namespace, version: Version
) -> None:
    forwarding = GlobalForwarding()
    forwarding.switch_on(BOTH)
    forwarding.restore(translated=[version])
    other = {4: 6, 6: 4}[version]
    assert switch(host, version) == "1"
    assert setting(host, f"ipv{other}/conf/all/forwarding") == "0"


def test_dockerd_on_the_path_is_a_sign_of_docker(
    host: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dockerd").write_text("#!/bin/sh\n")
    (tmp_path / "dockerd").chmod(0o755)
    assert docker_sign() is None
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert docker_sign() == "dockerd is installed"


@pytest.mark.parametrize("version", BOTH)
def test_policy_of_the_operator_comes_before_docker(host: Namespace, version: Version) -> None:
    GlobalForwarding("never").switch_on(BOTH)
    assert switch(host, version) == "0"
    host.bridge("docker0")
    forwarding = GlobalForwarding("always")
    forwarding.switch_on(BOTH)
    assert switch(host, version) == "1"
    forwarding.restore()
    assert switch(host, version) == "0"


@pytest.mark.parametrize("version", BOTH)
def test_switch_of_a_killed_daemon_is_put_back_by_the_next(
    host: Namespace, version: Version, tmp_path: Path
) -> None:
    with StateDir(tmp_path) as state:
        GlobalForwarding(state_dir=state).switch_on((version,))  # and this daemon is killed
    with StateDir(tmp_path) as state:
        heir = GlobalForwarding(state_dir=state)
        heir.switch_on((version,))
        assert switch(host, version) == "1"
        heir.restore()
        assert switch(host, version) == "0"
        host.sysctl(f"net/ipv{version}/conf/all/forwarding", 1)
        later = GlobalForwarding(state_dir=state)
        later.restore()
        assert switch(host, version) == "1"


@pytest.mark.parametrize("version", BOTH)
def test_memory_of_an_earlier_boot_is_void(
    host: Namespace, version: Version, tmp_path: Path
) -> None:
    with StateDir(tmp_path) as state:
        boot = "11111111-2222-3333-4444-555555555555"
        for name in ("forwarding", "forwarding-v6"):
            state.save(name, {"boot": boot, "before": []})
        host.sysctl(f"net/ipv{version}/conf/all/forwarding", 1)
        GlobalForwarding(state_dir=state).restore()
    assert switch(host, version) == "1"


@pytest.mark.parametrize(("mine", "other"), [(4, 6), (6, 4)])
def test_the_family_that_is_not_wanted_stays_off(
    host: Namespace, mine: Version, other: Version
) -> None:
    forwarding = GlobalForwarding()
    forwarding.switch_on((mine,))
    assert (switch(host, mine), switch(host, other)) == ("1", "0")
    forwarding.restore()
    assert switch(host, mine) == "0"


@pytest.mark.parametrize("version", BOTH)
def test_switch_that_somebody_turns_off_is_due_again(host: Namespace, version: Version) -> None:
    forwarding = GlobalForwarding()
    assert not forwarding.is_due()
    forwarding.switch_on(BOTH)
    assert not forwarding.is_due()
    host.sysctl(f"net/ipv{version}/conf/all/forwarding", 0)
    assert forwarding.is_due()
    forwarding.switch_on(())
    assert not forwarding.is_due()
    assert switch(host, version) == "1"
    forwarding.restore()
    assert switch(host, version) == "0"
    assert not GlobalForwarding("never").is_due()


def test_device_that_was_forced_to_forward_ipv6_is_so_afterwards(host: Namespace) -> None:
    host.bridge("br0")
    if "force_forwarding" not in host.run("ls", "/proc/sys/net/ipv6/conf/br0"):
        return  # Linux before 6.17 has nothing to put back
    host.sysctl("net/ipv6/conf/br0/force_forwarding", 1)
    forwarding = GlobalForwarding()
    forwarding.switch_on(BOTH)
    forwarding.restore()
    assert setting(host, "ipv6/conf/br0/force_forwarding") == "1"


ADVERTISE = """
import socket, sys
router = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
lifetime_s = (1800).to_bytes(2, "big")  # RFC 4861 section 4.2
index = socket.if_nametoindex("eth0")
router.sendto(bytes([134, 0, 0, 0, 64, 0]) + lifetime_s + bytes(8), ("ff02::1", 0, 0, index))
"""


def test_host_that_lives_by_router_advertisements_keeps_its_default_route(
    rig: Rig, host: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    router = rig.namespace("router")
    router.sysctl("net/ipv6/conf/default/accept_dad", 0)
    rig.link(host, "eth0", router, "eth0")
    host.bridge("br0")
    router.sysctl("net/ipv6/conf/all/forwarding", 1)

    def is_routed() -> bool:
        router.try_run(sys.executable, "-c", ADVERTISE)
        return "proto ra" in host.run("ip", "-6", "route", "show", "default")

    wait_until(is_routed, 20.0, "a default route by advertisement", poll_s=0.2)
    forwarding = GlobalForwarding()
    forwarding.switch_on(BOTH)
    assert "proto ra" in host.run("ip", "-6", "route", "show", "default")
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.__dict__["fields"] == {"device": "eth0"}
    host.run("ip", "-6", "route", "del", "default")
    wait_until(is_routed, 20.0, "a default route by advertisement again", poll_s=0.2)
    assert setting(host, "ipv6/conf/br0/accept_ra") == "1"
    forwarding.restore()
    assert setting(host, "ipv6/conf/eth0/accept_ra") == "1"

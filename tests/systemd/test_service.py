"""The service in operation: who it runs as, and that it comes back whatever ends it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from functools import partial

import pytest

from testbed.booted import BootedHost, BootedNetwork, wait_connected
from testbed.events import FLUSHES, KILL, Event, main_pid, measure
from testbed.freeze import freeze
from testbed.probe import Probe
from testbed.process import thread_ids
from testbed.wait import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first installs tunneld

RECOVERY_TIMEOUT_S = 30.0
# capability(7): CAP_NET_BIND_SERVICE is 10, CAP_NET_ADMIN 12, CAP_NET_RAW 13.
CAPABILITIES = 1 << 10 | 1 << 12 | 1 << 13


def wait_other_process(host: BootedHost, pid: int) -> None:
    """Waits until the service is active again, in another process than `pid`."""

    def is_back() -> bool:
        return main_pid(host.machine) not in (0, pid) and host.machine.is_active("tunneld")

    wait_until(is_back, RECOVERY_TIMEOUT_S, f"another tunneld on {host.name}")


def test_the_daemon_runs_as_a_user_of_its_own_with_three_capabilities(
    booted: BootedNetwork,
) -> None:
    for host in booted.hosts:
        status = host.machine.run("cat", f"/proc/{main_pid(host.machine)}/status")
        fields = dict(re.findall(r"^(\w+):\t(.+)$", status, re.MULTILINE))
        uid = host.machine.run("id", "-u", "tunneld").strip()
        assert uid != "0"
        assert set(fields["Uid"].split()) == {uid}
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(fields[name], 16) == CAPABILITIES, name
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2"  # a filter is on


def test_the_daemon_may_choose_how_its_data_threads_are_scheduled(booted: BootedNetwork) -> None:
    def has_chosen(threads: list[int]) -> bool:
        # Where other tests hold all processors it is normal for a while, then tried again.
        return {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_BATCH}

    for host in booted.hosts:
        pid = host.machine.host_pid(main_pid(host.machine))
        threads = thread_ids(pid, "tunneld-")
        wait_until(partial(has_chosen, threads), RECOVERY_TIMEOUT_S, "SCHED_BATCH")
        assert os.sched_getscheduler(pid) == os.SCHED_OTHER
        assert "are given no scheduling policy" not in host.machine.journal("tunneld")


@pytest.mark.parametrize("unit", ["tunneld.service", "tunneld@blue.service"])
def test_systemd_finds_nothing_to_object_to(booted: BootedNetwork, unit: str) -> None:
    done = booted.hosts[0].machine.try_run("systemd-analyze", "verify", "--man=no", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("unit", ["tunneld.service", "tunneld@.service"])
def test_the_units_exposure_is_at_most_2_3(booted: BootedNetwork, unit: str) -> None:
    done = booted.hosts[0].machine.try_run(
        *("systemd-analyze", "security", "--offline=true", "--threshold=23", "--no-pager"),
        f"/usr/lib/systemd/system/{unit}",
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_killed_daemon_is_back_and_the_containers_with_it(
    booted: BootedNetwork, figures: list[dict[str, object]]
) -> None:
    first, second = booted.hosts
    subnet, restarts = second.subnet, int(second.machine.show("tunneld", "NRestarts"))

    figures.extend(measure(KILL, second, first))

    assert int(second.machine.show("tunneld", "NRestarts")) == restarts + 1
    assert second.subnet == subnet


@pytest.mark.parametrize("event", FLUSHES, ids=lambda event: event.name)
def test_rules_that_somebody_flushes_come_back_and_the_packets_with_them(
    booted: BootedNetwork, figures: list[dict[str, object]], event: Event
) -> None:
    first, second = booted.hosts
    pid = main_pid(second.machine)

    figures.extend(measure(event, second, first))

    assert main_pid(second.machine) == pid


def test_rules_of_iptables_legacy_come_back_where_only_root_may_see_its_tables(
    booted: BootedNetwork,
) -> None:
    first, second = booted.hosts
    (event,) = (event for event in FLUSHES if "legacy" in event.name)
    # As when the kernel module is loaded only after the daemon was started.
    second.machine.run("chgrp", "root", "/proc/net/ip_tables_names")
    measure(event, second, first)
    second.machine.run("chgrp", "tunneld", "/proc/net/ip_tables_names")


@pytest.fixture
def impatient(booted: BootedNetwork) -> Iterator[BootedHost]:
    """A host whose systemd waits less for a sign of life, yet longer than a busy machine takes."""
    host = booted.hosts[1]
    drop_in = "/etc/systemd/system/tunneld.service.d/watchdog.conf"
    host.machine.write(drop_in, "[Service]\nWatchdogSec=10\n")
    restart(host)
    yield host
    host.machine.run("rm", drop_in)
    restart(host)


def restart(host: BootedHost) -> None:
    host.machine.run("systemctl", "daemon-reload")
    host.machine.run("systemctl", "restart", "tunneld")


@pytest.mark.parametrize("prefix", ["", "tunneld-"], ids=["control loop", "data thread"])
def test_a_daemon_that_hangs_is_killed_by_the_watchdog_and_is_back(
    booted: BootedNetwork, impatient: BootedHost, prefix: str
) -> None:
    machine = impatient.machine
    pid, subnet = main_pid(impatient.machine), impatient.subnet
    restarts = int(machine.show("tunneld", "NRestarts"))
    (thread, *_) = thread_ids(machine.host_pid(pid), prefix)

    freezer = freeze(thread, machine.space.directory / "freeze.log")
    machine.space.processes.append(freezer)
    wait_other_process(impatient, pid)

    assert freezer.wait() == 0
    machine.wait_for_journal("tunneld", "Failed with result 'watchdog'")
    assert int(machine.show("tunneld", "NRestarts")) == restarts + 1
    assert impatient.subnet == subnet
    wait_connected(booted.hosts[0], impatient)


def test_a_reload_ends_well_and_loses_no_packet(booted: BootedNetwork) -> None:
    first, second = booted.hosts
    pid = main_pid(second.machine)
    probes = [Probe(first, second), Probe(second, first)]
    for probe in probes:
        probe.wait_steady(0.0, RECOVERY_TIMEOUT_S)

    second.machine.run("systemctl", "reload", "tunneld")
    reloaded_at_s = time.monotonic()
    for probe in probes:
        probe.wait_steady(reloaded_at_s, RECOVERY_TIMEOUT_S)
        probe.stop()

    assert main_pid(second.machine) == pid
    assert [probe.lost() for probe in probes] == [0, 0]


def test_a_second_network_lives_beside_the_first(booted: BootedNetwork) -> None:
    blue = "/blue"
    booted.etcd.put(
        f"{blue}/config", '{"Network": "10.6.0.0/16", "Backend": {"Type": "udp", "Port": 8286}}'
    )
    config = f'etcd-endpoints = ["{booted.etcd.endpoint}"]\netcd-prefix = "{blue}"\n'
    for host in booted.hosts:
        host.machine.write("/etc/tunneld/blue.toml", config)
        host.machine.run("systemctl", "start", "tunneld@blue")
    first, second = booted.hosts
    env = second.machine.run("cat", "/run/flannel-blue/subnet.env")
    match = re.search(r"^FLANNEL_SUBNET=(10\.6\.\d+)\.1/24$", env, re.MULTILINE)
    assert match is not None, env

    def reaches_the_blue_host() -> bool:
        address = f"{match[1]}.0"
        return first.machine.try_run("ping", "-c1", "-W1", address).returncode == 0

    wait_until(reaches_the_blue_host, RECOVERY_TIMEOUT_S, "a ping through the second network")
    wait_connected(first, second)
    for host in booted.hosts:
        host.machine.run("systemctl", "stop", "tunneld@blue")
    wait_connected(first, second)

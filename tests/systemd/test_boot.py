"""Hosts boot into the network by themselves, in the right order, and leave it without a trace."""

from __future__ import annotations

import time

import pytest

from testbed.booted import PREFIX, SUBNET_FILE, BootedNetwork, pings, wait_connected
from testbed.systemd_machine import SystemdMachine
from testbed.wait import wait_until
from tests.systemd.conftest import MakeNetwork
from tests.systemd.traces import traces

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first installs tunneld


def started_at_us(machine: SystemdMachine, unit: str) -> int:
    """Returns when a unit became active, on the monotonic clock."""
    return int(machine.show(unit, "ActiveEnterTimestampMonotonic"))


def wait_status(machine: SystemdMachine, beginning: str) -> None:
    def is_shown() -> bool:
        return machine.show("tunneld", "StatusText").startswith(beginning)

    wait_until(is_shown, 20, f"the status {beginning!r}")


def test_hosts_boot_to_containers_that_reach_each_other(
    network_of: MakeNetwork, figures: list[dict[str, object]]
) -> None:
    with network_of("a", "b") as network:
        network.start_store()
        first, second = network.hosts
        began_at_s = time.monotonic()
        for host in network.hosts:
            host.machine.begin_boot()
        for host in network.hosts:
            host.machine.wait_booted()
        wait_connected(first, second)
        figures.append({"boot_to_ping_s": round(time.monotonic() - began_at_s, 2), "hosts": 2})

        assert pings(second, first, patience_s=30)
        assert not first.subnet.overlaps(second.subnet)
        for host in network.hosts:
            assert host.machine.run("systemctl", "is-system-running") == "running\n"
            # The container's unit needs subnet.env: READY came after it was written.
            order = [started_at_us(host.machine, unit) for unit in ("tunneld", "container")]
            assert order == sorted(order)


def test_a_host_that_boots_before_its_store_waits_and_says_so(network_of: MakeNetwork) -> None:
    with network_of("a", "b") as network:
        machines = [host.machine for host in network.hosts]
        for machine in machines:
            machine.begin_boot()
        for machine in machines:
            wait_status(machine, "waiting for the network config: store: ")
            assert machine.show("tunneld", "ActiveState") == "activating"
            assert machine.show("container", "ActiveState") == "inactive"

        network.start_store()

        first, second = network.hosts
        for machine in machines:
            machine.wait_booted()
            assert machine.is_active("tunneld")
            assert machine.show("tunneld", "NRestarts") == "0"
        wait_connected(first, second)


def test_a_host_that_is_booted_again_has_its_subnet_again(booted: BootedNetwork) -> None:
    first, second = booted.hosts
    subnet, leases = second.subnet, set(booted.etcd.everything(f"{PREFIX}/subnets/"))

    second.machine.shut_down()
    second.machine.boot()

    assert second.subnet == subnet
    assert set(booted.etcd.everything(f"{PREFIX}/subnets/")) == leases
    wait_connected(first, second)


def test_stopping_the_unit_leaves_a_clean_host(network_of: MakeNetwork) -> None:
    with network_of("a", "b") as network:
        network.start_store()
        for host in network.hosts:
            host.machine.disable("tunneld.service")
            host.machine.disable("container.service")
            host.machine.boot()
        machine = network.hosts[0].machine
        before = traces(machine)
        for host in network.hosts:
            host.machine.run("systemctl", "start", "tunneld")
        during = traces(machine)

        machine.run("systemctl", "stop", "tunneld")

        assert "flannel0" in during
        assert "net.ipv4.ip_forward = 1" in during
        assert traces(machine) == before
        assert machine.show("tunneld", "Result") == "success"
        assert machine.show("tunneld", "ExecMainStatus") == "0"
        # Docker and CNI plugins may ask for the subnet while the daemon is away.
        assert "FLANNEL_SUBNET=" in machine.run("cat", SUBNET_FILE)

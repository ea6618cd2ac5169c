"""The unit, a user with three capabilities, has the rights that each backend and family needs."""

from __future__ import annotations

import pytest

from testbed.booted import CONFIG, BootedNetwork
from testbed.systemd_machine import SystemdMachine
from testbed.wait import wait_until
from tests.systemd.conftest import MakeNetwork
from tests.systemd.traces import traces

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first installs tunneld


def reached(network: BootedNetwork) -> bool:
    """Pings an address in the other host's subnet, in each family; the host itself has it."""
    first, second = network.hosts
    addresses = [
        second.subnet_env[name].split("/")[0] for name in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET")
    ]
    for address in addresses:
        second.machine.run("ip", "address", "replace", address, "dev", "lo")
    return all(answers(first.machine, address) for address in addresses)


def answers(machine: SystemdMachine, address: str) -> bool:
    script = f"ping -c1 -W1 {address} >/dev/null && echo yes || echo no"
    return machine.run("sh", "-c", script) == "yes\n"


@pytest.mark.parametrize(
    ("backend", "options", "device"),
    [
        ("udp", "", "flannel0"),
        ("vxlan", "", "flannel.1"),
        ("vxlan", 'datapath = "kernel"\n', "flannel-v6.1"),
        ("host-gw", "", ""),
    ],
    ids=["udp", "vxlan", "vxlan by the kernel", "host-gw"],
)
def test_the_unit_serves_two_families_and_leaves_a_clean_host(
    network_of: MakeNetwork, backend: str, options: str, device: str
) -> None:
    with network_of("a", "b") as network:
        network.start_store(backend, EnableIPv6=True, IPv6Network="fd00:10:5::/48")
        for number, host in enumerate(network.hosts, 11):
            host.machine.write("/etc/tunneld/tunneld.toml", CONFIG + options)
            host.machine.disable("tunneld.service")
            host.machine.disable("container.service")
            host.machine.boot()
            underlay = f"2001:db8::{number}/64"
            host.machine.run("ip", "address", "add", underlay, "dev", "eth0", "nodad")
            host.machine.run("ip", "-6", "route", "add", "default", "via", "2001:db8::1")
        machine = network.hosts[0].machine
        before = traces(machine)
        for host in network.hosts:
            host.machine.run("systemctl", "start", "tunneld")

        wait_until(lambda: reached(network), 20, "the other host in each family")
        assert device in machine.run("ip", "-brief", "link")
        assert machine.run("sysctl", "-n", "net.ipv6.conf.all.forwarding") == "1\n"

        machine.run("systemctl", "stop", "tunneld")
        assert traces(machine) == before
        assert machine.show("tunneld", "Result") == "success"

"""What passes by itself is waited for: no end, no READY, and status, health and log name it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from testbed.etcd import Etcd
from testbed.netns import inside
from testbed.process import Process
from testbed.wait import wait_until
from tests.e2e.manager import Manager
from tests.e2e.single_host import SingleHost
from tests.e2e.site import PREFIX
from tests.e2e.test_bad_input import GOOD_CONFIG, INVALID_CONFIGS

pytestmark = pytest.mark.root

HEALTH_PORT = 8471


def problems(host: SingleHost) -> str:
    return "\n".join(host.status()["problems"])


def readiness(host: SingleHost) -> tuple[int, str]:
    """Returns what /readyz answers with."""
    with inside(host.space):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{HEALTH_PORT}/readyz") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def waits(host: SingleHost, daemon: Process, *words: str) -> None:
    """Asserts that a daemon is alive, not ready, and names all of `words` in status and log."""
    wait_until(host.control_socket.exists, 10.0, "a control socket")
    wait_until(lambda: all(word in problems(host) for word in words), 20.0, f"{words} in status")
    assert daemon.exit_status is None
    assert host.status()["state"] == "starting"
    assert not host.subnet_file.exists()
    daemon.wait_for_output(words[0])


def complaints(daemon: Process) -> int:
    """Returns how many lines of the log, which must be JSON, tell of an error."""
    lines = [json.loads(line) for line in daemon.output().splitlines()]
    return len([line for line in lines if "error" in line])


@contextmanager
def waiting(
    host: SingleHost, manager: Manager, *options: str, words: tuple[str, ...]
) -> Iterator[Process]:
    """Starts a daemon that has to wait; in the end it must be ready and stop when asked to."""
    daemon = host.start_daemon(
        *("--log-format", "json", "--healthz-port", str(HEALTH_PORT)),
        *options,
        environment=manager.environment,
    )
    waits(host, daemon, *words)
    status, text = readiness(host)
    assert status == 503
    assert words[0] in text
    manager.wait_for(rf"^STATUS=(waiting for|setting up) .*{words[0]}")
    assert not [told for told in manager.told() if told.startswith("READY")]
    yield daemon
    assert host.wait_ready()["problems"] == []
    manager.wait_for(r"^READY=1$")
    # A reason that changes is told anew, and the store is away at some of the starts.
    assert complaints(daemon) <= 6, "once a minute, not once a try"
    assert daemon.stop() == 0


def test_a_default_route_that_comes_late_is_waited_for(
    host: SingleHost, etcd: Etcd, manager: Manager
) -> None:
    etcd.put(f"{PREFIX}/config", GOOD_CONFIG)
    host.space.run("ip", "route", "del", "default")
    with waiting(host, manager, words=("no default route", "--iface", "eth0")):
        host.space.run("ip", "route", "add", "default", "via", str(host.switch_address))


def test_an_interface_that_comes_late_is_waited_for_without_a_store(
    host: SingleHost, manager: Manager
) -> None:
    words = ("wan7", "eth0", "127.0.0.1")
    with waiting(host, manager, "--iface", "wan7", words=words):
        etcd = Etcd(host.switch, str(host.switch_address))
        etcd.start()
        etcd.put(f"{PREFIX}/config", GOOD_CONFIG)
        # An interface, its name and its address come one after the other.
        host.space.run("ip", "link", "add", "dmz0", "type", "bridge")
        host.space.run("ip", "link", "set", "dmz0", "name", "wan7")
        host.space.run("ip", "link", "set", "wan7", "up")
        wait_until(lambda: "wan7 has no IPv4 address" in problems(host), 20.0, "the new reason")
        host.space.run("ip", "address", "add", "198.51.100.7/24", "dev", "wan7")


def test_an_alternative_name_is_a_name(host: SingleHost, etcd: Etcd, manager: Manager) -> None:
    etcd.put(f"{PREFIX}/config", GOOD_CONFIG)
    with waiting(host, manager, "--iface", "enp1s0f0np0", words=("enp1s0f0np0",)):
        host.space.run("ip", "link", "property", "add", "dev", "eth0", "altname", "enp1s0f0np0")


def test_interfaces_that_fit_both_are_waited_for_until_one_does(
    host: SingleHost, etcd: Etcd, manager: Manager
) -> None:
    etcd.put(f"{PREFIX}/config", GOOD_CONFIG)
    for device in ("dmz1", "dmz2"):
        host.space.run("ip", "link", "add", device, "type", "bridge")
    words = ("ambiguous", "dmz1", "dmz2")
    with waiting(host, manager, "--iface-regex", "dmz[12]|eth0", words=words):
        host.space.run("ip", "link", "del", "dmz1")
        host.space.run("ip", "link", "del", "dmz2")


@pytest.mark.parametrize("backend", ["udp", "alloc"])
def test_an_ipv6_address_that_the_network_needs_is_waited_for(
    host: SingleHost, etcd: Etcd, manager: Manager, backend: str
) -> None:
    ipv6 = {"EnableIPv6": True, "IPv6Network": "fd00:10:5::/48"}
    text = {"Network": "10.5.0.0/16", **ipv6, "Backend": {"Type": backend}}
    etcd.put(f"{PREFIX}/config", json.dumps(text))
    with waiting(host, manager, words=("eth0 has no global IPv6 address",)):
        host.space.run("ip", "address", "add", "2001:db8::11/64", "dev", "eth0", "nodad")


def test_a_port_whose_holder_is_about_to_end_is_waited_for(
    host: SingleHost, etcd: Etcd, manager: Manager
) -> None:
    etcd.put(f"{PREFIX}/config", GOOD_CONFIG)
    holder = host.space.start("socat", "-u", f"UDP4-RECV:8285,bind={host.address}", "-")
    wait_until(lambda: "8285" in host.space.run("ss", "-lun"), what="a program that holds UDP 8285")
    with waiting(host, manager, words=("8285", "socat")):
        holder.stop()


def test_every_invalid_config_is_named_until_there_is_a_valid_one(
    host: SingleHost, etcd: Etcd, manager: Manager
) -> None:
    texts = iter(INVALID_CONFIGS.values())
    text, first = next(texts)
    etcd.put(f"{PREFIX}/config", text)
    daemon = host.start_daemon(environment=manager.environment)
    waits(host, daemon, first)
    manager.wait_for(r"^STATUS=waiting for the network config: ")
    for text, words in texts:
        etcd.put(f"{PREFIX}/config", text)
        wait_until(
            lambda words=words: words.lower() in problems(host).lower(),  # type: ignore[misc]
            20.0,
            f"{words!r} in status",
        )
    assert "flannel" not in host.space.run("ip", "link")
    assert etcd.everything(f"{PREFIX}/subnets") == {}

    etcd.put(f"{PREFIX}/config", GOOD_CONFIG)
    assert host.wait_ready()["problems"] == []
    daemon.wait_for_output("the network config is usable")
    assert daemon.stop() == 0


def test_a_config_that_this_host_cannot_serve_is_named_until_it_can(
    host: SingleHost, etcd: Etcd, manager: Manager
) -> None:
    etcd.put(f"{PREFIX}/config", GOOD_CONFIG)
    words = ("userspace", "udp")
    with waiting(host, manager, "--datapath", "kernel", words=words):
        etcd.put(f"{PREFIX}/config", '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}')


def test_host_gw_behind_nat_waits_for_its_public_address_and_writes_no_lease_before(
    host: SingleHost, etcd: Etcd, manager: Manager
) -> None:
    text = '{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}'
    etcd.put(f"{PREFIX}/config", text)
    options = ("--public-ip", "203.0.113.7", "--iface", "eth0")
    with waiting(host, manager, *options, words=("203.0.113.7", str(host.address))):
        assert etcd.everything(f"{PREFIX}/subnets") == {}
        host.space.run("ip", "address", "flush", "dev", "eth0")
        host.space.run("ip", "address", "add", "203.0.113.7/24", "dev", "eth0")
        host.space.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")


def test_the_health_port_of_another_program_withholds_nothing_else(
    host: SingleHost, etcd: Etcd
) -> None:
    etcd.put(f"{PREFIX}/config", GOOD_CONFIG)
    holder = host.space.start("socat", "-u", f"TCP-LISTEN:{HEALTH_PORT},bind=127.0.0.1", "-")
    wait_until(lambda: str(HEALTH_PORT) in host.space.run("ss", "-ltn"), what="a held port")
    options = ("--healthz-ip", "127.0.0.1", "--healthz-port", str(HEALTH_PORT))
    daemon = host.start_daemon(*options)
    wait_until(host.subnet_file.exists, 20.0, "forwarding")
    wait_until(lambda: str(HEALTH_PORT) in problems(host), 20.0, "the port among the problems")
    holder.stop()
    assert host.wait_ready()["problems"] == []
    assert readiness(host)[0] == 200
    assert daemon.stop() == 0


def test_a_store_that_is_away_at_start_is_waited_for(host: SingleHost) -> None:
    daemon = host.start_daemon("--log-format", "json")
    waits(host, daemon, host.endpoint)
    assert complaints(daemon) <= 2, "once a minute, not once a try"

    etcd = Etcd(host.switch, str(host.switch_address))
    etcd.start()
    etcd.put(f"{PREFIX}/config", GOOD_CONFIG)
    assert host.wait_ready()["store"]["connected"] is True
    assert daemon.stop() == 0


def test_a_network_config_that_is_not_there_yet_is_waited_for(host: SingleHost, etcd: Etcd) -> None:
    daemon = host.start_daemon()
    daemon.wait_for_output("no network config")
    assert host.status()["state"] == "starting"
    assert not host.subnet_file.exists()
    etcd.put(f"{PREFIX}/config", GOOD_CONFIG)
    assert host.wait_ready()["network"]["Network"] == "10.5.0.0/16"
    assert daemon.stop() == 0

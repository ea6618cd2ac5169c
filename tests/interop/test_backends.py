"""Flanneld and tunneld hosts are one network with every backend that both have."""

from __future__ import annotations

import ipaddress
import itertools
import json
import re
import signal
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from testbed.exchange import send_stream
from testbed.netns import Rig
from testbed.network import (
    NETWORK,
    NETWORK_V6,
    PREFIX,
    Host,
    Network,
    pings,
    wait_connected,
)
from testbed.probe import Probe
from testbed.wait import wait_until
from tests.interop.backends import SCENARIOS, Scenario, observed_way

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first may build flanneld

STREAM_BYTES = 100_000_000
RECOVERY_TIMEOUT_S = 30.0
MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")


@pytest.fixture(scope="module", params=SCENARIOS, ids=str)
def scenario(request: pytest.FixtureRequest) -> Scenario:
    chosen: Scenario = request.param
    return chosen


@pytest.fixture(scope="module")
def network(
    scenario: Scenario, interop_tools: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Network]:
    """Two flanneld and two tunneld hosts whose containers reach each other."""
    with Rig("interop", tmp_path_factory.mktemp(scenario.name)) as rig:
        yield scenario.build(rig)


def test_every_container_pings_every_other_over_each_family(network: Network) -> None:
    silent = [
        f"{first.name}->{second.name} IPv{family}"
        for first, second in network.pairs()
        for family in network.families
        if not pings(first, second, family, patience_s=30)
    ]
    assert silent == []


@pytest.mark.parametrize(("first", "second"), [("f1", "t1"), ("t1", "f1"), ("t1", "t2")])
def test_100_megabytes_of_tcp_arrive_unchanged(
    network: Network,
    scenario: Scenario,
    figures: list[dict[str, object]],
    first: str,
    second: str,
) -> None:
    source, target = network.host(first), network.host(second)
    for family in network.families:
        seed = zlib.crc32(f"{first}{second}{family}".encode())
        address = target.container_address(family)
        rate = send_stream(source.container, target.container, address, STREAM_BYTES, seed=seed)
        kinds = f"{source.kind}->{target.kind}"
        figures.append(
            {"scenario": str(scenario), "stream": kinds, "family": family, "mbit_s": round(rate)}
        )


def test_the_way_under_test_carried_it(network: Network, scenario: Scenario) -> None:
    for first, second in network.pairs():
        for family in network.families:
            way = scenario.way(first, second)
            here, there = first.container_address(family), second.container_address(family)
            assert observed_way(first, second, family) == [
                (way, here, there),
                (way, there, here),
            ], f"{first.name}->{second.name}"


def test_lease_values_are_flannelds_bytes_with_the_own_addresses(network: Network) -> None:
    stored = network.leases()
    assert set(stored) == {host.lease_key for host in network.hosts}
    models = {anonymous(stored[host.lease_key], host) for host in network.of("flanneld")}
    ours = {anonymous(stored[host.lease_key], host) for host in network.of("tunneld")}
    assert len(models) == 1
    assert ours == models
    macs = [mac for value in stored.values() for mac in MAC.findall(value.decode())]
    assert len(macs) == len(set(macs))


def anonymous(value: bytes, host: Host) -> str:
    """Returns a lease value without what has to differ from host to host."""
    text = value.decode().replace(str(host.public_ip), "IPV4")
    return MAC.sub("MAC", text.replace(str(host.public_ipv6), "IPV6"))


def test_no_key_flanneld_cannot_read_was_ever_written_below_subnets(network: Network) -> None:
    written = {key for key in network.keys_ever_written() if key.startswith(f"{PREFIX}/subnets")}
    assert written == set(network.leases())


def test_subnet_env_has_flannelds_lines(network: Network) -> None:
    """The MTU may be less than flanneld's own, which does not count the IPv6 underlay."""
    for host in network.hosts:
        lines = [f"FLANNEL_NETWORK={NETWORK}", f"FLANNEL_SUBNET={host.gateway}/24"]
        if 6 in network.families:
            gateway = f"{host.subnet_of(6)[1]}/{host.subnet_of(6).prefixlen}"
            lines += [f"FLANNEL_IPV6_NETWORK={NETWORK_V6}", f"FLANNEL_IPV6_SUBNET={gateway}"]
        lines += [f"FLANNEL_MTU={expected_mtu_bytes(network, host)}", "FLANNEL_IPMASQ=false"]
        assert host.subnet_file.read_text().splitlines() == lines, host.name


def expected_mtu_bytes(network: Network, host: Host) -> int:
    config = json.loads(network.etcd.everything(PREFIX)[f"{PREFIX}/config"])
    if config["Backend"]["Type"] == "host-gw":
        return 1500
    # RFC 7348: outer Ethernet, IPv4 or IPv6, UDP, VXLAN; flanneld counts IPv4 (#1781).
    is_wide = 6 in network.families and host.kind == "tunneld"
    return 1500 - (70 if is_wide else 50)


def test_kernel_tables_equal_flannelds_own(network: Network, scenario: Scenario) -> None:
    """Devices, neighbours, FDB and routes, but for addresses, MACs and our own marks."""
    if not scenario.is_kernel_vxlan:
        # In user space there is no such device: nothing of the kernel's may be left of it.
        for host in network.of("tunneld"):
            assert host.space.run("ip", "-j", "link", "show", "type", "vxlan").strip() == "[]"
        return
    for model, ours in (("f1", "t1"), ("f2", "t2")):
        here, expected = tables(network, network.host(ours)), tables(network, network.host(model))
        assert list(here) == list(expected)
        for name, rows in expected.items():
            assert here[name] == rows, f"{name} of {ours}"


def tables(network: Network, host: Host) -> dict[str, list[str]]:
    """Returns what the kernel holds for the overlay, with each address named by its role.

    The hosts are named by how they stand to this one, so that those of two hosts can be compared.
    """
    roles = {str(host.public_ip): "OWN4", str(host.public_ipv6): "OWN6"}
    others = sorted(
        (other for other in network.hosts if other is not host),
        key=lambda other: (other.link is not host.link, other.name),
    )
    leases = network.leases()
    for name, one in [("own", host), *((f"peer{n}", o) for n, o in enumerate(others))]:
        near = "near" if one.link is host.link else "far"
        who = name if one is host else f"a {near} peer"
        for family in network.families:
            subnet = one.subnet_of(family)
            roles[str(subnet)] = f"<{who} subnet{family}>"
            roles[str(subnet[0])] = f"<{who} base{family}>"
        roles[str(one.public_ip)] = f"<{who} ipv4>"
        roles[str(one.public_ipv6)] = f"<{who} ipv6>"
        value = json.loads(leases[one.lease_key])
        for member in ("BackendData", "BackendV6Data"):
            if member in value:
                roles[value[member]["VtepMAC"]] = f"<{who} {member}>"

    def show(*command: str) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(host.space.run(*command) or "[]")
        return listed

    def named(items: list[dict[str, Any]], *without: str) -> list[str]:
        return sorted(
            json.dumps(_named({k: v for k, v in item.items() if k not in without}, roles))
            for item in items
        )

    found: dict[str, list[str]] = {}
    devices = [f"flannel{'-v6' if family == 6 else ''}.1" for family in network.families]
    for device in devices:
        # The MTU of IPv6 is 70 less, as the kernel limits it, for both families with us.
        # The alias is our mark on the device.
        link_only = {"ifindex", "link_index", "mtu", "min_mtu", "max_mtu", "broadcast", "ifalias"}
        links = show("ip", "-j", "-d", "link", "show", "dev", device)
        # One member a row, so that a difference names itself.
        found[f"{device} link"] = named([{k: v} for k, v in links[0].items() if k not in link_only])
        addresses = show("ip", "-j", "address", "show", "dev", device)
        kept = ("family", "local", "prefixlen", "scope")
        found[f"{device} addresses"] = named(
            [
                {name: one.get(name) for name in kept}
                for one in addresses[0]["addr_info"]
                if one["scope"] != "link"
            ]
        )
        for family in network.families:
            shown = show("ip", f"-{family}", "-j", "neigh", "show", "dev", device)
            found[f"{device} neighbours{family}"] = named(
                [one for one in shown if "PERMANENT" in one["state"]]
            )
        found[f"{device} fdb"] = named(show("bridge", "-j", "fdb", "show", "dev", device))
    for family in network.families:
        overlay = NETWORK if family == 4 else NETWORK_V6
        shown = show("ip", f"-{family}", "-j", "route", "show")
        found[f"routes{family}"] = named(
            [
                route
                for route in shown
                if route.get("type") != "unreachable"
                and route["dst"] != "default"
                and ipaddress.ip_network(route["dst"]).subnet_of(overlay)  # type: ignore[arg-type]
                and route.get("dev") not in ("br0",)
            ],
            "protocol",
        )
    return found


def _named(value: Any, roles: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _named(item, roles) for key, item in value.items()}
    if isinstance(value, list):
        return [_named(item, roles) for item in value]
    return roles.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize(
    ("number", "order"),
    [(signal.SIGKILL, ("f2", "t2")), (signal.SIGTERM, ("t2", "f2"))],
    ids=["flanneld first", "tunneld first"],
)
def test_both_restart_orders(
    network: Network, number: signal.Signals, order: tuple[str, str]
) -> None:
    """One daemon after the other is ended and started again; nobody else is disturbed."""
    leases = network.leases()
    bystanders = probes(network, network.host("f1"), network.host("t1"))
    for probe in bystanders:
        probe.wait_steady(0.0, 20)
    for name in order:
        host = network.host(name)
        affected = [
            probe for other in ("f1", "t1") for probe in probes(network, network.host(other), host)
        ]
        for probe in affected:
            probe.wait_steady(0.0, 20)
        host.end(number)
        restarted_at_s = time.monotonic()
        host.start()
        for probe in affected:
            probe.wait_steady(restarted_at_s, RECOVERY_TIMEOUT_S)
            probe.stop()
    for probe in bystanders:
        probe.stop()
        assert probe.lost() == 0, probe.name
    assert set(network.leases()) == set(leases)
    kept = {host.lease_key for host in network.of("tunneld")}
    assert {key: network.leases()[key] for key in kept} == {key: leases[key] for key in kept}


def probes(network: Network, first: Host, second: Host) -> list[Probe]:
    """Starts a flow each way and family."""
    return [
        Probe(source, target, target.container_address(family))
        for family in network.families
        for source, target in ((first, second), (second, first))
    ]


@pytest.mark.parametrize("name", ["t3", "f3"])
def test_a_peer_is_added_and_removed_under_traffic(
    network: Network, scenario: Scenario, name: str
) -> None:
    bystanders = probes(network, network.host("f1"), network.host("t1"))
    bystanders += probes(network, network.host("t1"), network.host("t2"))
    for probe in bystanders:
        probe.wait_steady(0.0, 20)
    others = list(network.hosts)
    host = scenario.add(network, name)
    try:
        host.wait_ready()
        for other, family in itertools.product(others, network.families):
            wait_connected(other, host, family=family)
            wait_connected(host, other, family=family)
        key, subnet = host.lease_key, str(host.subnet)
        host.end(signal.SIGTERM)
        network.etcd.ctl("del", "--", key)
        for other in others:
            wait_until(
                lambda other=other: subnet not in routes(other),  # type: ignore[misc]
                *(10, f"the end of {subnet} on {other.name}"),
            )
    finally:
        network.hosts.remove(host)
    for probe in bystanders:
        probe.stop()
        assert probe.lost() == 0, probe.name


def routes(host: Host) -> str:
    """Returns who is reached, as the daemon and the kernel tell."""
    if host.kind == "flanneld":
        return host.space.run("ip", "route", "show")
    return json.dumps(host.status()["peers"]) + host.space.run("ip", "route", "show")


def test_no_flanneld_reported_an_error(network: Network) -> None:
    for host in network.of("flanneld"):
        assert host.running.exit_status is None
        log = host.running.output()
        assert re.findall(r"^[EF]\d{4} .*", log, re.MULTILINE) == []

"""Two daemons on one host, each in a network of its own, where no overlay device tells them apart.

Needs root, etcd and nft.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.etcd import Etcd
from testbed.process import Process
from testbed.wait import wait_until
from tests.e2e.single_host import SingleHost
from tunneld.control.client import NotRunningError, request

pytestmark = pytest.mark.root


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """One of them."""

    process: Process
    control_socket: Path

    def is_ready(self) -> bool:
        try:
            state: str = request(self.control_socket, "status", timeout_s=60.0)["state"]
        except NotRunningError:
            return False
        return state == "ready"


def start(host: SingleHost, etcd: Etcd, network: str, backend: str, *options: str) -> Daemon:
    """Starts a daemon in a network; its places are called after that."""
    name, prefix = network.partition("/")[0], f"/{network.partition('/')[0]}"
    etcd.put(f"{prefix}/config", json.dumps({"Network": network, "Backend": {"Type": backend}}))
    places = host.directory / name
    places.mkdir()
    process = host.space.start(
        *host.command("run", "--etcd-endpoints", host.endpoint, "--etcd-prefix", prefix),
        *("--state-dir", str(places / "state")),
        *("--subnet-file", str(places / "subnet.env")),
        *("--control-socket", str(places / "tunneld.sock")),
        *options,
        log=places / "tunneld.log",
        env=host.environment,
    )
    return Daemon(process=process, control_socket=places / "tunneld.sock")


@pytest.mark.parametrize("backend", ["host-gw", "alloc"])
@pytest.mark.parametrize(
    ("firewall", "listing", "rule"),
    [
        ("nftables", ("nft", "list", "ruleset"), "ip saddr {} accept"),
        ("iptables", ("iptables-save",), "-s {} -m comment --comment tunneld -j ACCEPT"),
    ],
)
def test_each_keeps_its_own_firewall_rules(
    host: SingleHost, etcd: Etcd, backend: str, firewall: str, listing: tuple[str, ...], rule: str
) -> None:
    networks = ("10.5.0.0/16", "10.6.0.0/16")

    def accepted() -> list[str]:
        rules = host.space.run(*listing)
        return [network for network in networks if rule.format(network) in rules]

    first = start(host, etcd, networks[0], "host-gw", "--firewall", firewall)
    second = start(host, etcd, networks[1], backend, "--firewall", firewall)
    wait_until(lambda: accepted() == [*networks], 30.0, "the rules of both")
    wait_until(lambda: first.is_ready() and second.is_ready(), 30.0, "two daemons that are ready")

    assert first.process.stop() == 0
    assert accepted() == [networks[1]]
    assert second.process.stop() == 0
    assert "tunneld" not in host.space.run(*listing).lower()

"""Daemons that move no packet themselves: the kernel's data path, plain routes, and none at all.

Needs root and etcd.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from testbed.etcd import Etcd
from testbed.wait import wait_until
from tests.e2e.manager import Manager
from tests.e2e.single_host import SingleHost
from tunneld.control.client import NotRunningError

pytestmark = pytest.mark.root

PREFIX = "/coreos.com/network"
FOREIGN_LEASE = '{"PublicIP":"192.0.2.12","PublicIPv6":null,%s}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A backend, and what is expected of it by flannel's table of backends."""

    backend: str
    datapath: str
    mtu_bytes: int
    device: str | None
    lease: str
    """Members of a peer's lease."""
    peers: int
    sentence: str
    options: tuple[str, ...] = ()


CASES = {
    "vxlan": Case(
        backend="vxlan",
        datapath="kernel",
        mtu_bytes=1450,
        device="flannel.1",
        lease='"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:00:00:00:00:12"}',
        peers=1,
        sentence=" on flannel.1, 1 peer",
        options=("--datapath", "kernel"),
    ),
    "host-gw": Case(
        backend="host-gw",
        datapath="kernel",
        mtu_bytes=1500,
        device=None,
        lease='"BackendType":"host-gw"',
        peers=1,
        sentence=", 1 peer",
    ),
    "alloc": Case(
        backend="alloc",
        datapath="none",
        mtu_bytes=1500,
        device=None,
        lease='"BackendType":""',
        peers=0,
        sentence="holding 10.5.",
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, host: SingleHost, etcd: Etcd) -> Case:
    found = CASES[request.param]
    config = {"Network": "10.5.0.0/16", "Backend": {"Type": found.backend}}
    etcd.put(f"{PREFIX}/config", json.dumps(config))
    etcd.put(f"{PREFIX}/subnets/10.5.254.0-24", FOREIGN_LEASE % found.lease)
    return found


def test_it_is_ready_shows_itself_and_goes_without_a_trace(
    host: SingleHost, etcd: Etcd, case: Case
) -> None:
    daemon = host.start_daemon(*case.options)
    status = host.wait_ready()
    backend = status["backend"]
    assert (backend["type"], backend["datapath"]) == (case.backend, case.datapath)
    assert (backend["device"], backend["mtu_bytes"]) == (case.device, case.mtu_bytes)
    assert [peer["subnet"] for peer in status["peers"]] == ["10.5.254.0/24"] * case.peers
    assert (status["drops"], status["offloads"]) == ({}, {})
    assert f"FLANNEL_MTU={case.mtu_bytes}\n" in host.subnet_file.read_text()

    shown = host.tunneld("status", "--control-socket", str(host.control_socket)).stdout
    assert f"backend:  {case.backend} ({case.datapath})" in shown
    links = host.space.run("ip", "-o", "link")
    assert ("flannel" in links) == (case.device is not None)
    own = status["lease"]["subnet"]
    assert f"unreachable {own} " in host.space.run("ip", "route")

    assert daemon.stop() == 0
    assert "flannel" not in host.space.run("ip", "link")
    assert host.space.run("ip", "route", "show", "proto", "116") == ""
    assert host.space.run("nft", "list", "ruleset") == ""
    assert any(own.split("/")[0] in key for key in etcd.everything(f"{PREFIX}/subnets"))


def test_its_watchdog_is_fed_and_its_health_is_good(
    host: SingleHost, case: Case, manager: Manager
) -> None:
    daemon = host.space.start(
        *host.run_command(*case.options, "--healthz-ip", "127.0.0.1", "--healthz-port", "8471"),
        log=host.directory / "tunneld.log",
        env={**host.environment, **manager.environment},
    )
    ready = manager.wait_for("READY=1")
    manager.wait_for(f"STATUS=.*{case.sentence}")
    manager.wait_for("WATCHDOG=1", after=ready)
    fetch = (
        "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8471/%s').status)"
    )

    def answers(page: str) -> bool:
        return host.space.try_run("python3", "-c", fetch % page).stdout == "200\n"

    for page in ("healthz", "readyz"):
        wait_until(lambda: answers(page), 30.0, page)  # noqa: B023
    assert daemon.stop() == 0


@pytest.mark.parametrize("case", ["vxlan", "host-gw"], indirect=True)
def test_a_peer_is_listed_once_the_kernel_has_its_route(
    host: SingleHost, etcd: Etcd, case: Case
) -> None:
    beside = {"10.5.253.0/24": "13", "10.5.255.0/24": "14"}
    for subnet, host_number in beside.items():
        lease = (FOREIGN_LEASE % case.lease).replace("12", host_number)
        etcd.put(f"{PREFIX}/subnets/{subnet.replace('/', '-')}", lease)
    foreign = ("10.5.254.0/24", "via", str(host.switch_address))
    host.space.run("ip", "route", "add", *foreign)
    daemon = host.start_daemon(*case.options)

    def listed(status: dict[str, Any]) -> list[str]:
        return [peer["subnet"] for peer in status["peers"]]

    def in_the_way() -> list[str]:
        try:
            status = host.status()
        except NotRunningError:
            return []
        told = any("10.5.254.0/24 via 192.0.2.1 dev eth0" in line for line in status["problems"])
        return listed(status) if told else []

    wait_until(lambda: in_the_way() == [*beside], 30.0, "the peers beside the one that is hidden")

    host.space.run("ip", "route", "del", *foreign)
    assert listed(host.wait_ready()) == sorted([*beside, "10.5.254.0/24"])
    assert daemon.stop() == 0

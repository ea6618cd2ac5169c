"""The document of `tunneld status --json`: its members, and how it reads as text."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from tunneld.backend.base import Adjacency
from tunneld.control.status import (
    BackendStatus,
    PeerStatus,
    StatusInput,
    render_status,
    render_text,
    table,
    wall_time,
)
from tunneld.engine import AdjacencyCounters
from tunneld.lease.model import Lease, LeaseAttributes, SubnetKey
from tunneld.lease.registry import StoreStatus
from tunneld.peer import Peer

STORE = StoreStatus(
    kind="etcd", connected=True, revision=42, endpoint="http://192.0.2.1:2379", problem=None
)

STARTING = StatusInput(
    version="0.1.0",
    state="starting",
    node_id="0123456789abcdef0123456789abcdef",
    network=None,
    lease=None,
    expires_at=None,
    backend=None,
    store=replace(STORE, connected=False, revision=0, problem="connection refused"),
    problems=("the store is away",),
)

READY = StatusInput(
    version="0.1.0",
    state="ready",
    node_id="0123456789abcdef0123456789abcdef",
    network='{"Network": "10.5.0.0/16", "Backend": {"Type": "udp"}}',
    lease=Lease(
        key=SubnetKey(IPv4Network("10.5.17.0/24")),
        attributes=LeaseAttributes(public_ip=IPv4Address("192.0.2.11")),
        grant_id=7,
    ),
    expires_at="2026-08-15T09:30:00.000Z",
    backend=BackendStatus(type="udp", datapath="userspace", device="flannel0", mtu_bytes=1472),
    store=STORE,
    peers=(
        PeerStatus(
            peer=Peer(
                key=SubnetKey(IPv4Network("10.5.34.0/24")),
                public_ip=IPv4Address("192.0.2.12"),
                public_ipv6=None,
                backend_type="",
                backend_data=None,
                backend_v6_data=None,
                node_id=None,
                version=None,
            ),
            adjacency=Adjacency(
                encapsulation="raw", endpoint=IPv4Address("192.0.2.12"), port=8285, mtu_bytes=1472
            ),
            counters=AdjacencyCounters(
                tx_packets=3, tx_bytes=252, rx_packets=2, rx_bytes=168, last_rx=99.5
            ),
            last_rx="2026-08-14T09:29:59.500Z",
        ),
    ),
    drops={"no_route": 1, "too_big": 0},
    skipped={"outside_network": 2, "malformed_key": 0},
    icmp_sent=1,
)

# The members scripts rely on, with the type of each.
REQUIRED: dict[str, Any] = {
    "version": str,
    "network": dict,
    "lease": {"subnet": str, "public_ip": str, "expires_at": str},
    "backend": {"type": str, "datapath": str, "device": str, "mtu_bytes": int},
    "store": {"kind": str, "connected": bool, "revision": int},
    "offloads": dict,
    "peers": [
        {
            "subnet": str,
            "public_ip": str,
            "encapsulation": str,
            "encrypted": bool,
            "mtu_bytes": int,
            "last_rx": str,
            "tx_bytes": int,
            "rx_bytes": int,
            "tx_packets": int,
            "rx_packets": int,
        }
    ],
    "drops": dict,
}


def assert_shape(value: Any, shape: Any, *, where: str = "$", or_null: bool = False) -> None:
    match shape:
        case dict():
            for name, inner in shape.items():
                assert name in value, f"{where}.{name} is missing"
                assert_shape(value[name], inner, where=f"{where}.{name}", or_null=or_null)
        case [inner]:
            for item in value:
                assert_shape(item, inner, where=f"{where}[]", or_null=or_null)
        case _:
            assert (or_null and value is None) or type(value) is shape, where


def test_document_has_every_member_scripts_rely_on() -> None:
    assert_shape(render_status(READY), REQUIRED)


def test_document_of_a_daemon_that_just_started_has_the_same_members() -> None:
    assert_shape(render_status(STARTING), REQUIRED, or_null=True)


def test_document_survives_json() -> None:
    for status in (READY, STARTING):
        document = render_status(status)
        assert json.loads(json.dumps(document)) == document


def test_document_of_a_host_with_one_peer() -> None:
    assert render_status(READY) == {
        "version": "0.1.0",
        "state": "ready",
        "problems": [],
        "node_id": "0123456789abcdef0123456789abcdef",
        "network": {"Network": "10.5.0.0/16", "Backend": {"Type": "udp"}},
        "lease": {
            "subnet": "10.5.17.0/24",
            "public_ip": "192.0.2.11",
            "expires_at": "2026-08-15T09:30:00.000Z",
        },
        "backend": {
            "type": "udp",
            "datapath": "userspace",
            "device": "flannel0",
            "mtu_bytes": 1472,
        },
        "store": {
            "kind": "etcd",
            "connected": True,
            "revision": 42,
            "endpoint": "http://192.0.2.1:2379",
            "problem": None,
        },
        "offloads": {},
        "peers": [
            {
                "subnet": "10.5.34.0/24",
                "public_ip": "192.0.2.12",
                "node_id": None,
                "version": None,
                "encapsulation": "raw",
                "encrypted": False,
                "mtu_bytes": 1472,
                "last_rx": "2026-08-14T09:29:59.500Z",
                "tx_bytes": 252,
                "rx_bytes": 168,
                "tx_packets": 3,
                "rx_packets": 2,
            }
        ],
        "drops": {"no_route": 1, "too_big": 0},
        "skipped_leases": {"outside_network": 2, "malformed_key": 0},
        "icmp": {"sent": 1, "suppressed": 0},
    }


def test_lease_that_never_ends_has_no_expiry() -> None:
    assert render_status(replace(READY, expires_at=None))["lease"]["expires_at"] is None


def test_network_that_is_no_object_shows_as_empty() -> None:
    for text in ("[]", "{", ""):
        assert render_status(replace(READY, network=text))["network"] == {}


def test_text_names_what_an_operator_looks_for() -> None:
    text = render_text(render_status(READY))
    for part in ("ready", "10.5.17.0/24 at 192.0.2.11", "MTU 1472", "flannel0", "10.5.34.0/24"):
        assert part in text
    assert "no_route" in text
    assert "too_big" not in text
    assert "outside_network" in text


def test_text_names_the_network_however_its_key_is_written() -> None:
    status = replace(READY, network='{"network": "10.77.0.0/16"}')
    assert "network:  10.77.0.0/16\n" in render_text(render_status(status))


def test_offloads_are_shown_with_what_is_not_on_and_why() -> None:
    def line(offloads: dict[str, str]) -> str:
        document = render_status(replace(READY, offloads=offloads))
        assert document["offloads"] == offloads
        return next(row for row in render_text(document).splitlines() if "offloads" in row)

    assert line({"tun_tso": "on", "udp_gso": "on"}) == "offloads: on"
    some = {"tun_tso": "on", "tun_uso": "unsupported", "udp_gso": "fallback: EIO"}
    assert line(some) == "offloads: on, but: tun_uso unsupported, udp_gso fallback: EIO"
    assert line({}) == "offloads: -"


def test_text_of_a_starting_daemon_says_what_it_waits_for() -> None:
    text = render_text(render_status(STARTING))
    assert "starting\n  the store is away\n" in text
    assert "not connected" in text
    assert "(connection refused)" in text
    assert "drops: none" in text


def test_text_fits_eighty_columns_but_for_the_peer_table() -> None:
    for line in render_text(render_status(READY)).split("peers:")[0].splitlines():
        assert len(line) <= 80


def test_table_aligns_numbers_to_the_right() -> None:
    assert table(("name", "n"), [("a", 5), ("bb", 10)]) == [
        "name   n",
        "a      5",
        "bb    10",
    ]


def test_wall_time_is_as_long_ago_as_the_monotonic_clock_says() -> None:
    now = datetime(2026, 8, 14, 9, 30, tzinfo=UTC)
    assert wall_time(99.5, monotonic_now_s=100.0, wall_now=now) == "2026-08-14T09:29:59.500Z"
    assert wall_time(None, monotonic_now_s=100.0, wall_now=now) is None

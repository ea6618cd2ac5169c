"""The document of `tunneld status --json`: its members, and where the text shows them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from tests.unit.control.values import (
    BY_KERNEL,
    DIRECT,
    ENDS,
    READY,
    STARTING,
    SUBNETS,
    by_vxlan,
    dual_stack,
)
from tunneld.backend.base import Adjacency, Reach
from tunneld.cli.leases import lease_table
from tunneld.control.status import (
    BackendStatus,
    EncryptionStatus,
    ReachStatus,
    SecurityStatus,
    render_status,
    render_text,
    wall_time,
)
from tunneld.host.netlink import DeviceCounters
from tunneld.lease.model import Lease, LeaseAttributes, Snapshot, SubnetKey
from tunneld.lease.selection import Skipped

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
            "ipv6_subnet": None,
            "public_ip": "192.0.2.11",
            "public_ipv6": None,
            "expires_at": "2026-08-15T09:30:00.000Z",
        },
        "backend": {
            "type": "udp",
            "datapath": "userspace",
            "device": "flannel0",
            "devices": ["flannel0"],
            "mtu_bytes": 1472,
            "scheduling": "batch",
        },
        "firewall": {"mode": "auto", "forward_rules": True},
        "encryption": {
            "mode": None,
            "floor": "off",
            "trust": "store",
            "explanation": "",
            "identities": None,
            "revoked": 0,
            "psk_ids": [],
            "network_name": "",
            "public_key": None,
            "cipher": None,
            "provider": None,
            "port": None,
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
                "ipv6_subnet": None,
                "public_ip": "192.0.2.12",
                "public_ipv6": None,
                "node_id": None,
                "version": None,
                "encapsulation": "raw",
                "encrypted": False,
                "security": None,
                "mtu_bytes": 1472,
                "last_rx": "2026-08-14T09:29:59.500Z",
                "tx_bytes": 252,
                "rx_bytes": 168,
                "tx_packets": 3,
                "rx_packets": 2,
                "reach": {
                    "ipv4": {
                        "encapsulation": "raw",
                        "endpoint": "192.0.2.12",
                        "mtu_bytes": 1472,
                        "path_mtu": None,
                        "last_rx": "2026-08-14T09:29:59.500Z",
                        "tx_bytes": 252,
                        "rx_bytes": 168,
                        "tx_packets": 3,
                        "rx_packets": 2,
                    }
                },
            }
        ],
        "kernel_devices": [],
        "drops": {"no_route": 1, "too_big": 0},
        "kernel_drops": {},
        "skipped_leases": {"outside_network": 2, "malformed_key": 0},
        "refused": [],
        "icmp": {"sent": 1, "suppressed": 0},
    }


def test_peer_of_two_families_counts_both_and_tells_them_apart() -> None:
    early, late = "2026-08-14T09:00:00.000Z", "2026-08-14T10:00:00.000Z"
    peer = dual_stack(by_vxlan(4, 1450, 3, early), by_vxlan(6, 1430, 40, late))
    (shown,) = render_status(replace(READY, peers=(peer,)))["peers"]
    assert_shape(shown, REQUIRED["peers"][0])
    assert (shown["subnet"], shown["ipv6_subnet"]) == ("10.5.34.0/24", "fd00:10:5:34::/64")
    assert (shown["public_ip"], shown["public_ipv6"]) == ("192.0.2.12", "2001:db8::12")
    assert (shown["tx_packets"], shown["tx_bytes"], shown["last_rx"]) == (43, 4300, late)
    assert (shown["encapsulation"], shown["mtu_bytes"]) == ("vxlan", 1430)
    assert {name: reach["tx_packets"] for name, reach in shown["reach"].items()} == {
        "ipv4": 3,
        "ipv6": 40,
    }
    assert shown["reach"]["ipv6"]["endpoint"] == "2001:db8::12"


def test_subnets_and_addresses_are_named_as_in_the_document_of_leases() -> None:
    lease = Lease(
        key=SubnetKey(*SUBNETS),
        attributes=LeaseAttributes(public_ip=ENDS[0], public_ipv6=ENDS[1]),
        grant_id=7,
    )
    snapshot = Snapshot(revision=1, config=None, leases=(lease,))
    (listed,) = lease_table(snapshot, {}, now=datetime.now(UTC), own_node_id=None)["leases"]
    document = render_status(replace(READY, lease=lease, peers=(dual_stack(),)))
    own, (peer,) = document["lease"], document["peers"]
    names = ("subnet", "ipv6_subnet", "public_ip", "public_ipv6")
    expected = ["10.5.34.0/24", "fd00:10:5:34::/64", "192.0.2.12", "2001:db8::12"]
    for found in (listed, own, peer):
        assert [found[name] for name in names] == expected


def test_what_the_kernel_moves_is_not_counted_and_says_so() -> None:
    document = render_status(replace(READY, peers=(dual_stack(DIRECT, BY_KERNEL),)))
    (shown,) = document["peers"]
    assert_shape(shown, REQUIRED["peers"][0], or_null=True)
    assert [shown["reach"][name]["encapsulation"] for name in ("ipv4", "ipv6")] == [
        "direct",
        "kernel vxlan",
    ]
    assert shown["tx_packets"] is None
    assert shown["reach"]["ipv6"]["rx_bytes"] is None
    rows = render_text(document).splitlines()
    head = next(index for index, row in enumerate(rows) if row.startswith("subnet "))
    assert rows[head + 1].split() == ["10.5.34.0/24", "192.0.2.12", "direct", "1500", *"-----"]
    assert rows[head + 2].split() == [
        *("fd00:10:5:34::/64", "2001:db8::12", "kernel", "vxlan", "1430", *"-----")
    ]


def test_devices_of_the_kernel_stand_apart_from_what_the_engine_counts() -> None:
    counters = DeviceCounters(
        device="flannel-v6.1",
        rx_packets=2,
        rx_bytes=168,
        rx_dropped=1,
        rx_errors=5,
        tx_packets=3,
        tx_bytes=252,
        tx_dropped=4,
        tx_errors=6,
    )
    backend = BackendStatus(
        type="vxlan", datapath="kernel", devices=("flannel-v6.1",), mtu_bytes=1430
    )
    status = replace(READY, backend=backend, drops={}, kernel_devices=[counters])
    document = render_status(status)
    assert document["kernel_devices"] == [
        {
            "device": "flannel-v6.1",
            "rx_packets": 2,
            "rx_bytes": 168,
            "rx_dropped": 1,
            "rx_errors": 5,
            "tx_packets": 3,
            "tx_bytes": 252,
            "tx_dropped": 4,
            "tx_errors": 6,
        }
    ]
    assert document["drops"] == {}
    rows = render_text(document).splitlines()
    head = rows.index("kernel devices, as the kernel counts them:")
    assert "tx packets  tx bytes  tx dropped  tx errors  rx packets" in rows[head + 1]
    assert rows[head + 2].split() == ["flannel-v6.1", *"3", "252", *"462", "168", *"15"]
    assert not any(row.startswith("drops") for row in rows), "nobody counts them by reason"


def test_direct_peer_counts_what_still_comes_by_the_tunnel() -> None:
    adjacency = by_vxlan(4, 1450, 7)
    direct = replace(adjacency, reach=replace(adjacency.reach, gateway=ENDS[0]))
    (shown,) = render_status(replace(READY, peers=(dual_stack(direct),)))["peers"]
    assert (shown["encapsulation"], shown["rx_packets"]) == ("direct", 7)


def test_network_without_ipv4_shows_no_made_up_addresses() -> None:
    key = SubnetKey(IPv4Network("0.0.0.0/0"), SUBNETS[1])
    lease = Lease(
        key=key,
        attributes=LeaseAttributes(public_ip=IPv4Address(0), public_ipv6=ENDS[1]),
    )
    document = render_status(replace(READY, lease=lease, peers=()))
    assert document["lease"] == {
        "subnet": None,
        "ipv6_subnet": "fd00:10:5:34::/64",
        "public_ip": None,
        "public_ipv6": "2001:db8::12",
        "expires_at": "2026-08-15T09:30:00.000Z",
    }
    assert "lease:    fd00:10:5:34::/64 at 2001:db8::12\n" in render_text(document)


def test_lease_that_never_ends_has_no_expiry() -> None:
    assert render_status(replace(READY, expires_at=None))["lease"]["expires_at"] is None


def test_network_that_is_no_object_shows_as_empty() -> None:
    for text in ("[]", "{", ""):
        assert render_status(replace(READY, network=text))["network"] == {}


def test_wall_time_is_as_long_ago_as_the_monotonic_clock_says() -> None:
    now = datetime(2026, 8, 14, 9, 30, tzinfo=UTC)
    assert wall_time(99.5, monotonic_now_s=100.0, wall_now=now) == "2026-08-14T09:29:59.500Z"
    assert wall_time(None, monotonic_now_s=100.0, wall_now=now) is None


def test_who_is_not_reached_is_named_with_the_reason() -> None:
    refused = [
        Skipped(name=f"10.5.{number}.0/24", reason="untrusted", detail=f"key {number} is revoked")
        for number in range(60)
    ]
    document = render_status(replace(READY, refused=refused))
    assert document["refused"][7] == {
        "subnet": "10.5.7.0/24",
        "reason": "untrusted",
        "detail": "key 7 is revoked",
    }
    text = render_text(document)
    assert "not reached:\n  10.5.0.0/24: untrusted: key 0 is revoked\n" in text
    assert text.endswith(
        "  10.5.49.0/24: untrusted: key 49 is revoked\n  and 10 more: see --json\n"
    )
    assert "not reached" not in render_text(render_status(READY))


def test_encryption_is_one_line() -> None:
    wanted = EncryptionStatus(
        mode="required", floor="preferred", trust="psk", explanation="whoever has the PSK"
    )
    text = render_text(render_status(replace(READY, encryption=wanted)))
    assert "crypto:   required (floor preferred); whoever has the PSK" in text
    assert "crypto:   no" in render_text(render_status(READY))
    working = replace(wanted, cipher="aes-256-gcm", port=8286)
    text = render_text(render_status(replace(READY, encryption=working)))
    assert "crypto:   required by aes-256-gcm on port 8286 (floor preferred); whoever" in text


def test_a_peer_says_whether_it_is_encrypted_and_if_not_why() -> None:
    subnet, adjacency = (
        SUBNETS[0],
        Adjacency(encapsulation="esp", endpoint=ENDS[0], port=8286, mtu_bytes=1438),
    )
    sealed = ReachStatus(reach=Reach(adjacency=adjacency), mtu_bytes=1438)
    agreed = SecurityStatus(
        mode="encrypted", state="confirmed", cipher="aes-256-gcm", provider="ring", age_s=3.0
    )
    whole = replace(dual_stack(sealed, sealed), security=agreed)
    half = dual_stack(sealed, by_vxlan(6, 1430, 1))
    plain = replace(
        dual_stack(by_vxlan(4, 1450, 1)),
        security=SecurityStatus(mode="plain", state="none", detail="it has no keys"),
    )
    document = render_status(replace(READY, peers=(whole, half, plain)))
    assert [peer["encrypted"] for peer in document["peers"]] == [True, False, False]
    assert document["peers"][0]["encapsulation"] == "esp"
    assert document["peers"][0]["security"]["provider"] == "ring"
    assert document["peers"][1]["security"] is None
    text = render_text(document)
    assert f"not encrypted now:\n  {subnet}: plain, keys: none: it has no keys\n" in text
    assert "not encrypted now" not in render_text(render_status(replace(READY, peers=(whole,))))

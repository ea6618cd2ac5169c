"""Leases that this host cannot use, or that cannot all be right: judged once, told, and counted."""

from __future__ import annotations

import logging
from ipaddress import ip_address
from typing import Any

import pytest

from tests.unit.backend.values import PEER_MAC, PEER_MAC_V6
from tests.unit.daemon.node import A_V6, B_V6, A, B, MakeNode, lease, targets, to_peers
from tunneld.fib.state import FdbEntry
from tunneld.lease.model import Lease
from tunneld.log import Periodic


def test_lease_of_another_backend_disturbs_nobody_and_is_counted_once(
    node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    host = node()
    with caplog.at_level(logging.WARNING, "tunneld.daemon"):
        for _ in range(3):
            host.desired.state()
            state = host.holds(lease(2), lease(3, backend_type="host-gw"))
    assert targets(state) == {A, A_V6}
    assert host.skips() == {"backend_type_mismatch": 1}
    assert len([one for one in caplog.records if "skipped" in one.message]) == 1


def test_one_bad_family_is_skipped_and_the_other_is_used(node: MakeNode) -> None:
    host = node()
    bad = lease(2, backend_v6_data={"VNI": 9, "VtepMAC": "0e:00:00:00:06:02"})
    for _ in range(2):
        assert targets(host.holds(bad)) == {A}
    assert host.skips() == {"vni_mismatch": 1}


def test_faults_of_both_families_are_counted_each(node: MakeNode) -> None:
    host = node()
    bad = lease(2, backend_data=None, backend_v6_data={"VNI": 9, "VtepMAC": "0e:00:00:00:06:02"})
    for _ in range(2):
        assert targets(host.holds(bad)) == set()
    assert host.skips() == {"backend_data_malformed": 1, "vni_mismatch": 1}


def test_lease_written_anew_is_judged_anew(node: MakeNode) -> None:
    host = node()
    host.holds(lease(2, backend_type="udp", mod=5))
    host.holds(lease(2, backend_type="udp", mod=6))
    assert host.skips() == {"backend_type_mismatch": 2}
    assert targets(host.holds(lease(2, mod=7))) == {A, A_V6}


def shared(number: int, create: int) -> Lease:
    data = {"VNI": 1, "VtepMAC": PEER_MAC}
    data_v6 = {"VNI": 1, "VtepMAC": PEER_MAC_V6}
    return lease(number, create=create, backend_data=data, backend_v6_data=data_v6)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        f"{one.message}: {one.__dict__['fields']['detail']}"
        for one in caplog.records
        if one.levelno == logging.WARNING
        and "fields" in one.__dict__
        and "detail" in one.__dict__["fields"]
    ]


def test_one_mac_in_two_leases_is_told_once_and_both_are_used_in_user_space(
    node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    host = node(families="ipv4")
    one, other = (
        lease(number, families="ipv4", create=create, backend_data={"VtepMAC": PEER_MAC})
        for number, create in ((2, 9), (3, 4))
    )
    with caplog.at_level(logging.WARNING, "tunneld.daemon"):
        for _ in range(3):
            assert targets(host.holds(one, other)) == {A, B}
    (warning,) = warnings(caplog)
    assert "10.5.3.0/24 and 10.5.2.0/24" in warning
    assert PEER_MAC in warning
    assert host.skips() == {}


def test_one_mac_in_two_leases_stays_with_the_older_in_the_kernel(
    node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    host = node(datapath="kernel")
    with caplog.at_level(logging.WARNING, "tunneld.daemon"):
        for _ in range(3):
            state = host.holds(shared(2, 9), shared(3, 4))
    assert to_peers(state, "onlink") == {B, B_V6}
    assert state.host.fdb == {
        FdbEntry(device="flannel.1", mac=PEER_MAC, endpoint=ip_address("10.99.0.13")),
        FdbEntry(device="flannel-v6.1", mac=PEER_MAC_V6, endpoint=ip_address("fd99::13")),
    }
    assert host.skips() == {"vtep_mac_taken": 1}
    (warning,) = warnings(caplog)
    assert "the older one keeps it" in warning


def test_one_host_with_two_leases_and_one_mac_keeps_both_in_the_kernel(node: MakeNode) -> None:
    host = node(families="ipv4", datapath="kernel")
    data = {"VNI": 1, "VtepMAC": PEER_MAC}
    same: dict[str, Any] = {"public_ip": ip_address("10.99.0.12"), "backend_data": data}
    state = host.holds(lease(2, families="ipv4", **same), lease(3, families="ipv4", **same))
    assert to_peers(state, "onlink") == {A, B}
    assert len(state.host.fdb) == 1
    assert host.skips() == {}


@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
def test_whatever_a_lease_makes_the_backend_raise_costs_that_lease_alone(
    node: MakeNode, datapath: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = node(families="ipv4", datapath=datapath)
    backend = host.backend
    real = type(backend).reach

    def reach(self: Any, peer: Any, *args: Any, **options: Any) -> Any:
        if peer.key.ipv4 == A:
            raise RecursionError("maximum recursion depth exceeded")
        return real(self, peer, *args, **options)

    monkeypatch.setattr(type(backend), "reach", reach)
    state = host.holds(lease(2, families="ipv4"), lease(3, families="ipv4"))
    assert to_peers(state, "onlink") | targets(state) == {B}
    assert host.skips() == {"malformed_value": 1}


def test_lease_that_is_rewritten_all_the_time_is_counted_each_time_and_told_a_few(
    node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    host = node(families="ipv4")
    with caplog.at_level(logging.WARNING, "tunneld.daemon"):
        for revision in range(200):
            host.holds(lease(2, families="ipv4", backend_type="host-gw", mod=revision))
    assert host.skips() == {"backend_type_mismatch": 200}
    told = [one for one in caplog.records if "skipped" in one.message]
    assert 1 <= len(told) <= Periodic.BURST + 1


def test_flood_of_one_reason_does_not_hide_another(
    node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    host = node(families="ipv4")
    with caplog.at_level(logging.WARNING, "tunneld.daemon"):
        for revision in range(50):
            host.holds(lease(2, families="ipv4", backend_type="host-gw", mod=revision))
        bad = {"VNI": 9, "VtepMAC": "0e:00:00:00:04:03"}
        host.holds(lease(3, families="ipv4", backend_data=bad))
    reasons = [one.__dict__.get("fields", {}).get("reason") for one in caplog.records]
    assert "vni_mismatch" in reasons

"""From the leases in the store to what this host must hold, with every backend."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any, Literal

import pytest

from tests.unit.backend.values import Family
from tests.unit.daemon.node import A_V6, B_V6, A, B, MakeNode, lease, targets, to_peers
from tunneld.daemon import desired
from tunneld.errors import InterfaceError
from tunneld.fib.plan import Members, members_of
from tunneld.fib.state import Route
from tunneld.lease.model import Batch, IPNetwork, LeasePut


def test_without_a_lease_nothing_must_be(node: MakeNode) -> None:
    assert node().desired.state() is None


def test_dual_stack_peer_is_reached_over_both_families(node: MakeNode) -> None:
    host = node()
    state = host.holds(lease(2))
    assert targets(state) == {A, A_V6}
    assert set(host.desired.peers) == {A, A_V6}
    assert host.desired.device_mtu_bytes == 1430
    assert host.skips() == {}


@pytest.mark.parametrize(("families", "subnet"), [("ipv4", A), ("ipv6", A_V6)])
def test_network_of_one_family_knows_no_other(
    node: MakeNode, families: Family, subnet: IPNetwork
) -> None:
    state = node(families=families).holds(lease(2, families=families))
    assert targets(state) == {subnet}
    assert {route.destination.version for route in state.host.routes} == {subnet.version}


def test_kernel_data_path_leads_to_its_entries(node: MakeNode) -> None:
    state = node(datapath="kernel").holds(lease(2))
    assert to_peers(state, "onlink") == {A, A_V6}
    assert {device.name for device in state.host.vxlan_devices} == {"flannel.1", "flannel-v6.1"}
    assert (len(state.host.neighbours), len(state.host.fdb)) == (2, 2)
    assert state.engine.entries == {}


def test_peers_wait_until_it_is_known_whether_they_are_on_the_link(node: MakeNode) -> None:
    host = node("host-gw")
    changes: list[None] = []
    host.desired.on_change = lambda: changes.append(None)
    leases = (lease(2, backend_type="host-gw"), lease(3, backend_type="host-gw"))
    assert to_peers(host.holds(*leases), "gateway") == set()
    assert host.skips() == {}
    addresses = {ip_address(text) for text in ("10.99.0.12", "fd99::12", "10.99.0.13", "fd99::13")}
    assert host.desired.underlay_addresses() == addresses
    host.desired.set_on_link({address: address != ip_address("fd99::13") for address in addresses})
    assert len(changes) == 1
    state = host.holds(*leases)
    assert to_peers(state, "gateway") == {A, A_V6, B}
    assert host.skips() == {"not_on_link": 1}
    assert state.host.device is None


def test_link_too_narrow_for_a_plan_keeps_nobody_from_asking_who_is_on_it(node: MakeNode) -> None:
    host = node("host-gw")
    host.holds(lease(2, backend_type="host-gw"))
    host.desired.set_underlay_mtu(1279)  # RFC 8200 section 5
    with pytest.raises(InterfaceError):
        host.desired.state()
    addresses = {ip_address("10.99.0.12"), ip_address("fd99::12")}
    assert host.desired.underlay_addresses() == addresses


def test_answers_that_say_the_same_change_nothing(node: MakeNode) -> None:
    host = node("host-gw")
    changes: list[None] = []
    host.desired.on_change = lambda: changes.append(None)
    for _ in range(2):
        host.desired.set_on_link({ip_address("10.99.0.12"): True})
    assert len(changes) == 1


@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
def test_direct_routing_follows_the_link_peer_by_peer_and_back(
    node: MakeNode, datapath: Literal["userspace", "kernel"]
) -> None:
    host = node(datapath=datapath, DirectRouting=True)
    a, a_v6 = ip_address("10.99.0.12"), ip_address("fd99::12")
    host.holds(lease(2))
    host.desired.set_on_link({a: True, a_v6: False})
    state = host.holds(lease(2))
    assert Route(destination=A, kind="gateway", gateway=a) in state.host.routes
    assert to_peers(state, "gateway") == {A}
    assert targets(state) == ({A, A_V6} if datapath == "userspace" else set())
    host.desired.set_on_link({a: False, a_v6: False})
    state = host.holds(lease(2))
    assert to_peers(state, "gateway") == set()
    assert to_peers(state, "onlink") == ({A, A_V6} if datapath == "kernel" else set())


def test_nobody_asks_about_the_link_where_it_does_not_matter(node: MakeNode) -> None:
    host = node()
    host.holds(lease(2))
    assert host.desired.underlay_addresses() == frozenset()


def test_alloc_reaches_nobody_and_finds_no_fault(node: MakeNode) -> None:
    host = node("alloc")
    state = host.holds(lease(2), lease(3, backend_type=""))
    assert (host.desired.peers, host.skips()) == ({}, {})
    assert {route.kind for route in state.host.routes} == {"unreachable"}
    assert state.host.subnet_env is not None


def test_mtu_of_the_underlay_is_followed(node: MakeNode) -> None:
    host = node()
    changes: list[None] = []
    host.desired.on_change = lambda: changes.append(None)
    host.desired.set_underlay_mtu(1400)
    assert len(changes) == 1
    state = host.holds(lease(2))
    assert state.host.subnet_env is not None
    assert (state.host.subnet_env.mtu_bytes, host.desired.device_mtu_bytes) == (1330, 1330)
    assert {one.mtu_bytes for one in state.engine.adjacencies.values()} == {1330}


def test_narrow_path_lowers_the_adjacency_and_gives_the_peer_a_route_that_says_so(
    node: MakeNode,
) -> None:
    host = node(families="ipv4")
    host.holds(lease(2, families="ipv4"))
    host.path_mtus.refused("10.5.2.0/24", 1300)
    state = host.holds(lease(2, families="ipv4"))
    adjacency = state.engine.adjacencies["10.5.2.0/24"]
    assert adjacency.mtu_bytes == 1250
    assert Route(destination=A, kind="overlay", mtu_bytes=1250) in state.host.routes
    assert host.desired.path_state(adjacency) == "searching"


def test_firewall_knows_the_device_that_was_opened(node: MakeNode) -> None:
    state = node().holds()
    assert state.host.firewall is not None
    assert state.host.firewall.devices == {"flannel0"}
    assert state.host.firewall.ipv6 is not None
    assert state.host.firewall.ipv6.subnet == ip_network("fd00:10:5:1a::/64")


def test_one_event_is_judged_once_and_an_event_of_the_host_not_again(
    node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = node("host-gw")
    judged: list[None] = []

    def counted(*args: Any) -> Members:
        judged.append(None)
        return members_of(*args)

    monkeypatch.setattr(desired, "members_of", counted)
    host.holds(lease(2, backend_type="host-gw"))
    host.desired.set_on_link(dict.fromkeys(host.desired.underlay_addresses(), True))
    state = host.desired.state()
    assert state is not None
    assert to_peers(state, "gateway") == {A, A_V6}
    assert host.desired.state() is state
    assert len(judged) == 1


def test_second_half_of_a_revision_is_judged_too(node: MakeNode) -> None:
    """As a watch of etcd may tell it that has to catch up."""
    host = node()
    host.holds(lease(2))
    host.table.tracker.apply(Batch(revision=100, events=(LeasePut(lease(3)),)))
    host.desired.table_changed()
    state = host.desired.state()
    assert state is not None
    assert set(state.engine.adjacencies) == {str(one) for one in (A, A_V6, B, B_V6)}


def test_path_that_carried_all_of_the_link_carries_all_of_a_larger_one(node: MakeNode) -> None:
    host = node(families="ipv4")
    host.holds(lease(2, families="ipv4"))
    host.path_mtus.refused("10.5.2.0/24", 1500)
    host.desired.set_underlay_mtu(1600)
    adjacency = host.holds(lease(2, families="ipv4")).engine.adjacencies["10.5.2.0/24"]
    assert (adjacency.mtu_bytes, adjacency.outer_df) == (1550, "probed")

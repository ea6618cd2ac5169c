"""From the leases in the store to what this host must hold, with every backend."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.support.netns import Rig
from tests.unit.backend.values import HERE, OWN, PEER_MAC, PEER_MAC_V6, Family, network
from tests.unit.host.conftest import inside
from tunneld.backend import parse_backend
from tunneld.daemon.desired import Desired
from tunneld.daemon.membership import Membership
from tunneld.daemon.path_mtu import PathMtus
from tunneld.fib.compose import Rules
from tunneld.fib.state import FdbEntry, Route, State
from tunneld.lease.keeper import Keeper
from tunneld.lease.model import (
    NO_IPV4_SUBNET,
    IPNetwork,
    Lease,
    LeaseAttributes,
    Snapshot,
    SubnetKey,
)
from tunneld.store import StoreOptions, open_store

MakeNode = Callable[..., "Node"]

A, A_V6 = IPv4Network("10.5.2.0/24"), IPv6Network("fd00:10:5:2::/64")
B, B_V6 = IPv4Network("10.5.3.0/24"), IPv6Network("fd00:10:5:3::/64")


def lease(
    number: int,
    *,
    create: int | None = None,
    mod: int | None = None,
    families: Family = "dual",
    backend_type: str = "vxlan",
    **attributes: Any,
) -> Lease:
    """The lease of host 10.99.0.<number + 10> and fd99::<number + 10>."""
    ipv4 = IPv4Network(f"10.5.{number}.0/24") if families != "ipv6" else NO_IPV4_SUBNET
    ipv6 = None if families == "ipv4" else IPv6Network(f"fd00:10:5:{number}::/64")
    values: dict[str, Any] = {
        "public_ip": IPv4Address(f"10.99.0.{number + 10}" if families != "ipv6" else "0.0.0.0"),
        "public_ipv6": None if families == "ipv4" else IPv6Address(f"fd99::{number + 10}"),
        "backend_type": backend_type,
    }
    if backend_type == "vxlan":
        values["backend_data"] = {"VNI": 1, "VtepMAC": f"0e:00:00:00:04:{number:02x}"}
        values["backend_v6_data"] = {"VNI": 1, "VtepMAC": f"0e:00:00:00:06:{number:02x}"}
    created = number if create is None else create
    return Lease(
        key=SubnetKey(ipv4, ipv6),
        attributes=LeaseAttributes(**values | attributes),
        grant_id=7,
        create_revision=created,
        mod_revision=created if mod is None else mod,
    )


class Node:
    """A host that holds `OWN`, with a lease table that the tests write."""

    def __init__(
        self,
        directory: Path,
        backend_type: str = "vxlan",
        families: Family = "dual",
        datapath: Literal["userspace", "kernel"] = "userspace",
        **options: object,
    ) -> None:
        config = network(backend_type, families, **options)
        backend = parse_backend(config, datapath)
        store = open_store(StoreOptions(kind="sqlite", path=directory / "store"))
        keeper = Keeper(
            store,
            node_id="here",
            version="0.1.0",
            ttl_s=60.0,
            renew_margin_s=20.0,
            rng=random.Random(1),
        )
        self.membership = Membership(store, keeper, "/coreos.com/network")
        key = SubnetKey(
            NO_IPV4_SUBNET if families == "ipv6" else OWN.ipv4,
            None if families == "ipv4" else OWN.ipv6,
        )
        self.own = Lease(key=key, attributes=backend.attributes(HERE), grant_id=1)
        self.path_mtus = PathMtus(here=HERE, overhead_bytes=backend.overhead_bytes)
        self.desired = Desired(
            config=config,
            backend=backend,
            membership=self.membership,
            path_mtus=self.path_mtus,
            here=HERE,
            source_check=backend.source_check,
            rules=Rules(ip_masq=True),
        )
        self.desired.device = "flannel0" if backend.datapath == "userspace" else None
        self._keeper = keeper

    def holds(self, *leases: Lease) -> State:
        """Writes the table anew and returns what must be."""
        tracker = self.membership.tracker
        tracker.reset(Snapshot(revision=100, config=None, leases=(self.own, *leases)))
        asyncio.run(self._adopt())
        state = self.desired.state()
        assert state is not None
        return state

    async def _adopt(self) -> None:
        self._keeper.adopt(self.own, 30.0, self.membership.tracker)

    def skips(self) -> dict[str, int]:
        """Returns the leases that were skipped, by reason."""
        counts = self.membership.tracker.skip_counts
        return {reason: count for reason, count in counts.items() if count}


@pytest.fixture
def node(tmp_path: Path) -> MakeNode:
    def make(*args: Any, **options: Any) -> Node:
        return Node(tmp_path, *args, **options)

    return make


def targets(state: State) -> set[IPNetwork]:
    return {prefix for prefix, target in state.engine.entries.items() if target != "local"}


def to_peers(state: State, kind: str) -> set[IPNetwork]:
    return {route.destination for route in state.host.routes if route.kind == kind}


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


def test_adjacency_is_found_by_the_name_the_engine_reports(node: MakeNode) -> None:
    host = node()
    host.holds(lease(2))
    found = host.desired.by_name("fd00:10:5:2::/64")
    assert found is not None
    assert found.endpoint == ip_address("fd99::12")
    assert host.desired.by_name("10.5.9.0/24") is None
    assert host.desired.by_name(None) is None


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


@pytest.mark.root
def test_narrow_path_lowers_the_adjacency_and_gives_the_peer_a_route_that_says_so(
    node: MakeNode, rig: Rig
) -> None:
    space = rig.namespace("host")
    for address in ("10.99.0.11/32", "10.99.0.12/32"):
        space.run("ip", "address", "add", address, "dev", "lo")
    space.run("ip", "link", "set", "lo", "mtu", "1300")
    host = node(families="ipv4")
    host.holds(lease(2, families="ipv4"))
    adjacency = host.desired.by_name("10.5.2.0/24")
    assert adjacency is not None
    with inside(space):
        host.path_mtus.refused(adjacency)
    state = host.holds(lease(2, families="ipv4"))
    assert state.engine.adjacencies["10.5.2.0/24"].mtu_bytes == 1250
    assert Route(destination=A, kind="overlay", mtu_bytes=1250) in state.host.routes
    assert host.desired.by_name("10.5.2.0/24") == state.engine.adjacencies["10.5.2.0/24"]


def test_firewall_knows_the_device_that_was_opened(node: MakeNode) -> None:
    state = node().holds()
    assert state.host.firewall is not None
    assert state.host.firewall.devices == {"flannel0"}
    assert state.host.firewall.ipv6 is not None
    assert state.host.firewall.ipv6.subnet == ip_network("fd00:10:5:1a::/64")

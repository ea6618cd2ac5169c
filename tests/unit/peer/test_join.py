"""A lease and its node's record become one peer."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from tunneld.lease.model import Lease, LeaseAttributes, NodeRecord, SubnetKey
from tunneld.lease.tracker import Usable
from tunneld.peer import join


def key(number: int) -> SubnetKey:
    return SubnetKey(IPv4Network(f"10.5.{number}.0/24"))


def lease(number: int, public_ip: str) -> Usable:
    attributes = LeaseAttributes(public_ip=IPv4Address(public_ip))
    return Usable.whole(Lease(key=key(number), attributes=attributes))


def record(number: int, public_ip: str) -> NodeRecord:
    return NodeRecord(
        node_id="n1", key=key(number), public_ip=IPv4Address(public_ip), version="0.1.0"
    )


def test_record_of_the_same_subnet_and_address_names_the_node() -> None:
    (peer,) = join([lease(2, "192.0.2.2")], [record(2, "192.0.2.2")])
    assert (peer.node_id, peer.version) == ("n1", "0.1.0")


def test_record_left_behind_does_not_name_the_new_holder() -> None:
    (peer,) = join([lease(2, "192.0.2.9")], [record(2, "192.0.2.2")])
    assert peer.node_id is None


def test_lease_without_a_record_is_a_flanneld() -> None:
    (peer,) = join([lease(2, "192.0.2.2")], [])
    assert (peer.node_id, peer.version) == (None, None)


def test_peers_come_sorted_by_subnet() -> None:
    peers = join([lease(9, "192.0.2.9"), lease(2, "192.0.2.2")], [])
    assert [str(peer.subnet) for peer in peers] == ["10.5.2.0/24", "10.5.9.0/24"]

"""A lease and its node's record become one peer."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from tunneld.lease.model import (
    NO_IPV4_SUBNET,
    IPNetwork,
    Lease,
    LeaseAttributes,
    NodeRecord,
    RecordEncryption,
    SubnetKey,
)
from tunneld.lease.selection import Usable
from tunneld.peer import Peer, join


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


def test_keys_of_a_record_are_the_peers_and_hidden_by_no_other_record() -> None:
    keys = RecordEncryption(key="x", port=8286, instance="00")
    with_keys = replace(record(2, "192.0.2.2"), node_id="n2", encryption=keys)
    for records in ([with_keys], [record(2, "192.0.2.2"), with_keys]):
        (peer,) = join([lease(2, "192.0.2.2")], records)
        assert (peer.node_id, peer.encryption) == ("n2", keys)
    (peer,) = join([lease(2, "192.0.2.9")], [with_keys])
    assert peer.encryption is None


def test_peers_come_in_the_order_of_their_leases() -> None:
    peers = join([lease(9, "192.0.2.9"), lease(2, "192.0.2.2")], [])
    assert [str(peer.subnet) for peer in peers] == ["10.5.9.0/24", "10.5.2.0/24"]


class TestFamilies:
    ONLY6 = SubnetKey(NO_IPV4_SUBNET, IPv6Network("fd00:5:2::/64"))
    BOTH = SubnetKey(IPv4Network("10.5.2.0/24"), IPv6Network("fd00:5:2::/64"))

    def of(self, key: SubnetKey, *withheld: IPNetwork) -> Peer:
        lease = Lease(key=key, attributes=LeaseAttributes(public_ip=IPv4Address("192.0.2.2")))
        (peer,) = join([Usable(lease=lease, withheld=frozenset(withheld))], [])
        return peer

    def test_peer_has_the_subnets_of_its_key(self) -> None:
        assert (self.of(key(2)).ipv4, self.of(key(2)).ipv6) == (key(2).ipv4, None)
        assert (self.of(self.ONLY6).ipv4, self.of(self.ONLY6).ipv6) == (None, self.ONLY6.ipv6)
        assert (self.of(self.BOTH).ipv4, self.of(self.BOTH).ipv6) == (
            self.BOTH.ipv4,
            self.BOTH.ipv6,
        )

    def test_what_may_not_be_used_is_not_there(self) -> None:
        half = self.of(self.BOTH, IPv6Network("fd00:5:2::/64"))
        assert (half.ipv4, half.ipv6) == (self.BOTH.ipv4, None)
        half = self.of(self.BOTH, IPv4Network("10.5.2.0/24"))
        assert (half.ipv4, half.ipv6) == (None, self.BOTH.ipv6)


def test_nodes_without_ipv4_are_told_apart_by_their_ipv6_address() -> None:
    only6 = TestFamilies.ONLY6
    attributes = LeaseAttributes(
        public_ip=IPv4Address(0), public_ipv6=IPv6Address("fd99::12"), backend_type="vxlan"
    )
    leases = [Usable.whole(Lease(key=only6, attributes=attributes))]

    def named(address: str) -> str | None:
        record = NodeRecord(
            node_id="n1",
            key=only6,
            public_ip=IPv4Address(0),
            public_ipv6=IPv6Address(address),
            version="0.1.0",
        )
        (peer,) = join(leases, [record])
        return peer.node_id

    assert named("fd99::12") == "n1"
    assert named("fd99::66") is None

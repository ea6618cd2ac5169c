"""Nodes as the daemon hands them in, one starting and one forwarding, and ways to reach a peer."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from tunneld.backend.base import Adjacency, KernelPath, Reach
from tunneld.backend.mac import parse_mac
from tunneld.control.status import BackendStatus, PeerStatus, ReachStatus, StatusInput
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
    backend=BackendStatus(
        type="udp",
        datapath="userspace",
        devices=("flannel0",),
        mtu_bytes=1472,
        scheduling="batch",
    ),
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
            reaches={
                IPv4Network("10.5.34.0/24"): ReachStatus(
                    reach=Reach(
                        adjacency=Adjacency(
                            encapsulation="raw",
                            endpoint=IPv4Address("192.0.2.12"),
                            port=8285,
                            mtu_bytes=1472,
                        )
                    ),
                    mtu_bytes=1472,
                    counters=AdjacencyCounters(
                        tx_packets=3, tx_bytes=252, rx_packets=2, rx_bytes=168, last_rx=99.5
                    ),
                    last_rx="2026-08-14T09:29:59.500Z",
                )
            },
        ),
    ),
    drops={"no_route": 1, "too_big": 0},
    skipped={"outside_network": 2, "malformed_key": 0},
    icmp_sent=1,
)

SUBNETS = (IPv4Network("10.5.34.0/24"), IPv6Network("fd00:10:5:34::/64"))
ENDS = (IPv4Address("192.0.2.12"), IPv6Address("2001:db8::12"))


def dual_stack(*reaches: ReachStatus, key: SubnetKey | None = None) -> PeerStatus:
    """A peer of two families, reached in the first one, or in both."""
    return PeerStatus(
        peer=Peer(
            key=key or SubnetKey(*SUBNETS),
            public_ip=ENDS[0],
            public_ipv6=ENDS[1],
            backend_type="vxlan",
            backend_data=None,
            backend_v6_data=None,
            node_id=None,
            version=None,
        ),
        reaches=dict(zip(SUBNETS, reaches, strict=False)),
    )


def by_vxlan(family: int, mtu_bytes: int, packets: int, last_rx: str | None = None) -> ReachStatus:
    adjacency = Adjacency(
        encapsulation="vxlan", endpoint=ENDS[family == 6], port=8472, mtu_bytes=mtu_bytes
    )
    return ReachStatus(
        reach=Reach(adjacency=adjacency),
        mtu_bytes=mtu_bytes,
        counters=AdjacencyCounters(
            tx_packets=packets, tx_bytes=100 * packets, rx_packets=packets, rx_bytes=packets
        ),
        last_rx=last_rx,
    )


DIRECT = ReachStatus(reach=Reach(gateway=ENDS[0]), mtu_bytes=1500)
BY_KERNEL = ReachStatus(
    reach=Reach(
        kernel=KernelPath(
            device="flannel-v6.1",
            next_hop=SUBNETS[1].network_address,
            mac=parse_mac("0e:2a:00:00:00:01"),
            endpoint=ENDS[1],
        )
    ),
    mtu_bytes=1430,
)

"""Short ways to write networks, hosts and peers in tests of the backends."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Literal

from tunneld.backend import parse_backend
from tunneld.backend.base import Backend, Here
from tunneld.backend.mac import parse_mac
from tunneld.lease.model import SubnetKey
from tunneld.lease.network import NetworkConfig, parse
from tunneld.peer import Peer

Family = Literal["ipv4", "ipv6", "dual"]

_FAMILIES: dict[str, dict[str, object]] = {
    "ipv4": {"Network": "10.5.0.0/16"},
    "ipv6": {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00:10:5::/48"},
    "dual": {"Network": "10.5.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00:10:5::/48"},
}

MAC = parse_mac("ba:96:e6:9c:99:ba")
MAC_V6 = parse_mac("12:ed:dc:97:cc:d5")

HERE = Here(
    address=IPv4Address("10.99.0.11"),
    address_v6=IPv6Address("fd99::11"),
    public_ip=IPv4Address("10.99.0.11"),
    public_ipv6=IPv6Address("fd99::11"),
    underlay_mtu_bytes=1500,
    mac=MAC,
    mac_v6=MAC_V6,
)

OWN = SubnetKey(IPv4Network("10.5.57.0/24"), IPv6Network("fd00:10:5:1a::/64"))

PEER_MAC = parse_mac("72:0b:53:7f:1d:2f")
PEER_MAC_V6 = parse_mac("fe:e7:c9:24:bf:30")


def network(
    backend_type: str | None = None, families: Family = "ipv4", **options: object
) -> NetworkConfig:
    backend = {} if backend_type is None else {"Backend": {"Type": backend_type, **options}}
    return parse(json.dumps(_FAMILIES[families] | backend))


def backend(
    backend_type: str,
    families: Family = "ipv4",
    datapath: Literal["userspace", "kernel"] = "userspace",
    **options: object,
) -> Backend:
    return parse_backend(network(backend_type, families, **options), datapath)


def peer(
    subnet: str | None = "10.5.2.0/24",
    subnet_v6: str | None = None,
    *,
    public_ip: str = "10.99.0.12",
    public_ipv6: str | None = None,
    backend_type: str = "",
    data: Any = None,
    data_v6: Any = None,
) -> Peer:
    return Peer(
        key=SubnetKey(
            IPv4Network(subnet or "0.0.0.0/0"),
            None if subnet_v6 is None else IPv6Network(subnet_v6),
        ),
        public_ip=IPv4Address(public_ip),
        public_ipv6=None if public_ipv6 is None else IPv6Address(public_ipv6),
        backend_type=backend_type,
        backend_data=data,
        backend_v6_data=data_v6,
        node_id=None,
        version=None,
    )


def dual_peer(backend_type: str = "", *, data: Any = None, data_v6: Any = None) -> Peer:
    """A host of both families: its addresses end in 12, its subnets in 2."""
    return peer(
        subnet_v6="fd00:10:5:2::/64",
        public_ipv6="fd99::12",
        backend_type=backend_type,
        data=data,
        data_v6=data_v6,
    )


def vxlan_peer() -> Peer:
    """A host of both families, as flanneld writes its lease."""
    return dual_peer(
        "vxlan",
        data={"VNI": 1, "VtepMAC": PEER_MAC},
        data_v6={"VNI": 1, "VtepMAC": PEER_MAC_V6},
    )

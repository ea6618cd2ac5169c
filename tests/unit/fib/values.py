"""Short ways to write overlays and reaches in tests of the FIB."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from tunneld.backend.base import Adjacency, KernelPath, Reach, Vtep, VxlanDevice
from tunneld.backend.mac import MacAddress, parse_mac
from tunneld.fib.compose import Overlay
from tunneld.fib.state import OverlayNet
from tunneld.lease.model import IPNetwork

Reaches = dict[IPNetwork, Reach]

NETWORK = IPv4Network("10.5.0.0/16")
NETWORK_V6 = IPv6Network("fd00:10:5::/48")
OWN = IPv4Network("10.5.1.0/24")
OWN_V6 = IPv6Network("fd00:10:5:1::/64")
PEER = IPv4Network("10.5.2.0/24")
PEER_V6 = IPv6Network("fd00:10:5:2::/64")

IPV4 = OverlayNet(network=NETWORK, subnet=OWN)
IPV6 = OverlayNet(network=NETWORK_V6, subnet=OWN_V6)

MAC = parse_mac("0e:00:00:00:00:01")
VTEP = Vtep(vni=1, gbp=False, mac=MAC, mac_v6=MAC)


def nets(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(ip_network(text) for text in texts)


def peer_mac(number: int) -> MacAddress:
    return parse_mac(f"0e:00:00:00:01:{number:02x}")


def raw(endpoint: str = "192.0.2.2", mtu_bytes: int = 1472) -> Reach:
    return Reach(
        adjacency=Adjacency(
            encapsulation="raw", endpoint=ip_address(endpoint), port=8285, mtu_bytes=mtu_bytes
        )
    )


def vxlan(endpoint: str = "192.0.2.2", mac: MacAddress = MAC, gateway: str | None = None) -> Reach:
    return Reach(
        adjacency=Adjacency(
            encapsulation="vxlan",
            endpoint=ip_address(endpoint),
            port=8472,
            mtu_bytes=1450,
            of_peer={"vtep_mac": mac},
        ),
        gateway=None if gateway is None else ip_address(gateway),
    )


def kernel(prefix: IPNetwork, endpoint: str = "192.0.2.2", mac: MacAddress = MAC) -> Reach:
    return Reach(
        kernel=KernelPath(
            device="flannel.1" if prefix.version == 4 else "flannel-v6.1",
            next_hop=prefix.network_address,
            mac=mac,
            endpoint=ip_address(endpoint),
        )
    )


def gateway(address: str) -> Reach:
    return Reach(gateway=ip_address(address))


def device(name: str, subnet: IPNetwork, local: str, **other: Any) -> VxlanDevice:
    values: dict[str, Any] = {
        "vni": 1,
        "port": 8472,
        "mac": MAC,
        "gbp": False,
        "learning": False,
        "mtu_bytes": 1450,
    }
    return VxlanDevice(
        name=name,
        local=ip_address(local),
        address=subnet.network_address,
        **values | other,
    )


def overlay(**other: Any) -> Overlay:
    """An IPv4 overlay in user space, in raw packets."""
    values: dict[str, Any] = {
        "ipv4": IPV4,
        "datapath": "userspace",
        "device": "flannel0",
        "mtu_bytes": 1472,
        "source_check": "strict",
    }
    return Overlay(**values | other)


def kernel_overlay(**other: Any) -> Overlay:
    """An overlay of both families on the kernel's vxlan devices."""
    values: dict[str, Any] = {
        "ipv6": IPV6,
        "datapath": "kernel",
        "device": None,
        "vxlan_devices": (
            device("flannel.1", OWN, "192.0.2.1"),
            device("flannel-v6.1", OWN_V6, "2001:db8::1", mtu_bytes=1430),
        ),
        "mtu_bytes": 1430,
    }
    return overlay(**values | other)

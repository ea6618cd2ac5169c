"""A path that carries less than the link it begins with, over both families."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Final

from testbed.netns import Namespace, Rig

NEAR: Final = IPv4Address("192.0.2.1")
NEAR_V6: Final = IPv6Address("2001:db8:1::1")
FAR: Final = IPv4Address("198.51.100.2")
FAR_V6: Final = IPv6Address("2001:db8:2::2")


def narrow_path(rig: Rig) -> tuple[Namespace, Namespace]:
    """Returns the hosts at its ends: between them is a link of 1,400 bytes behind a router."""
    near, router, far = (rig.namespace(label) for label in ("near", "router", "far"))
    rig.link(
        near, "eth0", router, "eth1", first_address=f"{NEAR}/24", second_address="192.0.2.254/24"
    )
    rig.link(
        router,
        "eth2",
        far,
        "eth0",
        first_address="198.51.100.254/24",
        second_address=f"{FAR}/24",
        mtu_bytes=1400,
    )
    for space, device, address in (
        (near, "eth0", f"{NEAR_V6}/64"),
        (router, "eth1", "2001:db8:1::ff/64"),
        (router, "eth2", "2001:db8:2::ff/64"),
        (far, "eth0", f"{FAR_V6}/64"),
    ):
        space.run("ip", "address", "add", address, "dev", device, "nodad")
    router.sysctl("net/ipv4/ip_forward", 1)
    router.sysctl("net/ipv6/conf/all/forwarding", 1)
    for space, gateway, gateway_v6 in (
        (near, "192.0.2.254", "2001:db8:1::ff"),
        (far, "198.51.100.254", "2001:db8:2::ff"),
    ):
        space.run("ip", "route", "add", "default", "via", gateway)
        space.run("ip", "-6", "route", "add", "default", "via", gateway_v6)
    for endpoint in (FAR, FAR_V6):
        near.wait_for_answer(str(endpoint))
    return near, far

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

import pytest

from testbed.netns import Namespace
from tests.unit.host.conftest import overlay, run_inside
from tunneld.fib.state import Device, Route
from tunneld.host.device import OverlayDevice
from tunneld.host.routes import Exits, Routes, Sources

if TYPE_CHECKING:
    from tunneld.host.netlink import Netlink

pytestmark = pytest.mark.root

NETWORK = IPv4Network("10.5.0.0/16")
NETWORK_V6 = IPv6Network("fd00:5::/48")
WANTED = Device(address=IPv4Address("10.5.1.0"), mtu_bytes=1472, txqueuelen=1000, forwarding=True)

DUAL = replace(WANTED, address_v6=IPv6Address("fd00:5:0:1::"), mtu_bytes=1430)
ONLY_V6 = replace(DUAL, address=None)


async def apply(name: str, netlink: Netlink, wanted: Device) -> OverlayDevice:
    device = OverlayDevice(name, netlink)
    await apply_again(device, netlink, wanted)
    return device


async def apply_again(device: OverlayDevice, netlink: Netlink, wanted: Device) -> None:
    link = await device.link()
    assert link is not None
    await device.apply(link, wanted, Routes(netlink, [NETWORK, NETWORK_V6]))


async def observe(device: OverlayDevice) -> Device | None:
    link = await device.link()
    assert link is not None
    return await device.observe(link)


def test_fresh_device_counts_as_not_set_up(space: Namespace) -> None:
    async def work() -> None:
        async with overlay() as (tun, netlink):
            assert await observe(OverlayDevice(tun.name, netlink)) is None

    run_inside(space, work)


def test_settings_are_applied_and_observed_and_may_be_applied_again(space: Namespace) -> None:
    async def work() -> None:
        async with overlay() as (tun, netlink):
            device = await apply(tun.name, netlink, WANTED)
            assert await observe(device) == WANTED
            shown = space.run("ip", "-d", "address", "show", "dev", tun.name)
            assert "inet 10.5.1.0/32 scope global" in shown
            assert "mtu 1472" in shown
            assert "qlen 1000" in shown
            assert ",UP," in shown
            await apply_again(device, netlink, WANTED)
            assert await observe(device) == WANTED
            assert await observe(OverlayDevice(tun.name, netlink)) == WANTED

    run_inside(space, work)


@pytest.mark.parametrize("wanted", [DUAL, ONLY_V6], ids=["dual", "IPv6 only"])
@pytest.mark.parametrize("disabled", [0, 1])
def test_ipv6_is_on_where_the_network_has_it(
    space: Namespace, wanted: Device, disabled: int
) -> None:
    space.sysctl("net/ipv6/conf/default/disable_ipv6", disabled)
    space.sysctl("net/ipv6/conf/all/forwarding", 1)

    async def work() -> None:
        async with overlay() as (tun, netlink):
            device = await apply(tun.name, netlink, wanted)
            assert await observe(device) == wanted
            shown = space.run("ip", "-6", "address", "show", "dev", tun.name)
            # No link-local address, and nothing tentative.
            assert [line.split("inet6 ")[1] for line in shown.splitlines() if "inet6" in line] == [
                "fd00:5:0:1::/128 scope global nodad "
            ]
            assert (wanted.address is None) == ("inet 10.5.1.0" not in space.run("ip", "address"))
            await apply_again(device, netlink, wanted)
            assert await observe(device) == wanted
            assert await observe(OverlayDevice(tun.name, netlink)) == wanted
            await apply_again(device, netlink, WANTED)
            assert await observe(device) == WANTED
            assert space.run("ip", "-6", "address", "show", "dev", tun.name) == ""

    run_inside(space, work)


@pytest.mark.parametrize(
    "spoiling",
    [
        "ip link set flannel0 down",
        "ip address del fd00:5:0:1::/128 dev flannel0",
        "sysctl -w net.ipv6.conf.flannel0.disable_ipv6=1",
    ],
)
def test_what_somebody_spoils_of_ipv6_is_seen_and_mended(space: Namespace, spoiling: str) -> None:
    space.sysctl("net/ipv6/conf/all/forwarding", 1)

    async def work() -> None:
        async with overlay() as (tun, netlink):
            device = await apply(tun.name, netlink, DUAL)
            space.run(*spoiling.split())
            assert await observe(device) != DUAL
            await apply_again(device, netlink, DUAL)
            assert await observe(device) == DUAL

    run_inside(space, work)


def test_ipv6_forwarding_of_the_device_follows_what_the_kernel_does(space: Namespace) -> None:
    async def work() -> None:
        async with overlay() as (tun, netlink):
            device = await apply(tun.name, netlink, replace(DUAL, forwarding=False))
            forced = f"/proc/sys/net/ipv6/conf/{tun.name}/force_forwarding"
            assert await observe(device) == replace(DUAL, forwarding=False)
            if space.try_run("test", "-e", forced).returncode == 0:  # Linux 6.17 and later
                await apply_again(device, netlink, DUAL)
                assert await observe(device) == DUAL
                assert space.run("sysctl", "-n", "net.ipv6.conf.all.forwarding") == "0\n"
                await apply_again(device, netlink, replace(DUAL, forwarding=False))
            space.sysctl("net/ipv6/conf/all/forwarding", 1)
            assert await observe(device) == replace(DUAL, forwarding=False)
            space.sysctl("net/ipv4/ip_forward", 1)
            assert await observe(device) == DUAL

    run_inside(space, work)


def test_forwarding_is_switched_for_this_device_alone(space: Namespace) -> None:
    space.bridge("br0")

    def forwarding(device: str) -> str:
        return space.run("cat", f"/proc/sys/net/ipv4/conf/{device}/forwarding").strip()

    async def work() -> None:
        async with overlay() as (tun, netlink):
            device = await apply(tun.name, netlink, WANTED)
            names = (tun.name, "br0", "lo", "all", "default")
            assert [forwarding(name) for name in names] == ["1", "0", "0", "0", "0"]
            off = Device(address=WANTED.address, mtu_bytes=1472, txqueuelen=1000, forwarding=False)
            await apply_again(device, netlink, off)
            assert forwarding(tun.name) == "0"
            assert await observe(device) == off

    run_inside(space, work)


@pytest.mark.parametrize(
    "spoiling",
    [
        "ip link set flannel0 down",
        "ip address del 10.5.1.0/32 dev flannel0",
        "ip link set flannel0 mtu 1300",
        "ip link set flannel0 txqueuelen 5",
        "sysctl -w net.ipv4.conf.flannel0.forwarding=0",
    ],
)
def test_what_somebody_spoils_is_seen_and_mended(space: Namespace, spoiling: str) -> None:
    async def work() -> None:
        async with overlay() as (tun, netlink):
            device = await apply(tun.name, netlink, WANTED)
            space.run(*spoiling.split())
            assert await observe(device) != WANTED
            await apply_again(device, netlink, WANTED)
            assert await observe(device) == WANTED

    run_inside(space, work)


def test_new_address_takes_the_routes_along(space: Namespace) -> None:
    async def work() -> None:
        async with overlay() as (tun, netlink):
            device = await apply(tun.name, netlink, WANTED)
            link = await device.link()
            assert link is not None
            routes = Routes(netlink, [NETWORK, NETWORK_V6])
            whole = Route(destination=NETWORK, kind="overlay", mtu_bytes=1400)
            exits = Exits(overlay=link.index, sources=Sources(ipv4=WANTED.address))
            await routes.apply(exits, put={whole}, drop=())
            moved = Device(
                address=IPv4Address("10.5.2.0"), mtu_bytes=1472, txqueuelen=1000, forwarding=True
            )
            await apply_again(device, netlink, moved)
            assert await observe(device) == moved
            exits = Exits(overlay=link.index, sources=Sources(ipv4=moved.address))
            assert await routes.observe(exits) == {whole}
            assert "10.5.1.0/32" not in space.run("ip", "address")
            assert "src 10.5.2.0" in space.run("ip", "route", "get", "10.5.7.7")

    run_inside(space, work)


def test_new_ipv6_address_takes_the_routes_along(space: Namespace) -> None:
    space.sysctl("net/ipv6/conf/all/forwarding", 1)

    async def work() -> None:
        async with overlay() as (tun, netlink):
            device = await apply(tun.name, netlink, DUAL)
            link = await device.link()
            assert link is not None
            routes = Routes(netlink, [NETWORK, NETWORK_V6])
            put = {Route(destination=net, kind="overlay") for net in (NETWORK, NETWORK_V6)}
            await routes.apply(
                Exits(overlay=link.index, sources=await device.sources(link)), put=put, drop=()
            )
            moved = replace(DUAL, address_v6=IPv6Address("fd00:5:0:2::"))
            await apply_again(device, netlink, moved)
            assert await observe(device) == moved
            exits = Exits(overlay=link.index, sources=await device.sources(link))
            assert await routes.observe(exits) == put
            assert "fd00:5:0:1::" not in space.run("ip", "address")
            assert "src fd00:5:0:2::" in space.run("ip", "route", "get", "fd00:5:0:7::7")

    run_inside(space, work)


def test_address_that_an_operator_added_stays(space: Namespace) -> None:
    async def work() -> None:
        async with overlay() as (tun, netlink):
            device = await apply(tun.name, netlink, WANTED)
            space.run("ip", "address", "add", "10.77.0.1/32", "dev", tun.name)
            assert await observe(device) == WANTED
            await apply_again(
                device,
                netlink,
                Device(
                    address=IPv4Address("10.5.2.0"),
                    mtu_bytes=1472,
                    txqueuelen=1000,
                    forwarding=True,
                ),
            )
            shown = space.run("ip", "address", "show", "dev", tun.name)
            assert "10.77.0.1/32" in shown
            assert "10.5.1.0/32" not in shown

    run_inside(space, work)


@pytest.mark.parametrize("wanted", [WANTED, DUAL, ONLY_V6], ids=["IPv4 only", "dual", "IPv6 only"])
@pytest.mark.parametrize("ipv6_forwarding", ["0", "1"])
def test_nothing_leaves_by_the_device_of_itself(
    space: Namespace, ipv6_forwarding: str, wanted: Device
) -> None:
    space.sysctl("net/ipv6/conf/all/forwarding", ipv6_forwarding)

    async def work() -> list[bytes]:
        async with overlay() as (tun, netlink):
            await apply(tun.name, netlink, wanted)
            assert "fe80" not in space.run("ip", "-6", "address", "show", "dev", tun.name)
            for value in (0, 1):  # also when the host becomes a router, and so its devices
                space.sysctl("net/ipv6/conf/all/forwarding", value)
            # A router solicitation comes within 1 s, its repetition 4 s later (RFC 4861 §6.3.7);
            # an MLD report within the same second.
            deadline = time.monotonic() + 5.5
            frames = []
            while time.monotonic() < deadline:
                try:
                    frames.append(os.read(tun.fds[0], 65536))
                except BlockingIOError:
                    await asyncio.sleep(0.05)
            return frames

    assert [frame.hex() for frame in run_inside(space, work)] == []

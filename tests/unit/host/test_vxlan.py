"""The kernel's vxlan devices as we make them, with their entries."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from testbed.netns import Namespace, Rig
from tests.unit.host.vxlan import (
    BOTH,
    FDB,
    MAC,
    NEIGHBOURS,
    OTHER_MAC,
    PEER_MAC,
    WANTED,
    WANTED_V6,
    indices,
    observe,
    with_devices,
)
from tunneld.fib.state import FdbEntry
from tunneld.host.netlink import Netlink
from tunneld.host.vxlan import VxlanDevices, VxlanState

pytestmark = pytest.mark.root


def test_devices_are_as_flanneld_makes_them(host: Namespace) -> None:
    async def work(devices: VxlanDevices, netlink: Netlink) -> None:
        for wanted in BOTH:
            await devices.put(wanted)
        assert (await observe(devices, netlink)).devices == set(BOTH)
        shown = host.run("ip", "-d", "link", "show", "flannel.1")
        # flanneld v0.28.9, `ip -d link`, but for the address.
        assert (
            "vxlan id 1 local 192.0.2.1 dev eth0 srcport 0 0 dstport 8472 nolearning ttl auto "
            "ageing 300 udpcsum noudp6zerocsumtx noudp6zerocsumrx"
        ) in shown
        assert "mtu 1450 qdisc noqueue" in shown
        assert "qlen" not in shown
        assert ",UP," in shown
        assert "inet 10.5.1.0/32 scope global flannel.1" in host.run("ip", "address")
        assert "link/ether 0e:2a:00:00:00:01" in shown
        shown = host.run("ip", "-d", "link", "show", "flannel-v6.1")
        assert "vxlan id 1 local 2001:db8::1 dev eth0" in shown
        assert "mtu 1430 qdisc" in shown
        assert "inet6 fd00:5:1::/128 scope global" in host.run("ip", "address")
        for wanted in BOTH:
            accept = host.run("sysctl", "-n", f"net/ipv6/conf/{wanted.name}/accept_ra")
            assert accept == "0\n"
            await devices.put(wanted)  # again
        assert (await observe(devices, netlink)).devices == set(BOTH)

    before = host.run("ip", "link")
    with_devices(host, work)
    assert host.run("ip", "link") == before


def test_entries_are_permanent_replaced_and_removed(host: Namespace) -> None:
    async def work(devices: VxlanDevices, netlink: Netlink) -> None:
        for wanted in BOTH:
            await devices.put(wanted)
        there = await indices(netlink)
        for _ in range(2):
            await devices.put_entries(there, NEIGHBOURS, FDB)
            state = await observe(devices, netlink)
            assert state.neighbours == set(NEIGHBOURS)
            assert state.fdb == set(FDB)
        assert "10.5.2.0 dev flannel.1 lladdr 0e:2a:00:00:00:02 PERMANENT" in host.run(
            "ip", "neigh"
        )
        forwarding = host.run("bridge", "fdb", "show", "dev", "flannel.1")
        assert forwarding == "0e:2a:00:00:00:02 dst 192.0.2.2 self permanent\n"

        moved = FdbEntry(device="flannel.1", mac=PEER_MAC, endpoint=IPv4Address("192.0.2.9"))
        renamed = replace(NEIGHBOURS[0], mac=OTHER_MAC)
        await devices.put_entries(there, [renamed], [moved])
        await devices.drop_entries(there, (), [FDB[0]])
        state = await observe(devices, netlink)
        assert state.neighbours == {renamed, NEIGHBOURS[1]}
        assert state.fdb == {moved, FDB[1]}
        for _ in range(2):
            await devices.drop_entries(there, state.neighbours, state.fdb)
        assert await observe(devices, netlink) == VxlanState(devices=frozenset(BOTH))

    with_devices(host, work)


def test_what_is_not_permanent_is_not_taken_for_ours(host: Namespace) -> None:
    async def work(devices: VxlanDevices, netlink: Netlink) -> None:
        await devices.put(WANTED)
        await devices.put_entries(await indices(netlink), NEIGHBOURS[:1], FDB[:1])
        neighbour = f"10.5.2.0 lladdr {PEER_MAC} dev flannel.1"
        host.run(*f"ip neigh replace {neighbour} nud reachable".split())
        assert (await observe(devices, netlink)).neighbours == set()
        await devices.put_entries(await indices(netlink), NEIGHBOURS[:1], FDB[:1])
        assert (await observe(devices, netlink)).neighbours == {NEIGHBOURS[0]}

    with_devices(host, work)


@pytest.mark.parametrize(
    "spoiling",
    [
        "ip link set flannel.1 address 0e:00:00:00:00:99",
        "ip link set flannel.1 mtu 1300",
        "ip link set flannel.1 txqueuelen 1000",
        "ip link set flannel.1 down",
        "ip link delete flannel.1",
        "ip link set flannel.1 name other0",
        "ip link set flannel.1 master bridge0",
        "ip address del 10.5.1.0/32 dev flannel.1",
        "ip link set flannel.1 type vxlan id 1 learning",
        "ip link set flannel.1 type vxlan id 1 ageing 5",
        "sysctl -w net.ipv4.conf.flannel/1.forwarding=0",
        "sysctl -w net.ipv6.conf.flannel/1.accept_ra=1",
    ],
)
def test_what_somebody_spoils_is_seen_and_mended(host: Namespace, spoiling: str) -> None:
    async def work(devices: VxlanDevices, netlink: Netlink) -> None:
        for wanted in BOTH:
            await devices.put(wanted)
        host.bridge("bridge0")
        host.run(*spoiling.split())
        assert (await observe(devices, netlink)).devices == {WANTED_V6}
        await devices.put(WANTED)
        assert (await observe(devices, netlink)).devices == set(BOTH)

    with_devices(host, work)


def test_device_a_killed_daemon_left_under_another_name_is_taken_back(host: Namespace) -> None:
    async def work(devices: VxlanDevices, netlink: Netlink) -> None:
        for wanted in BOTH:
            await devices.put(wanted)
        before = await indices(netlink)
        host.run("ip", "link", "set", "flannel.1", "name", "other0")
        successor = VxlanDevices(netlink, devices.underlay)
        for wanted in BOTH:
            await successor.put(wanted)
        assert await indices(netlink) == before

    with_devices(host, work)


def test_device_moved_to_another_namespace_is_made_again_and_gone_there(
    rig: Rig, host: Namespace
) -> None:
    elsewhere = rig.namespace("elsewhere")

    async def work(devices: VxlanDevices, netlink: Netlink) -> None:
        for wanted in BOTH:
            await devices.put(wanted)
        host.run("ip", "link", "set", "flannel.1", "netns", elsewhere.name, "name", "theirs")
        # One of somebody else's there stays.
        elsewhere.run(
            *("ip", "link", "add", "flannel.1", "type", "vxlan", "id", "1", "dstport", "8472")
        )
        assert (await observe(devices, netlink)).devices == {WANTED_V6}
        await devices.put(WANTED)
        assert (await observe(devices, netlink)).devices == set(BOTH)
        there = elsewhere.run("ip", "-o", "link")
        assert ("theirs" in there, "flannel.1" in there) == (False, True)

    with_devices(host, work)


def test_new_mtu_mac_and_address_are_set_in_place(host: Namespace) -> None:
    async def work(devices: VxlanDevices, netlink: Netlink) -> None:
        await devices.put(WANTED)
        before = await indices(netlink)
        host.run("ip", "address", "add", "10.77.0.1/32", "dev", "flannel.1")
        moved = replace(WANTED, mac=OTHER_MAC, mtu_bytes=1400, address=IPv4Address("10.5.9.0"))
        await devices.put(moved)
        assert (await observe(devices, netlink)).devices == {moved}
        assert await indices(netlink) == before
        shown = host.run("ip", "address", "show", "flannel.1")
        assert "10.5.1.0/32" not in shown
        assert "10.77.0.1/32" in shown  # an operator's

    with_devices(host, work)


def test_traffic_passes_to_a_kernel_device_set_up_by_hand(rig: Rig, host: Namespace) -> None:
    """Both families, with the entries of `NEIGHBOURS` and `FDB` towards a peer."""
    peer = rig.namespace("peer")
    rig.link(host, "veth0", peer, "eth0", first_bridge="eth0", second_address="192.0.2.2/24")
    peer.run("ip", "address", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
    for name, local, remote, address, mine in (
        ("vx4", "192.0.2.2", "192.0.2.1", "10.5.2.0/32", "10.5.1.0"),
        ("vx6", "2001:db8::2", "2001:db8::1", "fd00:5:2::/128", "fd00:5:1::"),
    ):
        for command in (
            f"ip link add {name} address {PEER_MAC} mtu 1430 type vxlan id 1 local {local} "
            "dev eth0 dstport 8472 nolearning",
            f"ip address add {address} dev {name}" + (" nodad" if ":" in address else ""),
            f"ip link set {name} up",
            f"ip neigh add {mine} lladdr {MAC} dev {name} nud permanent",
            f"bridge fdb add {MAC} dev {name} dst {remote} self permanent",
            f"ip route add {mine} dev {name}",
        ):
            peer.run(*command.split())

    async def work(devices: VxlanDevices, netlink: Netlink) -> None:
        for wanted in BOTH:
            await devices.put(wanted)
        await devices.put_entries(await indices(netlink), NEIGHBOURS, FDB)
        host.run("ip", "route", "add", "10.5.2.0", "dev", "flannel.1")
        host.run("ip", "route", "add", "fd00:5:2::", "dev", "flannel-v6.1")
        for address in ("192.0.2.2", "2001:db8::2"):
            host.wait_for_answer(address)
        for address in ("10.5.2.0", "fd00:5:2::"):
            assert " 0% packet loss" in host.run("ping", "-c", "2", "-W", "20", address)

    with_devices(host, work)

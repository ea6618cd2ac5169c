from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Coroutine
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from tests.support.netns import Namespace, Rig
from tests.support.wait import wait_until
from tests.unit.host.conftest import inside, run_inside
from tunneld.backend.base import VxlanDevice
from tunneld.backend.mac import MacAddress
from tunneld.errors import HostError, PortInUseError
from tunneld.fib.state import FdbEntry, Neighbour
from tunneld.host.leftover import remove_vxlan_devices
from tunneld.host.netlink import Netlink
from tunneld.host.vxlan import VxlanDevices, VxlanState

pytestmark = pytest.mark.root

MAC = MacAddress("0e:2a:00:00:00:01")
PEER_MAC = MacAddress("0e:2a:00:00:00:02")
OTHER_MAC = MacAddress("0e:2a:00:00:00:03")
WANTED = VxlanDevice(
    name="flannel.1",
    vni=1,
    port=8472,
    local=IPv4Address("192.0.2.1"),
    mac=MAC,
    gbp=False,
    learning=False,
    mtu_bytes=1450,
    address=IPv4Address("10.5.1.0"),
)
WANTED_V6 = replace(
    WANTED,
    name="flannel-v6.1",
    local=IPv6Address("2001:db8::1"),
    mtu_bytes=1430,
    address=IPv6Address("fd00:5:1::"),
)
BOTH = (WANTED, WANTED_V6)
NEIGHBOURS = (
    Neighbour(device="flannel.1", address=IPv4Address("10.5.2.0"), mac=PEER_MAC),
    Neighbour(device="flannel-v6.1", address=IPv6Address("fd00:5:2::"), mac=PEER_MAC),
)
FDB = (
    FdbEntry(device="flannel.1", mac=PEER_MAC, endpoint=IPv4Address("192.0.2.2")),
    FdbEntry(device="flannel-v6.1", mac=PEER_MAC, endpoint=IPv6Address("2001:db8::2")),
)

# As flannel's pkg/backend/vxlan/device.go makes it (seen with flanneld v0.28.9).
FLANNELD = (
    "ip link add flannel.1 address 72:0b:53:7f:1d:2f mtu 1450 type vxlan id 1 local 192.0.2.1 "
    "dev eth0 dstport 8472 nolearning"
)


@pytest.fixture
def host(space: Namespace) -> Namespace:
    """A host with one underlay interface of both families, MTU 1500."""
    space.bridge("eth0", "192.0.2.1/24")
    space.run("ip", "address", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
    space.sysctl("net/ipv6/conf/all/forwarding", 1)
    return space


def with_devices(
    space: Namespace, work: Callable[[VxlanDevices, Netlink], Coroutine[Any, Any, None]]
) -> None:
    async def main() -> None:
        async with Netlink.opened() as netlink:
            underlay = await netlink.link("eth0")
            assert underlay is not None
            devices = VxlanDevices(netlink, underlay.index)
            try:
                await work(devices, netlink)
            finally:
                await devices.clear()

    run_inside(space, main)


async def observe(devices: VxlanDevices, netlink: Netlink) -> VxlanState:
    return await devices.observe(await netlink.links())


async def indices(netlink: Netlink) -> dict[str, int]:
    return {link.name: link.index for link in await netlink.links()}


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
        host.run(*spoiling.split())
        assert (await observe(devices, netlink)).devices == {WANTED_V6}
        await devices.put(WANTED)
        assert (await observe(devices, netlink)).devices == set(BOTH)

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


def test_device_that_flanneld_left_is_taken_over_with_our_mac_and_address(
    host: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    host.run(*FLANNELD.split())
    host.run("ip", "address", "add", "10.5.77.0/32", "dev", "flannel.1")
    host.run("ip", "link", "set", "flannel.1", "up")
    entry = "0e:00:00:00:00:66 dev flannel.1 dst 192.0.2.66"
    host.run(*f"bridge fdb add {entry} self permanent".split())

    async def work(devices: VxlanDevices, netlink: Netlink) -> None:
        before = await indices(netlink)
        assert (await observe(devices, netlink)) == VxlanState()
        await devices.put(WANTED)
        assert await indices(netlink) == before
        state = await observe(devices, netlink)
        assert state.devices == {WANTED}
        (stale,) = state.fdb  # shown, so that the difference drops it
        assert str(stale.endpoint) == "192.0.2.66"
        assert "10.5.77.0" not in host.run("ip", "address")

    with_devices(host, work)
    assert "took over a vxlan device" in caplog.text
    assert "flannel.1" not in host.run("ip", "link")


@pytest.mark.parametrize(
    "command",
    [
        FLANNELD.replace("nolearning", "learning gbp"),
        FLANNELD.replace("192.0.2.1", "192.0.2.8"),  # this host's address of before
    ],
)
def test_leftover_with_other_settings_is_made_anew(
    host: Namespace, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    host.run(*command.split())

    async def work(devices: VxlanDevices, netlink: Netlink) -> None:
        await devices.put(WANTED)
        assert (await observe(devices, netlink)).devices == {WANTED}

    with_devices(host, work)
    assert "made anew" in caplog.text


STRANGERS = {
    "bridge": ("ip link add flannel.1 type bridge", "it is of kind bridge, not vxlan"),
    "VNI": (FLANNELD.replace("id 1", "id 7"), "its VNI is 7, not 1"),
    "port": (FLANNELD.replace("8472", "4789"), "its UDP port is 4789, not 8472"),
    "address": (
        FLANNELD.replace("192.0.2.1", "192.0.2.8"),
        "its address is 192.0.2.8, not 192.0.2.1",
    ),
}


@pytest.mark.parametrize(("command", "reason"), STRANGERS.values(), ids=STRANGERS)
def test_device_of_somebody_else_is_refused_and_stays(
    host: Namespace, command: str, reason: str
) -> None:
    host.run("ip", "address", "add", "192.0.2.8/24", "dev", "eth0")
    host.run(*command.split())
    before = host.run("ip", "link")

    async def work(devices: VxlanDevices, netlink: Netlink) -> None:
        with pytest.raises(HostError, match=r"cannot make device flannel\.1") as refused:
            await devices.put(WANTED)
        assert reason in str(refused.value)
        with pytest.raises(HostError, match=reason):
            await remove_vxlan_devices(
                netlink, device="flannel.1", vni=1, port=8472, addresses=[WANTED.local]
            )

    with_devices(host, work)
    assert host.run("ip", "link") == before


def test_vni_that_another_device_has_is_refused_with_its_name(host: Namespace) -> None:
    host.run(*FLANNELD.replace("flannel.1", "vx7").split())

    async def work(devices: VxlanDevices, _: Netlink) -> None:
        with pytest.raises(PortInUseError, match=r"vxlan device vx7 \(VNI 1\) holds the port"):
            await devices.put(WANTED)

    with_devices(host, work)


def test_port_that_a_program_holds_is_refused_with_its_pid(host: Namespace) -> None:
    with inside(host), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("192.0.2.1", 8472))

        async def work(devices: VxlanDevices, _: Netlink) -> None:
            with pytest.raises(PortInUseError, match=rf"8472: process {os.getpid()} "):
                await devices.put(WANTED)

        with_devices(host, work)


def test_user_space_removes_what_is_in_the_way_of_its_device_and_sockets(
    host: Namespace, caplog: pytest.LogCaptureFixture
) -> None:
    host.run(*FLANNELD.split())
    host.run(
        *FLANNELD.replace("flannel.1", "flannel-v6.1").replace("192.0.2.1", "2001:db8::1").split()
    )
    host.run(*FLANNELD.replace("flannel.1", "flannel.2").replace("id 1", "id 2").split())

    async def main() -> tuple[str, ...]:
        async with Netlink.opened() as netlink:
            return await remove_vxlan_devices(
                netlink,
                device="flannel.1",
                vni=1,
                port=8472,
                addresses=[WANTED.local, WANTED_V6.local],
            )

    assert run_inside(host, main) == ("flannel.1", "flannel-v6.1")
    names = [link["ifname"] for link in json.loads(host.run("ip", "-j", "link"))]
    assert names == ["lo", "eth0", "flannel.2"]
    assert caplog.text.count("removed a vxlan device that was left behind") == 2


def test_device_of_a_flanneld_that_runs_is_left_to_it(host: Namespace, tmp_path: Any) -> None:
    program = tmp_path / "flanneld"
    program.write_bytes(b"")
    program.unlink()
    program.symlink_to("/bin/sleep")
    host.run(*FLANNELD.split())
    flanneld = host.start(str(program), "600")
    name = Path(f"/proc/{flanneld.pid}/comm")
    wait_until(lambda: name.read_text() == "flanneld\n", what="the start of the program")

    async def work(devices: VxlanDevices, netlink: Netlink) -> None:
        with pytest.raises(HostError, match=rf"flanneld \(process {flanneld.pid}\) runs"):
            await devices.put(WANTED)

    with_devices(host, work)
    assert "flannel.1" in host.run("ip", "link")


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

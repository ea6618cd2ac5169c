"""Devices of flanneld and of others that stand in the way of our vxlan devices."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from testbed.netns import Namespace, inside
from testbed.wait import wait_until
from tests.unit.host.conftest import run_inside
from tests.unit.host.vxlan import WANTED, WANTED_V6, indices, observe, with_devices
from tunneld.errors import HostError, PortInUseError
from tunneld.host.leftover import remove_vxlan_devices
from tunneld.host.netlink import Netlink
from tunneld.host.vxlan import VxlanDevices, VxlanState

pytestmark = pytest.mark.root

# As flannel's pkg/backend/vxlan/device.go makes it (seen with flanneld v0.28.9).
FLANNELD = (
    "ip link add flannel.1 address 72:0b:53:7f:1d:2f mtu 1450 type vxlan id 1 local 192.0.2.1 "
    "dev eth0 dstport 8472 nolearning"
)


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

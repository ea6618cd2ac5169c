from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import socket
import struct

import pytest

from testbed.netns import Namespace, inside
from tests.unit.host.conftest import overlay, refusal, run_inside, without
from tunneld.errors import TunDeviceError
from tunneld.host import tun as tun_module
from tunneld.host.tun import open_tun

pytestmark = pytest.mark.root

TUNGETVNETHDRSZ = 0x800454D7  # include/uapi/linux/if_tun.h

OPEN = "from tunneld.host.tun import open_tun; await open_tun('flannel%d', 1)"


def devices(space: Namespace) -> list[str]:
    return [line.split(":")[1].strip() for line in space.run("ip", "-o", "link").splitlines()]


def test_first_free_number_is_taken_and_given_back(space: Namespace) -> None:
    async def work() -> list[str]:
        first = await open_tun("flannel%d", 1)
        second = await open_tun("flannel%d", 1)
        assert first.is_there()
        first.close()
        assert not first.is_there()
        third = await open_tun("flannel%d", 1)
        names = [first.name, second.name, third.name]
        second.close()
        third.close()
        return names

    assert run_inside(space, work) == ["flannel0", "flannel1", "flannel0"]
    assert devices(space) == ["lo"]


def test_device_is_a_multi_queue_tun_without_packet_information(space: Namespace) -> None:
    async def work() -> str:
        async with overlay(queues=3) as (tun, _):
            assert len(tun.fds) == 3
            assert not any(os.get_blocking(fd) for fd in tun.fds)
            assert not any(os.get_inheritable(fd) for fd in tun.fds)
            return space.run("ip", "-d", "link", "show", tun.name)

    shown = run_inside(space, work)
    for flag in ("tun type tun", "pi off", "vnet_hdr on", "multi_queue", "numqueues 3"):
        assert flag in shown
    assert "persist off" in shown


def test_packet_is_read_whole_behind_a_10_byte_header_with_its_checksum_done(
    space: Namespace,
) -> None:
    async def work() -> bytes:
        async with overlay() as (tun, _):
            space.run("ip", "address", "add", "10.5.1.0/32", "dev", tun.name)
            space.run("ip", "link", "set", tun.name, "up")
            space.run("ip", "route", "add", "10.5.0.0/16", "dev", tun.name)
            (fd,) = tun.fds
            size = struct.unpack("i", fcntl.ioctl(fd, TUNGETVNETHDRSZ, b"\0" * 4))
            assert size == (10,)
            assert "tcp-segmentation-offload: off" in space.run("ethtool", "-k", tun.name)
            with inside(space), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"payload", ("10.5.2.5", 7))
            while True:
                try:
                    frame = os.read(fd, 65536)
                except BlockingIOError:
                    await asyncio.sleep(0.01)
                    continue
                if frame[10] >> 4 == 4:
                    return frame

    frame = run_inside(space, work)
    assert frame[:10] == bytes(10)
    assert len(frame) == 10 + 20 + 8 + len(b"payload")
    assert frame[10 + 12 : 10 + 20] == bytes([10, 5, 1, 0, 10, 5, 2, 5])
    pseudo = frame[22:30] + struct.pack("!HH", 17, len(frame) - 30) + frame[30:] + b"\0"
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo[: len(pseudo) // 2 * 2]))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF  # RFC 1071: a right checksum sums up to all ones


def test_name_that_stays_held_is_refused(space: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tun_module, "_BUSY_WAIT_S", 0.2)

    async def work() -> None:
        held = await open_tun("flannel.7", 1)
        try:
            await open_tun("flannel.7", 1)
        finally:
            held.close()

    with pytest.raises(TunDeviceError, match=r"flannel\.7: a device of that name is there"):
        run_inside(space, work)


def test_name_whose_holder_ends_in_time_is_taken(space: Namespace) -> None:
    async def work() -> str:
        held = await open_tun("flannel.7", 1)
        asyncio.get_running_loop().call_later(0.3, held.close)
        taken = await open_tun("flannel.7", 1)
        taken.close()
        return taken.name

    assert run_inside(space, work) == "flannel.7"


def test_missing_clone_device_is_one_clear_line() -> None:
    said = refusal(
        OPEN, "unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev/net; exec "$@"', "-"
    )
    assert said.startswith("TunDeviceError: cannot open /dev/net/tun: it is missing")
    assert "\n" not in said


def test_another_file_in_the_place_of_the_clone_device_is_one_clear_line() -> None:
    said = refusal(
        OPEN, "unshare", "-m", "sh", "-c", 'mount --bind /dev/null /dev/net/tun; exec "$@"', "-"
    )
    assert said.startswith("TunDeviceError: cannot use /dev/net/tun: it is not the TUN driver's")
    assert "mknod /dev/net/tun c 10 200" in said
    assert "\n" not in said


def test_missing_capability_is_one_clear_line(space: Namespace) -> None:
    said = refusal(OPEN, *space.command(*without("net_admin")))
    assert said.startswith("CapabilityError: cannot make TUN device flannel0: not permitted")
    assert "CAP_NET_ADMIN" in said


def test_nothing_stays_open_when_a_later_queue_fails(space: Namespace) -> None:
    # A TUN device takes at most 256 queues (drivers/net/tun.c, MAX_TAP_QUEUES).
    gc.collect()  # what earlier tests left is closed now, and not in between
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TunDeviceError):
        run_inside(space, lambda: open_tun("flannel%d", 257))
    assert devices(space) == ["lo"]
    assert len(os.listdir("/proc/self/fd")) == before

"""Whose the TUN device is: what other users may do with it, and what is left of what root did."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from testbed.netns import Namespace
from tests.unit.host.actuator.tun import WANTED, actuated, missing, whole
from tests.unit.host.conftest import overlay, run_inside
from tunneld.errors import DeviceLostError, HostError, TunDeviceError
from tunneld.host import device as device_module
from tunneld.host.leftover import remove_own_tuns
from tunneld.host.netlink import Netlink
from tunneld.host.tun import CLONE_DEVICE, open_tun

pytestmark = pytest.mark.root

# include/uapi/linux/if_tun.h
TUNSETIFF, TUNSETPERSIST, TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
TUNSETGROUP, TUNSETVNETHDRSZ, TUNSETSNDBUF = 0x400454CE, 0x400454D8, 0x400454D4
IFF_TUN, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_VNET_HDR = 0x1, 0x100, 0x1000, 0x4000
OURS = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE
NOBODY = 65534


@contextmanager
def attached(name: str, flags: int = OURS) -> Iterator[int]:
    """Attaches one more queue, as another program would."""
    fd = os.open(CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        yield fd
    finally:
        os.close(fd)


def attaching_refused_to(user: int, name: str) -> int:
    """Returns the error number with which a user without capabilities gets no queue; 0: it does.

    The clone device is opened before, since udev lets everybody open it and a test host may not.
    """
    fd = os.open(CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK)
    child = os.fork()
    if child == 0:
        code = 0
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), OURS))
        except OSError as error:
            code = error.errno or 255
        os._exit(code)
    os.close(fd)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def test_no_other_user_gets_a_queue(space: Namespace) -> None:
    async def work() -> None:
        async with overlay(queues=2) as (tun, _):
            assert attaching_refused_to(NOBODY, tun.name) == errno.EPERM
            assert "user root group root" in space.run("ip", "-d", "link", "show", tun.name)

    run_inside(space, work)


def _hdr(name: str) -> None:
    with attached(name) as fd:
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", 12))


def _call(request: int, value: int) -> Callable[[str], None]:
    def do(name: str) -> None:
        with attached(name) as fd:
            fcntl.ioctl(fd, request, value)

    return do


def _sndbuf(name: str) -> None:
    with attached(name) as fd:
        fcntl.ioctl(fd, TUNSETSNDBUF, struct.pack("i", 4096))


DEEDS: dict[str, Callable[[str], None]] = {
    "header size": _hdr,
    "persistent": _call(TUNSETPERSIST, 1),
    "owner": _call(TUNSETOWNER, NOBODY),
    "group": _call(TUNSETGROUP, NOBODY),
    "send buffer": _sndbuf,
}


def test_what_a_program_with_the_right_to_sets_on_the_device_is_put_back(
    host: Namespace, tmp_path: Path
) -> None:
    def shown() -> str:
        link = host.run("ip", "-d", "-o", "link", "show", "flannel0")
        return re.sub(r" state \w+", "", link)

    commands = {
        "name": ("ip", "link", "set", "flannel0", "name", "other"),
        "carrier": ("ip", "link", "set", "flannel0", "carrier", "off"),
    }

    async def main() -> None:
        async with actuated(tmp_path / "subnet.env") as (actuator, tun, _):
            await actuator.apply(whole(WANTED))
            # Routes, which go with a device that goes down, are put by the second change.
            assert await actuator.observe() == WANTED
            before = shown()
            for what in (*DEEDS, *commands):
                if what in DEEDS:
                    DEEDS[what](tun.name)
                else:
                    host.run(*commands[what])
                actual = await actuator.observe()
                assert actual.device is None, what
                await actuator.apply(missing(actual))
                await actuator.apply(missing(await actuator.observe()))
                assert await actuator.observe() == WANTED, what
                assert tun.differences() == "", what
                assert shown() == before, what

    run_inside(host, main)


def test_device_another_program_reads_from_is_told_at_first_and_made_anew_later(
    host: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with actuated(tmp_path / "subnet.env") as (actuator, tun, _):
            await actuator.apply(whole(WANTED))
            with attached(tun.name):
                actual = await actuator.observe()
                with pytest.raises(HostError, match="flannel0 is not tunneld's alone") as told:
                    await actuator.apply(missing(actual))
                assert not isinstance(told.value, DeviceLostError)
                monkeypatch.setattr(device_module, "CALM_S", 0.0)
                with pytest.raises(DeviceLostError, match="it is made again"):
                    await actuator.apply(missing(actual))
            assert (await actuator.observe()).device == WANTED.device

    run_inside(host, main)


def test_device_that_is_gone_or_elsewhere_is_known_by_its_descriptor(
    host: Namespace, tmp_path: Path
) -> None:
    async def main() -> None:
        async with actuated(tmp_path / "subnet.env") as (actuator, _, _):
            await actuator.apply(whole(WANTED))
            await actuator.require_device()
            assert not await actuator.differs()
            host.run("ip", "link", "del", "flannel0")
            # One of the same name is not ours.
            host.run("ip", "tuntap", "add", "flannel0", "mode", "tun")
            assert await actuator.differs()
            with pytest.raises(DeviceLostError, match="flannel0 is gone"):
                await actuator.require_device()
            host.run("ip", "link", "del", "flannel0")

    run_inside(host, main)


def test_device_somebody_slipped_into_is_made_anew(space: Namespace) -> None:
    async def work() -> None:
        counts = iter((2, 3, 1))

        async def count(_name: str) -> int:
            return next(counts)

        with closing(await open_tun("flannel%d", 2, count)) as tun:
            assert (tun.name, len(tun.fds)) == ("flannel0", 2)

        async def always(_name: str) -> int:
            return 2

        with pytest.raises(TunDeviceError, match="cannot have device flannel0 alone"):
            await open_tun("flannel%d", 2, always)
        assert "flannel" not in space.run("ip", "-o", "link")

    run_inside(space, work)


def test_persistent_device_of_a_daemon_that_was_killed_is_removed_and_those_of_others_stay(
    space: Namespace,
) -> None:
    tuntap = ("ip", "tuntap", "add", "mode", "tun", "multi_queue")
    for name, owner in (("flannel0", 0), ("flannel1", NOBODY), ("other0", 0)):
        space.run(*tuntap, "dev", name, "user", str(owner), "group", str(owner))

    async def work() -> None:
        async with Netlink.opened() as netlink:
            with attached("flannel0"):
                assert await remove_own_tuns(netlink, "flannel%d") == ()
            assert await remove_own_tuns(netlink, "flannel%d") == ("flannel0",)
            assert [link.name for link in await netlink.links()] == ["lo", "flannel1", "other0"]

    run_inside(space, work)

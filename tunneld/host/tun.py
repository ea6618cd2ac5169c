"""Opens the TUN device through which the host's packets enter and leave the overlay.

Path of a packet: the host's routes -> **`tun`** -> native `io` -> the underlay. This module
opens the queues and hands their descriptors on; it reads and writes none of them.

Source: Linux Documentation/networking/tuntap.rst; include/uapi/linux/if_tun.h.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from pytun import (
    IFF_MULTI_QUEUE,
    IFF_NO_PI,
    IFF_TUN,
    IFF_TUN_EXCL,
    IFF_VNET_HDR,
    TunTapDevice,
)

from tunneld.errors import CapabilityError, TunDeviceError
from tunneld.host import tun_settings
from tunneld.host.tun_settings import (
    TUNSETGROUP,
    TUNSETOFFLOAD,
    TUNSETOWNER,
    TUNSETPERSIST,
    TUNSETVNETHDRSZ,
    Settings,
)

CLONE_DEVICE = "/dev/net/tun"

VNET_HEADER_BYTES = 10
"""struct virtio_net_hdr without num_buffers (include/uapi/linux/virtio_net.h)."""

_FLAGS = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE

_BUSY_WAIT_S = 5.0
"""How long the name may still be held by a process that is just ending."""
_BUSY_POLL_S = 0.05


_OPEN_TRIES = 20
"""How often a device that another program has slipped into is made anew."""

_log = logging.getLogger("tunneld.host")

CountQueues = Callable[[str], Awaitable[int]]
"""Returns how many queues a device has, of whomever."""


@dataclass(slots=True)
class Tun:
    """An open TUN device. It lives as long as a descriptor of it is open.

    Only its owner, which is this process's user and group, and CAP_NET_ADMIN get at it.
    """

    name: str
    fds: tuple[int, ...]
    """One per queue, non-blocking, each packet behind a 10-byte virtio_net_hdr."""
    index: int
    """By which it is known also under another name."""
    owner: int = field(default_factory=os.geteuid)
    group: int = field(default_factory=os.getegid)
    _settings: Settings = field(default_factory=dict)

    def remember_settings(self) -> None:
        """Takes the settings as they are for those that are to be put back."""
        self._settings = tun_settings.read(self.fds[0])

    def is_there(self) -> bool:
        """Says whether the device exists, in whatever namespace and by whatever name."""
        if not self.fds:
            return False
        try:
            tun_settings.attached_to(self.fds[0])
        except OSError:
            return False
        return True

    def differences(self) -> str:
        """Returns in words what somebody has set; empty: nothing, or the device is gone."""
        try:
            return tun_settings.differences(tun_settings.read(self.fds[0]), self._settings)
        except OSError:
            return ""

    def put_back(self, *, has_carrier: bool) -> None:
        """Sets the device as it was made.

        Raises:
            TunDeviceError: the kernel refuses.
        """
        fd = self.fds[0]
        try:
            fcntl.ioctl(fd, TUNSETOWNER, self.owner)
            fcntl.ioctl(fd, TUNSETGROUP, self.group)
            tun_settings.put_back(fd, self._settings)
            if not has_carrier:
                tun_settings.bring_carrier(fd)
        except OSError as error:
            raise TunDeviceError(
                f"cannot set up device {self.name} again: {error.strerror}; expected it as it was "
                f"made: see `ip -d link show {self.name}` for who else uses it"
            ) from error

    def close(self) -> None:
        """Closes this owner's descriptors. The device is gone once no duplicate is open."""
        fds, self.fds = self.fds, ()
        for fd in fds:
            if fd == fds[0]:
                with contextlib.suppress(OSError):  # it is gone already
                    fcntl.ioctl(fd, TUNSETPERSIST, 0)
            os.close(fd)


async def open_tun(template: str, queues: int, count_queues: CountQueues | None = None) -> Tun:
    """Opens a new TUN device with `queues` queues, for this process's user and group alone.

    Args:
        template: the device's name; `%d` stands for the first free number.
        queues: how many queues, one per worker.
        count_queues: finds those of others. Before the device has its owner, which is a moment
            after it was made, any user may slip in.

    Raises:
        TunDeviceError: `/dev/net/tun` is missing or unusable, or the name is taken.
        CapabilityError: CAP_NET_ADMIN is missing.
    """
    for _ in range(_OPEN_TRIES):
        tun = await _open_when_free(template)
        try:
            if count_queues is None or await count_queues(tun.name) <= 1:
                _add_queues(tun, queues - 1)
                return tun
        except OSError as error:
            tun.close()
            raise _explain(template, error) from error
        except BaseException:
            tun.close()
            raise
        tun.close()
        _log.warning(
            "another program slipped into the overlay device; it is made anew",
            extra={"fields": {"device": tun.name}},
        )
    raise TunDeviceError(
        f"cannot have device {template.replace('%d', '0')} alone: another program attached to it "
        f"{_OPEN_TRIES} times before it had its owner; expected nobody: find it with "
        f"`lsof {CLONE_DEVICE}`, or take the rights of others from {CLONE_DEVICE}"
    )


async def _open_when_free(template: str) -> Tun:
    deadline_s = time.monotonic() + _BUSY_WAIT_S
    while True:
        try:
            return _open(template)
        except OSError as error:
            if error.errno == errno.EBUSY and time.monotonic() < deadline_s:
                await asyncio.sleep(_BUSY_POLL_S)
                continue
            raise _explain(template, error) from error


def _open(template: str) -> Tun:
    """Makes the device, with its first queue and its owner."""
    # Only the first queue may make the device: without EXCL a device of that name that belongs to
    # another program would quietly be joined.
    fd, name = _attach(template, _FLAGS | IFF_TUN_EXCL)
    try:
        fcntl.ioctl(fd, TUNSETOWNER, os.geteuid())
        fcntl.ioctl(fd, TUNSETGROUP, os.getegid())
        tun = Tun(name=name, fds=(fd,), index=socket.if_nametoindex(name))
        tun.remember_settings()
    except BaseException:
        os.close(fd)
        raise
    return tun


def _add_queues(tun: Tun, number: int) -> None:
    for _ in range(number):
        fd, _name = _attach(tun.name, _FLAGS)
        tun.fds += (fd,)


def _attach(name: str, flags: int) -> tuple[int, str]:
    """Returns a descriptor of a queue, and the device's name."""
    device = TunTapDevice(name=name, flags=flags)
    try:
        fd, name = os.dup(device.fileno()), device.name
    finally:
        device.close()
    try:
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_BYTES))
        # None as yet: the engine switches on what it can handle and the kernel can do.
        fcntl.ioctl(fd, TUNSETOFFLOAD, 0)
        os.set_blocking(fd, False)
    except BaseException:
        os.close(fd)
        raise
    return fd, name


def _explain(template: str, error: OSError) -> TunDeviceError | CapabilityError:
    code = error.errno
    name = template.replace("%d", "0")
    if code == errno.EPERM:
        return CapabilityError(
            f"cannot make TUN device {name}: not permitted; expected CAP_NET_ADMIN: "
            "run as root or grant the capability"
        )
    if code in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return TunDeviceError(
            f"cannot open {CLONE_DEVICE}: it is missing ({os.strerror(code)}); expected the TUN "
            "driver: load the module `tun`, or pass the device into the container "
            "(--device /dev/net/tun)"
        )
    if code == errno.EACCES:
        return TunDeviceError(
            f"cannot open {CLONE_DEVICE}: access denied; expected a readable and writable "
            "device: check its mode and the device policy of the service or container"
        )
    if code == errno.ENOTTY:
        return TunDeviceError(
            f"cannot use {CLONE_DEVICE}: it is not the TUN driver's; expected its character "
            f"device: pass it into the container, or put it back (mknod {CLONE_DEVICE} c 10 200)"
        )
    if code == errno.EBUSY:
        return TunDeviceError(
            f"cannot make TUN device {name}: a device of that name is there and held; "
            f"expected a free name: see `ip -d link show {name}` and end its holder"
        )
    reason = os.strerror(code) if code else str(error)
    return TunDeviceError(
        f"cannot make TUN device {name}: {reason}; expected a kernel TUN driver with "
        "multi_queue and vnet_hdr"
    )

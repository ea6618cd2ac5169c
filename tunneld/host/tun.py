"""Opens the TUN device through which the host's packets enter and leave the overlay.

Path of a packet: the host's routes -> **`tun`** -> native `io` -> the underlay. This module
opens the queues and hands their descriptors on; it reads and writes none of them.

Source: Linux Documentation/networking/tuntap.rst; include/uapi/linux/if_tun.h.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
import time
from dataclasses import dataclass

from pytun import (
    IFF_MULTI_QUEUE,
    IFF_NO_PI,
    IFF_TUN,
    IFF_TUN_EXCL,
    IFF_VNET_HDR,
    TunTapDevice,
)

from tunneld.errors import CapabilityError, TunDeviceError

CLONE_DEVICE = "/dev/net/tun"

VNET_HEADER_BYTES = 10
"""struct virtio_net_hdr without num_buffers (include/uapi/linux/virtio_net.h)."""

# include/uapi/linux/if_tun.h: _IOW('T', 208, unsigned int), _IOW('T', 216, int)
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8

_BUSY_WAIT_S = 5.0
"""How long the name may still be held by a process that is just ending."""
_BUSY_POLL_S = 0.05


@dataclass(slots=True)
class Tun:
    """An open TUN device. It lives as long as a descriptor of it is open."""

    name: str
    fds: tuple[int, ...]
    """One per queue, non-blocking, each packet behind a 10-byte virtio_net_hdr."""

    def close(self) -> None:
        """Closes this owner's descriptors. The device is gone once no duplicate is open."""
        fds, self.fds = self.fds, ()
        for fd in fds:
            os.close(fd)


async def open_tun(template: str, queues: int) -> Tun:
    """Opens a new TUN device with `queues` queues.

    Args:
        template: the device's name; `%d` stands for the first free number.
        queues: how many queues, one per worker.

    Raises:
        TunDeviceError: `/dev/net/tun` is missing or unusable, or the name is taken.
        CapabilityError: CAP_NET_ADMIN is missing.
    """
    deadline_s = time.monotonic() + _BUSY_WAIT_S
    while True:
        try:
            return _open(template, queues)
        except OSError as error:
            if error.errno == errno.EBUSY and time.monotonic() < deadline_s:
                await asyncio.sleep(_BUSY_POLL_S)
                continue
            raise _explain(template, error) from error


def _open(template: str, queues: int) -> Tun:
    flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE
    fds: list[int] = []
    name = template
    try:
        for queue in range(queues):
            # Only the first queue may make the device: without EXCL a device of that name that
            # belongs to another program would quietly be joined.
            device = TunTapDevice(name=name, flags=flags if queue else flags | IFF_TUN_EXCL)
            try:
                name = device.name
                fds.append(os.dup(device.fileno()))
            finally:
                device.close()
            fcntl.ioctl(fds[-1], _TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_BYTES))
            # None as yet: the engine switches on what it can handle and the kernel can do.
            fcntl.ioctl(fds[-1], _TUNSETOFFLOAD, 0)
            os.set_blocking(fds[-1], False)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return Tun(name=name, fds=tuple(fds))


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

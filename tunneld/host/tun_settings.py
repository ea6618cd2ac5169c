"""What others could have set on our TUN device, read and put back by a descriptor of our own.

Path of a packet: the host's routes -> `tun` -> native `io`; a device that frames packets in
another way than the engine reads them loses every one. The owner keeps other users off the device;
this is for what a program with CAP_NET_ADMIN did to it.

Source: Linux include/uapi/linux/if_tun.h, drivers/net/tun.c; include/uapi/linux/ethtool.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import socket
import struct
from collections.abc import Mapping
from typing import Final

TUNSETPERSIST: Final = 0x400454CB
TUNSETOWNER: Final = 0x400454CC
TUNSETGROUP: Final = 0x400454CE
TUNSETOFFLOAD: Final = 0x400454D0
TUNSETVNETHDRSZ: Final = 0x400454D8
_TUNGETIFF: Final = 0x800454D2
_TUNSETCARRIER: Final = 0x400454E2

IFF_PERSIST: Final = 0x0800

_NUMBERS: Final[Mapping[str, tuple[int, int]]] = {
    "virtio-net header bytes": (0x800454D7, TUNSETVNETHDRSZ),
    "send buffer bytes": (0x800454D3, 0x400454D4),
    "little-endian header": (0x800454DD, 0x400454DC),
    "big-endian header": (0x800454DF, 0x400454DE),
}
"""Of the whole device: the call that reads each, and the one that sets it."""

_FLAGS: Final = "flags"

_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GFEATURES: Final = 0x3A
_FEATURE_BLOCKS: Final = 2
"""Of 32 features each; Linux 6.18 has fewer than 64."""

Settings = Mapping[str, int]
"""By what is set; a setting that this kernel does not have is left out."""


def read(fd: int) -> Settings:
    """Returns what the device behind an attached descriptor is set to.

    Raises:
        OSError: EBADFD: the device is gone.
    """
    found = {_FLAGS: attached_to(fd)[1]}
    for name, (getter, _) in _NUMBERS.items():
        try:
            (found[name],) = struct.unpack("i", fcntl.ioctl(fd, getter, bytes(4)))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTTY):
                raise
    return found


def attached_to(fd: int) -> tuple[str, int]:
    """Returns the present name of the device, and its flags.

    Raises:
        OSError: EBADFD: the device is gone.
    """
    answer = fcntl.ioctl(fd, _TUNGETIFF, bytes(40))
    name, flags = struct.unpack_from("16sH", answer)
    return name.split(b"\0")[0].decode(errors="replace"), int(flags)


def differences(now: Settings, wanted: Settings) -> str:
    """Returns in words what is not as wanted; empty: nothing. Pure."""
    return ", ".join(
        f"{name} {_shown(name, now.get(name, 0))} instead of {_shown(name, value)}"
        for name, value in wanted.items()
        if now.get(name, value) != value
    )


def put_back(fd: int, wanted: Settings) -> None:
    """Sets everything that is not as wanted.

    Raises:
        OSError: the kernel refuses.
    """
    now = read(fd)
    # Of the flags only this one can change while a queue of ours is attached.
    if (now[_FLAGS] ^ wanted[_FLAGS]) & IFF_PERSIST:
        fcntl.ioctl(fd, TUNSETPERSIST, int(bool(wanted[_FLAGS] & IFF_PERSIST)))
    for name, (_, setter) in _NUMBERS.items():
        if name in wanted and now.get(name) != wanted[name]:
            fcntl.ioctl(fd, setter, struct.pack("i", wanted[name]))


def bring_carrier(fd: int) -> None:
    """Lets the device have a carrier, as it has from its first queue on.

    Raises:
        OSError: the kernel refuses.
    """
    fcntl.ioctl(fd, _TUNSETCARRIER, struct.pack("i", 1))


def features(name: str) -> bytes:
    """Returns what the kernel may leave to the device, as ethtool counts it: offloads.

    Empty where the kernel does not tell.
    """
    request = struct.pack("=II", _ETHTOOL_GFEATURES, _FEATURE_BLOCKS)
    # The kernel writes its answer where the request is, to which the call only points.
    memory = ctypes.create_string_buffer(request, len(request) + 16 * _FEATURE_BLOCKS)
    call = struct.pack("16sP16x", name.encode(), ctypes.addressof(memory))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
            fcntl.ioctl(door, _SIOCETHTOOL, call)
    except OSError:
        return b""
    return memory.raw[len(request) :]


def _shown(name: str, value: int) -> str:
    return f"{value:#06x}" if name == _FLAGS else str(value)

"""A filter in the kernel for notices of routes: those that concern nobody here never arrive. Pure.

Path of a lease: `host.monitor` -> **`host.netlink.route_filter`** -> the kernel.

A host that speaks BGP changes thousands of routes a second. What remains are the routes with our
protocol number, default routes, and what lies inside our networks.

Source: Linux networking/filter.rst (classic BPF on a socket, loads are big-endian),
net/ipv4/fib_semantics.c (fib_dump_info) and net/ipv6/route.c (rt6_fill_node): RTA_TABLE comes
first, then RTA_DST.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from socket import AF_INET, AF_INET6

from tunneld.lease.model import IPNetwork

_LOAD_BYTE, _LOAD_WORD = 0x30, 0x20  # BPF_LD | BPF_ABS | BPF_B, BPF_W
_AND, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x54, 0x15, 0x45, 0x06
_INSTRUCTION = struct.Struct("=HBBI")

_ALL = 0xFFFFFFFF

# struct nlmsghdr has 16 bytes, struct rtmsg 12; RTA_TABLE takes 8.
_FAMILY, _LENGTH, _TABLE, _PROTOCOL, _FLAGS_HIGH = 16, 17, 20, 21, 25
_DST_TYPE, _DST = 38, 40
_TABLE_LOCAL = 255
_CLONED_HIGH = 0x02
"""RTM_F_CLONED, 0x200, in the second byte of the flags."""
_RTA_DST = 1


def program(protocol: int, networks: Collection[IPNetwork] | None) -> bytes:
    """Returns the instructions that let notices of routes pass.

    Args:
        protocol: whose routes always pass.
        networks: into which other routes pass; None: all do, but those of table `local` and those
            made for one destination.
    """
    steps = [
        *_if_byte(_TABLE, _TABLE_LOCAL, 0),
        *_if_byte(_PROTOCOL, protocol, _ALL),
        (_LOAD_BYTE, 0, 0, _FLAGS_HIGH),
        (_JUMP_SET, 0, 1, _CLONED_HIGH),
        (_RETURN, 0, 0, 0),
    ]
    if networks is not None:
        steps += [
            *_if_byte(_LENGTH, 0, _ALL),
            # What is laid out in another way than expected passes.
            (_LOAD_BYTE, 0, 0, _DST_TYPE),
            (_JUMP_EQUAL, 1, 0, _RTA_DST),
            (_RETURN, 0, 0, _ALL),
        ]
        for network in networks:
            steps += _if_inside(network)
    steps.append((_RETURN, 0, 0, _ALL if networks is None else 0))
    return b"".join(_INSTRUCTION.pack(*step) for step in steps)


def _if_byte(offset: int, value: int, verdict: int) -> list[tuple[int, int, int, int]]:
    return [
        (_LOAD_BYTE, 0, 0, offset),
        (_JUMP_EQUAL, 0, 1, value),
        (_RETURN, 0, 0, verdict),
    ]


def _if_inside(network: IPNetwork) -> list[tuple[int, int, int, int]]:
    """Returns what lets a route pass whose destination begins as the network does."""
    words = list(_words(network))
    family = AF_INET if network.version == 4 else AF_INET6
    # Each test that fails jumps behind the last instruction, the verdict.
    length = 2 + 3 * len(words) + 1
    steps = [(_LOAD_BYTE, 0, 0, _FAMILY), (_JUMP_EQUAL, 0, length - 2, family)]
    for number, (mask, value) in enumerate(words):
        left = length - 2 - 3 * (number + 1)
        steps += [
            (_LOAD_WORD, 0, 0, _DST + 4 * number),
            (_AND, 0, 0, mask),
            (_JUMP_EQUAL, 0, left, value),
        ]
    return [*steps, (_RETURN, 0, 0, _ALL)]


def _words(network: IPNetwork) -> Iterator[tuple[int, int]]:
    """Yields mask and value of each word of the prefix."""
    for offset in range(0, network.prefixlen, 32):
        mask = int.from_bytes(network.netmask.packed[offset // 8 : offset // 8 + 4])
        value = int.from_bytes(network.network_address.packed[offset // 8 : offset // 8 + 4])
        yield mask, value

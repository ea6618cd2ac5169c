"""Steers what arrives at the port of encryption: each lane to one worker.

Path of a packet: underlay -> **program of this module, in the kernel** -> a socket of `sockets`.
A worker answers a flow by the lane of its own, and the device gives it the packets of a flow whose
last packet it wrote. So which worker a lane arrives at decides by which lane the answers leave. By
the kernel's own hash of addresses and ports two hosts could send a flow from worker to worker for
ever, each time past packets that are still in the queue of the one before. By the number of the
lane a flow stays where it is at both ends, whatever the numbers of their workers are.

Source: socket(7), SO_ATTACH_REUSEPORT_CBPF; Linux Documentation/networking/filter.rst.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence

from tunneld.errors import HostError

# include/uapi/asm-generic/socket.h, linux/bpf_common.h; not in Python's socket module.
_SO_ATTACH_REUSEPORT_CBPF = 51
_LOAD_BYTE, _AND, _MODULO, _RETURN = 0x30, 0x54, 0x94, 0x16

_LANE_BYTE, _LANE_BITS = 3, 0x3F
"""Of a datagram of ESP: the last of its SPI. A handshake message has zero there: lane 0."""


def steer_by_lane(receivers: Sequence[socket.socket]) -> None:
    """Has datagrams delivered by their lane, modulo the number of receivers, which are bound alike.

    Args:
        receivers: those of all workers in one family, in the order they were bound in.

    Raises:
        HostError: the kernel refuses the program.
    """
    if len(receivers) < 2:
        return
    program = (
        (_LOAD_BYTE, _LANE_BYTE),
        (_AND, _LANE_BITS),
        (_MODULO, len(receivers)),
        (_RETURN, 0),
    )
    # struct sock_filter: code, two jumps, operand. What is shorter than the load goes to the first.
    code = b"".join(struct.pack("=HBBI", operation, 0, 0, value) for operation, value in program)
    held = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("@HP", len(program), ctypes.addressof(held))
    try:
        receivers[0].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, described)
    except OSError as error:
        raise HostError(
            f"cannot steer what arrives at the port of encryption: {error.strerror}; expected "
            "Linux 4.6 or newer; with --workers 1 it is not needed"
        ) from error

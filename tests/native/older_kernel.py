"""Makes the kernel answer one thread as an older one would, by a seccomp filter on its calls.

Source: seccomp(2), linux/filter.h; TUNSETOFFLOAD of Linux 6.1 answers EINVAL to the bits for USO,
which came with 6.2.
"""

from __future__ import annotations

import ctypes
import errno
import struct

PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38
LOAD_WORD, JUMP_IF_EQUAL, JUMP_IF_SET, RETURN = 0x20, 0x15, 0x45, 0x06
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF_0000, 0x0005_0000
NUMBER, SECOND_ARGUMENT, THIRD_ARGUMENT = 0, 24, 32
"""Places in struct seccomp_data, of the lower half of an argument."""
SYS_IOCTL = 16
"""On x86-64."""
TUNSETOFFLOAD = 0x400454D0
TUN_F_USO4, TUN_F_USO6 = 0x20, 0x40

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse_uso() -> None:
    """Lets this thread, and those it starts, set offloads of a TUN device only without USO."""
    steps = (
        (LOAD_WORD, 0, 0, NUMBER),
        (JUMP_IF_EQUAL, 0, 5, SYS_IOCTL),
        (LOAD_WORD, 0, 0, SECOND_ARGUMENT),
        (JUMP_IF_EQUAL, 0, 3, TUNSETOFFLOAD),
        (LOAD_WORD, 0, 0, THIRD_ARGUMENT),
        (JUMP_IF_SET, 0, 1, TUN_F_USO4 | TUN_F_USO6),
        (RETURN, 0, 0, SECCOMP_RET_ERRNO | errno.EINVAL),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW),
    )
    program = _Program(len(steps), b"".join(struct.pack("=HBBI", *step) for step in steps))
    for option, value, argument in (
        (PR_SET_NO_NEW_PRIVS, 1, None),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)),
    ):
        if _libc.prctl(option, value, argument, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl {option}")

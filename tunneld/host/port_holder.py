"""Says who holds a UDP port: for the message that refuses it.

A socket of the kernel's own, as a vxlan device has one, is in the table of sockets and in the
hands of no process.

Source: Linux proc(5): /proc/net/udp, /proc/PID/fd.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

_TABLES = ("udp", "udp6")


def port_holder(port: int) -> str:
    """Returns, for a sentence, what holds a port in this network namespace."""
    inodes = set(_inodes(port))
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _holds(process, inodes):
            return f"process {process.name} ({_command(process)})"
    if inodes:
        return "no process, hence the kernel (`ip -d link show type vxlan`),"
    return "another program"


def _inodes(port: int) -> Iterator[int]:
    for table in _TABLES:
        for line in _text(Path("/proc/thread-self/net") / table).splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port:
                yield int(fields[9])


def _holds(process: Path, inodes: Collection[int]) -> bool:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    try:
        return any(_target(fd) in wanted for fd in (process / "fd").iterdir())
    except OSError:  # it has ended, or is not for this user
        return False


def _target(fd: Path) -> str:
    try:
        return str(fd.readlink())
    except OSError:  # closed meanwhile
        return ""


def _command(process: Path) -> str:
    return _text(process / "comm").strip()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

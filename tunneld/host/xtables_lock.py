"""Tells when an iptables-legacy program has run: the kernel itself reports nothing of them.

Each of them that may change a rule opens the lock file of all iptables programs and closes it
when it is done; iptables-legacy-save and everything of iptables-nft leave it alone.

Source: inotify(7); iptables(8), XTABLES_LOCKFILE.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

# include/uapi/linux/inotify.h
_IN_CLOSE_WRITE = 0x008
_IN_CLOSE_NOWRITE = 0x010
_IN_MOVED_TO = 0x080
_IN_CREATE = 0x100
_IN_DELETE_SELF = 0x400
_IN_IGNORED = 0x8000

_EVENT = struct.Struct("=iIII")
_RECEIVE_BYTES = 65536

_libc = ctypes.CDLL(None, use_errno=True)
_log = logging.getLogger("tunneld.host")


def lock_file() -> Path:
    """Returns the file that iptables programs of this environment lock."""
    return Path(os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock"))


class XtablesLock:
    """An inotify descriptor on the running loop."""

    def __init__(self, callback: Callable[[], None], path: Path | None = None) -> None:
        """Starts watching; `callback` runs on the loop.

        Where this user may not see the file, nothing is reported, which the log says: neither
        could it run iptables-legacy.

        Raises:
            OSError: the kernel refuses the descriptor.
        """
        self._callback = callback
        self._path = lock_file() if path is None else path
        self._loop = asyncio.get_running_loop()
        self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._file = -1
        try:
            folder = self._watch(self._path.parent, _IN_CREATE | _IN_MOVED_TO)
            self._watch_file()
        except OSError:
            os.close(self._fd)
            raise
        if folder >= 0 or self._file >= 0:
            self._loop.add_reader(self._fd, self._receive)

    def close(self) -> None:
        """Stops watching."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _watch_file(self) -> None:
        mask = _IN_CLOSE_WRITE | _IN_CLOSE_NOWRITE | _IN_DELETE_SELF
        self._file = self._watch(self._path, mask)

    def _watch(self, path: Path, mask: int) -> int:
        """Returns the watch descriptor; -1 when there is no such file, or not for this user."""
        try:
            return _checked(_libc.inotify_add_watch(self._fd, os.fsencode(path), mask))
        except FileNotFoundError:
            return -1
        except PermissionError:
            _log.warning(
                "iptables-legacy has been used here, and this user may neither see nor change its "
                "rules: run as root if they drop forwarded packets",
                extra={"fields": {"path": str(path)}},
            )
            return -1

    def _receive(self) -> None:
        has_run = False
        while (data := self._read()) is not None:
            for watch, mask, name in _events(data):
                if watch == self._file and mask & _IN_IGNORED:
                    self._file = -1
                elif watch == self._file:
                    has_run = True
                elif name == self._path.name:
                    # Made just now, so that its first user may be done before it is watched.
                    has_run = True
                    with contextlib.suppress(OSError):  # then whoever looks each minute finds it
                        self._watch_file()
        if has_run:
            self._callback()

    def _read(self) -> bytes | None:
        try:
            return os.read(self._fd, _RECEIVE_BYTES)
        except BlockingIOError:
            return None


def _events(data: bytes) -> Iterator[tuple[int, int, str]]:
    """Splits what was read into watch descriptor, mask and file name of each event."""
    offset = 0
    while offset + _EVENT.size <= len(data):
        watch, mask, _, length = _EVENT.unpack_from(data, offset)
        start = offset + _EVENT.size
        name = data[start : start + length].split(b"\0")[0]
        yield watch, mask, os.fsdecode(name)
        offset = start + length


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), errno.errorcode.get(code, ""))
    return result

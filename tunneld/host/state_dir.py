"""The directory of what a daemon must remember over a restart, and the lock on it.

Holds `lock` (the pid of the daemon that runs), `node-id` (made once, at random) and small
JSON caches. It holds no secret and decides nothing about what is cached. Nothing here is needed to
forward packets: on a disk that is full, read-only or away, what cannot be written is kept in
memory, `problem` says so, and it is tried again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import secrets
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tunneld.errors import StateDirInUseError
from tunneld.host import text_file

_NODE_ID = re.compile(r"[0-9a-f]{32}")
_CACHE_NAME = re.compile(r"[a-z][a-z0-9-]*")
_NODE_ID_FILE = "node-id"

_REMEDY = (
    "nothing is remembered for the next start: expected a directory this daemon may write; make "
    "room, check owner and mode, or choose another with --state-dir"
)

_log = logging.getLogger("tunneld.host")


class StateDir:
    """A locked state directory. One daemon at a time; the lock ends with the process."""

    def __init__(self, path: Path) -> None:
        """Makes the directory (mode 0700) when it is missing, and locks it.

        Raises:
            StateDirInUseError: another daemon runs on it; the message names its pid.
        """
        self.path = path
        self.problem: str | None = None
        """Why something could not be written down, in one line; None: everything is."""
        self._guard = threading.Lock()
        self._unwritten: dict[str, str] = {}
        """File names and texts that the disk has not taken yet."""
        self._node_id: str | None = None
        self._lock_fd = -1
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = _lock_file(path)
        except OSError as error:
            self._failed(path, "use", error)
            return
        try:
            self._lock()
        except BaseException:
            os.close(self._lock_fd)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateDirInUseError(
                f"state directory {self.path} is in use by process {_pid(self.path)}; expected "
                "no other daemon on it: stop that one, or give this one its own --state-dir"
            ) from error
        except OSError as error:
            # A file system without locks: two daemons on it would at least be two nodes.
            self._failed(self.path / "lock", "lock", error)
            return
        with contextlib.suppress(OSError):  # only the pid for the message above
            os.ftruncate(self._lock_fd, 0)
            os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)

    @property
    def node_id(self) -> str:
        """32 hexadecimal digits that tell this node from all others; made at the first call.

        An id that cannot be read is replaced, with a warning: the store knows this host by its
        address too.
        """
        if self._node_id is None:
            text = self._read(_NODE_ID_FILE)
            found = "" if text is None else text.strip()
            if _NODE_ID.fullmatch(found):
                self._node_id = found
            else:
                if text is not None:
                    _log.warning(
                        "the node id is damaged; this host gets a new one",
                        extra={
                            "fields": {
                                "path": str(self.path / _NODE_ID_FILE),
                                "detail": f"it holds {found[:40]!r}, not 32 hexadecimal digits",
                            }
                        },
                    )
                return self.renew_node_id()
        return self._node_id

    def renew_node_id(self) -> str:
        """Makes this a new node, and returns its id; the former belongs to another host."""
        self._node_id = secrets.token_hex(16)
        self._write(_NODE_ID_FILE, f"{self._node_id}\n")
        return self._node_id

    def load(self, name: str) -> object:
        """Returns the object saved under `name`; None when there is none that can be read.

        A damaged cache counts as none, with a warning: whatever is cached can be learned again.
        """
        file = _cache(name)
        text = self._read(file)
        if text is None:
            return None
        try:
            value: object = json.loads(text)
        except (ValueError, RecursionError) as error:
            self._ignored(file, str(error))
            return None
        return value

    def save(self, name: str, value: object) -> None:
        """Replaces, in one step, what is saved under `name` by a JSON value.

        What the disk does not take is kept in memory, and tried again at each further call.
        """
        self._write(_cache(name), json.dumps(value, indent=1) + "\n")

    def retry(self) -> None:
        """Writes what could not be written before. May block on the disk."""
        with self._guard:
            self._write_all()

    def close(self) -> None:
        """Gives the lock back. The files stay."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self, file: str) -> str | None:
        with self._guard:
            if file in self._unwritten:
                return self._unwritten[file]
        try:
            return text_file.read(self.path / file)
        except OSError as error:
            self._ignored(file, error.strerror or str(error))
            return None

    def _write(self, file: str, text: str) -> None:
        with self._guard:
            self._unwritten[file] = text
            self._write_all()

    def _write_all(self) -> None:
        if not self._unwritten and self._lock_fd >= 0:
            return
        for file in list(self._unwritten):
            try:
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                text_file.replace(self.path / file, self._unwritten[file], 0o600)
            except OSError as error:
                self._failed(self.path / file, "write", error)
                return
            del self._unwritten[file]
        if self._lock_fd < 0 and not self._is_locked_late():
            return
        if self.problem is not None:
            self.problem = None
            _log.info(
                "the state directory is written again", extra={"fields": {"path": str(self.path)}}
            )

    def _is_locked_late(self) -> bool:
        """Locks a directory that was not there at first; False: another daemon was faster."""
        try:
            fd = _lock_file(self.path)
        except OSError as error:
            self._failed(self.path, "use", error)
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            self._failed(self.path / "lock", "lock", error)
            return False
        self._lock_fd = fd
        return True

    def _failed(self, path: Path, verb: str, error: OSError) -> None:
        former, self.problem = (
            self.problem,
            f"cannot {verb} {path}: {error.strerror or error}; {_REMEDY}",
        )
        if former is None:
            _log.warning(
                "the state directory cannot be written; going on without it",
                extra={"fields": {"path": str(path), "error": self.problem}},
            )

    def _ignored(self, file: str, error: str) -> None:
        _log.warning(
            "a damaged cache is ignored",
            extra={"fields": {"path": str(self.path / file), "error": error}},
        )


def _lock_file(path: Path) -> int:
    """Returns a descriptor to lock by: the lock file, or where none can be made the directory."""
    try:
        return os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            raise
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _pid(path: Path) -> str:
    with contextlib.suppress(OSError):
        return (text_file.read(path / "lock") or "").strip()[:20] or "unknown"
    return "unknown"


def _cache(name: str) -> str:
    if not _CACHE_NAME.fullmatch(name):
        raise ValueError(f"cache name {name!r}; expected lower-case letters, digits, dashes")
    return f"{name}.json"

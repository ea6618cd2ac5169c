"""The directory of what a daemon must remember over a restart, and the lock on it.

Holds `lock` (the pid of the daemon that runs), `node-id` (made once, at random) and small
JSON caches. It holds no secret and decides nothing about what is cached.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import secrets
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tunneld.errors import HostError, StateDirInUseError

_NODE_ID = re.compile(r"[0-9a-f]{32}")
_CACHE_NAME = re.compile(r"[a-z][a-z0-9-]*")

_log = logging.getLogger("tunneld.host")


class StateDir:
    """A locked state directory. One daemon at a time; the lock ends with the process."""

    def __init__(self, path: Path) -> None:
        """Makes the directory (mode 0700) when it is missing, and locks it.

        Raises:
            StateDirInUseError: another daemon runs on it; the message names its pid.
            HostError: the directory cannot be made or written.
        """
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _refused(path, "use", error) from error
        try:
            self._lock()
        except BaseException:
            os.close(self._lock_fd)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(self._lock_fd, 32, 0).decode("ascii", errors="replace").strip()
            raise StateDirInUseError(
                f"state directory {self.path} is in use by process {pid or 'unknown'}; expected "
                "no other daemon on it: stop that one, or give this one its own --state-dir"
            ) from error
        except OSError as error:
            raise _refused(self.path / "lock", "lock", error) from error
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)

    @property
    def node_id(self) -> str:
        """32 hexadecimal digits that tell this node from all others; made at the first call.

        Raises:
            HostError: the file holds something else, or cannot be read or written.
        """
        path = self.path / "node-id"
        text = self._read(path)
        if text is None:
            text = secrets.token_hex(16)
            self._write(path, f"{text}\n")
        node_id = text.strip()
        if not _NODE_ID.fullmatch(node_id):
            raise HostError(
                f"{path} holds {node_id[:40]!r}; expected 32 hexadecimal digits: restore the "
                "file, or delete it to join as a new node"
            )
        return node_id

    def load(self, name: str) -> object:
        """Returns the object saved under `name`; None when there is none that can be read.

        A damaged cache counts as none, with a warning: whatever is cached can be learned again.
        """
        path = self._cache(name)
        text = self._read(path)
        if text is None:
            return None
        try:
            value: object = json.loads(text)
        except json.JSONDecodeError as error:
            _log.warning(
                "a damaged cache is ignored",
                extra={"fields": {"path": str(path), "error": str(error)}},
            )
            return None
        return value

    def save(self, name: str, value: object) -> None:
        """Replaces, in one step, what is saved under `name` by a JSON value.

        Raises:
            HostError: it cannot be written.
        """
        self._write(self._cache(name), json.dumps(value, indent=1) + "\n")

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

    def _cache(self, name: str) -> Path:
        if not _CACHE_NAME.fullmatch(name):
            raise ValueError(f"cache name {name!r}; expected lower-case letters, digits, dashes")
        return self.path / f"{name}.json"

    @staticmethod
    def _read(path: Path) -> str | None:
        try:
            return path.read_bytes().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _refused(path, "read", error) from error

    @staticmethod
    def _write(path: Path, text: str) -> None:
        temporary: str | None = None
        try:
            fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            with open(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            temporary = None
        except OSError as error:
            raise _refused(path, "write", error) from error
        finally:
            if temporary is not None and os.path.exists(temporary):
                os.unlink(temporary)


def _refused(path: Path, verb: str, error: OSError) -> HostError:
    return HostError(
        f"cannot {verb} {path}: {error.strerror}; expected a directory this daemon may write: "
        "check owner and mode, or choose another with --state-dir"
    )

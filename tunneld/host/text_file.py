"""Reads and replaces the small text files that tunneld owns, whatever stands in their place.

Beside the path of a lease: `host.state_dir` and `host.subnet_env` keep their files by it. It knows
no contents. A reader never waits (a FIFO), never reads without end, and a file is replaced in one
step or stays as it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

MAX_BYTES = 64 * 1024 * 1024
"""More than the memory of 100,000 leases takes."""


def read(path: Path) -> str | None:
    """Returns the text, undecodable bytes replaced; None when there is no file.

    Raises:
        OSError: there is something, but no regular file of at most `MAX_BYTES` that may be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if stat.S_ISDIR(found.st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {MAX_BYTES} bytes", str(path))
    return content.decode("utf-8", errors="replace")


def replace(path: Path, text: str, mode: int) -> None:
    """Replaces the file in one step; readers see the old text or the new, never a part.

    The file gets `mode`, whatever the umask.

    Raises:
        OSError: it cannot be written, or what is in its place cannot be replaced.
    """
    temporary: str | None = None
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        if error.errno == errno.EBUSY:
            # docker run -v FILE:FILE: the name is bound to one inode.
            raise OSError(
                errno.EBUSY, "it is a mount, which cannot be replaced; mount its directory"
            ) from error
        raise
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def make_directories(path: Path, mode: int) -> None:
    """Makes a directory and those above it that are missing, each with `mode`.

    A umask takes nothing away: under 077 those who are to read what is inside could not.

    Raises:
        OSError: one cannot be made.
    """
    missing = [path]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for directory in reversed(missing):
        try:
            directory.mkdir()
        except FileExistsError:
            # Somebody was faster, or it is there: its mode is not ours to change.
            if not directory.is_dir():
                raise
        else:
            directory.chmod(mode)

"""Reads and writes the files of public keys: identities, and what was revoked.

Beside the path of a lease: files -> **`trust.files`** -> `trust.identities`. They hold no secret,
and whoever can write them decides who is trusted: files that others may write are refused.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Final

from tunneld.errors import TrustError
from tunneld.trust.identities import Identity, parse_identities, parse_revoked
from tunneld.trust.key import PublicKey

REVOKED_FILE: Final = "revoked-keys"
"""In the state directory."""

MAX_BYTES: Final = 16 * 1024 * 1024
"""More than 100,000 hosts take."""


def read_identities(path: Path) -> tuple[Identity, ...]:
    """Returns the identities of a file.

    Raises:
        TrustError: it is not there, cannot be read, may be written by others, or has a bad line.
    """
    text = _read(path, "identities")
    if text is None:
        raise TrustError(
            f"identities {path}: there is no such file; make it with `tunneld trust add KEY NAME`,"
            " or leave the option out"
        )
    return parse_identities(text, path)


def read_revoked(state_dir: Path) -> dict[PublicKey, str]:
    """Returns the keys that were revoked on this host, with the names they had.

    Raises:
        TrustError: they cannot be read.
    """
    path = state_dir / REVOKED_FILE
    return parse_revoked(_read(path, "revoked keys") or "", path)


def add_identity(path: Path, identity: Identity) -> None:
    """Adds a line to a file of identities; makes the file where there is none.

    Raises:
        TrustError: the file is not usable with that line, or cannot be written.
    """
    former = _read(path, "identities") or ""
    text = f"{former}{'' if former.endswith(chr(10)) or not former else chr(10)}{identity}\n"
    parse_identities(text, path)
    _replace(path, text)


def revoke(state_dir: Path, key: PublicKey, name: str) -> None:
    """Writes down that a key is revoked, for all starts to come.

    Raises:
        TrustError: it cannot be written.
    """
    path = state_dir / REVOKED_FILE
    former = _read(path, "revoked keys") or ""
    if key not in parse_revoked(former, path):
        _replace(path, f"{former}{key} {name}".rstrip() + "\n")


def _read(path: Path, what: str) -> str | None:
    """Returns the text of a file; None where there is none."""
    try:
        # A FIFO must keep nobody waiting; `open()` would fail at a directory by itself.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _require_safe(path, what, os.fstat(fd))
            with open(fd, "rb", closefd=False) as file:
                content = file.read(MAX_BYTES + 1)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TrustError(
            f"cannot read the {what} {path}: {error.strerror}; expected a file that this user may "
            "read"
        ) from error
    if len(content) > MAX_BYTES:
        raise TrustError(f"the {what} {path} is larger than {MAX_BYTES} bytes; expected less")
    return content.decode("utf-8", errors="replace")


def _require_safe(path: Path, what: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise TrustError(f"the {what} {path} is no regular file; expected one")
    # Whoever owns the directory could put another file there: the daemon's user, for root.
    owners = (0, os.geteuid(), path.parent.stat().st_uid)
    if found.st_mode & 0o022 or found.st_uid not in owners:
        raise TrustError(
            f"the {what} {path} may be written by others (mode {found.st_mode & 0o7777:04o}, "
            f"user {found.st_uid}), who decide then who is trusted; expected root's or this "
            "user's, with mode 0644"
        )


def _replace(path: Path, text: str) -> None:
    """Replaces a file in one step; one that was there keeps its owner."""
    temporary: str | None = None
    try:
        owner = (path if path.exists() else path.parent).stat()
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            if os.geteuid() == 0:
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise TrustError(
            f"cannot write {path}: {error.strerror}; expected a directory this user may write"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

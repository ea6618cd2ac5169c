"""Makes the state directory for commands that come before the daemon's first start."""

from __future__ import annotations

from pathlib import Path

from tunneld.errors import HostError
from tunneld.host.text_file import make_directories


def make_state_dir(path: Path) -> None:
    """Makes the directory, for its owner alone, where there is none.

    Raises:
        HostError: it cannot be made.
    """
    if path.exists():
        return
    try:
        make_directories(path, 0o700)
    except OSError as error:
        raise HostError(
            f"cannot make the state directory {path}: {error.strerror}; run the command as root, "
            "or name another with --state-dir"
        ) from error

"""What tells this machine from others, the same at every boot.

Path of a lease: **`host.machine`** -> `lease.kinship`. The machine's id itself is not to leave the
host (machine-id(5)): a hash of it does.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from tunneld.host import text_file

FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))

_ID = re.compile(r"[0-9a-f]{32}")
_NONE = "0" * 32


def machine(files: Iterable[Path] = FILES) -> str | None:
    """Returns 32 hexadecimal digits; None where the machine has no id, as in many containers."""
    for file in files:
        try:
            text = (text_file.read(file) or "").strip()
        except OSError:
            continue
        if _ID.fullmatch(text) and text != _NONE:
            return hmac.new(bytes.fromhex(text), b"tunneld node", hashlib.sha256).hexdigest()[:32]
    return None

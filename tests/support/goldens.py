"""What flanneld wrote (the blocks of `tests/vectors/flannel-leases.txt`), and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

PREFIX = "/coreos.com/network/subnets/"

MALFORMED_KEYS = (
    "10",
    "10.12.13.0",
    "10.12.13-24",
    "10.12.13.300-24",
    "10.12.13.0-24hi",
    "&2001::-56",
    "10.12.13.0-24&:12:13:-56",
    "10.12.13.0-24&20011::-56",
    "10.12.13.0-24&2001-56",
    "10.12.13.0-24&2001::",
    "10.12.13.0-24&2001::-56hi",
)
"""Last parts of keys that flannel's own tests refuse."""

_FILE = Path(__file__).parents[1] / "vectors" / "flannel-leases.txt"


@dataclass
class Golden:
    """One run of flanneld."""

    name: str
    config: str = ""
    key: str = ""
    """The last part of the lease's key."""
    value: bytes = b""
    subnet_env: str = field(default="")


def flannel_goldens() -> list[Golden]:
    """Returns every block of the file."""
    found: list[Golden] = []
    for line in _FILE.read_text("ascii").splitlines():
        if line.startswith("["):
            found.append(Golden(line.strip("[]")))
            continue
        name, _, text = line.partition(": ")
        match name:
            case "config":
                found[-1].config = text
            case "key":
                found[-1].key = text.removeprefix(PREFIX)
            case "value":
                found[-1].value = text.encode()
            case "subnet.env":
                found[-1].subnet_env += f"{text}\n"
    return found

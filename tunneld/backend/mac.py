"""Ethernet addresses of VXLAN tunnel endpoints.

Path of a lease: `lease` -> **`backend.mac`** -> `fib`. Pure.

Source: flannel `pkg/backend/vxlan/vxlan.go` (hardwareAddr: Go's net.HardwareAddr as text).
"""

from __future__ import annotations

import re
from typing import NewType

MacAddress = NewType("MacAddress", str)
"""Six octets in lower case with colons, as `parse_mac` returns it."""

_TEXT = re.compile(r"[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}", re.ASCII)


def parse_mac(text: object) -> MacAddress:
    """Returns the unicast address that `text` means.

    Raises:
        ValueError: it is no text of six octets, or no address of one station.
    """
    lower = text.lower() if isinstance(text, str) else ""
    if _TEXT.fullmatch(lower) is None:
        raise ValueError(f"{text!r} is no Ethernet address; expected six octets like 0e:2a:1b:…")
    octets = bytes.fromhex(lower.replace(lower[2], ""))
    if octets[0] & 1 or not any(octets):
        raise ValueError(f"{text!r} is not the address of one station")
    return MacAddress(octets.hex(":"))


def make_mac(chance: bytes) -> MacAddress:
    """Returns a locally administered unicast address made of six octets of chance.

    Raises:
        ValueError: `chance` has another length.
    """
    if len(chance) != 6:
        raise ValueError(f"{len(chance)} octets of chance; expected 6")
    return MacAddress(bytes([chance[0] & 0xFE | 0x02, *chance[1:]]).hex(":"))

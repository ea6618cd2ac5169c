"""What `tunneld bench local` compares, by the names it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tunneld.bench.local.ours import (
    Tunneld,
    TunneldAes128,
    TunneldChaCha20,
    TunneldEsp,
    TunneldVxlan,
)
from tunneld.bench.local.overlay import KernelVxlan, Overlay
from tunneld.bench.local.routed import Routed


class _Aes256(TunneldEsp):
    label = "taes256"
    cipher = "aes-256-gcm"


PATHS: Final[Mapping[str, type[Overlay]]] = {
    "no tunnel": Routed,
    "kernel vxlan": KernelVxlan,
    "raw": Tunneld,
    "vxlan": TunneldVxlan,
    "esp aes-256-gcm": _Aes256,
    "esp aes-128-gcm": TunneldAes128,
    "esp chacha20-poly1305": TunneldChaCha20,
}
QUICK: Final = ("no tunnel", "kernel vxlan", "raw", "esp aes-256-gcm", "esp chacha20-poly1305")
BASE: Final = "raw"
"""What ratios are to: plain packets through the same data path."""

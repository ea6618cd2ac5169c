"""Every overlay that can be measured, by its name."""

from __future__ import annotations

from typing import Final

from bench.lab.encrypted import WireguardGo
from bench.lab.overlays import FlannelUdp, TunneldHostGwIPv6, TunneldIPv6, TunneldVxlanIPv6
from tunneld.bench.local.ours import (
    Tunneld,
    TunneldAes128,
    TunneldChaCha20,
    TunneldEsp,
    TunneldHostGw,
    TunneldVxlan,
)
from tunneld.bench.local.overlay import KernelVxlan, Overlay

_ALL: Final[tuple[type[Overlay], ...]] = (
    *(KernelVxlan, Tunneld, FlannelUdp),
    *(TunneldVxlan, TunneldIPv6, TunneldVxlanIPv6),
    *(TunneldHostGw, TunneldHostGwIPv6),
    *(TunneldEsp, TunneldAes128, TunneldChaCha20, WireguardGo),
)

OVERLAYS: Final = {overlay.name: overlay for overlay in _ALL}

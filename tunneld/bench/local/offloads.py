"""Switches offloads off: those of the containers' devices, and tunneld's own."""

from __future__ import annotations

from typing import Final

from tunneld.bench.local.ours import Tunneld
from tunneld.bench.local.overlay import Overlay
from tunneld.control.client import request
from tunneld.lab import namespaces

_OF_DEVICE: Final = ("tso", "off", "gso", "off", "gro", "off")


def switch_off(overlay: Overlay) -> None:
    """Has containers send packets of at most the MTU, and tunneld move each by itself.

    Raises:
        LabError: ethtool refuses.
    """
    for host in overlay.pair.hosts:
        for namespace, device in ((host.container, "eth0"), (host.namespace, "veth0")):
            command = ("ethtool", "-K", device, *_OF_DEVICE)
            namespaces.run(*namespaces.inside(namespace, *command))
        if isinstance(overlay, Tunneld):
            place = overlay.control_socket(host)
            for name in request(place, "status")["offloads"]:
                request(place, "offload", {"name": name, "enabled": False})

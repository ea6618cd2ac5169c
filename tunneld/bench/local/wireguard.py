"""WireGuard in user space as an overlay: wireguard-go, or what takes its place.

Source: wireguard.com/xplatform (the protocol by which it is configured).
"""

from __future__ import annotations

import base64
import os
import socket
from pathlib import Path
from typing import Final

from tunneld.bench.local.pair import Host
from tunneld.bench.local.peer import PeerOverlay
from tunneld.errors import LabError
from tunneld.lab import namespaces
from tunneld.trust.secrets import NodeKey

_PORT: Final = 51820
_SOCKETS: Final = Path("/var/run/wireguard")


class WireguardGo(PeerOverlay):
    """wireguard-go with a peer on each side."""

    name = "wireguard-go"
    label = "wg"
    what = "wireguard-go, MTU 1420, a peer on each side"
    mtu_bytes = 1420
    debian = "wireguard-go"
    programs = ("wireguard-go",)

    def prepare(self) -> None:
        self._keys = {
            host.label: NodeKey.create(host.directory / "key") for host in self.pair.hosts
        }

    def device(self, host: Host) -> str:
        """Returns a name that no other one on the machine has: sockets of all namespaces meet."""
        return f"wg{os.getpid()}{self.pair.name.removeprefix(self.label)}{host.label}"

    def join(self, host: Host) -> None:
        self._spawn(host, self.program, "-f", self.device(host))

    def set_up(self, host: Host) -> None:
        """Gives the device of a host its key and its peer, then an address."""
        if not namespaces.became_true(self._socket(host).is_socket, 30.0):
            msg = f"bench: {self.name} has no socket {self._socket(host)}"
            raise LabError(msg)
        other = self.other(host)
        lines = (
            "set=1",
            f"private_key={_hex((host.directory / 'key').read_text())}",
            f"listen_port={_PORT}",
            f"public_key={self._keys[other.label].public.raw.hex()}",
            f"endpoint={other.address}:{_PORT}",
            f"allowed_ip={self.subnet(other)}",
        )
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self._socket(host)))
            control.sendall(("\n".join(lines) + "\n\n").encode())
            said = control.makefile().readline().strip()
        if said != "errno=0":
            msg = f"bench: {self.name} on host {host.label} answers {said!r}, expected 'errno=0'"
            raise LabError(msg)
        super().set_up(host)

    def _socket(self, host: Host) -> Path:
        return _SOCKETS / f"{self.device(host)}.sock"


def _hex(key: str) -> str:
    return base64.b64decode(key).hex()

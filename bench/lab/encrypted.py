"""wireguard-go as an overlay.

Source: wireguard.com/xplatform (the protocol by which wireguard-go is configured).
"""

from __future__ import annotations

import base64
import os
import socket
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Final

from testbed.wireguard.build import wireguard_go, wireguard_version
from tunneld._native import Identity
from tunneld.bench.local.overlay import Overlay
from tunneld.bench.local.pair import Host
from tunneld.errors import LabError
from tunneld.lab import namespaces


class WireguardGo(Overlay):
    """wireguard-go with its own device, one peer, its own MTU."""

    name = "wireguard-go"
    label = "wg"
    what = f"wireguard-go {wireguard_version()}, MTU 1420, a peer on each side"

    _MTU_BYTES: Final = 1420
    _PORT: Final = 51820
    _SOCKETS: Final = Path("/var/run/wireguard")

    def start(self) -> None:
        keys = {host.label: Identity.create(host.directory / "key") for host in self.pair.hosts}
        for number, host in enumerate(self.pair.hosts, start=1):
            other = self.pair.hosts[2 - number]
            device = self._device(host)
            self._spawn(host, str(wireguard_go()), "-f", device)
            self._wait(host, self._socket(host).is_socket)
            self._configure(host, keys[other.label].public_key, other, 3 - number)
            in_host = ("ip", "-n", host.namespace)
            namespaces.run(*in_host, "address", "add", f"10.5.{number}.0/32", "dev", device)
            namespaces.run(*in_host, "link", "set", device, "mtu", str(self._MTU_BYTES), "up")
            namespaces.run(*in_host, "route", "add", f"10.5.{3 - number}.0/24", "dev", device)
            self.pair.attach(host, IPv4Interface(f"10.5.{number}.1/24"), self._MTU_BYTES)

    def _device(self, host: Host) -> str:
        """Returns a name that no other one on the machine has: sockets of all namespaces meet."""
        return f"wg{os.getpid()}{self.pair.name.removeprefix(self.label)}{host.label}"

    def _socket(self, host: Host) -> Path:
        return self._SOCKETS / f"{self._device(host)}.sock"

    def _configure(self, host: Host, public_key: str, other: Host, other_number: int) -> None:
        """Gives the device of a host its key and its peer."""
        lines = (
            "set=1",
            f"private_key={_hex((host.directory / 'key').read_text())}",
            f"listen_port={self._PORT}",
            f"public_key={_hex(public_key)}",
            f"endpoint={other.address}:{self._PORT}",
            f"allowed_ip=10.5.{other_number}.0/24",
        )
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self._socket(host)))
            control.sendall(("\n".join(lines) + "\n\n").encode())
            said = control.makefile().readline().strip()
        if said != "errno=0":
            msg = f"bench: {self.name} on host {host.label} answers {said!r}, expected 'errno=0'"
            raise LabError(msg)


def _hex(key: str) -> str:
    return base64.b64decode(key).hex()

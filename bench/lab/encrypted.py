"""Encrypted ways to join the containers of a pair: tunneld's ESP by each cipher, and wireguard-go.

Source: wireguard.com/xplatform (the protocol by which wireguard-go is configured).
"""

from __future__ import annotations

import base64
import os
import secrets
import socket
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any, ClassVar, Final

from bench.lab.overlays import Overlay, Tunneld
from bench.lab.topology import Host
from tests.interop.wireguard.build import wireguard_go, wireguard_version
from tunneld._native import Identity
from tunneld.errors import LabError
from tunneld.lab import namespaces

_PSK_BYTES: Final = 32


class TunneldEsp(Tunneld):
    """tunneld where the network requires encryption, with the cipher that suits the machine."""

    name = "tunneld ESP"
    label = "tesp"
    what = "tunneld of this tree with encryption required, a PSK, and the cipher that auto takes"
    cipher: ClassVar[str] = "auto"

    def backend_config(self) -> dict[str, object]:
        encryption = {"Mode": "required", "Cipher": self.cipher}
        return {**super().backend_config(), "Encryption": encryption}

    def start(self) -> None:
        psk = self.pair.directory / "psk"
        psk.touch(mode=0o600)
        psk.write_bytes(base64.b64encode(secrets.token_bytes(_PSK_BYTES)) + b"\n")
        self.options = (*self.options, "--psk-file", str(psk))
        super().start()

    def wait_connected(self) -> None:
        """Waits until the containers reach each other, and proves that it is by ESP.

        Raises:
            LabError: they do not, or in plain, or with another cipher.
        """
        super().wait_connected()
        [peer] = self.status()["peers"]
        cipher = peer["security"]["cipher"]
        if not peer["encrypted"] or self.cipher not in ("auto", cipher):
            msg = f"bench: {self.name}: encrypted is {peer['encrypted']}, with {cipher}; "
            raise LabError(f"{msg}expected {self.cipher}")

    def about(self) -> dict[str, Any]:
        """Returns what the raw figures say of it; the PSK's place is of no interest there."""
        [peer] = self.status()["peers"]
        chosen = {name: peer["security"][name] for name in ("cipher", "provider")}
        said = super().about()
        return said | {"options": said["options"][:-2], "encryption": chosen}


class TunneldAes128(TunneldEsp):
    """The same with AES-128-GCM."""

    name = "tunneld ESP aes-128-gcm"
    label = "taes128"
    what = "tunneld of this tree with encryption required, a PSK, and AES-128-GCM"
    cipher = "aes-128-gcm"


class TunneldChaCha20(TunneldEsp):
    """The same with ChaCha20-Poly1305."""

    name = "tunneld ESP chacha20-poly1305"
    label = "tchacha"
    what = "tunneld of this tree with encryption required, a PSK, and ChaCha20-Poly1305"
    cipher = "chacha20-poly1305"


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

"""tunneld as an overlay: by each of its encapsulations, leases in one SQLite file."""

from __future__ import annotations

import base64
import json
import secrets
import sys
from pathlib import Path
from typing import Any, ClassVar, Final

from tunneld.bench.local.overlay import Overlay
from tunneld.bench.local.pair import Host
from tunneld.control.client import NotRunningError, request
from tunneld.errors import LabError
from tunneld.lab import namespaces

NETWORK: Final = "10.5.0.0/16"
NETWORK_V6: Final = "fd00:10:5::/48"
_PSK_BYTES: Final = 32


class Tunneld(Overlay):
    """tunneld with its udp backend, leases in one SQLite file."""

    name = "tunneld"
    label = "tunneld"
    what = "tunneld of this tree with its udp backend, leases in SQLite"
    network: ClassVar[str] = NETWORK
    backend: ClassVar[str] = "udp"
    peers = 1
    """How many a daemon must know before it counts as ready."""

    @property
    def store(self) -> Path:
        return self.pair.directory / "store.db"

    def write_config(self) -> None:
        """Writes the network config, which makes the store."""
        members: dict[str, object] = {"Network": self.network}
        if self.ipv6:
            members |= {"EnableIPv6": True, "IPv6Network": NETWORK_V6}
        config = json.dumps(members | {"Backend": self.backend_config()})
        namespaces.run(*self._command("network", "set", "-"), stdin=config)

    def backend_config(self) -> dict[str, object]:
        """Returns what the network config says of the backend."""
        return {"Type": self.backend}

    def start(self) -> None:
        self.write_config()
        for host in self.pair.hosts:
            self._spawn(
                host,
                *self._command("run"),
                *("--iface", "u0", "--state-dir", str(host.directory / "state")),
                *("--subnet-file", str(host.directory / "subnet.env")),
                *("--control-socket", str(self.control_socket(host))),
                *self.options,
            )
        for host in self.pair.hosts:
            self._wait(host, lambda host=host: self._is_ready(host))  # type: ignore[misc]
            self._attach_by_subnet_file(host)

    def about(self) -> dict[str, Any]:
        status = self.status()
        kept = {name: status[name] for name in ("backend", "offloads") if name in status}
        return super().about() | kept

    def status(self) -> dict[str, Any]:
        """Returns what the first host's daemon says of itself."""
        said: dict[str, Any] = request(self.control_socket(self.pair.a), "status")
        return said

    def _command(self, *argv: str) -> tuple[str, ...]:
        tail = ("--store", f"sqlite:{self.store}", "--config", "/dev/null")
        return (sys.executable, "-P", "-m", "tunneld", *argv, *tail)

    def control_socket(self, host: Host) -> Path:
        return host.directory / "tunneld.sock"

    def _is_ready(self, host: Host) -> bool:
        try:
            status = request(self.control_socket(host), "status")
        except NotRunningError:
            return False
        return status["state"] == "ready" and len(status["peers"]) == self.peers


class TunneldVxlan(Tunneld):
    """The same with its vxlan backend in user space."""

    name = "tunneld vxlan"
    label = "tvxlan"
    what = "tunneld of this tree with its vxlan backend in user space, leases in SQLite"
    backend = "vxlan"


class TunneldHostGw(Tunneld):
    """No tunnel at all: what the kernel's routing alone makes of the same traffic."""

    name = "host-gw"
    label = "thgw"
    what = "tunneld of this tree with its host-gw backend: the kernel's routes, no tunnel"
    backend = "host-gw"


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

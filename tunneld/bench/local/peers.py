"""Other programs that encrypt: which of them are there, and why the others are not."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tunneld.bench.local.overlay import Overlay
from tunneld.bench.local.peer import PeerOverlay
from tunneld.bench.local.rivals import Fastd, Nebula, Openvpn, Tinc, Vpncloud
from tunneld.bench.local.wireguard import WireguardGo

PEERS: Final[Mapping[str, type[PeerOverlay]]] = {
    "wireguard-go": WireguardGo,
    "fastd": Fastd,
    "nebula": Nebula,
    "openvpn": Openvpn,
    "tinc": Tinc,
    "vpncloud": Vpncloud,
}
NOT_BUILT: Final[Mapping[str, str]] = {
    "flanneld": "python -m bench.lab of the source tree measures it",
    "kernel WireGuard": "not built into tunneld bench yet",
    "strongSwan": "not built into tunneld bench yet",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A program that is there."""

    kind: type[PeerOverlay]
    program: str

    @property
    def name(self) -> str:
        return self.kind.name

    def overlay(self, directory: Path) -> Overlay:
        return self.kind(directory, (self.program,))


def found(given: Mapping[str, str]) -> tuple[list[Peer], list[str]]:
    """Returns the peers that are there, and a line for each that is not.

    `given` are paths of programs by the peer's name.
    """
    there, absent = [], []
    for name, kind in PEERS.items():
        own, *others = kind.programs
        program = given.get(name) or shutil.which(own)
        missing = [other for other in others if shutil.which(other) is None]
        if program is None or not Path(program).is_file():
            missing = [given.get(name, own), *missing]
        if missing:
            package = f"Debian: {kind.debian}; or " if kind.debian else ""
            what = f"{', '.join(missing)} is not there ({package}--peer-path {name}=PATH)"
            absent.append(f"peer absent: {name}: {what}")
        else:
            there.append(Peer(kind=kind, program=str(program)))
    absent += [f"peer absent: {name}: {why}" for name, why in NOT_BUILT.items()]
    return there, absent

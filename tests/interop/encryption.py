"""Networks that encrypt, as the modules of this folder ask for them and look at them."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any, Final

from testbed.netns import Rig
from testbed.network import NETWORK, PREFIX, Host, Network

IS_LONG: Final = os.environ.get("TUNNELD_LONG_TESTS") == "1"
STREAM_BYTES: Final = 100_000_000 if IS_LONG else 8_000_000
RATE_HZ: Final = 1_000.0 if IS_LONG else 200.0


def config(backend: str, mode: str) -> dict[str, object]:
    return {"Type": backend, "Encryption": {"Mode": mode}}


def set_mode(network: Network, backend: str, mode: str) -> None:
    text = json.dumps({"Network": str(NETWORK), "Backend": config(backend, mode)})
    network.etcd.put(f"{PREFIX}/config", text)


def psk_file(rig: Rig) -> Path:
    path = rig.directory / "psk"
    if not path.exists():
        path.touch(0o600)
        path.write_bytes(base64.b64encode(os.urandom(32)) + b"\n")
    return path


def peer_of(host: Host, other: Host) -> dict[str, Any]:
    """Returns what the status of a tunneld host says of another host; empty: it is no peer."""
    found = [peer for peer in host.status()["peers"] if peer["subnet"] == str(other.subnet)]
    return found[0] if found else {}


def refusal_of(host: Host, other: Host) -> str:
    """Returns why a tunneld host does not reach another one, as its status says; empty: it does."""
    found = [one for one in host.status()["refused"] if one["subnet"] == str(other.subnet)]
    return json.dumps(found[0]) if found else ""


def is_encrypted(host: Host, other: Host) -> bool:
    return bool(peer_of(host, other).get("encrypted"))

"""Reads `Backend.Encryption`: what a network asks of all its hosts. flanneld ignores it.

Path of a lease: `lease.network` -> **`backend.encryption`** -> `trust.policy`. Pure. What is in
force here may be more: the stronger of this and the host's own floor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from tunneld.backend.base import Backend
from tunneld.backend.options import choice, whole_number
from tunneld.errors import NetworkConfigError
from tunneld.lease.gojson import dumps, member
from tunneld.lease.network import NetworkConfig
from tunneld.trust.policy import MODES, Mode, refusal

Cipher: TypeAlias = Literal["auto", "aes-256-gcm", "aes-128-gcm", "chacha20-poly1305"]
CIPHERS: Final[tuple[Cipher, ...]] = ("auto", "aes-256-gcm", "aes-128-gcm", "chacha20-poly1305")

DEFAULT_PORT: Final = 8286
MAX_KEEPALIVE_S: Final = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """What the network config says."""

    mode: Mode = "off"
    cipher: Cipher = "auto"
    port: int = DEFAULT_PORT
    """UDP port of encryption at this host; the others' records name theirs."""
    keepalive_s: int = 0
    """How often a peer is sent something, for hosts behind NAT; 0: only when there is need."""


def encryption_of(config: NetworkConfig) -> Encryption:
    """Returns what the config says of encryption: `off` where it says nothing.

    Raises:
        NetworkConfigError: it is no object, says no mode, or an option is out of its limits.
    """
    found = member(config.backend, "Encryption")
    if found is None:
        return Encryption()
    if not isinstance(found, dict):
        raise NetworkConfigError(
            f"Backend.Encryption {_show(found)}: expected a JSON object like "
            '{"Mode": "required"}; correct it, or leave it out for no encryption'
        )
    inner = replace(config, backend=found)
    try:
        if member(found, "Mode") is None:
            raise NetworkConfigError(
                f"Backend.Mode is missing in {_show(found)}: expected one of {', '.join(MODES)}; "
                "write it, or leave Encryption out"
            )
        return Encryption(
            mode=choice(inner, "Mode", default="off", choices=MODES),
            cipher=choice(inner, "Cipher", default="auto", choices=CIPHERS),
            port=whole_number(inner, "Port", default=DEFAULT_PORT, least=1, most=65_535),
            keepalive_s=whole_number(inner, "Keepalive", default=0, least=0, most=MAX_KEEPALIVE_S),
        )
    except NetworkConfigError as error:
        # The readers of options know the members of Backend alone.
        raise NetworkConfigError(str(error).replace("Backend.", "Backend.Encryption.", 1)) from None


def require_served(backend: Backend, encryption: Encryption, mode: Mode) -> None:
    """Refuses a backend that would send in plain, or on the port of encryption.

    Args:
        backend: the backend of the network.
        encryption: what the network says.
        mode: the mode in force.

    Raises:
        NetworkConfigError: the reason, and what to do about it.
    """
    found = refusal(
        mode,
        backend_type=backend.type,
        datapath=backend.datapath,
        uses_direct_routes=backend.wants_on_link,
    )
    if found is not None:
        raise NetworkConfigError(found)
    if mode != "off" and encryption.port == backend.port:
        raise NetworkConfigError(
            f"Backend.Encryption.Port {encryption.port} is the port of the {backend.type} backend: "
            "what is encrypted and what is plain never share one; expected another, or leave it "
            f"out for {DEFAULT_PORT}"
        )


def _show(value: object) -> str:
    text = dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

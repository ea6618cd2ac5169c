"""The node's own key and the PSKs: handles to what the native module holds, made from files.

Beside the path of a lease: files -> `tunneld._native` -> **`trust.secrets`** -> the handshake.
No secret enters Python: these files are read there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tunneld import _native
from tunneld.trust.key import PublicKey

KEY_FILE: Final = "identity.key"
"""In the state directory."""

CREDENTIAL: Final = "tunneld.psk"
"""Name of the systemd credential that is the PSK file, where none is named."""


class NodeKey:
    """The X25519 key by which others know this node."""

    def __init__(self, handle: _native.Identity) -> None:
        self.handle = handle
        """What the native module takes; the secret half stays in it."""
        self.public = PublicKey.parse(handle.public_key)

    @classmethod
    def load(cls, path: Path) -> NodeKey | None:
        """Returns the key of a file; None where there is none.

        Raises:
            TrustError: the file is open to others, or holds no key.
        """
        return cls(_native.Identity.load(path)) if os.path.lexists(path) else None

    @classmethod
    def create(cls, path: Path) -> NodeKey:
        """Makes a key and its file, with mode 0600.

        Raises:
            TrustError: the file is there, or cannot be made.
        """
        return cls(_native.Identity.create(path))

    @classmethod
    def replace(cls, path: Path) -> NodeKey:
        """Makes a key and puts its file in the place of the former one.

        Raises:
            TrustError: it cannot be made; the former one stays.
        """
        return cls(_native.Identity.replace(path))


class Psks:
    """One or two pre-shared keys of the network."""

    def __init__(self, handle: _native.Psks) -> None:
        self.handle = handle
        """What the native module takes."""
        self.ids: tuple[str, ...] = tuple(handle.ids)
        """By which a handshake names them, 8 hexadecimal digits: no secret. The first is in use."""

    @classmethod
    def load(cls, path: Path, environ: Mapping[str, str]) -> Psks:
        """Returns the keys of a file.

        Raises:
            TrustError: the file is open to others, or holds no one or two keys of 32 to 64 bytes.
        """
        folder = environ.get("CREDENTIALS_DIRECTORY")
        is_credential = bool(folder) and Path(folder or "") == path.parent
        return cls(_native.Psks.load(path, is_credential=is_credential))


def credential(environ: Mapping[str, str]) -> Path | None:
    """Returns the PSK file that systemd hands to this service; None: it hands none."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder) / CREDENTIAL if folder else None
    return path if path is not None and path.exists() else None

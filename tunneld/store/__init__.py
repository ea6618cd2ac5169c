"""Reads and writes leases; the only room that knows keys and revisions.

Path of a lease: etcd or SQLite -> **store** -> `lease` -> `peer`.
`open_store` is the one way in: what it returns is a `lease.registry.Store`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tunneld.errors import UsageError
from tunneld.lease.registry import Store

__all__ = ["DEFAULT_ENDPOINTS", "DEFAULT_PREFIX", "StoreOptions", "open_store"]

DEFAULT_PREFIX = "/coreos.com/network"
DEFAULT_ENDPOINTS = ("http://127.0.0.1:2379",)
"""Source: flannel `main.go` (`-etcd-prefix`, `-etcd-endpoints`), less its second port of old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """Which store, and how to reach it."""

    kind: Literal["etcd", "sqlite"] = "etcd"
    path: Path | None = None
    """The SQLite file; kind `sqlite` only."""
    endpoints: tuple[str, ...] = DEFAULT_ENDPOINTS
    """`http://host:port` or `https://host:port`; tried in this order."""
    prefix: str = DEFAULT_PREFIX
    keyfile: Path | None = None
    certfile: Path | None = None
    """Client certificate and its key, PEM; both or none."""
    cafile: Path | None = None
    """What signs the server's certificate, PEM; None: the system's roots."""
    username: str | None = None
    password_file: Path | None = field(default=None, repr=False)


def open_store(options: StoreOptions) -> Store:
    """Returns a store. Connects to nothing: the first call does.

    Raises:
        UsageError: the options do not fit together, or an endpoint is not a URL.
    """
    if options.kind == "sqlite":
        if options.path is None:
            raise UsageError("store sqlite has no file: expected sqlite:PATH; name a file")
        return _sqlite(options.path, options.prefix)
    if not options.endpoints:
        raise UsageError("store etcd has no endpoint: name one, as http://127.0.0.1:2379")
    _require_both(certfile=options.certfile, keyfile=options.keyfile)
    _require_both(username=options.username, password_file=options.password_file)
    return _etcd(options)


def _require_both(**options: object) -> None:
    given = {name.replace("_", "-"): value for name, value in options.items() if value is not None}
    missing = [name.replace("_", "-") for name in options if options[name] is None]
    if given and missing:
        (name, value), (other,) = *given.items(), missing
        raise UsageError(f"--etcd-{name} is {value}; give --etcd-{other} too, or neither")


# Only the store that is used is loaded: gRPC takes longer than all the rest of `tunneld status`.


def _sqlite(path: Path, prefix: str) -> Store:
    from tunneld.store.sqlite.store import SqliteStore  # noqa: PLC0415 - as said above

    return SqliteStore(path, prefix)


def _etcd(options: StoreOptions) -> Store:
    from tunneld.store.etcd.store import EtcdStore  # noqa: PLC0415 - as said above
    from tunneld.store.etcd.transport import (  # noqa: PLC0415
        Credentials,
        Transport,
        parse_endpoint,
    )

    transport = Transport(
        [parse_endpoint(url) for url in options.endpoints],
        Credentials(
            keyfile=options.keyfile,
            certfile=options.certfile,
            cafile=options.cafile,
            username=options.username,
            password_file=options.password_file,
        ),
    )
    return EtcdStore(transport, options.prefix)

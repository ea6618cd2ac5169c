"""The wire side of a network: which backend it uses, with its options.

Path of a lease: `peer` -> **`backend`** -> `fib`. Pure; one file for each backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tunneld.backend import alloc, hostgw, udp, vxlan
from tunneld.backend.base import Backend
from tunneld.backend.encryption import encryption_of, require_served
from tunneld.errors import NetworkConfigError
from tunneld.lease.network import NetworkConfig

__all__ = ["FLANNEL_TYPES", "parse_backend"]

_BUILT: dict[str, Callable[[NetworkConfig, Literal["userspace", "kernel"]], Backend]] = {
    "alloc": alloc.from_config,
    "host-gw": hostgw.from_config,
    "udp": udp.from_config,
    "vxlan": vxlan.from_config,
}

FLANNEL_TYPES = (
    "alloc",
    "extension",
    "host-gw",
    "ipip",
    "ipsec",
    "tencent-vpc",
    "udp",
    "vxlan",
    "wireguard",
)
"""Source: flannel `pkg/backend/*` (registered names)."""


def parse_backend(
    config: NetworkConfig, datapath: Literal["userspace", "kernel"] = "userspace"
) -> Backend:
    """Returns the backend of the network; `datapath` is heard where there is a choice.

    Raises:
        NetworkConfigError: there is none of that type, none of it with that data path, an option
            is out of its limits, or it cannot serve the encryption that the network asks for.
    """
    build = _BUILT.get(config.backend_type)
    if build is not None:
        backend, encryption = build(config, datapath), encryption_of(config)
        require_served(backend, encryption, encryption.mode)
        return backend
    built = ", ".join(sorted(_BUILT))
    if config.backend_type in FLANNEL_TYPES:
        raise NetworkConfigError(
            f"backend type '{config.backend_type}' is not built yet; "
            f"expected one of: {built}; change Backend.Type in the network config"
        )
    raise NetworkConfigError(
        f"unknown backend type '{config.backend_type}'; "
        f"expected one of: {built}; set Backend.Type in the network config"
    )

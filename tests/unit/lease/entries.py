"""Entries of leases in the store of a keeper's test, read and written around tunneld."""

from __future__ import annotations

from tests.support.stores import Server
from tunneld.lease.model import Lease


def held_keys(server: Server, prefix: str) -> set[str]:
    return {
        name.removeprefix(f"{prefix}/subnets/")
        for name in server.everything(prefix)
        if "/subnets/" in name
    }


def server_put(server: Server, prefix: str, name: str, public_ip: str) -> None:
    """Writes a lease without a grant, as somebody does by hand."""
    value = f'{{"PublicIP":"{public_ip}","PublicIPv6":null}}'
    server.put(f"{prefix}/subnets/{name}", value.encode())


def lease_name(prefix: str, lease: Lease) -> str:
    return f"{prefix}/subnets/{str(lease.key).replace('/', '-')}"

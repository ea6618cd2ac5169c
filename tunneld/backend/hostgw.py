"""The host-gw backend: a peer's subnet is behind its host, by a plain route on a shared link.

Path of a lease: `peer` -> **`backend.hostgw`** -> `fib`. Pure.
No device and no header: the kernel alone forwards, whatever `--datapath` says.

Source: flannel `pkg/backend/hostgw/`, `pkg/backend/route_network.go`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal

from tunneld.backend.base import (
    Datapath,
    Family,
    Here,
    Reach,
    Unusable,
)
from tunneld.backend.families import families_of, require_addresses
from tunneld.backend.leases import endpoint, public_addresses, require_type
from tunneld.backend.untunnelled import Untunnelled
from tunneld.errors import InterfaceError
from tunneld.lease.model import IPAddress, LeaseAttributes
from tunneld.lease.network import NetworkConfig
from tunneld.peer import Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class HostGwBackend(Untunnelled):
    """flannel's host-gw backend."""

    type: ClassVar[str] = "host-gw"
    datapath: ClassVar[Datapath] = "kernel"
    wants_on_link: ClassVar[bool] = True

    def check(self, here: Here) -> None:
        """Refuses a host whose peers could not use its address as a gateway."""
        require_addresses(here, self.families)
        for family, address, public, option in (
            (4, here.address, here.public_ip, "--public-ip"),
            (6, here.address_v6, here.public_ipv6, "--public-ipv6"),
        ):
            if family in self.families and public != address:
                raise InterfaceError(
                    f"public address {public} is not the underlay interface's {address}, and the "
                    "host-gw backend needs peers on the same link, who can have this host as "
                    f"their gateway; expected both the same: leave {option} out, choose the "
                    "interface with --iface, or use vxlan behind NAT"
                )

    def attributes(self, here: Here) -> LeaseAttributes:
        """Returns flannel's lease value: addresses and type."""
        public_ip, public_ipv6 = public_addresses(here, self.families)
        return LeaseAttributes(public_ip=public_ip, public_ipv6=public_ipv6, backend_type=self.type)

    def reach(
        self, peer: Peer, family: Family, here: Here, *, on_link: Collection[IPAddress]
    ) -> Reach:
        """Returns the route of `peer`.

        Raises:
            Unusable: its lease is of another backend, or its host is not on the same link.
        """
        require_type(peer, self.type)
        address = endpoint(peer, family)
        if address not in on_link:
            raise Unusable(
                "not_on_link",
                f"lease of {peer.key}: {address} is not on the link of the underlay interface, and "
                "host-gw has no other way to it",
            )
        return Reach(gateway=address)


def from_config(config: NetworkConfig, datapath: Literal["userspace", "kernel"]) -> HostGwBackend:
    """Returns the backend; it has no options."""
    return HostGwBackend(families=families_of(config))

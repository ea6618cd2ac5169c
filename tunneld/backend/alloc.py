"""The alloc backend: a lease and no more. Somebody else carries the packets.

Path of a lease: `peer` -> **`backend.alloc`** -> `fib`. Pure.

Source: flannel `pkg/backend/alloc/`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal

from tunneld.backend.base import Datapath, Family, Here
from tunneld.backend.families import families_of, require_addresses
from tunneld.backend.leases import public_addresses
from tunneld.backend.untunnelled import Untunnelled
from tunneld.lease.model import IPAddress, LeaseAttributes
from tunneld.lease.network import NetworkConfig
from tunneld.peer import Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocBackend(Untunnelled):
    """flannel's alloc backend."""

    type: ClassVar[str] = "alloc"
    datapath: ClassVar[Datapath] = "none"
    wants_on_link: ClassVar[bool] = False

    def check(self, here: Here) -> None:
        """Refuses a host without an underlay address in a family of the network."""
        require_addresses(here, self.families)

    def attributes(self, here: Here) -> LeaseAttributes:
        """Returns flannel's lease value: PublicIP only, for no peer has to be reached.

        Without IPv4, where flannel's own ends, PublicIPv6 says whose lease it is.
        """
        public_ip, public_ipv6 = public_addresses(here, self.families)
        return LeaseAttributes(
            public_ip=public_ip, public_ipv6=None if 4 in self.families else public_ipv6
        )

    def reach(
        self, peer: Peer, family: Family, here: Here, *, on_link: Collection[IPAddress]
    ) -> None:
        """Returns nothing: peers are reached by whatever the operator has."""
        return


def from_config(config: NetworkConfig, datapath: Literal["userspace", "kernel"]) -> AllocBackend:
    """Returns the backend; it has no options."""
    return AllocBackend(families=families_of(config))

"""Writes down everything a host must hold for its network, as one value.

Path of a lease: `backend` -> **`fib.compose`** -> `fib.diff` -> `engine` | `host`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network

from tunneld.backend.base import Adjacency
from tunneld.fib.state import (
    LOCAL,
    Device,
    EngineSettings,
    EngineState,
    Firewall,
    FirewallMark,
    HostState,
    Route,
    SourceCheck,
    State,
    SubnetEnv,
    UnderlayPort,
)

UNREACHABLE_METRIC = 2**31
"""Far behind every route of a bridge, so that it speaks only when no bridge has the subnet."""

TXQUEUELEN_PACKETS = 1000
"""Linux' default of 500 for TUN devices drops at round trips of 20 ms and more."""

MIN_MTU_BYTES = 68
"""Smallest MTU of IPv4 (RFC 791)."""


def compose(
    *,
    network: IPv4Network,
    subnet: IPv4Network,
    adjacencies: Mapping[IPv4Network, Adjacency],
    device_mtu_bytes: int,
    source_check: SourceCheck,
    ip_masq: bool,
    random_fully: bool = True,
    forward: bool = True,
    notrack: UnderlayPort | None = None,
    accept_mark: FirewallMark | None = None,
) -> State:
    """Returns the desired state of a host that holds `subnet` of `network`.

    `adjacencies` maps the subnet of each peer to how it is reached. A peer that carries less
    than the device gets a route of its own with that MTU, so that the kernel answers too large
    packets itself.
    """
    overlay_address = subnet.network_address
    names = {prefix: str(prefix) for prefix in adjacencies}
    narrow = {
        Route(
            destination=prefix,
            kind="device",
            mtu_bytes=max(adjacency.mtu_bytes, MIN_MTU_BYTES),
        )
        for prefix, adjacency in adjacencies.items()
        if adjacency.mtu_bytes < device_mtu_bytes
    }
    return State(
        engine=EngineState(
            settings=EngineSettings(
                source_check=source_check,
                device_mtu_bytes=device_mtu_bytes,
                icmp_source=overlay_address,
            ),
            adjacencies={names[prefix]: adjacency for prefix, adjacency in adjacencies.items()},
            entries={subnet: LOCAL, **names},
        ),
        host=HostState(
            device=Device(
                address=overlay_address,
                mtu_bytes=device_mtu_bytes,
                txqueuelen=TXQUEUELEN_PACKETS,
                forwarding=True,
            ),
            routes=frozenset(
                {
                    Route(destination=network, kind="device"),
                    Route(destination=subnet, kind="unreachable", metric=UNREACHABLE_METRIC),
                    *narrow,
                }
            ),
            firewall=Firewall(
                network=network,
                subnet=subnet,
                masquerade=ip_masq,
                random_fully=random_fully,
                forward=forward,
                notrack=notrack,
                accept_mark=accept_mark,
            ),
            subnet_env=SubnetEnv(
                network=network, subnet=subnet, mtu_bytes=device_mtu_bytes, ip_masq=ip_masq
            ),
        ),
    )

"""What a host must hold, said once and completely."""

from ipaddress import IPv4Address, IPv4Network

from tunneld.backend.base import Adjacency
from tunneld.fib.compose import UNREACHABLE_METRIC, compose
from tunneld.fib.state import LOCAL, Route, State, SubnetEnv

NETWORK = IPv4Network("10.5.0.0/16")
OWN = IPv4Network("10.5.1.0/24")
PEER = IPv4Network("10.5.2.0/24")


def _adjacency(mtu_bytes: int = 1472) -> Adjacency:
    return Adjacency(
        encapsulation="raw",
        endpoint=IPv4Address("192.0.2.2"),
        port=8285,
        mtu_bytes=mtu_bytes,
    )


def _compose(mtu_bytes: int = 1472) -> State:
    return compose(
        network=NETWORK,
        subnet=OWN,
        adjacencies={PEER: _adjacency(mtu_bytes)},
        device_mtu_bytes=1472,
        source_check="strict",
        ip_masq=True,
    )


def test_own_subnet_is_local_and_a_peer_is_behind_its_adjacency() -> None:
    state = _compose()
    assert state.engine.entries == {OWN: LOCAL, PEER: "10.5.2.0/24"}
    assert state.engine.adjacencies == {"10.5.2.0/24": _adjacency()}


def test_one_route_covers_the_network_and_the_own_subnet_ends_unreachable() -> None:
    assert _compose().host.routes == {
        Route(destination=NETWORK, kind="device"),
        Route(destination=OWN, kind="unreachable", metric=UNREACHABLE_METRIC),
    }


def test_peer_with_a_smaller_mtu_gets_a_route_of_its_own() -> None:
    narrow = Route(destination=PEER, kind="device", mtu_bytes=1372)
    assert narrow in _compose(mtu_bytes=1372).host.routes


def test_overlay_address_is_the_base_of_the_subnet() -> None:
    state = _compose()
    assert state.host.device is not None
    assert state.host.device.address == IPv4Address("10.5.1.0")
    assert state.engine.settings is not None
    assert state.engine.settings.icmp_source == IPv4Address("10.5.1.0")


def test_subnet_env_carries_the_masquerade_flag() -> None:
    assert _compose().host.subnet_env == SubnetEnv(
        network=NETWORK, subnet=OWN, mtu_bytes=1472, ip_masq=True
    )

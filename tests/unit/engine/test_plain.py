"""The shapes in which values go to the native data path and come back."""

from __future__ import annotations

import base64
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from tunneld import _native
from tunneld.backend.base import Adjacency, SourceCheck, Vtep
from tunneld.backend.mac import make_mac
from tunneld.engine import as_plain, from_plain
from tunneld.fib.state import (
    LOCAL,
    EngineChange,
    EngineSettings,
    EngineState,
    IdentityEndpoint,
)
from tunneld.lease.model import IPNetwork

MACS = st.binary(min_size=6, max_size=6).map(make_mac)
CHECKS: tuple[SourceCheck, ...] = ("strict", "loose", "off")

addresses = st.ip_addresses()
prefixes: st.SearchStrategy[IPNetwork] = st.tuples(addresses, st.integers(8, 32)).map(
    lambda drawn: ip_network((drawn[0], drawn[1]), strict=False)
)
vteps = st.builds(
    Vtep,
    vni=st.integers(1, 2**24 - 1),
    gbp=st.booleans(),
    mac=st.none() | MACS,
    mac_v6=st.none() | MACS,
)
settings = st.builds(
    EngineSettings,
    source_check=st.sampled_from(CHECKS),
    device_mtu_bytes=st.integers(68, 65_535),
    icmp_source=st.none() | st.ip_addresses(v=4),
    icmp_source_v6=st.none() | st.ip_addresses(v=6),
    vtep=st.none() | vteps,
)
raw = st.builds(
    Adjacency,
    encapsulation=st.just("raw"),
    endpoint=addresses,
    port=st.integers(1, 65_535),
    mtu_bytes=st.integers(68, 65_535),
)
vxlan = st.builds(
    Adjacency,
    encapsulation=st.just("vxlan"),
    endpoint=addresses,
    port=st.integers(1, 65_535),
    mtu_bytes=st.integers(68, 65_535),
    of_peer=st.fixed_dictionaries({"vtep_mac": MACS}),
)


keys = st.binary(min_size=32, max_size=32).map(lambda raw: base64.b64encode(raw).decode())
identities = st.builds(
    IdentityEndpoint,
    endpoint=st.none() | addresses,
    port=st.integers(1, 65_535),
    instance=st.none() | st.binary(min_size=8, max_size=8).map(bytes.hex),
)


def digest_of(plain: _native.Change) -> _native.Digest:
    """What an empty engine says after a change."""
    return {
        "generation": 1,
        "settings": plain.get("settings"),
        "adjacencies": plain["put_adjacencies"],
        "entries": plain["put_entries"],
        "identities": plain.get("put_identities", []),
    }


@given(
    st.none() | settings, st.dictionaries(prefixes, raw | vxlan), st.dictionaries(keys, identities)
)
def test_what_an_engine_is_told_it_says_again(
    told: EngineSettings | None,
    adjacencies: dict[IPNetwork, Adjacency],
    trusted: dict[str, IdentityEndpoint],
) -> None:
    names = {prefix: str(prefix) for prefix in adjacencies}
    state = EngineState(
        settings=told,
        adjacencies={names[prefix]: how for prefix, how in adjacencies.items()},
        entries=names,
        identities=trusted,
    )
    change = EngineChange(
        settings=state.settings,
        put_adjacencies=state.adjacencies,
        put_entries=state.entries,
        put_identities=state.identities,
    )
    assert from_plain(digest_of(as_plain(change))) == state


def test_shapes_are_plain_data_under_the_names_of_the_native_face() -> None:
    """Source: `tunneld/_native.pyi`, which is what both sides agree on."""
    mac, mac_v6 = make_mac(bytes(6)), make_mac(bytes([1] * 6))
    change = EngineChange(
        settings=EngineSettings(
            source_check="strict",
            device_mtu_bytes=1430,
            icmp_source=IPv4Address("10.5.1.0"),
            icmp_source_v6=IPv6Address("fd00:10:5:1::"),
            vtep=Vtep(vni=7, gbp=True, mac=mac, mac_v6=mac_v6),
        ),
        put_adjacencies={
            "fd00:10:5:2::/64": Adjacency(
                encapsulation="vxlan",
                endpoint=ip_address("2001:db8::2"),
                port=8472,
                mtu_bytes=1430,
                of_peer={"vtep_mac": mac_v6},
            )
        },
        drop_adjacencies=("10.5.9.0/24",),
        put_entries={
            ip_network("10.5.1.0/24"): LOCAL,
            ip_network("fd00:10:5:2::/64"): "fd00:10:5:2::/64",
        },
        drop_entries=(ip_network("10.5.9.0/24"), ip_network("fd00:10:5:9::/64")),
    )
    assert as_plain(change) == {
        "settings": {
            "source_check": "strict",
            "device_mtu_bytes": 1430,
            "icmp_source": "10.5.1.0",
            "icmp_source_v6": "fd00:10:5:1::",
            "vtep": {
                "vni": 7,
                "gbp": True,
                "mac": "02:00:00:00:00:00",
                "mac_v6": "02:01:01:01:01:01",
            },
        },
        "put_adjacencies": [
            {
                "name": "fd00:10:5:2::/64",
                "encapsulation": "vxlan",
                "endpoint": "2001:db8::2",
                "port": 8472,
                "mtu_bytes": 1430,
                "of_peer": {"vtep_mac": "02:01:01:01:01:01"},
                "outer_df": "kernel",
            }
        ],
        "drop_adjacencies": ["10.5.9.0/24"],
        "put_entries": [
            {"prefix": "10.5.1.0/24", "target": "local"},
            {"prefix": "fd00:10:5:2::/64", "target": "fd00:10:5:2::/64"},
        ],
        "drop_entries": ["10.5.9.0/24", "fd00:10:5:9::/64"],
    }


def test_settings_that_stay_are_not_sent() -> None:
    assert "settings" not in as_plain(EngineChange())


def test_an_identity_that_goes_is_named_by_its_key() -> None:
    change = EngineChange(drop_identities=("K",))
    assert change
    assert as_plain(change)["drop_identities"] == ["K"]

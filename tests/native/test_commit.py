"""Changes through the boundary: what is refused names its item, what is taken is there."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.native.hosts import adjacency, network, over_ipv4, settings
from tunneld import _native
from tunneld.errors import EngineError


def make_engine(workers: int = 1) -> _native.Engine:
    """An engine that is never started: any sockets do."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        fds = [near.fileno()] * workers
        underlay = [over_ipv4(near)] * workers
        return _native.Engine(
            tun_fds=fds, underlay=underlay, icmp_fd=None, icmp6_fd=None, split=False
        )


@pytest.fixture
def engine() -> Iterator[_native.Engine]:
    made = make_engine()
    made.commit(network())
    yield made
    made.stop()


def put(**fields: object) -> dict[str, object]:
    return {"put_adjacencies": [adjacency("d", "192.0.2.1") | fields]}


BAD = [
    (put(endpoint="192.0.2"), "adjacency d: endpoint 192.0.2, expected an IP address"),
    (put(endpoint="::"), "adjacency d: endpoint ::, expected the address of one host"),
    (put(endpoint="ff02::1"), "adjacency d: endpoint ff02::1, expected the address"),
    (put(endpoint="0.0.0.0"), "adjacency d: endpoint 0.0.0.0, expected the address of one host"),
    (put(endpoint="224.0.0.1"), "adjacency d: endpoint 224.0.0.1, expected the address"),
    (put(port=0), "adjacency d: port 0, expected 1 to 65535"),
    (put(port=65536), "adjacency d: port 65536, expected 1 to 65535"),
    (put(port=-1), "adjacency d: port -1, expected 1 to 65535"),
    (put(mtu_bytes=67), "adjacency d: MTU 67, expected at least 68 bytes"),
    (put(mtu_bytes=65536), "adjacency d: mtu_bytes 65536, expected 68 to 65535 bytes"),
    (put(encapsulation="gre"), "adjacency d: encapsulation gre, expected raw, vxlan or esp"),
    (
        put(encapsulation="vxlan", of_peer={"vtep_mac": "02:00:00:00:00:02"}),
        "adjacency d: encapsulation vxlan, expected settings with a vtep",
    ),
    (
        put(encapsulation="vxlan", of_peer={"vtep_mac": "02:0"}),
        "adjacency d: vtep_mac 02:0, expected an address like",
    ),
    (put(encapsulation="vxlan"), "adjacency d: vtep_mac None, expected an address like"),
    (put(of_peer={"vtep_mac": "x"}), "adjacency d: vtep_mac x, expected no such parameter"),
    (put(name="local"), 'its name must be neither empty nor "local"'),
    ({"put_entries": [{"prefix": "10.5.9.1/24", "target": "b"}]}, "10.5.9.1/24: it has host bits"),
    ({"put_entries": [{"prefix": "10.5.9.0/33", "target": "b"}]}, "10.5.9.0/33: its length"),
    ({"put_entries": [{"prefix": "10.5.9.0", "target": "b"}]}, "10.5.9.0: neither of the form"),
    ({"put_entries": [{"prefix": "10.5.9.0/24", "target": "x"}]}, 'no adjacency is named "x"'),
    ({"put_entries": [{"prefix": "10.5.9.0/24"}]}, '"target" is missing'),
    ({"drop_entries": ["x"]}, "entry x: neither of the form"),
    ({"drop_adjacencies": ["b"]}, "adjacency b: still in use, entries that lead to it: 1;"),
    ({"settings": settings() | {"source_check": "lax"}}, "source_check lax, expected strict"),
    ({"settings": settings() | {"icmp_source": "x"}}, "settings: icmp_source x, expected an IPv4"),
    ({"settings": settings() | {"device_mtu_bytes": 0}}, "settings: MTU 0, expected at least 68"),
    ({"put_adjacency": []}, 'unknown key "put_adjacency"'),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_item_is_named_and_nothing_of_the_change_stays(
    engine: _native.Engine, change: dict[str, Any], message: str
) -> None:
    before = engine.digest()
    good = {"prefix": "10.5.8.0/24", "target": "c"}
    change = change | {"put_entries": [good, *change.get("put_entries", [])]}
    with pytest.raises(EngineError) as caught:
        engine.commit(cast("_native.Change", change))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert engine.digest() == before


def test_a_value_of_the_wrong_type_is_a_type_error(engine: _native.Engine) -> None:
    before = engine.digest()
    with pytest.raises(TypeError):
        engine.commit(cast("_native.Change", {"put_entries": "10.5.9.0/24"}))
    with pytest.raises(TypeError):
        engine.commit(cast("_native.Change", put(port="8285")))
    assert engine.digest() == before


def test_generations_count_up_by_one(engine: _native.Engine) -> None:
    assert engine.commit({}) == 2
    assert engine.commit({"drop_entries": ["10.9.9.0/24"]}) == 3
    assert engine.digest()["generation"] == 3


def test_a_new_engine_holds_nothing() -> None:
    engine = make_engine()
    assert engine.digest() == {
        "generation": 0,
        "settings": None,
        "adjacencies": [],
        "entries": [],
        "identities": [],
    }
    counters = engine.counters()
    assert counters["adjacencies"] == {}
    assert set(counters["drops"].values()) == {0}
    engine.stop()


addresses = st.integers(min_value=1 << 24, max_value=(224 << 24) - 1).map(
    lambda number: str(IPv4Address(number))
)
names = st.text("abcdef./0123456789", min_size=1, max_size=12).filter(lambda name: name != "local")
adjacencies = st.builds(adjacency, names, addresses, st.integers(68, 65535), st.integers(1, 65535))
prefixes = st.builds(
    lambda number, length: IPv4Network((number >> (32 - length) << (32 - length), length)),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, 32),
)


@given(
    st.lists(adjacencies, max_size=20, unique_by=lambda item: item["name"]),
    st.lists(prefixes, max_size=20, unique=True),
    st.data(),
)
def test_digest_gives_back_what_was_committed(
    items: list[_native.Adjacency], blocks: list[IPv4Network], data: st.DataObject
) -> None:
    targets = st.sampled_from(["local", *(item["name"] for item in items)])
    entries: list[_native.Entry] = [
        {"prefix": str(block), "target": data.draw(targets)} for block in blocks
    ]
    engine = make_engine()
    engine.commit({"settings": settings(), "put_adjacencies": items, "put_entries": entries})
    assert engine.digest() == {
        "generation": 1,
        "settings": settings(),
        "adjacencies": sorted(items, key=lambda item: item["name"].encode()),
        "entries": sorted(entries, key=lambda entry: IPv4Network(entry["prefix"])),
        "identities": [],
    }
    engine.commit(
        {
            "drop_adjacencies": [item["name"] for item in items],
            "drop_entries": [str(block) for block in blocks],
        }
    )
    assert engine.digest()["adjacencies"] == []
    assert engine.digest()["entries"] == []
    engine.stop()


def test_a_hundred_thousand_subnets_are_taken_in_one_change() -> None:
    engine = make_engine()
    subnets = [str(subnet) for subnet in IPv4Network("10.0.0.0/8").subnets(new_prefix=24)]
    subnets += [str(subnet) for subnet in IPv4Network("11.0.0.0/8").subnets(new_prefix=24)]
    engine.commit(
        {
            "put_adjacencies": [adjacency(subnet, "192.0.2.1") for subnet in subnets[:100_000]],
            "put_entries": [{"prefix": subnet, "target": subnet} for subnet in subnets[:100_000]],
        }
    )
    assert len(engine.digest()["entries"]) == 100_000
    engine.stop()

"""What an engine holds is known from the last change, and read where that is not sure."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address

import pytest

from tunneld import _native, engine
from tunneld.backend.base import Adjacency
from tunneld.engine import Engine, UnderlaySockets, from_plain
from tunneld.errors import EngineError
from tunneld.fib.state import LOCAL, EngineChange, EngineSettings, EngineState, HostState, State
from tunneld.lease.model import IPNetwork

SETTINGS = EngineSettings(
    source_check="strict", device_mtu_bytes=1430, icmp_source=IPv4Address("10.5.1.0")
)
OWN: IPNetwork = IPv4Network("10.5.1.0/24")


def held(*numbers: int) -> EngineState:
    """What an engine must hold that reaches these peers."""
    prefixes: list[IPNetwork] = [IPv4Network(f"10.5.{number}.0/24") for number in numbers]
    return EngineState(
        settings=SETTINGS,
        adjacencies={
            str(prefix): Adjacency(
                encapsulation="raw",
                endpoint=ip_address(f"192.0.2.{number}"),
                port=8285,
                mtu_bytes=1430,
            )
            for prefix, number in zip(prefixes, numbers, strict=True)
        },
        entries={OWN: LOCAL, **{prefix: str(prefix) for prefix in prefixes}},
    )


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows by one whenever a digest is parsed."""
    found: list[None] = []

    def counted(digest: _native.Digest) -> EngineState:
        found.append(None)
        return from_plain(digest)

    monkeypatch.setattr(engine, "from_plain", counted)
    return found


@pytest.fixture
def made() -> Iterator[Engine]:
    """An engine that is never started: any sockets do."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        underlay = [UnderlaySockets(ipv4=[near.fileno()])]
        made = Engine(tun_fds=[near.fileno()], underlay=underlay, icmp_fd=None, split=False)
    yield made
    made.stop()


async def bring(made: Engine, wanted: EngineState) -> None:
    state = State(engine=wanted, host=HostState())
    await made.apply(made.difference(state, await made.observe()))


def test_changes_are_known_as_the_engine_tells_them_and_read_once(
    made: Engine, reads: list[None]
) -> None:
    for wanted in (held(2, 3), held(3), replace(held(3, 4), settings=replace(SETTINGS, vtep=None))):
        asyncio.run(bring(made, wanted))
        assert asyncio.run(made.observe()) == wanted
        assert from_plain(made._native.digest()) == wanted
    assert len(reads) == 1


def test_after_a_refusal_it_is_read_again(made: Engine, reads: list[None]) -> None:
    asyncio.run(bring(made, held(2)))
    with pytest.raises(EngineError):
        asyncio.run(made.apply(EngineChange(drop_adjacencies=("10.5.2.0/24",))))
    assert asyncio.run(made.observe()) == held(2)
    assert len(reads) == 2


def test_what_somebody_else_has_written_is_read(made: Engine) -> None:
    asyncio.run(bring(made, held(2)))
    made._native.commit(
        {
            "put_adjacencies": [],
            "drop_adjacencies": [],
            "put_entries": [],
            "drop_entries": ["10.5.2.0/24"],
        }
    )
    assert asyncio.run(made.observe()).entries == {OWN: LOCAL}

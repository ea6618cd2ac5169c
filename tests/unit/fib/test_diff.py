"""Desired minus actual, and nothing else."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from tunneld.backend.base import Adjacency
from tunneld.fib.compose import compose
from tunneld.fib.diff import difference
from tunneld.fib.state import EngineState, HostState, State

NETWORK = IPv4Network("10.0.0.0/8")

adjacencies = st.builds(
    Adjacency,
    encapsulation=st.just("raw"),
    endpoint=st.integers(1, 5).map(lambda n: IPv4Address(f"192.0.2.{n}")),
    port=st.just(8285),
    mtu_bytes=st.sampled_from([1472, 1372]),
)
states = st.builds(
    lambda own, peers, masq: compose(
        network=NETWORK,
        subnet=own,
        adjacencies={prefix: peer for prefix, peer in peers.items() if prefix != own},
        device_mtu_bytes=1472,
        source_check="strict",
        ip_masq=masq,
    ),
    own=st.integers(0, 3).map(lambda n: IPv4Network(f"10.1.{n}.0/24")),
    peers=st.dictionaries(
        st.integers(0, 9).map(lambda n: IPv4Network(f"10.1.{n}.0/24")), adjacencies
    ),
    masq=st.booleans(),
)
EMPTY = State(engine=EngineState(), host=HostState())


def _apply(state: State, desired: State) -> State:
    change = difference(desired, state)
    engine, host = change.engine, change.host
    entries = {
        prefix: target
        for prefix, target in state.engine.entries.items()
        if prefix not in engine.drop_entries
    }
    kept = {
        name: adjacency
        for name, adjacency in state.engine.adjacencies.items()
        if name not in engine.drop_adjacencies
    }
    return State(
        engine=EngineState(
            settings=engine.settings or state.engine.settings,
            adjacencies={**kept, **engine.put_adjacencies},
            entries={**entries, **engine.put_entries},
        ),
        host=HostState(
            device=host.device or state.host.device,
            routes=(state.host.routes - host.drop_routes) | host.put_routes,
            firewall=host.firewall or state.host.firewall,
            subnet_env=host.subnet_env or state.host.subnet_env,
        ),
    )


@given(st.lists(states, min_size=1))
def test_applying_differences_leads_to_each_desired_state(path: list[State]) -> None:
    actual = EMPTY
    for desired in path:
        actual = _apply(actual, desired)
        assert actual == desired


@given(states)
def test_nothing_is_done_when_all_is_as_desired(state: State) -> None:
    change = difference(state, state)
    assert not change.engine
    assert not change.host


@given(states)
def test_what_somebody_removed_is_put_back(state: State) -> None:
    damaged = replace(state, host=replace(state.host, routes=frozenset(), firewall=None))
    change = difference(state, damaged)
    assert change.host.put_routes == state.host.routes
    assert change.host.firewall == state.host.firewall
    assert not change.engine

"""Desired minus actual, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.unit.fib.values import (
    IPV6,
    NETWORK,
    OWN,
    PEER,
    Reaches,
    device,
    gateway,
    kernel,
    kernel_overlay,
    overlay,
    peer_mac,
    raw,
    vxlan,
)
from tunneld.backend.base import Reach
from tunneld.fib.compose import Overlay, Rules, compose
from tunneld.fib.diff import engine_after, engine_difference, host_difference, routes_after
from tunneld.fib.state import (
    EngineState,
    FdbEntry,
    HostState,
    IdentityEndpoint,
    Neighbour,
    OverlayNet,
    State,
)
from tunneld.lease.model import IPNetwork

# Few of each, so that what a path of states breaks shrinks to something readable within seconds.
NUMBERS = st.integers(2, 4)
MAX_PEERS = 3
MAX_STATES = 3

prefixes: st.SearchStrategy[IPNetwork] = st.one_of(
    NUMBERS.map(lambda number: IPv4Network(f"10.5.{number}.0/24")),
    NUMBERS.map(lambda number: IPv6Network(f"fd00:10:5:{number}::/64")),
)


def _endpoint(prefix: IPNetwork, number: int) -> str:
    return f"192.0.2.{number}" if prefix.version == 4 else f"2001:db8::{number}"


@st.composite
def _engine_reaches(draw: st.DrawFn) -> dict[IPNetwork, Reach]:
    found: dict[IPNetwork, Reach] = {}
    for prefix in draw(st.sets(prefixes, max_size=MAX_PEERS)):
        endpoint = _endpoint(prefix, draw(NUMBERS))
        found[prefix] = draw(
            st.sampled_from(
                [
                    raw(endpoint),
                    raw(endpoint, 1372),
                    vxlan(endpoint),
                    vxlan(endpoint, gateway=endpoint),
                ]
            )
        )
    return found


@st.composite
def _kernel_reaches(draw: st.DrawFn) -> dict[IPNetwork, Reach]:
    found: dict[IPNetwork, Reach] = {}
    for prefix in draw(st.sets(prefixes, max_size=MAX_PEERS)):
        number = draw(NUMBERS)
        endpoint = _endpoint(prefix, number)
        # One host for one address: what `fib.plan` sees to.
        through = kernel(prefix, endpoint, peer_mac(number))
        found[prefix] = draw(st.sampled_from([through, gateway(endpoint)]))
    return found


overlays: st.SearchStrategy[Overlay] = st.sampled_from(
    [
        overlay(),
        overlay(ipv4=OverlayNet(network=NETWORK, subnet=PEER)),
        overlay(ipv6=IPV6, mtu_bytes=1430),
        overlay(ipv4=None, ipv6=IPV6),
    ]
)
kernel_overlays: st.SearchStrategy[Overlay] = st.sampled_from(
    [
        kernel_overlay(),
        kernel_overlay(ipv4=OverlayNet(network=NETWORK, subnet=PEER)),
        replace(kernel_overlay(), vxlan_devices=(device("flannel.1", OWN, "192.0.2.9"),)),
    ]
)
rules = st.booleans().map(lambda masq: Rules(ip_masq=masq))


identities = st.dictionaries(
    st.sampled_from("ABC"),
    st.builds(
        IdentityEndpoint,
        endpoint=st.none() | st.ip_addresses(v=4),
        port=st.integers(1, 2),
        instance=st.sampled_from([None, "00112233445566aa"]),
    ),
)


def _composed(
    overlay: Overlay,
    reaches: Reaches,
    rules: Rules,
    identities: dict[str, IdentityEndpoint] | None = None,
) -> State:
    own = {net.subnet for net in overlay}
    peers = {prefix: reach for prefix, reach in reaches.items() if prefix not in own}
    return compose(overlay, peers, rules, identities=identities)


states = st.one_of(
    st.builds(_composed, overlays, _engine_reaches(), rules, identities),
    st.builds(_composed, kernel_overlays, _kernel_reaches(), rules),
)
EMPTY = State(engine=EngineState(), host=HostState())


def _changed(state: State, desired: State) -> State:
    """Carries the change out as engine and kernel do: what is put replaces what is in its place."""
    engine = engine_difference(desired.engine, state.engine)
    host = host_difference(desired.host, state.host)
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
    known = {
        key: identity
        for key, identity in state.engine.identities.items()
        if key not in engine.drop_identities
    }
    devices = {it.name: it for it in state.host.vxlan_devices}
    devices |= {it.name: it for it in host.put_vxlan_devices}
    for dropped_device in host.drop_vxlan_devices:
        del devices[dropped_device.name]
    neighbours = {(it.device, it.address): it for it in state.host.neighbours}
    neighbours |= {(it.device, it.address): it for it in host.put_neighbours}
    for dropped_neighbour in host.drop_neighbours:
        del neighbours[dropped_neighbour.device, dropped_neighbour.address]
    fdb = {(it.device, it.mac): it for it in state.host.fdb}
    fdb |= {(it.device, it.mac): it for it in host.put_fdb}
    for dropped_entry in host.drop_fdb:
        del fdb[dropped_entry.device, dropped_entry.mac]
    routes = {(it.destination, it.metric): it for it in state.host.routes}
    routes |= {(it.destination, it.metric): it for it in host.put_routes}
    for dropped_route in host.drop_routes:
        del routes[dropped_route.destination, dropped_route.metric]
    return State(
        engine=EngineState(
            settings=engine.settings or state.engine.settings,
            adjacencies={**kept, **engine.put_adjacencies},
            entries={**entries, **engine.put_entries},
            identities={**known, **engine.put_identities},
        ),
        host=HostState(
            device=host.device or state.host.device,
            vxlan_devices=frozenset(devices.values()),
            neighbours=frozenset(neighbours.values()),
            fdb=frozenset(fdb.values()),
            routes=frozenset(routes.values()),
            firewall=host.firewall or state.host.firewall,
            subnet_env=host.subnet_env or state.host.subnet_env,
        ),
    )


def _whole(state: State, before: State) -> State:
    """What no change takes away: the engine's settings and the TUN device end with the process."""
    return replace(
        state,
        engine=replace(state.engine, settings=state.engine.settings or before.engine.settings),
        host=replace(state.host, device=state.host.device or before.host.device),
    )


@settings(phases=set(Phase) - {Phase.explain})
@given(st.lists(states, min_size=1, max_size=MAX_STATES))
def test_applying_differences_leads_to_each_desired_state(path: list[State]) -> None:
    actual = EMPTY
    for desired in path:
        before, actual = actual, _changed(actual, desired)
        assert actual == _whole(desired, before)


@given(states, states)
def test_what_is_there_after_a_change_is_known_without_a_look(
    before: State, desired: State
) -> None:
    there = _changed(before, desired)
    change = engine_difference(desired.engine, before.engine)
    assert engine_after(before.engine, change) == there.engine
    routes = host_difference(desired.host, before.host)
    assert routes_after(before.host.routes, routes) == there.host.routes


@given(states)
def test_nothing_is_done_when_all_is_as_desired(state: State) -> None:
    assert not engine_difference(state.engine, state.engine)
    assert not host_difference(state.host, state.host)


@given(states)
def test_what_somebody_removed_is_put_back(state: State) -> None:
    damaged = replace(
        state.host,
        routes=frozenset(),
        neighbours=frozenset(),
        fdb=frozenset(),
        vxlan_devices=frozenset(),
        firewall=None,
    )
    change = host_difference(state.host, damaged)
    assert change.put_routes == state.host.routes
    assert change.put_neighbours == state.host.neighbours
    assert change.put_fdb == state.host.fdb
    assert change.put_vxlan_devices == state.host.vxlan_devices
    assert change.firewall == state.host.firewall


def test_what_is_replaced_is_not_removed_as_well() -> None:
    """Removed by its place in the kernel, the new one would go."""
    prefix = IPv4Network("10.5.2.0/24")
    before = compose(kernel_overlay(), {prefix: kernel(prefix)}, Rules(ip_masq=True))
    moved = replace(kernel_overlay(), vxlan_devices=(device("flannel.1", OWN, "192.0.2.9"),))
    reaches: Reaches = {prefix: kernel(prefix, "192.0.2.7")}
    change = host_difference(compose(moved, reaches, Rules(ip_masq=True)).host, before.host)
    assert {it.local.compressed for it in change.put_vxlan_devices} == {"192.0.2.9"}
    assert {it.name for it in change.drop_vxlan_devices} == {"flannel-v6.1"}
    assert {it.endpoint.compressed for it in change.put_fdb} == {"192.0.2.7"}
    assert change.drop_fdb == frozenset()


def test_neighbour_of_another_mac_and_route_of_another_kind_are_replaced_and_not_removed() -> None:
    new, near = IPv4Network("10.5.2.0/24"), IPv4Network("10.5.3.0/24")
    there: Reaches = {
        new: kernel(new, "192.0.2.2", peer_mac(2)),
        near: kernel(near, "192.0.2.3", peer_mac(3)),
    }
    wanted: Reaches = {new: kernel(new, "192.0.2.2", peer_mac(7)), near: gateway("192.0.2.3")}
    change = host_difference(
        compose(kernel_overlay(), wanted, Rules(ip_masq=True)).host,
        compose(kernel_overlay(), there, Rules(ip_masq=True)).host,
    )
    assert {(it.address, it.mac) for it in change.put_neighbours} == {
        (new.network_address, peer_mac(7))
    }
    assert {it.address for it in change.drop_neighbours} == {near.network_address}
    assert {it.mac for it in change.drop_fdb} == {peer_mac(2), peer_mac(3)}
    assert {(it.destination, it.kind) for it in change.put_routes} == {(near, "gateway")}
    assert change.drop_routes == frozenset()


def test_own_subnet_that_was_a_peers_has_no_way_to_it_any_more() -> None:
    there: Reaches = {OWN: kernel(OWN)}
    elsewhere = kernel_overlay(ipv4=OverlayNet(network=NETWORK, subnet=PEER))
    before = compose(elsewhere, there, Rules(ip_masq=True))
    change = host_difference(compose(kernel_overlay(), {}, Rules(ip_masq=True)).host, before.host)
    assert [route.kind for route in change.put_routes] == ["unreachable"]
    assert {(route.kind, route.destination) for route in change.drop_routes} == {
        ("unreachable", PEER),
        ("onlink", OWN),
    }


def test_peer_that_leaves_takes_its_entries_along() -> None:
    prefix = IPv4Network("10.5.2.0/24")
    before = compose(kernel_overlay(), {prefix: kernel(prefix)}, Rules(ip_masq=True))
    change = host_difference(compose(kernel_overlay(), {}, Rules(ip_masq=True)).host, before.host)
    path = kernel(prefix).kernel
    assert path is not None
    assert change.drop_neighbours == {
        Neighbour(device="flannel.1", address=path.next_hop, mac=path.mac)
    }
    assert change.drop_fdb == {FdbEntry(device="flannel.1", mac=path.mac, endpoint=path.endpoint)}
    assert {route.destination for route in change.drop_routes} == {prefix}

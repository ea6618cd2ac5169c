"""What must be follows from what is known, and from nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.backend.values import HERE, OWN, network
from tests.unit.daemon.node import A_V6, B_V6, A, B, lease
from tests.unit.trust.values import key
from tunneld.backend import parse_backend
from tunneld.backend.base import Adjacency
from tunneld.backend.esp import esp_in
from tunneld.fib.compose import Rules
from tunneld.fib.plan import Inputs, PathMtu, Plan, members_of, plan
from tunneld.fib.state import IdentityEndpoint, Route
from tunneld.lease.model import IPNetwork, Lease, NodeRecord, RecordEncryption
from tunneld.trust.policy import Verdict

Kind = tuple[str, Literal["userspace", "kernel"]]

KINDS: list[Kind] = [
    ("udp", "userspace"),
    ("vxlan", "userspace"),
    ("vxlan", "kernel"),
    ("host-gw", "kernel"),
]
kinds = st.sampled_from(KINDS)


def planned(
    kind: Kind, leases: list[Lease], records: Iterable[NodeRecord] = (), **known: Any
) -> Plan:
    """The plan of a host of a dual-stack network that holds `OWN`."""
    backend_type, datapath = kind
    config = network(backend_type, "dual")
    backend = parse_backend(config, datapath)
    own = Lease(key=OWN, attributes=backend.attributes(HERE), grant_id=1)
    addresses = [
        address
        for one in leases
        for address in (one.attributes.public_ip, one.attributes.public_ipv6)
    ]
    given: dict[str, Any] = {
        "on_link": {address: True for address in addresses if address is not None},
        "config": config,
        "backend": backend,
        "rules": Rules(ip_masq=True, ports=() if backend.port is None else (backend.port,)),
        "source_check": backend.source_check,
    }
    members = members_of(config, own, leases, records)
    return plan(Inputs(here=HERE, own=OWN, members=members, **given | known))


@st.composite
def tables(draw: st.DrawFn) -> tuple[Kind, list[Lease]]:
    """Good leases of a few hosts, some of one age, some that publish the MAC of another."""
    kind = draw(kinds)
    leases = []
    for number in draw(st.lists(st.integers(2, 9), unique=True, max_size=5)):
        backend_type = "" if kind[0] == "udp" else kind[0]
        one = lease(number, create=draw(st.integers(1, 3)), backend_type=backend_type)
        if kind[0] == "vxlan" and draw(st.booleans()):
            data = {"VNI": 1, "VtepMAC": "0e:00:00:00:04:02"}
            one = replace(one, attributes=replace(one.attributes, backend_data=data))
        leases.append(one)
    return kind, leases


@given(tables(), st.randoms(use_true_random=False))
def test_leases_in_any_order_give_the_same_plan(table: tuple[Kind, list[Lease]], rng: Any) -> None:
    kind, leases = table
    shuffled = list(leases)
    rng.shuffle(shuffled)
    one, other = planned(kind, leases), planned(kind, shuffled)
    assert one == other
    assert list(one.reached) == list(other.reached)


BAD: list[dict[str, Any]] = [
    {"backend_type": "alloc"},
    {"backend_type": "vxlan", "backend_data": None, "backend_v6_data": "x"},
    {"public_ip": IPv4Address("255.255.255.255"), "public_ipv6": ip_address("ff02::1")},
    {"public_ip": HERE.public_ip, "public_ipv6": HERE.public_ipv6},
]


@given(tables(), st.sampled_from(BAD), st.integers(1, 20))
def test_bad_lease_costs_itself_alone(
    table: tuple[Kind, list[Lease]], bad: dict[str, Any], create: int
) -> None:
    kind, leases = table
    if kind[0] == "udp" and "public_ip" not in bad:
        # udp takes a lease of any backend, as flannel's does.
        bad = BAD[2]
    worst = lease(13, create=create, **{"backend_type": kind[0]} | bad)
    if kind[0] != "vxlan" and "backend_data" in bad:
        worst = replace(worst, attributes=replace(worst.attributes, backend_type="vxlan"))
    without, beside = planned(kind, leases), planned(kind, [worst, *leases])
    assert beside.reached == without.reached
    assert beside.state.engine == without.state.engine
    assert beside.state.host.routes == without.state.host.routes
    assert beside.state.host.fdb == without.state.host.fdb
    assert {one.name for one in set(beside.refused) - set(without.refused)} == {str(worst.key)}


def test_who_is_not_known_to_be_on_the_link_is_named_and_no_fault() -> None:
    leases = [lease(2, backend_type="host-gw"), lease(3, backend_type="host-gw")]
    near = {ip_address("10.99.0.12"): True, ip_address("fd99::12"): False}
    made = planned(("host-gw", "kernel"), leases, on_link=near)
    assert set(made.reached) == {A}
    assert made.unknown == {ip_address("10.99.0.13"), ip_address("fd99::13")}
    assert [one.reason for one in made.refused] == ["not_on_link"]


def test_path_that_carries_less_lowers_the_reach_and_not_what_the_link_allows() -> None:
    known = {(ip_address("10.99.0.12"), 8472): PathMtu(mtu_bytes=1250, outer_df="probed")}
    made = planned(("vxlan", "userspace"), [lease(2)], path_mtus=known)
    adjacency = made.reached[A][1].adjacency
    assert adjacency is not None
    assert (adjacency.mtu_bytes, adjacency.outer_df) == (1250, "probed")
    assert made.state.engine.adjacencies[str(A)] == adjacency
    assert {made.adjacencies[prefix].mtu_bytes for prefix in (A, A_V6)} == {1430}


VERDICTS = {
    "plain": Verdict(way="plain", reason="no_keys", detail="it has no keys"),
    "encrypted": Verdict(way="encrypted", reason="keys", detail="not confirmed", key=key(2)),
    "unreachable": Verdict(way="unreachable", reason="had_keys", detail="it had keys"),
}


@given(kinds, st.dictionaries(st.sampled_from([A, A_V6, B, B_V6]), st.sampled_from([*VERDICTS])))
def test_only_whom_policy_allows_in_plain_is_reached_and_the_others_are_named(
    kind: Kind, ways: dict[IPNetwork, str]
) -> None:
    backend_type = "" if kind[0] == "udp" else kind[0]
    leases = [lease(number, backend_type=backend_type) for number in (2, 3)]
    # Whatever else is missing to encrypt: nothing goes in plain for that.
    made = planned(kind, leases, verdicts={prefix: VERDICTS[way] for prefix, way in ways.items()})
    plain = {prefix for prefix in (A, A_V6, B, B_V6) if ways.get(prefix, "plain") == "plain"}
    assert made.reached.keys() == plain
    assert {route.destination for route in made.state.host.routes} & {A, A_V6, B, B_V6} <= plain
    assert made.state.engine.entries.keys() & {A, A_V6, B, B_V6} <= plain
    refused = {(one.name, one.reason) for one in made.refused}
    for of, own in ((leases[0].key, (A, A_V6)), (leases[1].key, (B, B_V6))):
        for way, verdict in VERDICTS.items():
            is_told = way != "plain" and any(ways.get(prefix) == way for prefix in own)
            assert ((str(of), verdict.reason) in refused) is is_told


SWITCHING = Verdict(way="plain", reason="switching", detail="", key=key(3), until_s=10.0)
CONFIRMED = Verdict(way="encrypted", reason="keys", detail="", key=key(2), is_confirmed=True)
FOREIGN = Verdict(way="unreachable", reason="claim", detail="claims more", key=key(3))


def keyed(number: int, of: int, port: int = 8286) -> NodeRecord:
    """What a host says of itself beside its lease."""
    said = lease(number)
    return NodeRecord(
        node_id=f"n{number}",
        key=said.key,
        public_ip=said.attributes.public_ip,
        public_ipv6=said.attributes.public_ipv6,
        version="1",
        encryption=RecordEncryption(key=str(key(of)), port=port, instance="00112233445566aa"),
    )


def encrypted(
    ways: Mapping[Any, Verdict],
    *records: NodeRecord,
    kind: Kind = ("udp", "userspace"),
    **known: Any,
) -> Plan:
    """The plan of a host whose network prefers encryption; peers 2 and 3 hold leases."""
    leases = [lease(number, backend_type="" if kind[0] == "udp" else kind[0]) for number in (2, 3)]
    return planned(
        kind,
        leases,
        records=records,
        verdicts={**dict.fromkeys((A, A_V6, B, B_V6), VERDICTS["plain"]), **ways},
        esp=esp_in(network(kind[0], "dual"), is_alone=False),
        **known,
    )


def test_peer_with_keys_is_reached_by_esp_at_the_port_of_its_record() -> None:
    made = encrypted({A: CONFIRMED, A_V6: CONFIRMED}, keyed(2, of=2, port=8299))
    for prefix in (A, A_V6):
        assert made.state.engine.adjacencies[str(prefix)] == Adjacency(
            encapsulation="esp",
            endpoint=ip_address("10.99.0.12"),
            port=8299,
            mtu_bytes=1438,
            of_peer={"key": str(key(2)), "subnet": str(prefix)},
        )
        # The device keeps what plain peers send: 1500 - 40 - 8.
        route = Route(destination=prefix, kind="overlay", mtu_bytes=1438)
        assert route in made.state.host.routes
    assert made.state.engine.adjacencies[str(B)].encapsulation == "raw"
    assert made.state.engine.identities == {
        str(key(2)): IdentityEndpoint(
            endpoint=ip_address("10.99.0.12"), port=8299, instance="00112233445566aa"
        )
    }
    assert made.state.host.subnet_env is not None
    assert made.state.host.device is not None
    assert (made.state.host.subnet_env.mtu_bytes, made.state.host.device.mtu_bytes) == (1438, 1452)
    assert made.state.engine.settings is not None
    assert made.state.engine.settings.device_mtu_bytes == 1452


def test_whoever_was_not_judged_is_not_reached_while_there_is_encryption() -> None:
    esp = esp_in(network("udp", "dual"), is_alone=False)
    made = planned(("udp", "userspace"), [lease(2, backend_type="")], esp=esp)
    assert (made.reached, [one.reason for one in made.refused]) == ({}, ["required"])


def test_handshakes_are_made_with_whoever_may_hold_its_subnet_and_nobody_else() -> None:
    ways = {A: VERDICTS["unreachable"], B: SWITCHING}
    made = encrypted(ways, keyed(2, of=2), keyed(3, of=3))
    assert made.state.engine.identities.keys() == {str(key(3))}
    switching = made.state.engine.adjacencies[str(B)]
    # It may be the first of the two to go over.
    assert (switching.encapsulation, switching.of_peer) == ("raw", {"also_key": str(key(3))})
    late = encrypted({A: replace(CONFIRMED, until_s=9.0)}, keyed(2, of=2))
    gone_over = late.state.engine.adjacencies[str(A)]
    assert (gone_over.encapsulation, gone_over.of_peer["also"]) == ("esp", "plain")
    # One that claims another subnet is not reached, and may claim this one next.
    made = encrypted({B: FOREIGN}, keyed(3, of=3))
    assert made.state.engine.identities.keys() == {str(key(3))}
    # Nothing plain speaks for it meanwhile, and nothing goes to it.
    blocked = made.state.engine.adjacencies[str(B)]
    assert (blocked.encapsulation, blocked.of_peer["key"]) == ("esp", "A" * 43 + "=")
    assert B not in made.reached
    assert (str(lease(3).key), "claim") in {(one.name, one.reason) for one in made.refused}


def test_of_two_leases_that_name_one_key_the_claimed_one_says_where_it_is() -> None:
    unproved = replace(CONFIRMED, is_confirmed=False)
    for ways, address in (
        ({A: unproved, B: unproved}, "10.99.0.12"),
        ({A: unproved, B: CONFIRMED}, "10.99.0.13"),
    ):
        made = encrypted(ways, keyed(2, of=2), keyed(3, of=2))
        (found,) = made.state.engine.identities.values()
        assert found.endpoint == ip_address(address)


def test_direct_routes_lead_to_no_peer_with_keys() -> None:
    config = network("vxlan", "dual", DirectRouting=True)
    backend = parse_backend(config, "userspace")
    near = dict.fromkeys(
        map(ip_address, ("10.99.0.12", "fd99::12", "10.99.0.13", "fd99::13")), True
    )
    made = encrypted(
        {A: CONFIRMED, A_V6: CONFIRMED, B: SWITCHING},
        keyed(2, of=2),
        keyed(3, of=3),
        kind=("vxlan", "userspace"),
        config=config,
        backend=backend,
        on_link=near,
    )
    direct = {route.destination for route in made.state.host.routes if route.kind == "gateway"}
    assert direct == {B_V6}
    # Nor does it matter whether somebody knows where they are.
    made = encrypted(
        {A: CONFIRMED, A_V6: CONFIRMED},
        keyed(2, of=2),
        kind=("vxlan", "userspace"),
        config=config,
        backend=backend,
        on_link={},
    )
    assert made.reached.keys() == {A, A_V6}


@pytest.mark.parametrize("reason", ["backend_type_mismatch", "outside_network"])
def test_each_refusal_names_the_write_it_is_about(reason: str) -> None:
    bad = lease(2, mod=77, backend_type="host-gw" if reason != "outside_network" else "vxlan")
    if reason == "outside_network":
        bad = replace(bad, key=replace(bad.key, ipv4=type(A)("10.9.0.0/24"), ipv6=None))
    (refused,) = planned(("vxlan", "userspace"), [bad]).refused
    assert (refused.name, refused.reason, refused.mod_revision) == (str(bad.key), reason, 77)

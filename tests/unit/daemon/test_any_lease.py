"""Leases that anybody could have written, from their bytes to what this host must hold."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.backend.values import network
from tests.unit.daemon.node import Node, lease, targets, to_peers
from tunneld.errors import SubnetExhaustedError
from tunneld.lease.allocation import candidates
from tunneld.lease.kinship import MACHINE, Identity
from tunneld.lease.model import Lease, LeasePut, NodeRecord, RecordPut
from tunneld.store.layout import Change, Entry, Layout

LAYOUT = Layout("/n")
GOOD = lease(3)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=30),
    st.sampled_from(["0e:00:00:00:04:02", "\ud800", "10.99.0.12", "fd99::12", "vxlan", "host-gw"]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
backend_data = st.dictionaries(st.sampled_from(["VNI", "vni", "VtepMAC", "X"]), anything) | anything
members = st.fixed_dictionaries(
    {},
    optional={
        "PublicIP": st.sampled_from(["10.99.0.12", "0.0.0.0", "255.255.255.255", "10.5.9.9"]),
        "PublicIPv6": st.sampled_from([None, "fd99::12", "::", "ff02::1", "fd00:10:5:9::9"]),
        "BackendType": st.sampled_from(["vxlan", "udp", "", "\ud800"]),
        "BackendData": backend_data,
        "BackendV6Data": backend_data,
        "Y": anything,
    },
)
names = st.sampled_from(
    [
        *("10.5.2.0-24", "10.5.2.0-24&fd00:10:5:2::-64", "10.5.0.0-16", "10.5.3.0-25"),
        *("0.0.0.0-0&fd00:10:5:2::-64", "10.5.3.0-24&fd00:10:5:3::-64", "128.0.0.0-1"),
    ]
)


records = st.fixed_dictionaries(
    {"Format": st.just(1), "Subnet": names, "PublicIP": st.just("10.99.0.12")},
    optional={MACHINE: anything, "Version": st.text(max_size=9), "Y": anything},
)


def read_record(value: bytes) -> tuple[NodeRecord, ...]:
    entry = Entry(
        name="/n/tunneld/nodes/new", value=value, grant_id=9, create_revision=50, mod_revision=60
    )
    events = LAYOUT.batch([Change(name=entry.name, entry=entry, revision=60)], 60).events
    return tuple(event.record for event in events if isinstance(event, RecordPut))


def read(name: str, value: bytes) -> tuple[Lease, ...]:
    entry = Entry(
        name=f"/n/subnets/{name}", value=value, grant_id=9, create_revision=50, mod_revision=60
    )
    events = LAYOUT.batch([Change(name=entry.name, entry=entry, revision=60)], 60).events
    return tuple(event.lease for event in events if isinstance(event, LeasePut))


@pytest.mark.parametrize("backend_type", ["udp", "vxlan", "host-gw"])
@settings(max_examples=60)
@given(st.lists(st.tuples(names, members), max_size=4, unique_by=lambda pair: pair[0]), records)
def test_whatever_others_wrote_a_good_lease_is_reached_and_a_newcomer_can_look(
    backend_type: str,
    written: list[tuple[str, dict[str, Any]]],
    record: dict[str, Any],
) -> None:
    host = Node(backend_type)
    good = lease(3, create=1, backend_type="" if backend_type == "udp" else backend_type)
    strange = [
        found
        for name, value in written
        for found in read(name, json.dumps(value).encode())
        if found.key != good.key
    ]
    state = host.holds(good, *strange)
    if host.backend.wants_on_link or backend_type == "host-gw":
        host.desired.set_on_link(dict.fromkeys(host.desired.underlay_addresses(), True))
        state = host.holds(good, *strange)
    reached = targets(state) | to_peers(state, "via") | to_peers(state, "onlink")
    assert set(good.key.subnets) <= reached | {route.destination for route in state.host.routes}
    told = read_record(json.dumps(record).encode())
    view = replace(host.table.tracker.view, records=told)
    found = candidates(
        view,
        me=Identity(node_id="new", holder=good.holder, machine="m"),
        config=network(backend_type, "dual"),
        rng=random.Random(1),
        previous=None,
        held=None,
        blocked=set(),
    )
    # Somebody may have taken the whole network.
    with suppress(SubnetExhaustedError):
        list(islice(found, 3))

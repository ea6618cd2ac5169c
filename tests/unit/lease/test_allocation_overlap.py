"""Whatever a store holds, a node tries nothing that overlaps what is not its own."""

from __future__ import annotations

import contextlib
import json
import random
from ipaddress import IPv4Network, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from tests.support.leases import holder, key, lease, record, reservation, table
from tests.unit.lease.choices import NODE
from tunneld.errors import SubnetExhaustedError
from tunneld.lease.allocation import Candidate, candidates
from tunneld.lease.kinship import Identity
from tunneld.lease.model import Holder, Snapshot, SubnetKey
from tunneld.lease.network import NetworkConfig, parse

_V4 = {"Network": "10.5.0.0/24", "SubnetLen": 28, "SubnetMax": "10.5.0.192"}
_V6 = {
    "EnableIPv6": True,
    "IPv6Network": "fd00::/56",
    "IPv6SubnetLen": 60,
    "IPv6SubnetMax": "fd00:0:0:c0::",
}
SMALL = [
    parse(json.dumps(config)) for config in (_V4, {**_V4, **_V6}, {"EnableIPv4": False, **_V6})
]
HOSTS = st.tuples(st.integers(0, 5), st.integers(0, 5)).map(
    lambda numbers: (
        (f"192.0.2.{numbers[0]}" if numbers[0] else "0.0.0.0")
        + (f",fd99::{numbers[1]}" if numbers[1] else "")
    )
)


@st.composite
def subnets(draw: st.DrawFn) -> str:
    families = draw(st.sampled_from([(4,), (6,), (4, 6)]))
    # A sixteenth to a quarter of the network: hosts meet, and of one family only.
    bits = draw(st.sampled_from([2, 3, 4, 4, 4, 5, 6]))
    texts = []
    for family in families:
        at = draw(st.integers(0, 2**bits - 1))
        if family == 4:
            texts.append(str(IPv4Network((0x0A050000 + (at << (8 - bits)), 24 + bits))))
        else:
            texts.append(str(IPv6Network(((0xFD << 120) + (at << (72 - bits)), 56 + bits))))
    return ",".join(texts)


@st.composite
def tables(draw: st.DrawFn) -> Snapshot:
    revisions = iter(range(1, 100))
    leases = draw(st.dictionaries(subnets(), HOSTS, max_size=10))
    records = draw(st.dictionaries(st.sampled_from([NODE, "a", "b"]), st.tuples(subnets(), HOSTS)))
    reserved = draw(st.dictionaries(subnets(), HOSTS, max_size=4))
    return table(
        *(lease(subnet, host, create=next(revisions)) for subnet, host in leases.items()),
        *(record(node, *claim) for node, claim in records.items()),
        *(reservation(subnet, host) for subnet, host in reserved.items()),
    )


@given(tables(), HOSTS, st.none() | subnets(), st.sampled_from(SMALL))
def test_candidate_never_overlaps_what_is_not_its_own(
    view: Snapshot, public_ip: str, previous: str | None, config: NetworkConfig
) -> None:
    host = holder(public_ip)
    found: list[Candidate] = []
    with contextlib.suppress(SubnetExhaustedError):
        found.extend(
            candidates(
                view,
                me=Identity(node_id=NODE, holder=host),
                config=config,
                rng=random.Random(1),
                previous=None if previous is None else key(previous),
            )
        )
    assert len({entry.key for entry in found}) == len(found)
    held = {entry.key: entry for entry in view.leases}
    for entry in found:
        assert config.admits(entry.key)
        if entry.expected_revision:
            assert entry.origin in ("owned", "public_ip")
            assert held[entry.key].mod_revision == entry.expected_revision
        else:
            others = [other for other in view.leases if other not in entry.drop]
            assert not any(share(other.key, entry.key) for other in others)
            assert not any(
                share(other.key, entry.key)
                for other in view.reservations
                if not is_mine(host, other.holder)
            )
        for dropped in entry.drop:
            assert is_mine(host, dropped.holder) or any(
                known.node_id == NODE and known.key == dropped.key for known in view.records
            )


def share(one: SubnetKey, other: SubnetKey) -> bool:
    ipv4 = one.has_ipv4 and other.has_ipv4 and one.ipv4.overlaps(other.ipv4)
    return ipv4 or bool(one.ipv6 and other.ipv6 and one.ipv6.overlaps(other.ipv6))


def is_mine(me: Holder, other: Holder) -> bool:
    if str(me.public_ip) == "0.0.0.0":
        return me.public_ipv6 is not None and me == other
    return me.public_ip == other.public_ip

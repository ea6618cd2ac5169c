from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.lease.model import LeasePut, MalformedPut, SubnetKey
from tunneld.store.layout import Change, Entry, Layout

KEY = SubnetKey(IPv4Network("10.5.1.0/24"))


def put(name: str, value: bytes = b"{}") -> Change:
    entry = Entry(name=name, value=value, grant_id=7, create_revision=3, mod_revision=4)
    return Change(name=name, entry=entry, revision=4)


@pytest.mark.parametrize(
    ("prefix", "root", "lease"),
    [
        ("/coreos.com/network", "/coreos.com/network/", "/coreos.com/network/subnets/10.5.1.0-24"),
        ("/coreos.com/network/", "/coreos.com/network/", "/coreos.com/network/subnets/10.5.1.0-24"),
        ("net", "net/", "net/subnets/10.5.1.0-24"),
        ("/", "/", "/subnets/10.5.1.0-24"),
        ("", "", "subnets/10.5.1.0-24"),
    ],
)
def test_keys_lie_where_flannel_looks_for_them(prefix: str, root: str, lease: str) -> None:
    layout = Layout(prefix)
    assert layout.root == root
    assert layout.config == f"{root}config"
    assert layout.lease(KEY) == lease


def test_only_leases_lie_below_what_flannel_lists() -> None:
    layout = Layout("/n")
    assert layout.lease(KEY).startswith("/n/subnets/")
    for name in (layout.config, layout.record("n1"), layout.reservation(KEY)):
        assert not name.startswith("/n/subnets")


def test_lease_carries_grant_and_revisions() -> None:
    (event,) = Layout("/n").batch([put("/n/subnets/10.5.1.0-24")], 4).events
    assert isinstance(event, LeasePut)
    assert (event.lease.key, event.lease.grant_id) == (KEY, 7)
    assert (event.lease.create_revision, event.lease.mod_revision) == (3, 4)


@given(st.text(max_size=20), st.binary(max_size=20))
def test_no_key_and_no_value_upsets_the_reader(name: str, value: bytes) -> None:
    layout = Layout("/n")
    for start in ("/n/", "/n/subnets", "/n/subnets/", "/n/tunneld/nodes/", ""):
        change = put(start + name, value)
        layout.batch([change, Change(name=change.name, entry=None, revision=4)], 4)
        assert change.entry is not None
        layout.snapshot([change.entry], 4)


@given(st.text(max_size=20))
def test_whatever_flannel_would_stumble_over_is_told(name: str) -> None:
    (event,) = Layout("/n").batch([put(f"/n/subnets{name}")], 4).events
    assert isinstance(event, MalformedPut | LeasePut)

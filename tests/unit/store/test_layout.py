from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.lease.model import LeasePut, MalformedDeleted, MalformedPut, SubnetKey
from tunneld.store import format as fmt
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


NESTED = '{"PublicIP":"192.0.2.77","PublicIPv6":null,"X":%s"\\ud800"%s}'


@pytest.mark.parametrize("depth", [70, 500, 990, 20_000])
def test_value_of_any_depth_costs_its_own_entry_only(depth: int) -> None:
    layout = Layout("/n")
    bad = put("/n/subnets/10.5.250.0-24", (NESTED % ("[" * depth, "]" * depth)).encode())
    good = put("/n/subnets/10.5.1.0-24", b'{"PublicIP":"192.0.2.1"}')
    first, second = layout.batch([bad, good], 4).events
    assert isinstance(first, MalformedPut)
    assert isinstance(second, LeasePut)


def test_value_beyond_the_bound_is_not_kept_and_is_named_with_its_size() -> None:
    value = b'{"PublicIP":"192.0.2.77","X":"%s"}' % (b"x" * 1_000_000)
    for name in ("subnets/10.5.2.0-24", "tunneld/nodes/n", "tunneld/reservations/10.5.2.0-24"):
        event = Layout("/n").batch([put(f"/n/{name}", value)], 4).events[-1]
        assert isinstance(event, MalformedPut)
        assert f"{len(value)} bytes" in event.entry.detail


def test_name_of_any_length_is_cut_and_can_still_be_deleted() -> None:
    layout, names = Layout("/n"), [f"/n/subnets/{'x' * 1_000_000}{end}" for end in "ab"]
    written = [layout.batch([put(name)], 4).events[0] for name in names]
    gone = [layout.batch([Change(name=n, entry=None, revision=5)], 5).events[0] for n in names]
    shown = [event.entry.name for event in written if isinstance(event, MalformedPut)]
    assert shown == [event.name for event in gone if isinstance(event, MalformedDeleted)]
    assert len(set(shown)) == 2
    assert all(len(name) < 1_000 for name in shown)


def test_any_exception_of_a_reader_costs_its_own_entry_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(value: bytes) -> object:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(fmt, "decode_lease", fails)
    (event,) = Layout("/n").batch([put("/n/subnets/10.5.1.0-24")], 4).events
    assert isinstance(event, MalformedPut)
    assert event.key == KEY
    assert "RecursionError" in event.entry.detail

"""What a node remembers of its network: it comes back as it was, or counts as nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.daemon.node import lease
from tunneld.clock import Now
from tunneld.daemon.cache import Cache
from tunneld.host.state_dir import StateDir
from tunneld.lease.model import NodeRecord, Snapshot

NOW = Now(wall_s=1_800_000_000.0, boot_s=500.0, boot_id="this boot")
NEXT_BOOT = replace(NOW, boot_s=20.0, boot_id="next boot")

OWN = lease(1)
TABLE = Snapshot(
    revision=9,
    config='{"Network": "10.5.0.0/16"}',
    leases=(lease(2), OWN),
    records=(
        NodeRecord(node_id="a", key=OWN.key, public_ip=OWN.attributes.public_ip, version="0.1.0"),
    ),
)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDir]:
    with StateDir(tmp_path / "state") as found:
        yield found


def saved(state: StateDir) -> tuple[Cache, dict[str, Any]]:
    cache = Cache(state, "etcd /prefix")
    cache.save(TABLE, OWN, 60.0, NOW)
    document = state.load("network")
    assert isinstance(document, dict)
    return cache, document


def test_table_comes_back_as_it_was(state: StateDir) -> None:
    cache, _ = saved(state)
    found = cache.load(NOW)
    assert found is not None
    assert (found.table, found.own, found.left_s) == (TABLE, OWN, 60.0)


def test_a_network_config_that_came_since_is_what_is_remembered(state: StateDir) -> None:
    Cache(state, "etcd /prefix").follow("{}")
    assert not state.load("network"), "of nothing there is no memory"
    cache, _ = saved(state)
    cache.follow('{"Network": "10.6.0.0/16"}')
    found = cache.load(NOW)
    assert found is not None
    table = replace(TABLE, config='{"Network": "10.6.0.0/16"}')
    assert (found.table, found.own, found.left_s) == (table, OWN, 60.0)


def test_lease_that_has_ended_since_is_no_network_to_go_by_but_still_known(
    state: StateDir,
) -> None:
    cache, document = saved(state)
    assert cache.load(replace(NOW, boot_s=NOW.boot_s + 61.0)) is None
    assert cache.last_own == OWN
    state.save("network", {**document, "Nodes": {"a": "no record"}})
    assert cache.load(NOW) is None
    assert cache.last_own is None


def test_another_network_and_what_was_given_up_are_not_remembered(state: StateDir) -> None:
    cache, _ = saved(state)
    assert Cache(state, "etcd /other").load(NOW) is None
    cache.forget()
    assert cache.load(NOW) is None
    cache.save(TABLE, OWN, 60.0, NOW)
    assert cache.load(NOW) is None


@pytest.mark.parametrize(
    ("places", "cluster", "is_of_it"),
    [
        (("http://a", "http://b"), None, True),
        # A member was exchanged, and the store is away.
        (("http://c", "http://b"), None, True),
        (("http://c",), None, False),
        # It has said who it is.
        (("http://c",), "one", True),
        (("http://a", "http://b"), "other", False),
    ],
)
def test_memory_of_another_cluster_with_the_same_prefix_is_not_used(
    state: StateDir, places: tuple[str, ...], cluster: str | None, is_of_it: bool
) -> None:
    Cache(state, "etcd /n", ("http://a", "http://b"), lambda: "one").save(TABLE, OWN, 60.0, NOW)
    found = Cache(state, "etcd /n", places, lambda: cluster).load(NOW)
    assert (found is not None) == is_of_it


def test_cluster_is_remembered_on_where_the_store_has_not_answered(state: StateDir) -> None:
    Cache(state, "etcd /n", ("http://a",), lambda: "one").save(TABLE, OWN, 60.0, NOW)
    cache = Cache(state, "etcd /n", ("http://a",))
    assert cache.load(NOW) is not None
    cache.save(TABLE, OWN, 60.0, NOW)
    assert Cache(state, "etcd /n", ("http://a",), lambda: "other").load(NOW) is None


@pytest.mark.parametrize("wall_s", [NOW.wall_s - 864_000.0, NOW.wall_s + 864_000.0])
def test_clock_that_was_set_changes_nothing_before_the_next_boot(
    state: StateDir, wall_s: float
) -> None:
    cache, _ = saved(state)
    found = cache.load(replace(NOW, wall_s=wall_s, boot_s=NOW.boot_s + 20.0))
    assert found is not None
    assert found.left_s == 40.0


def test_after_a_boot_the_wall_clock_must_do(state: StateDir) -> None:
    cache, document = saved(state)
    found = cache.load(replace(NEXT_BOOT, wall_s=NOW.wall_s + 50.0))
    assert found is not None
    assert found.left_s == 10.0
    assert cache.load(replace(NEXT_BOOT, wall_s=NOW.wall_s + 61.0)) is None
    # As an older version wrote it.
    state.save("network", {k: v for k, v in document.items() if k not in ("Boot", "EndsAt")})
    assert cache.load(NOW) is not None


SCRAPS: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**400, math.inf, "\ud800", "10.5.2.0-24", []]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@given(path=st.integers(0, 30), scrap=SCRAPS, drop=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_damaged_in_any_one_place_it_counts_as_nothing_or_is_sound(
    state: StateDir, path: int, scrap: Any, drop: bool
) -> None:
    cache, document = saved(state)
    places = list(_places(document))
    container, name = places[path % len(places)]
    if drop and isinstance(container, dict):
        del container[name]
    else:
        container[name] = scrap
    (state.path / "network.json").write_text(json.dumps(document))
    found = cache.load(NOW)
    assert found is None or (isinstance(found.table.config, str) and math.isfinite(found.left_s))


@pytest.mark.parametrize("value", [math.inf, math.nan, 10**400, -1, "1", None, {}])
@pytest.mark.parametrize("name", ["Revision", "EndsAt", "Grant", "Created"])
def test_number_that_is_none_counts_as_nothing(state: StateDir, name: str, value: Any) -> None:
    cache, document = saved(state)
    for place in (document, *document["Leases"]):
        if name in place:
            place[name] = value
    (state.path / "network.json").write_text(json.dumps(document))
    found = cache.load(NOW)
    assert found is None or value in (-1, "1", 10**400)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '"x"', "{", "[" * 100_000, "\ufeff{}"])
def test_file_that_is_something_else_counts_as_nothing(state: StateDir, text: str) -> None:
    cache, _ = saved(state)
    (state.path / "network.json").write_text(text)
    assert cache.load(NOW) is None


def _places(container: Any) -> Iterator[tuple[Any, Any]]:
    items = container.items() if isinstance(container, dict) else enumerate(container)
    for name, value in list(items):
        yield container, name
        if isinstance(value, dict | list):
            yield from _places(value)

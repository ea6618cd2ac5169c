"""Histories of one etcd, told apart by what is in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.store.etcd.history import COMPARED, Place, View, sample
from tunneld.store.layout import Change, Entry

PLACE = Place(cluster_id=7, raft_term=3, revision=1)

# A name that is written, or deleted.
writes = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=20)


def change(name: str, is_put: bool, revision: int) -> Change:
    entry = Entry(name=name, value=b"", grant_id=0, create_revision=1, mod_revision=revision)
    return Change(name=name, entry=entry if is_put else None, revision=revision)


def after(
    common: list[tuple[str, bool]], own: list[tuple[str, bool]]
) -> tuple[View, dict[str, int]]:
    """Returns the view of whoever saw both, and by other means what there is then."""
    view, there = View(PLACE, ()), dict[str, int]()
    for revision, (name, is_put) in enumerate([*common, *own], start=2):
        view.apply([change(name, is_put, revision)])
        if is_put:
            there[name] = revision
        else:
            there.pop(name, None)
    return view, there


@given(writes, writes, writes)
def test_views_are_alike_where_what_they_hold_is_alike(
    common: list[tuple[str, bool]], one: list[tuple[str, bool]], other: list[tuple[str, bool]]
) -> None:
    first, held = after(common, one)
    second, held_there = after(common, other)
    assert (first.sample() == second.sample()) == (held == held_there)


def test_of_many_entries_those_written_last_are_compared() -> None:
    written = {f"k{n}": n for n in range(5 * COMPARED)}
    found = sample(written, len(written))
    assert len(found.newest) == COMPARED
    assert min(found.newest)[0] == 4 * COMPARED
    assert found != sample(written | {"k7": 9_999}, len(written))


@pytest.mark.parametrize(
    ("later", "may"),
    [
        (Place(7, 3, 1), True),
        (Place(7, 4, 9), True),
        # A proxy, which does not say who answered.
        (Place(0, 0, 9), True),
        # Another cluster; a member of one that was restored; one that was wiped.
        (Place(8, 3, 9), False),
        (Place(7, 2, 9), False),
        (Place(7, 3, 0), False),
    ],
)
def test_header_can_only_tell_that_a_history_is_another(later: Place, may: bool) -> None:
    assert later.may_follow(PLACE) is may

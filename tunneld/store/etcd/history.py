"""What a watch knows of the store, to be compared with what the store says after a break.

Path of a lease: `store.etcd.client` -> **store.etcd.history** -> `store.etcd.store`. Pure.
Two histories that part after revision S differ in what was written after S: a look at the entries
written last, by name and revision, tells them apart, and a small network's at all of them. Headers
alone do not: behind a proxy they may be empty, and a restored cluster may have the same id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from heapq import nlargest

from tunneld.store.layout import Change, Entry

COMPARED = 512
"""How many of the entries written last are compared; all, in a network of some 250 hosts."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What is under a prefix at one revision: how many entries, and which were written last."""

    count: int
    newest: frozenset[tuple[int, str]]
    """Revision of the last write, and name."""


@dataclass(frozen=True, slots=True)
class Place:
    """Who answered, and where in their history; 0 where they do not say."""

    cluster_id: int
    raft_term: int
    revision: int

    def may_follow(self, earlier: Place) -> bool:
        """False when the cluster was wiped or restored since. True says nothing."""
        is_other = 0 not in (self.cluster_id, earlier.cluster_id) and (
            self.cluster_id != earlier.cluster_id
        )
        is_back = 0 < self.raft_term < earlier.raft_term or self.revision < earlier.revision
        return not (is_other or is_back)


class View:
    """Every entry under the prefix by the revision of its last write, as of `place`."""

    def __init__(self, place: Place, entries: Iterable[Entry]) -> None:
        self.place = place
        self._written: dict[str, int] = {entry.name: entry.mod_revision for entry in entries}

    @property
    def revision(self) -> int:
        """The store's, of the last change that is known."""
        return self.place.revision

    @property
    def size(self) -> int:
        """How many entries there are."""
        return len(self._written)

    def apply(self, changes: Iterable[Change]) -> None:
        """Takes over what a watch has brought."""
        for change in changes:
            if change.entry is None:
                self._written.pop(change.name, None)
            else:
                self._written[change.name] = change.entry.mod_revision
            self.place = replace(self.place, revision=max(self.revision, change.revision))

    def sample(self) -> Sample:
        """Returns what the store must say of `revision`, if its history is the one seen so far."""
        return sample(self._written, len(self._written))


def sample(written: Mapping[str, int], count: int) -> Sample:
    """Returns a sample of entries, by name and revision; `count` may be of more than are given."""
    pairs = ((revision, name) for name, revision in written.items())
    return Sample(count=count, newest=frozenset(nlargest(COMPARED, pairs)))

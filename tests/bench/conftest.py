"""A bench of the tests' own: another one may be at work on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tunneld.bench.local import pair as topology


@pytest.fixture
def prefix(root_tools: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What the names of this bench's hosts begin with; they are gone afterwards."""
    name = f"tnt-bench-{os.getpid()}-"
    monkeypatch.setattr(topology, "PREFIX", name)
    monkeypatch.setattr(topology, "LAB", f"bench{os.getpid()}")
    yield name
    topology.remove_all()

"""The stores every conformance test runs on."""

from __future__ import annotations

import pytest

from tests.support.memory_store import MemoryServer
from tests.support.stores import Server, SqliteServer


@pytest.fixture(params=["sqlite", "etcd_http", "etcd_https", "memory"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Server:
    if request.param == "sqlite":
        return SqliteServer(tmp_path_factory.mktemp("sqlite") / "store.db")
    if request.param == "memory":
        return MemoryServer()
    found: Server = request.getfixturevalue(request.param)
    return found

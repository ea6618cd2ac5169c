"""The stores of the keeper's tests: they are there before a node comes."""

from __future__ import annotations

import pytest

from tests.support.stores import Server, SqliteServer, run
from tunneld.store import open_store


@pytest.fixture(params=["sqlite", "etcd_http"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Server:
    if request.param == "sqlite":
        file = SqliteServer(tmp_path_factory.mktemp("sqlite") / "store.db")
        run(touch(file))
        return file
    found: Server = request.getfixturevalue(request.param)
    return found


async def touch(file: SqliteServer) -> None:
    """Makes the file, so that a test may write to it before any node does."""
    store = open_store(file.options("/"))
    await store.read()
    await store.close()

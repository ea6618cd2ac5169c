"""The stores of the keeper's tests: they are there before a node comes."""

from __future__ import annotations

import pytest

from tests.support.memory_store import MemoryServer
from tests.support.stores import Server, SqliteServer


@pytest.fixture(params=["memory", "sqlite", "etcd_http"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Server:
    if request.param == "sqlite":
        file = SqliteServer(tmp_path_factory.mktemp("sqlite") / "store.db")
        file.run(touch(file))
        return file
    if request.param == "memory":
        return MemoryServer()
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def memory() -> MemoryServer:
    """A store in virtual time, for what takes long."""
    return MemoryServer()


async def touch(file: SqliteServer) -> None:
    """Makes the file, so that a test may write to it before any node does."""
    store = file.open("/")
    await store.read()
    await store.close()

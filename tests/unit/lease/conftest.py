"""Real stores for the keeper, each test under a prefix of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.unit.store.servers import EtcdServer, Server, SqliteServer, run
from tunneld.store import open_store

_numbers = itertools.count()


@pytest.fixture
def prefix() -> str:
    return f"/lease{next(_numbers)}.example/network"


@pytest.fixture(scope="session")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd-lease"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """An etcd for one test, which may kill it."""
    server = EtcdServer(tmp_path_factory.mktemp("etcd-lease-own"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["sqlite", "etcd"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Server:
    if request.param == "sqlite":
        file = SqliteServer(tmp_path_factory.mktemp("sqlite") / "store.db")
        run(touch(file))
        return file
    found: Server = request.getfixturevalue("shared_etcd")
    return found


async def touch(file: SqliteServer) -> None:
    """Makes the file, so that a test may write to it before any node does."""
    store = open_store(file.options("/"))
    await store.read()
    await store.close()

"""Real stores for the tests, each test under a prefix of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.support.stores import Authority, EtcdServer

_numbers = itertools.count()


@pytest.fixture
def prefix() -> str:
    return f"/net{next(_numbers)}.example/network"


@pytest.fixture(scope="session")
def etcd_http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd-http"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def etcd_https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    directory = tmp_path_factory.mktemp("etcd-https")
    server = EtcdServer(directory, Authority.make(directory / "tls"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """An etcd for one test, which may kill it."""
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    try:
        server.start()
        yield server
    finally:
        server.stop()

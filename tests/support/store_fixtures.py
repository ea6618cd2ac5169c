"""Real stores for the tests, each test under a prefix of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.support.stores import Authority, EtcdServer, serving

_numbers = itertools.count()


@pytest.fixture
def prefix() -> str:
    return f"/net{next(_numbers)}.example/network"


@pytest.fixture(scope="session")
def etcd_http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with serving(EtcdServer(tmp_path_factory.mktemp("etcd-http"))) as server:
        yield server


@pytest.fixture(scope="session")
def etcd_https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    directory = tmp_path_factory.mktemp("etcd-https")
    with serving(EtcdServer(directory, Authority.make(directory / "tls"))) as server:
        yield server


@pytest.fixture
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """An etcd for one test, which may kill it."""
    with serving(EtcdServer(tmp_path_factory.mktemp("etcd"))) as server:
        yield server

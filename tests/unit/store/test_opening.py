"""Opening a store by endpoints and options, and closing it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.stores import EtcdServer, Follower, run, until
from tests.unit.store.opened import opened
from tunneld.errors import UsageError
from tunneld.store import StoreOptions, open_store
from tunneld.store.etcd.transport import Endpoint, parse_endpoint


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://127.0.0.1:2379", Endpoint("127.0.0.1", 2379, is_tls=False)),
        ("https://etcd.example:443/", Endpoint("etcd.example", 443, is_tls=True)),
        ("192.0.2.1:4001", Endpoint("192.0.2.1", 4001, is_tls=False)),
        ("http://[fd00::1]:2379", Endpoint("fd00::1", 2379, is_tls=False)),
        ("https://etcd.example", Endpoint("etcd.example", 2379, is_tls=True)),
    ],
)
def test_endpoint_is_read_from_its_url(url: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(url) == endpoint
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    "url",
    ["", "ftp://192.0.2.1", "http://", "http://h:99999", "http://h/path", "http://u:p@h:1"],
)
def test_text_that_is_no_endpoint_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="etcd endpoint"):
        parse_endpoint(url)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (StoreOptions(kind="sqlite"), "expected sqlite:PATH"),
        (StoreOptions(endpoints=()), "no endpoint"),
        (StoreOptions(certfile=Path("c.crt")), "certfile is c.crt; give --etcd-keyfile too"),
        (StoreOptions(keyfile=Path("c.key")), "keyfile is c.key; give --etcd-certfile too"),
        (StoreOptions(username="u"), "username is u; give --etcd-password-file too"),
        (StoreOptions(password_file=Path("p")), "password-file is p; give --etcd-username too"),
    ],
)
def test_options_that_do_not_fit_together_are_a_usage_error(
    options: StoreOptions, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        open_store(options)


def test_nothing_of_a_closed_store_is_left_open(etcd_https: EtcdServer, prefix: str) -> None:
    def open_sockets() -> int:
        links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
        return sum(
            os.readlink(link).startswith("socket:") for link in links if os.path.lexists(link)
        )

    async def main() -> None:
        async with opened(etcd_https, prefix) as store:
            await store.read()
        before = open_sockets()
        for _ in range(5):
            async with opened(etcd_https, prefix) as store, Follower(store):
                await store.read()
        await until(lambda: open_sockets() == before)

    run(main())

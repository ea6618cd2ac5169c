"""An etcd whom we do not trust, or that refuses us."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.stores import Authority, EtcdServer, Follower, run, serving, until
from tests.unit.store.opened import opened_with
from tunneld.errors import StoreRefusedError, StoreUnavailableError
from tunneld.lease.model import ConfigPut
from tunneld.store import StoreOptions


def test_certificate_of_another_authority_is_refused(
    etcd_https: EtcdServer, prefix: str, tmp_path: Path
) -> None:
    stranger = Authority.make(tmp_path / "other")

    async def main() -> None:
        options = replace(etcd_https.options(prefix), cafile=stranger.cafile)
        async with opened_with(options) as store:
            with pytest.raises(StoreRefusedError, match="name the CA"):
                await store.read()

    run(main())


def test_system_roots_do_not_vouch_for_a_private_authority(
    etcd_https: EtcdServer, prefix: str
) -> None:
    async def main() -> None:
        options = replace(etcd_https.options(prefix), cafile=None)
        async with opened_with(options) as store:
            with pytest.raises(StoreRefusedError, match="name the CA"):
                await store.read()

    run(main())


def test_certificate_for_another_address_is_refused(
    tmp_path_factory: pytest.TempPathFactory, prefix: str
) -> None:
    directory = tmp_path_factory.mktemp("etcd-name")

    async def main(server: EtcdServer) -> None:
        options = server.options(prefix)
        elsewhere = tuple(url.replace("127.0.0.1", "localhost") for url in options.endpoints)
        async with opened_with(replace(options, endpoints=elsewhere)) as store:
            with pytest.raises(StoreRefusedError, match="localhost"):
                await store.read()

    with serving(EtcdServer(directory, Authority.make(directory / "tls"))) as server:
        run(main(server))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_wrong_scheme_is_an_error_and_no_hang(
    scheme: str, etcd_http: EtcdServer, etcd_https: EtcdServer, prefix: str
) -> None:
    server = etcd_https if scheme == "http" else etcd_http
    endpoint = f"{scheme}://{server.endpoint.partition('://')[2]}"

    async def main() -> None:
        options = StoreOptions(endpoints=(endpoint,), prefix=prefix)
        async with opened_with(options) as store:
            with pytest.raises(StoreUnavailableError, match="http or https"):
                await store.read()

    run(main())


def test_missing_ca_file_is_refused_by_name(prefix: str, tmp_path: Path) -> None:
    async def main() -> None:
        options = StoreOptions(
            endpoints=("https://127.0.0.1:1",), prefix=prefix, cafile=tmp_path / "none.crt"
        )
        async with opened_with(options) as store:
            with pytest.raises(StoreRefusedError, match=r"none\.crt"):
                await store.read()

    run(main())


def test_user_reads_its_prefix_and_nothing_else(etcd: EtcdServer, tmp_path: Path) -> None:
    for argv in (
        ("user", "add", "root:rootpw"),
        ("role", "add", "root"),
        ("user", "grant-role", "root", "root"),
        ("role", "add", "net"),
        ("role", "grant-permission", "net", "readwrite", "--prefix=true", "/net/"),
        ("user", "add", "tunneld:right"),
        ("user", "grant-role", "tunneld", "net"),
        ("auth", "enable"),
    ):
        etcd.ctl(*argv)
    etcd.user = "root:rootpw"
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("right\n")
    wrong.write_text("wrong\n")
    options = replace(etcd.options("/net"), username="tunneld", password_file=right)

    async def main() -> None:
        async with opened_with(options) as store:
            await store.write_config("{}")
            async with Follower(store) as follower:
                await asyncio.to_thread(crash_and_restart, etcd)
                # Makes etcd forget every token it gave.
                etcd.ctl("auth", "disable")
                etcd.ctl("auth", "enable")
                await store.write_config('{"a":1}')
                await until(lambda: follower.events == [ConfigPut('{"a":1}')])
        for bad in (
            replace(options, password_file=wrong),
            replace(options, username=None, password_file=None),
            replace(options, prefix="/other"),
        ):
            async with opened_with(bad) as store:
                with pytest.raises(StoreRefusedError, match="user"):
                    await store.read()
                assert "right" not in str(store.status())
        async with opened_with(replace(options, password_file=tmp_path / "none")) as store:
            with pytest.raises(StoreRefusedError, match="password file"):
                await store.read()

    run(main())


def crash_and_restart(etcd: EtcdServer) -> None:
    etcd.kill()
    etcd.start()


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("http://127.0.0.1:1", "does not answer: Connection refused; check"),
        # The second where there is no name server to ask.
        ("http://etcd.invalid:2379", "answer: (Name or service not|Temporary failure in name)"),
    ],
)
def test_what_keeps_etcd_from_answering_is_said_in_the_systems_words(
    endpoint: str, says: str
) -> None:
    async def main() -> None:
        async with opened_with(StoreOptions(endpoints=(endpoint,))) as store:
            with pytest.raises(StoreUnavailableError, match=says):
                await store.read()

    run(main())

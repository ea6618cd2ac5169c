"""An etcd whom we do not trust, or that refuses us."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from testbed.wait import PATIENCE
from tests.support.stores import Authority, EtcdServer, Follower, run, serving, until
from tests.unit.store.opened import claim_of, opened, opened_with
from tunneld.errors import (
    StoreDeniedError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
)
from tunneld.lease.model import ConfigPut
from tunneld.lease.registry import Store
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


def test_certificates_are_read_anew_for_each_connection(
    tmp_path_factory: pytest.TempPathFactory, prefix: str
) -> None:
    directory = tmp_path_factory.mktemp("etcd-renewed")
    server = EtcdServer(
        *(directory, Authority.make(directory / "tls"), "--client-cert-auth"),
        f"--trusted-ca-file={directory / 'tls' / 'ca.crt'}",
    )
    options = replace(
        server.options(prefix),
        certfile=directory / "tls" / "server.crt",
        keyfile=directory / "tls" / "server.key",
    )

    async def main() -> None:
        async with opened_with(options) as store, Follower(store) as follower:
            await asyncio.to_thread(server.kill)
            Authority.make(directory / "tls")
            await asyncio.to_thread(server.start)
            await store.write_config("renewed")
            await until(lambda: ConfigPut("renewed") in follower.events)

    with serving(server):
        run(main())


def test_client_certificate_that_is_missing_or_not_taken_is_named(
    tmp_path_factory: pytest.TempPathFactory, prefix: str, tmp_path: Path
) -> None:
    directory, stranger = tmp_path_factory.mktemp("etcd-client"), Authority.make(tmp_path / "other")
    server = EtcdServer(
        *(directory, Authority.make(directory / "tls"), "--client-cert-auth"),
        f"--trusted-ca-file={directory / 'tls' / 'ca.crt'}",
    )

    async def main() -> None:
        options = server.options(prefix)
        async with opened_with(options) as store:
            with pytest.raises(StoreRefusedError, match="asks for a client certificate") as caught:
                await store.read()
            assert "--etcd-certfile" in str(caught.value)
        of_another = replace(options, certfile=stranger.certfile, keyfile=stranger.keyfile)
        async with opened_with(of_another) as store:
            with pytest.raises(StoreRefusedError, match="does not take the client certificate"):
                await store.read()

    with serving(server):
        run(main())


def test_key_with_a_password_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    files = Authority.make(tmp_path / "tls")
    key = serialization.load_pem_private_key(files.keyfile.read_bytes(), None)
    files.keyfile.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    script = (
        "from pathlib import Path; from tunneld.store.etcd.transport import Credentials, read_tls; "
        f"read_tls(Credentials(certfile=Path({str(files.certfile)!r}), "
        f"keyfile=Path({str(files.keyfile)!r})))"
    )
    program = tmp_path / "program.py"
    program.write_text(script)
    # On a terminal of its own, at which nobody answers.
    with subprocess.Popen(
        ("script", "-qec", f"{sys.executable} -P {program}", "/dev/null"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as asked:
        assert asked.stdout is not None
        try:
            asked.wait(20.0 * PATIENCE)
        finally:
            asked.kill()
        said = asked.stdout.read()
    assert "StoreRefusedError" in said
    assert "without a password" in said


def test_full_etcd_is_said_to_be_full_and_still_counts_as_connected(
    tmp_path_factory: pytest.TempPathFactory, prefix: str
) -> None:
    quota = "--quota-backend-bytes=2000000"

    async def main(server: EtcdServer) -> None:
        async with opened(server, prefix) as store, Follower(store):
            with pytest.raises(StoreFullError, match="database is full") as caught:
                await fill(store)
            assert "alarm disarm" in str(caught.value)
            assert store.status().connected

    with serving(EtcdServer(tmp_path_factory.mktemp("etcd-full"), None, quota)) as server:
        run(main(server))


async def fill(store: Store) -> None:
    for _ in range(500):
        await store.write_config("x" * 500_000)


def test_user_is_good_before_during_and_after_authentication_is_on(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    add_users(etcd)
    password = tmp_path / "right"
    password.write_text("right\n")
    options = replace(etcd.options("/net"), username="tunneld", password_file=password)

    async def main() -> None:
        async with opened_with(options) as store, Follower(store) as follower:
            await store.write_config("before")
            etcd.ctl("auth", "enable")
            etcd.user = "root:rootpw"
            await store.write_config("during")
            # A new password, as rotated by a job that writes the file.
            etcd.ctl("user", "passwd", "tunneld", "--interactive=false", stdin=b"renewed\n")
            password.write_text("renewed\n")
            await store.write_config("renewed")
            etcd.ctl("auth", "disable")
            etcd.user = None
            await asyncio.to_thread(crash_and_restart, etcd)
            await store.write_config("after")
            wanted = [ConfigPut(text) for text in ("before", "during", "renewed", "after")]
            await until(lambda: follower.events == wanted)

    run(main())


def test_user_who_may_not_write_is_told_what_and_stays_connected(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    add_users(etcd, "read")
    etcd.ctl("auth", "enable")
    etcd.user = "root:rootpw"
    password = tmp_path / "right"
    password.write_text("right\n")
    options = replace(etcd.options("/net"), username="tunneld", password_file=password)

    async def main() -> None:
        async with opened_with(options) as store, Follower(store):
            grant = await store.grant(60)
            with pytest.raises(StoreDeniedError, match="write /net/subnets/") as caught:
                await store.claim(claim_of(grant))
            assert "'tunneld'" in str(caught.value)
            assert "readwrite" in str(caught.value)
            assert store.status().connected

    run(main())


def add_users(etcd: EtcdServer, permission: str = "readwrite") -> None:
    for argv in (
        ("user", "add", "root:rootpw"),
        ("role", "add", "root"),
        ("user", "grant-role", "root", "root"),
        ("role", "add", "net"),
        ("role", "grant-permission", "net", permission, "--prefix=true", "/net/"),
        ("user", "add", "tunneld:right"),
        ("user", "grant-role", "tunneld", "net"),
    ):
        etcd.ctl(*argv)


def test_user_reads_its_prefix_and_nothing_else(etcd: EtcdServer, tmp_path: Path) -> None:
    add_users(etcd)
    etcd.ctl("auth", "enable")
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

"""Real stores for the tests: etcd on free loopback ports, a SQLite file, and a way around both."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from testbed.etcd import PATIENT, SERVES_TIMEOUT_S
from testbed.process import Process
from testbed.wait import PATIENCE, wait_until
from tunneld.lease.model import Batch, Event, Snapshot
from tunneld.lease.registry import Store
from tunneld.store import StoreOptions, open_store

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on the loop the daemon uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def until(predicate: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Waits for a condition of this process."""
    async with asyncio.timeout(timeout_s * PATIENCE):
        while not predicate():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.01)


async def until_async(predicate: Callable[[], Awaitable[bool]], timeout_s: float = 30.0) -> None:
    """Waits for a condition that has to be asked for."""
    async with asyncio.timeout(timeout_s * PATIENCE):
        while not await predicate():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)


class Follower:
    """Collects what a watch yields while the `async with` lasts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.seen: list[Snapshot | Batch] = []

    @property
    def snapshots(self) -> list[Snapshot]:
        return [item for item in self.seen if isinstance(item, Snapshot)]

    @property
    def batches(self) -> list[Batch]:
        return [item for item in self.seen if isinstance(item, Batch)]

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch.events]

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._collect())
        await until(lambda: bool(self.seen) or self._task.done())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if not self._task.cancelled():
            self._task.result()

    async def _collect(self) -> None:
        watch: Any = self._store.watch()
        async with aclosing(watch) as items:
            async for item in items:
                self.seen.append(item)


class Server(Protocol):
    """One kind of store, a way into it that is not tunneld's, and the time it lives in."""

    def open(self, prefix: str) -> Store: ...

    def run(self, main: Coroutine[Any, Any, T]) -> T: ...

    def put(self, name: str, value: bytes) -> None: ...

    def delete(self, name: str) -> None: ...

    def everything(self, prefix: str) -> dict[str, bytes]: ...


def free_port() -> int:
    """Returns a port that a server may take, and find free again when it is restarted.

    Below net.ipv4.ip_local_port_range, of which every connection of the machine gets its own.
    """
    while True:
        port = random.randrange(10_000, 32_768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@dataclass(frozen=True)
class Authority:
    """A CA and one server certificate for 127.0.0.1, as files."""

    cafile: Path
    certfile: Path
    keyfile: Path

    @classmethod
    def make(cls, directory: Path, name: str = "127.0.0.1") -> Authority:
        directory.mkdir(parents=True, exist_ok=True)
        ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        now = datetime.datetime.now(datetime.UTC)

        def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> Any:
            return (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(ca_name)
                .public_key(public)
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(hours=1))
                .not_valid_after(now + datetime.timedelta(days=2))
            )

        ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
        usage = dict.fromkeys(
            (
                *("digital_signature", "content_commitment", "key_encipherment"),
                *("data_encipherment", "key_agreement", "encipher_only", "decipher_only"),
            ),
            False,
        )
        ca = (
            builder(ca_name, ca_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
            .add_extension(ca_id, critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        cert = (
            builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id),
                critical=False,
            )
            .sign(ca_key, hashes.SHA256())
        )
        files = cls(directory / "ca.crt", directory / "server.crt", directory / "server.key")
        files.cafile.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        files.certfile.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        files.keyfile.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files


class EtcdServer:
    """One etcd member, with etcdctl as the way around tunneld."""

    def __init__(self, directory: Path, authority: Authority | None = None, *options: str) -> None:
        """`options` are further ones of etcd's command line."""
        self._options = options
        self._directory = directory
        self._authority = authority
        scheme = "http" if authority is None else "https"
        self.endpoint = f"{scheme}://127.0.0.1:{free_port()}"
        self._peer_url = f"http://127.0.0.1:{free_port()}"
        self._runs = 0
        self.user: str | None = None
        """`name:password` for etcdctl, once etcd asks for one."""
        self.process: Process | None = None

    def options(self, prefix: str) -> StoreOptions:
        cafile = None if self._authority is None else self._authority.cafile
        return StoreOptions(endpoints=(self.endpoint,), prefix=prefix, cafile=cafile)

    def open(self, prefix: str) -> Store:
        return open_store(self.options(prefix))

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        return run(main)

    def start(self) -> None:
        self._runs += 1
        tls = self._authority
        files = () if tls is None else ("--cert-file", tls.certfile, "--key-file", tls.keyfile)
        self.process = Process(
            (
                *("etcd", "--name", "one", "--data-dir", str(self._directory / "data")),
                *("--listen-client-urls", self.endpoint),
                *("--advertise-client-urls", self.endpoint),
                *("--listen-peer-urls", self._peer_url),
                *("--initial-advertise-peer-urls", self._peer_url),
                *("--initial-cluster", f"one={self._peer_url}"),
                *("--heartbeat-interval", "50", "--election-timeout", "500"),
                *map(str, files),
                *self._options,
            ),
            self._directory / f"etcd-{self._runs}.log",
        )
        self.process.wait_for_output("ready to serve client requests", SERVES_TIMEOUT_S)
        wait_until(self._is_healthy, 30.0, f"a healthy etcd at {self.endpoint}")

    def _is_healthy(self) -> bool:
        if self.process is not None and self.process.exit_status is not None:
            raise AssertionError(self.process.output()[-4000:])
        return self._ctl("endpoint", "health", is_checked=False).returncode == 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def wipe(self) -> None:
        """Takes the data away; only while it is down."""
        shutil.rmtree(self._directory / "data")

    def ctl(self, *argv: str, stdin: bytes = b"") -> bytes:
        return self._ctl(*argv, stdin=stdin).stdout

    def put(self, name: str, value: bytes) -> None:
        self.ctl("put", "--", name, stdin=value)

    def delete(self, name: str) -> None:
        self.ctl("del", "--", name)

    def everything(self, prefix: str) -> dict[str, bytes]:
        listing = json.loads(self.ctl("get", "--prefix", prefix, "-w", "json"))
        return {
            base64.b64decode(item["key"]).decode(): base64.b64decode(item.get("value", ""))
            for item in listing.get("kvs", [])
        }

    def _ctl(
        self, *argv: str, stdin: bytes = b"", is_checked: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        tls = self._authority
        cacert = (
            []
            if tls is None
            else [f"--cacert={tls.cafile}", f"--cert={tls.certfile}", f"--key={tls.keyfile}"]
        )
        user = [] if self.user is None else [f"--user={self.user}"]
        return subprocess.run(
            ["etcdctl", f"--endpoints={self.endpoint}", *PATIENT, *cacert, *user, *argv],
            env={**os.environ, "ETCDCTL_API": "3"},
            input=stdin,
            capture_output=True,
            check=is_checked,
            timeout=30 * PATIENCE,
        )


@contextmanager
def serving(server: EtcdServer) -> Iterator[EtcdServer]:
    """Starts it, and ends it whatever happens."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def grpc_proxy(server: EtcdServer, directory: Path) -> Iterator[str]:
    """Runs etcd's own gRPC proxy before a server; yields its endpoint."""
    address = f"127.0.0.1:{free_port()}"
    process = Process(
        (
            *("etcd", "grpc-proxy", "start", f"--endpoints={server.endpoint}"),
            *(f"--listen-addr={address}", f"--advertise-client-url={address}"),
        ),
        directory / "proxy.log",
    )

    def is_healthy() -> bool:
        argv = ("etcdctl", f"--endpoints=http://{address}", *PATIENT, "get", "nothing")
        environment = {**os.environ, "ETCDCTL_API": "3"}
        done = subprocess.run(argv, env=environment, capture_output=True, check=False)
        return done.returncode == 0

    try:
        wait_until(is_healthy, 30.0, f"a gRPC proxy at {address}")
        yield f"http://{address}"
    finally:
        process.stop()


class SqliteServer:
    """A file, with the sqlite3 module as the way around tunneld."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def options(self, prefix: str) -> StoreOptions:
        return StoreOptions(kind="sqlite", path=self.path, prefix=prefix)

    def open(self, prefix: str) -> Store:
        return open_store(self.options(prefix))

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        return run(main)

    def put(self, name: str, value: bytes) -> None:
        with self._write() as db:
            (revision,) = db.execute("SELECT revision FROM state").fetchone()
            # As etcd, whose keys keep the revision at which they were created.
            (created,) = db.execute(
                "INSERT INTO entries VALUES (?1, ?2, 0, ?3, ?3) ON CONFLICT (name) DO UPDATE"
                " SET value = ?2, grant_id = 0, mod_revision = ?3 RETURNING create_revision",
                (name, value, revision),
            ).fetchone()
            db.execute(
                "INSERT INTO changes VALUES (?, 0, ?, 1, ?, 0, ?)",
                (revision, name, value, created),
            )

    def delete(self, name: str) -> None:
        with self._write() as db:
            db.execute("DELETE FROM entries WHERE name = ?", (name,))
            (revision,) = db.execute("SELECT revision FROM state").fetchone()
            db.execute("INSERT INTO changes VALUES (?, 0, ?, 0, x'', 0, 0)", (revision, name))

    def everything(self, prefix: str) -> dict[str, bytes]:
        with closing(sqlite3.connect(self.path)) as db:
            rows = db.execute("SELECT name, value FROM entries ORDER BY name").fetchall()
        return {name: value for name, value in rows if name.startswith(prefix)}

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """A transaction under a new revision; without a commit it is rolled back."""
        with closing(sqlite3.connect(self.path, timeout=60, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("UPDATE state SET revision = revision + 1")
            yield db
            db.execute("COMMIT")

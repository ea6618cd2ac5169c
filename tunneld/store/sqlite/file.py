"""The file of the embedded store: entries, their changes, and grants that run out.

Path of a lease: the file -> **store.sqlite.file** -> `store.sqlite.store`.
Time spans run by the machine's clock since its boot, which nobody sets and all processes share;
what it is ahead of the wall clock's is noted in the file at each boot. Whoever looks at the file
removes what has run out.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tunneld.clock import Now
from tunneld.errors import GrantLostError
from tunneld.store.layout import Change, Entry
from tunneld.store.transaction import Outcome, Put, Transaction

BUSY_TIMEOUT_S = 5.0
KEPT_REVISIONS = 10_000
"""How far a watch may fall behind before it starts over with a new snapshot."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS state (
    id INTEGER PRIMARY KEY CHECK (id = 1), file_id TEXT, revision INTEGER, pruned INTEGER);
CREATE TABLE IF NOT EXISTS entries (
    name TEXT PRIMARY KEY, value BLOB, grant_id INTEGER,
    create_revision INTEGER, mod_revision INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS grants (grant_id INTEGER PRIMARY KEY, ttl_s REAL, expires_at REAL);
CREATE TABLE IF NOT EXISTS clock (boot_id TEXT PRIMARY KEY, wall_minus_boot_s REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (
    revision INTEGER, position INTEGER, name TEXT, is_put INTEGER, value BLOB, grant_id INTEGER,
    create_revision INTEGER, PRIMARY KEY (revision, position)) WITHOUT ROWID;
"""


_Identities = tuple[tuple[int, int] | None, tuple[int, int] | None]
"""Which file, and which write-ahead log, a connection has open."""


class File:
    """The file, used by one thread.

    Each method may raise what SQLite and the system raise: sqlite3.Error, OSError.
    """

    def __init__(
        self, path: Path, kept_revisions: int, clock: Callable[[], Now] = Now.read
    ) -> None:
        self._path = path
        self._clock = clock
        self._boot_id: str | None = None
        self._wall_minus_boot_s = 0.0
        self._kept_revisions = kept_revisions
        self._open_file: tuple[sqlite3.Connection, _Identities] | None = None
        self.revision = 0
        """Revision at the last look."""

    def close(self) -> None:
        """Closes the file; the next call opens it again."""
        if self._open_file is not None:
            self._open_file[0].close()
            self._open_file = None

    def entries(self, root: str) -> tuple[str, int, list[Entry]]:
        """Returns the id of the file, the revision, and all entries whose names start so."""
        with self._writing() as db:
            file_id, revision = db.execute("SELECT file_id, revision FROM state").fetchone()
            rows = db.execute(
                "SELECT name, value, grant_id, create_revision, mod_revision FROM entries"
                " WHERE substr(name, 1, ?) = ? ORDER BY name",
                (len(root), root),
            )
            return file_id, revision, [_entry(row) for row in rows]

    def changes(self, file_id: str, after: int) -> tuple[int, list[Change]] | None:
        """Returns the revision and the changes after `after`; None: they are not known."""
        expiry = self._connection().execute("SELECT min(expires_at) FROM grants")
        (next_expiry,) = expiry.fetchone()
        if next_expiry is not None and next_expiry <= self._now_s():
            with self._writing():
                pass  # what has run out is removed
        with self._reading() as db:
            found_id, self.revision, pruned = db.execute(
                "SELECT file_id, revision, pruned FROM state"
            ).fetchone()
            if found_id != file_id or self.revision < after or pruned > after:
                return None
            rows = db.execute(
                "SELECT revision, name, is_put, value, grant_id, create_revision FROM changes"
                " WHERE revision > ? ORDER BY revision, position",
                (after,),
            )
            return self.revision, [_change(row) for row in rows]

    def transact(self, wanted: Transaction) -> Outcome:
        """Writes all of it under one new revision, or nothing.

        Raises:
            GrantLostError: a grant of what is put has run out.
        """
        with self._writing() as db:
            is_done = all(_mod_revision(db, name) == expected for name, expected in wanted.expected)
            if is_done:
                for grant_id in {put.grant_id for put in wanted.puts if put.grant_id}:
                    _check_grant(db, grant_id)
                revision = _next_revision(db)
                # Deletes first: what takes the place of a lease comes after it is gone.
                for name in wanted.deletes:
                    _delete(db, name, revision)
                for put in wanted.puts:
                    _put(db, put, revision)
            (self.revision,) = db.execute("SELECT revision FROM state").fetchone()
            row = db.execute(
                "SELECT name, value, grant_id, create_revision, mod_revision FROM entries"
                " WHERE name = ?",
                (wanted.read,),
            ).fetchone()
            return Outcome(is_done, self.revision, None if row is None else _entry(row))

    def grant(self, ttl_s: float) -> int:
        """Returns the id of a new grant, a positive number of 63 bits."""
        grant_id = 1 + secrets.randbelow(2**63 - 1)
        with self._writing() as db:
            db.execute(
                "INSERT INTO grants VALUES (?, ?, ?)", (grant_id, ttl_s, self._now_s() + ttl_s)
            )
        return grant_id

    def keep_alive(self, grant_id: int) -> float:
        """Gives a grant its full time again, and returns that.

        Raises:
            GrantLostError: it has run out.
        """
        with self._writing() as db:
            ttl_s = _check_grant(db, grant_id)
            db.execute(
                "UPDATE grants SET expires_at = ? WHERE grant_id = ?",
                (self._now_s() + ttl_s, grant_id),
            )
        return ttl_s

    def remaining(self) -> dict[int, float]:
        """Returns the seconds left of each grant, by its id."""
        db, now = self._connection(), self._now_s()
        rows = db.execute("SELECT grant_id, expires_at FROM grants WHERE expires_at > ?", (now,))
        return {grant_id: expires_at - now for grant_id, expires_at in rows}

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees one state of the file, whoever writes meanwhile."""
        db = self._connection()
        db.execute("BEGIN")
        try:
            yield db
        finally:
            db.rollback()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A write transaction in which nothing has run out."""
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        try:
            _expire(db, self._now_s())
            yield db
            db.execute(
                "UPDATE state SET pruned = revision - ?1 WHERE revision - ?1 > pruned",
                (self._kept_revisions,),
            )
            db.execute("DELETE FROM changes WHERE revision <= (SELECT pruned FROM state)")
            (self.revision,) = db.execute("SELECT revision FROM state").fetchone()
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def _connection(self) -> sqlite3.Connection:
        """Opens the file, anew when another one lies in its place."""
        if self._open_file is not None:
            db, identities = self._open_file
            if self._identities() == identities:
                return db
            # Somebody has put another file in its place, or taken the log away. What is written
            # in a log without a name nobody else would ever read: it goes into the file first.
            with suppress(sqlite3.Error):
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self.close()
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                db = self._open()
            except sqlite3.OperationalError as error:
                # SQLite does not wait by itself while another process turns the journal to WAL.
                is_busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
                if not is_busy or time.monotonic() >= deadline:
                    raise
                time.sleep(0.01)
            else:
                found = self._identities()
                if found[0] is not None:
                    self._open_file = (db, found)
                    return db
                db.close()

    def _identities(self) -> _Identities:
        return _identity(self._path), _identity(Path(f"{self._path}-wal"))

    def _open(self) -> sqlite3.Connection:
        self._keep_others_out()
        db = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        db.text_factory = _text
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute("INSERT OR IGNORE INTO state VALUES (1, ?, 1, 1)", (secrets.token_hex(8),))
            self._set_clock(db)
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        return db

    def _set_clock(self, db: sqlite3.Connection) -> None:
        """Takes over the time that grants of this file run by; who is the first since boot sets it.

        No grant lasts longer than its life: a wall clock may be behind at boot.
        """
        now = self._clock()
        self._boot_id, self._wall_minus_boot_s = now.boot_id, now.wall_s - now.boot_s
        if now.boot_id is None:
            return
        named = (now.boot_id,)
        noted = db.execute(
            "SELECT wall_minus_boot_s FROM clock WHERE boot_id = ?", named
        ).fetchone()
        if noted is not None:
            self._wall_minus_boot_s = float(noted[0])
            return
        db.execute("DELETE FROM clock")
        db.execute("INSERT INTO clock VALUES (?, ?)", (*named, self._wall_minus_boot_s))
        db.execute("UPDATE grants SET expires_at = min(expires_at, ? + ttl_s)", (now.wall_s,))

    def _now_s(self) -> float:
        now = self._clock()
        return now.wall_s if self._boot_id is None else now.boot_s + self._wall_minus_boot_s

    def _keep_others_out(self) -> None:
        """Takes the file from everybody but owner and group, whatever the umask is.

        Who may read it may hold a lock on it, and so stop every writer.
        """
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        for path in (self._path, Path(f"{self._path}-wal"), Path(f"{self._path}-shm")):
            with suppress(FileNotFoundError):
                found = os.stat(path).st_mode
                mode = stat.S_IMODE(found)
                if stat.S_ISREG(found) and mode & 0o007:
                    # Only its owner may; what another user made has the mode they chose.
                    with suppress(PermissionError):
                        os.chmod(path, mode & ~0o007)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _text(value: bytes) -> str:
    # What others wrote into the file may be any bytes; it must still have a name to count it by.
    return value.decode(errors="backslashreplace")


def _bytes(value: object) -> bytes:
    # A column of SQLite holds whatever type was written, whatever it was declared as.
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


def _name(value: object) -> str:
    return value if isinstance(value, str) else _text(_bytes(value))


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _entry(row: tuple[object, ...]) -> Entry:
    name, value, *numbers = row
    grant_id, create_revision, mod_revision = map(_number, numbers)
    return Entry(
        name=_name(name),
        value=_bytes(value),
        grant_id=grant_id,
        create_revision=create_revision,
        mod_revision=mod_revision,
    )


def _change(row: tuple[object, ...]) -> Change:
    revision, name, is_put, value, grant_id, create_revision = row
    entry = _entry((name, value, grant_id, create_revision, revision)) if is_put else None
    return Change(name=_name(name), entry=entry, revision=_number(revision))


def _expire(db: sqlite3.Connection, now: float) -> None:
    ended = db.execute("SELECT grant_id FROM grants WHERE expires_at <= ?", (now,)).fetchall()
    for (grant_id,) in ended:
        names = db.execute("SELECT name FROM entries WHERE grant_id = ?", (grant_id,)).fetchall()
        if names:
            revision = _next_revision(db)
            for (name,) in names:
                _delete(db, name, revision)
        db.execute("DELETE FROM grants WHERE grant_id = ?", (grant_id,))


def _check_grant(db: sqlite3.Connection, grant_id: int) -> float:
    row = db.execute("SELECT ttl_s FROM grants WHERE grant_id = ?", (grant_id,)).fetchone()
    if row is None:
        raise GrantLostError(f"grant {grant_id:x} is unknown to the store: its time ran out")
    return float(row[0])


def _mod_revision(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("SELECT mod_revision FROM entries WHERE name = ?", (name,)).fetchone()
    return 0 if row is None else int(row[0])


def _next_revision(db: sqlite3.Connection) -> int:
    return int(
        db.execute("UPDATE state SET revision = revision + 1 RETURNING revision").fetchone()[0]
    )


def _put(db: sqlite3.Connection, put: Put, revision: int) -> None:
    (created,) = db.execute(
        "INSERT INTO entries VALUES (?1, ?2, ?3, ?4, ?4)"
        " ON CONFLICT (name) DO UPDATE SET value = ?2, grant_id = ?3, mod_revision = ?4"
        " RETURNING create_revision",
        (put.name, put.value, put.grant_id, revision),
    ).fetchone()
    _log_change(db, (revision, put.name, 1, put.value, put.grant_id, created))


def _delete(db: sqlite3.Connection, name: str, revision: int) -> None:
    if db.execute("DELETE FROM entries WHERE name = ?", (name,)).rowcount:
        _log_change(db, (revision, name, 0, b"", 0, 0))


def _log_change(db: sqlite3.Connection, change: tuple[int, str, int, bytes, int, int]) -> None:
    db.execute(
        "INSERT INTO changes VALUES"
        " (?1, (SELECT count(*) FROM changes WHERE revision = ?1), ?2, ?3, ?4, ?5, ?6)",
        change,
    )

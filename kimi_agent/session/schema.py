"""The tables of a session database, how it is opened, and how a new version changes them.

    sessions   one row per session; `last` is the number of its last record
    lineage    of which records a session is made: those of `source`, up to the number `upto`. A fork has a row for each
               of its ancestors, whether they still are sessions or not, and one for itself
    records    what the sessions say, in the words of the journal, numbered from 1; a fork goes on counting
    texts      what can be searched of them. `found` is the FTS5 index over it, made when it is first wanted
    blobs      large data, once each; `mentions` says which records need them

Two things must be known of SQLite. Its locks belong to the process and are dropped by closing *any* descriptor of the
file, so nothing here opens a database but SQLite, save to create it. And the change to WAL does not wait for its turn:
who loses the race is told "locked" at once, and has to try again.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Final

from ..errors import SessionError

__all__ = ["connect", "database_errors", "index_exists", "index_texts", "is_read_only", "sync", "transaction"]

APPLICATION: Final = 0x4B494D49
"""`KIMI`: the `application_id` by which `file` and other programs know whose database it is."""

PATIENCE: float = 5.0
"""In seconds: how long to wait while another program writes."""

FOREVER: Final = 2**63 - 1
"""The `upto` of a session's own records."""


# ==== tables ====

_TABLES: Final = (
    """
    CREATE TABLE sessions (
        key INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        title TEXT NOT NULL,
        messages INTEGER NOT NULL,
        last INTEGER NOT NULL,
        created INTEGER NOT NULL,
        updated INTEGER NOT NULL
    )
    """,
    "CREATE INDEX sessions_by_time ON sessions (updated, id)",
    """
    CREATE TABLE lineage (
        session INTEGER NOT NULL REFERENCES sessions (key) ON DELETE CASCADE,
        upto INTEGER NOT NULL,
        source INTEGER NOT NULL,
        PRIMARY KEY (session, upto)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX lineage_by_source ON lineage (source, upto)",
    """
    CREATE TABLE records (
        id INTEGER PRIMARY KEY,
        source INTEGER NOT NULL,
        n INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        body BLOB NOT NULL,
        UNIQUE (source, n)
    )
    """,
    """
    CREATE TABLE texts (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        record INTEGER NOT NULL REFERENCES records (id) ON DELETE CASCADE,
        serial INTEGER NOT NULL,
        role TEXT NOT NULL,
        text TEXT NOT NULL
    )
    """,
    "CREATE INDEX texts_by_record ON texts (record)",
    "CREATE TABLE blobs (name TEXT PRIMARY KEY, data BLOB NOT NULL)",
    """
    CREATE TABLE mentions (
        record INTEGER NOT NULL REFERENCES records (id) ON DELETE CASCADE,
        blob TEXT NOT NULL REFERENCES blobs (name),
        PRIMARY KEY (record, blob)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX mentions_by_blob ON mentions (blob)",
)

_INDEX: Final = """
    CREATE VIRTUAL TABLE IF NOT EXISTS found
    USING fts5 (text, content='texts', content_rowid='id', tokenize='unicode61 remove_diacritics 2')
"""


def index_exists(connection: sqlite3.Connection) -> bool:
    """Whether there is a search index, and this SQLite can read it."""
    there = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'found'").fetchone()
    return there is not None and _can_index(connection)


def _can_index(connection: sqlite3.Connection) -> bool:
    return ("fts5",) in connection.execute("SELECT name FROM pragma_module_list")


def index_texts(connection: sqlite3.Connection, most: int = 200) -> bool:
    """Put so many texts that are not in the search index yet into it; whether there may be more of them.

    An index that is write-protected stays as it is.

    Raises:
        ValueError: this SQLite has no FTS5.
        sqlite3.Error: it cannot be written.
    """
    if not _can_index(connection):
        raise ValueError("the SQLite of this Python was built without FTS5")
    if index_exists(connection) and (is_read_only(connection) or not _waiting(connection)):
        return False
    with transaction(connection):
        connection.execute(_INDEX)
        connection.execute(
            "INSERT INTO found (rowid, text) SELECT id, text FROM texts WHERE id > ? ORDER BY id LIMIT ?",
            (_newest(connection, "found_docsize"), most),
        )
        return _waiting(connection)


def _waiting(connection: sqlite3.Connection) -> bool:
    return _newest(connection, "found_docsize") < _newest(connection, "texts")


def _newest(connection: sqlite3.Connection, table: str) -> int:
    [(newest,)] = connection.execute(f"SELECT coalesce(max(id), 0) FROM {table}")
    return newest


# ==== versions ====


def _first_tables(connection: sqlite3.Connection) -> None:
    for statement in _TABLES:
        connection.execute(statement)


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_first_tables,)
"""The function at index n makes version n + 1 of version n; an empty file is version 0."""


def _version(connection: sqlite3.Connection) -> int:
    """The version of the tables.

    Raises:
        ValueError: they are not ours, or newer.
    """
    [[application]] = connection.execute("PRAGMA application_id")
    [[version]] = connection.execute("PRAGMA user_version")
    [[tables]] = connection.execute("SELECT count(*) FROM sqlite_schema")
    if application != APPLICATION and (application or version or tables):
        raise ValueError("it is the database of another application")
    if version > len(MIGRATIONS):
        raise ValueError(
            f"its tables have version {version}, this kimi_agent knows {len(MIGRATIONS)}; use the kimi_agent that "
            "wrote it"
        )
    return version


def _migrate(connection: sqlite3.Connection) -> None:
    with transaction(connection):
        for migration in MIGRATIONS[_version(connection) :]:  # somebody else may have migrated meanwhile
            migration(connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


# ==== opening ====


def connect(path: str) -> sqlite3.Connection:
    """A connection to the database at `path`, which is created, or brought to this version.

    One that is write-protected can be read. What others write to it is seen by the next connection.

    Raises:
        ValueError: it is another application's, or of a newer version, or no file; it is as it was.
        sqlite3.Error: it is no database, or cannot be opened.
        OSError: it cannot be created.
    """
    _create(path)
    _check_kind(path)
    options = _protection(path)
    address = f"{Path(path).as_uri()}?{options}" if options else path
    connection = sqlite3.connect(
        address, timeout=PATIENCE, isolation_level=None, check_same_thread=False, uri=bool(options)
    )
    try:
        if options:
            connection.execute("PRAGMA query_only = ON")
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


_creating: Final = Lock()  # closing the new file drops the locks of whoever of this process has opened it meanwhile


def _create(path: str) -> None:
    """An empty file for its owner alone, whose mode SQLite's files beside it get too."""
    try:
        with _creating, suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"there is no folder {os.path.dirname(path)}; make it first") from error


def _check_kind(path: str) -> None:
    """Refuse what SQLite would fail to open without saying why, or open although it keeps nothing."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise ValueError("it is a folder")
    if not stat.S_ISREG(mode):
        raise ValueError("it is no file")
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, "there is no permission to read it")


def _protection(path: str) -> str:
    """How to open what is write-protected; nothing for what is not.

    Without a log nobody has it open. SQLite is told then that it does not change, or it would make files beside it.
    """
    logged = os.path.exists(f"{path}-wal")
    if os.access(path, os.W_OK) and (logged or os.access(os.path.dirname(path), os.W_OK)):
        return ""
    return "mode=ro" if logged else "mode=ro&immutable=1"


def is_read_only(connection: sqlite3.Connection) -> bool:
    """Whether its database is write-protected."""
    [[value]] = connection.execute("PRAGMA query_only")
    return bool(value)


_SETTINGS: Final = ("foreign_keys = ON", "secure_delete = ON", "trusted_schema = OFF", "cell_size_check = ON")


def _prepare(connection: sqlite3.Connection) -> None:
    with transaction(connection, "DEFERRED"):
        version = _version(connection)
    mode = "" if is_read_only(connection) else _to_wal(connection)
    connection.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
    for setting in _SETTINGS:
        connection.execute(f"PRAGMA {setting}")
    if version < len(MIGRATIONS):
        _migrate(connection)


def _to_wal(connection: sqlite3.Connection) -> str:
    """The journal mode: `wal`, but where the file system cannot do that."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            [[mode]] = connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return mode


def sync(path: str) -> None:
    """Wait until what was committed is on the disk: it is in the file of the log, or has been taken out of it since.

    Raises:
        OSError: the disk refuses.
    """
    for name, flags in ((f"{path}-wal", os.O_RDWR), (os.path.dirname(path), os.O_RDONLY)):
        try:
            descriptor = os.open(name, flags)
        except (FileNotFoundError, PermissionError):  # not every platform can open a folder
            continue
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ==== transactions and errors ====


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Generator[None]:
    """All of it happens, or nothing.

    Args:
        connection: without a transaction.
        kind: `IMMEDIATE` to write, `DEFERRED` to read what belongs together.
    """
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary code of an error; 0 when it comes from Python's module itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


_REASONS: Final = {
    sqlite3.SQLITE_BUSY: "another program keeps it locked; try again when that is done",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk is full, or fails",
    sqlite3.SQLITE_READONLY: "it is write-protected",
    sqlite3.SQLITE_CANTOPEN: "it, its folder, or a file beside it cannot be opened",
    sqlite3.SQLITE_CORRUPT: "it is damaged; `sqlite3 FILE .recover` gets out of it what can be read",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database",
}


@contextmanager
def database_errors(doing: str, path: str) -> Generator[None]:
    """Below this line an error is SQLite's, an `OSError`, or a `ValueError` that says why; above it names the file."""
    try:
        yield
    except sqlite3.Error as error:
        reason = _REASONS.get(_code(error))
        raise SessionError(f"cannot {doing} {path}: {f'{reason} ({error})' if reason else error}") from error
    except OSError as error:
        raise SessionError(f"cannot {doing} {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise SessionError(f"cannot {doing} {path}: {error}") from error
    except RecursionError as error:
        raise SessionError(f"cannot {doing} {path}: it is nested too deeply") from error

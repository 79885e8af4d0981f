"""Many conversations in one SQLite database.

The records are those of the journal, and the same `Ledger` reads them. What is written is written in one transaction,
with the check that nobody else has written since: of two writers one wins, and the other hears of it. A transaction
that was committed survives the end of the process, however it ends. `flush` waits for the disk: what was written before
it survives a power cut too. What was written since may be lost then, the newest first; the database stays whole.

One thread at a time works on the one connection of a store, in the order of the calls.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import unicodedata
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Concatenate, Final, ParamSpec, Self, TypeAlias, TypeVar
from uuid import uuid4

from ..errors import SessionError
from ..limits import Spent
from ..message import Message
from . import file, rows
from .blobs import FilePath, SaveContext
from .ledger import Ledger, Record
from .rows import Known, SessionHit, SessionInfo, TableBlobs
from .schema import connect, database_errors, index_texts, is_read_only, sync, transaction
from .state import SessionState, WindowState
from .writing import Strand

__all__ = ["SQLiteSession", "SQLiteSessionStore", "SessionHit", "SessionInfo"]

P = ParamSpec("P")
T = TypeVar("T")
Hits: TypeAlias = list[SessionHit]
"""Beside a method `list`, which hides the other one from mypy."""

LONGEST_ID: Final = 200


def _checked(id: str) -> str:
    if not isinstance(id, str) or not 1 <= len(id) <= LONGEST_ID:
        raise SessionError(f"the id of a session is a text of 1 to {LONGEST_ID} characters, not {repr(id)[:80]}")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in id):
        raise SessionError(f"the id of a session has no control characters and no lone surrogates: {id!r}")
    return id


# ==== a session ====


class SQLiteSession:
    """A session of a `SQLiteSessionStore`, whose `open` makes it. See `Session` for what it does."""

    id: str
    """By which the store knows it."""

    def __init__(self, store: SQLiteSessionStore, id: str) -> None:
        self.id = id
        self._store = store
        self._known: Known | None = None

    def __repr__(self) -> str:
        return f"SQLiteSession({self.id!r} in {self._store.path})"

    async def load(self) -> SessionState:
        """What was kept. After a `SessionConflictError` it takes up what the others have written.

        Raises:
            SessionError: it cannot be read.
        """
        return await self._run("load", self._load)

    async def append(
        self, messages: Sequence[Message], *, usage: Spent | None = None, window: WindowState | None = None
    ) -> None:
        """Add messages, and what the conversation has cost with them.

        Raises:
            SessionError: it cannot be written.
            SessionConflictError: somebody else has written since.
        """
        added = tuple(messages)

        def make(ledger: Ledger) -> Record:
            return ledger.appending(added, usage, window)

        await self._run("write", self._write, make)

    async def replace(self, state: SessionState, *, reason: str = "") -> None:
        """Put a state in the place of the present one. What was there can still be searched.

        Raises:
            SessionError: it cannot be written.
            SessionConflictError: somebody else has written since.
        """

        def make(ledger: Ledger) -> Record:
            return ledger.replacing(state, reason)

        await self._run("write", self._write, make)

    async def checkpoint(self, label: str) -> None:
        """Remember the present state under a label; an older one of this label is forgotten.

        Raises:
            SessionError: it cannot be written.
            SessionConflictError: somebody else has written since.
        """

        def make(ledger: Ledger) -> Record:
            return ledger.checkpointing(label)

        await self._run("write", self._write, make)

    async def rollback(self, label: str) -> SessionState:
        """Go back to a checkpoint.

        Raises:
            SessionError: there is none of this label, or it cannot be written.
            SessionConflictError: somebody else has written since.
        """
        return await self._run("write", self._roll_back, label)

    async def flush(self) -> None:
        """Wait until all that was written is on the disk.

        Raises:
            SessionError: the disk refuses.
        """
        await self._run("flush", self._store._flush)

    async def aclose(self) -> None:
        """A session holds nothing open; its store does."""

    async def _run(
        self, verb: str, job: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._store._run(f"{verb} session {self.id!r} in", job, *args, **kwargs)

    # ---- in the thread of the store ----

    def _load(self, connection: sqlite3.Connection) -> SessionState:
        with transaction(connection, "DEFERRED"):
            self._known = rows.read(connection, self._store._blobs, self.id)
        return self._known.state

    def _write(self, connection: sqlite3.Connection, make: Callable[[Ledger], Record]) -> Known:
        blobs = self._store._blobs
        with transaction(connection):
            known = self._known or rows.read(connection, blobs, self.id)
            rows.check_unchanged(connection, self.id, known)
            record = make(known.ledger)
            key = known.key or rows.insert(connection, self.id)
            last = rows.add(connection, blobs, key, record)
        self._known = None  # it is written, whatever comes now
        known.ledger.apply(record)
        self._known = Known(known.ledger, key, last, known.damage)
        return self._known

    def _roll_back(self, connection: sqlite3.Connection, label: str) -> SessionState:
        return self._write(connection, lambda ledger: ledger.rolling_back(label)).state


# ==== the store ====


class SQLiteSessionStore:
    """Many sessions in one SQLite database, for any number of tasks, event loops and processes.

    Nothing is opened before it is first used, and `aclose` closes it; used again, it opens again. The file is created
    for its owner alone. A database that is write-protected can be read. `async with` closes it at the end.

    Args:
        path: of the database. Its folder must exist, on a disk of this machine.

    Raises:
        SessionError: there is a NUL in the path.
    """

    def __init__(self, path: FilePath) -> None:
        name = os.fsdecode(path)
        if "\0" in name:
            raise SessionError(f"the path of a file has no NUL: {name!r}")
        self.path: str = os.path.realpath(name)
        self._process = os.getpid()
        self._strand = Strand()
        self._blobs = TableBlobs()
        self._opened: _Opened | None = None

    def __repr__(self) -> str:
        return f"SQLiteSessionStore({self.path!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def open(self, id: str) -> SQLiteSession:
        """The session of this id. One that does not exist is made by its first write.

        Args:
            id: any text of 1 to 200 characters without control characters.

        Raises:
            SessionError: it is no such text.
        """
        return SQLiteSession(self, _checked(id))

    async def list(self, limit: int = 50, after: SessionInfo | None = None) -> list[SessionInfo]:
        """The sessions, the last one that was written first.

        Args:
            limit: how many at most.
            after: the last one of the page before.

        Raises:
            SessionError: they cannot be read.
        """
        doing = "list the sessions in"
        return await self._run(doing, rows.listed, limit, after) if await self._exists(doing) else []

    async def info(self, id: str) -> SessionInfo | None:
        """A session as `list` shows it; `None` when there is none of this id.

        Raises:
            SessionError: it cannot be read.
        """
        doing = f"look for session {_checked(id)!r} in"
        return await self._run(doing, rows.info, id) if await self._exists(doing) else None

    async def search(self, text: str, limit: int = 20) -> Hits:
        """The messages with all words of `text`, or words that begin so, the newest first.

        Upper and lower case and accents are the same. In Chinese, Japanese, Korean and other scripts without spaces
        any piece of a sentence is found. Messages that a compaction or a rollback has removed are found too; one that
        several forks share is found in each.

        Args:
            text: some words. No character in it is an operator.
            limit: how many at most.

        Raises:
            SessionError: they cannot be read, or this SQLite was built without FTS5.
        """
        doing = "search the sessions in"
        if not await self._exists(doing):
            return []
        while await self._run(doing, index_texts):
            pass
        return await self._run(doing, self._search, text, limit)

    async def fork(self, id: str, new_id: str | None = None, *, at: int | None = None) -> SQLiteSession:
        """A new session that begins like another one and shares its messages, stored once.

        Args:
            id: of the session to begin like.
            new_id: of the new one; one is made up if there is none.
            at: how many messages of its history to begin with. All, if it is not said.

        Raises:
            SessionError: there is no such session, or there is one of the new id, or `at` is beyond the history or
                parts the results of an exchange from their calls.
        """
        forked = self.open(uuid4().hex if new_id is None else new_id)
        await self._run(f"fork session {_checked(id)!r} in", self._fork, id, forked.id, at)
        return forked

    async def delete(self, id: str) -> None:
        """Delete a session. What its forks share with it stays until the last of them is deleted.

        Raises:
            SessionError: there is no such session, or it cannot be written.
        """
        await self._run(f"delete session {_checked(id)!r} in", self._delete, id)

    async def export(self, id: str, path: FilePath) -> None:
        """Write a session to a `.json` or `.kimi` file, as `Agent.save` does.

        Raises:
            SessionError: there is no such session, or the file cannot be written.
        """
        await self._run(f"export session {_checked(id)!r} from", self._export, id, path)

    async def import_(self, path: FilePath, id: str | None = None) -> SQLiteSession:
        """A new session out of a file that `export` or `Agent.save` wrote.

        Args:
            path: of the file.
            id: of the new session; one is made up if there is none.

        Raises:
            SessionError: the file cannot be read, or there is a session of this id.
        """
        imported = self.open(uuid4().hex if id is None else id)
        await self._run(f"import session {imported.id!r} into", self._import, path, imported.id)
        return imported

    async def aclose(self) -> None:
        """Close the database. Twice is once; used again, it opens again."""
        await self._here().run(self._close)

    async def _run(
        self, doing: str, job: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._here().run(self._work, doing, job, *args, **kwargs)

    async def _exists(self, doing: str) -> bool:
        """Whether there is a database, or was when it was opened. Who only looks makes none."""
        return await self._here().run(self._is_there, doing)

    def _here(self) -> Strand:
        """Where this process works. After a fork the threads and the connection are the parent's."""
        if self._process != os.getpid():
            self._process, self._strand, self._opened = os.getpid(), Strand(), None
        return self._strand

    # ---- in the thread of the store ----

    def _work(
        self, doing: str, job: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with database_errors(doing, self.path):
            try:
                return job(self._connected(), *args, **kwargs)
            finally:
                if self._opened is not None and self._opened.read_only:  # it would not see what others write
                    self._close()

    def _is_there(self, doing: str) -> bool:
        with database_errors(doing, self.path):
            return self._opened is not None or _identity(self.path) is not None

    def _connected(self) -> sqlite3.Connection:
        if self._opened is None:
            self._opened = _Opened(self)
            self._blobs.connection = self._opened.connection
        self._opened.check_place()
        return self._opened.connection

    def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def _flush(self, connection: sqlite3.Connection) -> None:
        with suppress(sqlite3.Error, ValueError):  # whoever searches hears of it
            index_texts(connection)
        sync(self.path)

    def _search(self, connection: sqlite3.Connection, text: str, limit: int) -> Hits:
        with transaction(connection, "DEFERRED"):
            return rows.found(connection, self._blobs, text, limit)

    def _fork(self, connection: sqlite3.Connection, id: str, new_id: str, at: int | None) -> None:
        with transaction(connection):
            rows.fork(connection, self._blobs, id, new_id, at)

    def _delete(self, connection: sqlite3.Connection, id: str) -> None:
        with transaction(connection):
            rows.delete(connection, id)

    def _export(self, connection: sqlite3.Connection, id: str, path: FilePath) -> None:
        with transaction(connection, "DEFERRED"):
            state = rows.required(connection, self._blobs, id).state
            file.save(path, state, blobs=self._blobs)

    def _import(self, connection: sqlite3.Connection, path: FilePath, id: str) -> None:
        brought = file._Shelf({})
        state = file.load(path, blobs=brought)
        with transaction(connection):
            rows.refuse_taken(connection, id)
            for data in brought.taken.values():
                self._blobs.put(data)
            record = Ledger(SaveContext(self._blobs)).replacing(state, "import")
            rows.add(connection, self._blobs, rows.insert(connection, id), record)


class _Opened:
    """A connection, closed when its store is given up or the program ends.

    Raises:
        ValueError: this process has it from its parent. SQLite takes the parent's locks for its own then: the parent
            would not know that somebody is there, and throw away the log that the child writes.
    """

    def __init__(self, store: SQLiteSessionStore) -> None:
        if _identity(store.path) in _inherited:
            raise ValueError(
                "it was open when this process was forked; close the store before that, or have processes spawned"
            )
        self.connection = connect(store.path)
        self.read_only = is_read_only(self.connection)
        self.close = weakref.finalize(store, self.connection.close)
        self.file = _identity(store.path)
        self._path = store.path
        _all_opened.add(self)

    def check_place(self) -> None:
        """Refuse to work on a file that nobody would find.

        Raises:
            FileNotFoundError: it is no longer where it was.
        """
        if _identity(self._path) != self.file:
            raise FileNotFoundError(errno.ENOENT, "it was moved or replaced while it was open; close the store first")


_all_opened: Final[weakref.WeakSet[_Opened]] = weakref.WeakSet()
_inherited: Final[dict[tuple[int, int] | None, _Opened]] = {}


def _inherit() -> None:
    """After a fork, in the child: what is open is the parent's, and must not even be closed."""
    for opened in _all_opened:
        if opened.close.detach():
            _inherited[opened.file] = opened
    _all_opened.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_inherit)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino

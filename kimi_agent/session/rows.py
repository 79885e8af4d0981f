"""What the rows of a session database say: the work of `SQLiteSessionStore`, as functions of a connection.

None of them begins or ends a transaction; whoever calls one has begun it.
"""

from __future__ import annotations

import re
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, NamedTuple

from ..errors import SessionConflictError
from ..message import Message, Role
from .blobs import BlobMissingError, Room, SaveContext, blob_name, checked, extract, named
from .codec import uncollected
from .ledger import BEGIN, LOST, Fields, Ledger, Record, decoded, without_lost
from .schema import FOREVER, index_exists
from .state import Damage, SessionState

__all__ = [
    "Known",
    "SessionHit",
    "SessionInfo",
    "TableBlobs",
    "add",
    "check_unchanged",
    "delete",
    "fork",
    "found",
    "info",
    "insert",
    "listed",
    "read",
    "refuse_taken",
    "required",
]


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as a list shows it.

    Args:
        id: of the session.
        title: the beginning of the first text of a user in it.
        messages: how many there are in its history.
        created: when it was first written.
        updated: when it was last written.
    """

    id: str
    title: str
    messages: int
    created: datetime
    updated: datetime


@dataclass(frozen=True, slots=True)
class SessionHit:
    """A message that has what was searched for.

    Args:
        session: the id of its session.
        index: where it is in the history; `None` when it is no longer there, after a compaction for example.
        role: who said it.
        snippet: some words of its text, with the first that was found.
    """

    session: str
    index: int | None
    role: Role
    snippet: str


# ==== times and texts ====

LONGEST_TITLE: Final = 80

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)


def _now() -> int:
    """In microseconds since 1970."""
    return time.time_ns() // 1000


def _storable(text: str) -> str:
    """Without what SQLite cannot keep or search: lone surrogates and zeros."""
    return text.encode("utf-8", "replace").decode().replace("\0", " ")


def _title(messages: Iterable[Message]) -> str:
    """The first text of a user, shortened; `""` when there is none."""
    texts = (" ".join(_storable(message.text).split()) for message in messages if message.role == "user")
    text = next(filter(None, texts), "")
    return text if len(text) <= LONGEST_TITLE else text[: LONGEST_TITLE - 1].rstrip() + "…"


_UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Scripts that write no spaces between words, or hang endings on them: each character is a word of its own."""

_SEAM: Final = "\x1f"
"""Parts what has no spaces. The tokenizer takes it for one, and a snippet leaves it out."""


def _seamed(text: str) -> str:
    """A text as the index has it."""
    return _UNSPACED.sub(rf"{_SEAM}\g<0>{_SEAM}", _storable(text).replace(_SEAM, " "))


def _query(text: str) -> str:
    """The words of a user for FTS5: all of them, each a quoted phrase whose end may go on."""
    words = [_seamed(word).replace('"', '""') for word in _storable(text).split()]
    return " ".join([f'"{word}"*' for word in words])


# ==== blobs ====


class TableBlobs:
    """The blobs of a database. They are kept by the transaction that is under way."""

    connection: sqlite3.Connection

    def put(self, data: bytes, /) -> str:
        name = blob_name(data)
        self.connection.execute("INSERT OR IGNORE INTO blobs VALUES (?, ?)", (name, data))
        return name

    def get(self, name: str, /) -> bytes:
        row = self.connection.execute("SELECT data FROM blobs WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise BlobMissingError(f"the blob {name} is missing")
        return checked(name, row[0])


# ==== reading ====


_NO_SESSION: Final = "there is no session of this id"


@dataclass(slots=True)
class Known:
    """What is known of a session.

    Args:
        ledger: what its records say.
        key: of its row; `None` when it has none yet.
        last: the number of the last record.
        damage: what could not be read.
    """

    ledger: Ledger
    key: int | None = None
    last: int = 0
    damage: tuple[Damage, ...] = ()

    @property
    def state(self) -> SessionState:
        """The conversation as it is now."""
        return self.ledger.state(self.damage)


class _Records(NamedTuple):
    """The records of a session that could be read, with their numbers, and what could not."""

    numbers: list[int]
    bodies: list[bytes]
    damage: list[Damage]


def read(connection: sqlite3.Connection, blobs: TableBlobs, id: str) -> Known:
    """Everything of a session; one that does not exist is empty.

    Raises:
        ValueError: a newer version has written it.
    """
    row = connection.execute("SELECT key, last FROM sessions WHERE id = ?", (id,)).fetchone()
    if row is None:
        return Known(Ledger(SaveContext(blobs)))
    key, last = row
    _check_numbers(key, last)
    with uncollected():
        return _replayed(blobs, _records(connection, blobs, key, last), key, last)


def required(connection: sqlite3.Connection, blobs: TableBlobs, id: str) -> Known:
    """Everything of a session.

    Raises:
        ValueError: there is none, or a newer version has written it.
    """
    known = read(connection, blobs, id)
    if known.key is None:
        raise ValueError(_NO_SESSION)
    return known


def _replayed(blobs: TableBlobs, records: _Records, key: int, last: int) -> Known:
    ledger = Ledger(SaveContext(blobs))
    unusable = [
        Damage(records.numbers[index], len(records.bodies[index]), reason)
        for index, reason in ledger.replay(records.bodies)
    ]
    damage = sorted([*records.damage, *unusable], key=lambda damage: damage.offset)
    return Known(ledger, key, last, tuple(damage))


def _records(connection: sqlite3.Connection, blobs: TableBlobs, key: int, last: int) -> _Records:
    records = _Records([], [], [])
    room = Room()
    expected = 1
    for n, crc, body in _stored(connection, key):
        _check_numbers(n)
        if n != expected:
            records.damage.append(_missing(expected, n))
        expected = n + 1
        lost: list[str] = []
        try:
            whole = _whole(body, crc, room, partial(_get, blobs, lost))
            records.bodies.append(without_lost(whole) if lost else whole)
            records.numbers.append(n)
            records.damage.extend(Damage(n, len(body), reason) for reason in lost[:1])
        except ValueError as error:
            records.damage.append(Damage(n, len(body) if isinstance(body, bytes) else 0, str(error)))
    if expected <= last:
        records.damage.append(_missing(expected, last + 1))
    return records


def _stored(connection: sqlite3.Connection, key: int) -> Iterator[tuple[int, int, bytes]]:
    return connection.execute(RECORDS_OF, (key,))


RECORDS_OF: Final = """
    SELECT n, crc, body FROM lineage JOIN records ON records.source = lineage.source AND n <= upto
    WHERE session = ? ORDER BY upto, n
"""


def _whole(body: bytes, crc: int, room: Room, get: Callable[[str], bytes]) -> bytes:
    """A record as it was made; with `LOST` in the place of what was lost of it.

    Raises:
        ValueError: it is damaged, or there is no room for its blobs.
    """
    if not isinstance(body, bytes) or zlib.crc32(body) != crc:
        raise ValueError("its checksum is another")
    return room.restore(body, get)


def _get(blobs: TableBlobs, lost: list[str], name: str) -> bytes:
    """A blob; if it is lost, why, and what stands for it."""
    try:
        return blobs.get(name)
    except ValueError as error:
        lost.append(str(error))
        return LOST


def _missing(first: int, end: int) -> Damage:
    return Damage(first, 0, "the record is missing" if end - first == 1 else f"{end - first} records are missing")


def listed(connection: sqlite3.Connection, limit: int, after: SessionInfo | None) -> list[SessionInfo]:
    """The sessions, the last one that was written first."""
    where, place = "", ()
    if after is not None:
        where, place = "WHERE (updated, id) < (?, ?)", ((after.updated - _EPOCH) // _TICK, after.id)
    rows = connection.execute(
        f"SELECT id, title, messages, created, updated FROM sessions {where} ORDER BY updated DESC, id DESC LIMIT ?",
        (*place, _bounded(limit)),
    )
    return [_info(*row) for row in rows]


def info(connection: sqlite3.Connection, id: str) -> SessionInfo | None:
    """A session as a list shows it; `None` when there is none of this id."""
    row = connection.execute(
        "SELECT id, title, messages, created, updated FROM sessions WHERE id = ?", (id,)
    ).fetchone()
    return row and _info(*row)


def _bounded(limit: int) -> int:
    """A limit as SQLite understands it."""
    return min(max(0, limit), FOREVER)


def _info(id: str, title: str, messages: int, created: int, updated: int) -> SessionInfo:
    _check_numbers(messages, created, updated)
    try:
        return SessionInfo(str(id), str(title), messages, _EPOCH + created * _TICK, _EPOCH + updated * _TICK)
    except OverflowError as error:
        raise ValueError(f"it is damaged: session {id!r} has no such time") from error


def _check_numbers(*values: object) -> None:
    """A damaged file may have anything anywhere.

    Raises:
        ValueError: one is no number.
    """
    if not all(isinstance(value, int) for value in values):
        raise ValueError(f"it is damaged: {values} are to be whole numbers")


def found(connection: sqlite3.Connection, blobs: TableBlobs, text: str, limit: int) -> list[SessionHit]:
    """The messages with all words of a text, the newest first; what is not in the index yet is not found."""
    query = _query(text)
    rows = connection.execute(_FIND, (query, _bounded(limit))).fetchall() if query else []
    places = {id: _places(connection, blobs, id) for id in {id for id, *_ in rows}}
    return [
        SessionHit(id, places[id].get(serial), role, " ".join(snippet.replace(_SEAM, "").split()))
        for id, serial, role, snippet in rows
    ]


_FIND: Final = """
    SELECT sessions.id, serial, role, snippet(found, 0, '', '', '…', 24)
    FROM found
    JOIN texts ON texts.id = found.rowid
    JOIN records ON records.id = texts.record
    JOIN lineage ON lineage.source = records.source AND n <= upto
    JOIN sessions ON sessions.key = lineage.session
    WHERE found MATCH ? ORDER BY found.rowid DESC, sessions.key DESC LIMIT ?
"""


def _places(connection: sqlite3.Connection, blobs: TableBlobs, id: str) -> dict[int, int]:
    """The index of each message in a history, by its serial number; none of a session that cannot be read."""
    with suppress(ValueError):
        return {serial: index for index, serial in enumerate(read(connection, blobs, id).ledger._line.serials)}
    return {}


# ==== writing ====


def check_unchanged(connection: sqlite3.Connection, id: str, known: Known) -> None:
    """Refuse to write after somebody else has.

    Raises:
        SessionConflictError: somebody has.
    """
    row = connection.execute("SELECT key, last FROM sessions WHERE id = ?", (id,)).fetchone()
    if row != ((known.key, known.last) if known.key else None):
        what = "written" if row and row[0] == known.key else "deleted" if row is None else "begun anew"
        raise SessionConflictError(
            f"session {id!r} was {what} by somebody else, and this was not written; the next round of an agent takes "
            "up what is there now, and so does load()"
        )


def refuse_taken(connection: sqlite3.Connection, id: str) -> None:
    """Refuse to make a session that exists.

    Raises:
        ValueError: it does.
    """
    if connection.execute("SELECT 1 FROM sessions WHERE id = ?", (id,)).fetchone():
        raise ValueError(f"there is a session {id!r} already")


def insert(connection: sqlite3.Connection, id: str) -> int:
    """A new session without records. Its key."""
    now = _now()
    cursor = connection.execute("INSERT INTO sessions VALUES (NULL, ?, '', 0, 0, ?, ?)", (id, now, now))
    key = cursor.lastrowid or 0
    connection.execute("INSERT INTO lineage VALUES (?, ?, ?)", (key, FOREVER, key))
    return key


def add(connection: sqlite3.Connection, blobs: TableBlobs, key: int, record: Record) -> int:
    """Write a record behind the others, and the beginning before the first. Its number."""
    [(last,)] = connection.execute("SELECT last FROM sessions WHERE key = ?", (key,))
    for number, each in enumerate([record] if last else [BEGIN, record], last + 1):
        _add_one(connection, blobs, key, number, each)
        last = number
    said = record.fields.get("messages", [])
    order = record.fields.get("order")
    before = "messages + ?" if order is None else "?"
    count = len(said) if order is None else sum(end - first + 1 for first, end in order)
    connection.execute(
        f"""
        UPDATE sessions SET last = ?, updated = ?, messages = {before}, title = CASE title WHEN '' THEN ? ELSE title END
        WHERE key = ?
        """,
        (last, _now(), count, _title(said), key),
    )
    return last


def _add_one(connection: sqlite3.Connection, blobs: TableBlobs, key: int, number: int, record: Record) -> None:
    body = extract(record.body, blobs.put)
    cursor = connection.execute(
        "INSERT INTO records (source, n, crc, body) VALUES (?, ?, ?, ?)", (key, number, zlib.crc32(body), body)
    )
    row = cursor.lastrowid
    connection.executemany(
        "INSERT INTO texts (record, serial, role, text) VALUES (?, ?, ?, ?)",
        [
            (row, serial, message.role, _seamed(text))
            for serial, message in _said(record.fields)
            if (text := message.text)
        ],
    )
    connection.executemany(
        "INSERT INTO mentions SELECT ?, name FROM blobs WHERE name = ?",
        [(row, name) for name in named(body)],
    )


def _said(fields: Fields) -> Iterable[tuple[int, Message]]:
    """The new messages of a record, with their serial numbers."""
    return enumerate(fields.get("messages", []), fields.get("first", 1))


# ==== forks and deletes ====


def fork(connection: sqlite3.Connection, blobs: TableBlobs, id: str, new_id: str, at: int | None) -> None:
    """A session `new_id` that begins with the first `at` messages of another one, or all.

    It shares the records up to the one that had them all, and what the conversation had cost by then. If there was
    more, or another order, its first own record says which messages it has.

    Raises:
        ValueError: there is no such session, or one of the new id, or `at` is no place to begin at.
    """
    refuse_taken(connection, new_id)
    row = connection.execute("SELECT key, last, messages, title FROM sessions WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise ValueError(_NO_SESSION)
    if at is None:
        _branch(connection, new_id, *row)
        return
    known = read(connection, blobs, id)
    history = known.state.chat_history
    _check_cut(history, at)
    shared, begins = _cut(connection, blobs, known, at)
    title = row[-1] if any(message.role == "user" for message in history[:at]) else ""
    key = _branch(connection, new_id, row[0], shared.last, at, title)
    if begins != shared.state:
        add(connection, blobs, key, shared.ledger.replacing(begins, "fork"))


def _branch(connection: sqlite3.Connection, id: str, parent: int, last: int, messages: int, title: str) -> int:
    """A new session that has the first records of another one. Its key."""
    key = insert(connection, id)
    connection.execute(
        "UPDATE sessions SET last = ?, messages = ?, title = ? WHERE key = ?", (last, messages, title, key)
    )
    rows = connection.execute("SELECT source, upto FROM lineage WHERE session = ? ORDER BY upto", (parent,))
    for source, upto in rows.fetchall():
        connection.execute("INSERT INTO lineage VALUES (?, ?, ?)", (key, min(upto, last), source))
        if upto >= last:
            break
    return key


def _check_cut(history: Sequence[Message], at: int) -> None:
    if not 0 <= at <= len(history):
        raise ValueError(f"its history has {len(history)} messages, it cannot be cut at {at}")
    if at < len(history) and history[at].role == "tool":
        raise ValueError(f"message {at} is a result of the exchange before it; fork where the exchange begins or ends")


def _cut(connection: sqlite3.Connection, blobs: TableBlobs, known: Known, at: int) -> tuple[Known, SessionState]:
    """The session as it was when it first had all of these messages, and as the fork is to begin."""
    if known.key is None or at == len(known.ledger._line.serials):
        return known, known.state
    records = _records(connection, blobs, known.key, known.last)
    wanted = known.ledger._line.serials[:at]
    place = _place_of(max(wanted, default=0), decoded(records.bodies))
    sooner = _Records(records.numbers[: place + 1], records.bodies[: place + 1], [])
    shared = _replayed(blobs, sooner, known.key, sooner.numbers[-1] if sooner.numbers else known.last)
    now, then = known.state, shared.state
    if shared.ledger._line.serials[:at] != wanted:
        then = replace(then, cut=0, counted=None)
    begins = replace(
        now,
        chat_history=tuple(map(shared.ledger._messages.get, wanted, now.chat_history)),
        usage=then.usage,
        cut=min(then.cut, max(at - 1, 0)),
        scale=then.scale,
        counted=then.counted if then.counted and then.counted["answer"] < at else None,
        damage=shared.damage,
    )
    return shared, begins


def _place_of(serial: int, records: Iterable[Fields | str]) -> int:
    """Where the record with this message is; the first one for none."""
    ends = (
        0 if isinstance(fields, str) else fields.get("first", 1) + len(fields.get("messages", [])) for fields in records
    )
    return next((place for place, end in enumerate(ends) if serial < end), 0)


def delete(connection: sqlite3.Connection, id: str) -> None:
    """Delete a session, and of its records and its ancestors' those that no other one shares.

    Raises:
        ValueError: there is no such session.
    """
    row = connection.execute("SELECT key FROM sessions WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise ValueError(_NO_SESSION)
    sources = connection.execute("SELECT source FROM lineage WHERE session = ?", row).fetchall()
    connection.execute("DELETE FROM sessions WHERE key = ?", row)
    for (source,) in sources:
        [(upto,)] = connection.execute("SELECT coalesce(max(upto), 0) FROM lineage WHERE source = ?", (source,))
        _free(connection, source, upto)


def _free(connection: sqlite3.Connection, source: int, upto: int) -> None:
    """Delete the records of a source behind a number, and what only they needed."""
    doomed = "(SELECT id FROM records WHERE source = ? AND n > ?)"
    if index_exists(connection):
        connection.execute(
            f"""
            INSERT INTO found (found, rowid, text) SELECT 'delete', id, text FROM texts
            WHERE record IN {doomed} AND id IN (SELECT id FROM found_docsize)
            """,
            (source, upto),
        )
    names = connection.execute(
        f"SELECT DISTINCT blob FROM mentions WHERE record IN {doomed}", (source, upto)
    ).fetchall()
    connection.execute("DELETE FROM records WHERE source = ? AND n > ?", (source, upto))
    connection.executemany(
        "DELETE FROM blobs WHERE name = ? AND NOT EXISTS (SELECT 1 FROM mentions WHERE blob = blobs.name)", names
    )

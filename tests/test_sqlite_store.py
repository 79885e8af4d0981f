"""Sessions in a SQLite database."""

import asyncio
import errno
import os
import random
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from base64 import b64encode
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydantic import SerializationInfo, ValidationInfo, field_serializer, field_validator
from timing import untraced

from kimi_agent import Agent, history
from kimi_agent.errors import SessionConflictError, SessionError
from kimi_agent.limits import Spent
from kimi_agent.message import ContentPart, ImageURLPart, MediaURL, Message, ToolCall
from kimi_agent.session import SQLiteSession, rows, schema
from kimi_agent.session.blobs import get_ctx
from kimi_agent.session.ledger import BEGIN, Ledger
from kimi_agent.session.sqlite import SQLiteSessionStore
from kimi_agent.session.state import Session, SessionState, WindowState
from kimi_agent.testing import ScriptedKimi, say

SEQUENCES = int(os.environ.get("KIMI_AGENT_STORES", "10"))
"""How many random sequences of operations are compared with a model."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.db"


@pytest.fixture
async def store(path: Path):
    async with SQLiteSessionStore(path) as store:
        yield store


def said(*texts: str) -> list[Message]:
    return [Message.user(text) for text in texts]


async def texts_of(session: Session) -> list[str]:
    return [message.text for message in (await session.load()).chat_history]


def query(path: Path, statement: str, *values: Any) -> list[Any]:
    """What another program sees, or does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement, values).fetchall()


def assert_tidy(path: Path) -> None:
    """Nothing is kept that no session needs, and the search index is what the texts say."""
    unshared = "SELECT * FROM lineage WHERE lineage.source = records.source AND n <= upto"
    assert query(path, f"SELECT count(*) FROM records WHERE NOT EXISTS ({unshared})") == [(0,)]
    assert query(path, "SELECT count(*) FROM lineage WHERE session NOT IN (SELECT key FROM sessions)") == [(0,)]
    assert query(path, "SELECT count(*) FROM blobs WHERE name NOT IN (SELECT blob FROM mentions)") == [(0,)]
    assert query(path, "PRAGMA foreign_key_check") == []
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    if query(path, "SELECT 1 FROM sqlite_schema WHERE name = 'found'"):
        query(path, "INSERT INTO found (found, rank) VALUES ('integrity-check', 1)")
        assert query(path, "SELECT id FROM found_docsize EXCEPT SELECT id FROM texts") == []


# ==== one session ====


async def test_what_was_appended_is_loaded_by_another_store(path):
    state = SessionState((Message.system("be terse"),), tuple(said("a")), Spent(output=3), prompt_cache_key="k")
    async with SQLiteSessionStore(path) as store:
        session = store.open("x")
        await session.replace(state)
        await session.append(said("b", "c"), usage=Spent(output=5), window=WindowState(1, 1.5))
    async with SQLiteSessionStore(path) as store:
        loaded = await store.open("x").load()
    assert loaded == SessionState(
        state.always_included_messages,
        tuple(said("a", "b", "c")),
        Spent(output=5),
        cut=1,
        scale=1.5,
        prompt_cache_key="k",
    )


async def test_a_session_of_the_store_is_a_session(store):
    assert isinstance(store.open("x"), Session)
    assert isinstance(store.open("x"), SQLiteSession)
    assert store.open("x").id == "x"


async def test_nothing_is_opened_before_it_is_used(path):
    store = SQLiteSessionStore(path)
    store.open("x")
    await store.aclose()
    assert not path.exists()


async def test_a_session_begins_with_its_first_write(store):
    session = store.open("x")
    assert await session.load() == SessionState()
    assert await store.list() == []
    await session.append(said("a"))
    assert [info.id for info in await store.list()] == ["x"]


async def test_an_append_does_not_need_a_load_and_does_not_read_the_history(store):
    await store.open("x").append(said("a"))
    session = store.open("x")
    await session.append(said("b"))
    statements: list[str] = []
    store._opened.connection.set_trace_callback(statements.append)
    await session.append(said("c"))
    store._opened.connection.set_trace_callback(None)
    assert not [statement for statement in statements if "body" in statement and "SELECT" in statement]
    assert await texts_of(session) == ["a", "b", "c"]


async def test_a_checkpoint_is_gone_back_to_after_the_store_was_closed(store):
    session = store.open("x")
    await session.append(said("a"))
    await session.checkpoint("before")
    await session.append(said("b"))
    await store.aclose()
    assert (await session.rollback("before")).chat_history == tuple(said("a"))
    assert await texts_of(store.open("x")) == ["a"]
    with pytest.raises(SessionError, match="no checkpoint 'other'"):
        await session.rollback("other")
    with pytest.raises(SessionError, match="no checkpoint"):
        await store.open("new").rollback("before")
    assert [(info.id, info.messages) for info in await store.list()] == [("x", 1)]


async def test_what_json_cannot_say_is_refused_and_nothing_is_written(store):
    session = store.open("x")
    with pytest.raises(SessionError, match=r"cannot write session 'x' in .*message 1"):
        await session.append([Message.user("a"), Message.user("b", extra={"c": object()})])
    assert await store.list() == []
    await session.append(said("a"))
    assert await texts_of(session) == ["a"]


async def test_lone_surrogates_and_zeros_survive(store):
    await store.open("x").append(said("a\ud800\0b"))
    assert await texts_of(store.open("x")) == ["a\ud800\0b"]
    assert [hit.session for hit in await store.search("b")] == ["x"]
    [info] = await store.list()
    assert info.title == "a? b"


async def test_a_session_that_fails_after_a_write_reads_what_it_has_written(store, monkeypatch):
    session = store.open("x")
    await session.append(said("a"))
    monkeypatch.setattr(Ledger, "apply", lambda ledger, record: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        await session.append(said("b"))
    monkeypatch.undo()
    await session.append(said("c"))
    assert await texts_of(session) == ["a", "b", "c"]


@pytest.mark.parametrize("id", ["", "a" * 201, "a\nb", "\x7f", "\ud800", "\u2028", None, 5])
async def test_an_id_is_a_short_text_without_control_characters(store, id):
    with pytest.raises(SessionError, match="id of a session"):
        store.open(id)
    with pytest.raises(SessionError, match="id of a session"):
        await store.delete(id)


@pytest.mark.parametrize("id", ["../../etc/passwd", "a/b", "天气 ☀", "' OR 1=1 --", "a" * 200, "%", " "])
async def test_an_id_is_never_anything_but_a_name(store, path, id):
    await store.open(id).append(said("a"))
    assert await texts_of(store.open(id)) == ["a"]
    assert [info.id for info in await store.list()] == [id]
    assert {each.name.partition("-")[0] for each in path.parent.iterdir()} == {"sessions.db"}
    await store.delete(id)
    assert await store.list() == []


# ==== the file ====


async def test_the_files_are_for_their_owner_alone_whatever_the_umask(store, path):
    before = os.umask(0)
    try:
        await store.open("x").append(said("a"))
    finally:
        os.umask(before)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert modes == dict.fromkeys(["sessions.db", "sessions.db-wal", "sessions.db-shm"], 0o600)


async def test_an_empty_file_becomes_a_database_of_this_version(store, path):
    path.touch()
    await store.open("x").append(said("a"))
    assert query(path, "PRAGMA user_version") == [(len(schema.MIGRATIONS),)]
    assert query(path, "PRAGMA application_id") == [(schema.APPLICATION,)]
    assert query(path, "PRAGMA journal_mode") == [("wal",)]


async def test_an_older_database_is_migrated_all_of_it_or_nothing(path, monkeypatch):
    async with SQLiteSessionStore(path) as store:
        await store.open("x").append(said("a"))

    def halfway(connection):
        connection.execute("ALTER TABLE sessions ADD COLUMN colour TEXT")
        raise ValueError("the migration fails")

    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, halfway))
    with pytest.raises(SessionError, match="the migration fails"):
        await store.list()
    assert query(path, "PRAGMA user_version") == [(1,)]

    def whole(connection):
        connection.execute("ALTER TABLE sessions ADD COLUMN colour TEXT")

    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS[:-1], whole))
    async with store:
        assert await texts_of(store.open("x")) == ["a"]
    assert query(path, "SELECT colour FROM sessions") == [(None,)]


async def test_a_newer_database_is_refused_and_left_as_it_is(store, path):
    query(path, f"PRAGMA application_id = {schema.APPLICATION}")
    query(path, "PRAGMA user_version = 99")
    query(path, "CREATE TABLE sessions (id)")
    before = path.read_bytes()
    with pytest.raises(SessionError, match=r"sessions\.db: its tables have version 99"):
        await store.list()
    assert path.read_bytes() == before


async def test_the_database_of_another_application_is_refused_and_left_as_it_is(store, path):
    query(path, "CREATE TABLE recipes (id)")
    before = path.read_bytes()
    with pytest.raises(SessionError, match="of another application"):
        await store.open("x").append(said("a"))
    assert path.read_bytes() == before


async def test_what_is_no_database_is_refused_and_left_as_it_is(store, path):
    path.write_text("Dear diary, " * 100)
    with pytest.raises(SessionError, match=r"sessions\.db: it is no SQLite database"):
        await store.list()
    assert path.read_text() == "Dear diary, " * 100


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("", "it is a folder"),
        ("no/such/folder/a.db", "there is no folder {}/no/such/folder; make it first"),
        ("file/a.db", "there is no folder {}/file; make it first"),
        ("/dev/null", "it is no file"),
        ("pipe", "it is no file"),
    ],
)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no such files")
async def test_where_no_file_can_be_the_error_says_why(tmp_path, place, reason):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    store = SQLiteSessionStore(tmp_path / place)
    told = f"cannot write session 'x' in {tmp_path / place}: {reason.format(tmp_path)}"
    with pytest.raises(SessionError, match=re.escape(told)):
        await store.open("x").append(said("a"))


def test_a_path_with_a_zero_in_it_is_refused():
    for path in ("a\0b.db", b"a\0b.db"):
        with pytest.raises(SessionError, match="has no NUL"):
            SQLiteSessionStore(path)


async def test_who_only_looks_makes_no_file(store, path, tmp_path):
    assert (await store.list(), await store.search("a"), await store.info("x")) == ([], [], None)
    assert await SQLiteSessionStore(tmp_path / "no" / "folder.db").list() == []
    assert list(tmp_path.iterdir()) == []


async def test_a_write_protected_database_that_others_write_to_is_read_as_it_is_now(store, path, monkeypatch):
    await store.open("x").append(said("a"))
    monkeypatch.setattr(schema, "_protection", lambda path: "mode=ro")
    async with SQLiteSessionStore(path) as reader:
        assert await texts_of(reader.open("x")) == ["a"]
        with pytest.raises(SessionError, match=r"cannot search .*: it is write-protected"):
            await reader.search("a")  # there is no index
        monkeypatch.undo()
        await store.search("a")
        await store.open("y").append(said("b"))
        monkeypatch.setattr(schema, "_protection", lambda path: "mode=ro")
        assert [hit.session for hit in await reader.search("a")] == ["x"]
        assert {info.id for info in await reader.list()} == {"x", "y"}
        with pytest.raises(SessionError, match=r"cannot delete session 'x' .*: it is write-protected"):
            await reader.delete("x")


async def test_a_session_of_a_newer_kimi_agent_is_refused(store, path):
    await store.open("x").append(said("a"))
    body = BEGIN.body.replace(b'"1.0"', b'"2.0"')
    query(path, "UPDATE records SET body = ?, crc = ? WHERE n = 1", body, rows.zlib.crc32(body))
    with pytest.raises(SessionError, match="format has version 2"):
        await store.open("x").load()
    assert [(hit.session, hit.index) for hit in await store.search("a")] == [("x", None)]


async def test_nothing_is_written_into_a_file_that_was_moved_away(store, path, tmp_path):
    session = store.open("x")
    await session.append(said("a"))
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(SessionError, match="moved or replaced"):
        await session.append(said("b"))
    (tmp_path / "elsewhere").rename(path)
    await session.append(said("c"))
    assert await texts_of(session) == ["a", "c"]


# ==== several writers ====


async def test_of_two_writers_one_wins_and_the_other_goes_on_after_a_load(path):
    async with SQLiteSessionStore(path) as one, SQLiteSessionStore(path) as other:
        mine, yours = one.open("x"), other.open("x")
        await mine.append(said("a"))
        await yours.load()
        await mine.append(said("b"))
        for lost in (yours.append(said("lost")), yours.replace(SessionState()), yours.checkpoint("lost")):
            with pytest.raises(SessionConflictError, match=r"'x' was written by .* next round .* load\(\)"):
                await lost
        assert await texts_of(yours) == ["a", "b"]
        await yours.append(said("c"))
        with pytest.raises(SessionConflictError):
            await mine.append(said("lost"))
        assert await texts_of(mine) == ["a", "b", "c"]


async def test_two_that_begin_one_session_conflict(store):
    one, other = store.open("x"), store.open("x")
    await one.load()
    await other.load()
    await one.append(said("a"))
    with pytest.raises(SessionConflictError):
        await other.append(said("b"))
    assert await texts_of(other) == ["a"]


async def test_a_session_that_was_deleted_or_begun_anew_is_a_conflict(store):
    session = store.open("x")
    await session.append(said("a"))
    await store.delete("x")
    with pytest.raises(SessionConflictError, match="deleted"):
        await session.append(said("b"))
    await store.open("x").append(said("c"))
    with pytest.raises(SessionConflictError, match="begun anew"):
        await session.append(said("b"))
    assert await texts_of(session) == ["c"]


WRITER = """
import asyncio, sys
from kimi_agent.errors import SessionConflictError
from kimi_agent.message import Message
from kimi_agent.session.sqlite import SQLiteSessionStore

async def main(path, name, rounds):
    print("ready", flush=True)
    sys.stdin.readline()
    async with SQLiteSessionStore(path) as store:
        session = store.open("x")
        for number in range(rounds):
            while True:
                try:
                    await session.append([Message.user(f"{name} {number} {half}") for half in range(2)])
                    break
                except SessionConflictError:
                    await session.load()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def started(script: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(rows.__file__).parents[2])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, env=environment, text=True, **pipes, **options)


async def test_processes_that_open_a_new_database_and_write_to_one_session_lose_nothing(path):
    writers = [started(WRITER, str(path), name, "10") for name in "abc"]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 3
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.communicate()[1] for writer in writers] == [""] * 3
    async with SQLiteSessionStore(path) as store:
        texts = await texts_of(store.open("x"))
    for name in "abc":
        own = [text for text in texts if text.startswith(name)]
        assert own == [f"{name} {number} {half}" for number in range(10) for half in range(2)]
    assert all(first[:-1] == second[:-1] for first, second in zip(texts[::2], texts[1::2], strict=True))
    assert_tidy(path)


async def test_many_that_open_a_new_database_at_once_all_get_it(tmp_path):
    for attempt in range(4):
        stores = [SQLiteSessionStore(tmp_path / f"{attempt}.db") for _ in range(16)]
        await asyncio.gather(*[store.open(f"{place}").append(said("a")) for place, store in enumerate(stores)])
        assert len(await stores[0].list()) == 16
        await asyncio.gather(*[store.aclose() for store in stores])


class Contended:
    """A connection that loses the race to WAL a few times, which SQLite reports without waiting."""

    def __init__(self, losses: int) -> None:
        self.losses = losses

    def execute(self, statement: str) -> list[tuple[str]]:
        if self.losses:
            self.losses -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        return [("wal",)]


def test_who_loses_the_race_to_wal_tries_again_for_a_while(monkeypatch):
    assert schema._to_wal(Contended(3)) == "wal"
    monkeypatch.setattr(schema, "PATIENCE", 0.0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        schema._to_wal(Contended(1000))


async def test_tasks_write_to_many_sessions_of_a_store_at_once(store):
    async def write(session):
        for number in range(5):
            await session.append(said(f"{session.id} {number}"))

    sessions = [store.open(f"s{number}") for number in range(10)]
    await asyncio.gather(*[write(session) for session in sessions])
    for session in sessions:
        assert await texts_of(session) == [f"{session.id} {number}" for number in range(5)]


async def test_tasks_that_share_a_session_each_append_whole(store):
    session = store.open("x")
    await asyncio.gather(*[session.append(said(f"{number} a", f"{number} b")) for number in range(10)])
    texts = await texts_of(session)
    assert texts == [f"{number} {half}" for number in range(10) for half in "ab"]


def test_a_store_works_in_one_event_loop_after_another(path):
    store = SQLiteSessionStore(path)
    session = store.open("x")
    asyncio.run(session.append(said("a")))
    asyncio.run(session.append(said("b")))
    assert asyncio.run(texts_of(session)) == ["a", "b"]
    asyncio.run(store.aclose())
    asyncio.run(store.aclose())


async def test_a_cancelled_write_has_happened_when_its_caller_hears_of_the_cancel(store, path, monkeypatch):
    session = store.open("x")
    await session.append(said("a"))
    begun, work = threading.Event(), store._work
    monkeypatch.setattr(store, "_work", lambda *job: begun.set() or work(*job))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        write = asyncio.create_task(session.append(said("b")))
        while not begun.is_set():
            await asyncio.sleep(0)
        write.cancel()
        await asyncio.sleep(0.005)
        assert not write.done()
        other.execute("COMMIT")
    with pytest.raises(asyncio.CancelledError):
        await write
    assert await texts_of(store.open("x")) == ["a", "b"]
    await session.append(said("c"))


FORKER = """
import asyncio, os, sys, warnings
from kimi_agent.message import Message
from kimi_agent.session import sqlite

warnings.simplefilter("ignore", DeprecationWarning)  # of the threads that are there when it is forked
store = sqlite.SQLiteSessionStore(sys.argv[1])
session = store.open("x")

def append(text):
    asyncio.run(session.append([Message.user(text)]))

def in_child(text):
    if not os.fork():
        try:
            append(text)
        except Exception as error:
            print(error, flush=True)
        os._exit(0)
    os.wait()

append("a")
in_child("lost")
append("b")
asyncio.run(store.aclose())
in_child("c")
print([message.text for message in asyncio.run(session.load()).chat_history])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
async def test_a_store_is_used_after_a_fork_only_if_it_was_closed_before(path):
    output, errors = started(FORKER, str(path)).communicate()
    refused, texts = output.splitlines()
    assert "cannot write session 'x' in" in refused
    assert "it was open when this process was forked" in refused
    assert (texts, errors) == ("['a', 'b', 'c']", "")


# ==== faults ====


async def test_a_full_database_is_an_error_and_goes_on_when_there_is_room(store, path):
    session = store.open("x")
    await session.append(said("a"))
    connection = store._opened.connection
    connection.execute("PRAGMA max_page_count = 1")  # no fewer than there are
    with pytest.raises(SessionError, match=r"cannot write session 'x' in .*sessions\.db: the disk is full"):
        await session.append(said("b" * 100_000))
    connection.execute("PRAGMA max_page_count = 1000000")
    await session.append(said("c"))
    assert await texts_of(session) == ["a", "c"]
    assert await texts_of(store.open("x")) == ["a", "c"]


async def test_a_locked_database_is_an_error_and_goes_on_when_it_is_free(store, path, monkeypatch):
    monkeypatch.setattr(schema, "PATIENCE", 0.01)
    session = store.open("x")
    await session.append(said("a"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(SessionError, match=r"sessions\.db: another program keeps it locked"):
            await session.append(said("b"))
        assert await texts_of(store.open("x")) == ["a"]
    await session.append(said("c"))
    assert await texts_of(session) == ["a", "c"]


SYNCHRONOUS = ["OFF", "NORMAL", "FULL"]
"""When SQLite waits for the disk, by the number that its `PRAGMA synchronous` gives."""


@pytest.mark.parametrize(("mode", "waits"), [("wal", "NORMAL"), ("delete", "FULL")])
async def test_a_database_that_the_power_cut_finds_half_way_stays_whole(path, monkeypatch, mode: str, waits: str):
    """With a log SQLite waits before it takes anything out of it; where no log can be, with each transaction."""
    if mode != "wal":
        monkeypatch.setattr(schema, "_to_wal", lambda connection: mode)
    async with SQLiteSessionStore(path) as store:
        for connects in range(2):
            await store.open(str(connects)).append(said("a"))
            connection = store._opened.connection
            assert connection.execute("PRAGMA journal_mode").fetchall() == [(mode,)]
            assert connection.execute("PRAGMA synchronous").fetchall() == [(SYNCHRONOUS.index(waits),)]
            await store.aclose()  # used again, it opens again


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="this platform does not name its descriptors")
async def test_a_round_has_ended_when_the_disk_has_all_of_it(store, path, monkeypatch):
    agent = Agent(ScriptedKimi([say("b")]), session=store.open("x"))
    kept: list[int] = []

    def sync(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}") == f"{path}-wal":
            kept.append(query(path, "SELECT count(*) FROM texts")[0][0])

    monkeypatch.setattr(os, "fsync", sync)
    async for _ in agent.full_round("a"):
        pass
    assert kept[-1:] == [2]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="this platform does not name its descriptors")
async def test_a_flush_waits_for_the_disk_and_says_when_that_fails(store, path, monkeypatch):
    session = store.open("x")
    await session.append(said("a"))
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    await session.flush()
    assert synced == [f"{path}-wal", str(path.parent)]

    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(SessionError, match=r"cannot flush session 'x' in .*sessions\.db: Input/output error"):
        await session.flush()
    monkeypatch.undo()
    await session.append(said("b"))
    await session.flush()
    assert await texts_of(store.open("x")) == ["a", "b"]


FAULTS = """
import asyncio, os, resource, sys
import urllib.parse  # of pathlib, which opens it when it may not be read any more
from kimi_agent.errors import SessionError
from kimi_agent.message import Message
from kimi_agent.session.sqlite import SQLiteSessionStore

async def refused(write):
    try:
        await write
    except SessionError as error:
        print(error)

async def main(folder):
    store = SQLiteSessionStore(folder + "/sessions.db")
    session = store.open("x")
    await session.append([Message.user("a")])
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, unlimited[1]))
    await refused(session.append([Message.user("b" * 500_000)]))
    await refused(session.append([Message.user("c" * 500_000)]))
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    await session.append([Message.user("d")])
    await store.search("a")
    await store.aclose()
    os.close(os.open(folder + "/secret.db", os.O_CREAT, 0))
    os.chmod(folder, 0o555)
    os.chmod(folder + "/sessions.db", 0o444)
    if not os.getuid():
        os.chdir(folder)
        os.setuid(65534)
    await refused(session.append([Message.user("e")]))
    await refused(SQLiteSessionStore(folder + "/other.db").open("x").append([Message.user("e")]))
    await refused(SQLiteSessionStore(folder + "/secret.db").list())
    listed, found, loaded = await store.list(), await store.search("d"), await store.open("x").load()
    print([info.id for info in listed], [hit.index for hit in found], [message.text for message in loaded.chat_history])
    await store.open("x").flush()
    print(sorted(os.listdir(folder)))

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture
def open_folder():
    """A folder that everybody may enter. Those of pytest are closed again whenever another run of it begins."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="this platform limits no file sizes")
@untraced
async def test_a_disk_that_is_full_or_read_only_is_an_error_and_harms_nothing(open_folder):
    folder = open_folder
    output, errors = started(FAULTS, str(folder)).communicate()
    folder.chmod(0o755)
    assert errors == ""
    full, still_full, read_only, nowhere, secret, readable, files = output.splitlines()
    assert "sessions.db: the disk is full, or fails" in full
    assert "sessions.db: the disk is full, or fails" in still_full
    assert "cannot write session 'x' in" in read_only
    assert "sessions.db: it is write-protected" in read_only
    assert "other.db: Permission denied" in nowhere
    assert "secret.db: there is no permission to read it" in secret
    assert readable == "['x'] [1] ['a', 'd']"
    assert files == "['secret.db', 'sessions.db']"
    (folder / "sessions.db").chmod(0o600)
    async with SQLiteSessionStore(folder / "sessions.db") as store:
        assert await texts_of(store.open("x")) == ["a", "d"]


async def test_a_damaged_record_is_told_of_and_the_rest_is_kept(store, path):
    session = store.open("x")
    for text in "abc":
        await session.append(said(text))
    query(path, "UPDATE records SET body = replace(body, 'b', 'x') WHERE n = 3")
    state = await session.load()
    assert [message.text for message in state.chat_history] == ["a", "c"]
    [damage] = state.damage
    assert damage.offset == 3
    assert "checksum" in damage.reason
    await session.append(said("d"))
    query(path, "DELETE FROM records WHERE n = 4")
    state = await session.load()
    assert [message.text for message in state.chat_history] == ["a", "d"]
    assert [(damage.offset, damage.length) for damage in state.damage][1] == (4, 0)
    query(path, "UPDATE records SET body = 5, crc = 'x'")
    assert len((await session.load()).damage) == 5


async def test_a_damaged_file_is_an_error_or_tells_what_it_lost(path, monkeypatch):
    monkeypatch.setattr(schema, "PATIENCE", 0.01)
    async with SQLiteSessionStore(path) as store:
        for number in range(8):
            await store.open(f"s{number % 2}").append(said(f"text {number} " * 100))
        await store.search("text")
    whole = path.read_bytes()
    dice = random.Random(7)
    for _ in range(SEQUENCES * 2):
        broken = bytearray(whole)
        for _ in range(dice.randrange(1, 30)):
            broken[dice.randrange(100, len(broken))] ^= dice.randrange(1, 256)
        path.write_bytes(broken[: dice.choice((len(broken), dice.randrange(1, len(broken))))])
        await read_as_far_as_it_goes(path)


async def read_as_far_as_it_goes(path: Path) -> None:
    store = SQLiteSessionStore(path)
    one, other = store.open("s0"), store.open("s1")
    for work in (
        store.list(),
        one.load(),
        other.load(),
        store.search("text"),
        one.append(said("b")),
        store.delete("s1"),
    ):
        with suppress(SessionError):
            await work
    await store.aclose()


# ==== lists ====


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at it is a millisecond later."""
    ticks = count(1_000, 1_000)
    monkeypatch.setattr(rows, "_now", lambda: next(ticks))


async def test_a_list_has_the_newest_first_in_pages(store, clock):
    for number in range(7):
        await store.open(f"s{number}").append(said(f"  the\nbeginning of {number} " + "and more " * 20))
    await store.open("s3").append([Message.assistant("b")])
    pages = [await store.list(3)]
    while pages[-1]:
        pages.append(await store.list(3, after=pages[-1][-1]))
        await store.open("s0").append(said("it moves to the front, and nobody is shown twice"))
    infos = [info for page in pages for info in page]
    assert [info.id for info in infos] == ["s3", "s6", "s5", "s4", "s2", "s1"]
    assert infos[0].messages == 2
    assert infos[0].title.startswith("the beginning of 3 and more")
    assert infos[0].title.endswith("…")
    assert len(infos[0].title) <= 80
    assert infos[0].created < infos[0].updated
    assert (await store.list(1))[0].id == "s0"
    assert await store.list(0) == []
    assert await store.list(-1) == []
    assert len(await store.list(10**30)) == 7
    assert await store.info("s0") == (await store.list(1))[0]
    assert await store.info("nobody") is None


async def test_sessions_of_the_same_moment_are_listed_once_each(store, monkeypatch):
    monkeypatch.setattr(rows, "_now", lambda: 1)
    for number in range(5):
        await store.open(f"s{number}").append(said("a"))
    pages = [await store.list(2)]
    while pages[-1]:
        pages.append(await store.list(2, after=pages[-1][-1]))
    assert [info.id for page in pages for info in page] == ["s4", "s3", "s2", "s1", "s0"]


async def test_a_page_of_many_sessions_is_found_by_an_index(store, path):
    await store.open("x").append(said("a"))
    where = "WHERE (updated, id) < (5, 'x') ORDER BY updated DESC, id DESC LIMIT 9"
    [plan] = query(path, f"EXPLAIN QUERY PLAN SELECT * FROM sessions {where}")
    assert "sessions_by_time" in plan[-1]
    plans = query(path, "EXPLAIN QUERY PLAN " + rows.RECORDS_OF, 1)
    assert not [plan for plan in plans if "TEMP" in plan[-1]], "records come in their order"


# ==== searching ====


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("天气", ["zh"]),
        ("气", ["zh"]),
        ("天很", []),
        ("今天 很好", ["zh"]),
        ("tokyo 東京タワー", ["ja"]),
        ("weath", ["en"]),
        ("WEATHER Köln", ["en"]),
        ("koln", ["en"]),
        ("eather", []),
        ('"fine"', ["en"]),
        ("weather -Köln", ["en"]),
        ("weather OR nothing", []),
        ("NEAR(weather", []),
        ("text:weather", []),
        ("wea*", ["en"]),
        ("weather AND", []),
        ("snake_case()", ["en"]),
        ("", []),
        (" \n\0", []),
        ('"', []),
        ("!!! weather ???", ["en"]),
        ("weather\0Köln", ["en"]),
        ("\ud800", []),
        ("weather " * 2000, ["en"]),
        ("{weather}", ["en"]),
        ("^weather", ["en"]),
        ("a' OR '1'='1", []),
    ],
)
async def test_a_search_takes_words_and_no_operators(store, text, wanted):
    await store.open("zh").append(said("今天天气很好。"))
    await store.open("ja").append(said("Tokyo: 東京タワーを見た"))
    await store.open("en").append(said("The weather in Köln is fine, snake_case() too"))
    assert [hit.session for hit in await store.search(text)] == wanted


async def test_a_hit_says_where_and_what(store, clock):
    session = store.open("x")
    call = ToolCall.from_function("look", call_id_="c")
    await session.append([*said("before " * 100 + "needle " + "after " * 100), Message.assistant(tool_calls=[call])])
    await session.append([Message.tool("a second needle", "c")])
    second, first = await store.search("Needle")
    assert (second.session, second.index, second.role, second.snippet) == ("x", 2, "tool", "a second needle")
    assert (first.index, first.role) == (0, "user")
    assert "needle" in first.snippet
    assert len(first.snippet) < 200
    assert [hit.index for hit in await store.search("needle", limit=1)] == [2]
    assert await store.search("needle", limit=-1) == []
    state = await session.load()
    await session.replace(SessionState((), state.chat_history[1:]), reason="compaction")
    assert [hit.index for hit in await store.search("needle")] == [1, None]


async def test_what_was_written_since_the_last_search_is_found_too(store, monkeypatch):
    session = store.open("x")
    for number in range(450):
        await session.append(said(f"needle {number}"))
    await session.flush()
    assert len(await store.search("needle", limit=1000)) == 450
    await session.append(said("needle"))
    assert len(await store.search("needle", limit=1000)) == 451
    assert_tidy(Path(store.path))


async def test_without_fts5_everything_works_but_searching(store, path, monkeypatch):
    await store.open("x").append(said("needle one"))
    await store.search("needle")
    monkeypatch.setattr(schema, "_can_index", lambda connection: False)
    await store.open("y").append(said("needle two"))
    await store.open("y").flush()
    await store.delete("x")
    with pytest.raises(SessionError, match="built without FTS5"):
        await store.search("needle")
    monkeypatch.undo()
    assert [hit.session for hit in await store.search("needle")] == ["y"]


# ==== forks, deletes, files ====


async def test_a_fork_goes_its_own_way(store, clock):
    session = store.open("x")
    await session.append(said("a"), usage=Spent(output=1))
    await session.append(said("b"), usage=Spent(output=2))
    fork = await store.fork("x", "y")
    await fork.append(said("c"))
    await session.append(said("d"))
    assert await texts_of(fork) == ["a", "b", "c"]
    assert await texts_of(session) == ["a", "b", "d"]
    early = await store.fork("x", at=1)
    assert (await early.load()).usage == Spent(output=1)
    assert await texts_of(early) == ["a"]
    assert {info.title for info in await store.list()} == {"a"}
    assert [info.messages for info in await store.list()] == [1, 3, 3]
    assert len(await store.search("a")) == 3


async def test_a_fork_shares_the_rows(store, path):
    session = store.open("x")
    await session.append(said("a" * 10_000))
    await session.append(said("b", "c"))
    [(before,)] = query(path, "SELECT sum(length(body)) FROM records")
    for number in range(10):
        await store.fork("x", f"whole {number}")
    assert query(path, "SELECT sum(length(body)) FROM records") == [(before,)]
    await store.fork("x", "in the middle", at=2)
    [(after,)] = query(path, "SELECT sum(length(body)) FROM records")
    assert after < before + 500
    assert await texts_of(store.open("in the middle")) == ["a" * 10_000, "b"]


async def test_a_fork_cuts_no_exchange(store):
    calls = [ToolCall.from_function("look", call_id_=id) for id in "pq"]
    session = store.open("x")
    await session.append([*said("a"), Message.assistant(tool_calls=calls)])
    await session.append([Message.tool("2", "q")])
    await session.append([Message.tool("1", "p")])
    await session.append([Message.assistant("b")])
    for at in (2, 3):
        with pytest.raises(SessionError, match=f"message {at} is a result"):
            await store.fork("x", "y", at=at)
    whole = (await session.load()).chat_history
    for at in (0, 1, 4, 5):
        fork = await store.fork("x", at=at)
        assert (await fork.load()).chat_history == whole[:at]


async def test_a_fork_has_messages_that_were_taken_back_and_put_in_again(store):
    session = store.open("x")
    one, two, three, four = said("1", "2", "3", "4")
    await session.append([one])
    await session.checkpoint("early")
    await session.append([two])
    await session.rollback("early")
    await session.append([three])
    await session.replace(SessionState((), (one, two, three, four)))
    fork = await store.fork("x", at=3)
    assert (await fork.load()).chat_history == (one, two, three)


async def test_a_fork_has_what_the_window_knew_by_then(store):
    session = store.open("x")
    counted = {"tokens": 9, "overhead": 1, "by": "k", "answer": 1}
    await session.append([*said("a"), Message.assistant("b")], window=WindowState(1, 1.5, counted))
    await session.append(said("c", "d"), window=WindowState(3, 2.0))
    whole, early, middle = [(await (await store.fork("x", at=at)).load()).window for at in (None, 2, 1)]
    assert whole == WindowState(3, 2.0)
    assert early == WindowState(1, 1.5, counted)
    assert middle == WindowState(0, 1.5)
    history = (await session.load()).chat_history
    await session.replace(SessionState((), (history[0], *history[2:])))
    assert (await (await store.fork("x", at=2)).load()).window == WindowState(0, 2.0)


@pytest.mark.parametrize("at", [-1, 3])
async def test_a_fork_cannot_begin_beyond_the_history(store, at):
    await store.open("x").append(said("a", "b"))
    with pytest.raises(SessionError, match="has 2 messages"):
        await store.fork("x", at=at)


async def test_what_there_is_not_cannot_be_forked_deleted_or_exported(store, tmp_path):
    for refused in (store.fork("x"), store.delete("x"), store.export("x", tmp_path / "x.json")):
        with pytest.raises(SessionError, match=r"session 'x' .*there is no session"):
            await refused
    await store.open("x").append(said("a"))
    with pytest.raises(SessionError, match="there is a session 'x' already"):
        await store.fork("x", "x")


@pytest.mark.parametrize("suffix", [".json", ".kimi"])
async def test_an_exported_session_is_imported_again(store, tmp_path, suffix):
    picture = "data:image/png;base64," + "A" * 8_000
    state = SessionState(
        (Message.system("be terse"),),
        (*said("a"), Message.user(ImageURLPart(image_url=MediaURL(url=picture)))),
        Spent(output=3),
        cut=1,
        prompt_cache_key="k",
    )
    await store.open("x").replace(state)
    await store.export("x", tmp_path / f"x{suffix}")
    imported = await store.import_(tmp_path / f"x{suffix}", "y")
    assert await imported.load() == state
    with pytest.raises(SessionError, match="there is a session 'y' already"):
        await store.import_(tmp_path / f"x{suffix}", "y")
    with pytest.raises(SessionError, match="nowhere"):
        await store.import_(tmp_path / "nowhere.json")
    assert await (await store.import_(tmp_path / f"x{suffix}")).load() == state
    assert {info.title for info in await store.list()} == {"a"}


# ==== blobs ====


class Sound(ContentPart):
    type: str = "sound of the store"
    samples: bytes

    @field_serializer("samples", when_used="json")
    def _store(self, samples: bytes, info: SerializationInfo) -> str:
        context = get_ctx(info)
        return context.save_bytes(samples, ".raw") if context else b64encode(samples).decode()

    @field_validator("samples", mode="before")
    @classmethod
    def _fetch(cls, value: Any, info: ValidationInfo) -> Any:
        context = get_ctx(info)
        return context.load_bytes(value) if context and isinstance(value, str) else value


async def test_large_data_is_stored_once_and_freed_with_the_last_that_needs_it(store, path):
    picture = Message.user(ImageURLPart(image_url=MediaURL(url="data:image/png;base64," + "A" * 8_000)))
    sound = Message.user(Sound(samples=b"\0\1" * 50))
    session = store.open("x")
    await session.append([picture, sound])
    await session.append([picture])
    await store.open("y").append([sound])
    assert query(path, "SELECT count(*), max(length(data)) FROM blobs") == [(2, 8_022)]
    assert (await store.open("x").load()).chat_history == (picture, sound, picture)
    await store.fork("x", "z", at=1)
    await store.delete("x")
    assert (await store.open("z").load()).chat_history == (picture,)
    await store.delete("z")
    assert (await store.open("y").load()).chat_history == (sound,)
    assert query(path, "SELECT length(data) FROM blobs") == [(100,)]
    await store.delete("y")
    assert query(path, "SELECT count(*) FROM blobs") == [(0,)]
    assert_tidy(path)


async def test_a_write_goes_on_with_blobs_after_the_store_was_closed(store):
    sound = Message.user(Sound(samples=b"\0\1" * 50))
    session = store.open("x")
    await session.append([sound])
    await store.aclose()
    await session.append([sound.copy_with(content=[Sound(samples=b"\2")])])
    assert len((await session.load()).chat_history) == 2
    assert not (await session.load()).damage


# ==== against a model ====


class Model:
    """What a session is to have: its messages, its checkpoints, and each record's words."""

    def __init__(self) -> None:
        self.history: list[Message] = []
        self.checkpoints: dict[str, list[Message]] = {}
        self.records: list[tuple[set[str], dict[str, list[Message]]]] = []

    def wrote(self, messages: list[Message] = []) -> None:  # noqa: B006 - only read
        self.records.append(({message.text for message in messages}, dict(self.checkpoints)))

    @property
    def words(self) -> set[str]:
        return set().union(*[words for words, _ in self.records])

    def forked(self, at: int) -> "Model":
        fork = Model()
        fork.history = self.history[:at]
        wanted = {message.text for message in fork.history}
        for words, checkpoints in self.records:
            if at < len(self.history) and wanted <= fork.words:
                break
            fork.records.append((words, checkpoints))
            fork.checkpoints = dict(checkpoints)
        return fork


class Play:
    """Random operations on a store and on its models."""

    def __init__(self, path: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self.path = path
        self.store = SQLiteSessionStore(path)
        self.models: dict[str, Model] = {}
        self.sessions: dict[str, Any] = {}
        self.order: list[str] = []
        self.words = (f"w{number}x" for number in count())

    def message(self) -> Message:
        return Message.user(next(self.words))

    def some(self) -> str:
        return self.dice.choice(list(self.models))

    async def step(self) -> None:
        operations = [self.append] * 4 + [self.exchange, self.replace, self.checkpoint, self.rollback]
        operations += [self.fork] * 2 + [self.delete, self.reopen, self.search, self.compare]
        await self.dice.choice(operations)() if self.models else await self.append()

    def touch(self, id: str) -> tuple[Any, Model]:
        self.order = [id, *[other for other in self.order if other != id]]
        if id not in self.sessions or self.dice.random() < 0.1:
            self.sessions[id] = self.store.open(id)
        return self.sessions[id], self.models.setdefault(id, Model())

    async def append(self) -> None:
        session, model = self.touch(self.dice.choice([*self.models, f"new {len(self.models)}"]))
        messages = [self.message() for _ in range(self.dice.randrange(1, 4))]
        await session.append(messages)
        model.history += messages
        model.wrote(messages)

    async def exchange(self) -> None:
        session, model = self.touch(self.some())
        ids = ["p", "q", "r"]
        calls = [ToolCall.from_function("f", call_id_=id) for id in ids]
        asked = Message.assistant(next(self.words), tool_calls=calls)
        self.dice.shuffle(ids)
        for message in [asked, *[Message.tool(next(self.words), id) for id in ids]]:
            await session.append([message])
            place = history.placed(model.history, message) if message.role == "tool" else len(model.history)
            model.history.insert(place, message)
            model.wrote([message])

    async def replace(self) -> None:
        session, model = self.touch(self.some())
        kept = list((await session.load()).chat_history)
        cut = self.dice.randrange(len(kept) + 1)
        new = self.message()
        model.history = [new, *kept[cut:]]
        await session.replace(SessionState((), tuple(model.history)))
        model.wrote([new])

    async def checkpoint(self) -> None:
        session, model = self.touch(self.some())
        label = self.dice.choice("ab")
        await session.checkpoint(label)
        model.checkpoints[label] = list(model.history)
        model.wrote()

    async def rollback(self) -> None:
        id = self.some()
        model = self.models[id]
        if not model.checkpoints:
            with pytest.raises(SessionError):
                await self.store.open(id).rollback("a")
            return
        session, _ = self.touch(id)
        label = self.dice.choice(list(model.checkpoints))
        model.history = list(model.checkpoints[label])
        assert list((await session.rollback(label)).chat_history) == model.history
        model.wrote()

    async def fork(self) -> None:
        id, new = self.some(), f"fork {next(self.words)}"
        model = self.models[id]
        at = self.dice.choice([len(model.history), self.dice.randrange(len(model.history) + 1)])
        if at < len(model.history) and model.history[at].role == "tool":
            with pytest.raises(SessionError):
                await self.store.fork(id, new, at=at)
            return
        self.sessions[new] = await self.store.fork(id, new, at=at)
        self.models[new] = model.forked(at)
        self.order.insert(0, new)

    async def delete(self) -> None:
        id = self.some()
        await self.store.delete(id)
        self.sessions.pop(id, None)
        del self.models[id]
        self.order.remove(id)

    async def reopen(self) -> None:
        await self.store.aclose()
        if self.dice.random() < 0.5:
            self.store, self.sessions = SQLiteSessionStore(self.path), {}

    async def search(self) -> None:
        model = self.models[self.some()]
        if not model.words:
            return
        word = self.dice.choice(sorted(model.words))
        hits = {hit.session: hit.index for hit in await self.store.search(word, limit=1000)}
        assert hits.keys() == {id for id, other in self.models.items() if word in other.words}
        for id, index in hits.items():
            texts = [message.text for message in self.models[id].history]
            assert index == (texts.index(word) if word in texts else None)

    async def compare(self) -> None:
        infos = await self.store.list(1000)
        assert [info.id for info in infos] == self.order
        assert [info.messages for info in infos] == [len(self.models[id].history) for id in self.order]
        for id, model in self.models.items():
            state = await self.store.open(id).load()
            assert (list(state.chat_history), state.damage) == (model.history, ())

    async def end(self) -> None:
        await self.compare()
        ids = list(self.models)
        self.dice.shuffle(ids)
        for id in ids[: len(ids) // 2]:
            await self.store.delete(id)
            del self.models[id]
            self.order.remove(id)
        await self.compare()
        await self.store.search("everything is in the index")
        assert_tidy(self.path)
        for id in list(self.models):
            await self.store.delete(id)
        await self.store.aclose()
        assert_tidy(self.path)
        assert query(self.path, "SELECT count(*) FROM records UNION SELECT count(*) FROM texts") == [(0,)]


@pytest.mark.parametrize("first", range(0, SEQUENCES, 5))
async def test_any_sequence_of_operations_is_what_a_model_in_memory_says(tmp_path, clock, first):
    for seed in range(first, first + 5):
        play = Play(tmp_path / f"{seed}.db", seed)
        try:
            for _ in range(40):
                await play.step()
            await play.end()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        finally:
            await play.store.aclose()

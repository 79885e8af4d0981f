"""The journal: what was written lasts, whatever happens to the disk, the file and the caller."""

import asyncio
import errno
import gc
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loguru import logger
from pydantic import SerializationInfo, TypeAdapter, ValidationInfo, field_serializer, field_validator
from timing import seconds, untraced

import kimi_agent
from kimi_agent.errors import SessionConflictError, SessionError
from kimi_agent.limits import Spent
from kimi_agent.message import ContentPart, ImageURLPart, MediaURL, Message, ToolCall
from kimi_agent.session import journal
from kimi_agent.session.blobs import Room, get_ctx
from kimi_agent.session.codec import encode
from kimi_agent.session.journal import JournalSession, contents, framed
from kimi_agent.session.ledger import BEGIN, Ledger
from kimi_agent.session.state import Damage, Session, SessionState, WindowState
from kimi_agent.session.writing import Strand

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="files have no mode there")


def said(text: str) -> Message:
    return Message.user(text)


def texts_of(state: SessionState) -> list[str]:
    return [message.text for message in state.chat_history]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "talk.journal"


async def written(path: Path, *texts: str) -> JournalSession:
    """An open session in which this was said."""
    session = JournalSession(path)
    for text in texts:
        await session.append([said(text)])
    return session


async def closed(path, *texts: str) -> bytes:
    """What is in the file of a session in which this was said."""
    await (await written(path, *texts)).aclose()
    return path.read_bytes()


async def loaded(path: Path) -> SessionState:
    session = JournalSession(path)
    try:
        return await session.load()
    finally:
        await session.aclose()


async def go_on(path: Path, text: str = "on") -> SessionState:
    """The session after one more message, as it is loaded then."""
    await closed(path, text)
    return await loaded(path)


# ==== there and back ====


async def test_it_is_a_session(path):
    assert isinstance(JournalSession(path), Session)


async def test_what_was_written_is_loaded(path):
    session = JournalSession(path)
    call = ToolCall.from_function("look", call_id_="c")
    counted = {"tokens": 9, "overhead": 2, "by": "a counter", "answer": 1}
    await session.append(
        [said("天气 \ud83d"), Message.assistant(tool_calls=[call])], window=WindowState(1, 1.5, counted)
    )
    await session.checkpoint("asked")
    await session.append([Message.tool("sunny", "c")], usage=Spent(input_other=5, requests=1, cost=0.5))
    state = await session.load()
    assert (state.cut, state.scale, state.counted, state.usage.cost) == (1, 1.5, counted, 0.5)
    await session.aclose()
    assert await loaded(path) == state
    again = JournalSession(path)
    before = await again.rollback("asked")
    assert before.chat_history == state.chat_history[:2]
    assert before.usage == state.usage
    await again.aclose()
    assert await loaded(path) == before


async def test_what_was_replaced_stays_readable(path):
    session = await written(path, "one", "two")
    state = await session.load()
    await session.replace(SessionState(chat_history=(said("summary"), *state.chat_history[1:])), reason="compaction")
    await session.append([said("three")])
    assert texts_of(await session.load()) == ["summary", "two", "three"]
    await session.aclose()
    assert [message.text async for message in session.everything_said()] == ["one", "two", "summary", "three"]
    await session.aclose()


async def test_nothing_is_made_before_something_is_written(path):
    session = JournalSession(path)
    assert await session.load() == SessionState()
    assert [message async for message in session.everything_said()] == []
    await session.flush()
    await session.compact()
    await session.aclose()
    assert list(path.parent.iterdir()) == []


async def test_a_line_is_json_that_can_be_checked_before_it_is_parsed(path):
    first, second = (await closed(path, "hi")).splitlines(keepends=True)
    assert first == framed(BEGIN.body)
    assert second == b'["149878cb",71,{"type":"append","first":1,"messages":[{"role":"user","content":"hi"}]}]\n'


@POSIX
async def test_the_file_is_its_owners_alone(path):
    old = os.umask(0)
    try:
        await closed(path, "one")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
async def test_a_path_may_be_of_any_kind(path, kind: Callable[[str], Any]):
    session = JournalSession(kind(str(path)))
    await session.append([said("one")])
    await session.aclose()
    assert texts_of(await loaded(path)) == ["one"]


def test_two_event_loops_in_a_row(path: Path):
    session = JournalSession(path)
    asyncio.run(session.append([said("one")]))
    asyncio.run(session.append([said("two")]))
    assert texts_of(asyncio.run(session.load())) == ["one", "two"]
    asyncio.run(session.aclose())


async def test_calls_take_effect_in_the_order_in_which_they_were_made(path):
    session = JournalSession(path)
    await asyncio.gather(*[session.append([said(str(number))]) for number in range(50)])
    await session.aclose()
    assert texts_of(await loaded(path)) == [str(number) for number in range(50)]


async def test_used_again_it_opens_again_and_knows_its_messages(path):
    session = await written(path, "one", "two")
    state = await session.load()
    await session.aclose()
    await session.aclose()
    await session.replace(SessionState(chat_history=state.chat_history[1:]))
    assert b'"messages":[],"order":[[2,2]]' in path.read_bytes()
    await session.aclose()


async def test_a_path_stays_the_same_file_when_the_process_changes_its_folder(path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(path.parent)
    session = JournalSession(path.name)
    (path.parent / "elsewhere").mkdir()
    monkeypatch.chdir(path.parent / "elsewhere")
    await session.append([said("one")])
    await session.aclose()
    assert texts_of(await loaded(path)) == ["one"]
    assert repr(session) == f"JournalSession({str(path)!r}, fsync='round')"


@pytest.mark.parametrize("path", ["", b"", "a\0b"])
def test_what_is_no_path_is_refused(path: Any):
    with pytest.raises(ValueError, match="is no path of a file"):
        JournalSession(path)


def test_a_policy_that_nobody_knows_is_refused(path: Path):
    with pytest.raises(ValueError, match="fsync is"):
        JournalSession(path, fsync="sometimes")  # pyright: ignore[reportArgumentType]


async def test_what_cannot_be_written_changes_nothing(path):
    session = await written(path, "one")
    for change in (
        session.append([said("two"), Message.user("x", extra={"x": object()})]),
        session.rollback("nowhere"),
    ):
        with pytest.raises(SessionError, match=str(path)):
            await change
    await session.append([said("three")])
    await session.aclose()
    assert texts_of(await loaded(path)) == ["one", "three"]


# ==== large parts ====


async def test_a_long_data_url_is_kept_once_beside_the_file(path):
    url = "data:image/png;base64," + "A" * 10_000
    picture = Message.user(ImageURLPart(image_url=MediaURL(url=url)))
    session = JournalSession(path)
    await session.append([picture, picture])
    await session.append([picture])
    await session.aclose()
    (blob,) = blobs_of(path)
    assert path.stat().st_size < 1000
    assert (await loaded(path)).chat_history == (picture, picture, picture)
    assert [message async for message in session.everything_said()] == [picture, picture, picture]
    await session.aclose()
    blob.unlink()
    state = await go_on(path)
    assert texts_of(state) == [*["[image_url is lost]"] * 3, "on"]
    assert ["blob" in damage.reason for damage in state.damage] == [True, True]


def blobs_of(path: Path) -> list[Path]:
    return [file for file in Path(f"{path}.blobs").rglob("*") if file.is_file()]


class Sound(ContentPart):
    type: str = "sound of a journal"
    samples: bytes

    @field_serializer("samples", when_used="json")
    def _store(self, samples: bytes, info: SerializationInfo) -> str:
        context = get_ctx(info)
        assert context
        return context.save_bytes(samples, ".raw")

    @field_validator("samples", mode="before")
    @classmethod
    def _fetch(cls, value: Any, info: ValidationInfo) -> Any:
        context = get_ctx(info)
        return context.load_bytes(value) if context and isinstance(value, str) else value


@pytest.mark.parametrize("change", [lambda blob: blob.unlink(), lambda blob: blob.write_bytes(b"data:,other")])
async def test_what_was_said_with_a_picture_that_is_lost_is_kept(path, change: Callable[[Path], object]):
    seen = picture().content
    message = Message.user(["what is \ud83d", *seen, "and NaN?"], extra={"thumbnail": seen[0].image_url.url, "n": 1})
    session = JournalSession(path)
    await session.replace(SessionState(always_included_messages=(message,), chat_history=(message, said("on"))))
    await session.aclose()
    content = path.read_bytes()
    (blob,) = blobs_of(path)
    change(blob)
    state = await loaded(path)
    assert texts_of(state) == ["what is \ud83d[image_url is lost]and NaN?", "on"]
    assert state.always_included_messages == state.chat_history[:1]
    assert state.chat_history[0].extra == {"thumbnail": "data:,lost", "n": 1}
    assert [(damage.length, blob.name in damage.reason) for damage in state.damage] == [
        (len(content) - len(framed(BEGIN.body)), True)
    ]
    assert await everything(session) == texts_of(state)
    await session.aclose()
    assert path.read_bytes() == content
    blob.unlink(missing_ok=True)
    session = JournalSession(path)
    await session.append([Message.user(seen)])
    await session.aclose()
    assert (await loaded(path)).chat_history == (message, said("on"), Message.user(seen))


async def test_what_is_loaded_has_a_limit_however_often_a_picture_is_named(path, monkeypatch: pytest.MonkeyPatch):
    session = JournalSession(path)
    many = Message.user([ImageURLPart(image_url=MediaURL(url="data:image/png;base64," + "A" * 9000))] * 10)
    for _ in range(4):
        await session.append([said("x"), many])
    await session.aclose()
    monkeypatch.setattr(journal, "Room", lambda: Room(300_000))
    state = await session.load()
    assert len(state.chat_history) == 6
    assert ["no more are left" in damage.reason for damage in state.damage] == [True]
    with pytest.raises(SessionError, match="could not be loaded"):
        await session.append([many])
    await session.append([said("y")])
    assert len([message async for message in session.everything_said()]) == 7
    await session.replace(SessionState(chat_history=state.chat_history[:2]))
    await session.compact(drop_damaged=True)
    await session.append([many])
    await session.aclose()
    state = await session.load()
    assert (len(state.chat_history), state.damage) == (3, ())
    await session.aclose()


async def test_a_part_of_ones_own_may_store_bytes_beside_the_file(path):
    session = JournalSession(path)
    message = Message.user(Sound(samples=b"\x00\xff" * 100))
    await session.append([message])
    await session.compact()
    await session.aclose()
    assert (await loaded(path)).chat_history == (message,)


# ==== who else is there ====


@pytest.mark.skipif(journal.fcntl is None, reason="there are no locks")
async def test_a_second_opener_is_refused_until_the_first_lets_go(path):
    session = await written(path, "one")
    other = JournalSession(path)
    for attempt in (other.load(), other.append([said("two")]), other.checkpoint("x")):
        with pytest.raises(SessionConflictError, match=str(path)):
            await attempt
    await session.compact()
    with pytest.raises(SessionConflictError):
        await other.load()
    await session.aclose()
    await other.append([said("two")])
    with pytest.raises(SessionConflictError):
        await session.append([said("three")])
    await other.aclose()
    with pytest.raises(SessionConflictError, match="changed by somebody else"):
        await session.append([said("three")])
    assert texts_of(await session.load()) == ["one", "two"]
    await session.aclose()


@pytest.mark.skipif(journal.fcntl is None, reason="there are no locks")
async def test_a_session_that_nobody_has_any_more_lets_go(path):
    await written(path, "one")
    gc.collect()
    assert texts_of(await loaded(path)) == ["one"]


async def test_two_that_begin_the_same_file(path):
    first, second = JournalSession(path), JournalSession(path)
    await first.load()
    await second.load()
    await first.append([said("one")])
    with pytest.raises(SessionConflictError):
        await second.append([said("two")])
    await first.aclose()
    with pytest.raises(SessionConflictError):
        await second.append([said("two")])
    assert texts_of(await second.load()) == ["one"]
    await second.aclose()


async def test_a_file_that_is_replaced_while_it_is_opened_is_opened_again(path, monkeypatch: pytest.MonkeyPatch):
    await closed(path.with_name("newer"), "new")
    await closed(path, "old")
    lock = journal._lock

    def replaced_meanwhile(descriptor: int, name: str) -> None:
        lock(descriptor, name)
        if path.with_name("newer").exists():
            path.with_name("newer").replace(path)

    monkeypatch.setattr(journal, "_lock", replaced_meanwhile)
    assert texts_of(await go_on(path)) == ["new", "on"]


@pytest.mark.skipif(journal.fcntl is None, reason="there are no locks")
async def test_where_nothing_can_be_locked_somebody_elses_write_is_noticed(path, monkeypatch: pytest.MonkeyPatch):
    class NoLocks:
        LOCK_EX = LOCK_NB = LOCK_UN = 0

        def flock(self, *_: object) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(journal, "fcntl", NoLocks())
    first, second = await written(path, "one"), JournalSession(path)
    await second.append([said("two")])
    with pytest.raises(SessionConflictError, match="written to by somebody else"):
        await first.append([said("three")])
    await second.aclose()
    await first.aclose()
    assert texts_of(await loaded(path)) == ["one", "two"]


async def append_to(path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


async def delete(path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [append_to, delete])
@pytest.mark.parametrize("is_open", [True, False])
async def test_what_somebody_does_to_the_file_is_noticed_before_a_write(path, change: Any, is_open: bool):
    session = await written(path, "one")
    if not is_open:
        await session.aclose()
    await change(path)
    there = path.exists()
    with pytest.raises(SessionConflictError):
        await session.append([said("two")])
    assert path.exists() == there
    await session.aclose()
    assert texts_of(await session.load()) == (["one"] if there else [])
    await session.aclose()


# ==== damage ====

TEXTS = ("one", "two", "three")


async def whole_lines(path) -> list[bytes]:
    content = await closed(path, *TEXTS)
    path.unlink()
    return content.splitlines(keepends=True)


def records_in(content: bytes) -> tuple[list[bytes], list[Damage]]:
    found = contents(BytesIO(content))
    covered = [(line.start, line.end - line.start) for line in found.lines]
    covered += [(damage.offset, damage.length) for damage in found.damage]
    place = 0
    for start, length in sorted(covered):
        assert start == place
        assert length > 0
        place += length
    assert place == len(content)
    return [framed(line.record) for line in found.lines], found.damage


async def test_whatever_byte_is_changed_every_other_record_is_kept(path):
    lines = await whole_lines(path)
    content = b"".join(lines)
    for place in range(len(content)):
        touched = sum(place >= len(b"".join(lines[: count + 1])) for count in range(len(lines)))
        others = lines[:touched] + lines[touched + 1 :]
        before, byte, after = content[:place], content[place], content[place + 1 :]
        changed = [bytes([byte ^ mask]) for mask in (0x01, 0x20, 0x80, byte, byte ^ 0x0A)]
        for new in {*changed, b"", bytes([byte, 0])} - {bytes([byte])}:
            found, damage = records_in(before + new + after)
            assert [line for line in found if line in others] == others, (place, new)
            assert set(found) <= set(lines)
            assert damage or found == lines, (place, new)


async def test_wherever_it_is_cut_off_every_whole_record_is_kept(path):
    lines = await whole_lines(path)
    content = b"".join(lines)
    ends = [len(b"".join(lines[: count + 1])) for count in range(len(lines))]
    for length in range(len(content) + 1):
        for tail in (b"", b"\0" * 100):
            path.write_bytes(content[:length] + tail)
            whole = [end for end in ends if end - 1 <= length]  # the newline may be lost
            state = await loaded(path)
            assert path.read_bytes() == content[:length] + tail
            assert texts_of(state) == list(TEXTS[: max(len(whole) - 1, 0)])
            assert bool(state.damage) == bool(tail or length > max(whole, default=0))
        if length % 3 == 0 or length + 1 in ends:
            after = await go_on(path)
            assert (texts_of(after), after.damage) == ([*texts_of(state), "on"], ())
            assert path.read_bytes().count(b"\n") == max(len(whole), 1) + 1


async def test_a_damaged_session_is_loaded_or_refused_and_goes_on(path):
    content = await closed(path, *TEXTS)
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        before = await loaded(path)
        assert await loaded(path) == before
        assert len(texts_of(before)) >= 2
        after = await go_on(path)
        assert texts_of(after) == [*texts_of(before), "on"]
        kept = [damage for damage in before.damage if damage.reason != journal._TORN]
        assert list(after.damage) == kept


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([b"\n", b"]", b'["', b"\0", b"12345678", b'",7,', b"x"]), max_size=9), st.integers(0, 3)
)
async def test_rubbish_between_lines_is_one_damage(path, rubbish: list[bytes], count: int):
    lines = [framed(BEGIN.body), *[framed(b'{"type":"checkpoint","label":"%d"}' % number) for number in range(3)]]
    between = b"".join(rubbish)
    found, damage = records_in(b"".join([*lines[:count], between, *lines[count:]]))
    assert found == lines
    assert [(one.offset, one.length) for one in damage] == (
        [(len(b"".join(lines[:count])), len(between))] * bool(between)
    )


@pytest.mark.parametrize(
    "content",
    [
        b"hello\n",
        b"{}",
        b"PK\x03\x04",
        b'{"format": "kimi_agent"}\n',
        b"\0x",
        framed(BEGIN.body)[:20] + b"y",
        b"\n" * 9,
    ],
)
async def test_what_is_no_journal_is_refused_and_not_touched(path, content: bytes):
    path.write_bytes(content)
    session = JournalSession(path)
    for attempt in (session.load(), session.append([said("one")]), session.compact()):
        with pytest.raises(SessionError, match="no journal of kimi_agent"):
            await attempt
    await session.aclose()
    assert path.read_bytes() == content


async def test_a_newer_major_version_is_refused_and_not_touched(path):
    path.write_bytes(framed(BEGIN.body.replace(b"1.0", b"2.0")) + framed(b'{"type":"checkpoint","label":"x"}'))
    content = path.read_bytes()
    with pytest.raises(SessionError, match=r"talk\.journal: its format has version 2\.0"):
        await loaded(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, framed(BEGIN.body)[:-2], framed(BEGIN.body)[:7] + b"\0" * 9])
async def test_a_first_write_that_never_came_to_the_disk_is_a_new_session(path, content: bytes):
    path.write_bytes(content)
    state = await loaded(path)
    assert state.chat_history == ()
    assert bool(state.damage) == bool(content)
    state = await go_on(path)
    assert (texts_of(state), state.damage) == (["on"], ())


async def test_what_is_torn_is_reported_until_something_takes_its_place(path):
    content = await closed(path, *TEXTS)
    path.write_bytes(content.replace(b"one", b"eno") + b"torn")
    session = JournalSession(path)
    middle, torn = (await session.load()).damage
    assert (torn.offset, torn.length) == (len(content), 4)
    await session.append([said("on")])
    state = await session.load()
    assert (texts_of(state), state.damage) == (["two", "three", "on"], (middle,))
    await session.aclose()
    assert await loaded(path) == state


async def test_a_record_that_is_whole_and_makes_no_sense_is_damage(path):
    await closed(path, "one")
    offset = path.stat().st_size
    deep = b'{"type":"append","first":9,"messages":[' + b"[" * 10_000 + b"]" * 10_000 + b"]}"
    with path.open("ab") as file:
        file.write(framed(deep) + framed(b'{"type":"append"}'))
    state = await go_on(path)
    assert texts_of(state) == ["one", "on"]
    assert [(damage.offset, damage.length) for damage in state.damage] == [
        (offset, len(framed(deep))),
        (offset + len(framed(deep)), len(framed(b'{"type":"append"}'))),
    ]


async def test_a_line_that_is_too_long_is_neither_written_nor_read(path, monkeypatch: pytest.MonkeyPatch):
    await closed(path, "one", "x" * 500, "two")
    monkeypatch.setattr(journal, "LONGEST", 200)
    state = await go_on(path)
    assert texts_of(state) == ["one", "two", "on"]
    assert len(state.damage) == 1
    assert state.damage[0].length > 500
    session = JournalSession(path)
    with pytest.raises(SessionError, match="200 are the most"):
        await session.append([said("y" * 500)])
    await session.aclose()
    assert texts_of(await loaded(path)) == ["one", "two", "on"]


def test_a_line_full_of_beginnings_is_not_looked_through_for_ever():
    content = framed(BEGIN.body) + b'["00000000",500000,' * 50_000 + b"]" * 1_000_000
    begun = time.process_time()
    assert len(records_in(content)[0]) == 1
    assert time.process_time() - begun < 2


# ==== disks ====


class Disk:
    """The module `os`, some of whose functions fail while they should."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing: dict[str, OSError] = {}
        self.calls: list[str] = []
        self.piece = sys.maxsize
        """In bytes. No more are written at a time; what follows the first piece fails if `pwrite` does."""
        self.written = 0
        monkeypatch.setattr(journal, "os", self)

    def __getattr__(self, name: str) -> Any:
        function = getattr(os, name)
        return (lambda *args, **kwargs: self.call(name, *args, **kwargs)) if name in FAULTY else function

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(name)
        is_first_piece = name == "pwrite" and self.piece < sys.maxsize and self.calls.count("pwrite") % 2
        if name in self.failing and not is_first_piece:
            raise self.failing[name]
        if name == "pwrite":
            return os.pwrite(args[0], args[1][: self.piece], args[2])
        return getattr(os, name)(*args, **kwargs)

    def fail(self, name: str, number: int = errno.EIO) -> None:
        self.failing[name] = OSError(number, os.strerror(number))


FAULTY = {"pwrite", "fsync", "ftruncate", "open", "replace"}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("piece", [sys.maxsize, 1, 30])
async def test_a_full_disk_leaves_what_was_there_and_the_session_goes_on(path, disk: Disk, piece: int):
    session = await written(path, "one")
    before = path.read_bytes()
    disk.fail("pwrite", errno.ENOSPC)
    disk.piece, disk.calls = piece, []
    for attempt in range(2):
        disk.calls = []
        with pytest.raises(SessionError, match=rf"cannot write to {path}: No space left"):
            await session.append([said(f"lost {attempt}")], usage=Spent(input_other=99))
        assert path.read_bytes() == before
    assert (texts_of(await session.load()), (await session.load()).usage) == (["one"], Spent())
    disk.failing = {}
    await session.append([said("two")])
    await session.aclose()
    assert texts_of(await loaded(path)) == ["one", "two"]


async def test_a_disk_that_is_full_from_the_beginning(path, disk: Disk):
    disk.fail("pwrite", errno.ENOSPC)
    session = JournalSession(path)
    with pytest.raises(SessionError):
        await session.append([said("lost")])
    disk.failing = {}
    await session.append([said("one")])
    await session.aclose()
    assert texts_of(await loaded(path)) == ["one"]


async def test_a_write_that_can_neither_be_finished_nor_taken_back_leaves_a_doubt(path, disk: Disk):
    session = await written(path, "one")
    disk.fail("pwrite", errno.ENOSPC)
    disk.fail("ftruncate")
    disk.piece, disk.calls = 30, []
    with pytest.raises(SessionError, match="No space left"):
        await session.append([said("lost")])
    disk.failing, disk.piece = {}, sys.maxsize
    for attempt in (session.append([said("two")]), session.compact(), session.checkpoint("x")):
        with pytest.raises(SessionError, match=r"in doubt.*open it again"):
            await attempt
    await session.aclose()
    assert texts_of(await session.load()) == ["one"]
    await session.append([said("two")])
    await session.aclose()
    state = await loaded(path)
    assert (texts_of(state), state.damage) == (["one", "two"], ())


async def test_a_record_that_cannot_be_made_to_last_is_taken_back(path, disk: Disk):
    session = JournalSession(path, fsync="always")
    await session.append([said("one")])
    before = path.read_bytes()
    disk.fail("fsync")
    with pytest.raises(SessionError, match="Input/output error"):
        await session.append([said("lost")])
    assert path.read_bytes() == before
    disk.failing = {}
    await session.append([said("two")])
    await session.aclose()
    assert texts_of(await loaded(path)) == ["one", "two"]


async def test_a_flush_that_fails_says_so_and_keeps_what_was_written(path, disk: Disk):
    session = await written(path, "one")
    disk.fail("fsync")
    for attempt in (session.flush(), session.aclose()):
        with pytest.raises(SessionError, match="cannot flush"):
            await attempt
    disk.failing = {}
    assert texts_of(await session.load()) == ["one"]
    await session.flush()
    await session.aclose()


@pytest.mark.parametrize(("fsync", "counts"), [("always", [1, 2, 2, 2]), ("round", [0, 0, 1, 1]), ("never", [0] * 4)])
async def test_it_waits_for_the_disk_when_it_was_told_to(path, disk: Disk, fsync: Any, counts: Sequence[int]):
    session = JournalSession(path, fsync=fsync)
    found: list[int] = []
    for step in (session.append([said("one")]), session.append([said("two")]), session.flush(), session.aclose()):
        await step
        found.append(disk.calls.count("fsync"))
    assert found == list(counts)


async def test_one_call_is_one_write(path, disk: Disk):
    session = JournalSession(path)
    await session.append([said("one"), said("two")])
    await session.replace(SessionState(always_included_messages=(Message.system("x"),), chat_history=(said("three"),)))
    assert disk.calls.count("pwrite") == 2
    await session.aclose()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
async def test_a_folder_that_is_write_protected(path, disk: Disk, number: int):
    disk.fail("open", number)
    with pytest.raises(SessionError, match=f"cannot write to {path}"):
        await closed(path, "one")
    disk.failing = {}
    await closed(path, "one")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
async def test_a_file_that_is_write_protected_can_be_read(path, monkeypatch: pytest.MonkeyPatch, number: int):
    await closed(path, "one")

    def read_only(path: str, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR:
            raise OSError(number, os.strerror(number))
        return os.open(path, flags, *mode)

    monkeypatch.setattr(Disk(monkeypatch), "open", read_only, raising=False)
    session = JournalSession(path)
    assert texts_of(await session.load()) == ["one"]
    with pytest.raises(SessionError, match="write-protected"):
        await session.append([said("two")])
    with pytest.raises(SessionError, match="write-protected"):
        await session.compact()
    await session.aclose()


async def test_a_folder_that_is_not_there_is_named(tmp_path):
    session = JournalSession(tmp_path / "nowhere" / "talk.journal")
    for attempt in (session.load(), session.append([said("one")])):
        with pytest.raises(SessionError, match=r"there is no folder .*nowhere; make it first"):
            await attempt
    await session.aclose()


@POSIX
async def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(SessionError, match="it is no file"):
            await loaded(path)


LIMITED = """
import asyncio, resource, signal, sys
from kimi_agent import Message
from kimi_agent.errors import SessionError
from kimi_agent.session.journal import JournalSession

async def main():
    session = JournalSession(sys.argv[1])
    said = 0
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
    while True:
        try:
            await session.append([Message.user("x" * 100)])
        except SessionError as error:
            assert "File too large" in str(error), error
            break
        said += 1
    assert len((await session.load()).chat_history) == said
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await session.append([Message.user("on")])
    await session.aclose()
    print(said)

asyncio.run(main())
"""

AT_THE_END = """
import asyncio, sys
from kimi_agent import Message
from kimi_agent.session.journal import JournalSession

async def main():
    session = JournalSession(sys.argv[1])
    for number in range(100):
        session._strand.submit(session._write, lambda ledger: ledger.appending([Message.user("x")]))

asyncio.run(main())
print(100)
"""


def printed(script: str, *args: object) -> int:
    paths = os.pathsep.join([str(Path(kimi_agent.__file__).parents[1]), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)], capture_output=True, env={**os.environ, "PYTHONPATH": paths}
    )
    assert done.returncode == 0, done.stderr.decode()
    return int(done.stdout)


@POSIX
async def test_a_file_that_may_not_grow(path):
    said_before = printed(LIMITED, path)
    state = await loaded(path)
    assert texts_of(state) == ["x" * 100] * said_before + ["on"]
    assert said_before > 20
    assert state.damage == ()


async def test_what_waits_when_the_program_ends_is_written(path):
    assert printed(AT_THE_END, path) == len((await loaded(path)).chat_history)


# ==== cancelled callers ====


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is not set, nothing is written."""
    opened = threading.Event()

    def write(descriptor: int, content: Any, offset: int) -> int:
        assert opened.wait(10)
        return os.pwrite(descriptor, content, offset)

    monkeypatch.setattr(Disk(monkeypatch), "pwrite", write, raising=False)
    yield opened
    opened.set()


async def test_whoever_is_cancelled_during_a_write_hears_of_it_when_it_is_done(path, gate: threading.Event):
    session = JournalSession(path)
    writing = asyncio.create_task(session.append([said("one")]))
    waiting = asyncio.create_task(session.append([said("two")]))
    for _ in range(5):
        await asyncio.sleep(0)
        writing.cancel()
        waiting.cancel()
        await asyncio.sleep(0)
        assert not writing.done()
        assert not waiting.done()
    gate.set()
    for task in (writing, waiting):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert texts_of(await session.load()) == ["one", "two"]
    await session.aclose()


async def test_cancelled_after_any_number_of_steps_it_has_happened_or_not_begun(path):
    session = JournalSession(path)
    happened: list[str] = []
    for number in range(30):
        task = asyncio.create_task(session.append([said(str(number))]))
        for _ in range(number % 6):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        texts = texts_of(await session.load())
        assert texts in (happened, [*happened, str(number)])
        happened = texts
    assert len(happened) >= 25
    await session.aclose()


async def test_what_goes_wrong_for_a_cancelled_caller_is_logged(path, gate: threading.Event):
    session = JournalSession(path)
    writing = asyncio.create_task(session.rollback("nowhere"))
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    logger.enable("kimi_agent")
    try:
        await asyncio.sleep(0)
        writing.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await writing
    finally:
        logger.disable("kimi_agent")
        logger.remove(sink)
    assert "no checkpoint 'nowhere'" in lines[0]
    await session.aclose()


async def test_a_strand_gives_what_its_functions_give_and_raise():
    strand = Strand()
    assert await strand.run(int, "7") == 7
    with pytest.raises(ZeroDivisionError):
        await strand.run(lambda: 1 / 0)
    with pytest.raises(SystemExit):
        await strand.run(sys.exit)
    assert await strand.run(int, "8") == 8


async def test_whoever_hears_that_a_function_has_ended_finds_it_let_go_of():
    class Owner:
        def work(self) -> int:
            return 1

    owner, held = Owner(), list[object]()
    alive, may_end = weakref.ref(owner), threading.Event()
    strand = Strand()
    strand.submit(may_end.wait)
    done = strand.submit(owner.work)
    done.add_done_callback(lambda _: held.append(alive()))
    del owner
    may_end.set()
    assert await strand.run(int, "7") == 7
    assert (done.result(), held) == (1, [None])


# ==== forks ====

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")


class Child:
    """A process that is forked now, and calls a function when it is told to."""

    def __init__(self, function: Callable[[], object]) -> None:
        wait, self._go = os.pipe()
        self._answers, answer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the threads that are there
            self.pid = os.fork()
        if not self.pid:
            os.close(self._go)
            self._live(function, wait, answer)
        os.close(wait)
        os.close(answer)

    def _live(self, function: Callable[[], object], wait: int, answer: int) -> None:
        try:
            signal.alarm(20)
            os.read(wait, 1)
            os.write(answer, repr(function()).encode())
        except BaseException as error:
            os.write(answer, f"{type(error).__name__}: {error}".encode())
        os._exit(0)

    def said(self) -> str:
        """What the function gives or raises."""
        os.write(self._go, b"x")
        os.close(self._go)
        answer = os.read(self._answers, 9999)
        os.close(self._answers)
        os.waitpid(self.pid, 0)
        return answer.decode()


def do(call: Any) -> Any:
    return asyncio.run(call)


async def everything(session: JournalSession) -> list[str]:
    return [message.text async for message in session.everything_said()]


@FORKS
def test_a_forked_process_leaves_the_file_to_its_parent(path: Path):
    session = do(written(path, "one"))
    for attempt in (
        lambda: do(everything(session)),
        lambda: do(session.load()),
        lambda: do(session.append([said("x")])),
    ):
        assert Child(attempt).said().startswith("SessionConflictError")
        do(session.append([said("two")]))
    do(session.aclose())
    assert texts_of(do(loaded(path))) == ["one", "two", "two", "two"]


@FORKS
def test_two_processes_do_not_share_where_they_read_and_write(path: Path):
    session = do(written(path, "one"))
    file = session._file
    assert file
    assert Child(lambda: [len(file.read().lines), os.lseek(file.descriptor, 0, os.SEEK_SET)]).said() == "[2, 0]"
    do(session.append([said("two")]))
    do(session.aclose())
    assert texts_of(do(loaded(path))) == ["one", "two"]


@FORKS
def test_the_lock_of_a_parent_does_not_live_on_in_its_children(path: Path):
    session = do(written(path, "one"))
    child = Child(lambda: texts_of(do(session.load())))
    do(session.aclose())
    do(session.append([said("two")]))
    do(session.aclose())
    assert child.said() == "['one', 'two']"


@FORKS
def test_a_forked_process_goes_on_when_its_parent_has_closed_the_file(path: Path):
    session = do(written(path, "one"))
    child = Child(lambda: do(session.append([said("two")])))
    do(session.aclose())
    assert child.said() == "None"
    late = Child(lambda: do(session.append([said("lost")])))
    assert texts_of(do(session.load())) == ["one", "two"]
    do(session.append([said("three")]))
    do(session.aclose())
    assert "changed by somebody else" in late.said()
    assert texts_of(do(loaded(path))) == ["one", "two", "three"]


@FORKS
def test_a_process_that_is_forked_during_a_write_does_not_hang(path: Path, gate: threading.Event):
    gate.set()
    session = do(written(path, "one"))
    gate.clear()
    done = session._strand.submit(session._write, lambda ledger: ledger.appending([said("two")]))
    child = Child(lambda: [gate.set(), texts_of(do(session.load())), do(session.append([said("three")]))])
    unsure = Child(lambda: do(session.append([said("lost")])))
    gate.set()
    done.result(10)
    do(session.aclose())
    assert "so does load()" in unsure.said()
    assert child.said() == "[None, ['one', 'two'], None]"


# ==== compact ====


async def test_compact_keeps_the_state_and_the_checkpoints_and_nothing_else(path):
    session = JournalSession(path)
    picture = Message.user(ImageURLPart(image_url=MediaURL(url="data:image/png;base64," + "A" * 5000)))
    await session.append([said("one"), said("two"), picture])
    state = await session.load()
    await session.replace(SessionState(chat_history=state.chat_history[:2], usage=Spent(requests=3, cost=1.0)))
    await session.checkpoint("x")
    await session.replace(SessionState(chat_history=(said("summary"), *state.chat_history[1:2]), cut=1))
    before = await session.load()
    await session.compact()
    assert await session.load() == before
    await session.append([said("three")])
    await session.aclose()
    assert blobs_of(path) == []
    assert texts_of(await loaded(path)) == ["summary", "two", "three"]
    assert [message.text async for message in session.everything_said()] == ["one", "two", "summary", "three"]
    assert texts_of(await session.rollback("x")) == ["one", "two"]
    await session.aclose()


async def test_compact_removes_damage(path):
    content = await closed(path, *TEXTS)
    path.write_bytes(content.replace(b"two", b"tow") + b"torn")
    session = JournalSession(path)
    state = await session.load()
    assert len(state.damage) == 2
    with pytest.raises(SessionError, match=r"1 of its pieces .* lost for good.*drop_damaged=True"):
        await session.compact()
    assert await session.load() == state
    await session.compact(drop_damaged=True)
    state = await session.load()
    assert (texts_of(state), state.damage) == (["one", "three"], ())
    await session.aclose()
    assert await loaded(path) == state


async def test_compact_removes_what_is_torn(path):
    content = await closed(path, "one")
    path.write_bytes(content + b"torn")
    session = JournalSession(path)
    await session.compact()
    assert (await session.load()).damage == ()
    await session.aclose()


def picture(letter: str = "A") -> Message:
    return Message.user(ImageURLPart(image_url=MediaURL(url="data:image/png;base64," + letter * 9000)))


async def test_pictures_that_come_back_are_not_lost_meanwhile(path):
    session = JournalSession(path)
    await session.append([picture()])
    await session.aclose()
    os.rename(f"{path}.blobs", f"{path}.elsewhere")
    session = JournalSession(path)
    with pytest.raises(SessionError, match=r"the blob .* is missing .*drop_damaged=True"):
        await session.compact()
    await session.aclose()
    os.rename(f"{path}.elsewhere", f"{path}.blobs")
    session = JournalSession(path)
    await session.compact()
    assert (await session.load()).chat_history == (picture(),)
    await session.aclose()


async def test_compact_does_not_throw_away_what_only_a_newer_version_knows(path):
    content = await closed(path, "one") + framed(b'{"type":"vote","for":1}')
    path.write_bytes(content)
    session = JournalSession(path)
    with pytest.raises(SessionError, match=r"newer version knows \(vote\).*drop_damaged=True"):
        await session.compact()
    assert path.read_bytes() == content
    await session.compact(drop_damaged=True)
    await session.compact()
    await session.aclose()
    assert b"vote" not in path.read_bytes()


@POSIX
@pytest.mark.parametrize("is_link", [True, False])
async def test_compact_removes_blobs_and_nothing_of_anybody_else(path, is_link: bool):
    session = JournalSession(path)
    await session.append([picture()])
    folder, there = Path(f"{path}.blobs"), path.with_name("there")
    (blob,) = blobs_of(path)
    if is_link:
        os.rename(folder, there)
        os.symlink(there, folder)
    else:
        there.mkdir()
        (there / blob.name).touch()
        (folder / "ff").symlink_to(there)
        foreign = [folder / blob.name, blob.parent / ("0" * 64), blob.with_name(f"{blob.name}.png")]
        for file in foreign:
            file.touch()
    await session.replace(SessionState())
    before = set(blobs_of(path))
    await session.compact()
    await session.aclose()
    assert before - set(blobs_of(path)) == (set() if is_link else {blob})
    assert (there / blob.name if not is_link else there / blob.parent.name / blob.name).exists()


@POSIX
async def test_compact_keeps_the_mode_and_the_link(path):
    link = path.parent / "link"
    link.symlink_to(path)
    session = await written(link, "one")
    path.chmod(0o640)
    await session.compact()
    await session.aclose()
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert texts_of(await loaded(path)) == ["one"]


@pytest.mark.parametrize("fault", ["pwrite", "fsync", "replace"])
async def test_a_compaction_that_fails_changes_nothing(path, disk: Disk, fault: str):
    session = await written(path, "one", "two")
    await session.flush()
    before = path.read_bytes()
    disk.fail(fault, errno.ENOSPC)
    with pytest.raises(SessionError, match="cannot compact"):
        await session.compact()
    disk.failing = {}
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    await session.append([said("three")])
    await session.aclose()
    assert texts_of(await loaded(path)) == ["one", "two", "three"]


# ==== what it costs ====


def conversation(length: int) -> list[Message]:
    """Questions, calls, results and answers in turn."""
    kinds: Sequence[Callable[[int], Message]] = (
        lambda number: Message.user(f"question {number} {'x' * 100}"),
        lambda number: Message.assistant(tool_calls=[ToolCall.from_function("look", call_id_=f"look_{number}")]),
        lambda number: Message.tool("result " * 10, f"look_{number - 1}"),
        lambda number: Message.assistant("an answer " * 10),
    )
    return [kinds[number % 4](number) for number in range(length)]


@untraced
def test_a_long_session_is_loaded_about_as_fast_as_its_messages(path: Path):
    said = conversation(3_000)
    ledger = Ledger()
    records = [BEGIN, *[ledger._applied(ledger.appending([message])) for message in said]]
    path.write_bytes(b"".join([framed(record.body) for record in records]))
    array = encode(said)
    del ledger, records, said
    adapter = TypeAdapter(list[Message])
    adapter.validate_json(array)

    def load() -> SessionState:
        session = JournalSession(path)
        state = session._load()
        session._close()
        return state

    assert len(load().chat_history) == 3_000
    restoring = min(seconds(load) for _ in range(4))
    ratio = restoring / min(seconds(lambda: adapter.validate_json(array)) for _ in range(4))
    print(f"restoring takes {ratio:.2f} times as long as validating the same messages")
    assert ratio < 3

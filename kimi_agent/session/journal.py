"""A conversation in a file that only grows: what was said is written once, and never again.

    ["<CRC-32 of the record, 8 hex digits>",<length of the record in bytes>,<record>]

A line per record, which is JSON and can be checked before it is parsed; `ledger` has the records. A call is one write
of whole lines: all of it is there afterwards, or nothing. A write that fails is taken back, and what was there is as it
was. If even that fails, the session refuses to write until it is opened again. When the power fails during a call that
fails, its record may be there all the same.

Reading changes nothing. Whatever is damaged is reported as `Damage`, and every record that is whole is kept, before and
after it: one whose checksum is right, whatever became of its newline. What a crash or a power cut leaves at the end is
dropped; the next write takes its place.

While a journal is open it is locked, against other processes as against a second session of this one. Where there is no
`fcntl` (Windows), or on a file system that cannot lock, there is no lock; a write of somebody else is noticed all the
same, before the next one, by the length of the file. A process that is forked meanwhile has no part in it: its session
is one of its own, which opens the file anew when the parent has closed it.

Long `data:` URLs and the bytes of a user's own parts are kept in the folder `<path>.blobs`, each once. In the place of
a picture that is lost there is a text that says so, and the record is reported as damage.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import tempfile
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO, Final, Literal, NamedTuple, TypeAlias
from zlib import crc32

from ..errors import SessionConflictError, SessionError
from ..limits import Spent
from ..message import Message
from .blobs import FilePath, FolderBlobs, Room, SaveContext, extract, named, session_errors, sync_folder
from .codec import uncollected
from .ledger import BEGIN, LOST, Ledger, Record, decoded, everything_said, without_lost
from .state import Damage, SessionState, WindowState
from .writing import Strand

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["JournalSession"]

Fsync: TypeAlias = Literal["always", "round", "never"]

LONGEST: Final = 2**28
"""In bytes. A longer line is neither written nor read."""


# ==== lines ====


class Line(NamedTuple):
    """A record that is whole, and where its line begins and ends in the file."""

    record: bytes
    start: int
    end: int


_ENDING: Final = b"]\n"


def _beginning(record: bytes) -> bytes:
    return b'["%08x",%d,' % (crc32(record), len(record))


def framed(record: bytes) -> bytes:
    """The line of a record.

    Raises:
        ValueError: it would be too long.
    """
    line = _beginning(record) + record + _ENDING
    if len(line) > LONGEST:
        raise ValueError(f"it would be a line of {len(line)} bytes, and {LONGEST} are the most")
    return line


def _whole(line: bytes) -> bytes | None:
    """The record of a line that is in order."""
    record = line[line.find(b",", 12) + 1 : -len(_ENDING)]
    return record if line.startswith(_beginning(record)) and line.endswith(_ENDING) else None


_FRAME: Final = re.compile(rb'\["([0-9a-f]{8})",([0-9]{1,9}),')
_EFFORT: Final = 8
"""How many times a damaged line is looked through at most."""


def _whole_within(line: bytes, offset: int) -> Iterator[Line]:
    """The records that are whole in a damaged line. Perhaps only its newline is damaged, or what was before it."""
    place, effort = 0, _EFFORT * len(line)
    while (frame := _FRAME.search(line, place)) and effort > 0:
        start, end = frame.end(), frame.end() + int(frame[2])
        effort -= len(frame[0])
        place = frame.start() + 1
        if line[end : end + 1] == b"]":
            effort -= end - start
            if crc32(record := line[start:end]) == int(frame[1], 16):
                place = end + 2 if line[end + 1 : end + 2] == b"\n" else end + 1
                yield Line(record, offset + frame.start(), offset + place)


class Content(NamedTuple):
    """What a journal has: records that are whole, what lies between and behind them, where the last one ends."""

    lines: list[Line]
    damage: list[Damage]
    end: int


def contents(file: BinaryIO) -> Content:
    """Read a journal from its beginning."""
    lines: list[Line] = []
    damage: list[Damage] = []
    end = 0
    for start, text in _lines_of(file):
        if start == end and (record := _whole(text)) is not None:
            end += len(text)
            lines.append(Line(record, start, end))
            continue
        for line in _whole_within(text, start):
            if line.start > end:
                damage.append(Damage(end, line.start - end, _DAMAGED))
            lines.append(line)
            end = line.end
    if (size := file.tell()) > end:
        damage.append(Damage(end, size - end, _TORN))
    return Content(lines, damage, end)


_DAMAGED: Final = "it is no record, or a damaged one"
_TORN: Final = "the last record is torn or damaged, and the next write takes its place"


def _lines_of(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Each line and where it begins; one that is too long in pieces."""
    start = file.seek(0)
    while text := file.readline(LONGEST):
        yield start, text
        start += len(text)


def _is_torn_beginning(file: BinaryIO) -> bool:
    """Whether it is what a crash leaves of the very first write, or of one that never came to the disk."""
    first = framed(BEGIN.body)
    file.seek(0)
    start = file.read(len(first)).rstrip(b"\0")
    return first.startswith(start) and all(not piece.strip(b"\0") for piece in iter(lambda: file.read(2**20), b""))


# ==== the file ====


class _OpenFile:
    """A journal that is open and locked.

    Args:
        path: where it is, without symbolic links.
        descriptor: of the open file.
        is_new: it was made just now.
        writable: it may be written to.
    """

    def __init__(self, path: str, descriptor: int, *, is_new: bool = False, writable: bool = True) -> None:
        self.path = path
        self.descriptor = descriptor
        self.writable = writable
        self.end = 0
        """Where the next record goes: behind it is what nobody needs."""
        self.size = 0
        """As it was left."""
        self.in_doubt: str | None = None
        """Why nobody knows what the file holds."""
        self.unsynced = False
        self._newline = b""
        """What the last record lacks."""
        self._folder_unsynced = is_new
        self._close = weakref.finalize(self, _let_go, descriptor, os.getpid())

    def read(self) -> Content:
        """What it has."""
        file = io.BufferedReader(_Reader(self.descriptor), _AT_ONCE)
        content = contents(file)
        if not content.lines and content.damage and not _is_torn_beginning(file):
            raise ValueError("it is no journal of kimi_agent: there is no record in it that is whole")
        return content

    def go_on_at(self, end: int) -> None:
        """Let the next record go there, behind what is needed."""
        self.end, self.size = end, os.fstat(self.descriptor).st_size
        self._newline = b"" if not end or _read_at(self.descriptor, 1, end - 1) == b"\n" else b"\n"

    def append(self, lines: bytes, *, sync: bool) -> None:
        """Write at the end: all of it, or nothing.

        Raises:
            OSError: nothing was written; if `in_doubt`, nobody knows.
        """
        self.check()
        lines = self._newline + lines
        try:
            if self.size > self.end:
                os.ftruncate(self.descriptor, self.end)
            _write(self.descriptor, lines, self.end)
            if sync:
                self.sync()
        except BaseException as error:
            self._take_back(error)
            raise
        self.end = self.size = self.end + len(lines)
        self.unsynced, self._newline = not sync, b""

    def check(self) -> None:
        """Make sure that it may be written to, and is as it was left.

        Raises:
            PermissionError: it may not.
            SessionConflictError: it is not.
            SessionError: nobody knows.
        """
        if self.in_doubt:
            raise SessionError(f"{self.path} is in doubt: {self.in_doubt}. Close the session and open it again")
        if not self.writable:
            raise PermissionError("the file is write-protected")
        now = os.fstat(self.descriptor)
        if not now.st_nlink or now.st_size != self.size:
            what = "was written to by somebody else" if now.st_nlink else "was deleted"
            raise SessionConflictError(f"{self.path} {what}; close the session, open it again and look")

    def sync(self) -> None:
        """Make what was written last."""
        os.fsync(self.descriptor)
        self.unsynced = False
        if self._folder_unsynced:
            sync_folder(os.path.dirname(self.path))
            self._folder_unsynced = False

    def _take_back(self, error: BaseException) -> None:
        try:
            os.ftruncate(self.descriptor, self.end)
            self.size = self.end
        except OSError as second:
            self.in_doubt = f"a write failed ({error}), and could not be taken back ({second})"

    def replaced(self, content: bytes) -> _OpenFile:
        """Put a file with this content in its place in one step, open and locked like this one, which is closed.

        Raises:
            OSError: it was not replaced.
        """
        folder = os.path.dirname(self.path)
        descriptor, temporary = tempfile.mkstemp(prefix=".kimi_agent-", suffix=".tmp", dir=folder)
        file = _OpenFile(self.path, descriptor)
        try:
            _lock(descriptor, temporary)
            os.chmod(temporary, stat.S_IMODE(os.fstat(self.descriptor).st_mode))
            _write(descriptor, content, 0)
            os.fsync(descriptor)
            os.replace(temporary, self.path)
        except BaseException:
            file.close()
            with suppress(OSError):
                os.unlink(temporary)
            raise
        file.end = file.size = len(content)
        sync_folder(folder)
        self.close()
        return file

    @property
    def trace(self) -> _Trace:
        """By which it is known later that nobody has written to it meanwhile."""
        now = os.fstat(self.descriptor)
        return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns

    @property
    def trace_when_forked(self) -> _Trace:
        """The trace as it was when this process was forked: whoever has written since has changed the length."""
        device, number, _, modified = self.trace
        return device, number, self.size, modified

    def close(self) -> None:
        """Let go of the file and its lock."""
        self._close()


_Trace: TypeAlias = tuple[int, ...]


def _let_go(descriptor: int, process: int) -> None:
    """Close a file. Its lock would live on in processes that were forked meanwhile; in those it is the parent's."""
    if fcntl is not None and process == os.getpid():
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _write(descriptor: int, content: bytes, offset: int) -> None:
    left = memoryview(content)
    while left:
        written = _write_at(descriptor, left, offset)
        if not written:
            raise OSError("nothing could be written")
        left, offset = left[written:], offset + written


# Where there can be forks, a file is read and written without its offset, which they share.


def _write_at(descriptor: int, content: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, content, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.write(descriptor, content)


def _read_at(descriptor: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, length)


class _Reader(io.RawIOBase):
    """A file that is open, to be read from its beginning."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._offset = offset + (self._offset if whence == os.SEEK_CUR else 0)
        return self._offset

    def readinto(self, buffer: Any, /) -> int:
        content = _read_at(self._descriptor, len(buffer), self._offset)
        buffer[: len(content)] = content
        self._offset += len(content)
        return len(content)


_AT_ONCE: Final = 2**16
"""In bytes. So much is read at a time."""


_FLAGS: Final = getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe must not hold anybody up


def _opened(path: str, *, create: bool) -> _OpenFile | None:
    """The file, locked; `None` if there is none and none is to be made."""
    while True:
        is_new = False
        try:
            descriptor, writable = _descriptor_of(path)
        except FileNotFoundError:
            _check_folder(path)
            if not create:
                return None
            descriptor, writable, is_new = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600), True, True
        file = _OpenFile(path, descriptor, is_new=is_new, writable=writable)
        try:
            _check_kind(descriptor)
            _lock(descriptor, path)
            if _is_still_at(path, descriptor):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # it was replaced before it was locked


def _descriptor_of(path: str) -> tuple[int, bool]:
    try:
        return os.open(path, os.O_RDWR | _FLAGS), True
    except (PermissionError, IsADirectoryError):
        return os.open(path, os.O_RDONLY | _FLAGS), False
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY | _FLAGS), False


def _check_folder(path: str) -> None:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise ValueError(f"there is no folder {folder}; make it first")


def _check_kind(descriptor: int) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise ValueError("it is no file")


def _lock(descriptor: int, path: str) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SessionConflictError(
            f"{path} is open in another session, of this process or another one; close that first"
        ) from error
    except OSError:  # the file system cannot lock
        pass


def _is_still_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


# ==== the session ====


class JournalSession:
    """A conversation in one file that only grows, a line for each change.

    A new file is made by the first write, for its owner alone. Nothing is opened before the first use. It is locked
    from then on until `aclose`, or until nobody has the session any more.

    Args:
        path: of the file; its folder must be there.
        fsync: when to wait until what was written would survive a power cut: `always`, after each call; `round`, when
            a round has ended (`flush`); or `never`. What was written survives the end of the process in any case.

    Raises:
        ValueError: it is no path, or no such policy.
    """

    def __init__(self, path: FilePath, *, fsync: Fsync = "round") -> None:
        if fsync not in ("always", "round", "never"):
            raise ValueError(f"fsync is 'always', 'round' or 'never', not {fsync!r}")
        self.path: str = _absolute(os.fsdecode(path))
        self.fsync: Fsync = fsync
        self._process = os.getpid()
        self._strand = Strand()
        self._file: _OpenFile | None = None
        self._folder: FolderBlobs | None = None
        self._ledger: Ledger | None = None
        self._room = Room()
        self._damage: tuple[Damage, ...] = ()
        self._left: tuple[_Trace, int] | None = None

    def __repr__(self) -> str:
        return f"JournalSession({self.path!r}, fsync={self.fsync!r})"

    async def load(self) -> SessionState:
        """What was kept, and what of it is damaged. Nothing is changed; a file that is not there is not made.

        Raises:
            SessionError: it cannot be read, is no journal, or of a newer major version.
            SessionConflictError: another session has it open.
        """
        return await self._here().run(self._load)

    async def append(
        self, messages: Sequence[Message], *, usage: Spent | None = None, window: WindowState | None = None
    ) -> None:
        """Add messages, and what the conversation has cost with them. A result takes its place among the others.

        Raises:
            SessionError: it cannot be written; the journal is as it was.
            SessionConflictError: another session has it open, or somebody has written to it.
        """
        said = tuple(messages)
        await self._here().run(self._write, lambda ledger: ledger.appending(said, usage, window))

    async def replace(self, state: SessionState, *, reason: str = "") -> None:
        """Put a state in the place of the present one. What was there stays in the file: see `everything_said`.

        Raises:
            SessionError: it cannot be written; the journal is as it was.
            SessionConflictError: another session has it open, or somebody has written to it.
        """
        await self._here().run(self._write, lambda ledger: ledger.replacing(state, reason))

    async def checkpoint(self, label: str) -> None:
        """Remember the present state under a label; an older one of this label is forgotten.

        Raises:
            SessionError: it cannot be written; the journal is as it was.
            SessionConflictError: another session has it open, or somebody has written to it.
        """
        await self._here().run(self._write, lambda ledger: ledger.checkpointing(label))

    async def rollback(self, label: str) -> SessionState:
        """Go back to a checkpoint. What was spent since stays spent, and what was said stays in the file.

        Raises:
            SessionError: there is none of this label, or it cannot be written.
            SessionConflictError: another session has it open, or somebody has written to it.
        """
        return await self._here().run(self._roll_back, label)

    async def flush(self) -> None:
        """A round has ended: with `fsync="round"`, wait until all that was written would survive a power cut.

        Raises:
            SessionError: that is not known. The file has it, but some of it may be lost if the power fails; `compact`
                writes all of it anew.
        """
        await self._here().run(self._flush)

    async def compact(self, *, drop_damaged: bool = False) -> None:
        """Write the file anew, in one step, with nothing but the present state and the checkpoints.

        What was replaced or rolled back is gone then.

        Args:
            drop_damaged: let go of what is damaged too, and of records that only a newer version knows. A picture
                that is missing may come back, with the folder in which it was.

        Raises:
            SessionError: it could not be written, or there is damage; the journal is as it was.
            SessionConflictError: another session has it open, or somebody has written to it.
        """
        await self._here().run(self._compact, drop_damaged)

    async def everything_said(self) -> AsyncIterator[Message]:
        """Every message since the journal began, or was last compacted, in the order in which they were said.

        Also those that a compaction of the prompt or a rollback has removed from the conversation.

        Raises:
            SessionError: it cannot be read.
            SessionConflictError: another session has it open.
        """
        records = await self._here().run(self._records)
        for start in range(0, len(records), _BATCH):
            for message in await self._here().run(self._messages_of, records[start : start + _BATCH]):
                yield message

    async def aclose(self) -> None:
        """Let go of the file and its lock. Twice is once; used again, it opens again.

        Raises:
            SessionError: it is closed, but whether what was written last would survive a power cut is not known.
        """
        await self._here().run(self._close)

    def _here(self) -> Strand:
        """Where this process works. After a fork the thread and the open file are the parent's."""
        if self._process != os.getpid():
            self._forget_parent()
        return self._strand

    def _forget_parent(self) -> None:
        file, was_idle = self._file, self._strand.is_idle
        self._process, self._strand, self._file = os.getpid(), Strand(), None
        if self._ledger is not None and not was_idle:
            self._left = (), 0  # what is known may be half of it: it holds for no file
        elif file is not None:
            self._left = file.trace_when_forked, file.end

    # ---- in the thread ----

    def _load(self) -> SessionState:
        with session_errors("load", self.path):
            if self._file is None:
                self._file = self._read(_opened(os.path.realpath(self.path), create=False))
            return self._known.state(self._damage)

    @property
    def _known(self) -> Ledger:
        if self._ledger is None:
            self._ledger = Ledger(SaveContext(self._blobs))
        return self._ledger

    @property
    def _blobs(self) -> FolderBlobs:
        if self._folder is None:
            self._folder = FolderBlobs(f"{os.path.realpath(self.path)}.blobs", sync=self.fsync != "never")
        return self._folder

    def _read(self, file: _OpenFile | None) -> _OpenFile | None:
        """Know what the file has, and nothing else."""
        self._ledger, self._damage, self._left, self._room = None, (), None, Room()
        if file is None:
            return None
        try:
            with uncollected():
                content = file.read()
                file.go_on_at(content.end)
                damage: list[Damage] = []
                records: list[Line] = []
                unusable = self._known.replay(self._restored(content.lines, self._room, records, damage))
        except BaseException:
            self._ledger = None
            file.close()
            raise
        damage += [_damage_of(records[position], reason) for position, reason in unusable]
        self._damage = tuple(sorted([*content.damage, *damage], key=lambda damage: damage.offset))
        return file

    def _restored(
        self, lines: Iterable[Line], room: Room, records: list[Line], damage: list[Damage]
    ) -> Iterator[bytes]:
        """What is in the lines, with its data URLs, one by one. The lines go to `records`."""
        for line in lines:
            reasons: list[str] = []
            try:
                record = room.restore(line.record, partial(self._get, reasons))
                record = without_lost(record) if reasons else record
            except (ValueError, OSError) as error:
                damage.append(_damage_of(line, str(error)))
                continue
            damage += [_damage_of(line, reason) for reason in reasons[:1]]
            records.append(line)
            yield record

    def _get(self, reasons: list[str], name: str) -> bytes:
        """A blob; if it is lost, why, and what stands for it."""
        try:
            return self._blobs.get(name)
        except (ValueError, OSError) as error:
            reasons.append(str(error))
            return LOST

    def _roll_back(self, label: str) -> SessionState:
        self._write(lambda ledger: ledger.rolling_back(label))
        return self._known.state(self._damage)

    def _write(self, make: Callable[[Ledger], Record]) -> None:
        """Make a record, write it, and only then let it hold."""
        with session_errors("write to", self.path):
            file = self._for_writing(create=True)
            assert file is not None
            file.check()
            record = make(self._known)
            stored = extract(record.body, self._blobs.put)
            left = self._room.without(stored, record.body)
            begins = b"" if file.end else framed(BEGIN.body)
            kept = self._damage_before(file.end)
            file.append(begins + framed(stored), sync=self.fsync == "always")
            self._known.apply(record)
            self._damage, self._room.left = kept, left

    def _damage_before(self, end: int) -> tuple[Damage, ...]:
        """Without what nobody needs, behind the last record."""
        return tuple([damage for damage in self._damage if damage.offset < end])

    def _for_writing(self, *, create: bool) -> _OpenFile | None:
        if self._file is None:
            is_known, left = self._ledger is not None, self._left
            file = _opened(os.path.realpath(self.path), create=create and left is None)
            self._file = self._taken_up(file, left) if is_known else self._read(file)
        return self._file

    def _taken_up(self, file: _OpenFile | None, left: tuple[_Trace, int] | None) -> _OpenFile | None:
        """The file, if it is as it was when it was last looked at."""
        if file is None and left is None:
            return None
        if file is not None and (file.trace == left[0] if left else not file.trace[2]):
            file.go_on_at(left[1] if left else 0)
            return file
        if file is not None:
            file.close()
        raise SessionConflictError(
            f"{self.path} was changed by somebody else, and this was not written; the next round of an agent takes up "
            "what is there now, and so does load()"
        )

    def _flush(self) -> None:
        file = self._file
        if file is not None and file.unsynced and self.fsync == "round":
            with session_errors("flush", self.path):
                file.sync()

    def _compact(self, drop_damaged: bool) -> None:
        with session_errors("compact", self.path):
            file = self._for_writing(create=False)
            if file is None:
                return
            file.check()
            if not drop_damaged:
                self._refuse_to_drop(self._damage_before(file.end), self._known.newer)
            room, lines = Room(), list[bytes]()
            ledger, records = self._known.condensed()
            for record in records:
                stored = extract(record.body, self._blobs.put)
                room.left = room.without(stored, record.body)
                lines.append(framed(stored))
            content = b"".join(lines)
            self._file = file.replaced(content)
            self._ledger, self._damage, self._room = ledger, (), room
            _remove_blobs(self._blobs.path, keep=named(content))

    def _refuse_to_drop(self, damage: Sequence[Damage], newer: AbstractSet[str]) -> None:
        if not damage and not newer:
            return
        what = f"{len(damage)} of its pieces are damaged ({damage[0].reason})" if damage else ""
        types = f"it has records that only a newer version knows ({', '.join(sorted(newer))[:80]})" if newer else ""
        both = " and ".join(filter(None, [what, types]))
        raise ValueError(f"{both}: they would be lost for good. Mend that first, or call compact(drop_damaged=True)")

    def _records(self) -> list[bytes]:
        with session_errors("read", self.path):
            if self._file is None:
                self._load()
            return [] if self._file is None else [line.record for line in self._file.read().lines]

    def _messages_of(self, records: Sequence[bytes]) -> list[Message]:
        lines = [Line(record, 0, 0) for record in records]
        return list(everything_said(decoded(self._restored(lines, Room(), [], []), SaveContext(self._blobs))))

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if file.unsynced and self.fsync != "never":
                with session_errors("flush", self.path):
                    file.sync()
        finally:
            self._left = file.trace, file.end
            file.close()


def _absolute(path: str) -> str:
    """Where it is whatever folder the process goes to."""
    if not path or "\0" in path:
        raise ValueError(f"{path!r} is no path of a file")
    return os.path.join(os.getcwd(), path)


_BATCH: Final = 256
"""How many records are decoded at once where they are not all needed."""


def _damage_of(line: Line, reason: str) -> Damage:
    return Damage(line.start, line.end - line.start, reason)


def _remove_blobs(folder: str, *, keep: AbstractSet[str]) -> None:
    """Remove what nothing names any more. What cannot be removed does no harm; what is no blob is somebody else's."""
    if os.path.islink(folder):
        return
    for parent in _entries(folder, _PARENT):
        if parent.is_dir(follow_symlinks=False):
            for file in _entries(parent.path, _BLOB):
                if file.name[:2] == parent.name and file.name not in keep:
                    with suppress(OSError):
                        os.unlink(file.path)


_PARENT: Final = re.compile("[0-9a-f]{2}")
_BLOB: Final = re.compile("[0-9a-f]{64}")


def _entries(folder: str, name: re.Pattern[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if name.fullmatch(entry.name)]
    except OSError:
        return []

"""What is large of a conversation, stored once beside its text, under the SHA-256 of its bytes.

Two things go there. A long `data:` URL does by itself: in the JSON, `extract` puts

    {"$blob":"<sha256 of the URL, 64 hex digits>"}

in the place of the string, and `restore` puts the string back, byte for byte. An object of a user's own that begins
with the key `$blob` cannot be mistaken for one: `extract` gives such a key, and `$$blob`, `$$$blob`..., one more `$`,
and `restore` takes it away. Inside a JSON string neither can occur, because a quote has a backslash there.

And bytes of a content part of a user's own do, if its serialiser puts them there:

    class Sound(ContentPart):
        type: str = "sound"
        samples: bytes

        @field_serializer("samples", when_used="json")
        def _store(self, samples: bytes, info: SerializationInfo) -> str:
            context = get_ctx(info)
            return context.save_bytes(samples, ".raw") if context else b64encode(samples).decode()

        @field_validator("samples", mode="before")
        @classmethod
        def _fetch(cls, value: Any, info: ValidationInfo) -> Any:
            if not isinstance(value, str):
                return value
            context = get_ctx(info)
            return context.load_bytes(value) if context and is_name(value) else b64decode(value)
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import Any, Final, Protocol, TypeAlias

from pydantic import SerializationInfo, ValidationInfo

from ..errors import SessionError
from ..message import KeepUnknown

__all__ = [
    "LARGEST",
    "BlobMissingError",
    "Blobs",
    "FilePath",
    "FolderBlobs",
    "Room",
    "SaveContext",
    "blob_name",
    "blob_path",
    "checked",
    "extract",
    "get_ctx",
    "is_name",
    "named",
    "read_whole",
    "restore",
    "session_errors",
    "sync_folder",
    "write_whole",
]

FilePath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

LARGEST: Final = 2**30
"""In bytes. A conversation whose text, with everything in its place, is larger is neither written nor read."""

SHORTEST: Final = 4096
"""In bytes. A shorter URL stays in the text."""


class BlobMissingError(ValueError):
    """There are no bytes of this name."""


class Blobs(Protocol):
    """Where bytes are kept under their SHA-256."""

    def put(self, data: bytes, /) -> str:
        """Keep them, if they are not there already. The name is the SHA-256, in 64 hex digits."""
        ...

    def get(self, name: str, /) -> bytes:
        """The bytes of this name.

        Raises:
            BlobMissingError: there are none.
            ValueError: there are others, or it is no such name.
        """
        ...


# ==== names ====

_NAME: Final = re.compile(r"[0-9a-f]{64}")
_ANY_NAME: Final = re.compile(rb"[0-9a-f]{64,}")
_SUFFIX: Final = re.compile(r"(\.[A-Za-z0-9_-]{1,16})*")


def blob_name(data: bytes) -> str:
    """Under which name bytes are kept."""
    return sha256(data).hexdigest()


def blob_path(name: str) -> str:
    """Where a blob is in a folder or a zip: `<2 hex digits>/<name>`.

    Raises:
        ValueError: it is no name of a blob.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is no name of a blob, which has 64 hex digits")
    return f"{name[:2]}/{name}"


def checked(name: str, data: bytes) -> bytes:
    """`data`, if it is what the name says.

    Raises:
        ValueError: it is not.
    """
    if blob_name(data) != name:
        raise ValueError(f"the blob {name} is damaged: its content has another hash")
    return data


def named(line: bytes) -> set[str]:
    """The names of all blobs that the JSON may need: all that look like one, whether somebody's text or a name."""
    return {run.decode() for run in _ANY_NAME.findall(line) if len(run) == 64}


# ==== data URLs out of the text, and back ====

_URL: Final = b'"data:'
_OPENS: Final = re.compile(rb'\{"(\$+)blob":')
_STANDS_FOR: Final = re.compile(rb'\{"(\$+)blob":(?:"([0-9a-f]{64})"\})?')


def extract(line: bytes, put: Callable[[bytes], str]) -> bytes:
    """JSON with a name in the place of each long data URL, whose bytes go to `put`."""
    if b'$blob":' in line:
        line = _OPENS.sub(rb'{"$\1blob":', line)
    if len(line) < SHORTEST or _URL not in line:
        return line
    pieces: list[bytes] = []
    done = 0
    for start, end in _long_urls(line):
        name = put(line[start:end])
        pieces += (line[done : start - 1], b'{"$blob":"', name.encode(), b'"}')
        done = end + 1
    return b"".join([*pieces, line[done:]]) if pieces else line


def _long_urls(line: bytes) -> Iterator[tuple[int, int]]:
    """Where each begins and ends, without its quotes."""
    start = line.find(_URL)
    while start >= 0:
        end = line.find(b'"', start + len(_URL))
        if end < 0:
            return
        if end - start > SHORTEST and _is_whole_value(line, start, end):
            yield start + 1, end
        start = line.find(_URL, end)  # the next one may begin where this one seemed to end


def _is_whole_value(line: bytes, start: int, end: int) -> bool:
    """Whether these two quotes are those of a string that is a value and has no escapes."""
    inside = line[start - 1 : start] == b"\\"  # a quote with a backslash before it is in a string
    key = line[end + 1 : end + 2] == b":" or line[end + 1 : end + 2].isspace()
    return not inside and not key and line.find(b"\\", start, end) < 0


def restore(line: bytes, get: Callable[[str], bytes], *, most: int = LARGEST) -> bytes:
    """JSON with each data URL in its place again, as it was before `extract`.

    Raises:
        ValueError: a blob is missing or damaged, or all of it would be longer than `most` bytes.
    """
    if b'$blob":' not in line:
        return line
    pieces: list[bytes] = []
    got: dict[bytes | None, bytes] = {}
    done, length = 0, len(line)
    for match in _STANDS_FOR.finditer(line):
        dollars, name = match.groups()
        if len(dollars) > 1:  # a key of a user's own
            back = b'{"' + line[match.start(1) + 1 : match.end()]
        else:
            got[name] = got.get(name) or b'"' + _url(name, get) + b'"'
            back = got[name]
        pieces += (line[done : match.start()], back)
        done = match.end()
        length += len(back) - (match.end() - match.start())
        if length > most:
            raise ValueError(
                f"with its blobs in their places it would have more than {most} bytes, and no more are left"
            )
    return b"".join([*pieces, line[done:]])


class Room:
    """How long the texts of one session may be together that have blobs, with these in their places.

    A blob that is named often is short in the file and long in memory: without a limit a small file fills it.

    Args:
        most: in bytes.
    """

    def __init__(self, most: int = LARGEST) -> None:
        self.left = most
        """In bytes."""

    def restore(self, line: bytes, get: Callable[[str], bytes]) -> bytes:
        """As `restore` does it, if there is room for it.

        Raises:
            ValueError: there is none, or a blob is missing or damaged.
        """
        whole = restore(line, get, most=self.left)
        self.left = self.without(line, whole)
        return whole

    def without(self, line: bytes, whole: bytes) -> int:
        """What is left when this text is there too.

        Args:
            line: as it is kept.
            whole: as it was before `extract`.

        Raises:
            ValueError: there is no room for it.
        """
        left = self.left - len(whole) if b'$blob":' in line else self.left
        if left < 0:
            raise ValueError(
                f"with its blobs in their places it would have {len(whole)} bytes, and no more than {self.left} are "
                "left: it could not be loaded"
            )
        return left


def _url(name: bytes | None, get: Callable[[str], bytes]) -> bytes:
    if name is None:
        raise ValueError('something begins with "$blob" and is no name of a blob, which has 64 hex digits')
    url = get(name.decode())
    if b'"' in url or b"\\" in url:
        raise ValueError(f"the blob {name.decode()} is no data URL")
    return url


# ==== bytes of a user's own parts ====


class SaveContext(KeepUnknown):
    """What a serialiser or validator of a content part has for its bytes; `get_ctx` gives it."""

    __slots__ = ("_blobs",)

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def save_bytes(self, data: bytes, suffix: str = "") -> str:
        """Keep the bytes beside the text, once however often they are saved.

        Args:
            data: what to keep.
            suffix: what the name is to end with, such as `.png`, for whoever reads it.

        Returns:
            The name to write in their place: their SHA-256 in hex digits, and the suffix.

        Raises:
            ValueError: the suffix is none.
        """
        if not _SUFFIX.fullmatch(suffix):
            raise ValueError(f"{suffix!r} is no suffix such as '.png'")
        return self._blobs.put(data) + suffix

    def load_bytes(self, name: str) -> bytes:
        """The bytes of a name that `save_bytes` gave.

        Raises:
            ValueError: it is no such name, or the bytes are missing or damaged.
        """
        if not is_name(name):
            raise ValueError(f"{name[:80]!r} is no name that save_bytes gave")
        return self._blobs.get(name[:64])


def is_name(text: str) -> bool:
    """Whether `save_bytes` may have given it."""
    return bool(_NAME.match(text) and _SUFFIX.fullmatch(text, 64))


def get_ctx(info: SerializationInfo[Any] | ValidationInfo[Any]) -> SaveContext | None:
    """Where a part can keep its bytes, in its serialiser or validator; `None` where they stay in the text."""
    return info.context if isinstance(info.context, SaveContext) else None


# ==== files that are whole or not there ====


def read_whole(path: int | str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bytes:
    """The content of a file. What is none does not block, and what is larger than `LARGEST` is not read.

    Raises:
        ValueError: it is no plain file, or too large.
        OSError: it cannot be read.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no file, but a folder, a pipe or a device")
        if status.st_size > LARGEST:
            raise ValueError(f"it has {status.st_size} bytes; more than {LARGEST} are not read")
        return file.read()


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for its writer


def write_whole(target: str, content: bytes, *, mode: int = 0o600, sync: bool = True) -> None:
    """Put `content` in the place of `target` in one step.

    Raises:
        OSError: it cannot be written; `target` is as it was, and nothing is beside it.
    """
    folder = os.path.dirname(target)
    descriptor, temporary = tempfile.mkstemp(prefix=".kimi_agent-", suffix=".tmp", dir=folder)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.chmod(temporary, mode)
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    if sync:
        sync_folder(folder)


def sync_folder(folder: str) -> None:
    """Make a rename in it last. Not every platform can open a folder, and the file is in place by now."""
    with suppress(OSError):
        descriptor = os.open(folder or os.curdir, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ==== a folder of blobs ====


class FolderBlobs:
    """Blobs as files, `<2 hex digits>/<name>`, that their owner alone can read.

    Args:
        path: the folder. It is made when there is something to keep, in a folder that is there.
        sync: whether a blob is on the disk when `put` returns.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: bool = True) -> None:
        self.path = os.fspath(path)
        self._sync = sync

    def put(self, data: bytes, /) -> str:
        """Keep them, if they are not there already: the file is complete or not there.

        Raises:
            OSError: they cannot be written.
        """
        name = blob_name(data)
        target = self._file(name)
        if not _is_there(target, len(data)):
            self._make(self.path)
            self._make(os.path.dirname(target))
            write_whole(target, data, sync=self._sync)
        return name

    def get(self, name: str, /) -> bytes:
        """The bytes of this name.

        Raises:
            BlobMissingError: there are none.
            ValueError: there are others, or it is no name.
            OSError: they cannot be read.
        """
        try:
            return checked(name, read_whole(self._file(name)))
        except FileNotFoundError as error:
            raise BlobMissingError(f"the blob {name} is missing in {self.path}") from error

    def _make(self, folder: str) -> None:
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
            if self._sync:
                sync_folder(os.path.dirname(folder))

    def _file(self, name: str) -> str:
        return os.path.join(self.path, *blob_path(name).split("/"))


def _is_there(target: str, length: int) -> bool:
    """Whether it is there in its length: a crash may leave the name and not the bytes."""
    try:
        return os.stat(target).st_size == length
    except OSError:
        return False


# ==== what goes wrong ====


@contextmanager
def session_errors(verb: str, path: FilePath) -> Generator[None]:
    """Below this line an error is a `ValueError` that says where, or an `OSError`; above it names the file."""
    try:
        yield
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise SessionError(f"cannot {verb} {os.fsdecode(path)}: {_told(error)}") from error


def _told(error: Exception) -> str:
    match error:
        case OSError():
            return error.strerror or str(error)
        case RecursionError():
            return "it is nested too deeply"
        case MemoryError():
            return "it needs more memory than there is"
        case _:
            return str(error)

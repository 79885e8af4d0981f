"""A conversation in one file: `.json` for reading, `.kimi` (a zip with `index.json`) for keeping.

`save` is all or nothing: the new file is complete and on the disk before it takes the place of the old one, and a save
that fails leaves the old file as it was and nothing beside it. `load` gives back what was saved, or says where the file
is damaged. What JSON cannot say (an object in `extra`, NaN, infinity) is refused, never written as something else.

    {"format": "kimi_agent", "version": "1.0", "always_included_messages": [...], "chat_history": [...],
     "usage": {...}, "window": {"cut": 0, "scale": 1.0}, "prompt_cache_key": "..."}

In a `.kimi` file long data URLs, and bytes of a user's own parts, are entries `blobs/<2 hex digits>/<SHA-256>`, each
once; `index.json` then has names in their places, as `blobs.py` says. Without any, it is the same text as in `.json`.
Bytes that a part of an unknown type names stay with the file: among the blobs there, in `.json` under `"blobs"`.

A newer minor version adds fields: they are kept, wherever they stand, and written back. A newer major version is
refused. Only a process that is killed during a save can leave its temporary file (`.kimi_agent-*.tmp`) behind.

A file is read as data from anybody: no code in it runs, and its size is bounded before it is unpacked.

What kani saved is read, too; `kani.py` says as what.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import Any, Final, cast

from ..limits import Spent
from ..message import KEEP_UNKNOWN, FrozenDict, KeepUnknown, Message, freeze
from .blobs import (
    LARGEST,
    BlobMissingError,
    Blobs,
    FilePath,
    SaveContext,
    blob_name,
    blob_path,
    checked,
    extract,
    named,
    read_whole,
    restore,
    session_errors,
    write_whole,
)
from .codec import encode, kind_of, parse, value_of, values_of
from .state import SessionState

__all__ = ["load", "save"]

FORMAT: Final = "kimi_agent"
VERSION: Final = (1, 0)
INDEX: Final = "index.json"


def save(path: FilePath, state: SessionState, *, blobs: Blobs | None = None) -> None:
    """Write `state` to `path`, which ends in `.json` or `.kimi` (upper case will do).

    A new file is readable by its owner alone; an existing one keeps its mode. A symbolic link stays, what it points to
    is replaced.

    Args:
        path: of the file.
        state: what to write.
        blobs: where the bytes are that parts of unknown types name, if `state` comes from there.

    Raises:
        SessionError: the file cannot be written, or something in `state` cannot be said in JSON.
    """
    with session_errors("save", path):
        pack = _packing(os.fsdecode(path))
        target = os.path.realpath(os.fsdecode(path))
        write_whole(target, pack(state, _sources(state, blobs)), mode=_mode_for(target))


def load(path: FilePath, *, blobs: Blobs | None = None) -> SessionState:
    """Read what `save` wrote, or kani. The content decides how, not the suffix.

    Args:
        path: of the file.
        blobs: where to put the bytes that parts of unknown types name. Without it they stay with the state.

    Raises:
        SessionError: there is no such file, or it is damaged, foreign, too large or of a newer major version.
    """
    with session_errors("load", path):
        content = read_whole(path)
        return _from_zip(content, blobs) if content.startswith(b"PK") else _from_text(content, _Shelf({}), blobs)


# ==== blobs ====


class _Shelf:
    """Blobs of one file: those that it had, fetched when they are asked for, and those that it is to have."""

    def __init__(self, had: Mapping[str, Callable[[], bytes]]) -> None:
        self.had = dict(had)
        self.taken: dict[str, bytes] = {}

    def put(self, data: bytes, /) -> str:
        self.taken[name := blob_name(data)] = data
        return name

    def get(self, name: str, /) -> bytes:
        if name not in self.taken:
            if name not in self.had:
                raise BlobMissingError(f"the blob {name} is missing")
            self.taken[name] = checked(name, self.had[name]())
        return self.taken[name]


def _in_text(blobs: Mapping[str, Any]) -> dict[str, Callable[[], bytes]]:
    """The blobs of a `.json` file."""
    return {name: partial(_from_base64, name, text) for name, text in blobs.items()}


def _from_base64(name: str, text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"the blob {name} must be a string, not {kind_of(text)}")
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"the blob {name} is damaged: {error}") from error


def _sources(state: SessionState, blobs: Blobs | None) -> list[Blobs]:
    """Where the bytes may be that parts of unknown types name."""
    kept = _Shelf(_in_text(_object(state.unknown, "blobs")))
    return [*([kept] if kept.had else []), *([blobs] if blobs is not None else [])]


def _wanted(text: bytes, sources: Sequence[Blobs], shelf: _Shelf) -> Generator[bytes]:
    """What of the sources is named in the text and not on the shelf. Not all that looks like a name is one."""
    for name in sorted(named(text) - shelf.taken.keys()) if sources else ():
        for source in sources:
            with suppress(BlobMissingError):
                yield source.get(name)
                break


def _with_rest(state: SessionState, rest: Mapping[str, bytes], blobs: Blobs | None) -> SessionState:
    """`state`, after what nobody has asked for was put away."""
    if blobs is not None:
        for data in rest.values():
            blobs.put(data)
        return state
    kept = {name: b64encode(data).decode() for name, data in rest.items()}
    return replace(state, unknown=FrozenDict({**state.unknown, "blobs": FrozenDict(kept)})) if kept else state


# ==== the container ====


def _as_text(state: SessionState, sources: Sequence[Blobs]) -> bytes:
    fields = _encode(state)
    if kept := {blob_name(data): b64encode(data).decode() for data in _wanted(_joined(fields), sources, _Shelf({}))}:
        fields["blobs"] = encode(kept)
    return _bounded(_joined(fields))


def _from_text(content: bytes, shelf: _Shelf, blobs: Blobs | None) -> SessionState:
    fields = _fields(content, shelf)
    shelf.had |= _in_text(_object(fields, "blobs"))
    state = _decode(fields, SaveContext(shelf) if shelf.had else KEEP_UNKNOWN)
    if not (unasked := shelf.had.keys() - shelf.taken.keys()):
        return state
    return _with_rest(state, {name: shelf.get(name) for name in sorted(unasked & named(content))}, blobs)


def _as_zip(state: SessionState, sources: Sequence[Blobs]) -> bytes:
    shelf = _Shelf({})
    text = _bounded(_joined(_encode(state, SaveContext(shelf))))
    index = extract(text, shelf.put)
    for data in _wanted(index, sources, shelf):
        shelf.put(data)
    blobs = {_BLOBS + blob_path(name): shelf.taken[name] for name in sorted(shelf.taken)}
    return _zipped({INDEX: index if blobs else text, **blobs})


def _from_zip(content: bytes, blobs: Blobs | None) -> SessionState:
    with _opened(content) as archive:
        had = {name[-64:]: partial(_entry, archive, name) for name in archive.namelist() if _BLOB.fullmatch(name)}
        shelf = _Shelf({**_kanis_blobs(archive), **had})
        index = _entry(archive, INDEX)
        return _from_text(restore(index, shelf.get) if had else index, shelf, blobs)


def _kanis_blobs(archive: zipfile.ZipFile) -> dict[str, Callable[[], bytes]]:
    names = [(name, found[1]) for name in archive.namelist() if (found := _KANIS_BLOB.fullmatch(name))]
    return {blob: partial(_entry, archive, name) for name, blob in names}


_PACKINGS: Final[Mapping[str, Callable[[SessionState, Sequence[Blobs]], bytes]]] = {".json": _as_text, ".kimi": _as_zip}


def _packing(path: str) -> Callable[[SessionState, Sequence[Blobs]], bytes]:
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _PACKINGS:
        raise ValueError(f"the name must end in {' or '.join(_PACKINGS)}, not {suffix or 'without a suffix'}")
    return _PACKINGS[suffix]


def _bounded(content: bytes) -> bytes:
    _check_size(len(content))
    return content


def _check_size(length: int) -> None:
    if length > LARGEST:
        raise ValueError(f"it would have {length} bytes; more than {LARGEST} could not be loaded")


# ==== the zip ====

_BLOBS: Final = "blobs/"
_BLOB: Final = re.compile(r"blobs/([0-9a-f]{2})/\1[0-9a-f]{62}")
_KANIS_BLOB: Final = re.compile(r"blobs/[0-9a-f]{2}/([0-9a-f]{64})[^/\\]{0,64}")
_MOST_ENTRIES: Final = 65_534  # more need another kind of directory
_LARGEST_DIRECTORY: Final = 2**24
_RATIO: Final = 200
"""How many times as large as its zip an entry of more than `_SMALL` bytes may be. Text and pictures are below 20."""
_SMALL: Final = 2**26
_END: Final = 22  # bytes at the end of a zip without a comment: number, place and length of its directory
_LONGEST_COMMENT: Final = 2**16


def _zipped(entries: Mapping[str, bytes]) -> bytes:
    if len(entries) > _MOST_ENTRIES:
        raise ValueError(f"it would have {len(entries)} entries; more than {_MOST_ENTRIES} could not be loaded")
    _check_size(sum(map(len, entries.values())))
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name)  # without the time of day: the same conversation is the same file
            entry.compress_type = zipfile.ZIP_STORED if _would_be_a_bomb(content) else zipfile.ZIP_DEFLATED
            entry.external_attr = 0o600 << 16
            archive.writestr(entry, content)
    return _bounded(buffer.getvalue())


def _would_be_a_bomb(content: bytes) -> bool:
    return len(content) > _SMALL and 2 * len(content) > _RATIO * len(zlib.compress(content))


@contextmanager
def _opened(content: bytes) -> Generator[zipfile.ZipFile]:
    """The zip, after its directory was looked through: nothing is unpacked that is not bounded."""
    content = _without_comment(content)
    _check_end(content)
    with _zip_errors():
        archive = zipfile.ZipFile(BytesIO(content))
    with archive:
        _check_entries(archive.infolist(), len(content))
        yield archive


def _without_comment(content: bytes) -> bytes:
    """The zip up to its end: a comment, or anything else that a tool wrote behind it, is left out."""
    at = content.rfind(b"PK\5\6", -_END - _LONGEST_COMMENT, 4 - _END)
    if at < 0:
        raise ValueError("the zip file is damaged: it has no end")
    end = content[at : at + _END - 2] + b"\0\0"
    return content if content[at:] == end else content[:at] + end


def _check_end(content: bytes) -> None:
    """Bound the directory before it becomes objects."""
    number, length = _END_RECORD.unpack(content[-_END:])[4:6]
    if number > _MOST_ENTRIES or length > _LARGEST_DIRECTORY or content[-_END - 20 : -_END - 16] == b"PK\6\7":
        raise ValueError(f"the zip file has more than {_MOST_ENTRIES} entries")


_END_RECORD: Final = struct.Struct("<4s4H2LH")


def _check_entries(entries: Sequence[zipfile.ZipInfo], length: int) -> None:
    if len(entries) > _MOST_ENTRIES:
        raise ValueError(f"the zip file has more than {_MOST_ENTRIES} entries")
    names = [name for entry in entries if not _KANIS_BLOB.fullmatch(name := entry.orig_filename)]  # kani repeats these
    if len(set(names)) < len(names):
        raise ValueError("the zip file has two entries of one name")
    for entry in entries:
        _check_entry(entry)
    if sum(entry.compress_size for entry in entries) > length:
        raise ValueError("the zip file is damaged: its entries overlap")
    if (total := sum(entry.file_size for entry in entries)) > LARGEST:
        raise ValueError(f"the zip file unpacks to {total} bytes; more than {LARGEST} are not read")


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename
    for reason, is_so in {
        "leads out of the file": _OUT.search(name),
        "is encrypted": entry.flag_bits & 0x41,
        "is packed in a way that kimi_agent does not use": entry.compress_type not in _METHODS,
        "unpacks to far more than text does": entry.file_size > _most_of(entry.compress_size),
    }.items():
        if is_so:
            raise ValueError(f"the entry {name[:80]!r} of the zip file {reason}")


def _most_of(packed: int) -> int:
    """How many bytes so many packed ones may be."""
    return max(_SMALL, _RATIO * packed)


_OUT: Final = re.compile(r"^/|\\|^[A-Za-z]:|(^|/)\.\.(/|$)|\0")
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
    with _zip_errors():
        return archive.read(name)


@contextmanager
def _zip_errors() -> Generator[None]:
    try:
        yield
    except KeyError as error:
        raise ValueError(
            f"it is a zip file without {INDEX}, so it is no conversation of kimi_agent or kani; load one of theirs"
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"the zip file is damaged: {error}") from error


_KNOWN: Final = frozenset(
    {"format", "version", "always_included_messages", "chat_history", "usage", "window", "prompt_cache_key", "blobs"}
)


# ==== writing ====


def _encode(state: SessionState, context: SaveContext | None = None) -> dict[str, bytes]:
    """The fields of the file as JSON. A message is a line, so that a longer conversation is a small diff."""
    window = {**state.unknown.get("window", {}), "cut": state.cut, "scale": state.scale}
    window |= {"counted": state.counted} if state.counted else {}
    pinned = _lines("always_included_messages", state.always_included_messages, context)
    return {
        "format": encode(FORMAT),
        "version": encode("{}.{}".format(*VERSION)),
        "always_included_messages": pinned,
        "chat_history": _lines("chat_history", state.chat_history, context),
        "usage": _json(state.usage, "usage"),
        "window": _json(window, "window"),
        **({"prompt_cache_key": _json(key, "prompt_cache_key")} if (key := state.prompt_cache_key) else {}),
        **{key: _json(value, key) for key, value in state.unknown.items() if key not in _KNOWN},
    }


def _joined(fields: Mapping[str, bytes]) -> bytes:
    return b"{\n" + b",\n".join([_json(key, key) + b": " + value for key, value in fields.items()]) + b"\n}\n"


def _lines(name: str, messages: Sequence[Message], context: SaveContext | None) -> bytes:
    if not messages:
        return b"[]"
    lines = [_json(message, name, index, context) for index, message in enumerate(messages)]
    return b"[\n  " + b",\n  ".join(lines) + b"\n]"


def _json(value: Any, name: str, index: int | None = None, context: SaveContext | None = None) -> bytes:
    try:
        return encode(value, context)
    except Exception as error:  # a serialiser of the caller's own types may raise anything
        where = name if index is None else f"message {index} of {name}"
        raise ValueError(f"{where} is not JSON: {error}. Keep only what JSON can say in `extra`") from error


def _mode_for(target: str) -> int:
    """The mode that the file is to have."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return 0o600
    if not stat.S_ISREG(mode):
        raise FileExistsError("there is something that is no file")
    if not os.access(target, os.W_OK):  # a rename would not ask
        raise PermissionError("the file is write-protected")
    return stat.S_IMODE(mode)


# ==== reading ====


def _fields(content: bytes, shelf: _Shelf) -> dict[str, Any]:
    fields = parse(content)
    if isinstance(fields, dict) and "format" not in fields and fields.keys() & _KANIS:
        from . import kani

        return kani.translated(cast(dict[str, Any], fields), shelf.get, _most_of)
    if not isinstance(fields, dict) or cast(dict[str, Any], fields).get("format") != FORMAT:
        raise ValueError(f'it is no conversation of kimi_agent or kani: there is no "format": "{FORMAT}" at its top')
    _check_version((known := cast(dict[str, Any], fields)).get("version"))
    return known


_KANIS: Final = frozenset({"always_included_messages", "chat_history"})


def _decode(fields: dict[str, Any], context: KeepUnknown) -> SessionState:
    history = _messages(fields, "chat_history", context)
    window = _object(fields, "window")
    unknown = {key: value for key, value in fields.items() if key not in _KNOWN}
    if new := {key: value for key, value in window.items() if key not in ("cut", "scale", "counted")}:
        unknown["window"] = new
    return SessionState(
        always_included_messages=_messages(fields, "always_included_messages", context),
        chat_history=history,
        usage=value_of(Spent, _object(fields, "usage"), "usage"),
        cut=_cut(window, len(history)),
        scale=_scale(window),
        prompt_cache_key=_cache_key(fields),
        unknown=freeze(unknown),
        counted=_counted(window, len(history)),
    )


def _check_version(version: object) -> None:
    numbers = re.fullmatch(r"(\d{1,9})\.(\d{1,9})", version) if isinstance(version, str) else None
    if numbers is None:
        raise ValueError(f'its `version` must look like "{VERSION[0]}.{VERSION[1]}", not {_shown(version)}')
    if int(numbers[1]) != VERSION[0]:
        raise ValueError(
            f"its format has version {version}, this kimi_agent reads {VERSION[0]}.x; use the kimi_agent that wrote it"
        )


def _shown(value: object) -> str:
    return "absent" if value is None else repr(value)[:40]


def _object(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = fields.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must be an object, not {kind_of(value)}")
    return cast(dict[str, Any], value)


def _messages(fields: Mapping[str, Any], name: str, context: KeepUnknown) -> tuple[Message, ...]:
    values = fields.get(name)
    if not isinstance(values, list):
        raise ValueError(f"`{name}` must be a list of messages, not {kind_of(values)}")
    return values_of(Message, cast(list[Any], values), name, context)


def _cut(window: Mapping[str, Any], length: int) -> int:
    cut = window.get("cut", 0)
    if not isinstance(cut, int) or isinstance(cut, bool):
        raise ValueError(f"`window.cut` must be a whole number, not {kind_of(cut)}")
    return max(0, min(cut, length - 1))


_COUNTED: Final = ("tokens", "overhead", "answer")


_MOST: Final = 2**63


def _counted(window: Mapping[str, Any], length: int) -> dict[str, Any] | None:
    if window.get("counted") is None:
        return None
    fields = _object(window, "counted")
    for name in _COUNTED:
        if type(fields.get(name)) is not int or not 0 <= fields[name] < _MOST:
            raise ValueError(f"`window.counted.{name}` must be a whole number from 0, not {kind_of(fields.get(name))}")
    if not isinstance(by := fields.get("by"), str):
        raise ValueError(f"`window.counted.by` must be a string, not {kind_of(by)}")
    return {**{name: fields[name] for name in _COUNTED}, "by": by} if fields["answer"] < length else None


def _scale(window: Mapping[str, Any]) -> float:
    scale = window.get("scale", 1.0)
    if not isinstance(scale, int | float) or isinstance(scale, bool) or scale <= 0:
        raise ValueError(f"`window.scale` must be a number above 0, not {kind_of(scale)}")
    return float(scale)


def _cache_key(fields: Mapping[str, Any]) -> str | None:
    key = fields.get("prompt_cache_key")
    if key is not None and not isinstance(key, str):
        raise ValueError(f"`prompt_cache_key` must be a string, not {kind_of(key)}")
    return key

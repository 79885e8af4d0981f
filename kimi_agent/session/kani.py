"""What kani saved, in our own terms: `.json` of its versions 0.2 to 1.10, and `.kani` (a zip with `index.json`).

    {"version": 1, "always_included_messages": [...], "chat_history": [...]}

kani never changed that number. Its messages did change: the oldest have one `function_call` in the place of
`tool_calls`, and results without the id of their call; `is_tool_call_error` and `extra` came late. A part is a string,
or an object whose `__kani_messagepart_type__` names a Python class. Its pictures, sounds and films are base64 in the
JSON, and in the zip `blobs/<2 hex digits>/<SHA-256><suffix>`.

Text, reasoning and media become our parts. Any other part is an `UnknownPart` of that type, with all that it had. A
field of a message or part that has no place here goes to its `extra`, under `"kani"`.
"""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode, b64encode
from collections import defaultdict, deque
from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, count
from typing import Any, Final, TypeAlias, cast

from .blobs import LARGEST, is_name
from .codec import kind_of

__all__ = ["translated"]

Fields: TypeAlias = dict[str, Any]
Fetch: TypeAlias = Callable[[str], bytes]

VERSION: Final = 1
TYPE: Final = "__kani_messagepart_type__"
_BLOB: Final = re.compile(r"blobs/([0-9a-f]{2})/(\1[0-9a-f]{62})([^/\\]{0,64})")
"""The name of an entry of the zip: the SHA-256 of the bytes, and what the part wants the name to end with."""

_LISTS: Final = ("always_included_messages", "chat_history")


def translated(fields: Mapping[str, Any], fetch: Fetch, most: Callable[[int], int]) -> Fields:
    """The same conversation as fields of our own file, but for its format and version.

    What is not as kani writes it stays as it is, for whoever checks the messages, or is an error.

    Args:
        fields: the top of kani's file.
        fetch: gives the bytes of a blob, by its SHA-256.
        most: how many bytes so many packed ones may be.

    Raises:
        ValueError: another version of the format, or something that cannot be read; where, and why.
    """
    if (version := fields.get("version", VERSION)) != VERSION:
        raise ValueError(f"{_NOT_OURS}, and not as kani saves: its version is {json.dumps(version):.40}, not {VERSION}")
    lists = {name: _list(fields, name) for name in _LISTS}
    media = _Media(fetch, most)
    calls = _Calls(chain.from_iterable(lists.values()))
    rest = {key: value for key, value in fields.items() if key not in ("version", *_LISTS)}
    return {
        **{name: _messages(values, name, media, calls) for name, values in lists.items()},
        **({"kani": rest} if rest else {}),
    }


_NOT_OURS: Final = 'it is no conversation of kimi_agent: there is no "format" at its top'


def _list(fields: Mapping[str, Any], name: str) -> list[Any]:
    if name not in fields:
        raise ValueError(
            f'{_NOT_OURS}; nor one of kani: there is no "{name}". If it is, add an empty list of this name'
        )
    if not isinstance(values := fields[name], list):
        raise ValueError(f"`{name}` must be a list of messages, not {_kind(values)}")
    return cast(list[Any], values)


def _kind(value: object) -> str:
    return "null" if value is None else kind_of(value)


# ==== messages ====


def _messages(values: Sequence[Any], name: str, media: _Media, calls: _Calls) -> list[Any]:
    messages: list[Any] = []
    for index, value in enumerate(values):
        with _at(f"message {index} of `{name}`"):
            messages.append(_message(cast(Fields, value), media, calls) if isinstance(value, dict) else value)
    return messages


class _Wrong(ValueError):
    """Something cannot be read, and where it stands."""

    def __init__(self, reason: object, *places: str) -> None:
        super().__init__(f"{', '.join(places)}: {reason}")
        self.reason, self.places = reason, places


@contextmanager
def _at(place: str) -> Generator[None]:
    try:
        yield
    except _Wrong as error:
        raise _Wrong(error.reason, place, *error.places) from error
    except ValueError as error:
        raise _Wrong(error, place) from error


def _message(fields: Fields, media: _Media, calls: _Calls) -> Fields:
    message = {name: fields[name] for name in _MESSAGE if fields.get(name) is not None}
    message["role"] = _ROLES.get(role, role) if isinstance(role := fields.get("role"), str) else role
    if isinstance(content := fields.get("content"), list):
        message["content"] = _parts(cast(list[Any], content), media)
    call, asked = _field(fields, "function_call", dict), _field(fields, "tool_calls", list)
    is_old = call is not None and not asked
    if is_old:
        message["tool_calls"] = [{"id": calls.new_id(), "function": call}]
    calls.follow(message)
    return _with_rest(message, fields, (*_MESSAGE, "function_call") if is_old else _MESSAGE)


_MESSAGE: Final = ("role", "content", "name", "tool_calls", "tool_call_id", "is_tool_call_error", "extra")
_ROLES: Final = {"function": "tool"}


def _field(fields: Fields, name: str, kind: type[Any]) -> Any:
    """A field that is of this kind or has nothing in it.

    Raises:
        ValueError: it is something else.
    """
    value = fields.get(name)
    if value is not None and not isinstance(value, kind):
        raise _Wrong(f"it must be {kind_of(kind())}, not {kind_of(value)}", f"field {name}")
    return value


def _with_rest(ours: Fields, fields: Fields, used: Sequence[str]) -> Fields:
    """`ours`, and in its `extra` what kani had besides."""
    extra: Fields = _field(fields, "extra", dict) or {}
    if rest := {key: value for key, value in fields.items() if key not in (*used, TYPE) and value is not None}:
        extra = {**extra, _free("kani", extra): rest}
    return {**ours, "extra": extra}


def _free(name: str, taken: Container[str]) -> str:
    """The name, longer if it is taken."""
    while name in taken:
        name += "_"
    return name


class _Calls:
    """Which calls are open, so that results without an id find theirs: that of their name first, else the oldest.

    Args:
        messages: all of the file, before anything is changed; their ids are not made again.
    """

    def __init__(self, messages: Iterator[Any]) -> None:
        self._taken = set(chain.from_iterable(map(_ids_in, messages)))
        self._numbers = count(1)
        self._wait_for({})

    def new_id(self) -> str:
        """The id of a call of a file whose calls have none."""
        return next(id for number in self._numbers if (id := f"kani_{number}") not in self._taken)

    def follow(self, message: Fields) -> None:
        """Take note of the calls of a message; give a result the id of its call."""
        if message["role"] == "assistant":
            self._wait_for(dict(_ids(message.get("tool_calls"))))
        elif message["role"] == "tool":
            if "tool_call_id" not in message and self._open:
                message["tool_call_id"] = self._call_of(message.get("name"))
            if isinstance(answered := message.get("tool_call_id"), str):
                self._open.discard(answered)

    def _wait_for(self, calls: Mapping[str, str]) -> None:
        self._open = set(calls)
        self._all = deque(calls)
        self._named = defaultdict[Any, deque[str]](deque)
        for id, name in calls.items():
            self._named[name].append(id)

    def _call_of(self, name: Any) -> str:
        """An open call; there is one."""
        named = self._open_of(self._named[name]) if isinstance(name, str) else ()
        return (named or self._open_of(self._all))[0]

    def _open_of(self, calls: deque[str]) -> deque[str]:
        while calls and calls[0] not in self._open:
            calls.popleft()
        return calls


def _ids_in(message: Any) -> list[Any]:
    """The ids that a message has, of its calls and of the one that it answers."""
    if not isinstance(message, dict):
        return []
    fields = cast(Fields, message)
    answered = fields.get("tool_call_id")
    return [*([answered] if isinstance(answered, str) else []), *dict(_ids(fields.get("tool_calls")))]


def _ids(calls: Any) -> list[tuple[str, str]]:
    """Id and function of each call that has them."""
    found: list[tuple[str, str]] = []
    for call in cast(list[Any], calls) if isinstance(calls, list) else []:
        match call:
            case {"id": str(id), "function": {"name": str(name)}}:
                found.append((id, name))
            case _:
                pass
    return found


# ==== parts ====


def _parts(content: Sequence[Any], media: _Media) -> list[Any]:
    parts: list[Any] = []
    for index, part in enumerate(content):
        with _at(f"part {index}"):
            parts.append(_part(part, media))
    return parts


def _part(part: Any, media: _Media) -> Any:
    if not isinstance(part, dict) or not isinstance(kind := cast(Fields, part).get(TYPE), str):
        return cast(Any, part)
    fields = cast(Fields, part)
    name, at = _TEXTS.get(kind, ("", ""))
    if isinstance(text := fields.get(at), str):
        return _with_rest({"type": name, name: text}, fields, (at, "extra"))
    if kind.startswith(_MULTIMODAL) and (url := media.url(fields)) and (name := _MEDIA.get(url[5:].partition("/")[0])):
        return _with_rest({"type": name, name: {"url": url}}, fields, ("extra", *_SOURCES))
    return _unknown(kind, fields)


_MULTIMODAL: Final = "kani.ext.multimodal_core."
_TEXTS: Final = {
    "kani.parts.text.TextPart": ("text", "content"),
    "kani.parts.reasoning.ReasoningPart": ("think", "content"),
    "kani.engines.openai.parts.OpenAIReasoningPart": ("think", "content"),
    "kani.engines.anthropic.parts.AnthropicThinkingPart": ("think", "content"),
    f"{_MULTIMODAL}TextPart": ("text", "text"),
    f"{_MULTIMODAL}base.TextPart": ("text", "text"),
}
"""What a part of text is here, and which of its fields has it."""
_MEDIA: Final = {"image": "image_url", "audio": "audio_url", "video": "video_url"}
_SOURCES: Final = ("_archive_path", "img_data", "wav_data", "data", "mime", "compression")


def _unknown(kind: str, fields: Fields) -> Fields:
    data = {key: _names(value) for key, value in fields.items() if key not in (TYPE, "extra")}
    if "type" in data:  # ours has one, too
        data[_free("kani_type", data)] = data.pop("type")
    return {"type": kind, **data, "extra": _field(fields, "extra", dict) or {}}


def _names(value: Any) -> Any:
    """`value` with the names of blobs as our own `SaveContext` gives them."""
    if isinstance(value, dict):
        return {key: _names(item) for key, item in cast(Fields, value).items()}
    if isinstance(value, list):
        return [_names(item) for item in cast(list[Any], value)]
    if not isinstance(value, str) or (found := _BLOB.fullmatch(value)) is None:
        return value
    return name if is_name(name := found[2] + found[3]) else found[2]


# ==== media ====


class _Media:
    """Data URLs of pictures, sounds and films; no more than a conversation may have.

    Args:
        fetch: gives the bytes of a blob, by its SHA-256.
        most: how many bytes so many packed ones may be.
    """

    def __init__(self, fetch: Fetch, most: Callable[[int], int]) -> None:
        self._fetch = fetch
        self._most = most
        self._left = LARGEST

    def url(self, fields: Fields) -> str | None:
        """Where the content of a part is; `None` if it says nothing about it, or in a way that kani does not know.

        Raises:
            ValueError: it says something that cannot be read.
        """
        url = self._url(fields)
        self._take(len(url or ""))
        return url

    def _take(self, length: int) -> None:
        self._left -= length
        if self._left < 0:
            raise ValueError(f"the media up to here have more than {LARGEST} bytes, and no more are read")

    def _url(self, fields: Fields) -> str | None:
        match fields:
            case {"_archive_path": str(path)}:
                mime = fields.get("mime") or _MIMES.get(path.rpartition(".")[2])
                return _data_url(mime, self._blob(path)) if isinstance(mime, str) else None
            case {"img_data": str(url)} | {"wav_data": str(url)} if url.startswith("data:"):
                return url
            case {"data": str(data), "mime": str(mime), "compression": "gzip"}:
                with _at("field data"):
                    return _data_url(mime, self._unpacked(b64decode(data, validate=True)))
            case {"data": str(data), "mime": str(mime)} if fields.get("compression") is None:
                with _at("field data"):
                    return _data_url(mime, b64decode(data, validate=True))
            case _:
                return None

    def _blob(self, path: str) -> bytes:
        with _at("field _archive_path"):
            if (found := _BLOB.fullmatch(path)) is None:
                raise ValueError(f"{path[:80]!r} is no name of a blob")
            return self._fetch(found[2])

    def _unpacked(self, data: bytes) -> bytes:
        """What was packed by zlib. However small it is, no more than may be is unpacked."""
        most = self._most(len(data))
        unpacking = zlib.decompressobj()
        try:
            unpacked = unpacking.decompress(data, min(most, self._left) + 1)
        except zlib.error as error:
            raise ValueError(f"it is damaged: {error}") from error
        if len(unpacked) > most:
            raise ValueError(f"it unpacks to more than {most} bytes, far more than pictures and films do")
        if not unpacking.eof and len(unpacked) <= self._left:
            raise ValueError("it is damaged: it is cut off")
        return unpacked


_MIMES: Final = {"png": "image/png", "wav": "audio/wav"}


def _data_url(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{b64encode(data).decode()}"

"""What kani saved, in our own terms: `.json` of its versions 0.2 to 1.10, and `.kani` (a zip with `index.json`).

    {"version": 1, "always_included_messages": [...], "chat_history": [...]}

kani never changed that number. Its messages did change: the oldest have one `function_call` in the place of
`tool_calls`, and results without the id of their call; `is_tool_call_error` and `extra` came late. A part is a string,
or an object whose `__kani_messagepart_type__` names a Python class. Its pictures, sounds and films are base64 in the
JSON, and in the zip `blobs/<2 hex digits>/<SHA-256><suffix>`.

Reasoning and media become our parts. Any other part is an `UnknownPart` of that type, with all that it had. A field of
a message or part that has no place here goes to its `extra`, under `"kani"`.
"""

from __future__ import annotations

import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from .blobs import LARGEST, is_name

__all__ = ["translated"]

Fields: TypeAlias = dict[str, Any]
Fetch: TypeAlias = Callable[[str], bytes]

VERSION: Final = 1
TYPE: Final = "__kani_messagepart_type__"
_BLOB: Final = re.compile(r"blobs/([0-9a-f]{2})/(\1[0-9a-f]{62})([^/\\]{0,64})")
"""The name of an entry of the zip: the SHA-256 of the bytes, and what the part wants the name to end with."""

_LISTS: Final = ("always_included_messages", "chat_history")


def translated(fields: Mapping[str, Any], fetch: Fetch) -> Fields:
    """The same conversation as fields of our own file, but for its format and version.

    What is not as kani writes it stays as it is, for whoever checks the messages.

    Args:
        fields: the top of kani's file.
        fetch: gives the bytes of a blob, by its SHA-256.

    Raises:
        ValueError: another version of the format, or media that cannot be read; of which message.
    """
    if (version := fields.get("version", VERSION)) != VERSION:
        raise ValueError(f'it has no "format", so it may be of kani, but its version is {version!r:.40}, not {VERSION}')
    media = _Media(fetch)
    lists = {name: _messages(fields[name], name, media) for name in _LISTS}
    rest = {key: value for key, value in fields.items() if key not in ("version", *_LISTS)}
    return {**lists, **({"kani": rest} if rest else {})}


# ==== messages ====


def _messages(values: Any, name: str, media: _Media) -> Any:
    if not isinstance(values, list):
        return values
    calls = _Calls()
    messages: list[Any] = []
    for index, value in enumerate(cast(list[Any], values)):
        try:
            messages.append(_message(cast(Fields, value), media, calls) if isinstance(value, dict) else value)
        except ValueError as error:
            raise ValueError(f"message {index} of `{name}`: {error}") from error
    return messages


def _message(fields: Fields, media: _Media, calls: _Calls) -> Fields:
    message = {name: fields[name] for name in _MESSAGE if fields.get(name) is not None}
    message["role"] = _ROLES.get(role, role) if isinstance(role := fields.get("role"), str) else role
    if isinstance(content := fields.get("content"), list):
        message["content"] = [_part(part, media) for part in cast(list[Any], content)]
    if not message.get("tool_calls") and isinstance(call := fields.get("function_call"), dict):
        message["tool_calls"] = [calls.named(cast(Fields, call))]
    calls.follow(message)
    return _with_rest(message, fields, (*_MESSAGE, "function_call"))


_MESSAGE: Final = ("role", "content", "name", "tool_calls", "tool_call_id", "is_tool_call_error", "extra")
_ROLES: Final = {"function": "tool"}


def _with_rest(ours: Fields, fields: Fields, known: Sequence[str]) -> Fields:
    """`ours`, and in its `extra` what kani had besides."""
    extra = fields.get("extra")
    if rest := {key: value for key, value in fields.items() if key not in (*known, TYPE) and value is not None}:
        extra = {**(cast(Fields, extra) if isinstance(extra, dict) else {}), "kani": rest}
    return {**ours, "extra": extra} if extra else {key: value for key, value in ours.items() if key != "extra"}


class _Calls:
    """Which calls are open, so that results without an id find theirs: that of their name first, else the oldest."""

    def __init__(self) -> None:
        self._made = 0
        self._open: dict[str, Any] = {}

    def named(self, function: Fields) -> Fields:
        """A call of a file whose calls have no ids."""
        self._made += 1
        return {"id": f"kani_{self._made}", "function": function}

    def follow(self, message: Fields) -> None:
        """Take note of the calls of a message; give a result the id of its call."""
        if message["role"] == "tool":
            if "tool_call_id" not in message and self._open:
                message["tool_call_id"] = self._call_of(message.get("name"))
            if isinstance(answered := message.get("tool_call_id"), str):
                self._open.pop(answered, None)
        elif message["role"] == "assistant":
            self._open = dict(_ids(message.get("tool_calls")))

    def _call_of(self, name: Any) -> str:
        return next((call for call, called in self._open.items() if called == name), next(iter(self._open)))


def _ids(calls: Any) -> list[tuple[str, Any]]:
    """Id and function of each call that has them."""
    found: list[tuple[str, Any]] = []
    for call in cast(list[Any], calls) if isinstance(calls, list) else []:
        match call:
            case {"id": str(id), "function": {"name": name}}:
                found.append((id, name))
            case _:
                pass
    return found


# ==== parts ====


def _part(part: Any, media: _Media) -> Any:
    if not isinstance(part, dict) or not isinstance(kind := cast(Fields, part).get(TYPE), str):
        return cast(Any, part)
    fields = cast(Fields, part)
    if (name := _TEXTS.get(kind)) and isinstance(text := fields.get("content"), str):
        return _with_rest({"type": name, name: text}, fields, ("content", "extra"))
    if kind.startswith(_MULTIMODAL) and (url := media.url(fields)) and (name := _MEDIA.get(url[5:].partition("/")[0])):
        return _with_rest({"type": name, name: {"url": url}}, fields, ("extra", *_SOURCES))
    return _unknown(kind, fields)


_TEXTS: Final = {
    "kani.parts.text.TextPart": "text",
    "kani.parts.reasoning.ReasoningPart": "think",
    "kani.engines.openai.parts.OpenAIReasoningPart": "think",
    "kani.engines.anthropic.parts.AnthropicThinkingPart": "think",
}
_MULTIMODAL: Final = "kani.ext.multimodal_core."
_MEDIA: Final = {"image": "image_url", "audio": "audio_url", "video": "video_url"}
_SOURCES: Final = ("_archive_path", "img_data", "wav_data", "data", "mime", "compression")


def _unknown(kind: str, fields: Fields) -> Fields:
    data = {key: _names(value) for key, value in fields.items() if key not in (TYPE, "extra")}
    if "type" in data:  # ours has one, too
        data["kani_type"] = data.pop("type")
    return {"type": kind, **data, "extra": fields.get("extra") or {}}


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
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._left = LARGEST

    def url(self, fields: Fields) -> str | None:
        """Where the content of a part is; `None` if it says nothing about it.

        Raises:
            ValueError: it says something that cannot be read.
        """
        url = self._url(fields)
        self._left -= len(url or "")
        if self._left < 0:
            raise ValueError(f"its media have more than {LARGEST} bytes, and no more are read")
        return url

    def _url(self, fields: Fields) -> str | None:
        match fields:
            case {"_archive_path": str(path)}:
                mime = fields.get("mime") or _MIMES.get(path.rpartition(".")[2])
                return _data_url(mime, self._blob(path)) if isinstance(mime, str) else None
            case {"img_data": str(url)} | {"wav_data": str(url)} if url.startswith("data:"):
                return url
            case {"data": str(data), "mime": str(mime), "compression": "gzip"}:
                return _data_url(mime, self._unpacked(b64decode(data, validate=True)))
            case {"data": str(data), "mime": str(mime)}:
                return _data_url(mime, b64decode(data, validate=True))
            case _:
                return None

    def _blob(self, path: str) -> bytes:
        if (found := _BLOB.fullmatch(path)) is None:
            raise ValueError(f"{path[:80]!r} is no name of a blob")
        return self._fetch(found[2])

    def _unpacked(self, data: bytes) -> bytes:
        unpacking = zlib.decompressobj()
        try:
            unpacked = unpacking.decompress(data, self._left + 1)
        except zlib.error as error:
            raise ValueError(f"its media are damaged: {error}") from error
        if not unpacking.eof and len(unpacked) <= self._left:
            raise ValueError("its media are damaged: they are cut off")
        return unpacked


_MIMES: Final = {"png": "image/png", "wav": "audio/wav"}


def _data_url(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{b64encode(data).decode()}"

"""From what a function returns to what the model reads.

The model gets text, content parts or JSON that is valid and not escaped to ASCII; a Python repr only where a value has
nothing else. What cannot be converted raises: the function's author is told, the model gets no `<generator object>`.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from math import isfinite
from typing import Any, Final, cast

from pydantic import BaseModel
from pydantic_core import to_json, to_jsonable_python

from ..message import ContentPart, Message, TextPart
from .base import ToolMessage, ToolOk, ToolReturnValue
from .texts import ToolTexts

__all__ = ["shortened", "to_return_value", "truncate", "with_note"]


def to_return_value(value: Any, texts: ToolTexts, auto_truncate: int | None = None) -> ToolReturnValue:
    """What the model reads of `value`.

    A `ToolReturnValue` is taken as it is, a `Message` becomes the whole result, content parts stay parts (strings
    beside them become text parts, other values JSON). Models, dataclasses, mappings, sequences and sets become JSON,
    `None` becomes `texts.empty()`, an enum member its value. Bytes are read as UTF-8, and are base64 when they are
    none. Anything else is `str(value)`.

    Args:
        value: what the function returned.
        texts: what to say for `None`.
        auto_truncate: the most characters of text that the model gets; `None` for no limit.

    Raises:
        TypeError: `value` is an iterator, which has no value of its own.
        Exception: whatever making a text of `value` raises, for example for a dict that contains itself.
    """
    result = _converted(value, texts)
    return result if auto_truncate is None else _shortened(result, auto_truncate)


def _converted(value: Any, texts: ToolTexts) -> ToolReturnValue:
    if isinstance(value, ToolReturnValue):
        return value
    if isinstance(value, Message):
        return ToolMessage(is_error=bool(value.is_tool_call_error), written=value)
    if isinstance(value, ContentPart):
        return ToolOk(output=value)
    if isinstance(value, list | tuple) and any(isinstance(item, ContentPart) for item in cast(Sequence[Any], value)):
        items = cast(Sequence[Any], value)
        return ToolOk(output=[item if isinstance(item, ContentPart) else _text(item) for item in items])
    return ToolOk(output=texts.empty() if value is None else _text(value))


# ==== text ====


def _text(value: Any) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return str.__str__(value)  # a subclass may say something else
    if isinstance(value, bytes | bytearray):
        return _bytes_text(value)
    if isinstance(value, Iterator | AsyncIterator):
        kind = type(cast(object, value)).__name__
        raise TypeError(f"the function returned a {kind}, which has no value of its own; return a list")
    return _json(value) if _has_json(value) else str(value)


def _bytes_text(value: bytes | bytearray) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return b64encode(value).decode()


def _is_record(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _has_json(value: Any) -> bool:
    return value is None or isinstance(value, BaseModel | Mapping | Sequence | AbstractSet) or _is_record(value)


def _json(value: Any) -> str:
    try:
        return to_json(value, inf_nan_mode="null", fallback=_fallback).decode()
    except ValueError as error:  # lone surrogates and bytes that are no text are refused there
        return _json_of_anything(value, error)


def _json_of_anything(value: Any, error: ValueError) -> str:
    try:
        return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise error from None


def _fallback(value: Any) -> Any:
    """For values that pydantic does not know: the container they are like, else their text."""
    if isinstance(value, Mapping):
        return dict(cast(Mapping[Any, Any], value))
    return list(cast(Iterable[Any], value)) if isinstance(value, Sequence | AbstractSet) else str(value)


def _plain(value: Any) -> Any:
    """Dicts, lists, texts and numbers that mean the same as `value`."""
    match value:
        case str():
            return str.__str__(value)
        case float():
            return value if isfinite(value) else None
        case bytes() | bytearray():
            return _bytes_text(value)
        case BaseModel():
            return _plain(value.model_dump(by_alias=True))
        case Mapping():
            return {_key(key): _plain(item) for key, item in cast(Mapping[Any, Any], value).items()}
        case Sequence() | AbstractSet():
            return [_plain(item) for item in cast(Iterable[Any], value)]
        case _ if _is_record(value):
            return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        case _:
            return to_jsonable_python(value, inf_nan_mode="null", fallback=_fallback)


def _key(key: Any) -> str:
    plain = _plain(key)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


# ==== length ====

_MARK: Final = "..."

_BREAKS: Final = (("\n\n",), ("\n",), (". ", "! ", "? ", "。", "！", "？"), (", ", "，"), (" ",))
"""Where a text is cut, best first."""


def truncate(text: str, limit: int) -> str:
    """`text`, cut to at most `limit` characters and ended with `...` when it is longer.

    The cut is at the end of a paragraph, else a line, a sentence, a part of a sentence, a word - the first of them that
    keeps at least half of what there is room for.
    """
    kept, mark = _cut(text, limit)
    return text[:kept] + mark


def _cut(text: str, limit: int) -> tuple[int, str]:
    """How many characters stay, and what stands in for the others."""
    if len(text) <= limit:
        return len(text), ""
    room = limit - len(_MARK)
    if room <= 0:
        return 0, _MARK[: max(limit, 0)]
    places = (max(text.rfind(mark, 0, room + len(mark)) for mark in marks) for marks in _BREAKS)
    end = next((place for place in places if place * 2 >= room), room)
    return len(text[:end].rstrip()), _MARK


def _shortened(result: ToolReturnValue, limit: int) -> ToolReturnValue:
    if isinstance(result, ToolMessage):
        written = shortened(result.written, limit)
        return result if written is result.written else result.copy_with(written=written)
    if isinstance(result.output, str):
        return result if len(result.output) <= limit else result.copy_with(output=truncate(result.output, limit))
    parts = _shortened_parts(result.output, limit)
    return result if parts is None else result.copy_with(output=parts)


def shortened(message: Message, limit: int | None) -> Message:
    """The message with at most `limit` characters of text; `None` is no limit."""
    parts = None if limit is None else _shortened_parts(message.content, limit)
    return message if parts is None else message.copy_with(content=parts)


def with_note(message: Message, note: str) -> Message:
    """The message with a note below it."""
    *before, last = message.content or (TextPart(text=""),)
    if not isinstance(last, TextPart):
        return message.copy_with(content=[*message.content, TextPart(text=note)])
    text = f"{last.text}\n\n{note}" if last.text else note
    return message.copy_with(content=[*before, last.copy_with(text=text)])


def _shortened_parts(parts: Sequence[ContentPart], limit: int) -> tuple[ContentPart, ...] | None:
    """The parts with no more than `limit` characters of text in all; `None` when that is so already."""
    text = "".join(part.text for part in parts if isinstance(part, TextPart))
    kept, mark = _cut(text, limit)
    return tuple(_first_of(parts, kept, mark)) if mark or kept < len(text) else None


def _first_of(parts: Sequence[ContentPart], kept: int, mark: str) -> Iterator[ContentPart]:
    """The parts up to `kept` characters of text, then `mark`; parts that are no text all stay."""
    for part in parts:
        if not isinstance(part, TextPart):
            yield part
            continue
        end = len(part.text) > kept
        piece = part.text[:kept] + (mark if end else "")
        kept, mark = (0, "") if end else (kept - len(piece), mark)
        if piece:
            yield part if piece == part.text else part.copy_with(text=piece)

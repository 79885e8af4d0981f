"""The lines of a server as messages: what a strict reader refuses is mended, or told to who waits for it.

A lone surrogate, invalid UTF-8 or deep nesting costs that character or that depth. An answer that cannot be read at all
becomes an error for the request that it answers, so that nobody waits for what has come already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

__all__ = ["LONGEST", "PARSE_ERROR", "UNREADABLE", "Lines", "Surrogates", "TooLong", "mended"]

LONGEST: Final = 64 * 1024 * 1024
"""Bytes of one message. The default of `mcp` over HTTP, 1 MiB, is less than a screenshot needs."""
UNREADABLE: Final = "kimi_agent/unreadable"
"""The `data` of an error that stands for an answer that cannot be read."""
PARSE_ERROR: Final = -32700
_DEEPEST: Final = 150
"""Levels that are kept of a message that has too many: a strict reader takes 200, and a request to Kimi adds some."""
_DEEPER: Final = "[nested too deeply]"
_EDGE: Final = 300
"""Bytes at both ends of a line that are looked at to see what it answers."""


# ==== lines ====


@dataclass(frozen=True, slots=True)
class TooLong:
    """A line that is too long to be kept.

    Args:
        head: its first bytes.
        tail: its last bytes.
    """

    head: bytes
    tail: bytes


class Lines:
    """Bytes as they come, split into lines in linear time.

    Args:
        longest: bytes of a line; of a longer one both ends are kept.
    """

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._line = bytearray()
        self._head: bytes | None = None

    def feed(self, chunk: bytes) -> Iterator[bytes | TooLong]:
        """The lines that end in `chunk`, without their ends."""
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            self._append(part)
            yield self._taken()
        self._append(rest)

    def _append(self, part: bytes) -> None:
        self._line += part
        if len(self._line) > self._longest:
            self._head = bytes(self._line[:_EDGE]) if self._head is None else self._head
        if self._head is not None:
            self._line = self._line[-_EDGE:]

    def _taken(self) -> bytes | TooLong:
        line = bytes(self._line) if self._head is None else TooLong(self._head, bytes(self._line))
        self._line, self._head = bytearray(), None
        return line


# ==== messages ====


def mended(line: bytes | TooLong) -> dict[str, Any] | None:
    """The message in a line that a strict reader refuses; `None` if it is none that anybody waits for."""
    if isinstance(line, TooLong):
        return _answer_to(line.head, line.tail, f"it is longer than {LONGEST // 1024**2} MiB")
    try:
        written = json.dumps(json.loads(line.decode("utf-8-sig", "replace")), ensure_ascii=False)
        message: Any = json.loads(_SURROGATES.sub("\ufffd", written))
    except RecursionError:
        return _answer_to(line, line, "it is nested too deeply")
    except ValueError as error:
        return _answer_to(line, line, f"it is no JSON: {error}")
    return _mended(cast("dict[str, Any]", _cut(message, _DEEPEST))) if isinstance(message, dict) else None


_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def _cut(value: Any, levels: int) -> Any:
    """JSON with no more than so many levels. What stands for an object is a schema, too."""
    is_object = isinstance(value, dict)
    if levels == 0:
        return {"description": _DEEPER} if is_object else [_DEEPER]
    if is_object:
        fields = cast("dict[str, Any]", value)
        return {key: _cut(item, levels - 1) if _is_nested(item) else item for key, item in fields.items()}
    items = cast("list[Any]", value)
    return [_cut(item, levels - 1) if _is_nested(item) else item for item in items]


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list)


def _mended(message: dict[str, Any]) -> dict[str, Any] | None:
    """A message, if it is one; an answer of another form is an error."""
    request = message.get("id")
    if "method" in message:
        return message
    if message.get("jsonrpc") != "2.0" or not isinstance(request, int | str):
        return None
    if isinstance(message.get("result"), dict) or _is_error(message.get("error")):
        return message
    return _unreadable(request, "it has neither a result nor an error of the protocol")


def _is_error(error: Any) -> bool:
    if not isinstance(error, dict):
        return False
    fields = cast("dict[str, Any]", error)
    return isinstance(fields.get("code"), int) and isinstance(fields.get("message"), str)


_VERSION: Final = rb'"jsonrpc"\s*:\s*"2\.0"'
_ID: Final = rb'"id"\s*:\s*(0|-?[1-9]\d{0,14}|"[^"\\\x00-\x1f]{1,100}")'
_HEAD: Final = re.compile(rb'\s*\{\s*(?:(?:%b|%b)\s*,\s*){0,2}"(?:result|error)"\s*:' % (_VERSION, _ID))
_TAIL: Final = re.compile(rb",\s*(?:%b\s*,\s*)?%b\s*(?:,\s*%b\s*)?\}\s*$" % (_VERSION, _ID, _VERSION))


def _answer_to(head: bytes, tail: bytes, problem: str) -> dict[str, Any] | None:
    """The error for an answer of which the ends are known, if they say what it answers."""
    begins = _HEAD.match(head[:_EDGE])
    if begins is None:
        return None
    ends = None if begins[1] else _TAIL.search(tail[-_EDGE:])
    request = begins[1] or (ends[1] if ends else None)
    return None if request is None else _unreadable(json.loads(request.decode(errors="replace")), problem)


def _unreadable(request: int | str, problem: str) -> dict[str, Any]:
    error = {"code": PARSE_ERROR, "message": problem, "data": UNREADABLE}
    return {"jsonrpc": "2.0", "id": request, "error": error}


# ==== a stream ====

_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_BEGUN: Final = re.compile(
    rb"(?<!\\)(?:\\\\)*(\\(?:u[0-9a-fA-F]{0,3})?|\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?)\Z"
)


class Surrogates:
    """Replaces lone surrogates in JSON that comes in chunks, which may end anywhere."""

    def __init__(self) -> None:
        self._begun = b""

    def feed(self, chunk: bytes) -> bytes:
        """What is known so far of the text; an escape that has begun comes with the next chunk."""
        text = self._begun + chunk
        begun = _BEGUN.search(text)
        self._begun = begun[1] if begun else b""
        return _replaced(text.removesuffix(self._begun))

    def close(self) -> bytes:
        """The rest."""
        return _replaced(self._begun)


def _replaced(text: bytes) -> bytes:
    if b"\\ud" not in text and b"\\uD" not in text:
        return text
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape[1] else escape[0], text)

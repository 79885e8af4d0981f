"""Kimi K3."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import ClassVar, Final

from .base import BaseParser
from .calls import Found, Malformed, checked
from .marks import Machine, Mode
from .objects import value_and_rest

__all__ = ["KimiK3Parser"]

_SEP: Final = "<|sep|>"
_END: Final = "<|end_of_msg|>"
_CALL: Final = "<|open|>call "
_CALL_END: Final = f"<|close|>call{_SEP}"
_ARGUMENT: Final = "<|open|>argument "
_ARGUMENT_END: Final = f"<|close|>argument{_SEP}"
_JSON: Final = "<|open|>json "
_JSON_END: Final = f"<|close|>json{_SEP}"
_THINK: Final = f"<|open|>think{_SEP}"
_THINK_END: Final = f"<|close|>think{_SEP}"
_RESPONSE: Final = f"<|open|>response{_SEP}"
_RESPONSE_END: Final = f"<|close|>response{_SEP}"
_TOOLS: Final = {f"<|open|>tools{_SEP}": Mode.SECTION, _CALL: Mode.CALL}
_TOOLS_END: Final = f"<|close|>tools{_SEP}"
_MESSAGE_END: Final = {f"<|close|>message{_SEP}": Mode.END, _END: Mode.END}
_OPENED: Final = {_THINK: Mode.REASONING, _RESPONSE: Mode.TEXT}
_ATTRIBUTE: Final = re.compile(r'\s*([\w-]+)="([^"]*)"')


class KimiK3Parser(BaseParser):
    """Reads Kimi K3, whose control tokens open and close channels.

        REASONING<|close|>think<|sep|><|open|>response<|sep|>TEXT<|close|>response<|sep|>
        <|open|>tools<|sep|><|open|>call tool="NAME" index="1"<|sep|>
        <|open|>argument key="city" type="string"<|sep|>Oslo<|close|>argument<|sep|><|close|>call<|sep|>
        <|close|>tools<|sep|><|close|>message<|sep|><|end_of_msg|>

    without line ends between the marks. A call without its closing mark is none: arguments may be missing.

    Args:
        thinking: as `BaseParser` has it; the prompt of K3 opens `think`, or `response` where it does not think.
    """

    TRIMS = False
    QUOTES = False
    BEGINS = re.compile(
        rf"{re.escape(_CALL)}\s*(?:[\w-]+(?:=\"[^\"]*\"\s*|=\"[^\"]*\Z|=?\Z))*(?:<(?s:.*))?",
    )
    CLOSES = (_CALL_END,)
    ANSWERS = (_RESPONSE_END, *_TOOLS, *_MESSAGE_END)
    stop = (_END,)
    MACHINE: ClassVar[Machine] = {
        Mode.START: dict(_OPENED),
        Mode.REASONING: {_THINK_END: Mode.GAP, _RESPONSE: Mode.TEXT, **_TOOLS, **_MESSAGE_END},
        Mode.UNSURE: {_THINK_END: Mode.GAP},
        Mode.TEXT: {_RESPONSE_END: Mode.END, **_TOOLS, **_MESSAGE_END},
        Mode.SECTION: {**_TOOLS, _TOOLS_END: Mode.END},
        Mode.GAP: {**_OPENED, **_TOOLS, _TOOLS_END: Mode.END, **_MESSAGE_END},
        Mode.CALL: {
            _CALL_END: Mode.GAP,
            _TOOLS_END: Mode.GAP,
            _END: Mode.GAP,
            _CALL: Mode.CALL,
            _ARGUMENT: Mode.ARGUMENT,
            _JSON: Mode.ARGUMENT,
        },
        Mode.ARGUMENT: {_ARGUMENT_END: Mode.CALL, _JSON_END: Mode.CALL},
        Mode.END: {**_OPENED, **_TOOLS, **_MESSAGE_END},
    }

    def __init__(self, *, thinking: bool | None = True) -> None:
        super().__init__(thinking=thinking)

    def after(self, mark: str) -> Mode:
        """An argument ends with its own mark."""
        if self._mode is Mode.ARGUMENT and (mark == _JSON_END) != self._is_json:
            return Mode.ARGUMENT
        self._is_json = mark == _JSON
        return super().after(mark)

    _is_json = False

    def found(self, raw: str, closed: bool) -> tuple[list[Found], str]:
        """One call: its name and its arguments, one by one or as one JSON object."""
        if not closed:
            raise Malformed(f"there is no {_CALL_END}")
        attributes, body = _opened(raw.removeprefix(_CALL))
        if "tool" not in attributes:
            raise Malformed("it names no tool")
        if body.lstrip().startswith(_JSON):
            _, rest = _opened(body.lstrip().removeprefix(_JSON))
            arguments, _, rest = rest.partition(_JSON_END)
            if rest.strip():
                raise Malformed("something stands behind its JSON")
            return [checked(attributes["tool"], arguments)], ""
        fields = ", ".join([f"{json.dumps(key, ensure_ascii=False)}: {value}" for key, value in _arguments(body)])
        return [checked(attributes["tool"], f"{{{fields}}}")], ""


def _arguments(body: str) -> Iterator[tuple[str, str]]:
    """Each argument and its value as JSON. The mark that closes the last one may be missing."""
    position = 0
    while rest := body[position : position + len(_ARGUMENT)]:
        if rest[0].isspace():
            position += 1
            continue
        if rest != _ARGUMENT:
            raise Malformed(f"{body[position : position + 40]!r} is no argument")
        separator = _found_at(body, _SEP, position)
        if separator == len(body):
            raise Malformed("an argument ends within its mark")
        attributes, _ = _opened(body[position + len(_ARGUMENT) : separator + len(_SEP)])
        end = _found_at(body, _ARGUMENT_END, separator)
        if end == len(body):
            raise Malformed("an argument does not end")
        yield _field(attributes, body[separator + len(_SEP) : end])
        position = end + len(_ARGUMENT_END)


def _found_at(text: str, mark: str, start: int) -> int:
    place = text.find(mark, start)
    return len(text) if place < 0 else place


def _field(attributes: dict[str, str], value: str) -> tuple[str, str]:
    if "key" not in attributes:
        raise Malformed("an argument has no key")
    if attributes.get("type") == "string":
        return attributes["key"], json.dumps(value, ensure_ascii=False)
    _, rest = value_and_rest(value)
    if rest.strip():
        raise Malformed(f"{value[:40]!r} is no JSON")
    return attributes["key"], value.strip()


def _opened(text: str) -> tuple[dict[str, str], str]:
    """The attributes of a mark, and what follows it."""
    inside, mark, rest = text.partition(_SEP)
    if not mark:
        raise Malformed(f"there is no {_SEP}")
    attributes: dict[str, str] = {}
    position = 0
    while found := _ATTRIBUTE.match(inside, position):
        attributes[found[1]] = found[2].replace("&quot;", '"').replace("&amp;", "&")
        position = found.end()
    if inside[position:].strip():
        raise Malformed(f"{inside[:40]!r} are no attributes")
    return attributes, rest

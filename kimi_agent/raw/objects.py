"""Calls that are JSON objects with a name and arguments."""

from __future__ import annotations

import json
from math import isinf
from typing import Any, Final, NoReturn, cast

from .base import Found, Malformed, checked

__all__ = ["found_in", "value_and_rest", "value_at", "without_fence"]


def value_and_rest(text: str) -> tuple[Any, str]:
    """The JSON value that a text begins with, and what stands behind it.

    Raises:
        Malformed: it begins with none.
    """
    text = text.lstrip()
    value, end = value_at(text, 0)
    return value, text[end:]


def value_at(text: str, position: int) -> tuple[Any, int]:
    """The JSON value that begins at a place, and where it ends.

    Raises:
        Malformed: none begins there.
    """
    try:
        return _DECODER.raw_decode(text, position)
    except RecursionError:
        raise Malformed("it is nested too deeply") from None
    except ValueError as error:
        raise Malformed(f"it is no JSON: {error}") from None


def without_fence(text: str) -> str:
    """What stands in a fence, if the text is one."""
    text = text.strip()
    return text.removeprefix("```").removeprefix("json").removesuffix("```") if text.startswith("```") else text


def found_in(value: Any) -> list[Found]:
    """The calls that a decoded value is: one, or a list of them.

    Raises:
        Malformed: it is none.
    """
    if isinstance(value, list) and value:
        return [_call(item) for item in cast("list[Any]", value)]
    return [_call(value)]


def _call(value: Any) -> Found:
    if not isinstance(value, dict):
        raise Malformed("a call is an object with a name and arguments")
    fields = cast("dict[str, Any]", value)
    if isinstance(inner := fields.get("function"), dict) and "name" not in fields:
        fields = {"id": fields.get("id"), **cast("dict[str, Any]", inner)}
    name, call_id = fields.get("name"), fields.get("id")
    if not isinstance(name, str):
        raise Malformed("it has no name")
    key = next((key for key in _ARGUMENTS if key in fields), None)
    if key is None:
        raise Malformed("it has no arguments")
    return checked(name, _as_text(fields[key]), call_id if isinstance(call_id, str) and call_id.strip() else None)


_ARGUMENTS: Final = ("arguments", "parameters")


def _as_text(arguments: Any) -> str:
    """Arguments as JSON. Some models write JSON in a string."""
    if isinstance(arguments, str):
        return arguments
    try:
        return json.dumps(arguments, ensure_ascii=False)
    except RecursionError:
        raise Malformed("it is nested too deeply") from None


def _number(text: str) -> float:
    if isinf(number := float(text)):
        raise ValueError(f"no number is as large as {text}")
    return number


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


_DECODER: Final = json.JSONDecoder(strict=False, parse_float=_number, parse_constant=_no_number)
"""Lets raw control characters in strings through, as models write them."""

"""Calls that are JSON objects with a name and arguments."""

from __future__ import annotations

import json
import re
from math import isinf
from typing import Any, Final, NoReturn, cast

from .calls import Found, Malformed, checked
from .marks import beginning

__all__ = ["FENCE", "OBJECT", "as_text", "calls_in", "found_in", "value_and_rest", "without_fence"]

FENCE: Final = rf"{beginning('```json')}\s*"
OBJECT: Final = r"(?:\[\s*)?(?:\{\s*(?:\"(?s:.*))?)?"
"""Patterns of a fence that may be there, and of an object with a key or a list of such, as far as they have come."""


def value_and_rest(text: str) -> tuple[Any, str]:
    """The JSON value that a text begins with, and what stands behind it.

    Raises:
        Malformed: it begins with none.
    """
    text = text.lstrip()
    value, end = _value_at(text, 0)
    return value, text[end:]


def _value_at(text: str, position: int) -> tuple[Any, int]:
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
    return text.removeprefix("```").removeprefix("json").rstrip("`") if text.startswith("```") else text


def calls_in(text: str) -> list[Found]:
    """The calls of objects that stand one behind the other, with spaces, `;` or `,` between them, and of nothing else.

    Raises:
        Malformed: there is none, or something else.
    """
    calls: list[Found] = []
    position = _behind_separator(text, 0)
    while position < len(text):
        value, end = _value_at(text, position)
        calls += found_in(value)
        position = _behind_separator(text, end)
    if not calls:
        raise Malformed("there is none")
    return calls


def _behind_separator(text: str, position: int) -> int:
    while position < len(text) and (text[position].isspace() or text[position] in ";,"):
        position += 1
    return position


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
    fields = _with_name(cast("dict[str, Any]", value))
    name, call_id = fields.get("name"), fields.get("id")
    if not isinstance(name, str):
        raise Malformed("it has no name")
    key = next((key for key in _ARGUMENTS if key in fields), None)
    if key is None:
        raise Malformed("it has no arguments")
    return checked(name, as_text(fields[key]), call_id if isinstance(call_id, str) and call_id.strip() else None)


def _with_name(fields: dict[str, Any]) -> dict[str, Any]:
    """A call that says `"function": {"name": NAME, ...}` or `"function": NAME` has that name."""
    inner = fields.get("function")
    if "name" in fields:
        return fields
    if isinstance(inner, dict):
        return {"id": fields.get("id"), **cast("dict[str, Any]", inner)}
    return {**fields, "name": inner}


_ARGUMENTS: Final = ("arguments", "parameters")


def as_text(arguments: Any) -> str:
    """Arguments as JSON. Some models write JSON in a string."""
    if isinstance(arguments, str):
        return arguments
    try:
        text = json.dumps(arguments, ensure_ascii=False)
    except RecursionError:
        raise Malformed("it is nested too deeply") from None
    return json.dumps(arguments) if _HALF(text) else text


_HALF: Final = re.compile("[\ud800-\udfff]").search
"""Half of a surrogate pair, which is no text that can be written anywhere."""


def _number(text: str) -> float:
    if isinf(number := float(text)):
        raise ValueError(f"no number is as large as {text}")
    return number


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


_DECODER: Final = json.JSONDecoder(strict=False, parse_float=_number, parse_constant=_no_number)
"""Lets raw control characters in strings through, as models write them."""

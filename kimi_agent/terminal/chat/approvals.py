"""The question whether a call may run: the call, and what is made of the reply.

Whoever says yes has seen what runs: no character of it is left out, and those that cannot be seen are shown as their
escapes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any, Final

from ...message import ToolCall
from ...tools.approval import Approval
from ..formatters import UNREADABLE, with_arguments
from ..text import display_width

__all__ = ["approval_of", "described", "question"]

SHORT: Final = 300
"""Characters of a call that is shown on one line, where lines may have any length."""
LINE: Final = "    │ "
"""Before each line of a text of several lines."""
REST: Final = "    ┆ "
"""Before what of a line does not fit: what a call has in it never stands where the program speaks."""
_UNSEEN: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Printable characters that show nothing: Default_Ignorable_Code_Point of Unicode, and an empty Braille cell."""
LEAST: Final = 8
"""Columns of an argument in each row, however narrow the terminal is."""


def question(call: ToolCall) -> str:
    """What is asked, with what can be replied."""
    return f"Run {_seen(call.name)}? [y]es, [a]lways, [N]o, or what to do instead: "


def approval_of(reply: str, call: ToolCall) -> Approval:
    """What a reply means."""
    match reply.lower():
        case "y" | "yes":
            return Approval.approve(call)
        case "a" | "always":
            return Approval.approve_for_session(call)
        case "" | "n" | "no":
            return Approval.reject(call=call)
        case _:
            return Approval.reject(reply, call)


def described(call: ToolCall, width: int | None = None) -> str:
    """The call with all its arguments; texts of several lines, and what is long, on lines of their own.

    Args:
        call: of the model.
        width: of a line, in columns; `None` for lines of any length.
    """
    line = _seen(with_arguments(call))
    if display_width(line) <= (width or SHORT) and r"\n" not in line:
        return line
    try:
        lines = [line for name, value in call.args.items() for line in _lines(_seen(name), value)]
    except UNREADABLE:
        lines = [f"{LINE}{_seen(call.arguments)}"]
    rows = [row for line in lines for row in _rows(line, width)]
    return "\n".join([f"{_seen(call.name)}(", *rows, ")"])


def _lines(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, str) and "\n" in value:
        yield f"  {name} ="
        yield from (f"{LINE}{_seen(line)}" for line in value.split("\n"))
    else:
        yield f"  {name} = {value!r}"


def _rows(line: str, width: int | None) -> Iterator[str]:
    """A line, as many rows of the terminal as it needs, each marked as a part of it."""
    room = max(width, len(REST) + LEAST) if width else sys.maxsize
    row, columns = "", 0
    for character in line:
        needed = max(display_width(character), 1)
        if columns + needed > room:
            yield row
            row, columns = REST, len(REST)
        row, columns = row + character, columns + needed
    yield row


def _seen(text: str) -> str:
    """Text of which every character can be seen, on one line. Blanks stay as many as they are."""
    return text if text.isprintable() and not _UNSEEN.search(text) else "".join(map(_seen_character, text))


def _seen_character(character: str) -> str:
    if not character.isprintable():
        return repr(character)[1:-1]
    return ascii(character)[1:-1] if _UNSEEN.match(character) else character

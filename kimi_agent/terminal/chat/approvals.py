"""The question whether a call may run: the call, and what is made of the reply.

Whoever says yes has seen what runs: no character of it is left out, and those that cannot be seen are shown as their
escapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ...message import ToolCall
from ...tools.approval import Approval
from ..formatters import UNREADABLE, with_arguments

__all__ = ["approval_of", "described", "question"]

SHORT: Final = 300
"""Characters of a call that is shown on one line."""
ROW: Final = "    │ "
"""Before each line of a text of several lines."""


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


def described(call: ToolCall) -> str:
    """The call with all its arguments; texts of several lines, and what is long, on lines of their own."""
    line = _seen(with_arguments(call))
    if len(line) <= SHORT and r"\n" not in line:
        return line
    try:
        rows = [row for name, value in call.args.items() for row in _rows(_seen(name), value)]
    except UNREADABLE:
        return line
    return "\n".join([f"{_seen(call.name)}(", *rows, ")"])


def _rows(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, str) and "\n" in value:
        yield f"  {name} ="
        yield from (f"{ROW}{_seen(line)}" for line in value.split("\n"))
    else:
        yield f"  {name} = {value!r}"


def _seen(text: str) -> str:
    """Text of which every character can be seen, on one line. Blanks stay as many as they are."""
    return text if text.isprintable() else "".join(map(_seen_character, text))


def _seen_character(character: str) -> str:
    return character if character.isprintable() else repr(character)[1:-1]

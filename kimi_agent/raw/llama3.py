"""Llama 3.1 to 3.3."""

from __future__ import annotations

import re
from typing import ClassVar, Final

from .base import BaseParser
from .calls import NAME, Found, checked
from .marks import Machine, Mode
from .objects import OBJECT, calls_in

__all__ = ["Llama3Parser"]

_TAG: Final = "<|python_tag|>"
_FUNCTION: Final = "<function="
_FUNCTION_END: Final = "</function>"
_CALLS: Final[dict[str, Mode]] = dict.fromkeys((_TAG, _FUNCTION), Mode.CALL)
_ENDS: Final[dict[str, Mode]] = dict.fromkeys(("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"), Mode.END)


class Llama3Parser(BaseParser):
    """Reads Llama 3: an answer that is JSON, or what stands behind `<|python_tag|>`. `;` or a line end parts calls.

        <|python_tag|>{"name": NAME, "parameters": {...}}; {"name": NAME, "parameters": {...}}<|eom_id|>
        <function=NAME>{...}</function>

    An answer may also be a list of calls, or have `"function": NAME`. An answer of JSON that is no call is text. Python
    is, too: behind the tag, for a built-in tool, with a problem; `[f(x=1)]`, as Llama 3.2 and 4 write it, without.
    """

    BEGINS = re.compile(
        rf"{_FUNCTION}{NAME}*(?:>\s*(?:[{{<](?s:.*))?)?|(?:{re.escape(_TAG)}\s*)?{OBJECT}",
    )
    CLOSES = (_FUNCTION_END,)
    QUIET = ("{", "[")
    stop = tuple(_ENDS)
    MACHINE: ClassVar[Machine] = {
        Mode.START: {
            "<|start_header_id|>assistant<|end_header_id|>": Mode.START,
            **dict.fromkeys(QUIET, Mode.CALL),
            **_CALLS,
        },
        Mode.TEXT: {**_CALLS, **_ENDS},
        Mode.CALL: {**dict.fromkeys((*_ENDS, _FUNCTION_END), Mode.TEXT), **_CALLS},
        Mode.END: dict(_ENDS),
    }

    def __init__(self) -> None:
        super().__init__()

    def found(self, raw: str, closed: bool) -> tuple[list[Found], str]:
        """All objects, one after the other, or the arguments of one function."""
        if raw.startswith(_FUNCTION):
            name, _, arguments = raw.removeprefix(_FUNCTION).partition(">")
            return [checked(name, arguments, closed=closed)], ""
        return calls_in(raw.removeprefix(_TAG)), ""

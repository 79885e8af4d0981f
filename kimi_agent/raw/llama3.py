"""Llama 3.1 to 3.3."""

from __future__ import annotations

from typing import ClassVar, Final

from .base import BaseParser, Found, Machine, Malformed, Mode
from .objects import found_in, value_at

__all__ = ["Llama3Parser"]

_TAG: Final = "<|python_tag|>"
_ENDS: Final[dict[str, Mode]] = dict.fromkeys(("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"), Mode.END)


class Llama3Parser(BaseParser):
    """Reads Llama 3: an answer that is JSON, or what stands behind `<|python_tag|>`. `;` or a line end parts calls.

        <|python_tag|>{"name": NAME, "parameters": {...}}; {"name": NAME, "parameters": {...}}<|eom_id|>

    An answer of JSON that is no call is text. Python behind the tag, for a built-in tool, is text and a problem.
    """

    BEGINS = "{["
    stop = tuple(_ENDS)
    MACHINE: ClassVar[Machine] = {
        Mode.START: {"{": Mode.CALL, _TAG: Mode.CALL},
        Mode.TEXT: {_TAG: Mode.CALL, **_ENDS},
        Mode.CALL: {**dict.fromkeys(_ENDS, Mode.TEXT), _TAG: Mode.CALL},
        Mode.END: dict(_ENDS),
    }

    def __init__(self) -> None:
        super().__init__()

    def found(self, raw: str) -> tuple[list[Found], str]:
        """All objects, one after the other."""
        try:
            return _objects(raw.removeprefix(_TAG)), ""
        except Malformed:
            if raw.startswith(_TAG):
                raise
            raise Malformed from None


def _objects(text: str) -> list[Found]:
    calls: list[Found] = []
    decoded_to = _behind_separator(text, 0)
    while decoded_to < len(text):
        value, end = value_at(text, decoded_to)
        calls += found_in(value)
        decoded_to = _behind_separator(text, end)
    if not calls:
        raise Malformed("there is nothing behind the tag")
    return calls


def _behind_separator(text: str, position: int) -> int:
    while position < len(text) and (text[position].isspace() or text[position] == ";"):
        position += 1
    return position

"""Any model that was told to answer with JSON when it wants to call a function."""

from __future__ import annotations

from typing import ClassVar

from .base import BaseParser, Found, Machine, Malformed, Mode
from .objects import found_in, value_and_rest, without_fence

__all__ = ["NaiveJSONParser"]


class NaiveJSONParser(BaseParser):
    """Reads an answer that is nothing but JSON, in a fence or not, as a call or a list of calls.

        {"name": NAME, "arguments": {...}}

    `parameters` means `arguments`. All other answers are text, JSON that is no call included. An answer that begins
    like JSON is held back to its end.
    """

    MACHINE: ClassVar[Machine] = {
        Mode.START: {"{": Mode.CALL, "[": Mode.CALL, "```": Mode.CALL},
    }

    def __init__(self) -> None:
        super().__init__()

    def found(self, raw: str) -> tuple[list[Found], str]:
        """One object, or a list of them, and nothing else."""
        try:
            value, rest = value_and_rest(without_fence(raw))
            calls = found_in(value)
        except Malformed:
            raise Malformed from None
        if rest.strip():
            raise Malformed
        return calls, ""

"""Any model that was told to answer with JSON when it wants to call a function."""

from __future__ import annotations

import re
from typing import ClassVar

from .base import BaseParser
from .calls import Found, Malformed
from .marks import Machine, Mode
from .objects import FENCE, OBJECT, found_in, value_and_rest, without_fence

__all__ = ["NaiveJSONParser"]


class NaiveJSONParser(BaseParser):
    """Reads an answer that is nothing but JSON, in a fence or not, as a call or a list of calls.

        {"name": NAME, "arguments": {...}}

    `parameters` means `arguments`. All other answers are text, JSON that is no call included. An answer that begins
    like JSON is held back to its end.
    """

    BEGINS = re.compile(FENCE + OBJECT)
    QUIET = ("{", "[", "```")
    MACHINE: ClassVar[Machine] = {Mode.START: dict.fromkeys(QUIET, Mode.CALL)}

    def __init__(self) -> None:
        super().__init__()

    def found(self, raw: str, closed: bool) -> tuple[list[Found], str]:
        """One object, or a list of them, and nothing else."""
        value, rest = value_and_rest(without_fence(raw))
        if rest.strip():
            raise Malformed("something stands behind it")
        return found_in(value), ""

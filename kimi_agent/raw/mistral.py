"""Mistral, in the formats of its tokenizers v3 and v7, and of those after them."""

from __future__ import annotations

import re
from typing import ClassVar, Final

from .base import BaseParser
from .calls import NAME, Found, checked
from .marks import Machine, Mode
from .objects import found_in, value_and_rest

__all__ = ["MistralParser"]

_CALLS: Final = "[TOOL_CALLS]"
_END: Final = {"</s>": Mode.END}
_NAMED: Final = re.compile(rf"\s*({NAME}+)(?:\[CALL_ID\]\s*([A-Za-z0-9]+)\s*)?(?:\[ARGS\]|\s*(?=\{{))")
_ID: Final = re.compile(r"[A-Za-z0-9]{9}")


class MistralParser(BaseParser):
    """Reads Mistral: v3 and v7 write one list of calls, v11 and later a mark for each call.

        TEXT[TOOL_CALLS] [{"name": NAME, "arguments": {...}, "id": "VvvODy9mT"}]</s>
        [THINK]REASONING[/THINK]TEXT[TOOL_CALLS]NAME[ARGS]{JSON}</s>

    `[ARGS]` may be missing, as some hosts leave it out. Ids are what its chat templates take: nine letters and digits.
    Calls that come without one, or with that of another call, are numbered.
    """

    BEGINS = re.compile(rf"{re.escape(_CALLS)}\s*(?:[\[{{](?s:.*)|{NAME}+\s*(?:[\[{{](?s:.*))?)?")
    MACHINE: ClassVar[Machine] = {
        Mode.START: {"[THINK]": Mode.REASONING},
        Mode.REASONING: {"[/THINK]": Mode.TEXT, _CALLS: Mode.UNSURE, **_END},
        Mode.UNSURE: {"[/THINK]": Mode.TEXT},
        Mode.TEXT: {_CALLS: Mode.CALL, **_END},
        Mode.CALL: {_CALLS: Mode.CALL, "</s>": Mode.TEXT},
        Mode.END: dict(_END),
    }

    def __init__(self) -> None:
        super().__init__()

    def found(self, raw: str, closed: bool) -> tuple[list[Found], str]:
        """A list of calls, or one call by its name."""
        body = raw.removeprefix(_CALLS)
        if named := _NAMED.match(body):
            _, rest = value_and_rest(body[named.end() :])
            arguments = body[named.end() : len(body) - len(rest)]
            return [checked(named[1], arguments, _own(named[2]))], rest
        value, rest = value_and_rest(body)
        return [Found(call.name, call.arguments, _own(call.id)) for call in found_in(value)], rest

    def call_id(self, name: str, number: int) -> str:
        """Nine digits."""
        return f"{number:09d}"


def _own(call_id: str | None) -> str | None:
    return call_id if call_id and _ID.fullmatch(call_id) else None

"""DeepSeek R1, and V3 and V3.1, which call functions the same way."""

from __future__ import annotations

import re
from typing import ClassVar, Final

from .base import BaseParser
from .calls import NAME, Found, Malformed, checked
from .marks import Machine, Mode
from .objects import without_fence

__all__ = ["DeepSeekR1Parser"]

_SECTION: Final = "<｜tool▁calls▁begin｜>"
_SECTION_END: Final = "<｜tool▁calls▁end｜>"
_CALL: Final = "<｜tool▁call▁begin｜>"
_CALL_END: Final = "<｜tool▁call▁end｜>"
_SEP: Final = "<｜tool▁sep｜>"
_END: Final = "<｜end▁of▁sentence｜>"
_NAMED: Final = re.compile(rf"\s*({NAME}*)((?s:.*))")


class DeepSeekR1Parser(BaseParser):
    """Reads DeepSeek R1. The arguments of a call may stand in a fence, as R1 and V3 write them, or alone, as V3.1 does.

        <think>REASONING</think>TEXT<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME
        ```json
        {JSON}
        ```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>

    Args:
        thinking: as `BaseParser` has it; R1 always thinks.
    """

    BEGINS = re.compile(rf"{_CALL}\s*{NAME}*\s*(?:<(?s:.*))?")
    CLOSES = (_CALL_END,)
    stop = (_END,)
    MACHINE: ClassVar[Machine] = {
        Mode.START: {"<think>": Mode.REASONING},
        Mode.REASONING: {"</think>": Mode.TEXT, _SECTION: Mode.UNSURE, _CALL: Mode.UNSURE, _END: Mode.END},
        Mode.UNSURE: {"</think>": Mode.TEXT},
        Mode.TEXT: {_SECTION: Mode.SECTION, _CALL: Mode.CALL, _END: Mode.END},
        Mode.SECTION: {_SECTION: Mode.SECTION, _SECTION_END: Mode.GAP, _CALL: Mode.CALL},
        Mode.GAP: {_SECTION: Mode.SECTION, _SECTION_END: Mode.GAP, _CALL: Mode.CALL, _END: Mode.END},
        Mode.CALL: {_CALL_END: Mode.GAP, _SECTION_END: Mode.GAP, _CALL: Mode.CALL, _END: Mode.GAP},
        Mode.END: {_END: Mode.END},
    }

    def __init__(self, *, thinking: bool | None = True) -> None:
        super().__init__(thinking=thinking)

    def found(self, raw: str, closed: bool) -> tuple[list[Found], str]:
        """One call; of `function` and a name, the name."""
        name, mark, arguments = raw.removeprefix(_CALL).partition(_SEP)
        if not mark:
            raise Malformed(f"there is no {_SEP}")
        named = _NAMED.match(arguments) if name.strip() == "function" else None
        if named and named[1]:
            name, arguments = named.groups()
        return [checked(name, without_fence(arguments), closed=closed)], ""

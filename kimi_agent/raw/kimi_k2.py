"""Kimi K2, K2 Thinking, K2.5, K2.6 and K2.7."""

from __future__ import annotations

import re
from typing import ClassVar, Final

from .base import BaseParser
from .calls import NAME, Found, Malformed, checked
from .marks import Machine, Mode

__all__ = ["KimiK2Parser"]

_CALL: Final = "<|tool_call_begin|>"
_CALL_END: Final = "<|tool_call_end|>"
_ARGUMENTS: Final = "<|tool_call_argument_begin|>"
_END: Final = "<|im_end|>"
_SECTION: Final[dict[str, Mode]] = dict.fromkeys(
    ("<|tool_calls_section_begin|>", "<|tool_call_section_begin|>"), Mode.SECTION
)
_SECTION_END: Final[dict[str, Mode]] = dict.fromkeys(
    ("<|tool_calls_section_end|>", "<|tool_call_section_end|>"), Mode.TEXT
)
"""Both spellings have been seen, and sections without their marks."""
_NUMBER: Final = re.compile(r":\d+\Z")


class KimiK2Parser(BaseParser):
    """Reads Kimi K2 to K2.7.

        <think>REASONING</think>TEXT<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0
        <|tool_call_argument_begin|>{JSON}<|tool_call_end|><|tool_calls_section_end|><|im_end|>

    without line ends between the marks. Ids count over the whole conversation, as the model is used to; the number that
    it wrote itself is not kept.

    Args:
        thinking: as `BaseParser` has it: `True` for thinking models, `False` for K2 Instruct.
    """

    TRIMS = False
    BEGINS = re.compile(rf"{re.escape(_CALL)}\s*{NAME}*\s*(?:<(?s:.*))?")
    CLOSES = (_CALL_END,)
    stop = (_END,)
    MACHINE: ClassVar[Machine] = {
        Mode.START: {"<think>": Mode.REASONING},
        Mode.REASONING: {
            "</think>": Mode.TEXT,
            **dict.fromkeys((_CALL, *_SECTION), Mode.UNSURE),
            _END: Mode.END,
        },
        Mode.UNSURE: {"</think>": Mode.TEXT},
        Mode.TEXT: {**_SECTION, _CALL: Mode.CALL, _END: Mode.END},
        Mode.SECTION: {**_SECTION, **_SECTION_END, _CALL: Mode.CALL},
        Mode.GAP: {**_SECTION, **_SECTION_END, _CALL: Mode.CALL, _END: Mode.END},
        Mode.CALL: {_CALL_END: Mode.GAP, **_SECTION_END, _CALL: Mode.CALL, _END: Mode.GAP},
        Mode.END: {_END: Mode.END},
    }

    def __init__(self, *, thinking: bool | None = None) -> None:
        super().__init__(thinking=thinking)

    def found(self, raw: str, closed: bool) -> tuple[list[Found], str]:
        """One call, named by its id."""
        call_id, mark, arguments = raw.removeprefix(_CALL).partition(_ARGUMENTS)
        if not mark:
            raise Malformed(f"there is no {_ARGUMENTS}")
        name = _NUMBER.sub("", call_id.strip()).removeprefix("functions.")
        return [checked(name, arguments, closed=closed)], ""

    def call_id(self, name: str, number: int) -> str:
        """`functions.NAME:N`."""
        return f"functions.{name}:{number}"

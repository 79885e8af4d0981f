"""Qwen3, and other models that write calls as Hermes does."""

from __future__ import annotations

from typing import ClassVar, Final

from .base import BaseParser, Found, Machine, Malformed, Mode
from .objects import found_in, value_and_rest

__all__ = ["Qwen3Parser"]

_CALL: Final = "<tool_call>"
_END: Final = {"<|im_end|>": Mode.END}


class Qwen3Parser(BaseParser):
    """Reads Qwen3.

        <think>REASONING</think>TEXT
        <tool_call>
        {"name": NAME, "arguments": {...}}
        </tool_call><|im_end|>

    Args:
        thinking: as `BaseParser` has it: `True` for models of which the prompt opens `<think>`, `False` for those that
            write the mark themselves or do not think.
    """

    BEGINS = "{["
    stop = tuple(_END)
    MACHINE: ClassVar[Machine] = {
        Mode.START: {"<think>": Mode.REASONING},
        Mode.REASONING: {"</think>": Mode.TEXT, _CALL: Mode.UNSURE, **_END},
        Mode.UNSURE: {"</think>": Mode.TEXT},
        Mode.TEXT: {_CALL: Mode.CALL, **_END},
        Mode.CALL: {"</tool_call>": Mode.TEXT, _CALL: Mode.CALL, "<|im_end|>": Mode.TEXT},
        Mode.END: dict(_END),
    }

    def __init__(self, *, thinking: bool | None = None) -> None:
        super().__init__(thinking=thinking)

    def found(self, raw: str) -> tuple[list[Found], str]:
        """One object, or a list of them."""
        value, rest = value_and_rest(raw.removeprefix(_CALL))
        if rest.strip():
            raise Malformed("something stands behind its JSON")
        return found_in(value), ""

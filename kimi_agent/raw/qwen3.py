"""Qwen3, and other models that write calls as Hermes does, or in tags."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final

from .base import BaseParser
from .calls import Found, Malformed, checked
from .marks import Machine, Mode
from .objects import FENCE, OBJECT, as_text, calls_in, value_and_rest, without_fence

__all__ = ["Qwen3Parser"]

_CALL: Final = "<tool_call>"
_CALL_END: Final = "</tool_call>"
_FUNCTION_END: Final = "</function>"
_PARAMETER_END: Final = "</parameter>"
_END: Final = {"<|im_end|>": Mode.END}
_FUNCTION: Final = re.compile(r"\s*<function=([^>]*)>\s*")
_PARAMETER: Final = re.compile(rf"<parameter=([^>]*)>((?s:.*?)){_PARAMETER_END}\s*")


class Qwen3Parser(BaseParser):
    """Reads Qwen3, whose calls are JSON, and Qwen3-Coder, 3.5 and 3.6, whose calls are tags.

        <think>REASONING</think>TEXT
        <tool_call>
        {"name": NAME, "arguments": {...}}
        </tool_call><|im_end|>

        <tool_call>
        <function=NAME>
        <parameter=KEY>
        VALUE
        </parameter>
        </function>
        </tool_call><|im_end|>

    JSON may stand in a fence, and more than one object in a call. What a value in tags is, its text does not say: it
    is a number, `true`, `false`, `null`, a list or an object if it can be read as such JSON, else the text without the
    line ends around it. So a string that looks like JSON arrives as what it looks like.

    Args:
        thinking: as `BaseParser` has it: `True` for models of which the prompt opens `<think>`, `False` for those that
            write the mark themselves or do not think.
    """

    BEGINS = re.compile(rf"{_CALL}\s*(?:<(?s:.*)|{FENCE}{OBJECT})")
    CLOSES = (_CALL_END,)
    stop = tuple(_END)
    MACHINE: ClassVar[Machine] = {
        Mode.START: {"<think>": Mode.REASONING},
        Mode.REASONING: {"</think>": Mode.TEXT, _CALL: Mode.UNSURE, **_END},
        Mode.UNSURE: {"</think>": Mode.TEXT},
        Mode.TEXT: {_CALL: Mode.CALL, **_END},
        Mode.CALL: {_CALL_END: Mode.TEXT, _CALL: Mode.CALL, "<|im_end|>": Mode.TEXT, "<function=": Mode.PLAIN},
        Mode.PLAIN: {"<parameter=": Mode.ARGUMENT},
        Mode.ARGUMENT: {_PARAMETER_END: Mode.PLAIN, **dict.fromkeys((_CALL_END, *_END), Mode.ARGUMENT)},
        Mode.END: dict(_END),
    }

    def __init__(self, *, thinking: bool | None = None) -> None:
        super().__init__(thinking=thinking)

    def found(self, raw: str, closed: bool) -> tuple[list[Found], str]:
        """One object or many, or one function in tags."""
        body = raw.removeprefix(_CALL)
        if function := _FUNCTION.match(body):
            return [_in_tags(function[1], body[function.end() :], closed)], ""
        return calls_in(without_fence(body)), ""


def _in_tags(name: str, text: str, closed: bool) -> Found:
    fields: dict[str, Any] = {}
    position = 0
    while parameter := _PARAMETER.match(text, position):
        fields[parameter[1].strip()] = _value(parameter[2])
        position = parameter.end()
    rest = text[position:].strip()
    if rest != _FUNCTION_END and (rest or not closed):
        raise Malformed(f"there is no {_FUNCTION_END} behind its parameters")
    return checked(name, as_text(fields))


def _value(text: str) -> Any:
    text = text.removeprefix("\n").removesuffix("\n")
    try:
        value, rest = value_and_rest(text)
    except Malformed:
        return text
    return text if rest.strip() or isinstance(value, str) else value

"""What messages and tools cost in tokens of Kimi's prompt: an estimate, made once per value.

The fixed costs are those of Kimi K3's prompt. Text is cut into pieces as Kimi's tokenizer cuts it before it merges
bytes, and each kind of piece has a price. English, Chinese, code, JSON and logs come out within some 10 % of the truth;
European languages and traditional Chinese up to 30 % too low, which the server's own figures correct
(`Window.learn`). The time is linear in the length of the text, whatever the text is.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ..errors import ToolArgumentsError
from ..message import ContentPart, Message, TextPart, ThinkPart, ToolCall, once_per_value
from ..tools.base import Tool, ToolsPart

__all__ = ["REQUEST_COST", "prompt_cost", "estimate_text", "message_cost", "quickly_counted", "tools_cost"]

REQUEST_COST: Final = 68 + 7
"""Tokens of every request: the note about the thinking effort, and the header of the answer."""

_MESSAGE_COST: Final = {"system": 11, "user": 11, "assistant": 23, "tool": 18}
_SPEAKER_COST: Final = 3  # the `name` of a system, user or assistant message
_CALLS_COST: Final = 6
_CALL_COST: Final = 13
_ARGUMENT_COST: Final = 13
_RAW_ARGUMENTS_COST: Final = 10  # arguments that are no JSON object
_MEDIA_COST: Final = 2000  # a picture, a sound, a film: flat, as Moonshot's own client counts
_TOOLS_COST: Final = 35
_LATE_TOOLS_COST: Final = 56 - 35 - 11  # what the note of a system message costs more, beside its message
_CHEAP_LENGTH: Final = 50_000


# ==== messages and tools ====


@once_per_value
def message_cost(message: Message) -> int:
    """Tokens of a message in the prompt, worked out once per message."""
    cost = _MESSAGE_COST[message.role] + sum(map(_part_cost, message.content))
    if message.name:
        cost += estimate_text(message.name) + (0 if message.role == "tool" else _SPEAKER_COST)
    if message.tool_calls:
        cost += _CALLS_COST + sum(map(_call_cost, message.tool_calls))
    return cost


def prompt_cost(messages: Iterable[Message], tools: Sequence[Tool]) -> int:
    """Tokens of a whole prompt."""
    costs = [message.__dict__.get(_COST_KEY) or message_cost(message) for message in messages]
    return REQUEST_COST + tools_cost(tools) + sum(costs)


def quickly_counted(messages: Sequence[Message], key: str | None = None) -> bool:
    """Whether the uncounted end of `messages` is short enough to be counted on the event loop.

    Args:
        messages: of a prompt.
        key: under which a message that was counted keeps its cost; that of the estimate unless given.
    """
    length = 0
    for message in reversed(messages):
        if (key or _COST_KEY) in message.__dict__:
            break
        length += sum(map(len, _texts(message)))
        if length >= _CHEAP_LENGTH:
            return False
    return True


def tools_cost(tools: Sequence[Tool]) -> int:
    """Tokens of the note that tells the model its tools. Each tool is counted once."""
    return _TOOLS_COST + 1 + sum(map(_tool_cost, tools)) if tools else 0


_COST_KEY: Final[str] = message_cost.key  # pyright: ignore[reportFunctionMemberAccess]


def _texts(message: Message) -> Iterator[str]:
    """All texts of the message that are counted."""
    yield from filter(None, map(_text_of, message.content))
    yield from (call.arguments for call in message.tool_calls or ())
    for part in message.content:
        if isinstance(part, ToolsPart):
            yield from (tool.description + str(tool.parameters) for tool in part.tools)


def _text_of(part: ContentPart) -> str | None:
    match part:
        case TextPart(text=text) | ThinkPart(think=text):
            return text
        case _:
            return None


def _part_cost(part: ContentPart) -> int:
    if isinstance(part, ToolsPart):
        return tools_cost(part.tools) + _LATE_TOOLS_COST
    text = _text_of(part)
    return _MEDIA_COST if text is None else estimate_text(text)


def _call_cost(call: ToolCall) -> int:
    cost = _CALL_COST + estimate_text(call.name)
    try:
        return cost + sum(_argument_cost(name, value) for name, value in call.args.items())
    except (ToolArgumentsError, RecursionError):
        return cost + _RAW_ARGUMENTS_COST + estimate_text(call.arguments)


def _argument_cost(name: str, value: object) -> int:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _ARGUMENT_COST + estimate_text(name) + estimate_text(text)


@once_per_value
def _tool_cost(tool: Tool) -> int:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    declaration = {"type": "function", "function": function}
    return estimate_text(json.dumps(declaration, ensure_ascii=False, separators=(",", ":"), default=str))


# ==== text ====

# Character classes that the standard library's `re` has no names for. Marks count as letters.
_HAN = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_LETTER = (
    "\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u1fff\u2c00-\u2dff\u3040-\u318f\u31a0-\u31ff\ua000-\ud7ff"
    "\ufb00-\ufdff\ufe70-\ufefe\uff21-\uff3a\uff41-\uff5a\uff66-\uffdc"
)
_BEFORE_WORD = rf"[^\r\n0-9A-Za-z{_HAN}{_LETTER}]?"


@functools.cache
def _piece() -> re.Pattern[str]:
    """The pieces that a text is priced by. Compiled on first use: that takes as long as many an import."""
    return re.compile(
        rf"{_BEFORE_WORD}(?:[A-Z]*[a-z]+|[A-Z]+)(?:'(?:[sStTmMdD]|re|ve|ll))?"
        rf"|[{_HAN}]+"
        rf"|{_BEFORE_WORD}[{_LETTER}]+"
        r"|[0-9]{1,3}"
        rf"| ?[^\s0-9A-Za-z{_HAN}{_LETTER}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


@functools.cache
def _han() -> re.Pattern[str]:
    return re.compile(f"[{_HAN}]")


@functools.cache
def _letter() -> re.Pattern[str]:
    return re.compile(f"[{_LETTER}]")


_RUN: Final = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_=-]{64,}")
_HEX: Final = re.compile(r"[0-9a-f]+|[0-9A-F]+")
_SAMPLE: Final = 512


def estimate_text(text: str) -> int:
    """Tokens of a text on its own. About 0.1 s for a million characters."""
    blobs: list[float] = []

    def take_out(run: re.Match[str]) -> str:
        per_character = _blob_price(run[0][:_SAMPLE])
        blobs.append(per_character * len(run[0]))
        return " " if per_character else run[0]

    pieces = Counter(_piece().findall(_RUN.sub(take_out, text) if len(text) >= 64 else text))
    return math.ceil(sum(blobs) + sum(_price(piece) * times for piece, times in pieces.items()))


def _blob_price(run: str) -> float:
    """Tokens per character of hex or base64; 0 for what only looks long, such as a path."""
    digits = sum(map(str.isdigit, run))
    if 0 < digits < len(run) and _HEX.fullmatch(run):
        return 0.57
    mixed = digits * 32 > len(run) and sum(map(str.isupper, run)) * 8 > len(run) and not run.isupper()
    return 0.67 if mixed else 0


def _price(piece: str) -> float:
    """Tokens of a piece, fitted to Kimi's own vocabulary."""
    core = piece.strip()
    if not core or "0" <= core[0] <= "9":
        return 1
    last = core[-1]
    if "a" <= last <= "z" or "A" <= last <= "Z":
        return 1 + 0.045 * max(0, len(core) - 4) + 0.1 * max(0, len(core) - 16)
    if _han().match(core):
        return 0.53 * len(core)
    if _letter().match(last):
        return _foreign_price(piece)
    return _symbols_price(core)


def _foreign_price(word: str) -> float:
    """Letters with accents, other alphabets, and above U+2000 the syllables of Japanese and Korean."""
    if word[-1] >= "\u2000":
        return 0.75 * len(word)
    letters = len(word.lstrip())
    return 1.6 * letters if word[-1] < "\u0250" else 0.35 + 0.45 * letters


def _symbols_price(symbols: str) -> float:
    length = len(symbols)
    if symbols.isascii():
        ruler = symbols.count(symbols[0]) == length
        return 1 + (length / 32 if ruler else 0.1 * max(0, length - 6))
    return sum(2.4 if symbol >= "\U0001f000" else 1.0 if symbol > "\x7f" else 0.5 for symbol in symbols)

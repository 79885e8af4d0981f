"""What messages and tools cost in tokens of Kimi's prompt: an estimate, made once per value.

The fixed costs are those of Kimi K3's prompt. Text is cut into pieces as Kimi's tokenizer cuts it before it merges
bytes, and each kind of piece has a price. How far that is off, for texts of some hundred tokens and more:

- within 10 %: code; prose in English, Chinese of both scripts, Japanese, Korean; Markdown, JSON, YAML,
  HTML, diffs, logs, listings, tables, numbers, hex and base64
- within 15 %: German, French, Spanish, Portuguese, Polish, Russian, emoji
- within 25 %: other languages of Europe and Asia

Text of a few words, or full of rare names, may be off by more: down to half of the truth. The safe mode of
`estimate_text` adds what keeps an estimate from being too low. What an agent counts is corrected by the server's own
figures (`Window.learn`). The time is linear in the length of the text, whatever the text is.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import operator
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from ..errors import ToolArgumentsError
from ..message import ContentPart, Message, TextPart, ThinkPart, ToolCall, once_per_value
from ..tools.base import Tool, ToolsPart

__all__ = [
    "REQUEST_COST",
    "SEARCH",
    "estimate_text",
    "found_cost",
    "message_cost",
    "prompt_cost",
    "quickly_counted",
    "tools_cost",
]

SEARCH: Final = "$web_search"
"""The tool of Kimi's own whose results are not what is sent."""
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
_MOST_FOUND: Final = 262_144  # more than a search can find, since every model has to be able to read it
_CHEAP_LENGTH: Final = 50_000
_NEWEST: Final = 1_000


# ==== messages and tools ====


@once_per_value
def message_cost(message: Message) -> int:
    """Tokens of a message in the prompt, worked out once per message."""
    cost = _MESSAGE_COST[message.role] + sum(map(_part_cost, message.content))
    if message.name:
        cost += estimate_text(message.name) + (0 if message.role == "tool" else _SPEAKER_COST)
    if message.tool_calls:
        cost += _CALLS_COST + sum(map(_call_cost, message.tool_calls))
    return cost + found_cost(message)


def found_cost(message: Message) -> int:
    """Tokens of what the built-in search found, which Kimi puts into the prompt in place of the result `message`.

    How many there are stands in the arguments of the call, which are its result: `{"usage": {"total_tokens": 8192}}`.
    """
    if message.role != "tool" or message.name != SEARCH:
        return 0
    try:
        said: Any = json.loads(message.text)["usage"]["total_tokens"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return said if type(said) is int and 0 < said <= _MOST_FOUND else 0


def prompt_cost(messages: Iterable[Message], tools: Sequence[Tool]) -> int:
    """Tokens of a whole prompt."""
    costs = [message.__dict__.get(_COST_KEY) or message_cost(message) for message in messages]
    return REQUEST_COST + tools_cost(tools) + sum(costs)


def quickly_counted(messages: Sequence[Message], key: str | None = None, *, start: int | None = None) -> bool:
    """Whether what is not counted of `messages` is short enough to be counted on the event loop.

    Only their end is looked at, so that asking costs next to nothing however long a conversation is.

    Args:
        messages: of a prompt.
        key: under which a message that was counted keeps its cost; that of the estimate unless given.
        start: index of the first message that will be counted. With it, the newest 1,000 of those are looked at;
            without it, the messages behind the newest one that was counted.
    """
    key = key or _COST_KEY
    end = _behind_counted(messages, key) if start is None else _uncounted(messages, key, start)
    length = 0
    for message in end:
        length += sum(map(len, _texts(message)))
        if length >= _CHEAP_LENGTH:
            return False
    return True


def _behind_counted(messages: Sequence[Message], key: str) -> Iterator[Message]:
    return itertools.takewhile(lambda message: key not in message.__dict__, reversed(messages))


def _uncounted(messages: Sequence[Message], key: str, start: int) -> Iterator[Message]:
    newest = messages[max(start, len(messages) - _NEWEST) :]
    return (message for message in newest if key not in message.__dict__)


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
    function: dict[str, Any] = {"name": tool.name}
    if not (own := tool.name.startswith("$")):
        function |= {"description": tool.description, "parameters": tool.parameters}
    declaration = {"type": "builtin_function" if own else "function", "function": function}
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
        rf"{_BEFORE_WORD}(?:[A-Z]*[a-z]+[a-z{_LETTER}]*|[A-Z]*[{_LETTER}]+[a-z{_LETTER}]*|[A-Z]+)"
        r"(?:'(?:[sStTmMdD]|re|ve|ll))?"
        rf"|[{_HAN}]+"
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
_SAFE_SHARE: Final = 1.2
_SAFE_TOKENS: Final = 16


def _behind_spaces(words: str) -> frozenset[str]:
    return frozenset(f" {word}" for word in words.split())


_ENGLISH: Final = _behind_spaces("the and of to that this with you are from not")
_FOREIGN: Final = _behind_spaces(
    "der das und de nicht ist mit ein eine den von auf sich wird le la les des une du que qui dans pour est el "
    "los las por con para del il di che per non della um os com het van een niet voor och att det som til nie na"
)
"""Words that tell in which language the words around them are."""
_LAST_LATIN: Final = "\u024f"
_LATIN_EXTRA: Final = 0.26
"""Tokens that a letter above three costs in an ASCII word of a language that is not English, beside its price."""

_SCHEMA: Final = {
    "additionalProperties",
    "array",
    "boolean",
    "default",
    "description",
    "enum",
    "function",
    "integer",
    "items",
    "name",
    "number",
    "object",
    "parameters",
    "properties",
    "required",
    "string",
    "title",
    "type",
}
"""Words of declarations of tools: behind a quotation mark, too, they are one token."""
_JSON: Final = frozenset('"{}[]:,')

_SCRIPTS: Final = (
    ("\u00ff", 0.9, 0.30),  # Latin of western Europe
    ("\u036f", 1.0, 0.40),  # Latin of the rest of it
    ("\u03ff", 0.2, 0.65),  # Greek
    ("\u052f", 0.45, 0.33),  # Cyrillic
    ("\u05ff", 0.3, 0.65),  # Hebrew
    ("\u08ff", 0.4, 0.47),  # Arabic
    ("\u1dff", 0.5, 0.65),  # of India and its neighbours
    ("\u1fff", 0.9, 0.55),  # Vietnamese
    ("\u309f", 0.33, 0.555),  # Hiragana
    ("\u30ff", 0.3, 0.56),  # Katakana
    ("\U0010ffff", 0.4, 0.83),  # Korean
)
"""The last letter of a script, and what a word of it costs: something, and so much per letter."""


def estimate_text(text: str, *, safe: bool = False) -> int:
    """Tokens of a text on its own. About 0.1 s for a million characters.

    Args:
        text: to be counted.
        safe: add a fifth and 16 tokens, for limits that must hold: so the estimate is below the truth by a tenth at
            most, for all kinds of text that the module names and for mixtures and parts of them.
    """
    cost = sum(map(_text_cost, _slices(text)))
    return math.ceil(_SAFE_SHARE * cost + _SAFE_TOKENS if safe and text else cost)


_SLICE: Final = 65_536  # characters


def _slices(text: str) -> Iterator[str]:
    """A long text in pieces, cut at blanks where there are any: a search through all of it would stop every thread."""
    start = 0
    while len(text) - start > _SLICE:
        blank = max(
            text.rfind(" ", start + _SLICE // 2, start + _SLICE), text.rfind("\n", start + _SLICE // 2, start + _SLICE)
        )
        end = blank if blank > 0 else start + _SLICE
        yield text[start:end]
        start = end
    yield text[start:]


def _text_cost(text: str) -> float:
    blobs: list[float] = []

    def take_out(run: re.Match[str]) -> str:
        per_character = _blob_price(run[0][:_SAMPLE])
        blobs.append(per_character * len(run[0]))
        return " " if per_character else run[0]

    pieces = Counter(_piece().findall(_RUN.sub(take_out, text) if len(text) >= 64 else text))
    costs = sum(_price(piece) * times for piece, times in pieces.items())
    return sum(blobs) + costs + _foreign_extra(pieces)


def _blob_price(run: str) -> float:
    """Tokens per character of hex or base64; 0 for what only looks long, such as a path."""
    digits = sum(map(str.isdigit, run))
    if 0 < digits < len(run) and _HEX.fullmatch(run):
        return 0.57
    mixed = digits * 32 > len(run) and sum(map(str.isupper, run)) * 8 > len(run) and not run.isupper()
    return 0.67 if mixed else 0


def _foreign_extra(pieces: Counter[str]) -> float:
    """What ASCII words cost more in the measure in which a text is in a European language that is not English."""
    accents = sum(times for piece, times in pieces.items() if not piece.isascii() and _is_latin(piece))
    foreign = accents + sum(map(pieces.__getitem__, _FOREIGN.intersection(pieces)))
    if not foreign:
        return 0
    words = {piece: times for piece, times in pieces.items() if _is_plain_word(piece)}
    english = sum(map(pieces.__getitem__, _ENGLISH.intersection(pieces)))
    share = foreign / (foreign + english + 0.04 * sum(words.values()))
    return share * _LATIN_EXTRA * sum(max(0, len(word) - 4) * times for word, times in words.items())


def _is_plain_word(piece: str) -> bool:
    return piece[0] == " " and piece[-1].isalpha() and piece.isascii()


def _is_latin(piece: str) -> bool:
    return piece[1:].isalpha() and max(piece) <= _LAST_LATIN


def _price(piece: str) -> float:
    """Tokens of a piece, fitted to Kimi's own vocabulary."""
    core = piece.strip()
    if not core or "0" <= core[0] <= "9":
        return 1
    last = core[-1]
    if piece.isascii():
        return _word_price(piece) if last.isalpha() else _symbols_price(core)
    if _han().match(core):
        return _han_price(core)
    if _letter().search(core):
        return _foreign_price(core)
    return _symbols_price(core)


def _word_price(word: str) -> float:
    """A word of English letters: those behind a space are what the vocabulary has most of."""
    length = len(word)
    if word in _SCHEMA:
        return 1
    if word[0] == " ":
        return 1 + 0.03 * max(0, length - 6) + 0.15 * max(0, length - 17)
    if word[0].isalpha():
        return 1 + 0.1 * max(0, length - 3) + 0.1 * max(0, length - 12)
    return 1.1 + 0.13 * max(0, length - 4)


def _han_price(run: str) -> float:
    """Chinese and Japanese characters; those that simplified Chinese does not have are rare in the vocabulary."""
    rare = len(run) - len(run.encode("gb2312", "ignore")) // 2
    return max(1, 0.515 * len(run) + 1.1 * rare)


def _foreign_price(word: str) -> float:
    """Letters with accents, and other alphabets."""
    start = 0 if word[0].isalpha() or _letter().match(word) else 1
    greatest = max(word[start:])
    flat, per_letter = next((flat, each) for last, flat, each in _SCRIPTS if greatest <= last)
    return start + flat + per_letter * (len(word) - start)


def _symbols_price(symbols: str) -> float:
    if not symbols.isascii():
        return sum(2.55 if symbol >= "\U0001f000" else 1.0 if symbol > "\x7f" else 0.5 for symbol in symbols)
    changes = sum(map(operator.ne, symbols, symbols[1:]))
    mixed = 0.25 * max(0, changes - 3) if _JSON.issuperset(symbols) else 0.5 * max(0, changes - 1.9)
    return 1 + mixed + max(0, len(symbols) - changes - 4) / 14

"""The prompt of Kimi K3, in tokens.

Every piece of text is encoded alone, so a message costs the same wherever it stands, and what stands around the texts
has fixed costs. They are Kimi's own, measured by the `usage` that it reports.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from ..errors import InvalidRequestError
from ..kimi.wire import Dialect
from .body import Call, Request, Said, compact
from .pictures import K3_PATCHES, UNKNOWN_COST, Size, picture_tokens

__all__ = ["K3"]

Count = Callable[[str], int]

_HEADER: Final = 7
_EFFORTS: Final[Mapping[str, int]] = {"none": 0, "low": 68, "high": 68, "max": 67}
_CHOICES: Final[Mapping[str, int]] = {"auto": 0, "required": 36, "none": 38}
_FORMATS: Final[Mapping[str, int]] = {"text": 0, "json_object": 47, "json_schema": 60}
_TOOLS: Final = 35
_LATE_TOOLS: Final = 56

_MESSAGE: Final[Mapping[str, int]] = {"system": 11, "user": 11, "assistant": 17, "tool": 17}
_NAME: Final = 3
_CHANNEL: Final = 3  # the mark that opens or closes one
_CALLS: Final = 6
_CALL: Final = 12
_ARGUMENT: Final = 13
_RAW_ARGUMENTS: Final = 10
_PICTURE: Final = 3
_PLAIN: Final = Dialect()


@dataclass(frozen=True, slots=True)
class K3:
    """How Kimi K3 and its later versions show a request to the model."""

    name: str = "k3"
    dialect: Dialect = _PLAIN
    names_results: bool = True
    header: int = _HEADER
    grows: bool = True

    def messages(self, count: Count, request: Request) -> int:
        """Tokens of all messages."""
        return sum(self.message(count, said, thinks=request.thinks) for said in request.messages)

    def overhead(self, count: Count, request: Request) -> int:
        """Tokens of everything but the messages: the notes, and the header of the answer."""
        tools = _TOOLS + count(compact(request.tools, "tools")) if request.tools else 0
        schema = 0 if request.schema is None else count(compact(request.schema, "response_format.json_schema.schema"))
        notes = _EFFORTS[request.effort] + _CHOICES[request.tool_choice] + _FORMATS[request.response_format]
        return _HEADER + notes + tools + schema

    def message(self, count: Count, said: Said, *, thinks: bool = True) -> int:
        """Tokens of a message. The header of one that is begun is the header of the answer."""
        if said.tools:
            return _LATE_TOOLS + count(compact(said.tools, "messages.tools")) + _name_cost(count, said)
        content = sum(_part_cost(count, part) for part in said.parts)
        if said.begun:
            return _name_cost(count, said) + _begun_cost(count, said, content, thinks)
        cost = _MESSAGE[said.role] + content
        if said.role == "tool":
            return cost + _attribute(count, _called(said)) + count(str(said.index))
        return cost + _name_cost(count, said) + _thought_cost(count, said, thinks) + _calls_cost(count, said)

    def completion(self, count: Count, said: Said) -> int:
        """Tokens that the answer was billed with: all but its header, which is in the prompt."""
        return self.message(count, said) - _HEADER


def _attribute(count: Count, value: str) -> int:
    return count(value.replace("&", "&amp;").replace('"', "&quot;"))


def _name_cost(count: Count, said: Said) -> int:
    return _NAME + _attribute(count, said.name) if said.name else 0


def _called(result: Said) -> str:
    if result.called is None:
        raise InvalidRequestError(
            "cannot count a tool message alone that does not name its function: give it a `name`, or count it together"
            " with the message that calls"
        )
    return result.called


# ==== content ====


def _part_cost(count: Count, part: str | Size | None) -> int:
    if part is None:
        return UNKNOWN_COST
    if isinstance(part, str):
        return count(part)
    width, height = part
    return _PICTURE + count(f"image {width}x{height}") + picture_tokens(part, K3_PATCHES)


def _thought_cost(count: Count, said: Said, thinks: bool) -> int:
    """The channel of the reasoning, which an answer has even when there is none."""
    if said.role != "assistant" or not thinks:
        return 0
    return 2 * _CHANNEL + _reasoning_cost(count, said)


def _reasoning_cost(count: Count, said: Said) -> int:
    return count(said.reasoning) if said.reasoning.strip() else 0


def _begun_cost(count: Count, said: Said, content: int, thinks: bool) -> int:
    """What stays open: the reasoning if there is nothing else, the response otherwise."""
    if not thinks or not said.reasoning.strip():
        return _CHANNEL + content
    thought = _CHANNEL + count(said.reasoning)
    return thought + 2 * _CHANNEL + content if any(said.parts) else thought


# ==== calls ====


def _calls_cost(count: Count, said: Said) -> int:
    return _CALLS + sum(_call_cost(count, call, index) for index, call in enumerate(said.calls, 1)) if said.calls else 0


def _call_cost(count: Count, call: Call, index: int) -> int:
    return _CALL + _attribute(count, call.name) + count(str(index)) + _arguments_cost(count, call.arguments)


def _arguments_cost(count: Count, arguments: str) -> int:
    pairs = _pairs(arguments)
    if pairs is None:
        return _RAW_ARGUMENTS + count(arguments)
    return sum(_ARGUMENT + _attribute(count, key) + count(text) for key, text in pairs)


def _pairs(arguments: str) -> list[tuple[str, str]] | None:
    """Each argument with its text: strings as they are, the rest as JSON with spaces; `None` for what is no object."""
    try:
        parsed: Any = json.loads(arguments)
        if not isinstance(parsed, dict):
            return None
        items = cast("dict[str, Any]", parsed).items()
        return [
            (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) for key, value in items
        ]
    except (ValueError, RecursionError):
        return None

"""The prompt of Kimi K2 and its versions up to K2.7, in tokens.

A prompt is marks of one token each and the texts between them. Neighbouring texts are encoded together, so a message
is counted as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from ..errors import InvalidRequestError
from ..kimi.wire import Dialect
from .body import Request, Said, compact, spaced
from .pictures import K2_PATCHES, UNKNOWN_COST, Size, picture_tokens
from .typescript import Unsayable, namespace

__all__ = ["K2", "K2_5", "K2_7", "K2_INSTRUCT", "K2_THINKING", "MOONSHOT_V1"]

Count = Callable[[str], int]

_HEADER: Final = 3
_MARK: Final = 1
_GREETING: Final = 18
"""The system message that hosts of K2 put before a conversation that has none."""

_PLAIN: Final = Dialect()

Piece = str | int
"""A text, or a number of tokens that no text has."""


@dataclass(frozen=True, slots=True)
class K2:
    """How a version shows a request to the model.

    Args:
        name: of the version.
        thinks: answers have a place for reasoning, even if there is none.
        keeps: the reasoning of all messages is shown, not only that of the calls since the last plain answer.
        typescript: tools are told as TypeScript, where that is possible.
        pictures: it sees them.
        greeting: tokens of the system message that a conversation without one gets.
        dialect: how its messages are sent; ids of calls are in the prompt.
    """

    name: str
    thinks: bool = True
    keeps: bool = False
    typescript: bool = False
    pictures: bool = False
    greeting: int = 0
    dialect: Dialect = _PLAIN
    names_results: bool = False
    header: int = _HEADER

    @property
    def grows(self) -> bool:
        """Whether what was shown once is shown again: reasoning that is dropped later is not."""
        return self.keeps or not self.thinks

    def messages(self, count: Count, request: Request) -> int:
        """Tokens of all messages."""
        return sum(_tokens(count, self._pieces(said)) for said in self._with_reasoning(request))

    def overhead(self, count: Count, request: Request) -> int:
        """Tokens of everything but the messages: the tools, the greeting, and the header of the answer."""
        tools = _tokens(count, self._tools(request.tools)) if request.tools else 0
        greets = not (request.messages and request.messages[0].role == "system")
        return _HEADER + tools + (self.greeting if greets else 0)

    def message(self, count: Count, said: Said) -> int:
        """Tokens of a message as the newest one. The header of one that is begun is the header of the answer."""
        return _tokens(
            count, self._pieces(said if self.keeps or not _is_settled(said) else replace(said, reasoning=""))
        )

    def completion(self, count: Count, said: Said) -> int:
        """Tokens that the answer was billed with: all but its header, which is in the prompt."""
        return _tokens(count, self._pieces(said)) - _HEADER

    def _with_reasoning(self, request: Request) -> Iterator[Said]:
        """The messages, without the reasoning that the model is not shown."""
        settled = [number for number, said in enumerate(request.messages) if _is_settled(said)]
        first = 0 if self.keeps or request.keeps else max(settled, default=-1) + 1
        for number, said in enumerate(request.messages):
            yield said if request.thinks and number >= first else replace(said, reasoning="")

    # ---- what is encoded ----

    def _tools(self, tools: Any) -> Iterator[Piece]:
        yield from (_MARK, "tool_declare", _MARK, self._declared(tools), _MARK)

    def _declared(self, tools: Any) -> str:
        if not self.typescript:
            return spaced(tools, "tools")
        listed = compact(tools, "tools")
        try:
            return namespace(json.loads(listed))
        except Unsayable:
            return listed

    def _pieces(self, said: Said) -> Iterator[Piece]:
        if said.tools:
            raise InvalidRequestError(f"cannot count the request: {self.name} knows no tools in messages")
        if said.begun:
            yield from self._begun(said)
            return
        yield from (_MARK, said.name or said.role, _MARK)
        if said.role == "tool":
            yield f"## Return of {said.call_id}\n"
        if said.role == "assistant" and self.thinks:
            yield from (_MARK, said.reasoning, _MARK)
        yield from self._content(said)
        yield from _calls(said)
        yield _MARK

    def _begun(self, said: Said) -> Iterator[Piece]:
        """What stays open: the reasoning if there is nothing else, the content otherwise."""
        if said.name:
            yield from (0, said.name, -1)
        if self.thinks and said.reasoning:
            yield from (_MARK, said.reasoning)
            if any(said.parts):
                yield _MARK
        yield from self._content(said)

    def _content(self, said: Said) -> Iterator[Piece]:
        for part in said.parts:
            if isinstance(part, str):
                yield part
            else:
                yield from self._picture(part)

    def _picture(self, size: Size | None) -> Iterator[Piece]:
        if not self.pictures:
            raise InvalidRequestError(f"cannot count the request: {self.name} sees no pictures")
        if size is None:
            yield UNKNOWN_COST
        else:
            yield from (_MARK, "image", _MARK + picture_tokens(size, K2_PATCHES) + _MARK, "\n")


def _is_settled(said: Said) -> bool:
    return said.is_plain_answer and not said.begun


def _calls(said: Said) -> Iterator[Piece]:
    if said.calls:
        yield _MARK
        for call in said.calls:
            yield from (_MARK, call.id, _MARK, call.arguments, _MARK)
        yield _MARK


def _tokens(count: Count, pieces: Iterable[Piece]) -> int:
    """All tokens. A text ends where a number stands, even if it is 0."""
    total, texts = 0, list[str]()
    for piece in pieces:
        if isinstance(piece, str):
            texts.append(piece)
        else:
            total += piece + count("".join(texts))
            texts.clear()
    return total + count("".join(texts))


# ==== versions ====

K2_5: Final = K2("k2.5", typescript=True, pictures=True, dialect=Dialect(strict=True))
"""Kimi K2.5 and K2.6."""
K2_7: Final = replace(K2_5, name="k2.7", keeps=True)
K2_INSTRUCT: Final = K2("k2", thinks=False, greeting=_GREETING)
K2_THINKING: Final = K2("k2-thinking", greeting=_GREETING)
MOONSHOT_V1: Final = K2("moonshot-v1", thinks=False)

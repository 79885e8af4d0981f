"""Who counts the tokens of a prompt: exactly where Kimi's rank file is there, else by an estimate.

A message keeps what it costs in its `__dict__`, under a key of the counter, so that it is counted once.
"""

from __future__ import annotations

import asyncio
import functools
import json
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from loguru import logger

from ..errors import InvalidRequestError, RanksError
from ..kimi.wire import tool_json
from ..message import Message, once_per_value
from ..tools.base import Tool
from . import tokens
from .ranks import PATH_NAME, ranks_path

if TYPE_CHECKING:
    from .exact import KimiTokenCounter

__all__ = ["ESTIMATE", "ExactCounter", "TokenCounter", "cost", "counter_for", "counter_in_time"]


class TokenCounter:
    """Counts what a prompt costs. This one estimates: prose, code, JSON and logs come out within some 10 %.

    Args:
        message_cost: tokens of a message in a prompt, kept with the message (`once_per_value`).
    """

    is_exact = False
    """Whether its numbers are those that the server will report."""
    header = 7
    """Tokens that begin an answer, which the server counts with the prompt and not with the answer."""
    grows = True
    """Whether a prompt goes on as the last one and its answer ended."""

    def __init__(self, message_cost: Callable[[Message], int] = tokens.message_cost) -> None:
        self.message_cost = message_cost
        self.cost_key: str = message_cost.key  # pyright: ignore[reportFunctionMemberAccess]
        """Under which key of its `__dict__` a counted message keeps its cost."""

    def overhead(self, tools: Sequence[Tool], request: Mapping[str, Any], *, declares: bool = False) -> int:
        """Tokens of a prompt beside its messages.

        Args:
            tools: what the model may call.
            request: what else the request asks for, as in `GenerationKwargs`.
            declares: whether its messages declare more tools.
        """
        return tokens.REQUEST_COST + tokens.tools_cost(tools)


def cost(counter: TokenCounter, messages: Iterable[Message]) -> int:
    """Tokens of some messages."""
    key, count = counter.cost_key, counter.message_cost
    return sum([message.__dict__.get(key) or count(message) for message in messages])


ESTIMATE: Final = TokenCounter()

_COUNTED: Final = ("tool_choice", "response_format", "reasoning_effort", "thinking")
"""What of a request is in the prompt, beside messages and tools."""


class ExactCounter(TokenCounter):
    """Counts as Kimi does. What cannot be counted is estimated: parts that nobody knows, what a built-in search found.

    Args:
        counter: for the model that is asked.
    """

    is_exact = True

    def __init__(self, counter: KimiTokenCounter) -> None:
        def cost_of(message: Message) -> int:
            try:
                return counter.count_message(message) + tokens.found_cost(message)
            except InvalidRequestError:
                return tokens.message_cost(message)

        cost_of.__qualname__ = f"cost_of({counter.cost_key})"
        super().__init__(once_per_value(cost_of))
        self.header, self.grows = counter.header, counter.grows
        self._counter = counter
        self._overheads: tuple[Sequence[Tool], Mapping[str, Any], int] = ((), {}, -1)

    def overhead(self, tools: Sequence[Tool], request: Mapping[str, Any], *, declares: bool = False) -> int:
        """Tokens of a prompt beside its messages."""
        asked = {name: request[name] for name in _COUNTED if request.get(name) is not None}
        if not (tools or declares):
            asked.pop("tool_choice", None)  # which is not sent then
        known_tools, known_request, known = self._overheads
        if known < 0 or known_request != asked or not _are_same(known_tools, tools):
            known = self._count_overhead(tools, asked)
            self._overheads = tuple(tools), asked, known
        return known

    def _count_overhead(self, tools: Sequence[Tool], asked: Mapping[str, Any]) -> int:
        body: dict[str, Any] = dict(asked)
        if tools:
            body["tools"] = [json.loads(tool_json(tool)) for tool in tools]
        try:
            return self._counter.count_overhead(body)
        except InvalidRequestError as error:
            logger.debug("the request is estimated: {}", error)
            return super().overhead(tools, asked)


def _are_same(some: Sequence[Tool], others: Sequence[Tool]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


@functools.lru_cache(maxsize=16)
def _exact(model: str, path: str) -> ExactCounter:
    from .exact import KimiTokenCounter  # not before there is a rank file

    return ExactCounter(KimiTokenCounter.from_file(path, model))


def _is_countable(model: str) -> bool:
    """Whether it is known how a model shows a request."""
    from .exact import rendering_of

    return rendering_of(model) is not None


async def counter_in_time(model: str) -> TokenCounter:
    """`counter_for`, in a thread the first time that somebody asks."""
    where = model, os.environ.get(PATH_NAME)
    counter = _known.get(where)
    if counter is None or (counter is ESTIMATE and _ranks_are_there() and _is_countable(model)):
        counter = _known[where] = await asyncio.to_thread(counter_for, model)
    return counter


_known: Final[dict[tuple[str, str | None], TokenCounter]] = {}


def _ranks_are_there() -> bool:
    try:
        return ranks_path().is_file()
    except (OSError, RuntimeError, ValueError):  # a home that nobody has, a name that no file can have
        return False


def counter_for(model: str) -> TokenCounter:
    """The best counter that there is for a model. The first exact one reads the rank file, which takes 0.3 s."""
    if not _ranks_are_there():
        if (named := os.environ.get(PATH_NAME)) and _is_countable(model):
            logger.warning("tokens are estimated: {} names {:.200}, and no file is there", PATH_NAME, named)
        return ESTIMATE
    if not _is_countable(model):
        return ESTIMATE
    try:
        return _exact(model, str(ranks_path()))
    except RanksError as error:
        logger.warning("tokens are estimated: {}", error)
        return TokenCounter()

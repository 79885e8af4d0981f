"""What a request of an agent costs: whether it may be spent, what was spent, and what makes the next one cost less.

What a fork spends, the agent that it was forked from has spent too, and so on up the line. Each answer counts in the
whole line at once, and each request has to be within the limits of all. Requests of several forks may be under way at
the same time: until they are answered, the least that they can cost counts as spent.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final, Protocol, TypeVar

from loguru import logger

from .errors import ChatProviderError, PromptError, StreamInterruptedError, UsageLimitExceeded
from .events import Handlers, RequestRetried, RequestSent, TokenCountDrifted
from .generate import GenerateResult
from .hooks import given
from .latecomers import at_top, declarations
from .limits import Spent, UsageLimits, as_spent, nothing_spent, prices_of
from .message import Message, TokenUsage
from .prompt.compaction import Compaction, CompactionTask
from .prompt.counting import cost, counter_in_time
from .prompt.tokens import quickly_counted
from .prompt.window import Window
from .provider import ChatProvider, names_in
from .tools.base import ToolLike

__all__ = [
    "Payer",
    "Pending",
    "Spender",
    "ask_again",
    "asked",
    "check",
    "check_calls",
    "compact",
    "compact_when_due",
    "defaults",
    "learn",
    "pay",
    "pay_for_broken",
    "pay_for_calls",
]


T = TypeVar("T")


class Payer(Protocol):
    """One of a line of agents, of which each pays for those that were forked from it."""

    usage: Spent
    limits: UsageLimits
    _parent: Any


P = TypeVar("P", bound=Payer)


class Spender(Payer, Protocol):
    """What spending needs of an agent."""

    provider: ChatProvider
    always_included_messages: list[Message]
    chat_history: list[Message]
    compaction: Compaction
    desired_response_tokens: int
    prompt_cache_key: str
    _pending: Pending
    _window: Window
    _handlers: Handlers

    async def get_enabled_functions(self) -> Sequence[ToolLike]:
        """The functions that the model is told of."""
        ...

    async def _keep_up(self, reason: str) -> None:
        """The history was changed as a whole: the session has to hear of it."""
        ...


def asked(agent: Spender, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What a request asks for, by the provider and by the round."""
    return {**getattr(agent.provider, "generation_kwargs", {}), **overrides}


def defaults(agent: Spender, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What a request of this agent asks for, unless the round or the provider says otherwise."""
    said = names_in(getattr(agent.provider, "generation_kwargs", {}), overrides)
    limit = agent._window.answer_limit(agent.provider.context_window, agent.desired_response_tokens)
    limit = None if "max_tokens" in said else limit
    wanted = {"prompt_cache_key": agent.prompt_cache_key, "max_completion_tokens": limit}
    return {name: value for name, value in wanted.items() if value is not None and name not in said}


# ==== the line ====


class Pending:
    """Requests that are under way, an agent's own and those of its forks: what each costs at least.

    The request of a turn has the `Pending` of its agent as its key: an agent has one turn at a time.
    """

    __slots__ = ("_least",)

    def __init__(self) -> None:
        self._least: dict[object, Spent] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._least

    def put(self, key: object, least: Spent) -> None:
        """A request is under way, or more is known of it."""
        self._least[key] = least

    def remove(self, key: object) -> None:
        """A request has ended. Twice is once."""
        self._least.pop(key, None)

    def beside(self, keys: Collection[object]) -> Spent:
        """What all others cost at least, together."""
        return sum((least for key, least in self._least.items() if key not in keys), nothing_spent())


def _line(agent: P) -> Iterator[P]:
    """The agent, the one that it was forked from, and so on."""
    each: P | None = agent
    while each is not None:
        yield each
        each = each._parent


_counting: Final = threading.Lock()
"""Forks may run in the event loops of other threads. Held for a few additions, and never across a wait."""


def _count(agent: Spender, usage: TokenUsage | None, key: object) -> None:
    """A request was answered; `None` costs nobody knows what."""
    prices = None if usage is None else prices_of(agent.provider)
    with _counting:
        for each in _line(agent):
            each._pending.remove(key)
            each.usage = as_spent(each.usage).with_answer(usage, prices)


def _begin(agent: Spender, key: object, prompt_tokens: int, *, cached: int = 0, goes_on: bool = True) -> None:
    """Make sure that a request is within the limits of the whole line; it is under way from now on.

    Args:
        agent: who asks.
        key: of the request.
        prompt_tokens: of the prompt.
        cached: how many of these are likely to come out of the cache.
        goes_on: whether somebody will say that it has ended.

    Raises:
        UsageLimitExceeded: it is not.
    """
    prices, mine = prices_of(agent.provider), (key, agent._pending)
    with _counting:
        for each in _line(agent):
            spent = as_spent(each.usage) + each._pending.beside(mine)
            before = partial(each.limits.before_request, spent, prompt_tokens, cached=cached, prices=prices)
            _refuse(agent, each, before)
        seen = min(cached, prompt_tokens)
        least = TokenUsage(input_other=prompt_tokens - seen, input_cache_read=seen, output=1)
        for each in _line(agent) if goes_on else ():
            each._pending.put(key, nothing_spent().with_answer(least, prices))


def _refuse(agent: Payer, each: Payer, check: Callable[[], None]) -> None:
    """Check a limit of an agent of the line, and say whose it is if it is reached."""
    try:
        check()
    except UsageLimitExceeded as error:
        if each is agent:
            raise
        raise UsageLimitExceeded(f"for an agent and all its forks, {error}", error.message) from None


def _forget(agent: Spender, key: object) -> None:
    for each in _line(agent):
        each._pending.remove(key)


def _stop(agent: Spender, key: object) -> None:
    """A request was stopped under way."""
    with _counting:
        for each in _line(agent):
            each._pending.remove(key)
            each.usage = as_spent(each.usage).with_stopped()


def check(agent: Spender, prompt_tokens: int) -> None:
    """Make sure that a request is within the limits: those of the agent, and of the agents that it was forked from.

    Args:
        agent: who asks.
        prompt_tokens: of the prompt; 0 when a turn of the model begins, and nobody knows it yet.

    Raises:
        UsageLimitExceeded: it is not; nothing was spent.
    """
    turn = agent._pending
    in_turn = not prompt_tokens or turn in turn  # else nobody will say that the request has ended
    _begin(agent, turn, prompt_tokens, cached=agent._window.cached, goes_on=in_turn)


def check_calls(agent: Payer, number: int, message: Message) -> None:
    """Make sure that so many more calls are within the limits of the agent, and of the agents it was forked from.

    Args:
        agent: whose functions are called.
        number: of calls.
        message: that calls; the error has it.

    Raises:
        UsageLimitExceeded: they are not. None of them has been run.
    """
    for each in _line(agent):
        _refuse(agent, each, partial(each.limits.before_calls, as_spent(each.usage), number, message))


def pay_for_calls(agent: Payer, number: int = 1) -> None:
    """Count calls that are run."""
    with _counting:
        for each in _line(agent):
            each.usage = as_spent(each.usage).with_calls(number)


def pay(agent: Spender, result: GenerateResult) -> None:
    """Count what an answer has cost."""
    _count(agent, result.usage, agent._pending)


def pay_for_broken(agent: Spender, error: BaseException) -> None:
    """Count an answer that broke off or was stopped, which costs nobody knows what. An error costs nothing."""
    if isinstance(error, StreamInterruptedError) and _COUNTED not in error.__dict__:
        error.__dict__[_COUNTED] = True  # it may pass through a turn of an agent of the line
        _count(agent, None, agent._pending)
    elif agent._window.expected and agent._pending in agent._pending and not isinstance(error, Exception):
        _stop(agent, agent._pending)
    else:
        _forget(agent, agent._pending)


_COUNTED: Final = "_counted"


async def ask_again(agent: Spender, ask: Callable[[Sequence[Message]], Awaitable[T]], messages: Sequence[Message]) -> T:
    """Ask for the rest of an answer that broke off.

    Raises:
        UsageLimitExceeded: it is beyond the limits.
        ChatProviderError: the model could not be asked.
    """
    _count(agent, None, None)
    check(agent, agent._window.tokens)
    return await ask(messages)


def learn(agent: Spender, result: GenerateResult) -> TokenCountDrifted | None:
    """Learn from what the server counted for the prompt; what there is to tell if it was not what was expected."""
    if result.usage is None:
        return None
    expected = agent._window.tokens
    drift = agent._window.learn(result.usage, result.message, cut_off=result.is_cut_off)
    return TokenCountDrifted(expected, result.usage.input) if abs(drift) > _TOLERANCE else None


_TOLERANCE: Final = 3  # tokens that a host may add of its own


# ==== compaction ====

_NO_ROOM: Final = "the pinned messages and the functions leave no room to compact the history into"


async def compact_when_due(agent: Spender, request: Mapping[str, Any]) -> None:
    """Make the history shorter if the next prompt would fill too much of the window.

    Where that fails, the window leaves out what is too much, once.

    Args:
        agent: whose history.
        request: what the next one asks for.

    Raises:
        PromptError: the second time in a row that the history did not become shorter.
        ChatProviderError: the second time in a row that a request for a summary failed.
        UsageLimitExceeded: a request for a summary is beyond the limits.
    """
    if not agent.compaction.compactors:
        return
    try:
        await _compact_if_due(agent, request)
    except BaseException:
        _forget(agent, agent._pending)  # there will be no request
        raise


async def _compact_if_due(agent: Spender, request: Mapping[str, Any]) -> None:
    fixed = await _fixed_tokens(agent, request)
    window = agent.provider.context_window
    reserved = min(agent.desired_response_tokens, window // 2)
    if not agent.compaction.is_due(fixed + await _in_time(agent, agent.chat_history), window, reserved):
        return
    if not agent.compaction.budget(window, fixed):
        logger.warning(f"{_NO_ROOM}; the window leaves out what does not fit")
        return
    try:
        await _run(agent, fixed)
    except (ChatProviderError, PromptError) as error:
        if agent.compaction.gives_up:
            raise
        logger.warning("the history could not be compacted, and is as it was: {}", error)


async def compact(agent: Spender) -> bool:
    """Make the history shorter now; whether that was possible.

    Raises:
        PromptError: the agent has no compactors, or they could not do it.
        ChatProviderError: a request for a summary failed, and the history does not fit.
        UsageLimitExceeded: a request for a summary is beyond the limits.
    """
    if not agent.compaction.compactors:
        raise PromptError("the agent has nothing that compacts its history; give it one: Agent(..., compaction=...)")
    fixed = await _fixed_tokens(agent, {})
    if not agent.compaction.budget(agent.provider.context_window, fixed):
        raise PromptError(f"{_NO_ROOM}; pin less")
    return await _run(agent, fixed)


async def _run(agent: Spender, fixed: int) -> bool:
    listens = RequestSent in agent._handlers or RequestRetried in agent._handlers
    requests = _Requests(agent)
    task = CompactionTask(
        provider=agent.provider,
        budget=agent.compaction.budget(agent.provider.context_window, fixed),
        cost=partial(_tokens, agent),
        cost_key=agent._window.counter.cost_key,
        overrides={"prompt_cache_key": agent.prompt_cache_key},
        on_event=agent._handlers.emit if listens else None,
        before_request=requests.begin,
        on_answer=requests.end,
    )
    try:
        result = await agent.compaction.run(tuple(agent.chat_history), task)
    except asyncio.CancelledError:
        requests.end_all(_stop)
        raise
    finally:
        requests.end_all(_forget)
    changed = bool(result.by) and result.put_into(agent.chat_history)
    if changed:
        await agent._keep_up("compaction")
        await agent._handlers.emit(result.event)
    return changed


class _Requests:
    """The requests of one compaction, of which several may be under way."""

    def __init__(self, agent: Spender) -> None:
        self._agent = agent
        self._open: list[object] = []

    def begin(self, prompt_tokens: int) -> None:
        """One more is about to be made.

        Raises:
            UsageLimitExceeded: it is beyond the limits.
        """
        _begin(self._agent, key := object(), prompt_tokens)
        self._open.append(key)

    def end(self, result: GenerateResult) -> None:
        """One was answered."""
        _count(self._agent, result.usage, self._open.pop(0) if self._open else None)

    def end_all(self, end: Callable[[Spender, object], None]) -> None:
        """No other will be answered."""
        for key in self._open:
            end(self._agent, key)
        self._open.clear()


async def _fixed_tokens(agent: Spender, request: Mapping[str, Any]) -> int:
    """Tokens of a prompt beside the history."""
    window = agent._window
    window.use(await counter_in_time(agent.provider.model_name))
    functions: Sequence[ToolLike] = ()
    if request.get("include_functions", True):
        functions = await given(agent, "get_enabled_functions", agent.get_enabled_functions(), Sequence)
    declaring = declarations(chain(agent.always_included_messages, agent.chat_history))
    overhead = window.counter.overhead(at_top(functions, declaring), asked(agent, request), declares=bool(declaring))
    instructions = [request["format"].message] if request.get("format") else []
    return round(overhead * window.scale) + await _in_time(agent, [*agent.always_included_messages, *instructions])


async def _in_time(agent: Spender, messages: Sequence[Message]) -> int:
    """`_tokens`, in a thread when long texts have to be counted first."""
    if quickly_counted(messages, agent._window.counter.cost_key):
        return _tokens(agent, messages)
    return await asyncio.to_thread(_tokens, agent, messages)


def _tokens(agent: Spender, messages: Sequence[Message]) -> int:
    return round(cost(agent._window.counter, messages) * agent._window.scale)

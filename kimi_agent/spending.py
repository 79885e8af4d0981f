"""What a request of an agent costs: whether it may be spent, what was spent, and what makes the next one cost less."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from loguru import logger

from .errors import ChatProviderError, PromptError, StreamInterruptedError
from .events import Handlers, RequestRetried, RequestSent, TokenCountDrifted
from .generate import GenerateResult
from .limits import Spent, UsageLimits, as_spent, cost_of, prices_of
from .message import Message
from .prompt.compaction import Compaction, CompactionTask
from .prompt.counting import cost, counter_in_time
from .prompt.tokens import quickly_counted
from .prompt.window import Window
from .provider import ChatProvider, names_in
from .tools.base import ToolLike

__all__ = [
    "Spender",
    "ask_again",
    "asked",
    "check",
    "compact",
    "compact_when_due",
    "defaults",
    "learn",
    "pay",
    "pay_for_broken",
]


T = TypeVar("T")


class Spender(Protocol):
    """What spending needs of an agent."""

    provider: ChatProvider
    always_included_messages: list[Message]
    chat_history: list[Message]
    usage: Spent
    limits: UsageLimits
    compaction: Compaction
    desired_response_tokens: int
    prompt_cache_key: str
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


def check(agent: Spender, prompt_tokens: int) -> None:
    """Make sure that a request is within the limits.

    Args:
        agent: whose limits.
        prompt_tokens: of the prompt.

    Raises:
        UsageLimitExceeded: it is not; nothing was spent.
    """
    agent.limits.before_request(
        as_spent(agent.usage), prompt_tokens, cached=agent._window.cached, prices=prices_of(agent.provider)
    )


def pay(agent: Spender, result: GenerateResult) -> None:
    """Count what an answer has cost."""
    agent.usage = as_spent(agent.usage).with_answer(result.usage, prices_of(agent.provider))


def pay_for_broken(agent: Spender, error: BaseException) -> None:
    """Count an answer that broke off, which costs nobody knows what."""
    if isinstance(error, StreamInterruptedError):
        agent.usage = as_spent(agent.usage).with_answer(None, None)


async def ask_again(agent: Spender, ask: Callable[[Sequence[Message]], Awaitable[T]], messages: Sequence[Message]) -> T:
    """Ask for the rest of an answer that broke off.

    Raises:
        UsageLimitExceeded: it is beyond the limits.
        ChatProviderError: the model could not be asked.
    """
    agent.usage = as_spent(agent.usage).with_answer(None, None)
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
    result = await agent.compaction.run(tuple(agent.chat_history), task)
    changed = bool(result.by) and result.put_into(agent.chat_history)
    if changed:
        await agent._keep_up("compaction")
        await agent._handlers.emit(result.event)
    return changed


class _Requests:
    """The requests of one compaction, of which several may be under way: what they may cost is taken as spent."""

    def __init__(self, agent: Spender) -> None:
        self._agent = agent
        self._open: list[int] = []

    def begin(self, prompt_tokens: int) -> None:
        """One more is about to be made.

        Raises:
            UsageLimitExceeded: it is beyond the limits.
        """
        agent, number = self._agent, len(self._open)
        reserved = Spent(input_other=sum(self._open), output=number, requests=number)
        prices = prices_of(agent.provider)
        spent = as_spent(agent.usage) + reserved.copy_with(cost=cost_of(reserved, prices) if number else 0.0)
        agent.limits.before_request(spent, prompt_tokens, prices=prices)
        self._open.append(prompt_tokens)

    def end(self, result: GenerateResult) -> None:
        """One was answered."""
        del self._open[:1]
        pay(self._agent, result)


async def _fixed_tokens(agent: Spender, request: Mapping[str, Any]) -> int:
    """Tokens of a prompt beside the history."""
    window = agent._window
    window.use(await counter_in_time(agent.provider.model_name))
    functions = await agent.get_enabled_functions() if request.get("include_functions", True) else ()
    overhead = window.counter.overhead([function.base for function in functions], asked(agent, request))
    instructions = [request["format"].message] if request.get("format") else []
    return round(overhead * window.scale) + await _in_time(agent, [*agent.always_included_messages, *instructions])


async def _in_time(agent: Spender, messages: Sequence[Message]) -> int:
    """`_tokens`, in a thread when long texts have to be counted first."""
    if quickly_counted(messages, agent._window.counter.cost_key):
        return _tokens(agent, messages)
    return await asyncio.to_thread(_tokens, agent, messages)


def _tokens(agent: Spender, messages: Sequence[Message]) -> int:
    return round(cost(agent._window.counter, messages) * agent._window.scale)

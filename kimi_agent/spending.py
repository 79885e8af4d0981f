"""What a request of an agent costs: whether it may be spent, what was spent, and what makes the next one cost less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

from loguru import logger

from .errors import ChatProviderError, PromptError
from .events import Handlers, TokenCountDrifted
from .generate import GenerateResult
from .limits import Spent, UsageLimits, prices_of
from .message import Message
from .prompt.compaction import Compaction, CompactionTask
from .prompt.counting import cost, counter_in_time
from .prompt.window import Window
from .provider import ChatProvider, names_in
from .tools.base import ToolLike

__all__ = ["Spender", "asked", "check", "compact", "compact_when_due", "defaults", "learn", "pay"]


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
    agent.limits.before_request(agent.usage, prompt_tokens, prices=prices_of(agent.provider))


def pay(agent: Spender, result: GenerateResult) -> None:
    """Count what an answer has cost."""
    agent.usage = agent.usage.with_answer(result.usage, prices_of(agent.provider))


async def learn(agent: Spender, result: GenerateResult) -> None:
    """Learn from what the server counted for the prompt, and tell if it was something else than expected."""
    if result.usage is None:
        return
    expected = agent._window.tokens
    drift = agent._window.learn(result.usage, result.message, cut_off=result.is_cut_off)
    if abs(drift) > _TOLERANCE:
        await agent._handlers.emit(TokenCountDrifted(expected, result.usage.input))


_TOLERANCE: Final = 3  # tokens that a host may add of its own


async def compact_when_due(agent: Spender, *, include_functions: bool) -> None:
    """Make the history shorter if the next prompt would fill too much of the window.

    Where that fails, the window leaves out what is too much, once.

    Raises:
        PromptError: the second time in a row that the history did not become shorter.
        ChatProviderError: the second time in a row that a request for a summary failed.
        UsageLimitExceeded: a request for a summary is beyond the limits.
    """
    if not agent.compaction.compactors:
        return
    agent._window.counter = await counter_in_time(agent.provider.model_name)
    fixed = await _fixed_tokens(agent, include_functions)
    tokens = fixed + _tokens(agent, agent.chat_history)
    if agent.compaction.is_due(tokens, agent.provider.context_window):
        try:
            await _run(agent, fixed)
        except ChatProviderError as error:
            if agent.compaction.gives_up():
                raise
            logger.warning("the history could not be compacted, and is as it was: {}", error)


async def compact(agent: Spender) -> bool:
    """Make the history shorter now; whether that was possible.

    Raises:
        PromptError: the agent has no compactors, or the second time in a row that the history did not become shorter.
        ChatProviderError: a request for a summary failed, and the history does not fit.
        UsageLimitExceeded: a request for a summary is beyond the limits.
    """
    if not agent.compaction.compactors:
        raise PromptError("the agent has nothing that compacts its history; give it one: Agent(..., compaction=...)")
    return await _run(agent, await _fixed_tokens(agent, True))


async def _run(agent: Spender, fixed: int) -> bool:
    task = CompactionTask(
        provider=agent.provider,
        budget=agent.compaction.budget(agent.provider.context_window, fixed),
        cost=partial(_tokens, agent),
        pinned=tuple(agent.always_included_messages),
        before_request=partial(check, agent),
        on_answer=partial(pay, agent),
    )
    result = await agent.compaction.run(tuple(agent.chat_history), task)
    changed = bool(result.by) and result.put_into(agent.chat_history)
    if changed:
        await agent._handlers.emit(result.event)
    return changed


async def _fixed_tokens(agent: Spender, include_functions: bool) -> int:
    """Tokens of a prompt beside the history."""
    functions = await agent.get_enabled_functions() if include_functions else ()
    window = agent._window
    overhead = window.counter.overhead([function.base for function in functions], {})
    return round((overhead + cost(window.counter, agent.always_included_messages)) * window.scale)


def _tokens(agent: Spender, messages: Sequence[Message]) -> int:
    return round(cost(agent._window.counter, messages) * agent._window.scale)

"""Asking a model for one answer: the prompt, the request, and what becomes of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, cast

from . import history, spending
from .events import RequestRetried, RequestSent, StreamCompleted, StreamStarted
from .generate import GenerateResult, collect
from .limits import as_spent
from .message import Message
from .prompt.counting import counter_in_time
from .prompt.window import Fit, assemble, fit_in_time
from .provider import Format, GenerationKwargs, StreamedMessage
from .resume import ResumedMessage
from .spending import Spender
from .stream import Recording, on_batch, tell_of_failure
from .tools.base import ToolLike
from .tools.texts import ToolTexts
from .turns import Turn

__all__ = ["Asker", "model_turn", "open_stream", "prompt", "stream_turn"]


class Asker(Spender, Protocol):
    """What asking needs of an agent."""

    texts: ToolTexts
    resume_interrupted: bool
    trim_ratio: float
    _kept: Fit | None

    async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
        """The hook that gives the messages of a request."""
        ...

    async def get_model_stream(self, include_functions: bool = True, **overrides: Any) -> StreamedMessage:
        """The hook that asks for a stream."""
        ...

    async def get_model_completion(self, include_functions: bool = True, **overrides: Any) -> GenerateResult:
        """The hook that asks for a whole answer."""
        ...

    async def add_completion_to_history(self, completion: GenerateResult) -> Message:
        """The hook through which every answer goes."""
        ...

    async def _settle(self) -> None:
        """Whatever is in the history has to last before it is handed out."""
        ...


# ==== the prompt ====


async def prompt(agent: Asker, include_functions: bool, overrides: Mapping[str, Any]) -> list[Message]:
    """The messages that fit the window, and what the answer is to look like. It changes nothing.

    Raises:
        PromptTooLong: what is always included does not fit.
        MessageTooLong: the newest user message and the newest exchange do not fit.
    """
    wanted = _instructions(overrides)
    tools = await _tools(agent, include_functions)
    counter = agent._window.use(await counter_in_time(agent.provider.model_name))
    agent._kept = await fit_in_time(
        [*agent.always_included_messages, *wanted],
        agent.chat_history,
        fixed=counter.overhead([tool.base for tool in tools], spending.asked(agent, overrides)),
        budget=(window := agent.provider.context_window) - min(agent.desired_response_tokens, window // 2),
        trim_ratio=agent.trim_ratio,
        cut=agent._window.start_in(agent.chat_history),
        scale=agent._window.scale,
        counter=counter,
    )
    return _instructed(assemble(agent.always_included_messages, agent.chat_history, agent._kept), wanted)


async def _tools(agent: Asker, include_functions: bool) -> Sequence[ToolLike]:
    return await agent.get_enabled_functions() if include_functions else ()


def _instructions(overrides: Mapping[str, Any]) -> list[Message]:
    """What says how the answer is to look, if anything does."""
    wanted: Format | None = overrides.get("format")
    return [] if wanted is None else [wanted.message]


def _instructed(messages: list[Message], wanted: list[Message]) -> list[Message]:
    """The messages with the instructions behind them, once; what the model is to go on writing stays the last."""
    if wanted and not any(message.role == wanted[0].role and message == wanted[0] for message in messages):
        place = len(messages) - (1 if messages and history.is_begun(messages[-1]) else 0)
        messages = [*messages[:place], *wanted, *messages[place:]]
    return messages


# ==== the request ====


async def open_stream(agent: Asker, include_functions: bool, overrides: Mapping[str, Any]) -> StreamedMessage:
    """Ask with the current prompt.

    Whoever overrides `get_prompt` need not know of formats: what the answer is to look like is added here, too.

    Raises:
        ChatProviderError: the model could not be asked.
        PromptError: there is no prompt that fits.
        UsageLimitExceeded: the request is beyond the limits.
    """
    agent._kept = None
    messages = _instructed(await agent.get_prompt(include_functions, **overrides), _instructions(overrides))
    tools = [function.base for function in await _tools(agent, include_functions)]
    if agent._kept is not None:  # else somebody else decides what is kept
        agent._window.move_to(agent.chat_history, agent._kept.start)
    sendable = history.repair(messages, interrupted=agent.texts.interrupted())
    counter = agent._window.use(await counter_in_time(agent.provider.model_name))
    agent._window.expect(sendable, counter.overhead(tools, spending.asked(agent, overrides)))
    spending.check(agent, agent._window.tokens)
    listens = RequestSent in agent._handlers or RequestRetried in agent._handlers
    ask = partial(
        agent.provider.generate,
        "",
        tools,
        generation_overrides=_generation(agent, overrides),
        on_event=agent._handlers.emit if listens else None,
    )
    stream = await ask(sendable)
    if not agent.resume_interrupted:
        return stream
    return ResumedMessage(stream, sendable, partial(spending.ask_again, agent, ask), agent._window.expect_nothing)


def _generation(agent: Asker, overrides: Mapping[str, Any]) -> GenerationKwargs:
    """What the provider is asked for beside messages and tools."""
    asked = {**spending.defaults(agent, overrides), **overrides}
    asked.pop("format", None)
    return cast(GenerationKwargs, asked)


# ==== the answer ====


async def model_turn(agent: Asker, request: Mapping[str, Any], recording: Recording | None = None) -> GenerateResult:
    """One answer of the model, committed.

    Args:
        agent: who asks.
        request: the arguments of the hooks that ask.
        recording: takes the frames as they come, if somebody reads them.
    """
    spending.check(agent, 0)  # whoever overrides how the model is asked does not get past the limits
    await spending.compact_when_due(agent, request)
    agent._window.expect_nothing()  # whoever overrides how the model is asked may count nothing
    try:
        await agent._handlers.emit(StreamStarted(agent.provider.model_name))
        result = await _answer(agent, request, recording)
        spending.pay(agent, result)
        result = replace(result, message=await agent.add_completion_to_history(result))
        await agent._settle()
        drift = spending.learn(agent, result)
    except BaseException as error:
        spending.pay_for_broken(agent, error)
        await tell_of_failure(agent._handlers, error, recording)
        raise
    await agent._handlers.emit(StreamCompleted(result.message, result.usage, result.finish_reason))
    if drift is not None:
        await agent._handlers.emit(drift)
    agent.limits.after_answer(as_spent(agent.usage), result.message)
    return result


async def stream_turn(agent: Asker, turn: Turn, request: Mapping[str, Any], recording: Recording) -> GenerateResult:
    """`model_turn` in a task of its own: that of the stream's reader, which is inside of the turn like all else."""
    with turn.inside():
        return await model_turn(agent, request, recording)


async def _answer(agent: Asker, request: Mapping[str, Any], recording: Recording | None) -> GenerateResult:
    if recording is None:
        return await agent.get_model_completion(**request)
    return await collect(await agent.get_model_stream(**request), on_batch(agent._handlers, recording))

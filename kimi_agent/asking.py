"""Asking a model for one answer: the prompt, the request, and what becomes of the answer."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import Any, Protocol, cast

from . import history, spending
from .events import RequestRetried, RequestSent, StreamCompleted, StreamStarted
from .generate import GenerateResult, collect
from .hooks import added, given
from .latecomers import as_sent, at_top, declaration, declarations, latecomers, undeclared
from .limits import as_spent
from .measured import Stopwatch
from .message import Message
from .prompt.counting import counter_in_time
from .prompt.window import Fit, assemble, fit_in_time
from .provider import Format, GenerationKwargs, StreamedMessage
from .resume import ResumedMessage
from .session.keeping import Keeper
from .spending import Spender
from .stream import Recording, on_batch, tell_of_failure, tells_of_failures
from .tools.base import Tool, ToolLike
from .tools.texts import ToolTexts
from .turns import Turn

__all__ = ["Asker", "model_turn", "open_stream", "prompt", "stream_turn", "whole_answer"]


class Asker(Spender, Protocol):
    """What asking needs of an agent."""

    texts: ToolTexts
    resume_interrupted: bool
    trim_ratio: float
    _kept: Fit | None
    _recording: Recording | None
    _keeper: Keeper
    _stopwatch: Stopwatch

    async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
        """The hook that gives the messages of a request."""
        ...

    async def get_model_stream(self, include_functions: bool = True, **overrides: Any) -> StreamedMessage:
        """The hook that asks for a stream."""
        ...

    async def get_model_completion(self, include_functions: bool = True, **overrides: Any) -> GenerateResult:
        """The hook that asks for a whole answer."""
        ...

    async def add_to_history(self, message: Message) -> None:
        """The hook through which every message goes."""
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
    offered = await _offered(agent, include_functions)
    agent._window.use(await counter_in_time(agent.provider.model_name))
    late = _latecomers(agent, offered)
    said = [*agent.chat_history, declaration(late)] if late else agent.chat_history
    agent._kept = await _fitted(agent, offered, said, wanted, spending.asked(agent, overrides))
    messages = assemble(agent.always_included_messages, said, agent._kept)
    return _instructed(as_sent(agent.provider, offered, messages), wanted)


async def _fitted(
    agent: Asker, offered: Sequence[ToolLike], said: Sequence[Message], wanted: list[Message], asked: Mapping[str, Any]
) -> Fit:
    """What of the conversation is kept. What a declaration that is cut off declared has to fit into the list."""
    counter, cut = agent._window.counter, agent._window.start_in(agent.chat_history)
    pinned = [*agent.always_included_messages, *wanted]
    while True:
        sent = as_sent(agent.provider, offered, declarations(chain(pinned, islice(said, cut, None))))
        kept = await fit_in_time(
            pinned,
            said,
            fixed=counter.overhead(at_top(offered, sent), asked, declares=bool(sent)),
            budget=(window := agent.provider.context_window) - min(agent.desired_response_tokens, window // 2),
            trim_ratio=agent.trim_ratio,
            cut=cut,
            scale=agent._window.scale,
            counter=counter,
        )
        if not declarations(said[cut : kept.start]):
            return kept
        cut = kept.start


async def _offered(agent: Asker, include_functions: bool) -> Sequence[ToolLike]:
    if not include_functions:
        return ()
    return await given(agent, "get_enabled_functions", agent.get_enabled_functions(), Sequence)


def _latecomers(agent: Asker, offered: Sequence[ToolLike]) -> list[Tool]:
    """What the model has not been told of yet."""
    if not (new := latecomers(agent.provider, offered, agent._window.told)):
        return new
    kept = agent.chat_history[agent._window.start_in(agent.chat_history) :]
    return undeclared(new, [*agent.always_included_messages, *kept])


async def _declare(agent: Asker, request: Mapping[str, Any]) -> None:
    """Tell the model of functions that came late, where that can be done without another beginning of the prompt."""
    if agent._window.told is None:
        return
    if late := _latecomers(agent, await _offered(agent, request.get("include_functions", True))):
        await added(agent, declaration(late))
        agent._window.told |= {tool.name for tool in late}


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
    prompt = await given(agent, "get_prompt", agent.get_prompt(include_functions, **overrides), Sequence)
    messages = _instructed(prompt, _instructions(overrides))
    offered = await _offered(agent, include_functions)
    messages = as_sent(agent.provider, offered, messages)
    declaring = declarations(messages)
    tools = at_top(offered, declaring)
    if agent._kept is not None:  # else somebody else decides what is kept
        agent._window.move_to(agent.chat_history, agent._kept.start)
    sendable = history.repair(messages, interrupted=agent.texts.interrupted())
    counter = agent._window.use(await counter_in_time(agent.provider.model_name))
    overhead = counter.overhead(tools, spending.asked(agent, overrides), declares=bool(declaring))
    agent._window.expect(sendable, overhead)
    spending.check(agent, agent._window.tokens)
    listens = RequestSent in agent._handlers or RequestRetried in agent._handlers
    ask = partial(
        agent.provider.generate,
        "",
        tools,
        generation_overrides=_generation(agent, overrides),
        on_event=agent._stopwatch.on_event(agent._handlers.emit if listens else None),
    )
    if include_functions:
        agent._window.told = (agent._window.told or frozenset()) | {tool.name for tool in tools}
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
        await _declare(agent, request)
        await agent._handlers.emit(StreamStarted(agent.provider.model_name))
        if agent._keeper.keeps:
            agent._stopwatch.start()
        result = agent._stopwatch.measured(agent, await _answer(agent, request, recording))
        spending.pay(agent, result)
        agent._handlers.observed(_completed(result))
        added = agent.add_completion_to_history(result)
        result = replace(result, message=await given(agent, "add_completion_to_history", added, Message))
        await agent._settle()
        drift = spending.learn(agent, result)
    except BaseException as error:
        agent._stopwatch.stop()
        spending.pay_for_broken(agent, error)
        await tell_of_failure(agent._handlers, error, recording or agent._recording)
        raise
    finally:
        agent._recording = None
    await agent._handlers.hand_out(_completed(result))
    if drift is not None:
        await agent._handlers.emit(drift)
    agent.limits.after_answer(as_spent(agent.usage), result.message)
    return result


def _completed(result: GenerateResult) -> StreamCompleted:
    return StreamCompleted(result.message, result.usage, result.finish_reason, result.id)


async def stream_turn(agent: Asker, turn: Turn, request: Mapping[str, Any], recording: Recording) -> GenerateResult:
    """`model_turn` in a task of its own: that of the stream's reader, which is inside of the turn like all else."""
    with turn.inside():
        return await model_turn(agent, request, recording)


async def _answer(agent: Asker, request: Mapping[str, Any], recording: Recording | None) -> GenerateResult:
    if recording is None:
        agent._recording = Recording() if tells_of_failures(agent._handlers) else None
        return await given(agent, "get_model_completion", agent.get_model_completion(**request), GenerateResult)
    return await whole_answer(agent, agent.get_model_stream(**request), recording)


async def whole_answer(agent: Asker, asked: Awaitable[StreamedMessage], recording: Recording | None) -> GenerateResult:
    """All of what the hook that asks for a stream has asked for."""
    stream = await given(agent, "get_model_stream", asked, AsyncIterable)
    return await collect(stream, agent._stopwatch.on_batch(on_batch(agent._handlers, recording)))

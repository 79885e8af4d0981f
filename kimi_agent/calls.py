"""Answering the calls of a message: running each one, and what becomes of those that go wrong or must not run."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import Protocol

from .errors import FunctionCallException, WrappedCallException
from .events import Handlers, ToolCallStarted
from .generate import GenerateResult
from .limits import Spent, as_spent
from .message import Message, ToolCall
from .tools.allowance import Allowance, CallOutcome
from .tools.base import ToolLike, ToolReturnValue
from .tools.results import shortened
from .tools.texts import ToolTexts, answering, result_message
from .tools.toolset import ExceptionHandleResult, FunctionCallResult

__all__ = ["Caller", "answer", "result_for"]


class Caller(Protocol):
    """What answering a call needs of an agent."""

    functions: dict[str, ToolLike]
    texts: ToolTexts
    retry_attempts: int
    usage: Spent
    _handlers: Handlers

    async def do_function_call(self, call: ToolCall) -> FunctionCallResult:
        """The hook that runs a call."""
        ...

    async def handle_function_call_exception(
        self, call: ToolCall, err: FunctionCallException, attempt: int
    ) -> ExceptionHandleResult:
        """The hook that decides what becomes of a call that went wrong."""
        ...


async def answer(agent: Caller, allowance: Allowance, result: GenerateResult, call: ToolCall) -> CallOutcome:
    """Answer one call: run it, unless calls are not allowed any more or the message was cut off."""
    if not allowance.calls:
        return CallOutcome.not_run(call, agent.texts.not_run())
    if result.is_cut_off:
        goes_on = result.finish_reason == "length"
        retry = goes_on and allowance.failures < agent.retry_attempts
        return CallOutcome.not_run(call, agent.texts.cut_off(), failed=goes_on, should_retry=retry)
    await agent._handlers.emit(ToolCallStarted(call))
    agent.usage = as_spent(agent.usage).with_calls(1)
    started = monotonic()
    outcome = await _run(agent, call, allowance.failures)
    return replace(outcome, duration=monotonic() - started)


async def _run(agent: Caller, call: ToolCall, attempt: int) -> CallOutcome:
    try:
        result = await agent.do_function_call(call)
    except Exception as error:
        wrapped = error if isinstance(error, FunctionCallException) else WrappedCallException(True, error)
        handled = await agent.handle_function_call_exception(call, wrapped, attempt)
        message = answering(handled.message, call).copy_with(is_tool_call_error=True)
        return CallOutcome(call, message, failed=True, should_retry=handled.should_retry)
    failed = bool(result.message.is_tool_call_error)
    retry = failed and attempt < agent.retry_attempts
    return CallOutcome(call, answering(result.message, call), result.is_model_turn, failed, retry)


def result_for(agent: Caller, call: ToolCall, value: ToolReturnValue) -> Message:
    """What a function gave as the message that answers its call, no longer than the function says."""
    limit = getattr(agent.functions.get(call.name), "auto_truncate", None)
    return shortened(result_message(call, value, agent.texts), limit)

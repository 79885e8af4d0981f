"""Running calls: those of a message, some of which go wrong or must not run, and those that the program makes itself.

A call of the program goes through the same hook and the same events as one of a model. It needs no turn, writes nothing
into the history, and whatever goes wrong in the function is its result.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Coroutine, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import is_dataclass, replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar, cast
from uuid import uuid4

from loguru import logger
from pydantic import BaseModel
from pydantic_core import to_json

from .errors import FunctionCallException, NoSuchFunction, WrappedCallException
from .events import Handlers, ToolCallFinished, ToolCallStarted
from .generate import GenerateResult
from .limits import Spent, as_spent
from .message import Message, ToolCall
from .tools.allowance import Allowance, CallOutcome
from .tools.base import ToolLike, ToolResult, ToolReturnValue
from .tools.function import AIFunction
from .tools.results import shortened
from .tools.texts import ToolTexts, answering, result_message, tool_error_from, value_in
from .tools.toolset import ExceptionHandleResult, FunctionCallResult
from .turns import Turn, Turns

if TYPE_CHECKING:
    from .tools.mapping import MappedCalls

__all__ = ["Arguments", "Caller", "answer", "call_tool", "call_tool_raw", "map_tool", "result_for"]

T = TypeVar("T")


class Caller(Protocol):
    """What answering a call needs of an agent."""

    functions: dict[str, ToolLike]
    texts: ToolTexts
    retry_attempts: int
    usage: Spent
    _handlers: Handlers
    _turns: Turns

    async def do_function_call(self, call: ToolCall) -> FunctionCallResult:
        """The hook that runs a call."""
        ...

    async def handle_function_call_exception(
        self, call: ToolCall, err: FunctionCallException, attempt: int
    ) -> ExceptionHandleResult:
        """The hook that decides what becomes of a call that went wrong."""
        ...


# ==== the calls of a message ====


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
        handled = await agent.handle_function_call_exception(call, _wrapped(error), attempt)
        message = answering(handled.message, call).copy_with(is_tool_call_error=True)
        return CallOutcome(call, message, failed=True, should_retry=handled.should_retry)
    failed = bool(result.message.is_tool_call_error)
    retry = failed and attempt < agent.retry_attempts
    return CallOutcome(call, answering(result.message, call), result.is_model_turn, failed, retry)


def _wrapped(error: Exception) -> FunctionCallException:
    return error if isinstance(error, FunctionCallException) else WrappedCallException(True, error)


def result_for(agent: Caller, call: ToolCall, value: ToolReturnValue) -> Message:
    """What a function gave as the message that answers its call, no longer than the function says."""
    limit = getattr(agent.functions.get(call.name), "auto_truncate", None)
    return shortened(result_message(call, value, agent.texts), limit)


# ==== the calls of the program ====


class Record(Protocol):
    """An instance of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Arguments: TypeAlias = Mapping[str, Any] | BaseModel | Record | str | None
"""What a function can be called with: its arguments by name, JSON that says them, or none."""


async def call_tool(agent: Caller, name: str, args: Arguments = None) -> ToolResult:
    """Run a function; what goes wrong in it is a result with `is_error`.

    Args:
        agent: whose function it is.
        name: of the function, which need not be enabled.
        args: by name: a mapping, a pydantic model, or an instance of a dataclass; a string is JSON already. The fields
            of a model are the arguments; a function with a single parameter of its type takes it whole.

    Raises:
        NoSuchFunction: there is none of this name.
        TypeError: the arguments cannot be written as JSON.
    """
    result, _ = await _perform(agent, _call_of(agent, name, args))
    return result


async def call_tool_raw(agent: Caller, name: str, args: Arguments = None) -> str:
    """Like `call_tool`, but the text that a model would read; what went wrong is text, too."""
    _, text = await _perform(agent, _call_of(agent, name, args))
    return text


def map_tool(
    agent: Caller,
    name: str,
    items: AsyncIterable[T] | Iterable[T],
    *,
    concurrency: int = 16,
    ordered: bool = False,
) -> MappedCalls[T]:
    """Run a function for each item of a stream, several at a time.

    Args:
        agent: whose function it is.
        name: of the function.
        items: what `call_tool` takes as `args`, each. An item is pulled when there is a place for its call.
        concurrency: how many calls may be under way, or finished and not taken.
        ordered: whether the results come in the order of the items; else as they finish.

    Raises:
        NoSuchFunction: there is none of this name.
        TypeError: `items` is no stream; while iterating: an item cannot be written as JSON.
        ValueError: `concurrency` is less than 1.
    """
    _check_name(agent, name)
    from .tools.mapping import MappedCalls

    start = partial(_performed_beside, agent, name, _suspended_turn(agent))
    return MappedCalls(items, start, concurrency=concurrency, ordered=ordered)


def _suspended_turn(agent: Caller) -> Turn | None:
    """The turn that waits for the one who asks, if there is one."""
    try:
        return agent._turns.left_here()
    except RuntimeError:  # nothing runs
        return None


def _performed_beside(
    agent: Caller, name: str, turn: Turn | None, item: object
) -> Coroutine[Any, Any, tuple[ToolResult, str]]:
    """The call of an item.

    If a round waits until the calls are done, they are inside of its turn: a function that asks for another round
    would wait for the one that waits for it, and is refused.
    """
    call = _call_of(agent, name, item)
    return _perform(agent, call) if turn is None else _inside(turn, _perform(agent, call))


async def _inside(turn: Turn, performed: Coroutine[Any, Any, T]) -> T:
    with turn.inside():
        return await performed


async def _perform(agent: Caller, call: ToolCall) -> tuple[ToolResult, str]:
    """Run a call: its result, and what a model would read of it."""
    await agent._handlers.emit(ToolCallStarted(call))
    started = monotonic()
    value, message = await _given(agent, call)
    await agent._handlers.emit(ToolCallFinished(call, message, monotonic() - started))
    return ToolResult(tool_call_id=call.id, return_value=value), message.text


async def _given(agent: Caller, call: ToolCall) -> tuple[ToolReturnValue, Message]:
    try:
        given = await agent.do_function_call(call)
    except Exception as error:
        logger.opt(exception=error).debug("the call {} of {} went wrong", call.id, call.name)
        value = tool_error_from(_wrapped(error), agent.texts)
        return value, result_for(agent, call, value)
    message = answering(given.message, call)
    if given.value is not None and result_for(agent, call, given.value) == message:
        return given.value, message
    return value_in(message), message


# ==== what they are called with ====


def _check_name(agent: Caller, name: str) -> None:
    if name not in agent.functions:
        error = NoSuchFunction(name)
        error.args = (f"{error}; there are {', '.join(agent.functions) or 'none'}",)
        raise error


def _call_of(agent: Caller, name: str, args: object) -> ToolCall:
    _check_name(agent, name)
    tool = agent.functions[name]
    only = tool.takes_whole(args) if isinstance(tool, AIFunction) and _is_whole(args) else None
    body = ToolCall.FunctionBody(name=name, arguments=_as_json(name, {only: args} if only else args))
    return ToolCall(id=f"call_{uuid4().hex}", function=body)


def _is_whole(args: object) -> bool:
    """Whether it is an object, and no bundle of arguments."""
    return isinstance(args, BaseModel) or (is_dataclass(args) and not isinstance(args, type))


def _as_json(name: str, args: object) -> str:
    if args is None:
        return "{}"
    if isinstance(args, str):
        return args
    if not (isinstance(args, Mapping) or _is_whole(args)):
        kind = args.__name__ if isinstance(args, type) else type(args).__name__
        raise TypeError(f"{name!r} is called with a mapping, a model, a dataclass or JSON, not with {kind}")
    try:
        return to_json(args, fallback=_plain).decode()
    except Exception as error:  # of pydantic, or of a serializer of the caller's
        raise TypeError(f"the arguments of {name!r} cannot be written as JSON: {error}") from error


def _plain(value: Any) -> Any:
    """For what pydantic does not know: the container it is like."""
    if isinstance(value, Mapping):
        return dict(cast(Mapping[Any, Any], value))
    if isinstance(value, Sequence | AbstractSet):
        return list(cast(Sequence[Any], value))
    raise TypeError(f"a {type(value).__name__} has no JSON")

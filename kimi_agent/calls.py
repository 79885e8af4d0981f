"""Running calls: those of a message, some of which go wrong or must not run, and those that the program makes itself.

A call of the program goes through the same hook and the same events as one of a model. It needs no turn, writes nothing
into the history, and whatever goes wrong in the function is its result.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Coroutine, Generator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass, replace
from functools import partial
from time import monotonic, time
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar, cast
from uuid import uuid4

from loguru import logger
from pydantic import BaseModel
from pydantic_core import to_json

from . import spending
from .errors import CallRejected, FunctionCallException, NoSuchFunction, WrappedCallException
from .events import Handlers, ToolCallFinished, ToolCallStarted
from .generate import GenerateResult
from .hooks import given
from .limits import Spent, UsageLimits
from .measured import with_call
from .message import Message, ToolCall
from .provider import ChatProvider
from .tools.allowance import Allowance, CallOutcome
from .tools.approval import (
    Approval,
    Approvals,
    Reason,
    must_be_approved,
    waiting,
)
from .tools.base import ToolLike, ToolResult, ToolReturnValue
from .tools.context import Progress, ToolContext, in_context
from .tools.function import AIFunction
from .tools.renamed import inner_of
from .tools.results import shortened, with_note
from .tools.texts import ToolTexts, answering, result_message, tool_error_from, value_in
from .tools.toolset import ExceptionHandleResult, FunctionCallResult, found, is_sequential
from .turns import Turn, Turns

if TYPE_CHECKING:
    from .session.keeping import Keeper
    from .tools.mapping import MappedCalls

__all__ = ["Answering", "Arguments", "Caller", "Calling", "result_for"]

T = TypeVar("T")
A = TypeVar("A", bound="Arguments")


class Caller(Protocol):
    """What answering a call needs of an agent."""

    functions: dict[str, ToolLike]
    texts: ToolTexts
    retry_attempts: int
    usage: Spent
    limits: UsageLimits
    provider: ChatProvider
    _handlers: Handlers
    _turns: Turns
    _approvals: Approvals
    _keeper: Keeper
    _parent: Any

    async def approve_function_call(self, call: ToolCall, function: ToolLike) -> Approval:
        """The hook that says whether a call may run that has to be approved."""
        ...

    async def do_function_call(self, call: ToolCall) -> FunctionCallResult:
        """The hook that runs a call."""
        ...

    async def handle_function_call_exception(
        self, call: ToolCall, err: FunctionCallException, attempt: int
    ) -> ExceptionHandleResult:
        """The hook that decides what becomes of a call that went wrong."""
        ...


# ==== the calls of a message ====


class Answering:
    """Answers the calls of one message: decides which may run, runs them, and says what came of each.

    Args:
        agent: whose functions they call.
        allowance: how far the model may go.
        result: the message that calls.
        approvals: what was approved before, by position among its calls.
    """

    def __init__(
        self, agent: Caller, allowance: Allowance, result: GenerateResult, approvals: Mapping[int, Approval]
    ) -> None:
        self._agent, self._allowance, self._result = agent, allowance, result
        calls = result.message.tool_calls or ()
        self._approvals = [(calls[position], approval) for position, approval in approvals.items()]
        self._one_waits = False
        """A call waits, and with it those after it that run alone."""
        self._is_held = False
        """A call waits that runs alone, and with it all that come after it."""
        self._decided: dict[int, ToolLike | None] = {}
        """The function that each call was decided for, by the identity of the call."""
        allowance.begins(calls)

    def is_sequential(self, call: ToolCall) -> bool:
        """Whether a call runs alone."""
        return is_sequential(self._agent.functions, call)

    # ---- which may run ----

    async def decide(self, call: ToolCall) -> CallOutcome | None:
        """What comes of a call that must not run; `None` lets it run.

        Raises:
            Exception: of the hook that approves, or of the one that handles errors.
        """
        texts, allowance = self._agent.texts, self._allowance
        if not allowance.calls:
            return CallOutcome.not_run(call, texts.not_run())
        if self._result.is_cut_off:
            goes_on = self._result.finish_reason == "length"
            retry = goes_on and allowance.failures < self._agent.retry_attempts
            return CallOutcome.not_run(call, texts.cut_off(), failed=goes_on, should_retry=retry)
        if self._is_held or (self._one_waits and self.is_sequential(call)):
            self._is_held = True
            return self._waiting(call, "turn", texts.waits_for_turn())
        if allowance.guard.stops(times := allowance.times(call)):
            return CallOutcome.not_run(call, texts.too_often(times), is_model_turn=True)
        try:
            approval = await self._approval_of(call)
        except FunctionCallException as error:
            return self._reminded(await self._went_wrong(call, error))
        return None if approval is None or approval.is_given else self._refused(call, approval)

    async def _approval_of(self, call: ToolCall) -> Approval | None:
        """What is said of a call, before or now; `None` if nobody has to approve it."""
        agent = self._agent
        tool = agent.functions.get(call.name)
        self._decided[id(call)] = tool
        if (given := self._given_before(call)) is not None:
            if tool is not None:
                agent._approvals.take(given, tool)
            return given
        if tool is None or getattr(tool, "approval", False) is False:
            return None
        if not await must_be_approved(tool, found(agent.functions, call)[1]):
            return None
        return await agent._approvals.ask(agent.approve_function_call, call, tool)

    def _given_before(self, call: ToolCall) -> Approval | None:
        """The approval that came with the round. It is for one call: two may be the same object."""
        place = next((place for place, (known, _) in enumerate(self._approvals) if known is call), None)
        return None if place is None else self._approvals.pop(place)[1]

    def _refused(self, call: ToolCall, approval: Approval) -> CallOutcome:
        texts = self._agent.texts
        if approval.decision == "wait":
            self._one_waits = True
            self._is_held = self._is_held or self.is_sequential(call)
            return self._waiting(call, "approval", texts.waits_for_approval())
        return CallOutcome.not_run(call, texts.rejected(CallRejected(approval.feedback)), is_model_turn=True)

    def _waiting(self, call: ToolCall, reason: Reason, text: str) -> CallOutcome:
        return CallOutcome(call, waiting(call, reason, text), waits=True)

    # ---- running one ----

    async def run(self, call: ToolCall) -> CallOutcome:
        """Run a call and say what came of it.

        Raises:
            Exception: of a hook.
        """
        agent = self._agent
        while agent.functions.get(call.name) is not self._decided.get(id(call)):  # exchanged since
            if (outcome := await self.decide(call)) is not None:
                return outcome
        await agent._handlers.emit(ToolCallStarted(call))
        spending.pay_for_calls(agent)
        began, started = time(), monotonic()
        in_call = _in_context_of(agent, call, self._allowance.failures, keeps_result=True)
        with agent._handlers.around(call), in_call as progress:
            outcome = await self._ran(call)
        with suppress(asyncio.CancelledError):  # whoever cancels the call gets its result
            await progress.told()
        duration = monotonic() - started
        message = with_call(outcome.message, began, duration) if agent._keeper.keeps else outcome.message
        return self._reminded(replace(outcome, message=message, duration=duration))

    async def _ran(self, call: ToolCall) -> CallOutcome:
        agent, attempt = self._agent, self._allowance.failures
        try:
            result = await given(agent, "do_function_call", agent.do_function_call(call), FunctionCallResult)
        except Exception as error:
            return await self._went_wrong(call, _wrapped(error))
        failed = bool(result.message.is_tool_call_error)
        retry = failed and attempt < agent.retry_attempts
        return CallOutcome(call, answering(result.message, call), result.is_model_turn, failed, retry)

    async def _went_wrong(self, call: ToolCall, error: FunctionCallException) -> CallOutcome:
        agent = self._agent
        hook = agent.handle_function_call_exception(call, error, self._allowance.failures)
        handled = await given(agent, "handle_function_call_exception", hook, ExceptionHandleResult)
        message = answering(handled.message, call).copy_with(is_tool_call_error=True)
        original = _original(error)
        outcome = CallOutcome(
            call, message, failed=True, should_retry=handled.should_retry, error_type=type(original).__name__
        )
        fatal = getattr(agent.functions.get(call.name), "fatal", ())
        return replace(outcome, fatal=original) if isinstance(original, fatal) else outcome

    def _reminded(self, outcome: CallOutcome) -> CallOutcome:
        """The same with a reminder, if the call was made often before."""
        times = self._allowance.times(outcome.call)
        text = self._agent.texts.repeated(times) if self._allowance.guard.reminds(times) else ""
        return replace(outcome, message=with_note(outcome.message, text)) if text else outcome


@contextmanager
def _in_context_of(
    agent: Caller, call: ToolCall, attempt: int = 0, *, keeps_result: bool = False
) -> Generator[Progress, None, None]:
    """What is called within belongs to a call of an agent."""
    progress = Progress(agent._handlers)
    try:
        with in_context(ToolContext(call, agent, attempt, _progress=progress, _keeps_result=keeps_result)):
            yield progress
    finally:
        progress.end()


def _wrapped(error: Exception) -> FunctionCallException:
    return error if isinstance(error, FunctionCallException) else WrappedCallException(True, error)


def _original(error: Exception) -> BaseException:
    """What the function raised, if it raised."""
    return error.original if isinstance(error, WrappedCallException) else error


def result_for(agent: Caller, call: ToolCall, value: ToolReturnValue) -> Message:
    """What a function gave as the message that answers its call, no longer than the function says.

    Without a word of the function, the text has a quarter as many characters as the window has tokens at most: rare
    characters take three tokens each, and a result that does not fit would end the round.
    """
    limit = getattr(agent.functions.get(call.name), "auto_truncate", None)
    most = agent.provider.context_window // 4 if limit is None else limit
    return shortened(result_message(call, value, agent.texts), most)


# ==== the calls of the program ====


class Record(Protocol):
    """An instance of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Arguments: TypeAlias = Mapping[str, Any] | BaseModel | Record | str | None
"""What a function can be called with: its arguments by name, JSON that says them, or none."""


class Calling(Caller):
    """An agent, as far as the program itself calls its functions. Nobody is asked for an approval."""

    async def call_tool(self, name: str, args: Arguments = None) -> ToolResult:
        """Call a function yourself. What goes wrong in it is a result with `is_error`; nothing is in the history.

        Args:
            name: of the function, which need not be enabled.
            args: by name: a mapping, a pydantic model, or an instance of a dataclass; a string is JSON already. The
                fields of a model are the arguments; a lone parameter of a model's type takes it whole.

        Raises:
            NoSuchFunction: there is none of this name.
            TypeError: the arguments cannot be written as JSON.
        """
        result, _ = await _perform(self, _call_of(self, name, args))
        return result

    async def call_tool_raw(self, name: str, args: Arguments = None) -> str:
        """Like `call_tool`, but only the text that a model would read."""
        _, text = await _perform(self, _call_of(self, name, args))
        return text

    def map_tool(
        self, name: str, items: AsyncIterable[A] | Iterable[A], *, concurrency: int = 16, ordered: bool = False
    ) -> MappedCalls[A]:
        """Call a function for each item of a stream, several at a time. Closing or dropping it cancels them.

        Args:
            name: of the function.
            items: arguments as of `call_tool`, each. One is taken when there is a place for it.
            concurrency: how many calls may be under way, or finished and not taken.
            ordered: whether the results come in the order of the items; else as they finish.

        Raises:
            NoSuchFunction: there is none of this name.
            TypeError: `items` is no stream; while iterating: an item cannot be written as JSON.
            ValueError: `concurrency` is less than 1.
        """
        _check_name(self, name)
        from .tools.mapping import MappedCalls

        start = partial(_performed_beside, self, name, _suspended_turn(self))
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
    with agent._handlers.around(call):
        with _in_context_of(agent, call) as progress:
            value, message, error_type = await _given(agent, call)
        await progress.told()
        await agent._handlers.emit(ToolCallFinished(call, message, monotonic() - started, error_type))
    return ToolResult(tool_call_id=call.id, return_value=value), message.text


async def _given(agent: Caller, call: ToolCall) -> tuple[ToolReturnValue, Message, str | None]:
    """What a call gave, what a model would read of it, and the name of the error that was raised."""
    try:
        result = await given(agent, "do_function_call", agent.do_function_call(call), FunctionCallResult)
    except Exception as error:
        logger.opt(exception=error).debug("the call {} of {} went wrong", call.id, call.name)
        value = tool_error_from(_wrapped(error), agent.texts)
        return value, result_for(agent, call, value), type(_original(error)).__name__
    message = answering(result.message, call)
    if result.value is not None and result_for(agent, call, result.value) == message:
        return result.value, message, None
    return value_in(message), message, None


# ==== what they are called with ====


def _check_name(agent: Caller, name: str) -> None:
    if name not in agent.functions:
        error = NoSuchFunction(name)
        error.args = (f"{error}; there are {', '.join(agent.functions) or 'none'}",)
        raise error


def _call_of(agent: Caller, name: str, args: object) -> ToolCall:
    _check_name(agent, name)
    tool = inner_of(agent.functions[name])
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

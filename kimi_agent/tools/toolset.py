"""Finding and running tools: the only place where they run."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self, TypeAlias, cast, runtime_checkable

from ..errors import (
    CallRejected,
    FunctionCallException,
    FunctionSpecError,
    NoSuchFunction,
    ToolArgumentsError,
    WrappedCallException,
)
from ..message import Message, ToolCall, parse_any_arguments
from .approval import Approvals, Approver, must_be_approved
from .base import Tool, ToolError, ToolLike, ToolResult, ToolReturnValue
from .callable import CallableTool, check_return_type, checked_value
from .context import context_for, in_context
from .function import AIFunction, as_function
from .renamed import RenamedTool, inner_of, is_enabled, switch
from .running import failure, is_being_cancelled, within
from .texts import DEFAULT_TEXTS, MARKED_TEXTS, ToolTexts, tool_error_from

__all__ = [
    "EmptyToolset",
    "ExceptionHandleResult",
    "FunctionCallResult",
    "HandleResult",
    "SimpleToolset",
    "ToolResultFuture",
    "Toolset",
    "check_bounds",
    "found",
    "functions_in",
    "handled",
    "invoke",
    "is_sequential",
    "offered",
    "stopped",
    "texts_of",
]

ToolResultFuture: TypeAlias = asyncio.Future[ToolResult]
"""The promise of a result."""

HandleResult: TypeAlias = ToolResultFuture | ToolResult
"""What `Toolset.handle` gives: a result, or the promise of one."""


@dataclass(frozen=True, slots=True)
class FunctionCallResult:
    """What a function call gave.

    Args:
        is_model_turn: whether the model speaks next; else the round ends and it is the user's turn.
        message: the result for the history.
        value: what the function gave, if the hook tells. `Agent.call_tool` gives it as long as it says the same as the
            message; so who changes the message need not change the value.
    """

    is_model_turn: bool
    message: Message
    value: ToolReturnValue | None = None


@dataclass(frozen=True, slots=True)
class ExceptionHandleResult:
    """What becomes of a call that went wrong.

    Args:
        should_retry: whether the model may call functions again in this round.
        message: what the model is told.
    """

    should_retry: bool
    message: Message


def as_tool(candidate: ToolLike | Callable[..., Any]) -> ToolLike:
    """Anything that a model may call as a tool; plain functions become an `AIFunction`.

    Raises:
        FunctionSpecError: it cannot be called, or not be described.
    """
    if isinstance(candidate, type):
        name = candidate.__name__
        raise FunctionSpecError(f"{name} is a class, and a tool is an instance of it; pass {name}()")
    check_return_type(candidate)
    if isinstance(getattr(candidate, "base", None), Tool):
        _check_timeout(cast(ToolLike, candidate))
        return cast(ToolLike, candidate)
    if isinstance(candidate, Toolset):
        kind = type(candidate).__name__
        raise FunctionSpecError(
            f"a {kind} is a set of tools; pass it as functions=, or its tools as [*toolset, ...]; merge two sets with |"
        )
    if not callable(candidate):
        raise FunctionSpecError(f"{candidate!r} is no function for a model; pass a function or a tool")
    return as_function(candidate)


def functions_in(functions: Iterable[ToolLike | Callable[..., Any]]) -> dict[str, ToolLike]:
    """What an agent is given to call, by name.

    Raises:
        FunctionSpecError: two have one name, one is no tool, or it is a set that wants to run its tools in its own way.
    """
    if isinstance(functions, SimpleToolset) and functions.runs_otherwise:
        raise FunctionSpecError(
            "an agent runs its functions itself: give it tool_timeout and max_parallel_tools, let its hook"
            " approve_function_call approve, and pass functions=[*toolset]"
        )
    return by_name(functions)


def offered(functions: Mapping[str, ToolLike]) -> list[ToolLike]:
    """The functions that the model is told of: all but those whose `enabled` is false.

    Raises:
        FunctionSpecError: an entry is no tool, or has another name than its tool.
    """
    for name, tool in functions.items():
        if not isinstance(base := getattr(tool, "base", None), Tool):
            raise FunctionSpecError(f"functions[{name!r}] is {tool!r}, which is no tool; wrap it: AIFunction(...)")
        if base.name != name:
            raise FunctionSpecError(f"functions[{name!r}] has the name {base.name!r}; use that as its key")
    return [tool for tool in functions.values() if is_enabled(tool)]


def _check_timeout(tool: ToolLike) -> None:
    timeout: Any = getattr(tool, "timeout", None)
    if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
        raise FunctionSpecError(f"the timeout of {tool.base.name!r} is {timeout!r}; it is more than 0 seconds, or None")


def by_name(tools: Iterable[ToolLike | Callable[..., Any]]) -> dict[str, ToolLike]:
    """The tools by their names, in the order in which they come.

    Raises:
        FunctionSpecError: two have one name, or one is no tool.
    """
    named: dict[str, ToolLike] = {}
    if isinstance(tools, AbstractAsyncContextManager):
        raise FunctionSpecError("these tools have to be entered first: async with mcp_tools(...) as tools")
    if not isinstance(tools, Iterable):
        raise FunctionSpecError(f"{tools!r} is no list of functions and tools; pass [...] also for one")
    for tool in map(as_tool, tools):
        _add(named, tool.base.name, tool)
    return named


def merged(some: Mapping[str, ToolLike], more: Mapping[str, ToolLike]) -> dict[str, ToolLike]:
    """The tools of both by their names.

    Raises:
        FunctionSpecError: two have one name.
    """
    named = dict(some)
    for name, tool in more.items():
        _add(named, name, tool)
    return named


def _add(named: dict[str, ToolLike], name: str, tool: ToolLike) -> None:
    if name in named:
        raise FunctionSpecError(f"there are two functions named {name!r}; give one of them another name=")
    named[name] = tool


def check_bounds(tool_timeout: float | None, max_parallel_tools: int | None) -> None:
    """Make sure that the bounds of running tools can be kept.

    Raises:
        ValueError: one cannot.
    """
    if tool_timeout is not None and not (isinstance(tool_timeout, int | float) and tool_timeout > 0):
        raise ValueError(f"tool_timeout is more than 0 seconds, or None for no limit; not {tool_timeout!r}")
    if max_parallel_tools is not None and not (isinstance(max_parallel_tools, int) and max_parallel_tools >= 1):
        raise ValueError(f"max_parallel_tools is 1 or more, or None for no bound; not {max_parallel_tools!r}")


# ==== one call ====


def found(tools: Mapping[str, ToolLike], call: ToolCall) -> tuple[ToolLike, Any]:
    """The tool that `call` names, and its arguments.

    Raises:
        NoSuchFunction: there is none.
        ToolArgumentsError: the arguments are no JSON, or no object.
    """
    tool = tools.get(call.name)
    if tool is None:
        raise NoSuchFunction(call.name)
    try:
        return tool, parse_any_arguments(call.arguments) if isinstance(inner_of(tool), CallableTool) else call.args
    except ToolArgumentsError as error:
        error.retry = getattr(tool, "auto_retry", True)
        raise


def is_sequential(tools: Mapping[str, ToolLike], call: ToolCall) -> bool:
    """Whether a call runs alone: after the calls before it in its message, and before those after it."""
    return bool(getattr(tools.get(call.name), "sequential", False))


_OUR_CALLS: Final[tuple[object, ...]] = (AIFunction.call, CallableTool.call)
"""`invoke`, with what goes wrong as a value. A tool that has a `call` of its own - a guard, say - is run by that."""


async def _run(tool: ToolLike, arguments: Any, texts: ToolTexts) -> ToolReturnValue:
    """Run a tool.

    Raises:
        ToolArgumentsError: the arguments do not fit.
        WrappedCallException: the tool raised, or gave something else than a `ToolReturnValue`.
    """
    tool = inner_of(tool)
    if getattr(type(tool), "call", None) in _OUR_CALLS:
        return await cast(AIFunction, tool).invoke(arguments, texts=texts)
    try:
        return checked_value(await tool.call(arguments))
    except BaseException as error:
        raise failure(error, True)  # noqa: B904  the cause is set, or it is the error itself


async def invoke(
    tools: Mapping[str, ToolLike], call: ToolCall, texts: ToolTexts = DEFAULT_TEXTS, timeout: float | None = None
) -> ToolReturnValue:
    """Find the tool that `call` names and run it. Nobody is asked for an approval.

    Args:
        tools: by name.
        call: what the model asked for.
        texts: what to say for a result of nothing.
        timeout: seconds until the call is given up, unless the tool has a `timeout` of its own; `None` for never.

    Raises:
        NoSuchFunction: there is none.
        ToolArgumentsError: the arguments are no JSON object, or do not fit.
        FunctionTimeout: the tool took longer than it may.
        WrappedCallException: the tool raised.
    """
    tool, arguments = found(tools, call)
    own: float | None = getattr(tool, "timeout", None)
    with in_context(context_for(call)):
        retry = getattr(tool, "auto_retry", True)
        return await within(timeout if own is None else own, call.name, _run(tool, arguments, texts), retry=retry)


# ==== sets of tools ====


@runtime_checkable
class Toolset(Protocol):
    """A set of tools that can run their calls."""

    @property
    def tools(self) -> list[Tool]:
        """The definitions, in a stable order."""
        ...

    def handle(self, tool_call: ToolCall) -> HandleResult:
        """Start a call. Never blocks and never raises: what goes wrong is a result with `is_error`."""
        ...


class SimpleToolset:
    """Tools by name, in the order in which they came.

        toolset = SimpleToolset([Add(), get_weather])
        toolset += Multiply()
        both = toolset | another
        files = server.only("read", "write").prefixed("fs_")

    A set that is made from another one has the tools that were there. The tools themselves are the same: whether one is
    enabled holds for all sets and agents that have it.

    Args:
        tools: `AIFunction`s, `CallableTool`s, `CallableTool2`s, other tools, and plain functions.
        approve: says whether a call of a tool may run that needs an `approval`. Without it, such a call is not run.
        tool_timeout: seconds until a call is given up, of tools without a `timeout` of their own; `None` for never.
        max_parallel_tools: how many calls of a message `step` runs at a time; `None` is no bound.

    Raises:
        FunctionSpecError: two tools have one name, or one is no tool. It is a `ValueError`, and a `TypeError`.
        ValueError: a number is out of its range.
    """

    texts: ToolTexts = MARKED_TEXTS
    """Every sentence that this package itself puts into a result."""

    def __init__(
        self,
        tools: Iterable[ToolLike | Callable[..., Any]] | None = None,
        *,
        approve: Approver | None = None,
        tool_timeout: float | None = None,
        max_parallel_tools: int | None = None,
    ) -> None:
        check_bounds(tool_timeout, max_parallel_tools)
        self._by_name = by_name(tools or ())
        self._approve = approve
        self._approvals = Approvals()
        self.tool_timeout = tool_timeout
        self.max_parallel_tools = max_parallel_tools

    @property
    def tools(self) -> list[Tool]:
        """The definitions, in the order in which the tools came, without those whose `enabled` is false."""
        return [tool.base for tool in self if is_enabled(tool)]

    def __iter__(self) -> Iterator[ToolLike]:
        """All tools, enabled or not, in the order in which they came."""
        return iter(tuple(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    def __bool__(self) -> bool:
        return True  # also without tools: it was given, and more may come

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> ToolLike:
        """The tool of a name.

        Raises:
            KeyError: there is none.
        """
        self._check(name)
        return self._by_name[name]

    def add(self, tool: ToolLike | Callable[..., Any]) -> Self:
        """Add a tool, and return the toolset.

        Raises:
            FunctionSpecError: there is one of this name, or it is no tool.
        """
        self._by_name = merged(self._by_name, by_name([tool]))
        return self

    def remove(self, tool_name: str) -> Self:
        """Take a tool out, and return the toolset.

        Raises:
            KeyError: there is none of this name.
        """
        self._check(tool_name)
        self._by_name = {name: tool for name, tool in self._by_name.items() if name != tool_name}
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._by_name)})"

    def _check(self, *names: str) -> None:
        """Make sure that there are tools of these names.

        Raises:
            KeyError: one is missing; the text says what there is.
            TypeError: one is no text.
        """
        if wrong := [name for name in names if not isinstance(name, str)]:
            raise TypeError(f"{wrong[0]!r} is no name; give the names one by one")
        if missing := [name for name in names if name not in self._by_name]:
            here = ", ".join(self._by_name) or "none"
            raise KeyError(f"there is no tool {', '.join(map(repr, missing))}; there are {here}")

    @property
    def runs_otherwise(self) -> bool:
        """Whether it says how its tools run: who approves, for how long, how many at a time."""
        return (self._approve, self.tool_timeout, self.max_parallel_tools) != (None, None, None)

    # ---- sets made from this one ----

    def _with(self, tools: Mapping[str, ToolLike]) -> Self:
        """A set of the same class with other tools."""
        derived = copy.copy(self)
        derived._by_name = dict(tools)
        derived._approvals = Approvals()
        return derived

    def only(self, *names: str) -> Self:
        """A set of some of the tools, in the order of this set.

        Raises:
            KeyError: there is none of a name.
        """
        self._check(*names)
        return self._with({name: tool for name, tool in self._by_name.items() if name in names})

    def without(self, *names: str) -> Self:
        """A set of the other tools.

        Raises:
            KeyError: there is none of a name.
        """
        self._check(*names)
        return self._with({name: tool for name, tool in self._by_name.items() if name not in names})

    def prefixed(self, prefix: str) -> Self:
        """A set of the same tools under longer names. All else is as before, and stays with the tools.

        Args:
            prefix: goes before each name, such as `fs_`.

        Raises:
            FunctionSpecError: Kimi refuses one of the names.
        """
        return self._with(by_name(RenamedTool(tool, prefix + name) for name, tool in self._by_name.items()))

    def __iadd__(self, tool: ToolLike | Callable[..., Any]) -> Self:
        return self.add(tool)

    def __add__(self, tool: ToolLike | Callable[..., Any]) -> Self:
        return copy.copy(self).add(tool)

    def __ior__(self, other: SimpleToolset) -> Self:
        if not isinstance(other, SimpleToolset):
            return NotImplemented
        if other._approve is not self._approve and any(getattr(tool, "approval", False) is not False for tool in other):
            raise FunctionSpecError(
                "the sets ask somebody else for approval; say who is asked: SimpleToolset([*a, *b], approve=...)"
            )
        self._by_name = merged(self._by_name, other._by_name)
        return self

    def __or__(self, other: SimpleToolset) -> Self:
        return copy.copy(self).__ior__(other)

    # ---- what the model is told of ----

    def enable(self, *names: str) -> Self:
        """Let the model know of tools again, and return the toolset.

        It is the `enabled` of the tools that changes, so it holds for every agent and set that has them, at once.

        Raises:
            KeyError: there is none of a name.
            FunctionSpecError: a tool decides that itself.
        """
        return self._switched(names, True)

    def disable(self, *names: str) -> Self:
        """Hide tools from the model, and return the toolset. One that is called all the same still runs.

        Raises:
            KeyError: there is none of a name.
            FunctionSpecError: a tool decides that itself.
        """
        return self._switched(names, False)

    def _switched(self, names: Iterable[str], enabled: bool) -> Self:
        self._check(*(names := tuple(names)))
        for name in names:
            switch(self._by_name[name], enabled)
        return self

    async def invoke(self, call: ToolCall) -> ToolReturnValue:
        """Run a call.

        Raises:
            FunctionCallException: it did not work.
        """
        await self._check_approval(call)
        return await invoke(self._by_name, call, self.texts, self.tool_timeout)

    async def _check_approval(self, call: ToolCall) -> None:
        """Make sure that a call may run.

        Raises:
            CallRejected: it may not.
            FunctionCallException: it cannot.
        """
        tool, arguments = found(self._by_name, call)
        if not await must_be_approved(tool, arguments):
            return
        if self._approve is None:
            raise CallRejected(asked=False)
        try:
            approval = await self._approvals.ask(self._approve, call, tool)
        except Exception as error:
            raise WrappedCallException(True, error) from error
        if not approval.is_given:
            raise CallRejected(approval.feedback, asked=approval.decision == "reject")

    def is_sequential(self, call: ToolCall) -> bool:
        """Whether a call runs alone."""
        return is_sequential(self._by_name, call)

    def handle(self, tool_call: ToolCall) -> HandleResult:
        """Run a call in a task of its own; what goes wrong is a result with `is_error`.

        What cannot be run has its result at once.
        """
        if type(self).invoke is SimpleToolset.invoke:  # else that decides what can be run
            try:
                found(self._by_name, tool_call)
            except FunctionCallException as error:
                return self._failed(tool_call, error)
        return asyncio.get_running_loop().create_task(self.result_of(tool_call))

    async def result_of(self, call: ToolCall) -> ToolResult:
        """Run a call in the running task; what goes wrong is a result with `is_error`."""
        try:
            return ToolResult(tool_call_id=call.id, return_value=await self.invoke(call))
        except FunctionCallException as error:
            return self._failed(call, error)

    def _failed(self, call: ToolCall, error: FunctionCallException) -> ToolResult:
        return ToolResult(tool_call_id=call.id, return_value=tool_error_from(error, self.texts))

    def runs_in_thread(self, call: ToolCall) -> bool:
        """Whether the tool of a call runs in a thread, which cannot be stopped."""
        return bool(getattr(self._by_name.get(call.name), "in_thread", False))


class EmptyToolset:
    """No tools. Whatever is called is not found."""

    texts: ToolTexts = MARKED_TEXTS
    """As of a `SimpleToolset`."""

    @property
    def tools(self) -> list[Tool]:
        """None."""
        return []

    def __iter__(self) -> Iterator[ToolLike]:
        return iter(())

    def handle(self, tool_call: ToolCall) -> HandleResult:
        """A result that says that there is no such tool."""
        error = tool_error_from(NoSuchFunction(tool_call.name), self.texts)
        return ToolResult(tool_call_id=tool_call.id, return_value=error)


async def handled(toolset: Toolset, call: ToolCall) -> ToolResult:
    """What `toolset` gives for a call. A call that is cancelled has a result, too: it says so.

    Raises:
        Exception: what a toolset raises that breaks its promise not to.
    """
    given: HandleResult | None = None
    try:
        if isinstance(toolset, SimpleToolset) and _handles_plainly(toolset):
            return await toolset.result_of(call)  # a task less
        given = toolset.handle(call)
        return _answering(call, given if isinstance(given, ToolResult) else await given)
    except asyncio.CancelledError as error:
        if isinstance(given, asyncio.Future) and given.done() and not given.cancelled() and not given.exception():
            return _answering(call, given.result())  # it was there when the cancellation came
        return stopped(toolset, call, None if is_being_cancelled() else error)


def _handles_plainly(toolset: SimpleToolset) -> bool:
    return type(toolset).handle is SimpleToolset.handle and "handle" not in vars(toolset)


def _answering(call: ToolCall, given: object) -> ToolResult:
    """What somebody's toolset gave as the result of `call`.

    Raises:
        TypeError: it is no result.
    """
    if isinstance(given, ToolResult):
        return given if given.tool_call_id == call.id else given.copy_with(tool_call_id=call.id)
    return ToolResult(tool_call_id=call.id, return_value=checked_value(given))


def stopped(
    toolset: Toolset, call: ToolCall, error: BaseException | None = None, *, goes_on: bool = False
) -> ToolResult:
    """The result of a call that gave none: it was cancelled, and may go on all the same, or ended with `error`."""
    texts = texts_of(toolset)
    if error is not None:
        value = tool_error_from(WrappedCallException(True, error), texts)
    else:
        goes_on = goes_on or (isinstance(toolset, SimpleToolset) and toolset.runs_in_thread(call))
        value = ToolError(message=texts.still_running() if goes_on else texts.interrupted(), brief="Interrupted")
    return ToolResult(tool_call_id=call.id, return_value=value)


def texts_of(toolset: Toolset) -> ToolTexts:
    """What a toolset says by itself."""
    texts = getattr(toolset, "texts", None)
    return texts if isinstance(texts, ToolTexts) else MARKED_TEXTS

"""Finding and running tools: the only place where they run."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, Self, TypeAlias, TypeVar, cast, runtime_checkable

from ..errors import FunctionCallException, FunctionSpecError, NoSuchFunction, ToolArgumentsError, WrappedCallException
from ..message import Message, ToolCall, parse_any_arguments
from .base import Tool, ToolError, ToolLike, ToolResult, ToolReturnValue
from .callable import CallableTool, CallableTool2, check_return_type
from .function import AIFunction, as_function
from .running import failure, is_being_cancelled
from .texts import DEFAULT_TEXTS, MARKED_TEXTS, ToolTexts, tool_error_from

__all__ = [
    "EmptyToolset",
    "ExceptionHandleResult",
    "FunctionCallResult",
    "HandleResult",
    "RunningCalls",
    "SimpleToolset",
    "ToolResultFuture",
    "Toolset",
    "handled",
    "invoke",
    "texts_of",
]

T = TypeVar("T")

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
    """

    is_model_turn: bool
    message: Message


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
        return cast(ToolLike, candidate)
    if not callable(candidate):
        raise FunctionSpecError(f"{candidate!r} is no function for a model; pass a function or a tool")
    return as_function(candidate)


def by_name(tools: Iterable[ToolLike | Callable[..., Any]]) -> dict[str, ToolLike]:
    """The tools by their names, in the order in which they come.

    Raises:
        FunctionSpecError: two have one name, or one is no tool.
    """
    named: dict[str, ToolLike] = {}
    for tool in map(as_tool, tools):
        if (name := tool.base.name) in named:
            raise FunctionSpecError(f"there are two functions named {name!r}; give one of them another name=")
        named[name] = tool
    return named


# ==== one call ====


def find(tools: Mapping[str, ToolLike], call: ToolCall) -> tuple[ToolLike, Any]:
    """The tool that `call` names, and its arguments.

    Raises:
        NoSuchFunction: there is none.
        ToolArgumentsError: the arguments are no JSON, or no object.
    """
    tool = tools.get(call.name)
    if tool is None:
        raise NoSuchFunction(call.name)
    try:
        return tool, parse_any_arguments(call.arguments) if isinstance(tool, CallableTool) else call.args
    except ToolArgumentsError as error:
        error.retry = getattr(tool, "auto_retry", True)
        raise


async def run_found(tool: ToolLike, arguments: Any, texts: ToolTexts) -> ToolReturnValue:
    """Run a tool.

    Raises:
        ToolArgumentsError: the arguments do not fit.
        WrappedCallException: the tool raised.
    """
    if isinstance(tool, AIFunction | CallableTool | CallableTool2):
        return await tool.invoke(arguments, texts=texts)
    try:
        return await tool.call(arguments)
    except asyncio.CancelledError as error:
        raise failure(error, True)  # noqa: B904  the cause is set, or it is the error itself


async def invoke(tools: Mapping[str, ToolLike], call: ToolCall, texts: ToolTexts = DEFAULT_TEXTS) -> ToolReturnValue:
    """Find the tool that `call` names and run it.

    Raises:
        NoSuchFunction: there is none.
        ToolArgumentsError: the arguments are no JSON object, or do not fit.
        WrappedCallException: the tool raised.
    """
    tool, arguments = find(tools, call)
    return await run_found(tool, arguments, texts)


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

    Args:
        tools: `AIFunction`s, `CallableTool`s, `CallableTool2`s, other tools, and plain functions.

    Raises:
        FunctionSpecError: two tools have one name, or one is no tool. It is a `ValueError`, and a `TypeError`.
    """

    texts: ToolTexts = MARKED_TEXTS
    """Every sentence that this package itself puts into a result."""

    def __init__(self, tools: Iterable[ToolLike | Callable[..., Any]] | None = None) -> None:
        self._by_name = by_name(tools or ())

    @property
    def tools(self) -> list[Tool]:
        """The definitions, in the order in which the tools came."""
        return [tool.base for tool in self._by_name.values()]

    def add(self, tool: ToolLike | Callable[..., Any]) -> Self:
        """Add a tool, and return the toolset.

        Raises:
            FunctionSpecError: there is one of this name, or it is no tool.
        """
        self._by_name = by_name([*self._by_name.values(), tool])
        return self

    def remove(self, tool_name: str) -> Self:
        """Take a tool out, and return the toolset.

        Raises:
            KeyError: there is none of this name.
        """
        if tool_name not in self._by_name:
            raise KeyError(f"there is no tool {tool_name!r}; there are {', '.join(self._by_name) or 'none'}")
        self._by_name = {name: tool for name, tool in self._by_name.items() if name != tool_name}
        return self

    def __iadd__(self, tool: ToolLike | Callable[..., Any]) -> Self:
        return self.add(tool)

    def __add__(self, tool: ToolLike | Callable[..., Any]) -> Self:
        return copy.copy(self).add(tool)

    def __ior__(self, other: SimpleToolset) -> Self:
        self._by_name = by_name([*self._by_name.values(), *other._by_name.values()])
        return self

    def __or__(self, other: SimpleToolset) -> Self:
        merged = copy.copy(self)
        merged |= other
        return merged

    def __contains__(self, tool_name: object) -> bool:
        return tool_name in self._by_name

    def __len__(self) -> int:
        return len(self._by_name)

    async def invoke(self, call: ToolCall) -> ToolReturnValue:
        """Run a call.

        Raises:
            FunctionCallException: it did not work.
        """
        return await invoke(self._by_name, call, self.texts)

    def handle(self, tool_call: ToolCall) -> HandleResult:
        """Run a call in a task of its own; what goes wrong is a result with `is_error`."""
        try:
            tool, arguments = find(self._by_name, tool_call)
        except FunctionCallException as error:
            return ToolResult(tool_call_id=tool_call.id, return_value=tool_error_from(error, self.texts))
        return asyncio.get_running_loop().create_task(self._handled(tool_call, tool, arguments))

    async def _handled(self, call: ToolCall, tool: ToolLike, arguments: Any) -> ToolResult:
        try:
            value = await run_found(tool, arguments, self.texts)
        except FunctionCallException as error:
            value = tool_error_from(error, self.texts)
        return ToolResult(tool_call_id=call.id, return_value=value)

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

    def handle(self, tool_call: ToolCall) -> HandleResult:
        """A result that says that there is no such tool."""
        error = tool_error_from(NoSuchFunction(tool_call.name), self.texts)
        return ToolResult(tool_call_id=tool_call.id, return_value=error)


async def handled(toolset: Toolset, call: ToolCall) -> ToolResult:
    """What `toolset` gives for a call. A call that is cancelled has a result, too: it says so.

    Raises:
        Exception: what a toolset raises that breaks its promise not to.
    """
    try:
        given = toolset.handle(call)
        return given if isinstance(given, ToolResult) else await given
    except asyncio.CancelledError as error:
        return ToolResult(tool_call_id=call.id, return_value=_stopped(toolset, call, error))


def _stopped(toolset: Toolset, call: ToolCall, error: BaseException) -> ToolError:
    """What became of a call that ended with a cancellation: its caller's, or one that the tool made up."""
    texts = texts_of(toolset)
    if not is_being_cancelled():
        return tool_error_from(WrappedCallException(True, error), texts)
    in_thread = isinstance(toolset, SimpleToolset) and toolset.runs_in_thread(call)
    return ToolError(message=texts.still_running() if in_thread else texts.interrupted(), brief="Interrupted")


def texts_of(toolset: Toolset) -> ToolTexts:
    """What a toolset says by itself."""
    return getattr(toolset, "texts", MARKED_TEXTS)


# ==== the calls of one message ====

CANCEL_GRACE: Final = 5.0
"""Seconds that cancelled calls get to clean up before they are left to themselves."""


class RunningCalls(Generic[T]):
    """The calls of one message, side by side, each in a task of its own, known by their position.

    Args:
        calls: what the model asked for.
        run: runs one call. What it raises ends them all.
        commit: puts what `run` gave where it lasts.
    """

    def __init__(
        self,
        calls: Sequence[ToolCall],
        run: Callable[[ToolCall], Awaitable[T]],
        commit: Callable[[T], Awaitable[None]],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._calls = tuple(calls)
        self._run, self._commit = run, commit
        self._started: set[int] = set()
        self._finished: dict[int, T] = {}
        self._cancelled = False
        self._failed: asyncio.Future[None] = loop.create_future()
        self._tasks = [loop.create_task(self._run_one(position)) for position in range(len(self._calls))]
        for task in self._tasks:
            task.add_done_callback(self._note_failure)

    async def _run_one(self, position: int) -> T:
        self._started.add(position)
        outcome = self._finished[position] = await self._run(self._calls[position])
        if not self._cancelled:  # else whoever cancelled answers the call
            await self._commit(outcome)
        return outcome

    def _note_failure(self, task: asyncio.Task[T]) -> None:
        failed = task.cancelled() or task.exception() is not None
        if failed and not self._failed.done():
            self._failed.set_result(None)

    def has_started(self, call: ToolCall) -> bool:
        """Whether a call has begun to run."""
        return any(known.id == call.id for known in map(self._calls.__getitem__, self._started))

    def outcome_of(self, call: ToolCall) -> T | None:
        """What a call gave, committed or not; `None` if it gave nothing yet."""
        return next((outcome for place, outcome in self._finished.items() if self._calls[place].id == call.id), None)

    async def result(self, position: int) -> T:
        """What the call at `position` gave, as soon as it is there. Cancelling the wait cancels no call.

        After `drain` it is what there is.

        Raises:
            Exception: what `run` or `commit` raised, for this call or for another one.
        """
        if self._cancelled and position in self._finished:
            return self._finished[position]
        task = self._tasks[position]
        await asyncio.wait([task, self._failed], return_when=asyncio.FIRST_COMPLETED)
        if self._failed.done():
            task = next(task for task in self._tasks if task.done() and (task.cancelled() or task.exception()))
        return task.result()

    def cancel(self) -> None:
        """Cancel what still runs. What it gives all the same is not committed."""
        self._cancelled = True
        for task in self._tasks:
            task.cancel()

    async def drain(self) -> None:
        """Cancel what still runs and wait for it to end, but no longer than `CANCEL_GRACE`."""
        self.cancel()
        if running := [task for task in self._tasks if not task.done()]:
            await asyncio.wait(running, timeout=CANCEL_GRACE)

    def drop(self) -> None:
        """Cancel what still runs, now and from any thread; it ends by itself."""
        running = [task for task in self._tasks if not task.done()]
        if not running or (loop := running[0].get_loop()).is_closed():
            return
        _ending.update(running)
        for task in running:
            task.add_done_callback(_ending.discard)
        if asyncio._get_running_loop() is loop:
            self.cancel()
        else:
            loop.call_soon_threadsafe(self.cancel)


_ending: Final[set[asyncio.Task[Any]]] = set()
"""Calls that nobody holds any more. A loop holds its tasks weakly: without this they could vanish before they end."""

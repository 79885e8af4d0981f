"""Finding and running tools: the only place where they run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, Self, TypeAlias, TypeVar

from ..errors import FunctionCallException, FunctionSpecError, NoSuchFunction, ToolArgumentsError, WrappedCallException
from ..message import Message, ToolCall
from .base import DEFAULT_TEXTS, Tool, ToolLike, ToolResult, ToolReturnValue, ToolTexts, tool_error_from
from .function import AIFunction

__all__ = [
    "ExceptionHandleResult",
    "FunctionCallResult",
    "HandleResult",
    "RunningCalls",
    "SimpleToolset",
    "Toolset",
    "invoke",
]

T = TypeVar("T")

HandleResult: TypeAlias = "asyncio.Future[ToolResult] | ToolResult"
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


def by_name(tools: Iterable[ToolLike]) -> dict[str, ToolLike]:
    """The tools by their names, in the order in which they come.

    Raises:
        FunctionSpecError: two have one name.
    """
    named: dict[str, ToolLike] = {}
    for tool in tools:
        if not isinstance(getattr(tool, "base", None), Tool):
            raise FunctionSpecError(f"{tool!r} is no function for a model; wrap it: AIFunction(...)")
        if (name := tool.base.name) in named:
            raise FunctionSpecError(f"there are two functions named {name!r}; give one of them another name=")
        named[name] = tool
    return named


# ==== one call ====


async def invoke(tools: Mapping[str, ToolLike], call: ToolCall, texts: ToolTexts = DEFAULT_TEXTS) -> ToolReturnValue:
    """Find the tool that `call` names and run it.

    Raises:
        NoSuchFunction: there is none.
        ToolArgumentsError: the arguments are no JSON object, or do not fit.
        WrappedCallException: the tool raised.
    """
    tool = tools.get(call.name)
    if tool is None:
        raise NoSuchFunction(call.name)
    if not isinstance(tool, AIFunction):
        return await _called(tool, call)
    try:
        arguments = call.args
    except ToolArgumentsError as error:
        error.retry = tool.auto_retry
        raise
    return await tool.invoke(arguments, texts=texts)


async def _called(tool: ToolLike, call: ToolCall) -> ToolReturnValue:
    try:
        return await tool.call(call.args)
    except asyncio.CancelledError as error:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        raise WrappedCallException(True, error) from error


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

    Raises:
        FunctionSpecError: two tools have one name.
    """

    def __init__(self, tools: Iterable[ToolLike] = ()) -> None:
        self._by_name = by_name(tools)

    def add(self, tool: ToolLike) -> Self:
        """Add a tool.

        Raises:
            FunctionSpecError: there is one of this name.
        """
        self._by_name = by_name([*self._by_name.values(), tool])
        return self

    @property
    def tools(self) -> list[Tool]:
        """The definitions, in the order in which the tools came."""
        return [tool.base for tool in self._by_name.values()]

    async def invoke(self, call: ToolCall) -> ToolReturnValue:
        """Run a call.

        Raises:
            FunctionCallException: it did not work.
        """
        return await invoke(self._by_name, call)

    def handle(self, tool_call: ToolCall) -> HandleResult:
        """Run a call in a task of its own; what goes wrong is a result with `is_error`."""
        return asyncio.get_running_loop().create_task(self._handled(tool_call))

    async def _handled(self, call: ToolCall) -> ToolResult:
        try:
            value = await self.invoke(call)
        except FunctionCallException as error:
            value = tool_error_from(error)
        return ToolResult(tool_call_id=call.id, return_value=value)


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
        self.started: set[str] = set()
        """The ids of the calls that have begun to run."""
        self.finished: dict[str, T] = {}
        """What calls gave, by their id, committed or not."""
        self._run, self._commit = run, commit
        self._cancelled = False
        self._failed: asyncio.Future[None] = loop.create_future()
        self._tasks = [loop.create_task(self._run_one(call)) for call in calls]
        for task in self._tasks:
            task.add_done_callback(self._note_failure)

    async def _run_one(self, call: ToolCall) -> T:
        self.started.add(call.id)
        outcome = self.finished[call.id] = await self._run(call)
        if not self._cancelled:  # else whoever cancelled answers the call
            await self._commit(outcome)
        return outcome

    def _note_failure(self, task: asyncio.Task[T]) -> None:
        failed = task.cancelled() or task.exception() is not None
        if failed and not self._failed.done():
            self._failed.set_result(None)

    async def result(self, position: int) -> T:
        """What the call at `position` gave, as soon as it is there. Cancelling the wait cancels no call.

        Raises:
            Exception: what `run` raised, for this call or for another one.
        """
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

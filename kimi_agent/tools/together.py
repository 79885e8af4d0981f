"""The calls of one message, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any, Final, Generic, TypeVar

from ..errors import RoundInProgressError
from ..events import own_cancellation
from ..message import ToolCall
from . import running

__all__ = ["RunningCalls"]

T = TypeVar("T")

TURNS_TO_END: Final = 8
"""Turns of the event loop that cancelled calls get to end when who waits is cancelled, too. A deadline takes four."""


class _Ended(asyncio.CancelledError):
    """A call does not begin, as another one has ended them all."""


class RunningCalls(Generic[T]):
    """The calls of one message, side by side, each in a task of its own, known by their position.

    Args:
        calls: what the model asked for.
        run: runs one call. What it raises ends them all.
        commit: puts what came of a call where it lasts.
        decide: what comes of a call that must not run; `None` lets it run. It is asked before the call has a place.
        sequential: whether a call runs alone: after all calls before it, and before all calls after it.
        most: how many run at a time; `None` is no bound.
    """

    def __init__(
        self,
        calls: Sequence[ToolCall],
        run: Callable[[ToolCall], Awaitable[T]],
        commit: Callable[[T], Awaitable[None]],
        *,
        decide: Callable[[ToolCall], Awaitable[T | None]] | None = None,
        sequential: Callable[[ToolCall], bool] | None = None,
        most: int | None = None,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._mark = object()
        self._calls = tuple(calls)
        self._run, self._commit, self._decide = run, commit, decide
        self._is_bounded = most is not None
        self._places = nullcontext() if most is None else asyncio.Semaphore(most)
        self._before = _order([sequential is not None and sequential(call) for call in self._calls])
        self._started: set[str] = set()
        self._finished: dict[int, T] = {}
        self._by_id: dict[str, T] = {}
        self.cancelled = False
        """Whether they have been told to stop."""
        self._drained = self._is_failing = False
        self._failed: asyncio.Future[asyncio.Task[T]] = loop.create_future()
        self._tasks = [loop.create_task(self._run_one(position)) for position in range(len(self._calls))]
        self._left: set[asyncio.Task[T]] = set()
        _under_way.update(self._tasks)
        for task in self._tasks:
            task.add_done_callback(_under_way.discard)
            task.add_done_callback(self._note_failure)

    async def _run_one(self, position: int) -> T:
        _inside.set(_inside.get() | {self._mark})
        if before := self._before[position]:
            await asyncio.wait(self._tasks[before])
            self._check_going()
        try:
            return await self._answered(position)
        except asyncio.CancelledError as error:
            if isinstance(error, _Ended) or self.cancelled or running.is_being_cancelled():
                raise
            raise own_cancellation("a hook of the call", error) from error  # it was made by who was not cancelled

    async def _answered(self, position: int) -> T:
        call = self._calls[position]
        if self._decide is not None and (decided := await self._decide(call)) is not None:
            return await self._take(position, decided)
        async with self._places:
            if self._is_bounded:
                self._check_going()
            try:
                return await self._take(position, await self._ran(call))
            except BaseException:
                self._is_failing = True  # before the place is free
                raise

    async def _ran(self, call: ToolCall) -> T:
        self._started.add(call.id)
        with running.watched(call, lambda: self.cancelled) as watch:
            try:
                return await self._run(call)
            except asyncio.CancelledError:
                if watch.never_began:
                    self._started.discard(call.id)
                raise

    async def _take(self, position: int, outcome: T) -> T:
        """Keep what came of a call, in its place among the running ones: what it ends does not begin meanwhile."""
        self._finished[position] = outcome
        self._by_id.setdefault(self._calls[position].id, outcome)
        if not self.cancelled:  # else whoever cancelled answers the call
            await self._commit(outcome)
        return outcome

    def _check_going(self) -> None:
        """Who has waited does not begin any more when a call has ended them all.

        Raises:
            _Ended: one has.
        """
        if self._is_failing or self._failed.done():
            raise _Ended

    def _note_failure(self, task: asyncio.Task[T]) -> None:
        failed = task.cancelled() or task.exception() is not None
        if failed and not self._failed.done():
            self._failed.set_result(task)

    def has_started(self, call: ToolCall) -> bool:
        """Whether a call has begun to run."""
        return call.id in self._started

    def does_not_end(self, call: ToolCall) -> bool:
        """Whether a call was left to itself and still runs."""
        pairs = zip(self._calls, self._tasks, strict=True)
        return any(known is call and task in self._left and not task.done() for known, task in pairs)

    def outcome_of(self, call: ToolCall) -> T | None:
        """What a call gave, committed or not; `None` if it gave nothing yet."""
        return self._by_id.get(call.id)

    async def result(self, position: int) -> T:
        """What the call at `position` gave, as soon as it is there. Cancelling the wait cancels no call.

        Raises:
            Exception: what `run` or `commit` raised, for this call or for another one.
        """
        task = self._tasks[position]
        if not (task.done() or self._failed.done()):
            await asyncio.wait([task, self._failed], return_when=asyncio.FIRST_COMPLETED)
        if self.cancelled and position in self._finished:  # somebody else has cancelled it, not who waits here
            return self._finished[position]
        return (self._failed.result() if self._failed.done() else task).result()

    def at(self, position: int) -> T | BaseException | None:
        """What there is of the call at `position` by now: what it gave, or else raised, or nothing."""
        task = self._tasks[position]
        failed = task.exception() if task.done() and not task.cancelled() else None
        return self._finished.get(position, failed)

    def check_waiter(self) -> None:
        """Make sure that the running task can wait for all calls.

        Raises:
            RoundInProgressError: it belongs to one of them.
            RuntimeError: it is in another event loop.
        """
        if all(task.done() for task in self._tasks):
            return
        if self._mark in _inside.get():
            raise RoundInProgressError("a call cannot wait for the results of all calls: its own is one of them")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("the calls of a step run in the event loop of the step; wait for them there")

    def cancel(self) -> None:
        """Cancel what still runs. What it gives all the same is not committed. Twice is once."""
        if self.cancelled:
            return
        self.cancelled = True
        for task in self._tasks:
            task.cancel()

    async def drain(self) -> None:
        """Cancel what still runs and wait for it to end, but no longer than `CANCEL_GRACE`, and that once.

        What does not end is left to itself. Who is cancelled meanwhile waits for the few turns of the event loop that
        it takes to end at once.
        """
        self.cancel()
        if self._drained:
            return
        try:
            if ending := self._unfinished:
                await asyncio.wait(ending, timeout=running.CANCEL_GRACE)
        except asyncio.CancelledError:
            await self._leave_soon()
            raise
        self._drained = True
        self._leave()

    async def _leave_soon(self) -> None:
        try:
            for _ in range(TURNS_TO_END):
                if self._unfinished:
                    await asyncio.sleep(0)
        finally:
            self._leave()

    def _leave(self) -> None:
        for call, task in zip(self._calls, self._tasks, strict=True):
            if not (task.done() or task in self._left):
                self._left.add(task)
                running.leave(task, call.name)

    @property
    def _unfinished(self) -> list[asyncio.Task[T]]:
        return [task for task in self._tasks if not task.done()]

    def drop(self) -> None:
        """Cancel what still runs, now and from any thread; it ends by itself."""
        if self._loop.is_closed() or all(task.done() for task in self._tasks):
            return
        if asyncio._get_running_loop() is self._loop:
            self.cancel()
        else:
            self._loop.call_soon_threadsafe(self.cancel)


def _order(sequential: Sequence[bool]) -> list[slice | None]:
    """For each position, the positions that have to end before: all since the last one that runs alone."""
    before: list[slice | None] = []
    alone: int | None = None
    for position, is_alone in enumerate(sequential):
        if is_alone:
            before.append(slice(alone or 0, position) if position else None)
            alone = position
        else:
            before.append(None if alone is None else slice(alone, alone + 1))
    return before


_inside: Final[ContextVar[frozenset[object]]] = ContextVar("kimi_agent_calls", default=frozenset())
"""The marks of the calls that this code runs inside of; tasks that a tool starts inherit them."""


_under_way: Final[set[asyncio.Task[Any]]] = set()
"""The calls that run. A loop holds its tasks weakly: without this, those that nobody holds would vanish unfinished."""

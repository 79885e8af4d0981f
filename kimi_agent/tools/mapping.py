"""Calls over a stream of arguments: several at a time, and no faster than their results are taken.

One task pulls the items, each call has a task of its own, and who iterates waits on what they have written down. There
are never more calls under way and results that nobody has taken than `concurrency`, and an item is pulled only when
there is a place for it: a slow reader stops the source.

None of the tasks holds the object that is iterated. So closing it, leaving `async with` and dropping it all end them;
the first two wait for that, and the last one cannot. A cancelled reader cancels its own wait only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar, cast

from loguru import logger
from pydantic import BaseModel

from .base import ToolResult
from .running import CANCEL_GRACE

__all__ = ["MappedCall", "MappedCalls"]

T = TypeVar("T")
Result = TypeVar("Result")

Items: TypeAlias = AsyncIterable[T] | Iterable[T]
"""A stream of arguments, async or not."""

Start: TypeAlias = Callable[[T], Coroutine[Any, Any, tuple[ToolResult, str]]]
"""Makes the call of an item; what it raises itself, before there is a coroutine, is an error of the items."""


@dataclass(frozen=True, slots=True)
class MappedCall(Generic[T]):
    """What the call of one item gave.

    Args:
        index: the place of the item in the stream, from 0.
        args: the item itself.
        result: of the call.
        content: the text of the result as a model would read it, what went wrong included.
    """

    index: int
    args: T
    result: ToolResult
    content: str

    @property
    def ok(self) -> bool:
        """Whether the call went well."""
        return not self.result.return_value.is_error


class MappedCalls(Generic[T]):
    """The results of the calls of a stream of items, as an async iterator.

    `async for` is enough, and a `break` cancels what still runs. `async with` or `aclose()` also wait until it has
    ended and the source is closed. Nothing happens before the first result is asked for. Several tasks may read it
    side by side; each result goes to one of them.

    When a reader is cancelled, its calls go on until the object is closed or dropped, and their results are there for
    whoever asks next.

    Args:
        items: where the items come from. A plain iterable is read on the event loop.
        start: makes the call of an item.
        concurrency: how many calls may be under way, or finished and not taken.
        ordered: whether the results come in the order of the items, else as they finish.

    Raises:
        TypeError: `items` is no stream.
        ValueError: `concurrency` is less than 1.
    """

    def __init__(self, items: Items[T], start: Start[T], *, concurrency: int = 16, ordered: bool = False) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency is 1 or more, not {concurrency}")
        self._work = _Work(_pulled(items), start, concurrency, ordered)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MappedCall[T]:
        """The next result.

        Raises:
            Exception: once, behind the last result: what the source raised, or what ended a call otherwise than by a
                result. No item is pulled after it.
            RuntimeError: it is asked in another event loop than before.
        """
        self._work.begin()
        return await self._work.take()

    async def aclose(self) -> None:
        """Cancel what runs, wait for it, and close the source. What nobody has taken is gone. Twice is once.

        Any task may do that. In another event loop it does not wait.
        """
        self._work.close()
        await self._work.ended()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if work := getattr(self, "_work", None):
            work.close()


class _Work(Generic[T]):
    """What the tasks and the readers share."""

    def __init__(self, source: AsyncIterator[T], start: Start[T], concurrency: int, ordered: bool) -> None:
        self._source, self._start = source, start
        self._concurrency, self._ordered = concurrency, ordered
        self._loop: asyncio.AbstractEventLoop | None = None
        self._puller: asyncio.Task[None] | None = None
        self._pulling = False
        """Whether cancelling the puller interrupts a pull: else it has not begun, or is closing the source."""
        self._no_more = False
        """Whether no further item is wanted."""
        self._exhausted = False
        """Whether the puller has ended."""
        self._closed = False
        self._source_closed = False
        self._error: BaseException | None = None
        self._begun = 0
        """How many calls have begun."""
        self._calls: set[asyncio.Task[Any]] = set()
        self._finished: dict[int, MappedCall[T]] = {}
        self._queue: deque[int] = deque()
        """The indexes in the order in which their results are handed out."""
        self._news, self._room = asyncio.Event(), asyncio.Event()

    # ---- the reader's side ----

    def begin(self) -> None:
        """Begin to pull, unless that was done.

        Raises:
            RuntimeError: it was done in another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None and not self._closed:
            self._loop = loop
            self._puller = _kept(loop.create_task(self._pull()))
            self._puller.add_done_callback(self._pull_ended)
        elif self._loop is not loop and not self._closed:
            raise RuntimeError("mapped calls run in the event loop in which they began; read them there")

    async def take(self) -> MappedCall[T]:
        """The next result; its place is free now."""
        while not (self._queue and self._queue[0] in self._finished):
            if self._closed or (self._exhausted and not self._calls):
                raise self._end()
            self._news.clear()
            await self._news.wait()
        self._room.set()
        return self._finished.pop(self._queue.popleft())

    def _end(self) -> BaseException:
        error, self._error = self._error, None
        return error or StopAsyncIteration()

    # ---- the source ----

    async def _pull(self) -> None:
        self._pulling = True
        try:
            while await self._has_room():
                try:
                    item = await anext(self._source)
                except StopAsyncIteration:
                    break
                self._call(item)
        finally:
            self._pulling = False
            await self._close_source()

    async def _has_room(self) -> bool:
        """Wait for a place for one more call; whether another one is wanted at all."""
        while not self._no_more and len(self._calls) + len(self._finished) >= self._concurrency:
            self._room.clear()
            await self._room.wait()
        return not self._no_more

    def _pull_ended(self, puller: asyncio.Task[None]) -> None:
        self._exhausted = True
        self._note(_error_of(puller), "the source of the items")

    async def _close_source(self) -> None:
        if self._source_closed:
            return
        self._source_closed = True
        try:
            if (aclose := getattr(self._source, "aclose", None)) is not None:
                await aclose()
        except Exception:  # it must not hide what was given, or what went wrong before
            logger.exception("the source of mapped calls could not be closed")

    # ---- the calls ----

    def _call(self, item: T) -> None:
        index, self._begun = self._begun, self._begun + 1
        call = _kept(asyncio.get_running_loop().create_task(self._started(index, item)))
        call.add_done_callback(partial(self._call_ended, index, item))
        self._calls.add(call)
        if self._closed:  # the source gave it although it was cancelled, or the object was collected just now
            call.cancel()
        if self._ordered:
            self._queue.append(index)

    def _started(self, index: int, item: T) -> Coroutine[Any, Any, tuple[ToolResult, str]]:
        try:
            return self._start(item)
        except Exception as error:
            error.add_note(f"item {index} of the stream")
            raise

    def _call_ended(self, index: int, item: T, call: asyncio.Task[tuple[ToolResult, str]]) -> None:
        self._calls.discard(call)
        if (error := _error_of(call)) is None and not self._closed:
            self._finished[index] = MappedCall(index, item, *call.result())
            if not self._ordered:
                self._queue.append(index)
        elif self._ordered and index in self._queue:
            self._queue.remove(index)
        self._note(error, f"the call of item {index}")

    def _note(self, error: BaseException | None, who: str) -> None:
        """A task has ended. The first error stops the source; it is raised when all results are handed out."""
        if error is not None and not self._no_more:
            self._error = _raisable(error, who)
            self._stop_pulling()
        self._news.set()

    # ---- the end ----

    def _stop_pulling(self) -> None:
        self._no_more = True
        if self._pulling and self._puller is not None:
            self._puller.cancel()

    def close(self) -> None:
        """Cancel what runs, from whatever thread, and wait for nothing. Twice is once."""
        loop = self._loop
        if loop is None or loop.is_closed() or asyncio._get_running_loop() is loop:
            self._close_now()
        else:
            with suppress(RuntimeError):  # it was closed just now
                loop.call_soon_threadsafe(self._close_now)

    def _close_now(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._error = None
        self._finished.clear()
        self._queue.clear()
        if self._loop is not None and not self._loop.is_closed():
            self._stop_pulling()
            for call in tuple(self._calls):
                call.cancel()
            self._news.set()

    async def ended(self) -> None:
        """Wait for the tasks, but no longer than `CANCEL_GRACE`; the source is closed then."""
        if self._puller is None:
            await self._close_source()
        elif self._loop is asyncio.get_running_loop():
            tasks = {self._puller, *self._calls} - {asyncio.current_task()}
            if running := [task for task in tasks if not task.done()]:
                await asyncio.wait(running, timeout=CANCEL_GRACE)


_under_way: Final[set[asyncio.Task[Any]]] = set()
"""The tasks that run: an event loop holds its tasks weakly."""


def _kept(task: asyncio.Task[Result]) -> asyncio.Task[Result]:
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    return task


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def _raisable(error: BaseException, who: str) -> BaseException:
    """`error`, unless raising it would tell the reader something else."""
    if not isinstance(error, asyncio.CancelledError | StopAsyncIteration):
        return error
    wrapped = RuntimeError(f"{who} ended with a {type(error).__name__}")
    wrapped.__cause__ = error
    return wrapped


def _pulled(items: Items[T]) -> AsyncIterator[T]:
    """A stream, async or not, as an async one.

    Raises:
        TypeError: it is the arguments of one call, or cannot be iterated.
    """
    if isinstance(items, AsyncIterable):
        return aiter(items)
    if isinstance(items, str | bytes | Mapping | BaseModel) or not isinstance(items, Iterable):
        kind = type(cast(object, items)).__name__
        raise TypeError(f"this takes a stream of arguments, one item for each call, not a {kind}; put it into a list")
    return _each(iter(items))


async def _each(items: Iterable[T]) -> AsyncGenerator[T, None]:
    for item in items:
        yield item

"""Running a function that the model called: where it runs, for how long, and what it means that it raised.

A call ends in a value or in a `FunctionCallException`: nothing that a function raises gets past that, `SystemExit`
included, except the cancellation of the caller.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from time import monotonic
from typing import Any, Final, TypeVar

from ..errors import FunctionTimeout, WrappedCallException
from ..message import ToolCall
from .context import context_here, context_in, deadline_in, in_context
from .threads import TOOL_THREADS, Job

__all__ = [
    "CANCEL_GRACE",
    "Watch",
    "abandoned_calls",
    "failure",
    "is_being_cancelled",
    "leave",
    "run",
    "watched",
    "within",
]

T = TypeVar("T")

CANCEL_GRACE: Final = 5.0
"""Seconds that cancelled calls get to clean up before they are left to themselves."""


# ==== where ====


async def run(function: Callable[..., Any], in_thread: bool, /, *args: Any, **kwargs: Any) -> Any:
    """Call a function where it belongs: on the loop, or in a thread if it blocks; await what it gives, if it can be."""
    if not in_thread:
        value = await function(*args, **kwargs)
        return await value if isawaitable(value) else value
    context, watch = context_here(), _watch.get()
    job = TOOL_THREADS.submit(partial(function, *args, **kwargs))
    if watch is not None and watch.call is context.call:
        watch.job = job
    try:
        outcome = await TOOL_THREADS.wait_for(job)
    except asyncio.CancelledError:
        if job.outcome is None or not context._keeps_result:
            raise
        outcome = job.outcome
    return await outcome.value_of()


@dataclass(slots=True, eq=False)
class Watch:
    """What is known of a call of a message while it runs.

    Args:
        call: that runs.
        task: that it runs in.
        was_told_to_stop: whether whoever runs it has cancelled it.
    """

    call: ToolCall
    task: asyncio.Task[Any] | None
    was_told_to_stop: Callable[[], bool]
    job: Job | None = None

    @property
    def never_began(self) -> bool:
        """Whether its function waits for a thread, and never had one."""
        return self.job is not None and self.job.began is None

    def cancelled_itself(self) -> bool:
        """Whether a cancellation that arrives in the running task comes from within the call. Then it is taken back."""
        task = asyncio.current_task()
        if task is None or task is not self.task or self.was_told_to_stop():
            return False
        task.uncancel()
        return True


_watch: Final[ContextVar[Watch | None]] = ContextVar("kimi_agent_watch", default=None)


@contextmanager
def watched(call: ToolCall, was_told_to_stop: Callable[[], bool]) -> Generator[Watch, None, None]:
    """What is called within runs a call of a message, in the running task."""
    token = _watch.set(watch := Watch(call, asyncio.current_task(), was_told_to_stop))
    try:
        yield watch
    finally:
        with suppress(ValueError):  # a task that is torn down with its loop leaves in another context
            _watch.reset(token)


# ==== for how long ====


async def within(seconds: float | None, name: str, running: Coroutine[Any, Any, T], *, retry: bool = True) -> T:
    """Wait for a running function, but not for ever.

    At the deadline it is cancelled. What it gives all the same while it cleans up is its result; if it does not end
    within `CANCEL_GRACE`, it is left to itself. A `TimeoutError` of its own is an error like any other.

    Args:
        seconds: how long it may take; `None` and infinity are no limit.
        name: of the function.
        running: the function.
        retry: whether the model may try again.

    Raises:
        FunctionTimeout: it took longer.
        BaseException: what the function raised before that.
    """
    if seconds is None or math.isinf(seconds):
        return await running
    with in_context(deadline_in(seconds)) as context:
        task = asyncio.get_running_loop().create_task(running)
    job: Job | None = None
    try:
        in_time = bool((await asyncio.wait([task], timeout=seconds))[0])
        job = None if in_time else TOOL_THREADS.job_of(lambda found: context_in(found) is context)
    except asyncio.CancelledError:
        await _stop(task, name)
        if not (context._keeps_result and task.done() and not task.cancelled()):
            raise
        return task.result()
    if not in_time and not await _gives_all_the_same(task, name, context._keeps_result):
        began = job is None or job.began is not None
        goes_on = not task.done() or (job is not None and began)
        raise FunctionTimeout(name, seconds, retry=retry, still_running=goes_on, began=began)
    if task.cancelled():
        raise WrappedCallException(retry, asyncio.CancelledError("the function cancelled itself"))
    return task.result()


async def _gives_all_the_same(task: asyncio.Task[Any], name: str, keeps_result: bool) -> bool:
    """Cancel a task at its deadline; whether it gives a result while it cleans up."""
    try:
        await _stop(task, name)
    except asyncio.CancelledError:
        if not (keeps_result and _gave(task)):
            raise
    return _gave(task)


def _gave(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def _stop(task: asyncio.Task[Any], name: str) -> None:
    """Cancel a task, and wait for its end a while, also if somebody else wants it to end meanwhile."""
    task.cancel()
    ends = monotonic() + CANCEL_GRACE
    try:
        await asyncio.wait([task], timeout=CANCEL_GRACE)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=max(ends - monotonic(), 0))
        raise
    finally:
        if not task.done():
            leave(task, name)


_left: Final[dict[asyncio.Task[Any], str]] = {}
"""Calls on an event loop that did not end when they were cancelled, with the names of their functions."""


def leave(task: asyncio.Task[Any], name: str) -> None:
    """Leave a call to itself that does not end."""
    _left[task] = name
    task.add_done_callback(_forget_left)


def _forget_left(task: asyncio.Task[Any]) -> None:
    _left.pop(task, None)
    if not task.cancelled():
        task.exception()  # nobody else asks for it


def abandoned_calls() -> tuple[str, ...]:
    """The names of functions that still run although nobody waits for them any more.

    They are in a thread, which cannot be stopped, or do not end when they are cancelled. They end with the program.
    """
    return (*TOOL_THREADS.abandoned, *(name for task, name in _left.items() if not task.get_loop().is_closed()))


# ==== what it means that it raised ====


def failure(error: BaseException, retry: bool) -> BaseException:
    """What to raise for `error`: itself if it ends the caller, else the error of a call."""
    if isinstance(error, GeneratorExit):
        return error
    if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
        watch = _watch.get()
        if watch is None or not watch.cancelled_itself():
            return error
    return WrappedCallException(retry, error)


def is_being_cancelled() -> bool:
    """Whether a cancellation that arrives here is meant for the running task."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0

"""Running a function that the model called: where it runs, for how long, and what it means that it raised.

A call ends in a value or in a `FunctionCallException`: nothing that a function raises gets past that, `SystemExit`
included, except the cancellation of the caller.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from ..errors import FunctionTimeout, KimiAgentError, WrappedCallException
from .context import context_in, deadline_in, in_context
from .threads import TOOL_THREADS

__all__ = ["CANCEL_GRACE", "abandoned_calls", "failure", "is_being_cancelled", "leave", "run", "within"]

T = TypeVar("T")

CANCEL_GRACE: Final = 5.0
"""Seconds that cancelled calls get to clean up before they are left to themselves."""


async def run(function: Callable[..., Any], in_thread: bool, /, *args: Any, **kwargs: Any) -> Any:
    """Call a function where it belongs: on the loop, or in a thread if it blocks."""
    if in_thread:
        return await TOOL_THREADS.run(function, *args, **kwargs)
    return await function(*args, **kwargs)


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
    if not await _ends(task, name, seconds):
        in_thread = TOOL_THREADS.works_for(lambda found: context_in(found) is context)
        await _stop(task, name)
        if not task.done() or task.cancelled() or task.exception() is not None:
            raise FunctionTimeout(name, seconds, retry=retry, still_running=in_thread or not task.done())
    return task.result()


async def _ends(task: asyncio.Task[Any], name: str, seconds: float) -> bool:
    """Whether a task ends in time. Whoever is cancelled meanwhile cancels it, and waits for its end."""
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        await _stop(task, name)
        if task.done() and not task.cancelled():
            return True
        raise
    return bool(done)


async def _stop(task: asyncio.Task[Any], name: str) -> None:
    """Cancel a task, and wait for its end a while."""
    task.cancel()
    try:
        await asyncio.wait([task], timeout=CANCEL_GRACE)
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
    if isinstance(error, GeneratorExit) or (isinstance(error, asyncio.CancelledError) and is_being_cancelled()):
        return error
    return WrappedCallException(retry, _readable(error))


def is_being_cancelled() -> bool:
    """Whether a cancellation that arrives here is meant for the running task."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _readable(error: BaseException) -> BaseException:
    """`error`, unless its text cannot be read."""
    try:
        str(error)
    except BaseException:
        return KimiAgentError(f"{type(error).__name__}, whose text cannot be read")
    return error

"""Running a function that the model called: where it runs, and what it means that it raised.

A call ends in a value or in a `FunctionCallException`: nothing that a function raises gets past that, `SystemExit`
included, except the cancellation of the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..errors import KimiAgentError, WrappedCallException
from .threads import TOOL_THREADS

__all__ = ["failure", "is_being_cancelled", "run"]


async def run(function: Callable[..., Any], in_thread: bool, /, *args: Any, **kwargs: Any) -> Any:
    """Call a function where it belongs: on the loop, or in a thread if it blocks."""
    if in_thread:
        return await TOOL_THREADS.run(function, *args, **kwargs)
    return await function(*args, **kwargs)


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

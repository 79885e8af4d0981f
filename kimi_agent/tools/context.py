"""What a running function may know of its call, and how it tells how far it has come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from time import monotonic
from typing import Any, Final

from ..events import Handlers, ToolProgress
from ..message import ToolCall

__all__ = ["Progress", "ToolContext", "context_for", "context_here", "context_in", "deadline_in", "in_context"]


@cache  # not at import: a first value of a class costs milliseconds
def _no_call() -> ToolCall:
    return ToolCall(id="", function=ToolCall.FunctionBody(name="", arguments="{}"))


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a function may know of its call. A parameter of this type is filled in, and the model is not told of it.

        @ai_function()
        async def download(self, url: str, context: ToolContext) -> str:
            context.report("half of it is here", fraction=0.5)

    Args:
        call: what the model asked for; without an id if the program runs the function itself.
        agent: whose function it is; `None` without an agent.
        attempt: how many rounds of calls before this one went wrong in a row.
        deadline: when the call is given up, in seconds of `time.monotonic()`; `None` for never.
    """

    call: ToolCall = field(default_factory=_no_call)
    agent: Any = None
    attempt: int = 0
    deadline: float | None = None
    _progress: Progress | None = field(default=None, repr=False, compare=False)
    _keeps_result: bool = field(default=False, repr=False, compare=False)
    """Whether what the function gave is kept if the call is cancelled in the same moment."""

    @property
    def call_id(self) -> str:
        """The id of the call."""
        return self.call.id

    @property
    def remaining(self) -> float | None:
        """Seconds until the call is given up, never negative; `None` if it is not."""
        return None if self.deadline is None else max(self.deadline - monotonic(), 0.0)

    def report(self, text: str, *, fraction: float | None = None) -> None:
        """Tell who listens to `ToolProgress` how far the function is. Works on the event loop and in a thread.

        Args:
            text: for people.
            fraction: how much of the work is done, from 0 to 1, if that is known.
        """
        if self._progress is not None:
            self._progress.tell(ToolProgress(self.call, text, fraction))


_here: Final[ContextVar[ToolContext | None]] = ContextVar("kimi_agent_tool_context", default=None)


def context_here() -> ToolContext:
    """The context of the call that this code runs inside of; an empty one outside of calls."""
    return _here.get() or ToolContext()


@contextmanager
def in_context(context: ToolContext) -> Generator[ToolContext, None, None]:
    """What is called within belongs to a call."""
    token = _here.set(context)
    try:
        yield context
    finally:
        with suppress(ValueError):  # a task that is torn down with its loop leaves in another context
            _here.reset(token)


def context_in(context: Context) -> ToolContext | None:
    """The context of the call that another context belongs to."""
    return context.get(_here)


def context_for(call: ToolCall) -> ToolContext:
    """The context of a call that is about to run: what is known here, if a hook has only changed the call."""
    here = context_here()
    if here.call is call:
        return here
    return replace(here, call=call) if call.id and here.call.id == call.id else ToolContext(call)


def deadline_in(seconds: float) -> ToolContext:
    """The context of this call, with a deadline."""
    return replace(context_here(), deadline=monotonic() + seconds)


class Progress:
    """Tells the handlers of an agent how far a call is, in order, and never after its end.

    Args:
        handlers: who is told.
    """

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers
        self._loop = asyncio.get_running_loop()
        self._events: deque[ToolProgress] = deque()
        self._telling: asyncio.Task[None] | None = None
        self._ended = False

    def tell(self, event: ToolProgress) -> None:
        """Tell of it soon, from whatever thread."""
        if ToolProgress not in self._handlers:
            return
        if asyncio._get_running_loop() is self._loop:
            self._take(event)
        else:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._take, event)

    def _take(self, event: ToolProgress) -> None:
        if self._ended:
            return
        self._events.append(event)
        if self._telling is None or self._telling.done():
            self._telling = self._loop.create_task(self._tell_all())

    async def _tell_all(self) -> None:
        while self._events:
            await self._handlers.emit_beside(self._events.popleft())

    def end(self) -> None:
        """The call has ended. What is told later is lost."""
        self._ended = True

    async def told(self) -> None:
        """Wait until everybody has been told."""
        if self._telling is not None:
            await asyncio.wait([self._telling])

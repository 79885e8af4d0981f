"""How a session does what blocks: off the event loop, in order, to its outcome.

A strand runs functions one at a time, in the order in which they were given, on a few threads that all strands share.
A caller that is cancelled hears of it when its function has ended: what was begun has happened or has failed, and
nobody is left in doubt. What waits when the program ends is done before it ends. Nothing is tied to one event loop.

What cannot be had: a disk that hangs holds up whoever waits for it, and the end of the program.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, ParamSpec, TypeVar

from loguru import logger

__all__ = ["Strand"]

P = ParamSpec("P")
T = TypeVar("T")

_THREADS: Final = 4


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="kimi_agent: session")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # threads do not live on in a child


class Strand:
    """Runs functions that block, one at a time, first come first served.

    A process that is forked needs another one: what was under way goes on in the parent alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._works = False
        self._unfinished = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way. In a forked process: whether nothing was, when it was forked."""
        return not self._unfinished

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in a thread, with a copy of the caller's context variables, and give what it gives.

        Raises:
            BaseException: what `function` raised.
            CancelledError: the caller was cancelled, and `function` has ended. An error of it is logged.
        """
        done = self.submit(function, *args, **kwargs)
        cancelled: asyncio.CancelledError | None = None
        while not done.done():
            try:
                await _end_of(done)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is None:
            return done.result()
        if error := done.exception():
            logger.opt(exception=error).error("what a cancelled caller had begun went wrong: {}", error)
        raise cancelled

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Let `function` be run when its turn comes. What was given cannot be taken back."""
        done: Future[T] = Future()
        done.set_running_or_notify_cancel()
        call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
        with self._lock:
            self._waiting.append(_Job(done, call))
            self._unfinished += 1
            begins, self._works = not self._works, True
        if begins:
            self._begin()
        return done

    def _begin(self) -> None:
        try:
            _threads().submit(self._work)
        except RuntimeError:  # the interpreter is about to end, and its threads take nothing new
            self._work()

    def _work(self) -> None:
        while job := self._next():
            self._settle(job)

    def _next(self) -> _Job | None:
        with self._lock:
            self._works = bool(self._waiting)
            return self._waiting.popleft() if self._waiting else None

    def _settle(self, job: _Job) -> None:
        try:
            value = job.take()()
        except BaseException as error:
            self._finish()
            job.done.set_exception(error)
        else:
            self._finish()
            job.done.set_result(value)

    def _finish(self) -> None:
        with self._lock:
            self._unfinished -= 1


class _Job:
    __slots__ = ("_call", "done")

    def __init__(self, done: Future[Any], call: Callable[[], Any]) -> None:
        self.done = done
        self._call: Callable[[], Any] | None = call

    def take(self) -> Callable[[], Any]:
        """What to call, and no longer hold on to: whoever hears of the end finds nothing of it kept alive here."""
        call, self._call = self._call, None
        assert call is not None
        return call


async def _end_of(done: Future[Any]) -> None:
    """Wait until it is done; its outcome is not looked at."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def tell(_: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop is gone
            loop.call_soon_threadsafe(lambda: ended.done() or ended.set_result(None))

    done.add_done_callback(tell)
    await ended

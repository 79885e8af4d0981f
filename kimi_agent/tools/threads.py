"""Where functions that block run: a bounded number of daemon threads, shared by the process.

Guarantee: no more than the bound run at a time, callers wait in the order they came, and a function that hangs holds up
neither the event loop nor the end of the program. Nothing is tied to one event loop.

What cannot be had: a running thread cannot be stopped. When nobody waits for it any more it is abandoned, and counted
until it ends. Once abandoned work occupies every thread, waiting would be waiting for ever, so callers get an error.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, ParamSpec, TypeVar

from ..errors import KimiAgentError

__all__ = ["TOOL_THREADS", "DaemonThreads", "Job", "Outcome"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Outcome:
    """What a function gave: a value, or what it raised."""

    value: Any = None
    error: BaseException | None = None

    async def value_of(self) -> Any:
        """The value; an awaitable is awaited.

        Raises:
            BaseException: what the function raised.
        """
        if self.error is None:
            return await self.value if inspect.isawaitable(self.value) else self.value
        try:
            raise self.error
        finally:
            self.error = None  # its traceback leads back here


@dataclass(slots=True, eq=False)
class Job:
    """A call on its way through a thread. `outcome` is there when the function has ended."""

    function: Callable[[], Any]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    done: asyncio.Future[Outcome] = field(init=False)
    given_up: bool = False
    began: float | None = None
    """When it got a thread, in seconds of `time.monotonic()`; `None` while it waits for one."""
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        self.done = self.loop.create_future()

    @property
    def name(self) -> str:
        """Of the function, for error texts."""
        from .signature import qualified_name_of  # seldom needed

        return qualified_name_of(self.function)

    @property
    def abandoned(self) -> bool:
        """Nobody waits for it any more."""
        return self.given_up or self.loop.is_closed()

    def run(self) -> Outcome:
        self.began = monotonic()
        try:
            return Outcome(self.context.run(self.function))
        except GeneratorExit as error:  # on the loop it would mean that somebody closes the call
            return Outcome(error=RuntimeError(f"the function raised GeneratorExit: {error}"))
        except BaseException as error:  # SystemExit too: a function must not end the program
            return Outcome(error=error)

    def report(self, outcome: Outcome) -> None:
        """Tell the loop that waits, unless it is gone."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._finish, outcome)

    def _finish(self, outcome: Outcome) -> None:
        if not self.done.done():
            self.done.set_result(outcome)


class DaemonThreads:
    """Runs functions in daemon threads, a bounded number at a time. A thread starts when it is needed and ends when
    nothing waits.

    Args:
        bound: how many threads at most.
    """

    def __init__(self, bound: int = 32) -> None:
        self._bound = bound
        # Re-entrant: collecting garbage while it is held may close a forgotten call, which then gives up its job.
        self._lock = threading.RLock()
        self._running: list[Job] = []
        self._waiting: deque[Job] = deque()

    @property
    def running(self) -> tuple[str, ...]:
        """The names of the functions that run, abandoned ones included."""
        with self._lock:
            return tuple(job.name for job in self._running)

    @property
    def waiting(self) -> tuple[str, ...]:
        """The names of the functions that wait for a thread, the next one first."""
        with self._lock:
            return tuple(job.name for job in self._waiting)

    @property
    def abandoned(self) -> tuple[str, ...]:
        """The names of the functions that run and nobody waits for."""
        with self._lock:
            return tuple(job.name for job in self._running if job.abandoned)

    def job_of(self, belongs: Callable[[contextvars.Context], bool]) -> Job | None:
        """The function that was called in a context that `belongs`, if it runs or waits for a thread."""
        with self._lock:
            return next((job for job in (*self._running, *self._waiting) if belongs(job.context)), None)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in a thread, with a copy of the caller's context variables, and give what it gives.

        An awaitable that it returns is awaited here, on the loop. A caller that is cancelled does not wait: its
        function is not run if it had not started, and abandoned if it had.

        Raises:
            KimiAgentError: abandoned functions occupy all threads; the text names them.
            BaseException: what `function` raised.
        """
        outcome = await self.wait_for(self.submit(functools.partial(function, *args, **kwargs)))
        return await outcome.value_of()

    def submit(self, function: Callable[[], Any]) -> Job:
        """Begin to run `function`, as soon as there is a thread; `wait_for` gives what it gives.

        Raises:
            KimiAgentError: abandoned functions occupy all threads.
        """
        job = Job(function)
        self._submit(job)
        return job

    async def wait_for(self, job: Job) -> Outcome:
        """Wait for the end of a function. Who is cancelled meanwhile gives it up."""
        try:
            return await job.done
        except BaseException:
            self._abandon(job)
            raise

    def _submit(self, job: Job) -> None:
        with self._lock:
            self._refuse_if_stuck()
            if len(self._running) >= self._bound:
                self._waiting.append(job)
                return
            self._running.append(job)
        self._start_thread(job)

    def _start_thread(self, job: Job) -> None:
        try:
            threading.Thread(target=self._work, args=(job,), name=f"kimi_agent: {job.name}", daemon=True).start()
        except BaseException:  # the system has no more threads
            with self._lock:
                self._running.remove(job)
            raise

    def _work(self, job: Job | None) -> None:
        while job is not None:
            outcome = job.outcome = job.run()
            job = self._next_after(job, outcome)

    def _next_after(self, job: Job, outcome: Outcome) -> Job | None:
        with self._lock:
            self._running.remove(job)
            following = next(self._wanted(), None)
            if following is not None:
                self._running.append(following)
        if job.abandoned and inspect.iscoroutine(outcome.value):
            outcome.value.close()  # nobody will await it
        job.report(outcome)
        return following

    def _wanted(self) -> Iterator[Job]:
        while self._waiting:
            job = self._waiting.popleft()
            if not job.abandoned:
                yield job

    def _abandon(self, job: Job) -> None:
        with self._lock:
            job.given_up = True
            if job in self._waiting:
                self._waiting.remove(job)
            try:
                self._refuse_if_stuck()
            except KimiAgentError as error:
                self._send_home(error)

    def _send_home(self, error: KimiAgentError) -> None:
        while self._waiting:
            self._waiting.popleft().report(Outcome(error=error))

    def _refuse_if_stuck(self) -> None:
        if len(self._running) >= self._bound and all(job.abandoned for job in self._running):
            names = ", ".join(sorted({job.name for job in self._running}))
            raise KimiAgentError(
                f"all {self._bound} threads for functions are occupied by calls that were given up and still run: "
                f"{names}. Make them end by themselves (a timeout inside), or write them as `async def`"
            )


TOOL_THREADS: Final = DaemonThreads(bound=32)
"""The threads of this process."""

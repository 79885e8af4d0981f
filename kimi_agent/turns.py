"""Whose turn it is: one round at a time, and whatever ends a round leaves a history that can be sent.

Who asks for the turn while another one has it:

| from                                                  | gets                                               |
|-------------------------------------------------------|----------------------------------------------------|
| a tool, hook or handler of the round that has it      | `RoundInProgressError`                             |
| the task that made or last advanced it, suspended     | the turn: the old round is closed                  |
| anywhere, when those tasks or their loop have ended   | the turn: the old round is closed                  |
| another task                                          | the turn, first come first served, once it is free |

A turn ends in one of two ways. `close` waits: running calls are cancelled and drained, hooks are awaited. `close_now`
is for a round that was dropped, where nothing can be awaited: calls are cancelled, the history is completed and the
turn is free at once. A `close` that is itself cancelled ends with `close_now`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, Literal, Protocol, TypeAlias
from weakref import ReferenceType, ref

from loguru import logger

from .errors import ApprovalPending, RoundInProgressError
from .events import Handlers, RoundFinished
from .history import naming_what_is_no_message, open_calls, placed
from .hooks import added
from .message import Message, ToolCall
from .tools.allowance import CallOutcome
from .tools.texts import ToolTexts
from .tools.together import RunningCalls

__all__ = ["Conversation", "Turn", "Turns", "finished_by", "marks_here"]

Outcome: TypeAlias = Literal["completed", "waiting", "failed", "closed"]

_CLOSED: Final = RoundFinished("closed")
_BEGAN: Final = "began another one"
_LOADED: Final = "loaded another conversation"

_inside: Final[ContextVar[tuple[object, ...]]] = ContextVar("kimi_agent_turns", default=())
"""The marks of the turns that this code runs inside of, the innermost last. Tools, hooks and handlers inherit it; who
calls a round never sees it. Marks and not turns: a context may live longer than an agent."""


def marks_here() -> tuple[object, ...]:
    """The marks of the turns that this code runs inside of, the innermost last."""
    return _inside.get()


class Conversation(Protocol):
    """What a turn needs of an agent."""

    always_included_messages: list[Message]
    chat_history: list[Message]
    texts: ToolTexts
    _handlers: Handlers

    async def add_to_history(self, message: Message) -> None:
        """The hook through which every message goes."""
        ...

    async def _round_ended(self) -> None:
        """Everything of the round is in the history."""
        ...

    def _runs_in_thread(self, call: ToolCall) -> bool:
        """Whether the function of a call runs in a thread, which cannot be stopped."""
        ...


class Closable(Protocol):
    """What a newer round closes: the older one."""

    async def aclose(self) -> None:
        """Close and wait for it."""
        ...


class Stream(Closable, Protocol):
    """What ends with its turn: the stream that a round handed out."""

    def close_now(self) -> None:
        """Start closing; wait for nothing."""
        ...


class Answering(Protocol):
    """What decides and runs the calls of a message."""

    async def decide(self, call: ToolCall) -> CallOutcome | None:
        """What comes of a call that must not run; `None` lets it run."""
        ...

    async def run(self, call: ToolCall) -> CallOutcome:
        """What comes of a call that runs."""
        ...

    def is_sequential(self, call: ToolCall) -> bool:
        """Whether a call runs alone."""
        ...


class Turns:
    """The queue for the turn of one conversation."""

    def __init__(self) -> None:
        self._current: Turn | None = None
        self._waiting: deque[tuple[Turn, asyncio.Future[None]]] = deque()

    async def take(self, turn: Turn) -> None:
        """Wait until it is `turn`'s turn.

        Raises:
            RoundInProgressError: asked from inside the round that has it.
        """
        while (holder := self._current) is not None:
            if holder.mark in _inside.get():
                raise RoundInProgressError(
                    "a tool, hook or handler of a round cannot start another round of the same agent; use another agent"
                )
            if holder.is_lost():
                holder.close_now()
            elif holder.is_superseded():
                await holder.supersede()
            else:
                return await self._wait(turn)
        self._current = turn
        return None

    def left_here(self) -> Turn | None:
        """The turn of a round that the running task has left suspended, to do something else meanwhile."""
        holder = self._current
        return holder if holder is not None and asyncio.current_task() in holder.tasks() else None

    def end_suspended(self) -> None:
        """Close a round that nobody works on at the moment: another conversation is loaded.

        Raises:
            RoundInProgressError: somebody does.
        """
        holder = self._current
        if holder is None:
            return
        if not (holder.is_lost() or holder.is_superseded()):
            raise RoundInProgressError("a round of this agent is running; wait for its end, or close it")
        holder.superseded = _LOADED
        holder.close_now()

    async def _wait(self, turn: Turn) -> None:
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, granted))
        self.watch()
        try:
            await granted
        except BaseException:
            self.release(turn)
            raise

    def release(self, turn: Turn) -> None:
        """Give the turn to whoever waits longest. Nothing, if it is not `turn`'s."""
        if self._current is not turn:
            self._waiting = deque(entry for entry in self._waiting if entry[0] is not turn)
            return
        self._current = None
        while self._waiting:
            waiting, granted = self._waiting.popleft()
            if not granted.done() and not granted.get_loop().is_closed():
                self._current = waiting
                self.watch()
                _in_loop_of(granted, _grant, granted)
                return

    def watch(self) -> None:
        """Nobody waits for a round that nobody goes on with: look again when a task that may do so ends."""
        if self._waiting and (holder := self._current) is not None:
            holder.watch_tasks(partial(self._look_again, ref(holder)))

    def _look_again(self, watched: ReferenceType[Turn], task: asyncio.Task[Any]) -> None:
        holder = watched()
        if holder is not None and self._waiting and self._current is holder and holder.is_superseded():
            holder.superseded = _BEGAN
            holder.close_now()


def _grant(granted: asyncio.Future[None]) -> None:
    if not granted.done():
        granted.set_result(None)


def _in_loop_of(future: asyncio.Future[Any], call: Callable[..., object], *args: Any) -> None:
    """Call it now if this is the future's event loop, else there. A dropped round may be collected in any thread."""
    loop = future.get_loop()
    if asyncio._get_running_loop() is loop:
        call(*args)
    elif not loop.is_closed():
        loop.call_soon_threadsafe(call, *args)


class Turn:
    """One round's claim on a conversation, and what has to be cleaned up when it ends."""

    def __init__(self, conversation: Conversation, turns: Turns) -> None:
        self.conversation = conversation
        self.mark = object()
        """What code that runs inside of the turn carries in its context."""
        self.ended: Outcome | None = None
        self.superseded = ""
        """What its agent did in its place, so that it cannot be resumed; `""` for nothing."""
        self._turns = turns
        self._began = False
        self._is_round = True
        self._left_open: tuple[ToolCall, ...] = ()
        """Calls that had no result before this turn. They are not its to answer: what is sent is repaired."""
        self._busy = self._interrupted = self._winding_up = False
        self._closed: asyncio.Future[None] | None = None
        self._maker = _running_task()
        self._owner: ReferenceType[asyncio.Task[Any]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._round: ReferenceType[Closable] | None = None
        self._calls: RunningCalls[CallOutcome] | None = None
        self._stream: Stream | None = None
        self._watched: list[tuple[ReferenceType[asyncio.Task[Any]], Callable[[asyncio.Task[Any]], None]]] = []

    # ---- whose it is ----

    async def begin(self) -> None:
        """Wait for the turn.

        Raises:
            RoundInProgressError: asked from inside the round that has it.
            TypeError: something else than a message stands among the messages.
        """
        self._owner, self._loop = _running_task(), asyncio.get_running_loop()
        await self._turns.take(self)
        with naming_what_is_no_message(self.conversation):
            self._left_open = open_calls(self.conversation.chat_history)
        self._began = True

    def belongs_to(self, round_: Closable) -> None:
        """Tell which round a newer one has to close."""
        self._round = ref(round_)

    def is_lost(self) -> bool:
        """Whether its event loop is gone, so that nobody can go on with it."""
        return self._loop is not None and self._loop.is_closed()

    def is_superseded(self) -> bool:
        """Whether a newer round may close it: the running task left it suspended, or whoever did has ended."""
        if self._round is None or self._busy:
            return False
        tasks = self.tasks()
        return asyncio.current_task() in tasks or all(task.done() for task in tasks)

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Those that may go on with the round: the one that made it and the one that last advanced it."""
        held = [reference() for reference in (self._maker, self._owner) if reference is not None]
        return [task for task in held if task is not None]

    def watch_tasks(self, callback: Callable[[asyncio.Task[Any]], None]) -> None:
        """Call back when one of `tasks` ends; once for each task, and not after the end of the turn."""
        for task in self.tasks():
            if all(watched() is not task for watched, _ in self._watched):
                task.add_done_callback(callback)
                self._watched.append((ref(task), callback))

    def _stop_watching(self) -> None:
        for watched, callback in self._watched:
            if (task := watched()) is not None:
                task.remove_done_callback(callback)
        self._watched.clear()

    async def supersede(self) -> None:
        """Close the round that has the turn, for a newer one."""
        self.superseded = _BEGAN
        round_ = self._round() if self._round is not None else None
        if round_ is not None:
            await round_.aclose()
        self.close_now()

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        """While the round works: it is busy, and what it calls is inside of it."""
        if self._busy:
            raise RoundInProgressError("this round is being advanced by another task; a round has one consumer")
        self._busy, self._owner = True, _running_task()
        try:
            with self.inside():
                yield
        finally:
            self._busy = False
            self._turns.watch()

    @contextmanager
    def inside(self) -> Generator[None, None, None]:
        """What is called within is inside of the round, and cannot begin another one of the same agent."""
        marks = _inside.get()
        token = _inside.set(marks if self.mark in marks else (*marks, self.mark))
        try:
            yield
        finally:
            with suppress(ValueError):  # a task that is torn down with its loop leaves in another context
                _inside.reset(token)

    @asynccontextmanager
    async def whole(self, *, is_round: bool = True) -> AsyncGenerator[None, None]:
        """A turn that one task takes, uses and ends without a pause. If it is no round, nobody is told of its end.

        Raises:
            RoundInProgressError: asked from inside the round that has the turn.
            TypeError: something else than a message stands among the messages.
        """
        self._is_round = is_round
        with self.running():
            try:
                await self.begin()
                yield
            except BaseException as error:
                await self.close(finished_by(error))
                raise
            await self.close(RoundFinished("completed"))

    async def interrupt(self) -> None:
        """If another task is advancing the round, make it stop there, and wait until it has closed the turn.

        Raises:
            RoundInProgressError: asked from inside the round.
        """
        if self.ended is not None:
            return
        owner = self._owner() if self._owner is not None else None
        if self.mark in _inside.get() or (self._busy and owner is asyncio.current_task()):
            raise RoundInProgressError("a tool, hook or handler cannot close the round that it runs in")
        if not self._busy or owner is None:
            return
        if not self._interrupted and not self._winding_up:
            self._interrupted = True
            owner.cancel()
        await self.until_ended()

    def was_interrupted(self) -> bool:
        """Whether the cancellation that just arrived was `interrupt`, and no cancellation of the task itself."""
        task = asyncio.current_task()
        if not self._interrupted or task is None:
            return False
        self._interrupted = False
        return task.uncancel() == 0

    # ---- what is under way ----

    def start(
        self,
        calls: Sequence[ToolCall],
        answering: Answering,
        commit: Callable[[CallOutcome], Awaitable[None]],
        most: int | None = None,
    ) -> RunningCalls[CallOutcome]:
        """Run the calls of a message, `most` at a time; they end with the turn at the latest."""
        self._calls = RunningCalls(
            calls, answering.run, commit, decide=answering.decide, sequential=answering.is_sequential, most=most
        )
        return self._calls

    def all_answered(self) -> None:
        """The calls that were started have their results."""
        self._calls = None

    def opened(self, stream: Stream) -> None:
        """A stream was handed out; it ends with the turn at the latest."""
        self._stream = stream

    # ---- its end ----

    async def close(self, finished: RoundFinished = _CLOSED) -> None:
        """End the turn: stop what runs, answer what is open, let the next one in. Twice is once.

        Args:
            finished: how it ends.

        Raises:
            Exception: what a strict handler of `RoundFinished` raised, if the round was completed; else it is logged,
                so that it hides nothing.
        """
        if self.ended is not None:
            return None
        if self._winding_up:
            return await self.until_ended()
        self._winding_up = True
        with self.inside():
            try:
                await self._wind_up()
            except BaseException:
                self.close_now(finished)
                raise
            self._end(finished.outcome)
            if self._began and self._is_round:
                handlers = self.conversation._handlers
                await (handlers.emit if finished.outcome == "completed" else handlers.emit_beside)(finished)
        return None

    @property
    def is_closing(self) -> bool:
        """Whether somebody is closing it and waits for what is under way."""
        return self._winding_up and self.ended is None

    async def until_ended(self) -> None:
        """Wait until whoever closes it has done so."""
        if self._closed is None:
            self._closed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._closed)

    async def _wind_up(self) -> None:
        if self._calls is not None:  # first: who is cancelled while it waits for the stream says what became of them
            await self._calls.drain()
        if self._stream is not None:
            await self._stream.aclose()
        for answer in self._missing_answers():
            await added(self.conversation, answer)
        if self._began:
            await self.conversation._round_ended()

    def close_now(self, finished: RoundFinished = _CLOSED, *, collected: bool = False) -> None:
        """End the turn without waiting for anything. Twice is once.

        Args:
            finished: how it ends.
            collected: whether it is garbage.
        """
        if self.ended is not None:
            return
        with self.inside():
            self._end(finished.outcome)
            if self._began and self._is_round:
                tell = partial(self.conversation._handlers.emit_later, finished)
                loop = asyncio._get_running_loop() if collected else None
                tell() if loop is None else loop.call_soon(tell)

    def _end(self, outcome: Outcome) -> None:
        self.ended = outcome
        try:
            if not self.is_lost():
                self._stop()
            for answer in self._missing_answers():
                self._add_now(answer)
        finally:  # who put something else than messages into the history has to be told, and can mend it
            self._stop_watching()
            self._turns.release(self)
            if self._closed is not None:
                _grant(self._closed)

    def drop(self) -> None:
        """Nobody holds the round any more. It may have been collected in another thread than its own."""
        if self._loop is not None and self.ended is None:
            if asyncio._get_running_loop() is self._loop or self._loop.is_closed():
                self.close_now(collected=True)
            else:
                self._loop.call_soon_threadsafe(self.close_now)

    def _stop(self) -> None:
        if self._stream is not None:
            self._stream.close_now()
        if self._calls is not None:
            self._calls.cancel()

    def _missing_answers(self) -> list[Message]:
        """A result for each call of the newest exchange that has none, unless somebody left it open before the turn."""
        if not self._began:
            return []
        calls = open_calls(self.conversation.chat_history)
        return [self._answer_to(call) for call in calls if not any(call is known for known in self._left_open)]

    def _answer_to(self, call: ToolCall) -> Message:
        """What the call gave, if it only was not committed yet; else why it gave nothing."""
        if self._calls is not None and (outcome := self._calls.outcome_of(call)) is not None:
            return outcome.message
        return Message.tool(self._why(call), call.id, name=call.name, is_tool_call_error=True)

    def _why(self, call: ToolCall) -> str:
        texts = self.conversation.texts
        if self._calls is None or not self._calls.has_started(call):
            return texts.not_run()
        goes_on = self.conversation._runs_in_thread(call) or self._calls.does_not_end(call)
        return texts.still_running() if goes_on else texts.interrupted()

    def _add_now(self, message: Message) -> None:
        """Add to the history through the hook as far as it gets without waiting; the message is in it in any case."""
        adding = self.conversation.add_to_history(message)
        try:
            adding.send(None)
            adding.close()
        except StopIteration:
            return
        except Exception:
            logger.exception("add_to_history raised while a round was closed")
        history = self.conversation.chat_history
        if not any(known is message for known in history):
            history.insert(placed(history, message), message)


def _running_task() -> ReferenceType[asyncio.Task[Any]] | None:
    """A task holds its exception, which may hold the round: a turn must not hold its tasks."""
    if asyncio._get_running_loop() is None or (task := asyncio.current_task()) is None:
        return None
    return ref(task)


def finished_by(error: BaseException) -> RoundFinished:
    """How a round ended that ended with `error`."""
    if isinstance(error, StopAsyncIteration):
        return RoundFinished("completed")
    if isinstance(error, ApprovalPending):
        return RoundFinished("waiting")
    return RoundFinished("failed", type(error).__name__) if isinstance(error, Exception) else _CLOSED

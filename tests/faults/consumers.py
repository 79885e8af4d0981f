"""Consumers of rounds: how they read what comes, and where they stop to read.

A consumer stops after some items, or wherever its task waits for the n-th time: so a cancellation comes at any await of
the package, and at the same one again for the same seed, as far as the network allows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextvars import copy_context
from functools import partial
from random import Random
from typing import Any, Final, NamedTuple, Self, TypeAlias
from weakref import ref

from errands import Worker

from kimi_agent import Append, End, Message, Reasoning, StreamFrame, ToolCallStarted, ToolResult

__all__ = ["WAYS", "Asking", "Hung", "Stop", "Way"]

WAITS: Final = 80
"""At one of so many waits a consumer stops, more often at an early one."""
CALL: Final = 0.003
"""Seconds that a function runs at most."""
BETWEEN: Final = 0.0005
"""Seconds between two cancellations."""
ITEMS: Final = 20
"""A consumer leaves after fewer items than these, more often after few."""
HANGS: Final = 30.0
"""Seconds after which a round does not end any more."""

# ==== reading ====

Heard: TypeAlias = Callable[[StreamFrame | Message], bool]
"""Gets what was handed out, a message or a piece of one; says whether to leave."""
Reader: TypeAlias = Callable[[Any, Heard], Awaitable[None]]


async def by_message(round_: Any, heard: Heard) -> None:
    async for message in round_:
        if heard(message):
            return


async def by_stream(round_: Any, heard: Heard) -> None:
    async for stream in round_:
        async for frame in stream.frames():
            if not isinstance(frame, End) and heard(frame):
                return
        if heard(await stream):
            return


async def by_frame(round_: Any, heard: Heard) -> None:
    async for frame in round_:
        if heard(frame.message if isinstance(frame, End) else frame):
            return


class Pieces:
    """What was heard of a message piece by piece."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self.in_order = True
        """Whether all reasoning came before all text, as Kimi sends it."""

    def add(self, frame: StreamFrame) -> None:
        """One more."""
        if isinstance(frame, Append):
            self._text.append(frame.text)
        elif isinstance(frame, Reasoning):
            self._reasoning.append(frame.text)
            self.in_order = self.in_order and not self._text

    def differ_from(self, message: Message) -> bool:
        """Whether they are another message than the one that they end with."""
        return ("".join(self._text), "".join(self._reasoning)) != (message.text, message.reasoning or "")


class Hung(Exception):
    """A round did not end."""


class Way(NamedTuple):
    """A way to ask: the methods of an agent, and how what they give is read."""

    ask: str
    resume: str
    read: Reader


WAYS: Final = (
    Way("full_round", "resume", by_message),
    Way("full_round_stream", "resume_stream", by_stream),
    Way("full_round_frames", "resume_frames", by_frame),
)


class Stop(NamedTuple):
    """How a consumer stops, and where.

    Args:
        how: it reads to the end, leaves the loop, is cancelled (once or twice), or another task closes the round.
        items: after so many it leaves the loop.
        at: the waits where it is stopped by others.
        after: seconds after a function has begun when that happens instead.
        is_orderly: whether it reads within `async with`.
    """

    how: str
    items: int
    at: tuple[int, int]
    after: float | None
    is_orderly: bool

    @classmethod
    def drawn(cls, dice: Random, likely: Mapping[str, int]) -> Self:
        """One of `likely`, which says how often each comes."""
        (how,) = dice.choices(list(likely), list(likely.values()))
        items, first = int(ITEMS ** dice.random()), int(WAITS ** dice.random())
        after = dice.uniform(0, CALL) if dice.random() < 0.5 else None
        return cls(how, items, (first, first + dice.randint(1, 4)), after, dice.random() < 0.5)


class Watched:
    """Awaits something, and does something each time that it waits.

    Args:
        awaited: what.
        waits: told the number of the wait, from 1.
    """

    def __init__(self, awaited: Coroutine[Any, Any, None], waits: Callable[[int], None]) -> None:
        self._awaited, self._waits = awaited, waits

    def __await__(self) -> Generator[Any, Any, None]:
        step: Callable[[], Any] = partial(self._awaited.send, None)
        number = 0
        while True:
            try:
                waited_for = step()
            except StopIteration:
                return
            finally:
                del step  # an error that it throws would hold this frame, and that would hold the error
            number += 1
            self._waits(number)
            try:
                yield waited_for
                step = partial(self._awaited.send, None)
            except BaseException as error:
                step = partial(self._awaited.throw, error)


class Asking:
    """One question to an agent, which is read to its end, or until its consumer stops.

    Args:
        agent: who is asked.
        start: asks.
        read: reads what comes.
        stop: where that ends.
    """

    def __init__(self, agent: Worker, start: Callable[[], Any], read: Reader, stop: Stop) -> None:
        self._agent, self._start, self._read, self._stop = agent, start, read, stop
        self.handed: list[Message] = []
        self.torn: list[Message] = []
        """Of those, what was another message when it was heard piece by piece."""
        self.disordered: list[Message] = []
        """Of those, what had reasoning behind its text then."""
        self.results: list[ToolResult] = []
        """What was handed out as frames of calls."""
        self._pieces = Pieces() if read is not by_message else None
        self._finished_before = len(agent.finished)
        self.finished: list[str] = []
        """What functions gave meanwhile, until it ended."""
        self.in_threads: list[str] = []
        """What functions gave in threads, since the agent began."""
        self.stopped = False
        """Whether the consumer did stop."""
        self._items = 0
        self._round: Callable[[], Any] = lambda: None
        self._outside = copy_context()
        """Where the round does not run: who closes it from within is refused."""
        self._reading: asyncio.Future[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._unsubscribe = agent.on(ToolCallStarted, self._call_began)

    @property
    def ended_in_order(self) -> bool:
        """Whether the round had the time to end: it was not dropped, nor cancelled while it was closed."""
        return (
            not self.stopped
            or self._stop.how == "closed"
            or (self._stop.is_orderly and self._stop.how != "cancelled twice")
        )

    @property
    def answered(self) -> Counter[str]:
        """The ids of the calls whose results were handed out, by message or else by frame."""
        said = Counter(message.tool_call_id or "" for message in self.handed if message.role == "tool")
        return said or Counter(result.tool_call_id for result in self.results)

    async def outcome(self) -> BaseException | None:
        """What was raised."""
        reading = self._reading = asyncio.ensure_future(self._watched())
        await asyncio.wait([reading], timeout=HANGS)
        self._unsubscribe()
        if not reading.done():
            reading.cancel()
            await asyncio.wait([reading])
            return Hung(f"the round had not ended after {HANGS} seconds")
        self._reading = None  # a cancellation holds all frames, and so the round that nobody holds any more
        if self._closing is not None:
            await self._closing
        return asyncio.CancelledError() if reading.cancelled() else reading.exception()

    async def _watched(self) -> None:
        await Watched(self._to_its_end(), self._waits)

    async def _to_its_end(self) -> None:
        round_ = self._start()
        self._round = ref(round_)
        try:
            if self._stop.is_orderly:
                async with round_:
                    await self._read(round_, self._heard)
            else:
                await self._read(round_, self._heard)
        finally:
            del round_  # drops it, if it was left
            self.finished = self._agent.finished[self._finished_before :]
            self.in_threads = list(self._agent.finished_in_threads)

    def _heard(self, heard: StreamFrame | Message) -> bool:
        self._items += 1
        if isinstance(heard, Message):
            self._hear_whole(heard)
        elif isinstance(heard, ToolResult):
            self.results.append(heard)
        elif self._pieces is not None:
            self._pieces.add(heard)
        self.stopped = self.stopped or (self._stop.how == "left" and self._items >= self._stop.items)
        return self.stopped and self._stop.how == "left"

    def _hear_whole(self, message: Message) -> None:
        self.handed.append(message)
        if self._pieces is not None and message.role == "assistant":
            self.torn += [message] * self._pieces.differ_from(message)
            self.disordered += [message] * (not self._pieces.in_order)
            self._pieces = Pieces()

    def _waits(self, number: int) -> None:
        if self._stop.after is None and number in self._stop.at[: _TIMES.get(self._stop.how, 0)]:
            asyncio.get_running_loop().call_soon(self._stop_now)

    def _call_began(self, event: ToolCallStarted) -> None:
        self._unsubscribe()
        if self._stop.after is None:
            return
        for number in range(_TIMES.get(self._stop.how, 0)):
            asyncio.get_running_loop().call_later(self._stop.after + number * BETWEEN, self._stop_now)

    def _stop_now(self) -> None:
        if self._reading is None or self._reading.done():
            return
        self.stopped = True
        if self._stop.how != "closed":
            self._reading.cancel()
        elif (round_ := self._round()) is not None:
            self._closing = asyncio.get_running_loop().create_task(round_.aclose(), context=self._outside)


_TIMES: Final = {"closed": 1, "cancelled": 1, "cancelled twice": 2}
"""How often a consumer is stopped that does not stop by itself."""

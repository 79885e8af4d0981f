"""An answer on a real terminal: blocks are printed as they end, and what is open is drawn below them until it has.

Only what is open moves, and it is never higher than the screen; a long answer scrolls like any text. The event loop
draws, a few times a second, so a tool that blocks it also stops the spinner.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TextIO

from ...errors import ChatProviderError
from ...events import (
    CUT_OFF,
    Append,
    End,
    Event,
    HistoryCompacted,
    Reasoning,
    RequestRetried,
    StreamFrame,
    SubAgentEvent,
    ToolCallDelta,
    ToolCallFinished,
    ToolCallStarted,
    ToolProgress,
)
from ...message import ToolCall
from ...tools.approval import Approval
from ...tools.base import ToolResult
from ..formatters import with_arguments
from ..text import format_width, on_one_line
from .blocks import Block, Blocks, end_of
from .display import USER, NoticeKind
from .options import ChatOptions
from .painting import DIM, Painter
from .region import Region, size_of, written

if TYPE_CHECKING:
    from ...agent import Agent

__all__ = ["LiveDisplay"]

DRAWINGS: Final = 12
"""In a second, at most."""
SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
REASONING_ROWS: Final = 4
REASONING_SHOWN: Final = 2_000
"""Characters of reasoning that are looked at for these rows."""
LONGEST_CALL: Final = 1_000
"""Characters of a call, of which as many are shown as fit the line."""
NOTICE, WARNING, ERROR = DIM, "yellow", "red"
STYLES: Final[dict[NoticeKind, str]] = {"told": "", "remark": NOTICE, "error": ERROR}
"""Of what the program has to say."""


class LiveDisplay:
    """Shows a chat on a terminal that understands cursor movements.

    Args:
        options: how it is to look.
        out: the terminal.
    """

    def __init__(self, options: ChatOptions, out: TextIO | None = None) -> None:
        self._options = options
        self._out = out or sys.stdout
        self._painter = Painter()

    async def answer(self, agent: Agent, query: str | None, approvals: Sequence[Approval] = ()) -> None:
        with Region(self._out, self._painter.colored) as region:
            answer = _Answer(region, self._painter, lambda: self.columns, self._options)
            answer.goes_on_with(agent.waiting_calls if approvals else ())
            with answer.listening(agent):
                async with _drawn(answer):
                    rounds = agent.resume_frames(approvals) if approvals else agent.full_round_frames(query)
                    async with rounds as frames:
                        await answer.take_all(frames)

    def said(self, text: str) -> None:
        self._print(f"{USER}{text}")

    def notice(self, text: str, kind: NoticeKind = "told") -> None:
        self._print(text, STYLES[kind])

    def _print(self, text: str, style: str = "") -> None:
        written(self._out, self._painter.text(format_width(text, self.columns), style))

    @property
    def columns(self) -> int:
        """To fill. The last one stays free: terminals differ in what they do behind it."""
        columns, _ = size_of(self._out)
        return max(min(columns - 1, self._options.width or columns), 8)


@asynccontextmanager
async def _drawn(answer: _Answer) -> AsyncGenerator[None, None]:
    """Drawn while it goes on; at its end, however that comes, all of it has been printed.

    When the terminal is gone, who waits for the answer is cancelled.
    """
    waiting = asyncio.current_task()

    async def draw() -> None:
        is_there = True
        while is_there:
            is_there = answer.draw()
            await asyncio.sleep(1 / DRAWINGS)
        if waiting is not None:
            waiting.cancel()

    drawing = asyncio.create_task(draw())
    try:
        yield
    finally:
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        answer.end()


@dataclass
class _Running:
    """A call that runs."""

    text: str
    started: float
    progress: str = ""

    def tail(self, now: float) -> str:
        """For how long it has been running, and what it says itself."""
        return f" · {now - self.started:.0f} s" + (f" · {self.progress}" if self.progress else "")


@dataclass
class _Thought:
    """Reasoning that has not ended."""

    started: float
    pieces: list[str] = field(default_factory=list[str])


class _Answer:
    """What there is to show of a round, while it goes on."""

    def __init__(self, region: Region, painter: Painter, columns: Callable[[], int], options: ChatOptions) -> None:
        self._region, self._painter, self._columns, self._options = region, painter, columns, options
        self._began = monotonic()
        self._blocks = Blocks()
        self._is_begun = False
        """Whether there is text of an answer that has not ended."""
        self._is_blank = True
        """Whether nothing, or an empty line, was printed last."""
        self._thought: _Thought | None = None
        self._written: dict[int | str, tuple[str, int]] = {}
        """Of calls that are being written: the name, and how many characters of arguments there are."""
        self._calls: dict[str, ToolCall] = {}
        """Those that have no result yet."""
        self._running: dict[str, _Running] = {}
        self._retry: tuple[RequestRetried, float] | None = None
        """What was told of a request that is sent again, and when that will be."""

    def goes_on_with(self, calls: Sequence[ToolCall]) -> None:
        """Calls of an answer that was shown before."""
        self._calls |= {call.id: call for call in calls}

    # ---- frames ----

    async def take_all(self, frames: AsyncIterator[StreamFrame]) -> None:
        """Take frames until the round has ended.

        Raises:
            KimiAgentError: of the round.
        """
        try:
            async for frame in frames:
                self.take(frame)
        except ChatProviderError:
            self._break_off()
            raise

    def take(self, frame: StreamFrame) -> None:
        """More of the answer."""
        self._retry = None
        if not isinstance(frame, Reasoning):
            self._end_thought()
        if (take := _TAKES.get(type(frame))) is not None:
            take(self, frame)

    def text(self, frame: Append) -> None:
        self._is_begun = True
        self._print_blocks(self._blocks.feed(frame.text))

    def reasoning(self, frame: Reasoning) -> None:
        self._thought = self._thought or _Thought(monotonic())
        self._thought.pieces.append(frame.text)

    def part_of_call(self, frame: ToolCallDelta) -> None:
        name, length = self._written.get(frame.index, ("", 0))
        self._written[frame.index] = (name or frame.name or "", length + len(frame.arguments))

    def call(self, call: ToolCall) -> None:
        self._written.clear()
        self._close_blocks()
        self._calls[call.id] = call

    def end_of_answer(self, frame: End) -> None:
        self._is_begun = False
        self._written.clear()
        self._close_blocks()
        if frame.finish_reason in CUT_OFF:
            self._print(f"(cut off: {frame.finish_reason})", WARNING)
        if not frame.message.tool_calls and not self._is_blank:
            self._print("")

    def result(self, result: ToolResult) -> None:
        """One that no event told of: its call did not run."""
        if (call := self._calls.pop(result.tool_call_id, None)) is not None:
            self._print_line(f"✗ {_described(call)}", ERROR, f": {result.return_value.message or 'not run'}")

    # ---- events ----

    @contextmanager
    def listening(self, agent: Agent) -> Generator[None, None, None]:
        """While it lasts, what happens is heard of."""
        stop = [agent.on(event, lambda told, hear=hear: hear(self, told)) for event, hear in _HEARS.items()]
        try:
            yield
        finally:
            for unsubscribe in stop:
                unsubscribe()

    def started(self, event: ToolCallStarted) -> None:
        self._running[event.call.id] = _Running(_described(event.call), monotonic())

    def progress(self, event: ToolProgress) -> None:
        if (running := self._running.get(event.call.id)) is not None:
            percent = "" if event.fraction is None else f" {event.fraction:.0%}".replace("%", " %")
            running.progress = f"{event.text[:LONGEST_CALL]}{percent}"

    def inside(self, event: SubAgentEvent) -> None:
        """An agent that was called calls a function itself."""
        if isinstance(event.event, ToolCallStarted) and (running := self._running.get(event.path[0].id)) is not None:
            running.progress = _described(event.event.call)

    def finished(self, event: ToolCallFinished) -> None:
        self._calls.pop(event.call.id, None)
        self._running.pop(event.call.id, None)
        failed = event.message.is_tool_call_error
        described = _described(event.call, None if self._options.show_args else LONGEST_CALL)
        mark, style = ("✗", ERROR) if failed else ("✓", NOTICE)
        tail = f" · {event.duration:.1f} s" + (f" · {event.message.text[:LONGEST_CALL]}" if failed else "")
        if self._options.show_args:
            self._print(f"{mark} {described}{tail}", style)
        else:
            self._print_line(f"{mark} {described}", style, tail)
        if self._options.show_returns:
            self._print(event.message.text, NOTICE)

    def retried(self, event: RequestRetried) -> None:
        self._retry = (event, monotonic() + event.delay)

    def compacted(self, event: HistoryCompacted) -> None:
        self._print(f"(compacted: {event.tokens_before:,} tokens are {event.tokens_after:,} now)", NOTICE)

    # ---- what is printed for good ----

    def end(self) -> None:
        """The round has ended, at its end or not."""
        self._end_thought()
        self._close_blocks()
        for running in self._running.values():
            self._print_line(f"✗ {running.text}", ERROR, " · stopped")
        self._running.clear()

    def _break_off(self) -> None:
        """An answer that failed is not kept, but somebody may be reading it."""
        if self._is_begun:
            self._close_blocks()
            self._print("(broken off; what came of it is not kept)", WARNING)

    def _end_thought(self) -> None:
        thought, self._thought = self._thought, None
        if thought is not None and (length := sum(map(len, thought.pieces))):
            self._print(f"thought for {monotonic() - thought.started:.1f} s, {length:,} characters", NOTICE)

    def _close_blocks(self) -> None:
        self._print_blocks(self._blocks.close())
        self._blocks = Blocks()

    def _print_blocks(self, blocks: Sequence[Block]) -> None:
        """Blocks, with one empty line where there are several."""
        for block in blocks:
            if block.kind == "blank" and self._is_blank:
                continue
            self._region.print(self._painter.blocks([block], self._columns()))
            self._is_blank = block.kind == "blank"

    def _print(self, text: str, style: str = "") -> None:
        self._region.print(self._painter.text(text, style))
        self._is_blank = not text

    def _print_line(self, text: str, style: str, tail: str = "") -> None:
        self._region.print(f"{self._painter.line(text, self._columns(), style, tail)}\n")
        self._is_blank = False

    # ---- what is drawn ----

    def draw(self) -> bool:
        """Draw what is open; whether there is a terminal to draw on."""
        columns = self._columns()
        open_blocks = self._painter.blocks(self._blocks.open, columns).splitlines()
        return self._region.draw(
            [*self._thought_rows(columns), *open_blocks, *self._call_rows(columns), *self._status_rows(columns)]
        )

    def _thought_rows(self, columns: int) -> list[str]:
        if self._thought is None:
            return []
        return self._painter.wrapped(end_of(self._thought.pieces, REASONING_SHOWN).strip(), columns, f"italic {DIM}")[
            -REASONING_ROWS:
        ]

    def _call_rows(self, columns: int) -> list[str]:
        written = [f"… {name}({length:,} characters)" for name, length in self._written.values()]
        now = monotonic()
        running = [(f"{self._spinner} {running.text}", running.tail(now)) for running in self._running.values()]
        rows = [*((text, "") for text in written), *running]
        return [self._painter.line(text, columns, NOTICE, tail) for text, tail in rows]

    def _status_rows(self, columns: int) -> list[str]:
        if self._retry is not None:
            event, again = self._retry
            failed = f"{self._spinner} {event.status_code or event.error_type}"
            left = f"again in {max(ceil(again - monotonic()), 0)} s · Ctrl-C stops · {on_one_line(event.error)}"
            return [self._painter.line(f"{failed}, {left}", columns, WARNING)]
        what = "thinking · " if self._thought else ""
        elapsed = f"{self._spinner} {what}{monotonic() - self._began:.0f} s · Ctrl-C stops"
        return [] if self._running else [self._painter.line(elapsed, columns, NOTICE)]

    @property
    def _spinner(self) -> str:
        return SPINNER[int((monotonic() - self._began) * DRAWINGS) % len(SPINNER)]


_TAKES: Final[dict[type[Any], Callable[[_Answer, Any], None]]] = {
    Append: _Answer.text,
    Reasoning: _Answer.reasoning,
    ToolCallDelta: _Answer.part_of_call,
    ToolCall: _Answer.call,
    ToolResult: _Answer.result,
    End: _Answer.end_of_answer,
}

_HEARS: Final[dict[type[Event], Callable[[_Answer, Any], None]]] = {
    ToolCallStarted: _Answer.started,
    ToolProgress: _Answer.progress,
    SubAgentEvent: _Answer.inside,
    ToolCallFinished: _Answer.finished,
    RequestRetried: _Answer.retried,
    HistoryCompacted: _Answer.compacted,
}


def _described(call: ToolCall, most: int | None = LONGEST_CALL) -> str:
    """`get_weather(city='Oslo')`; of more than so many characters, the beginning."""
    if most is not None and len(call.arguments) > most:
        return f"{call.name}({call.arguments[:most]}"
    return with_arguments(call)

"""What a person hears beside an answer, line by line: calls that have ended, and requests that are sent again."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TextIO

from ..text import on_one_line

if TYPE_CHECKING:
    from ...agent import Agent
    from ...events import RequestRetried, ToolCallFinished

__all__ = ["is_watched", "telling"]

LONGEST: Final = 200
"""Characters of a call, and of an error."""


@contextmanager
def telling(agent: Agent, out: TextIO | None) -> Generator[None, None, None]:
    """While it lasts, it is told what happens, if `out` is a terminal."""
    from ...events import RequestRetried, ToolCallFinished

    if not is_watched(out):
        yield
        return

    def say(line: str) -> None:
        print(f"[{line}]", file=out, flush=True)

    forget = (
        agent.on(ToolCallFinished, lambda event: say(_call(event))),
        agent.on(RequestRetried, lambda event: say(_retry(event))),
    )
    try:
        yield
    finally:
        for unsubscribe in forget:
            unsubscribe()


def is_watched(stream: TextIO | None) -> bool:
    """Whether somebody sees what is printed there at once."""
    return stream is not None and stream.isatty()


def _call(event: ToolCallFinished) -> str:
    from ..formatters import with_arguments

    call = on_one_line(with_arguments(event.call), LONGEST)
    if event.message.is_tool_call_error:
        return f"{call} failed after {event.duration:.1f} s: {on_one_line(event.message.text, LONGEST)}"
    return f"{call} took {event.duration:.1f} s"


def _retry(event: RequestRetried) -> str:
    return f"{on_one_line(event.error, LONGEST)}; again in {event.delay:.0f} s"

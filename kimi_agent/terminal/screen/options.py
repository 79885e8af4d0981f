"""What a chat is told about how it is to look, and what its display and its reader may ask it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["ChatOptions", "Completion"]


class Completion(NamedTuple):
    """One way to go on with a line.

    Args:
        text: the whole line, as it would be.
        shown: what a menu shows of it.
        help: beside it.
    """

    text: str
    shown: str
    help: str = ""


def _no_completions(line: str) -> list[Completion]:
    return []


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """How a chat looks. The functions answer for the agent that the chat has at the moment.

    Args:
        width: of the lines, in columns; `None` for lines of any length.
        show_args: with the arguments of the functions that the model calls.
        show_returns: with what the functions return.
        stream: words as they come, instead of whole messages.
        echo: what the user said is shown by the display.
        complete: how a line could go on.
        status: the status line, made visible already.
    """

    width: int | None = None
    show_args: bool = False
    show_returns: bool = False
    stream: bool = True
    echo: bool = False
    complete: Callable[[str], list[Completion]] = _no_completions
    status: Callable[[], str] = str

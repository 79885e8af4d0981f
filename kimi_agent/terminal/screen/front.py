"""Which display and which reader a chat has on a real terminal. Everywhere else it is plain."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from inspect import isbuiltin
from typing import TYPE_CHECKING, Final

from .display import Display
from .interrupts import Interrupts
from .options import ChatOptions
from .reading import Reader

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["front", "why_plain"]

NO_TERMINAL: Final = "standard input or output is no terminal for UTF-8"
UTF8: Final = ("utf-8", "utf8")
DUMB: Final = frozenset(("", "dumb", "unknown"))


def front(interrupts: Interrupts, options: ChatOptions) -> tuple[Display, Reader] | None:
    """A live display and an editor, where a person sits at a terminal that can show them and the extra `cli` is there.

    Args:
        interrupts: who hears of Ctrl-C.
        options: how the chat is to look.
    """
    if not options.stream or any(why_plain()):
        return None
    from .editor import Editor
    from .live import LiveDisplay

    return LiveDisplay(options), Editor(interrupts, options)


def why_plain() -> Iterator[str]:
    """Why a chat is plain here; nothing where it is live. What is looked up last takes the longest."""
    reasons = (
        (NO_TERMINAL, not (_is_terminal(sys.stdin) and _is_terminal(sys.stdout))),
        ("TERM or NO_COLOR asks for it", os.environ.get("TERM", "") in DUMB or bool(os.environ.get("NO_COLOR"))),
        ("a notebook reads what is typed", not isbuiltin(input)),
    )
    yield from (reason for reason, holds in reasons if holds)
    try:
        for room in ("editor", "live"):
            import_module(f".{room}", __package__)
    except ImportError:  # without the extra, or where there are no terminals as these rooms know them
        yield "the extra cli is missing"


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether it is a terminal on which everything can be written. There may be no stream at all."""
    try:
        return (
            stream is not None and stream.isatty() and stream.fileno() >= 0 and (stream.encoding or "").lower() in UTF8
        )
    except (AttributeError, OSError, ValueError):  # it only says that it is one
        return False

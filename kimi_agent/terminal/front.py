"""Which display and which reader a chat has on a real terminal. Everywhere else it is plain."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from inspect import isbuiltin
from typing import TYPE_CHECKING, Final

from .display import Display
from .interrupts import Interrupts
from .options import ChatOptions
from .reading import Reader

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["front"]

DUMB: Final = frozenset(("", "dumb", "unknown"))


def front(interrupts: Interrupts, options: ChatOptions) -> tuple[Display, Reader] | None:
    """A live display and an editor, where a person sits at a terminal that can show them and the extra `cli` is there.

    Args:
        interrupts: who hears of Ctrl-C.
        options: how the chat is to look.
    """
    if not (options.stream and _can_edit(os.environ) and _is_terminal(sys.stdin) and _is_terminal(sys.stdout)):
        return None
    try:
        from .editor import Editor
        from .live import LiveDisplay
    except ImportError:  # without the extra, or where there are no terminals as these rooms know them
        return None
    return LiveDisplay(options), Editor(interrupts, options)


def _can_edit(environment: Mapping[str, str]) -> bool:
    """Whether the terminal moves its cursor, and nobody wants it plain. A notebook has an `input` of its own."""
    return environment.get("TERM", "") not in DUMB and not environment.get("NO_COLOR") and isbuiltin(input)


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether it is a terminal on which everything can be written. There may be no stream at all."""
    return stream is not None and stream.isatty() and stream.encoding.lower().replace("-", "") == "utf8"

"""The last rows of a terminal, which are drawn again and again below what is printed for good.

Between two drawings the cursor stands, hidden, at the beginning of the region. So nothing has to be counted when the
next one erases it: whatever the terminal made of the rows when it was resized, the region is what is behind the cursor.
Rows do not wrap, and one that is too long for the terminal is cut off by it.
"""

from __future__ import annotations

import io
import os
import sys
import termios
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Final, Self, TextIO

__all__ = ["Region", "size_of"]

ERASE: Final = "\r\x1b[J"
ERASE_LINE: Final = "\x1b[K"
ERASE_BELOW: Final = "\x1b[J"
WRAP, NO_WRAP = "\x1b[?7h", "\x1b[?7l"
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


def size_of(out: TextIO) -> tuple[int, int]:
    """Columns and rows of a terminal, as they are now."""
    try:
        columns, rows = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        return 80, 24
    return columns or 80, rows or 24


class Region:
    """The last rows of a terminal. While it is entered, what is typed is not shown, and Ctrl-C stays a signal.

    Args:
        out: the terminal.
        printed: makes a line that somebody else prints fit for the terminal; the line comes out above the region.
    """

    def __init__(self, out: TextIO, printed: Callable[[str], str]) -> None:
        self._out, self._printed = out, printed
        self._lines: deque[tuple[str, bool]] = deque()
        """What is to be printed for good, and whether somebody else prints it, who may do so in any thread."""
        self._rows: list[str] = []
        self._size = size_of(out)
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(_without_echo())
            above = _Above(self._out, lambda line: self._lines.append((line, True)))
            stack.callback(self._close)
            stack.callback(above.end)
            stack.enter_context(redirect_stdout(above))
            if sys.stderr.isatty():
                stack.enter_context(redirect_stderr(above))
            self._write(HIDE_CURSOR)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._exit.close()

    def print(self, text: str) -> None:
        """Whole lines, for good. They are written with the next drawing."""
        if text:
            self._lines.append((text, False))

    def draw(self, rows: Sequence[str]) -> None:
        """Write what was printed, and of the region below it the rows that are not there yet."""
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        printed = "".join(self._printed(line) if is_foreign else line for line, is_foreign in lines)
        before, size = (self._rows, self._size), size_of(self._out)
        self._rows, self._size = list(rows), size
        if printed or not rows or before[1] != size:
            self._write(f"{ERASE}{printed}{_drawn(rows, ())}")
        elif rows != before[0]:
            self._write(_drawn(rows, before[0]))

    def _close(self) -> None:
        self.draw(())
        self._write(SHOW_CURSOR)

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _drawn(rows: Sequence[str], before: Sequence[str]) -> str:
    """What makes these rows of those, from the first one to the first one."""
    if not rows:
        return ""
    known = (*before, *[None] * len(rows))
    new = "\n".join("" if row == known[place] else f"{row}{ERASE_LINE}" for place, row in enumerate(rows))
    beyond = f"\n{ERASE_BELOW}\x1b[A" if len(before) > len(rows) else ""
    up = f"\x1b[{len(rows) - 1}A" if len(rows) > 1 else ""
    return f"{NO_WRAP}{new}{beyond}\r{up}{WRAP}"


class _Above(io.TextIOBase):
    """What functions print while the region is there. Who keeps it for longer prints as ever."""

    def __init__(self, out: TextIO, take: Callable[[str], object]) -> None:
        self._out, self._take = out, take
        self._begun = ""
        self._is_over = False

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._out.encoding

    def fileno(self) -> int:
        return self._out.fileno()

    def isatty(self) -> bool:
        return self._out.isatty()

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if self._is_over:
            return self._out.write(text)
        *lines, self._begun = f"{self._begun}{text}".split("\n")
        for line in lines:
            self._take(line)
        return len(text)

    def flush(self) -> None:
        if self._is_over:
            self._out.flush()

    def end(self) -> None:
        """A line that was not ended is one, too."""
        if self._begun:
            self.write("\n")
        self._is_over = True


@contextmanager
def _without_echo() -> Generator[None, None, None]:
    """What is typed meanwhile is kept for the next prompt."""
    try:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
    except (OSError, ValueError, termios.error):
        yield
        return
    quiet = before.copy()
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSANOW, before)

"""The last rows of a terminal, which are drawn again and again below what is printed for good.

Between two drawings the cursor stands, hidden, at the beginning of the region. So nothing has to be counted when the
next one erases it: whatever the terminal made of the rows when it was resized, the region is what is behind the cursor.
Rows do not wrap, and one that is too long for the terminal is cut off by it.
"""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
import termios
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import TYPE_CHECKING, Final, Self, TextIO

from .blocks import end_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Region", "size_of", "written"]

MOST_LINES: Final = 1_000
"""That are written with one drawing, because the event loop waits for it."""
ERASE: Final = "\r\x1b[J"
ERASE_LINE: Final = "\x1b[K"
ERASE_BELOW: Final = "\x1b[J"
WRAP, NO_WRAP = "\x1b[?7h", "\x1b[?7l"
ENTER: Final = "\x1b[?25l\x1b[?2004h"
"""No cursor; and what is pasted comes in brackets, by which the next prompt tells it from what is typed."""
LEAVE: Final = "\x1b[?2004l\x1b[?25h"


def size_of(out: TextIO) -> tuple[int, int]:
    """Columns and rows of a terminal, as they are now."""
    try:
        columns, rows = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):
        return 80, 24
    return columns or 80, rows or 24


def written(out: TextIO, text: str) -> bool:
    """Write at once; whether the terminal is still there."""
    try:
        out.write(text)
        out.flush()
    except OSError:
        return False
    return True


class Region:
    """The last rows of a terminal. While it is entered, what is typed is not shown, and Ctrl-C stays a signal.

    What functions print comes out above it, and functions that read find the end of the input: who waited for a line
    would take the next one that is meant for the chat.

    Args:
        out: the terminal. When it is gone, what is written is lost, and nothing else happens.
        printed: makes a line that somebody else prints fit for the terminal.
    """

    def __init__(self, out: TextIO, printed: Callable[[str], str]) -> None:
        self._out, self._printed = out, printed
        self._lines: deque[tuple[str, bool]] = deque()
        """What is to be printed for good, and whether somebody else prints it, who may do so in any thread."""
        self._above = _Above(out, lambda line: self._lines.append((line, True)))
        self._rows: Sequence[str] = ()
        self._size: tuple[int, int] | None = None
        """As it was when the rows were drawn."""
        self._is_gone = self._is_to_stop = False
        self._in = sys.stdin
        self._entered, self._modes = ExitStack(), ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._leave_terminal)
            self._enter_terminal()
            stack.enter_context(self._above.redirected())
            stack.enter_context(_without_input())
            stack.enter_context(self._hearing_of_ctrl_z())
            self._entered = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._entered.close()

    def print(self, text: str) -> None:
        """Whole lines, for good, behind what others have begun. They are written with one of the next drawings."""
        if text:
            self._above.end_line()
            self._lines.append((text, False))

    def draw(self, rows: Sequence[str]) -> bool:
        """Write what was printed, and of the region below it the rows that are not there yet.

        Args:
            rows: without newlines; the last of them, if there are more than the terminal has.

        Returns:
            Whether the terminal is still there.
        """
        if self._is_to_stop:
            self._stop()
        begun = self._above.begun(size_of(self._out)[0])
        self._draw([*([self._printed(begun)] if begun else []), *rows], MOST_LINES)
        return not self._is_gone

    def _draw(self, rows: Sequence[str], most: int) -> None:
        size = size_of(self._out)
        rows = rows[-max(size[1] - 1, 1) :]
        printed = "".join(self._taken(most))
        before, is_same = self._rows, size == self._size
        self._rows, self._size = rows, size
        if printed or not rows or not is_same:
            self._write(f"{ERASE}{printed}{_drawn(rows, ())}")
        elif rows != before:
            self._write(_drawn(rows, before))

    def _taken(self, most: int) -> Generator[str, None, None]:
        for _ in range(min(len(self._lines), most)):
            line, is_foreign = self._lines.popleft()
            yield f"{self._printed(line)}\n" if is_foreign else line

    # ---- the terminal ----

    def _enter_terminal(self) -> None:
        self._modes.enter_context(_without_echo(self._in))
        self._write(ENTER)

    def _leave_terminal(self) -> None:
        """With all that was printed, and without the region."""
        self._draw((), len(self._lines))
        self._size = None
        self._write(LEAVE)
        self._modes.close()

    def _write(self, text: str) -> None:
        self._is_gone = not written(self._out, text)

    # ---- Ctrl-Z ----

    @contextmanager
    def _hearing_of_ctrl_z(self) -> Generator[None, None, None]:
        """Unless somebody else does. Python hears of signals in the main thread only."""
        is_ours = threading.current_thread() is threading.main_thread()
        if not is_ours or signal.getsignal(signal.SIGTSTP) is not signal.SIG_DFL:
            yield
            return

        def on_signal(*_: object) -> None:
            self._is_to_stop = True

        signal.signal(signal.SIGTSTP, on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    def _stop(self) -> None:
        """Give the terminal back, stop until the shell goes on with the program, and take it again."""
        self._is_to_stop = False
        self._leave_terminal()
        heard = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, heard)
        self._enter_terminal()


def _drawn(rows: Sequence[str], before: Sequence[str]) -> str:
    """What makes these rows of those, from the first one to the first one."""
    if not rows:
        return ""
    known = (*before, *[None] * len(rows))
    new = "\n".join("" if row == known[place] else f"{row}{ERASE_LINE}" for place, row in enumerate(rows))
    beyond = f"\n{ERASE_BELOW}\x1b[A" if len(before) > len(rows) else ""
    up = f"\x1b[{len(rows) - 1}A" if len(rows) > 1 else ""
    return f"{NO_WRAP}{new}{beyond}\r{up}{WRAP}"


# ==== what others do with the terminal ====


class _Above(io.BufferedIOBase):
    """Takes the bytes that functions print while the region is there. Who keeps it for longer prints as ever.

    Args:
        out: the terminal.
        take: gets each line, without its newline.
    """

    name = "<stdout>"

    def __init__(self, out: TextIO, take: Callable[[str], object]) -> None:
        self._out, self._take = out, take
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pieces: list[str] = []
        """Of the line that has not ended."""
        self._lock = threading.RLock()
        self._is_over = False

    @contextmanager
    def redirected(self) -> Generator[None, None, None]:
        """While it lasts, it is the standard output, and the standard error if that is a terminal."""
        text = io.TextIOWrapper(self, "utf-8", "backslashreplace", line_buffering=True)
        with ExitStack() as stack:
            stack.callback(self._stop)
            stack.callback(text.flush)
            stack.enter_context(redirect_stdout(text))
            if sys.stderr.isatty():
                stack.enter_context(redirect_stderr(text))
            yield

    def begun(self, most: int) -> str:
        """Of the line that has not ended, as many characters as fit. A bar of progress begins it again and again."""
        with self._lock:
            return end_of(self._pieces, 4 * most).rstrip("\r").rpartition("\r")[2][-most:]

    def fileno(self) -> int:
        return self._out.fileno()

    def isatty(self) -> bool:
        return self._out.isatty()

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        with self._lock:
            text = self._decoder.decode(bytes(data))
            if self._is_over:
                self._out.write(text)
            else:
                self._feed(text)
        return memoryview(data).nbytes

    def flush(self) -> None:
        if self._is_over:
            self._out.flush()

    def _feed(self, text: str) -> None:
        first, *others = text.split("\n")
        self._pieces.append(first)
        for line in others:
            self._take("".join(self._pieces))
            self._pieces = [line]

    def end_line(self) -> None:
        """What is begun is a line, too."""
        with self._lock:
            if any(self._pieces):
                self._feed("\n")

    def _stop(self) -> None:
        with self._lock:
            self.end_line()
            self._is_over = True


@contextmanager
def _without_input() -> Generator[None, None, None]:
    """Who reads finds nothing."""
    before, sys.stdin = sys.stdin, io.StringIO()
    try:
        yield
    finally:
        sys.stdin = before


@contextmanager
def _without_echo(keyboard: TextIO) -> Generator[None, None, None]:
    """What is typed meanwhile is kept for the next prompt."""
    try:
        terminal = keyboard.fileno()
        before = termios.tcgetattr(terminal)
    except (OSError, ValueError, termios.error):
        yield
        return
    quiet = before.copy()
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    quiet[3] |= termios.NOFLSH  # Ctrl-C does not throw away what was typed
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSANOW, before)

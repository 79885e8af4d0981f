"""A terminal for tests: a program in a pseudo-terminal, and the screen that a person would see."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyte

DEADLINE = 30.0
"""Seconds until a program that does not answer is taken for stuck."""
HEAR_CTRL_C = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Begins a program with a Ctrl-C that ends it, also where the tests run in the background of a script without one."""
TAKE_TERMINAL = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); {HEAR_CTRL_C}"
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("KIMI_", "MOONSHOT_")) and name not in ("NO_COLOR", "COLORTERM", "FORCE_COLOR")
}


class Screen(pyte.HistoryScreen):
    """A screen that keeps all lines that scrolled away, and answers where the cursor is."""

    def __init__(self, columns: int, rows: int, answer: Callable[[str], object]) -> None:
        super().__init__(columns, rows, history=100_000)
        self._answer = answer

    def write_process_input(self, data: str) -> None:
        self._answer(data)

    def __getattribute__(self, name: str):  # type: ignore[no-untyped-def]
        """Without the paging of `HistoryScreen`, which looks at every attribute."""
        return object.__getattribute__(self, name)

    @property
    def lines_before(self) -> list[str]:
        """What has scrolled away."""
        return [text_of(line, self.columns) for line in self.history.top]

    @property
    def text(self) -> str:
        """All lines, also those that have scrolled away, without what is blank at their ends."""
        return "\n".join([*self.lines_before, *(line.rstrip() for line in self.display)]).rstrip()


def text_of(line: Mapping[int, pyte.screens.Char], columns: int) -> str:
    """The characters of a line. The second column of a wide one is empty."""
    return "".join(line[column].data for column in range(columns)).rstrip()


class Drawn(io.StringIO):
    """A terminal in memory: what is written to it is on a screen of 80 columns and 24 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.screen = Screen(80, 24, lambda answer: None)
        self._stream = pyte.Stream(self.screen)

    def write(self, text: str) -> int:
        self._stream.feed(text.replace("\n", "\r\n"))
        return super().write(text)

    def isatty(self) -> bool:
        return True


class Terminal:
    """A program in a pseudo-terminal of its own.

    Args:
        command: the program and its arguments.
        columns: of the terminal.
        rows: of the terminal.
        environment: beside that of the tests.
    """

    def __init__(self, command: Sequence[str | Path], *, columns: int = 80, rows: int = 24, **environment: str) -> None:
        self._outside, inside = pty.openpty()
        self.screen = Screen(columns, rows, self.press)
        self._stream = pyte.ByteStream(self.screen)
        self.written = bytearray()
        """All that the program has written."""
        self._set_size(columns, rows)
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *command],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env=ENVIRONMENT | {"TERM": "xterm-256color", "PYTHONUTF8": "1"} | environment,
            start_new_session=True,
        )
        os.close(inside)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._outside, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Another size, of which the program hears."""
        self.screen.resize(rows, columns)
        self._set_size(columns, rows)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._outside, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, condition: Callable[[], object] | str) -> None:
        """Read what the program writes until a text, or what a function looks for, is on the screen."""
        found = (lambda: self.shows(condition)) if isinstance(condition, str) else condition
        deadline = time.monotonic() + DEADLINE
        while not found():
            ready, _, _ = select.select([self._outside], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"{condition!r} was not shown, but:\n{self.screen.text}"
            assert self._read(), f"{condition!r} was not shown at the end, but:\n{self.screen.text}"

    def shows(self, text: str) -> bool:
        """Whether a row of the screen has a text."""
        return any(text in row for row in self.screen.display)

    def row(self, text: str) -> int:
        """The row of the screen with a text, from 0; the last one if there is none."""
        return next((row for row, line in enumerate(self.screen.display) if text in line), -1)

    def end(self) -> int:
        """The exit code of the program."""
        while self._read():
            pass
        return self.process.wait(DEADLINE)

    def _read(self) -> bool:
        try:
            piece = os.read(self._outside, 65536)
        except OSError:  # how Linux says that nobody has the other end any more
            return False
        self.written += piece
        self._stream.feed(piece)
        return bool(piece)

    def close(self) -> None:
        """End the program."""
        self.process.kill()
        self.process.wait()
        os.close(self._outside)

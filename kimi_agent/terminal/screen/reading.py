"""What a person types, line by line, and the plain way to read it: with `input`."""

from __future__ import annotations

import asyncio
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from inspect import isbuiltin
from typing import Any, Protocol, TextIO

from ..text import visible
from .interrupts import Interrupts

__all__ = ["Left", "PlainReader", "Reader", "input_is_piped"]

LEAVING = "(Ctrl-C again or Ctrl-D leaves)"


class Left(Exception):
    """The user wants to leave."""


class Reader(Protocol):
    """Where a chat gets its lines from."""

    async def line(self, prompt: str) -> str:
        """What the user says. Several lines are one text.

        Args:
            prompt: stands before it.

        Raises:
            Left: Ctrl-D, Ctrl-C twice, or the end of the input.
        """
        ...

    async def reply(self, question: str) -> str | None:
        """What the user replies to a question, or `None` for Ctrl-C.

        A person replies to what they have read: what was typed before is no reply, and is left for the next line.

        Args:
            question: stands before it.

        Raises:
            Left: Ctrl-D, or the end of the input.
        """
        ...


class PlainReader:
    """Reads with `input`.

    Args:
        interrupts: who hears of Ctrl-C.
        echo: whether what was read is shown by somebody else.
    """

    def __init__(self, interrupts: Interrupts, *, echo: bool = False) -> None:
        self._interrupts, self._echo = interrupts, echo
        self._typed = deque[str]()
        """Lines that were typed before a question was asked."""
        self._coming: asyncio.Future[str] | None = None
        """A line that is being read, for nobody since a question was stopped."""

    async def line(self, prompt: str) -> str:
        if self._typed:
            self._interrupts.count, said = 0, self._typed.popleft()
            print(f"{prompt}{visible(said)}", flush=True)
            return said

        def interrupted() -> None:
            if self._interrupts.count == 1:
                print(f"\n{LEAVING}\n{prompt}", end="", flush=True)
            else:
                _settle(line, Left())

        line = self._read(prompt)
        with self._interrupts.stopping(interrupted):
            return await self._taken(line)

    async def reply(self, question: str) -> str | None:
        self._typed.extend((*self._taken_meanwhile(), *_lines_typed()))
        line, stopped = self._read(question), asyncio.get_running_loop().create_future()
        with self._interrupts.stopping(lambda: _settle(stopped, None)):
            await asyncio.wait([line, stopped], return_when=asyncio.FIRST_COMPLETED)
        if line.done():
            return await self._taken(line)
        print(flush=True)
        self._coming = line
        return None

    def _taken_meanwhile(self) -> Iterator[str]:
        """The line that came for nobody, if it has come."""
        if self._coming is not None and self._coming.done() and self._coming.exception() is None:
            line, self._coming = self._coming, None
            yield line.result()

    def _read(self, prompt: str) -> asyncio.Future[str]:
        """A line, which somebody may be reading already."""
        coming, self._coming = self._coming, None
        if coming is None:
            return _line_from_user(prompt)
        print(prompt, end="", flush=True)
        return coming

    async def _taken(self, line: asyncio.Future[str]) -> str:
        try:
            said = await line
        except Left:
            print(flush=True)
            raise
        self._interrupts.count = 0
        if input_is_piped():
            print(end="\n" if self._echo else f"{visible(said)}\n", flush=True)
        return said


def input_is_piped() -> bool:
    """Whether nobody sees what is read. A notebook replaces `input` by one that shows it."""
    stdin: TextIO | None = sys.stdin
    return isbuiltin(input) and (stdin is None or not stdin.isatty())


def _lines_typed() -> list[str]:
    """Whole lines that wait in the terminal, taken out of it. What was begun after them is dropped."""
    if os.name != "posix" or not isbuiltin(input) or input_is_piped():
        return []
    import termios

    try:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
    except (OSError, ValueError, termios.error):  # something that only looks like a terminal
        return []
    at_once = before.copy()
    at_once[3] &= ~termios.ICANON  # also what has no Enter yet
    termios.tcsetattr(terminal, termios.TCSANOW, at_once)
    try:
        typed = b""
        while select.select([terminal], [], [], 0)[0] and (piece := os.read(terminal, 65_536)):
            typed += piece
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)
    return typed.decode(errors="replace").split("\n")[:-1]


def _settle(future: asyncio.Future[Any], outcome: object) -> None:
    """End a future, unless it has ended."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _line_from_user(prompt: str) -> asyncio.Future[str]:
    """A line of input, read in a thread that a blocked terminal may keep without keeping the program."""
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        stdin = sys.stdin  # held, because a thread that still reads at exit must not lose the file under its feet
        try:
            outcome = input(prompt)
        except (EOFError, RuntimeError):  # RuntimeError: there is no stdin at all
            outcome = Left()
        except Exception as error:
            outcome = error
        with suppress(RuntimeError):  # the chat is over, and its loop is closed
            loop.call_soon_threadsafe(_settle, line, outcome)
        del stdin

    threading.Thread(target=read, name="kimi_agent prompt", daemon=True).start()
    return line

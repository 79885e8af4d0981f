"""What a person types, line by line, and the plain way to read it: with `input`."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from inspect import isbuiltin
from typing import Protocol

from .interrupts import Interrupts
from .text import visible

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


class PlainReader:
    """Reads with `input`.

    Args:
        interrupts: who hears of Ctrl-C.
        echo: whether what was read is shown by somebody else.
    """

    def __init__(self, interrupts: Interrupts, *, echo: bool = False) -> None:
        self._interrupts, self._echo = interrupts, echo

    async def line(self, prompt: str) -> str:
        line = _line_from_user(prompt)
        warned = False

        def interrupted() -> None:
            nonlocal warned
            if warned and not line.done():
                line.set_exception(Left())
            elif not warned:
                warned = True
                print(f"\n{LEAVING}\n{prompt}", end="", flush=True)

        with self._interrupts.stopping(interrupted):
            try:
                said = await line
            except Left:
                print(flush=True)
                raise
        if input_is_piped():
            print(end="\n" if self._echo else f"{visible(said)}\n", flush=True)
        return said


def input_is_piped() -> bool:
    """Whether nobody sees what is read. A notebook replaces `input` by one that shows it."""
    return isbuiltin(input) and not sys.stdin.isatty()


def _line_from_user(prompt: str) -> asyncio.Future[str]:
    """A line of input, read in a thread that a blocked terminal may keep without keeping the program."""
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def settle(settle_line: Callable[..., None], outcome: object) -> None:
        if not line.done():
            settle_line(outcome)

    def read() -> None:
        stdin = sys.stdin  # held, because a thread that still reads at exit must not lose the file under its feet
        try:
            outcome = line.set_result, input(prompt)
        except (EOFError, RuntimeError):  # RuntimeError: there is no stdin at all
            outcome = line.set_exception, Left()
        except Exception as error:
            outcome = line.set_exception, error
        with suppress(RuntimeError):  # the chat is over, and its loop is closed
            loop.call_soon_threadsafe(settle, *outcome)
        del stdin

    threading.Thread(target=read, name="kimi_agent prompt", daemon=True).start()
    return line

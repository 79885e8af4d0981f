"""Signals, handed to whoever can do something about them: Ctrl-C stops what goes on, and what ends the program first
ends the chat, so the round is closed and the terminal is as it was.

Python hears of signals in the main thread only. In any other thread nothing is caught, and they end the program.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

__all__ = ["Interrupts"]

PATIENCE: Final = 1.0
"""Seconds in which the loop has to get round to Ctrl-C. After that the next one ends the program."""
ENDS: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that end a program, unless somebody else listens to them."""


@dataclass
class Interrupts:
    """Ctrl-C, handed to whoever is doing something that can be stopped."""

    stop: Callable[[], object] = lambda: None
    count: int = 0
    """How often Ctrl-C came since the user said something."""
    _since: float | None = None
    """Since when Ctrl-C waits for the loop."""

    @contextmanager
    def caught(self) -> Generator[None, None, None]:
        """While it lasts, Ctrl-C calls `stop` in the event loop. The handlers before are back afterwards.

        A signal that ends the program cancels the task that is here, and does what it always does when that is over.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        with _ending(loop, asyncio.current_task()), _handled(signal.SIGINT, lambda *_: self._interrupted(loop)):
            yield

    def _interrupted(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ctrl-C came, in the middle of anything.

        Raises:
            KeyboardInterrupt: something blocks the loop.
        """
        if self._since is None:
            self._since = monotonic()
        elif monotonic() - self._since >= PATIENCE:
            raise KeyboardInterrupt
        loop.call_soon_threadsafe(self.deliver)

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Generator[None, None, None]:
        """While it lasts, Ctrl-C means `stop`."""
        before, self.stop = self.stop, stop
        try:
            yield
        finally:
            self.stop = before

    def deliver(self) -> None:
        """What Ctrl-C does, also where it is a key and no signal."""
        self._since = None
        self.count += 1
        self.stop()


@contextmanager
def _ending(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any] | None) -> Generator[None, None, None]:
    """While it lasts, a signal that ends the program cancels the task, and ends the program when that is over."""
    came: list[int] = []

    def ended(number: int, frame: object) -> None:
        came.append(number)
        signal.signal(number, signal.SIG_DFL)  # the second one does not wait
        if task is not None:
            loop.call_soon_threadsafe(task.cancel)

    try:
        with ExitStack() as stack:
            for number in ENDS:
                if signal.getsignal(number) is signal.SIG_DFL:
                    stack.enter_context(_handled(number, ended))
            yield
    finally:
        for number in came:
            signal.raise_signal(number)


@contextmanager
def _handled(number: int, handler: Callable[..., Any]) -> Generator[None, None, None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before if before is not None else signal.SIG_DFL)

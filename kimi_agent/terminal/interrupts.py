"""Ctrl-C, handed to whoever is doing something that can be stopped.

Python hears of Ctrl-C in the main thread only. In any other thread nothing is caught, and it ends the program.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Interrupts"]


@dataclass
class Interrupts:
    """Ctrl-C, handed to whoever is doing something that can be stopped."""

    stop: Callable[[], object] = lambda: None
    _waiting: bool = False

    @contextmanager
    def caught(self) -> Generator[None, None, None]:
        """While it lasts, Ctrl-C calls `stop` in the event loop. The handler before is back afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()

        def on_signal(*_: object) -> None:
            if self._waiting:  # the loop did not get round to the last one: something blocks it
                raise KeyboardInterrupt
            self._waiting = True
            loop.call_soon_threadsafe(self._deliver)

        before = signal.signal(signal.SIGINT, on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Generator[None, None, None]:
        """While it lasts, Ctrl-C means `stop`."""
        before, self.stop = self.stop, stop
        try:
            yield
        finally:
            self.stop = before

    def _deliver(self) -> None:
        self._waiting = False
        self.stop()

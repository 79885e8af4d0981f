"""What a server writes to its standard error: the log gets it at the level `debug`, the last lines are kept."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Final, TextIO

from loguru import logger

from .configs import ServerConfig, hidden

__all__ = ["Stderr"]

_LONGEST_LINE: Final = 10_000
_KEPT_LINES: Final = 5


class Stderr:
    """Reads the standard error of a process as fast as it comes, in a thread, so that no full pipe stops the process.

    Args:
        config: of the server; its secrets are left out.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._ended.set()

    @contextmanager
    def opened(self) -> Generator[TextIO]:
        """A file for the process. The thread ends when all who have it have closed it."""
        reading, writing = os.pipe()
        self._ended.clear()
        with os.fdopen(writing, "w") as file:
            Thread(target=self._read, args=(reading,), name=f"stderr of {self._config.name}", daemon=True).start()
            yield file

    def _read(self, reading: int) -> None:
        with open(reading, "rb") as pipe:
            while line := pipe.readline(_LONGEST_LINE):
                text = hidden(self._config, line.decode(errors="replace").rstrip())
                self._lines.append(text)
                logger.debug("{}: {}", self._config.name, text)
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(self._ended.set)

    async def last(self, seconds: float) -> str:
        """The last lines, as soon as the process and its children have ended, or this much time has passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        return "\n".join(line for line in self._lines if line)

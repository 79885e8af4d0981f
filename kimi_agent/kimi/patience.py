"""How long a client waits for an answer, and how often it asks again. No I/O and no clock."""

from __future__ import annotations

from dataclasses import dataclass
from random import uniform
from typing import Final

from ..errors import ChatProviderError
from ..kinds import NUMBER, Kinds, check_kinds
from .status import is_retryable

__all__ = ["RETRIES", "TIMEOUTS", "Retries", "Timeouts", "hint_of"]

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0
LONGEST_HINT: Final = 60.0
"""Seconds. No server keeps a client waiting for longer, whatever its `Retry-After` says."""


_WAITS: Final[Kinds] = dict.fromkeys(
    ("connect", "first_byte", "between_chunks"), (NUMBER | None, "a number of seconds above 0, or None")
)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds; `None` is for ever.

    Args:
        connect: for the connection.
        first_byte: for the answer to begin, once the request is sent. An answer that is not streamed begins when it is
            whole: there this limit is 900 at least, after which Kimi's gateway gives up.
        between_chunks: from one piece of the answer to the next. Comments and other keep-alives are no pieces. A model
            that thinks hard may pause for a minute.
    """

    connect: float | None = 10.0
    first_byte: float | None = 120.0
    between_chunks: float | None = 120.0

    def __post_init__(self) -> None:
        waits = {name: getattr(self, name) for name in _WAITS}
        check_kinds(_WAITS, waits)
        for name, seconds in waits.items():
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name} is a number of seconds above 0, or None; not {seconds!r}")


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a request that failed is sent again, and after how long.

    The delay is random between nothing and a limit that doubles each time, so that clients that failed together do not
    come back together. What the server says has precedence.

    Args:
        most: how many times a request is sent again.
        total_time: seconds from the first attempt after which no other one begins.
    """

    most: int = 4
    total_time: float = 120.0

    def __post_init__(self) -> None:
        if self.most < 0 or not self.total_time >= 0:
            raise ValueError("max_retries and max_retry_time are 0 or more")

    def delay_after(self, error: ChatProviderError, attempt: int, elapsed: float) -> float | None:
        """Seconds to wait before the next attempt; `None` when there is none.

        Args:
            error: how the attempt ended.
            attempt: its number, from 1.
            elapsed: seconds since the first attempt began.
        """
        if attempt > self.most or not is_retryable(error):
            return None
        hint = hint_of(error)
        delay = uniform(0, min(FIRST_DELAY * 2.0 ** min(attempt - 1, 16), LONGEST_DELAY)) if hint is None else hint
        return delay if elapsed + delay <= self.total_time else None


def hint_of(error: ChatProviderError) -> float | None:
    """After how many seconds the server wants to be asked again, if it says so; never more than `LONGEST_HINT`."""
    hint: float | None = getattr(error, "retry_after", None)
    return None if hint is None else min(hint, LONGEST_HINT)


TIMEOUTS: Final = Timeouts()
RETRIES: Final = Retries()
"""What holds unless somebody says otherwise."""

"""What lasts of a conversation, and the protocol of whatever keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ..limits import Spent, nothing_spent
from ..message import FrozenDict, Message

__all__ = ["Damage", "Session", "SessionState", "WindowState"]


@dataclass(frozen=True, slots=True)
class WindowState:
    """Where the prompt of a conversation begins, and what is known of its length.

    Args:
        cut: index in the history of the first message that the window keeps.
        scale: how many tokens an estimated one really is, as the window has learnt.
        counted: what the server counted last, as `Window.counted` has it.
    """

    cut: int = 0
    scale: float = 1.0
    counted: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Damage:
    """A piece of a session that could not be read. What stands before and after it was kept.

    Args:
        offset: of its first byte in the file, or the number of the record in a database.
        length: in bytes.
        reason: what is wrong with it.
    """

    offset: int
    length: int
    reason: str


@dataclass(frozen=True, slots=True)
class SessionState:
    """Everything about a conversation that lasts.

    Args:
        always_included_messages: the pinned messages.
        chat_history: the conversation.
        usage: what it has cost so far.
        cut: index in `chat_history` of the first message that the window keeps.
        scale: how many tokens an estimated one really is, as the window has learnt.
        prompt_cache_key: under which the provider caches the prompt; `None` for none.
        unknown: fields of the file that only a newer version knows. The next save writes them back.
        counted: what the server counted last, as `Window.counted` has it.
        damage: what could not be read.
    """

    always_included_messages: tuple[Message, ...] = ()
    chat_history: tuple[Message, ...] = ()
    usage: Spent = field(default_factory=nothing_spent)
    cut: int = 0
    scale: float = 1.0
    prompt_cache_key: str | None = None
    unknown: FrozenDict = FrozenDict()  # noqa: RUF009 - frozen
    counted: Mapping[str, Any] | None = None
    damage: tuple[Damage, ...] = ()

    @property
    def window(self) -> WindowState:
        """What of it the window has learnt."""
        return WindowState(self.cut, self.scale, self.counted)


@runtime_checkable
class Session(Protocol):
    """Where a conversation lasts, message by message: a `JournalSession`, or one of a `SQLiteSessionStore`.

    Each call is atomic: all of it lasts, or nothing. A caller that is cancelled meanwhile hears of it when the outcome
    is known. What cannot be written is a `SessionError`, and what had been written stays as it was.
    """

    async def load(self) -> SessionState:
        """What was kept. An empty state of a session that is new.

        Raises:
            SessionError: it cannot be read.
            SessionConflictError: somebody else has it open.
        """
        ...

    async def append(
        self, messages: Sequence[Message], *, usage: Spent | None = None, window: WindowState | None = None
    ) -> None:
        """Add messages, and what the conversation has cost with them. Results come as they finish, in any order.

        Raises:
            SessionError: it cannot be written.
            SessionConflictError: somebody else has written since.
        """
        ...

    async def replace(self, state: SessionState, *, reason: str = "") -> None:
        """Put a state in the place of the present one: after a compaction, or an edit. What was there stays readable.

        Raises:
            SessionError: it cannot be written.
            SessionConflictError: somebody else has written since.
        """
        ...

    async def checkpoint(self, label: str) -> None:
        """Remember the present state under a label; an older one of this label is forgotten."""
        ...

    async def rollback(self, label: str) -> SessionState:
        """Go back to a checkpoint.

        Raises:
            SessionError: there is none of this label, or it cannot be written.
        """
        ...

    async def flush(self) -> None:
        """A round has ended: make sure that everything lasts, as far as the session promises it."""
        ...

    async def aclose(self) -> None:
        """Let go of files and locks. Twice is once; used again, it opens again."""
        ...

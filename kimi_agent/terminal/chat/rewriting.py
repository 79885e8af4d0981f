"""What was said, cut or shortened: `/clear`, `/undo`, `/retry` and `/compact`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...events import HistoryCompacted
from ...history import repair
from ...message import Message
from ...prompt.compaction import Compaction, SummarizeHistory, is_compacted
from ...prompt.counting import cost
from ..text import on_one_line
from .conversations import changing
from .outcome import CommandError, Did, counted

if TYPE_CHECKING:
    from ...agent import Agent
    from .chat import Chat

__all__ = ["clear", "compact", "retry", "undo", "waits_for_an_answer"]


def waits_for_an_answer(agent: Agent) -> bool:
    """Whether the model has not answered what was said last."""
    return bool(agent.chat_history) and agent.chat_history[-1].role in ("user", "tool")


async def clear(chat: Chat, argument: str) -> Did:
    """Forget what was said."""
    removed = await _cut(chat.agent, lambda history: 0, "clear")
    return Did(f"({counted(len(removed), 'message')} removed; pinned messages stay)")


async def undo(chat: Chat, argument: str) -> Did:
    """Forget what the user said last, and all after it."""
    removed = await _cut(chat.agent, _last_question, "undo")
    said = on_one_line(removed[0].text or "what you said", 60)
    return Did(f'(took back "{said}", {counted(len(removed), "message")})')


async def retry(chat: Chat, argument: str) -> Did:
    """Forget all after what the user said last."""
    await _cut(chat.agent, lambda history: _last_question(history) + 1, "retry")
    return Did(asks=True)


def _last_question(history: Sequence[Message]) -> int:
    """Where the user spoke last.

    Raises:
        CommandError: nowhere. A summary of what he once said cannot be taken back.
    """
    for place in range(len(history) - 1, -1, -1):
        if history[place].role == "user" and not is_compacted(history[place]):
            return place
    raise CommandError("nothing was said yet")


async def _cut(agent: Agent, place: Callable[[Sequence[Message]], int], reason: str) -> list[Message]:
    """Let the history end at a place, here and in the session. What stood behind it.

    Raises:
        CommandError: as of `place`.
        SessionError: the session could not be written; the next write brings it up to date.
    """
    async with changing(agent, reason):
        end = place(agent.chat_history)
        removed = agent.chat_history[end:]
        agent.chat_history[:] = repair(agent.chat_history[:end], interrupted=agent.texts.interrupted())
    return removed


# ==== shorter ====


async def compact(chat: Chat, argument: str) -> Did:
    """Make the history shorter, as the agent does; one that does not gets a summary."""
    told: list[HistoryCompacted] = []
    forget = chat.agent.on(HistoryCompacted, told.append)
    try:
        with _compactors(chat.agent):
            await chat.agent.compact()
    finally:
        forget()
    if not told:
        return Did("(the history is short enough)")
    before, after = told[-1].tokens_before, told[-1].tokens_after
    return Did(f"(the history had {before:,} tokens, and has {after:,} now)")


@contextmanager
def _compactors(agent: Agent) -> Generator[None]:
    """While it lasts, the agent has something that compacts its history."""
    own = agent.compaction
    if not own.compactors:
        agent.compaction = _Summary(cost(agent._window.counter, agent.chat_history))
    try:
        yield
    finally:
        agent.compaction = own


class _Summary(Compaction):
    """A summary of a history however short it is: a person has asked for it.

    Args:
        tokens: of the history.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__(SummarizeHistory())
        self._tokens = tokens

    def budget(self, window: int, fixed: int) -> int:
        return max(self._tokens // 2, 1)

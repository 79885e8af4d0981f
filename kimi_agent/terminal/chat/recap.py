"""Where a conversation stood when it was left."""

from __future__ import annotations

from datetime import datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from ...measured import of_answer
from ...prompt.compaction import is_compacted
from ..screen.display import AI
from ..text import on_one_line
from .conversations import session_of
from .outcome import counted

if TYPE_CHECKING:
    from ...agent import Agent
    from ...message import Message

__all__ = ["last_words", "recap"]

YOU: Final = "you: "
LONGEST: Final = 240
"""Characters of what was said."""


def recap(agent: Agent, *, named: bool = True) -> str:
    """`(session s7, 12 messages, of 02:56)`, and what was said last; `""` where nothing was said.

    Args:
        agent: whose conversation it is.
        named: with the name of the session.
    """
    if not agent.chat_history:
        return ""
    session = session_of(agent) if named else None
    facts = [
        f"session {on_one_line(session.id)}" if session else "",
        counted(len(agent.chat_history), "message"),
        _last_time(agent),
    ]
    return "\n".join(filter(None, (f"({', '.join(filter(None, facts))})", last_words(agent))))


def last_words(agent: Agent) -> str:
    """What the user said last and what he was answered, each on one line."""
    since = takewhile(lambda message: not _is_question(message), reversed(agent.chat_history))
    answer = next((message.text for message in since if message.role == "assistant" and message.text.strip()), "")
    question = next((message.text for message in reversed(agent.chat_history) if _is_question(message)), "")
    spoken = ((YOU, question), (AI, answer))
    return "\n".join(f"{who}{on_one_line(text, LONGEST)}" for who, text in spoken if text.strip())


def _is_question(message: Message) -> bool:
    return message.role == "user" and not is_compacted(message)


def _last_time(agent: Agent) -> str:
    """When the last answer came, if that was measured."""
    took = next(filter(None, map(of_answer, reversed(agent.chat_history))), None)
    if took is None:
        return ""
    then = datetime.fromtimestamp(took.began + took.seconds)
    return f"of {then:%H:%M}" if then.date() == datetime.now().date() else f"of {then:%Y-%m-%d %H:%M}"

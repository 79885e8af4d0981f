"""Other conversations: `/sessions` and `/fork`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..columns import WIDTH, aligned, cut
from ..text import display_width, on_one_line
from .conversations import session_of
from .outcome import CommandError, Did

if TYPE_CHECKING:
    from ...agent import Agent
    from ...session.sqlite import SessionInfo
    from .chat import Chat

__all__ = ["fork", "sessions"]


async def sessions(chat: Chat, argument: str) -> Did:
    """Tell the sessions, or go on with one."""
    if not argument:
        return await _list(chat)
    conversations = chat.conversations
    if argument != "-":
        agent = await conversations.opened(argument)
    elif (before := conversations.before) is not None:
        agent = before
    else:
        raise CommandError("there was no conversation before this one")
    return Did(f"(you are in {_named(agent)}; /sessions - returns)", agent=agent, recaps=True)


async def _list(chat: Chat) -> Did:
    here = session_of(chat.agent)
    known = await chat.conversations.look_up()
    rows = [_row(info, here is not None and here.id == info.id) for info in known]
    lines = [_fitted(line, info) for line, info in zip(aligned(rows, right=[2]), known, strict=True)] if rows else []
    return Did("\n".join(lines) or "(there are no sessions)")


def _row(info: SessionInfo, is_here: bool) -> tuple[str, ...]:
    changed = f"{info.updated.astimezone():%Y-%m-%d %H:%M}"
    return f"{'*' if is_here else ' '} {on_one_line(info.id)}", changed, f"{info.messages:,}"


def _fitted(line: str, info: SessionInfo) -> str:
    """A row, and behind it as much of the title as there is room for."""
    return f"{line}  {cut(on_one_line(info.title), max(WIDTH - display_width(line) - 2, 10))}".rstrip()


def _named(agent: Agent) -> str:
    session = session_of(agent)
    return "a conversation that no store has" if session is None else f"session {on_one_line(session.id)}"


async def fork(chat: Chat, argument: str) -> Did:
    """Go on in a copy."""
    agent = await chat.conversations.forked()
    kept = "which no session keeps" if session_of(agent) is None else _named(agent)
    return Did(f"(you are in a copy, {kept}; /sessions - returns)", agent=agent)

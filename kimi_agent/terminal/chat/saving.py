"""A conversation in files: `/save`, `/load` and `/export`. What somebody else wrote is not written over unasked."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..text import on_one_line
from . import transcript
from .outcome import CommandError, Did, counted
from .recap import last_words

if TYPE_CHECKING:
    from .chat import Chat

__all__ = ["SAVED", "export", "load", "save"]

SAVED: Final = (".json", ".kimi")
"""What can be loaded, by the end of the name."""
FORCE: Final = " --force"


async def save(chat: Chat, argument: str) -> Did:
    """Write a file to go on with."""
    return _written(chat, argument, "/save", "saved", chat.agent.save)


async def export(chat: Chat, argument: str) -> Did:
    """Write a file to read."""
    return _written(chat, argument, "/export", "exported", lambda path: transcript.export(chat.agent, path))


async def load(chat: Chat, argument: str) -> Did:
    """Go on with a file that was saved."""
    agent, path = chat.agent, _path(argument)
    await agent._keeper.begin(agent)
    agent.load(path)
    chat.conversations.own_file(path)
    await agent._keep_up("load")
    loaded = f"({counted(len(agent.chat_history), 'message')} from {on_one_line(argument)})"
    return Did("\n".join(filter(None, (loaded, last_words(agent)))))


def _written(chat: Chat, argument: str, command: str, done: str, write: Callable[[Path], None]) -> Did:
    """Write a file.

    Raises:
        CommandError: there is one already, and nobody has said that it may go.
    """
    name = f" {argument}".removesuffix(FORCE).strip()
    if not name:
        raise CommandError(f"usage: {command} FILE")
    path, shown = _path(name), on_one_line(name)
    if name == argument and os.path.lexists(path) and not path.is_dir() and not chat.conversations.owns_file(path):
        raise CommandError(f"there is {shown} already; {command} {shown}{FORCE} writes over it")
    write(path)
    chat.conversations.own_file(path)
    reads = "/load reads it" if path.suffix.lower() in SAVED else "to be read; /load takes what /save writes"
    return Did(f"({done} to {shown}; {reads})")


def _path(argument: str) -> Path:
    return Path(os.path.expanduser(argument))  # Path.expanduser raises when there is no such user

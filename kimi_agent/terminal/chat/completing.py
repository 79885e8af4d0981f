"""How a line that is a command could go on: its name, and what stands behind the name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from ...kimi.client import Kimi
from ..screen.options import Completion
from ..text import on_one_line, visible
from . import commands, transcript
from .choosing import models
from .efforts import efforts
from .saving import SAVED

if TYPE_CHECKING:
    from .chat import Chat

__all__ = ["complete"]


def complete(chat: Chat, line: str) -> list[Completion]:
    """How a line could go on, if it is a command.

    Args:
        chat: whose line it is.
        line: up to where the user is.
    """
    if not line.startswith("/") or line.startswith("//"):
        return []
    name, blank, argument = line.partition(" ")
    if not blank:
        return [
            Completion(f"{command.name} " if command.arguments else command.name, command.usage, command.help)
            for command in commands.COMMANDS
            if command.name.startswith(name.lower())
        ]
    try:
        command = commands.found(name[1:].lower())
    except commands.CommandError:
        return []
    values = ARGUMENTS.get(command.name, _nothing)(chat, argument.lstrip())
    return [
        Completion(f"{command.name} {value}", value, help)
        for value, help in values
        if value.startswith(argument.lstrip()) and value == visible(value)
    ]


Values: TypeAlias = Iterable[tuple[str, str]]
"""What an argument could be, each with a word about it."""


def _nothing(chat: Chat, begun: str) -> Values:
    return ()


def _efforts(chat: Chat, begun: str) -> Values:
    provider = chat.agent.provider
    return [(word, "") for word in efforts(provider.model_info)] if isinstance(provider, Kimi) else ()


def _models(chat: Chat, begun: str) -> Values:
    return [(info.name, f"{info.context_window:,} tokens") for info in models(chat.agent)]


def _ids(chat: Chat, begun: str) -> Values:
    return [(info.id, on_one_line(info.title, 60)) for info in chat.conversations.known]


def _files(suffixes: Sequence[str], chat: Chat, begun: str) -> Values:
    """Folders, and files of these kinds."""
    folder, _ = os.path.split(begun)
    with suppress(OSError, ValueError), os.scandir(os.path.expanduser(folder) or ".") as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir():
                yield os.path.join(folder, entry.name, ""), "folder"
            elif entry.name.lower().endswith(tuple(suffixes)):
                yield os.path.join(folder, entry.name), ""


ARGUMENTS: Final[Mapping[str, Callable[[Chat, str], Values]]] = MappingProxyType(
    {
        "/save": partial(_files, SAVED),
        "/load": partial(_files, SAVED),
        "/export": partial(_files, tuple(transcript.KINDS)),
        "/sessions": _ids,
        "/model": _models,
        "/thinking": _efforts,
    }
)

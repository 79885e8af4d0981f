"""What comes of a command: what there is to tell, and what the chat does next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...agent import Agent

__all__ = ["CommandError", "Did", "counted"]


class CommandError(Exception):
    """A command cannot do what it was told to; the text says why."""


@dataclass(frozen=True)
class Did:
    """What a command has done.

    Args:
        notice: what there is to tell.
        asks: whether the model is to answer what was said.
        agent: who goes on from now on.
        recaps: whether what was said last in that conversation is to be told, too.
    """

    notice: str = ""
    asks: bool = False
    agent: Agent | None = None
    recaps: bool = False


def counted(number: int, noun: str) -> str:
    """`1 message`, `2 messages`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

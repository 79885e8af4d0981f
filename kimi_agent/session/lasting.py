"""Where the conversation of an agent lasts: in a file when you say so, in its session while it goes on."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import Self

from ..turns import Conversation, Turn, Turns
from .keeping import Kept, entered, give_back, state_of

__all__ = ["Lasting"]


class Lasting(Kept, Conversation):
    """An agent, as far as its conversation lasts."""

    _turns: Turns
    _entered: list[AsyncExitStack]

    def save(self, path: str | bytes | os.PathLike[str]) -> None:
        """Write the conversation to a `.json` (readable) or `.kimi` (zipped) file, whole or not at all.

        Raises:
            SessionError: it could not be written; the old file is as it was.
        """
        from . import file

        file.save(path, state_of(self))

    def load(self, path: str | bytes | os.PathLike[str]) -> None:
        """Go on with a saved conversation in place of this one. Calls that were left open are answered.

        Raises:
            SessionError: the file cannot be read, or is none of ours; the agent is as it was.
            RoundInProgressError: a round is running.
        """
        from . import file

        state = file.load(path)
        self._turns.end_suspended()
        give_back(self, state)

    async def checkpoint(self, label: str) -> None:
        """Remember the conversation under a label in the session, between two rounds."""
        async with Turn(self, self._turns).whole(is_round=False):
            await self._keeper.checkpoint(self, label)

    async def rollback(self, label: str) -> None:
        """Go on where the conversation was at a checkpoint.

        Raises:
            SessionError: there is none of this label.
        """
        async with Turn(self, self._turns).whole(is_round=False):
            await self._keeper.rollback(self, label)

    async def __aenter__(self) -> Self:
        self._entered.append(await entered(self))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._entered.pop().aclose()

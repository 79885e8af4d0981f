"""Where the conversation of an agent lasts: in a file when you say so, in its session while it goes on."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import Self

from ..errors import RoundInProgressError
from ..history import check_messages
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
            SessionError: it could not be written, and the old file is as it was; or the agent has a session which was
                not restored yet.
            TypeError: something else than a message stands among the messages.
        """
        self._keeper.check_restored()
        check_messages(self)
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
        self._keeper.took()

    async def checkpoint(self, label: str) -> None:
        """Remember the conversation under a label in the session.

        Raises:
            SessionError: it could not be written.
            RoundInProgressError: a round is not at its end.
        """
        self._refuse_within_a_round()
        async with Turn(self, self._turns).whole(is_round=False):
            await self._keeper.checkpoint(self, label)

    async def rollback(self, label: str) -> None:
        """Go on where the conversation was at a checkpoint.

        Raises:
            SessionError: there is none of this label.
            RoundInProgressError: a round is not at its end.
        """
        self._refuse_within_a_round()
        async with Turn(self, self._turns).whole(is_round=False):
            await self._keeper.rollback(self, label)

    async def _keep_up(self, reason: str) -> None:
        """The history was changed as a whole, and the session has to hear of it."""
        await self._keeper.catch_up(self, reason)

    async def _settle(self) -> None:
        """Whatever is in the history has to last before it is handed out."""
        await self._keeper.settle(self)

    async def _round_ended(self) -> None:
        """Everything of a round is in the history."""
        await self._keeper.round_ended(self)

    def _refuse_within_a_round(self) -> None:
        if self._turns.left_here() is not None:
            raise RoundInProgressError("a round of this agent is not at its end; end it, or close it, first")

    async def __aenter__(self) -> Self:
        self._entered.append(await entered(self))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._entered.pop().aclose()

"""What of an agent lasts: taken from it, given back to it, and written into its session while it goes on.

A message is in `chat_history` first and in the session next, before anybody is handed it. If it cannot be written, that
is an error, and the message is in the history all the same: the next write brings the session up to date. So does the
beginning of a round, when somebody has edited the history between two rounds.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Protocol, cast

from .. import history
from ..events import Handlers, SessionRestored
from ..limits import Spent
from ..message import FrozenDict, Message
from ..prompt.window import Window
from ..provider import ChatProvider
from ..tools.texts import ToolTexts
from .state import Session, SessionState, WindowState

__all__ = ["Keeper", "Kept", "entered", "give_back", "state_of"]


class Kept(Protocol):
    """What lasts of an agent, and what going on with it needs."""

    provider: ChatProvider
    always_included_messages: list[Message]
    chat_history: list[Message]
    usage: Spent
    prompt_cache_key: str
    texts: ToolTexts
    _window: Window
    _unknown: FrozenDict
    _handlers: Handlers
    _keeper: Keeper


async def entered(agent: Kept) -> AsyncExitStack:
    """What `async with agent` opens: its provider, and its session."""
    async with AsyncExitStack() as stack:
        if hasattr(type(agent.provider), "__aenter__"):
            await stack.enter_async_context(cast(Any, agent.provider))
        stack.push_async_callback(agent._keeper.close)
        await agent._keeper.restore(agent)
        return stack.pop_all()


def state_of(agent: Kept) -> SessionState:
    """Everything of an agent that lasts."""
    said, window = tuple(agent.chat_history), agent._window
    return SessionState(
        always_included_messages=tuple(agent.always_included_messages),
        chat_history=said,
        usage=agent.usage,
        cut=window.start_in(said),
        scale=window.scale,
        prompt_cache_key=agent.prompt_cache_key,
        unknown=agent._unknown,
        counted=window.counted(said),
    )


def give_back(agent: Kept, state: SessionState) -> None:
    """Let an agent go on where another one was. Calls that were left open are answered."""
    agent.always_included_messages = list(state.always_included_messages)
    agent.chat_history = history.repair(state.chat_history, interrupted=agent.texts.interrupted())
    agent.usage, agent._unknown = state.usage, state.unknown
    agent.prompt_cache_key = state.prompt_cache_key or agent.prompt_cache_key
    agent._window = Window(state.scale)
    agent._window.move_to(state.chat_history, state.cut)
    if state.counted:
        agent._window.go_on(state.counted, state.always_included_messages, state.chat_history)


# ==== a session ====


class Keeper:
    """Writes what happens to an agent into its session; without one, nowhere.

    Args:
        session: of the agent.
    """

    def __init__(self, session: Session | None) -> None:
        self._session = session
        self._restored = session is None
        self._pinned: list[Message] = []
        self._said: list[Message] = []
        """What the session has, when all is written that is under way."""
        self._usage: Spent | None = None
        self._learnt: WindowState | None = None
        self._sure = False
        """Whether no write has failed since all of it was there."""

    async def restore(self, agent: Kept) -> None:
        """Let the agent go on where its session ended. Once: after that it does nothing.

        Messages that the agent itself pins take the place of those in the session: they are the program's.

        Raises:
            SessionError: the session cannot be read.
        """
        if self._restored or self._session is None:
            return
        state = await self._session.load()
        self._restored = True
        if state.chat_history or state.always_included_messages or state.prompt_cache_key:
            pinned = tuple(agent.always_included_messages) or state.always_included_messages
            self._take_up(agent, state, pinned)
            await agent._handlers.emit(_restored(state, agent.chat_history))
        await self.catch_up(agent, "restore" if self._sure else "begin")

    def _take_up(self, agent: Kept, state: SessionState, pinned: Sequence[Message]) -> None:
        give_back(agent, replace(state, always_included_messages=tuple(pinned)))
        self._remember(state)

    def _remember(self, state: SessionState) -> None:
        self._pinned, self._said = list(state.always_included_messages), list(state.chat_history)
        self._usage, self._learnt = state.usage, state.window
        self._sure = True

    async def keep(self, agent: Kept, message: Message, place: int) -> None:
        """A message was put into the history.

        Args:
            agent: whose history.
            message: that is new.
            place: its index in the history.

        Raises:
            SessionError: it could not be written. It is in the history, and in the session after the next write.
        """
        if self._session is None or not self._restored:
            return
        if not self._sure or len(agent.chat_history) != len(self._said) + 1:
            await self._replace(agent, "edit")
            return
        self._said.insert(place, message)
        usage, self._usage = (None if agent.usage is self._usage else agent.usage), agent.usage
        try:
            await self._session.append([message], usage=usage)
        except BaseException:
            self._sure = False
            raise

    async def catch_up(self, agent: Kept, reason: str = "edit") -> None:
        """Write what somebody has changed, if anybody has.

        Raises:
            SessionError: it could not be written.
        """
        if self._session is None or not self._restored:
            return
        same = _are_same(self._said, agent.chat_history) and _are_same(self._pinned, agent.always_included_messages)
        if not (same and self._sure):
            await self._replace(agent, reason)

    async def _replace(self, agent: Kept, reason: str) -> None:
        assert self._session is not None
        state = state_of(agent)
        self._remember(state)
        try:
            await self._session.replace(state, reason=reason)
        except BaseException:
            self._sure = False
            raise

    async def round_ended(self, agent: Kept) -> None:
        """A round has ended: what was learnt in it is written, and everything lasts.

        Raises:
            SessionError: it could not be written.
        """
        if self._session is None or not self._restored:
            return
        await self.catch_up(agent)
        learnt = state_of(agent).window
        if (self._usage, self._learnt) != (agent.usage, learnt):
            self._usage, self._learnt = agent.usage, learnt
            await self._session.append((), usage=agent.usage, window=learnt)
        await self._session.flush()

    async def checkpoint(self, agent: Kept, label: str) -> None:
        """Remember the conversation as it is now under a label."""
        session = self._needed()
        await self.catch_up(agent)
        await session.checkpoint(label)

    async def rollback(self, agent: Kept, label: str) -> None:
        """Let the agent go on where it was at a checkpoint.

        Raises:
            SessionError: there is none of this label.
        """
        state = await self._needed().rollback(label)
        self._take_up(agent, state, state.always_included_messages)
        await self.catch_up(agent, "restore")

    def _needed(self) -> Session:
        if self._session is None:
            raise ValueError("the agent has no session; give it one: Agent(..., session=JournalSession(path))")
        return self._session

    async def close(self) -> None:
        """Let go of the session's files. The next round opens them again."""
        if self._session is not None:
            await self._session.aclose()


def _are_same(some: Sequence[Message], others: Sequence[Message]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _restored(state: SessionState, repaired: Sequence[Message]) -> SessionRestored:
    known = {id(message) for message in state.chat_history}
    made_up = sum(id(message) not in known for message in repaired)
    return SessionRestored(len(repaired), made_up, tuple(f"{each.reason} at {each.offset}" for each in state.damage))

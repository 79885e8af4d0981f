"""The conversations of one chat: one agent at a time is entered, and another one may take its place."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final, Self

from ...errors import SessionError
from ...turns import Turn
from ..disk import session_named, store_path

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from ...agent import Agent
    from ...session.sqlite import SessionInfo, SQLiteSession, SQLiteSessionStore

__all__ = ["Conversations", "changing", "session_of"]

MOST: Final = 50
"""How many sessions are listed."""


def session_of(agent: Agent) -> SQLiteSession | None:
    """The session of a store in which an agent keeps its conversation, if it does."""
    from ...session.sqlite import SQLiteSession

    session = agent._keeper._session
    return session if isinstance(session, SQLiteSession) else None


@asynccontextmanager
async def changing(agent: Agent, reason: str) -> AsyncGenerator[None]:
    """While it lasts, no round begins; what was changed then is brought into the session.

    Raises:
        SessionError: the session could not be written; the next write brings it up to date.
    """
    async with Turn(agent, agent._turns).whole(is_round=False):
        await agent._keeper.begin(agent)
        yield
        await agent._keep_up(reason)


class Conversations:
    """Enters the agents of a chat, one at a time, and knows the sessions that they could go on with.

    Args:
        agent: the first one.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        """Who is entered."""
        self.goes_on = False
        """Whether the first one came out of its session."""
        self.before: Agent | None = None
        """Whose place it has taken."""
        self.known: Sequence[SessionInfo] = ()
        """The sessions, as they were looked up last."""
        self._given = () if agent._keeper._pins is False else tuple(agent.always_included_messages)
        """What the program pins: what was pinned since, or came out of a session, belongs to one conversation."""
        self._files: set[str] = set()
        """Those that this chat has written or loaded."""
        self._begun: list[Agent] = []
        """Those whose sessions were not there before this chat."""
        self._entered = AsyncExitStack()
        self._store: SQLiteSessionStore | None = None

    async def __aenter__(self) -> Self:
        if (session := session_of(self.agent)) is not None:
            with suppress(SessionError):  # who enters it hears of it
                if await session._store.info(session.id) is None:
                    self._begun.append(self.agent)
        nothing_was_said = not self.agent.chat_history
        await self._entered.enter_async_context(self.agent)
        self.goes_on = nothing_was_said and bool(self.agent.chat_history)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self._entered.aclose()
            for agent in self._begun:
                with suppress(SessionError):
                    await _remove_if_empty(agent)
        finally:
            if self._store is not None:
                await self._store.aclose()

    async def go_to(self, agent: Agent) -> None:
        """Go on with another agent. The one before is left.

        Raises:
            SessionError: the other one cannot be entered, and nothing has changed; or the one before could not write
                what was left to write.
        """
        entered = AsyncExitStack()
        await entered.enter_async_context(agent)
        left, self._entered = self._entered, entered
        self.agent, self.before = agent, self.agent
        await left.aclose()

    # ---- other conversations ----

    async def forked(self) -> Agent:
        """An agent that goes on from here by itself, in a session of its own if this one has a session of a store.

        Raises:
            SessionError: the session cannot be forked.
        """
        agent, session = self.agent, session_of(self.agent)
        if session is None:
            copy = agent.fork()
            copy.usage = agent.usage
        else:
            await agent._round_ended()
            copy = agent.fork(session=await session._store.fork(session.id, await _free_id(session)))
            copy._keeper._pins = agent._keeper._pins
            self._begun.append(copy)
        copy._handlers = agent._handlers
        return copy

    async def opened(self, name: str) -> Agent:
        """An agent like this one that goes on with another session.

        Args:
            name: its id, or the beginning of it.

        Raises:
            SessionError: there is none, or there are several.
        """
        store = self.store()
        id = (await session_named(store, name)).id
        session = session_of(self.agent)
        if session is not None and (session.id, session._store.path) == (id, store.path):
            raise SessionError(f"this is session {id!r}")
        opened = self.agent.fork(
            session=store.open(id), chat_history=None, system_prompt=None, always_included_messages=self._given
        )
        opened._parent, opened._handlers = self.agent._parent, self.agent._handlers
        return opened

    # ---- files ----

    def own_file(self, path: Path) -> None:
        """This chat has written it, or goes on with it."""
        self._files.add(os.path.realpath(path))

    def owns_file(self, path: Path) -> bool:
        """Whether what is there is known to this chat."""
        return os.path.realpath(path) in self._files

    # ---- the store ----

    def store(self) -> SQLiteSessionStore:
        """That of the present session; else the user's own, which the command uses."""
        if session := session_of(self.agent):
            return session._store
        if self._store is None:
            from ...session.sqlite import SQLiteSessionStore

            self._store = SQLiteSessionStore(store_path())
        return self._store

    async def look_up(self) -> Sequence[SessionInfo]:
        """The newest sessions, the last written first. There are none where there is no database.

        Raises:
            SessionError: they cannot be read.
        """
        self.known = await self.store().list(MOST)
        return self.known


async def _free_id(session: SQLiteSession) -> str:
    """The id of a copy: that of the session, and a number."""
    base, number = session.id[:190], 2
    while await session._store.info(f"{base}-{number}") is not None:
        number += 1
    return f"{base}-{number}"


async def _remove_if_empty(agent: Agent) -> None:
    """Remove a session in which nothing is said. An agent that goes on nevertheless makes it again."""
    session = session_of(agent)
    if session is None or agent.chat_history or agent._keeper._entered:
        return
    state = await session.load()
    if not state.chat_history and session._known is not None and not session._known.ledger.labels:
        await session._store.delete(session.id)
        await session.load()
        agent._keeper.took()

"""What of an agent lasts: taken from it, given back to it, and written into its session while it goes on.

A message is in `chat_history` first and in the session next, before anybody is handed it. If it cannot be written, that
is an error, and the message is in the history all the same: the next write brings the session up to date. So does the
beginning of a round, when somebody has edited the history between two rounds.
"""

from __future__ import annotations

import operator
from collections.abc import Generator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from weakref import ReferenceType, WeakKeyDictionary, ref

from .. import history
from ..errors import SessionConflictError, SessionError
from ..events import Handlers, SessionRestored
from ..limits import Spent
from ..message import FrozenDict, Message
from ..prompt.window import Window
from ..provider import ChatProvider
from ..tools.texts import ToolTexts

if TYPE_CHECKING:
    from .state import Session, SessionState

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
        await agent._keeper.enter(agent)
        stack.push_async_callback(agent._keeper.leave, agent)
        return stack.pop_all()


def state_of(agent: Kept) -> SessionState:
    """Everything of an agent that lasts."""
    from .state import SessionState  # whoever has no session, and saves to no file, needs none

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

    Raises:
        TypeError: it is no session.
    """

    _has: SessionState
    """What the session has, when all is written that is under way; its history grows in `_said`."""

    def __init__(self, session: Session | None) -> None:
        if session is not None:
            self._has = _nothing_in(session)
        self._session = session
        self._restored = session is None
        self._lost = False
        """Whether somebody else has written, so that the session has to be read again before the next round."""
        self._pins: bool | None = None
        """Whether the program gave pinned messages; they are not the session's to change."""
        self._entered = 0
        self._said: list[Message] = []
        self._sure = False
        """Whether no write has failed since all of it was there."""

    # ---- going on ----

    async def enter(self, agent: Kept) -> None:
        """`async with agent` begins: go on where the session is now."""
        again = self._restored and not self._entered
        self._entered += 1
        try:
            await self.begin(agent, again=again)
        except BaseException:
            self._entered -= 1
            await self._let_go()
            raise

    async def leave(self, agent: Kept) -> None:
        """`async with agent` ends: write what is not written yet, and let go of files with the last one.

        Raises:
            SessionError: it could not be written.
        """
        self._entered -= 1
        if self._session is None or self._entered:
            return
        try:
            if self._writes:
                await self._write_learnt(agent)
        finally:
            await self._let_go()

    async def _let_go(self) -> None:
        if self._session is not None and not self._entered:
            with suppress(TypeError):  # one that cannot be held weakly
                _holders.pop(self._session, None)
            await self._session.aclose()

    async def begin(self, agent: Kept, *, again: bool = False) -> None:
        """A round begins: restore what has to be restored, and write what somebody has edited.

        Args:
            agent: whose round.
            again: look whether somebody else has written to the session since it was left.

        Raises:
            SessionError: the session cannot be read or written.
            SessionConflictError: another agent keeps its conversation there.
        """
        if self._session is None:
            return
        self._claim(self._session)
        if self._lost or again:
            state = await self._session.load()
            if self._lost or not self._is_what_it_has(state):
                await self._take_up(agent, state)
            self._lost = False
        await self.restore(agent)
        await self.catch_up(agent)

    async def restore(self, agent: Kept) -> None:
        """Let the agent go on where its session ended. Once: after that it does nothing.

        Messages that the agent itself pins take the place of those in the session: they are the program's.

        Raises:
            SessionError: the session cannot be read.
            SessionConflictError: another agent keeps its conversation there.
        """
        if self._restored or self._session is None:
            return
        self._claim(self._session)
        state = await self._session.load()
        if self._restored:  # another task was faster
            return
        self._restored = True
        if state.chat_history or state.always_included_messages or state.prompt_cache_key:
            await self._take_up(agent, state)
            await self.catch_up(agent, "restore")
        else:
            await self.catch_up(agent, "begin")

    async def _take_up(self, agent: Kept, state: SessionState) -> None:
        self._go_on(agent, state)
        await agent._handlers.emit(_restored(state, agent.chat_history))

    def _go_on(self, agent: Kept, state: SessionState) -> None:
        if self._pins is None:
            self._pins = bool(agent.always_included_messages)
        pinned = tuple(agent.always_included_messages) if self._pins else state.always_included_messages
        give_back(agent, replace(state, always_included_messages=pinned))
        self._remember(state)

    def _claim(self, session: Session) -> None:
        """One agent at a time: two would overwrite each other."""
        try:
            holder = _holders.get(session)
            if holder is not None and (other := holder()) is not None and other is not self:
                raise SessionConflictError(
                    f"another agent keeps its conversation in {session!r}; give each agent a session of its own, or "
                    "leave the `async with` of the other one first"
                )
            _holders[session] = ref(self)
        except TypeError:  # one that cannot be held weakly
            pass

    def took(self) -> None:
        """The agent has loaded another conversation, which takes the place of the session's."""
        self._restored, self._sure = True, False

    def check_restored(self) -> None:
        """Make sure that the agent has what its session has.

        Raises:
            SessionError: it was not restored yet.
        """
        if not self._restored:
            raise SessionError("the session was not restored yet; do this within `async with agent`")

    # ---- writing ----

    @property
    def keeps(self) -> bool:
        """Whether the conversation has a session."""
        return self._session is not None

    def _remember(self, state: SessionState) -> None:
        self._has, self._said = state, list(state.chat_history)
        self._sure = True

    def _is_what_it_has(self, state: SessionState) -> bool:
        pinned = state.always_included_messages == self._has.always_included_messages
        return pinned and list(state.chat_history) == self._said

    @contextmanager
    def _unsure(self) -> Generator[None]:
        """While something is written: whoever does not hear that it was has to write all of it again."""
        try:
            yield
        except SessionConflictError:
            self._lost = True
            raise
        except BaseException:
            self._sure = False
            raise

    @property
    def _writes(self) -> bool:
        return self._session is not None and self._restored and not self._lost

    async def keep(self, agent: Kept, message: Message, place: int) -> None:
        """A message was put into the history.

        Args:
            agent: whose history.
            message: that is new.
            place: its index in the history.

        Raises:
            SessionError: it could not be written. It is in the history, and in the session after the next write.
        """
        if self._session is None or not self._writes:
            return
        if not self._sure or len(agent.chat_history) != len(self._said) + 1:
            await self._replace(agent, "edit")
            return
        self._said.insert(place, message)
        usage = None if agent.usage is self._has.usage else agent.usage
        self._has = replace(self._has, usage=agent.usage)
        with self._unsure():
            await self._session.append([message], usage=usage)

    async def settle(self, agent: Kept) -> None:
        """Something is about to be handed out: whoever puts messages into the history by itself may not have told."""
        if self._writes and (not self._sure or len(agent.chat_history) != len(self._said)):
            await self._replace(agent, "edit")

    async def catch_up(self, agent: Kept, reason: str = "edit") -> None:
        """Write what somebody has changed, if anybody has.

        Raises:
            SessionError: it could not be written.
        """
        if not self._writes:
            return
        same = self._sure and self._has.prompt_cache_key == agent.prompt_cache_key
        same = same and _are_same(self._has.always_included_messages, agent.always_included_messages)
        if not (same and _are_same(self._said, agent.chat_history)):
            await self._replace(agent, reason)

    async def _replace(self, agent: Kept, reason: str) -> None:
        assert self._session is not None
        state = state_of(agent)
        self._remember(state)
        with self._unsure():
            await self._session.replace(state, reason=reason)

    async def round_ended(self, agent: Kept) -> None:
        """A round has ended: what was learnt in it is written, and everything lasts.

        Raises:
            SessionError: it could not be written.
        """
        if self._writes:
            await self._write_learnt(agent)

    async def _write_learnt(self, agent: Kept) -> None:
        assert self._session is not None
        await self.catch_up(agent)
        usage, learnt = agent.usage, state_of(agent).window
        if (self._has.usage, self._has.window) != (usage, learnt):
            self._has = replace(self._has, usage=usage, cut=learnt.cut, scale=learnt.scale, counted=learnt.counted)
            with self._unsure():
                await self._session.append((), usage=usage, window=learnt)
        await self._session.flush()

    # ---- checkpoints ----

    async def checkpoint(self, agent: Kept, label: str) -> None:
        """Remember the conversation as it is now under a label."""
        session = self._needed()
        await self.begin(agent)
        with self._unsure():
            await session.checkpoint(label)

    async def rollback(self, agent: Kept, label: str) -> None:
        """Let the agent go on where it was at a checkpoint.

        Raises:
            SessionError: there is none of this label.
        """
        session = self._needed()
        await self.begin(agent)
        usage = agent.usage
        with self._unsure():
            state = await session.rollback(label)
        self._go_on(agent, state)
        agent.usage = usage
        await self.catch_up(agent, "restore")

    def _needed(self) -> Session:
        if self._session is None:
            raise ValueError("the agent has no session; give it one: Agent(..., session=JournalSession(path))")
        return self._session


_holders: Final[WeakKeyDictionary[Session, ReferenceType[Keeper]]] = WeakKeyDictionary()
"""Which agent keeps its conversation where."""


def _nothing_in(session: Session) -> SessionState:
    """What is known of a session that nobody has read.

    Raises:
        TypeError: it is none.
    """
    from .state import Session, SessionState

    if not isinstance(session, Session):
        raise TypeError(
            f"{session!r} is no session: that is a JournalSession(path), store.open(id), or what has all methods of "
            "the protocol Session"
        )
    return SessionState()


def _are_same(some: Sequence[Message], others: Sequence[Message]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _restored(state: SessionState, repaired: Sequence[Message]) -> SessionRestored:
    known = {id(message) for message in state.chat_history}
    made_up = sum(id(message) not in known for message in repaired)
    return SessionRestored(len(repaired), made_up, tuple(f"{each.reason} at {each.offset}" for each in state.damage))

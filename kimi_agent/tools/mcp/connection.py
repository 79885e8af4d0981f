"""The connection to one MCP server: opened, kept and closed by a task of its own, opened again when it has ended.

A session belongs to the task that opened it, whoever calls and whoever closes. So a call may be cancelled, and the
tools may be left in another task than the one that entered them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from loguru import logger

from ...errors import MCPServerError
from .configs import ServerConfig, hidden
from .stderr import Stderr

if TYPE_CHECKING:
    from .sdk import Progress, Session

T = TypeVar("T")

__all__ = ["Connection", "close_all"]

MOST_FAILURES: Final = 3
"""After so many sessions in a row that answered no call, a server is left alone for a while."""
REST: Final = 30.0
"""Seconds for which it is left alone."""
CLOSE_GRACE: Final = 10.0
"""Seconds that closing may take before the task of a connection is cancelled."""
_CLOSED: Final = "is closed: its `async with` has been left"
_LEAVE: Final = 0.5
"""Seconds that a cancelled call gets to tell its server."""
_LAST_WORDS: Final = 0.5
"""Seconds to wait for what a process that has ended wrote to its standard error."""


class Connection:
    """The connection to one server.

    Args:
        config: the server.
        connect_timeout: seconds until it has listed its tools.
    """

    def __init__(self, config: ServerConfig, connect_timeout: float) -> None:
        self.config = config
        self.changed = False
        """Whether the server has said that its tools are others now."""
        self._connect_timeout = connect_timeout
        self._loop = asyncio.get_running_loop()
        self._opening: asyncio.Future[Session] | None = None
        self._owners: set[asyncio.Task[None]] = set()
        self._abandoning: list[Callable[[], None]] = []
        self._stop = asyncio.Event()
        self._unanswering = 0  # sessions in a row in which no call was answered
        self._rests_until = 0.0

    def __repr__(self) -> str:
        return f"<connection to {self._named}>"

    @property
    def _named(self) -> str:
        return f"the MCP server {self.config.name!r} ({self.config.shown})"

    def _error(self, text: str) -> MCPServerError:
        return MCPServerError(hidden(self.config, f"{self._named} {text}"))

    # ---- the session ----

    async def session(self) -> Session:
        """The open session; a new one if there is none, or the last one has ended.

        Raises:
            MCPServerError: the server cannot be reached, or the connection is closed.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise self._error("was opened in another event loop")
        if self._stop.is_set():
            raise self._error(_CLOSED)
        opening = self._opening if self._is_good() else self._open()
        assert opening is not None
        await asyncio.wait([opening])  # being cancelled here cancels nobody else's wait
        return opening.result()

    def _is_good(self) -> bool:
        """Whether there is a session, or will be one."""
        if self._opening is None or not self._opening.done():
            return self._opening is not None
        return self._opening.exception() is None and not self._opening.result().ended.is_set()

    def _open(self) -> asyncio.Future[Session]:
        now = self._loop.time()
        if (rest := self._rests_until - now) > 0:
            raise self._error(f"failed {self._unanswering} times in a row; it is tried again in {rest:.0f} seconds")
        self._unanswering += 1
        if self._unanswering >= MOST_FAILURES:
            self._rests_until = now + REST
        self._opening = opening = self._loop.create_future()
        opening.add_done_callback(lambda future: future.cancelled() or future.exception())
        owner = self._loop.create_task(self._own(opening), name=f"MCP server {self.config.name}")
        self._owners.add(owner)
        owner.add_done_callback(self._owners.discard)
        return opening

    async def _own(self, opening: asyncio.Future[Session]) -> None:
        """Open a session, keep it until it ends or is not needed any more, and close it."""
        stderr = Stderr(self.config)
        problem: Exception | None = None
        try:
            await self._keep(opening, stderr)
        except Exception as error:  # what a connection breaks with, in whatever groups
            problem = error
        finally:
            if not opening.done():
                last_words = await stderr.last(_LAST_WORDS)
                opening.set_exception(self._error(self._why(problem, last_words)))
        logger.debug("{} has ended: {}", self._named, hidden(self.config, _told(problem) if problem else "closed"))

    async def _keep(self, opening: asyncio.Future[Session], stderr: Stderr) -> None:
        from .sdk import open_session

        if self._stop.is_set():
            return
        opened = open_session(self.config, self._connect_timeout, stderr, self._note_change, self._abandoning)
        async with opened as session:
            opening.set_result(session)
            waits = [asyncio.ensure_future(event.wait()) for event in (self._stop, session.ended)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    def _note_change(self) -> None:
        self.changed = True

    def _note_answer(self) -> None:
        self._unanswering, self._rests_until = 0, 0.0

    def _why(self, problem: BaseException | None, last_words: str) -> str:
        if self._stop.is_set():
            return _CLOSED
        if isinstance(problem, TimeoutError):
            reason = f"did not answer within {self._connect_timeout:g} seconds"
        else:
            reason = f"could not be reached: {_told(problem)}" if problem else "was closed"
        return f"{reason}\nIt wrote:\n{last_words}" if last_words else reason

    # ---- what it is asked ----

    async def call(self, tool: str, arguments: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
        """Call a tool; it is sent once. Who is cancelled meanwhile has the server told so.

        Raises:
            MCPServerError: the server cannot be reached, answers with an error, or has ended.
        """
        from .sdk import SessionForgotten

        for _ in range(2):  # one that does not know the session has not called anything
            session = await self.session()
            try:
                return await self._called(session, tool, arguments, on_progress)
            except SessionForgotten:
                session.ended.set()
        raise self._error("forgets its sessions")

    async def _called(
        self, session: Session, tool: str, arguments: dict[str, Any], on_progress: Progress
    ) -> dict[str, Any]:
        from .sdk import SessionEnded, SessionRefused, SessionUnreachable, SessionUnreadable

        try:
            answer = await _left_at_once(session.call_tool(tool, arguments, on_progress))
        except SessionEnded:
            text = "has ended in the middle of the call; whether it was carried out is unknown"
            raise self._error(text) from None
        except SessionUnreachable as problem:
            raise self._error(f"could not be reached: {problem}") from None
        except SessionUnreadable as problem:
            self._note_answer()
            raise self._error(f"has answered the call, but {problem}") from None
        except SessionRefused as refused:
            self._note_answer()
            raise self._error(f"answers with an error: {refused}") from None
        self._note_answer()
        return answer

    async def listed(self) -> list[dict[str, Any]]:
        """The tools as the server lists them now.

        Raises:
            MCPServerError: it cannot be reached, or answers with an error.
        """
        from .sdk import SessionForgotten, SessionRefused

        self._rests_until = 0.0
        is_new = not self._is_good()
        session = await self.session()
        if is_new:
            return session.tools
        self.changed = False
        try:
            async with asyncio.timeout(self._connect_timeout):
                await session.list_tools()
        except SessionForgotten:
            session.ended.set()
            return (await self.session()).tools
        except TimeoutError:
            raise self._error(f"did not list its tools within {self._connect_timeout:g} seconds") from None
        except SessionRefused as refused:
            raise self._error(f"does not list its tools: {refused}") from None
        return session.tools

    def stop(self) -> set[asyncio.Task[None]]:
        """Close the connection for good, also one that is being opened. The tasks that are still at it."""
        self._stop.set()
        for abandon in self._abandoning:
            abandon()
        return set(self._owners)


async def close_all(connections: Iterable[Connection]) -> None:
    """Close connections, side by side. A cancellation waits until they are closed; that takes a bounded time."""
    owners = {owner for connection in connections for owner in connection.stop()}
    cancelled = await _ended(owners, CLOSE_GRACE)
    for owner in owners:
        owner.cancel()
    cancelled = await _ended(owners, CLOSE_GRACE) or cancelled
    if cancelled is not None:
        raise cancelled


async def _ended(tasks: Iterable[asyncio.Task[None]], seconds: float) -> asyncio.CancelledError | None:
    """Wait for tasks to end, even if this one is cancelled; the cancellation, if there was one."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    cancelled: asyncio.CancelledError | None = None
    while (running := [task for task in tasks if not task.done()]) and (left := deadline - loop.time()) > 0:
        try:
            await asyncio.wait(running, timeout=left)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


async def _left_at_once(work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. Who is cancelled does not wait until a server that is stuck has been told so."""
    task = asyncio.get_running_loop().create_task(work)
    _leaving.add(task)
    task.add_done_callback(_leaving.discard)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        task.cancel()
        await asyncio.wait([task], timeout=_LEAVE)
        raise
    return task.result()


_leaving: Final[set[asyncio.Task[Any]]] = set()
"""The loop holds its tasks weakly; these go on when nobody waits for them."""


def _told(error: BaseException) -> str:
    """What an error says; of a group the first one that is not the consequence of another."""
    told = [str(leaf) or type(leaf).__name__ for leaf in _leaves(error)]
    return next((text for text in told if text != "Connection closed"), told[0])


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions for leaf in _leaves(inner)]

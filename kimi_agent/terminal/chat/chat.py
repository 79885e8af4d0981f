"""A conversation in the terminal.

Ctrl-C stops the answer, and the round is closed, so the history stays one that can be sent. When it comes twice with
nothing said in between, it leaves; so does Ctrl-D. An error of the provider is one line,
and the chat goes on. Whatever a model or a tool wrote is made visible before it is printed.

Where a person types, a line such as `/help` is a command. Lines that come out of a pipe all go to the model.

The chat knows a `Display` and a `Reader`, and not what they are made of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ...errors import ApprovalPending, KimiAgentError, SessionConflictError, SessionError
from ...tools.approval import Approval
from ..formatters import with_arguments
from ..screen.display import USER, Display, PlainDisplay
from ..screen.front import front
from ..screen.interrupts import Interrupts
from ..screen.options import ChatOptions, Completion
from ..screen.reading import Left, PlainReader, Reader, input_is_piped
from ..text import on_one_line
from . import commands
from .approvals import approval_of, described, question
from .completing import complete
from .conversations import Conversations, session_of
from .recap import recap
from .status import status_line

if TYPE_CHECKING:
    from ...agent import Agent
    from ...message import ToolCall

__all__ = ["Chat", "chat_in_terminal", "chat_in_terminal_async"]

T = TypeVar("T")

LONGEST: Final = 200
"""Characters of a call that was passed over."""
STOPPED: Final = "(stopped; {}, Ctrl-C leaves)"
WAITING: Final = "(calls wait for approval; Enter shows them)"


def chat_in_terminal(
    agent: Agent,
    *,
    rounds: int = 0,
    stopword: str | None = None,
    echo: bool = False,
    ai_first: bool = False,
    width: int | None = None,
    show_function_args: bool = False,
    show_function_returns: bool = False,
    verbose: bool = False,
    stream: bool = True,
) -> None:
    """Chat with an agent in the terminal until the user leaves with Ctrl-D or the stopword.

    Ctrl-C stops an answer, and twice it leaves. After an answer that was stopped or failed, Enter alone asks again.
    `/help` lists what else a person can type. After `/fork` and `/sessions` the chat goes on with another agent, and
    this one stays as it is.

    Args:
        agent: is closed at the end, if nobody else has entered it.
        rounds: leave after so many; 0 for no limit.
        stopword: leave when the user says exactly this.
        echo: print what the user said, for outputs that do not show what is typed.
        ai_first: the model speaks first.
        width: of the lines, in columns; `None` for lines of any length.
        show_function_args: with the arguments of the functions that the model calls.
        show_function_returns: print what the functions return.
        verbose: `echo`, `show_function_args` and `show_function_returns`.
        stream: print words as they come, instead of whole messages.

    Raises:
        KimiAgentError: an event loop is running in this thread.
    """
    if _a_loop_is_running():
        raise KimiAgentError(
            "chat_in_terminal() cannot wait where an event loop is running already; "
            "use `await chat_in_terminal_async(...)` there"
        )
    asyncio.run(
        chat_in_terminal_async(
            agent,
            rounds=rounds,
            stopword=stopword,
            echo=echo,
            ai_first=ai_first,
            width=width,
            show_function_args=show_function_args,
            show_function_returns=show_function_returns,
            verbose=verbose,
            stream=stream,
        )
    )


async def chat_in_terminal_async(
    agent: Agent,
    *,
    rounds: int = 0,
    stopword: str | None = None,
    echo: bool = False,
    ai_first: bool = False,
    width: int | None = None,
    show_function_args: bool = False,
    show_function_returns: bool = False,
    verbose: bool = False,
    stream: bool = True,
) -> None:
    """`chat_in_terminal` for where an event loop is running, with the same arguments."""
    options = ChatOptions(
        width=width,
        show_args=verbose or show_function_args,
        show_returns=verbose or show_function_returns,
        stream=stream,
        echo=verbose or echo,
    )
    await Chat(agent, options, stopword=stopword).run(rounds, ai_first)


def _a_loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _parts(options: ChatOptions, interrupts: Interrupts) -> tuple[Display, Reader]:
    """What a chat is shown with, and what it reads with."""
    if (live := front(interrupts, options)) is not None:
        return live
    return PlainDisplay(options), PlainReader(interrupts, echo=options.echo)


class Chat:
    """One conversation after the other: asks, answers, and survives what happens in between.

    Args:
        agent: who answers, until a command puts another one in its place.
        options: how it looks. What the display and the reader may ask is filled in.
        stopword: leave when the user says exactly this.
    """

    def __init__(self, agent: Agent, options: ChatOptions | None = None, *, stopword: str | None = None) -> None:
        self.conversations = Conversations(agent)
        self.interrupts = Interrupts()
        self.stopword = stopword
        self.options = replace(options or ChatOptions(), complete=self.complete, status=self.status)
        self.display, self.reader = _parts(self.options, self.interrupts)
        self._unanswered = False
        self._lost: str | None = None
        """A question that is in no history: another program has written to the session meanwhile."""
        self._is_last = False

    @property
    def agent(self) -> Agent:
        """Who answers now."""
        return self.conversations.agent

    def complete(self, line: str) -> list[Completion]:
        """How the line could go on."""
        return complete(self, line)

    def status(self) -> str:
        """The status line."""
        return status_line(self.agent)

    async def run(self, rounds: int = 0, ai_first: bool = False) -> None:
        """Chat until the user leaves.

        Args:
            rounds: leave after so many; 0 for no limit.
            ai_first: the model speaks first.
        """
        with self.interrupts.caught():
            async with self.conversations:
                with suppress(Left):
                    await self._look_around()
                    for number in range(rounds) if rounds else count():
                        self._is_last = number == rounds - 1
                        query = None if ai_first and number == 0 else await self._query()
                        await self._answer(query)

    async def _look_around(self) -> None:
        """What was said the last time, with calls that may wait since then; and there may be sessions to go on with."""
        if self.conversations.goes_on:
            self._recap()
        self._tell_of_waiting_calls()
        if session_of(self.agent) is not None:
            with suppress(SessionError):  # who wants to see them hears of it
                await self.conversations.look_up()

    async def _query(self) -> str | None:
        """What the user says. Enter alone means nothing, except after an answer that did not come."""
        while True:
            line = self._heard(await self.reader.line(USER))
            if self.stopword and line == self.stopword:
                raise Left
            if not input_is_piped():
                if (command := commands.command_in(line)) is not None:
                    if await self._does(command):
                        return None
                    continue
                line = commands.unescaped(line)
            if line or self._unanswered:
                return line or self._lost

    async def _does(self, command: commands.Typed) -> bool:
        """Do what a command says; whether the model is to answer now."""
        agent, said, asks = self.agent, list(self.agent.chat_history), False
        try:
            task = await self._ended(commands.run(self, command))
            if task.cancelled():
                self.display.notice("(stopped)", "remark")
                self._leave_if_asked_to()
            else:
                asks = await self._takes(task.result())
        except (KimiAgentError, OSError, ValueError) as error:
            self.display.notice(_told(error), "error")
        if self.agent is not agent or [*map(id, said)] != [*map(id, self.agent.chat_history)]:
            self._unanswered = commands.waits_for_an_answer(self.agent)
            self._tell_of_waiting_calls()
        return asks

    async def _takes(self, did: commands.Did) -> bool:
        """Go on as a command wants it; whether the model is to answer now."""
        try:
            if did.agent is not None:
                await self.conversations.go_to(did.agent)
        finally:
            if did.notice and (did.agent is None or did.agent is self.agent):
                self.display.notice(did.notice)
        if did.recaps:
            self._recap(named=False)
        return did.asks

    def _recap(self, *, named: bool = True) -> None:
        """Remind whoever sits there of what was said."""
        if (told := recap(self.agent, named=named)) and not input_is_piped():
            self.display.notice(told, "remark")

    def _tell_of_waiting_calls(self) -> None:
        if self.agent.waiting_calls:
            self._unanswered = True
            self.display.notice(WAITING, "remark")

    def _heard(self, said: str) -> str:
        line = said.strip()
        if self.options.echo:
            self.display.said(line)
        return line

    async def _answer(self, query: str | None) -> None:
        """One round. Whatever Ctrl-C or the provider does to it, the chat goes on."""
        self._unanswered, self._lost = True, None
        for call in self.agent.waiting_calls if query is not None else ():
            self.display.notice(f"✗ {on_one_line(with_arguments(call), LONGEST)}: not run", "remark")
        try:
            if await self._went_to_its_end(query):
                self._unanswered = False
            else:
                self.display.notice(self._stopped(), "remark")
                self._leave_if_asked_to()
        except KimiAgentError as error:
            self._lost = query if isinstance(error, SessionConflictError) else None
            self.display.notice(_told(error) + ("" if self._is_last else " (Enter tries again)"), "error")

    async def _went_to_its_end(self, query: str | None) -> bool:
        """A round, and all that the user has to approve in it; whether it was not stopped."""
        waiting = self.agent.waiting_calls if query is None else ()
        while True:
            if (said := await self._approvals(waiting)) is None:
                return False
            task = await self._ended(self.display.answer(self.agent, query, said))
            if task.cancelled():
                return False
            try:
                task.result()
                return True
            except ApprovalPending as pending:
                query, waiting = None, pending.calls

    async def _approvals(self, calls: Sequence[ToolCall]) -> list[Approval] | None:
        """What the user says of each call; `None` for Ctrl-C, and then they still wait."""
        said: list[Approval] = []
        always: set[str] = set()
        for call in calls:
            self.display.notice(described(call, self.display.columns))
            if call.name in always:
                said.append(Approval.approve_for_session(call))
                continue
            if (reply := await self.reader.reply(question(call))) is None:
                return None
            said.append(approval_of(self._heard(reply), call))
            always |= {call.name} if said[-1].decision == "approve_for_session" else set()
        return said

    async def _ended(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Its task, at its end, which may be Ctrl-C: then it was cancelled."""
        task = asyncio.create_task(work)
        with self.interrupts.stopping(task.cancel):
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:  # not Ctrl-C: somebody cancels the whole chat
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                raise
        return task

    def _stopped(self) -> str:
        if self._is_last:
            return "(stopped)"
        waits = self.agent.waiting_calls
        return STOPPED.format("the calls wait, Enter asks about them" if waits else "Enter asks again")

    def _leave_if_asked_to(self) -> None:
        if self.interrupts.count > 1:
            raise Left


def _told(error: Exception) -> str:
    """Of what somebody else says, who says it; the others are whole sentences."""
    text = " ".join(str(error).split())
    return f"ERROR: {type(error).__name__}: {text}" if isinstance(error, KimiAgentError) else f"ERROR: {text}"

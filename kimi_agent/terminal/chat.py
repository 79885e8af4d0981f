"""A conversation in the terminal.

Ctrl-C stops the answer and never the chat: the round is closed, so the history stays one that can be sent. At the
prompt Ctrl-C tells how to leave, and leaves when it comes twice; Ctrl-D leaves. An error of the provider is one line,
and the chat goes on. Whatever a model or a tool wrote is made visible before it is printed.

The chat knows a `Display` and a `Reader`, and not what they are made of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from ..errors import ApprovalPending, KimiAgentError
from ..tools.approval import Approval
from .display import USER, Display, PlainDisplay
from .interrupts import Interrupts
from .reading import Left, PlainReader, Reader
from .text import visible

if TYPE_CHECKING:
    from ..agent import Agent
    from ..message import ToolCall

__all__ = ["Chat", "chat_in_terminal", "chat_in_terminal_async"]


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

    Ctrl-C stops an answer. After an answer that was stopped or failed, Enter alone asks again.

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
    echo, interrupts = verbose or echo, Interrupts()
    display = PlainDisplay(width, verbose or show_function_args, verbose or show_function_returns, stream)
    chat = Chat(agent, display, PlainReader(interrupts, echo=echo), interrupts, stopword=stopword, echo=echo)
    await chat.run(rounds, ai_first)


def _a_loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@dataclass
class Chat:
    """One conversation: asks, answers, and survives what happens in between.

    Args:
        agent: who answers.
        display: where it is shown.
        reader: where lines come from.
        interrupts: who hears of Ctrl-C.
        stopword: leave when the user says exactly this.
        echo: show what the user said.
    """

    agent: Agent
    display: Display
    reader: Reader
    interrupts: Interrupts
    stopword: str | None = field(default=None, kw_only=True)
    echo: bool = field(default=False, kw_only=True)
    _unanswered: bool = False
    _is_last: bool = False

    async def run(self, rounds: int = 0, ai_first: bool = False) -> None:
        """Chat until the user leaves.

        Args:
            rounds: leave after so many; 0 for no limit.
            ai_first: the model speaks first.
        """
        async with self.agent:
            with self.interrupts.caught(), suppress(Left):
                for number in range(rounds) if rounds else count():
                    self._is_last = number == rounds - 1
                    query = None if ai_first and number == 0 else await self._query()
                    await self._answer(query)

    async def _query(self) -> str | None:
        """What the user says. Enter alone means nothing, except after an answer that did not come."""
        while True:
            line = await self._line(USER)
            if self.stopword and line == self.stopword:
                raise Left
            if line or self._unanswered:
                return line or None

    async def _line(self, prompt: str) -> str:
        line = (await self.reader.line(prompt)).strip()
        if self.echo:
            self.display.said(line)
        return line

    async def _answer(self, query: str | None) -> None:
        """One round. Whatever Ctrl-C or the provider does to it, the chat goes on."""
        self._unanswered = True
        try:
            if await self._went_to_its_end(query):
                self._unanswered = False
            else:
                self.display.notice("(stopped)" if self._is_last else "(stopped; Enter asks again)")
        except KimiAgentError as error:
            text, hint = " ".join(str(error).split()), "" if self._is_last else " (Enter tries again)"
            self.display.notice(f"ERROR: {type(error).__name__}: {text}{hint}")

    async def _went_to_its_end(self, query: str | None) -> bool:
        """A round, and all that the user has to approve in it; whether it was not stopped."""
        answering = self.display.answer(self.agent, query)
        while True:
            try:
                return await self._finished(answering)
            except ApprovalPending as pending:
                said = [await self._approval(call) for call in pending.calls]
                answering = self.display.answer(self.agent, None, said)

    async def _finished(self, answering: Coroutine[Any, Any, None]) -> bool:
        """Run it to its end, which may be Ctrl-C; whether it was not."""
        task = asyncio.create_task(answering)
        with self.interrupts.stopping(task.cancel):
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:  # not Ctrl-C: somebody cancels the whole chat
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                raise
        if task.cancelled():
            return False
        task.result()
        return True

    async def _approval(self, call: ToolCall) -> Approval:
        """What the user says of a call."""
        asked = " ".join(visible(f"{call.name}({call.arguments})").split())
        line = await self._line(f"Run {asked}? [y]es, [a]lways, [n]o, or what to do instead: ")
        match line.lower():
            case "y" | "yes":
                return Approval.approve(call)
            case "a" | "always":
                return Approval.approve_for_session(call)
            case "" | "n" | "no":
                return Approval.reject(call=call)
            case _:
                return Approval.reject(line, call)

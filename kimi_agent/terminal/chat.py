"""A conversation in the terminal, with plain `print` and `input`.

Ctrl-C stops the answer and never the chat: the round is closed, so the history stays one that can be sent. At the
prompt Ctrl-C tells how to leave, and leaves when it comes twice; Ctrl-D leaves. An error of the provider is one line,
and the chat goes on. Whatever a model or a tool wrote is made visible before it is printed.

Python hears of Ctrl-C in the main thread only. In any other thread a chat does not catch it, and it ends the program.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from inspect import isbuiltin
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from ..errors import ApprovalPending, KimiAgentError
from ..tools.approval import Approval
from .formatters import assistant_message_thinking
from .text import print_stream, print_width, visible

if TYPE_CHECKING:
    from ..agent import Agent
    from ..message import Message, ToolCall
    from ..stream import MessageStream

__all__ = ["chat_in_terminal", "chat_in_terminal_async"]

USER: Final = "USER: "
AI: Final = "AI: "
FUNCTION: Final = "FUNC: "


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
    chat = _Chat(
        agent,
        _Display(width, verbose or show_function_args, verbose or show_function_returns),
        stopword=stopword,
        echo=verbose or echo,
        stream=stream,
    )
    await chat.run(rounds, ai_first)


def _a_loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


# ==== what is shown ====


@dataclass(frozen=True)
class _Display:
    """How messages look."""

    width: int | None
    show_args: bool
    show_returns: bool

    async def show_stream(self, stream: MessageStream) -> None:
        if stream.role != "assistant":
            self.show_result(await stream.message() if self.show_returns else None)
            return
        await print_stream(self._text_or_calls(stream), self.width, AI)
        message = await stream.message()
        if message.text:
            self._show_calls(message)

    async def _text_or_calls(self, stream: MessageStream) -> AsyncIterator[str]:
        """The text as it comes; of an answer without text, what it calls."""
        silent = True
        async for token in stream:
            silent = silent and not token
            yield token
        if silent:
            yield self._calls(await stream.message())

    def show_message(self, message: Message) -> None:
        if message.role != "assistant":
            self.show_result(message if self.show_returns else None)
            return
        if message.text:
            print_width(message.text, self.width, AI)
        self._show_calls(message)

    def show_result(self, message: Message | None) -> None:
        if message is not None:
            print_width(message.text, self.width, FUNCTION)

    def _show_calls(self, message: Message) -> None:
        if calls := self._calls(message):
            print_width(calls, self.width, AI)

    def _calls(self, message: Message) -> str:
        return assistant_message_thinking(message, show_args=self.show_args) or ""


def _show_error(error: KimiAgentError, hint: str) -> None:
    text = " ".join(str(error).split())
    print(visible(f"ERROR: {type(error).__name__}: {text}{hint}"), flush=True)


# ==== Ctrl-C ====


@dataclass
class _Interrupts:
    """Ctrl-C, handed to whoever is doing something that can be stopped."""

    stop: Callable[[], object] = lambda: None
    _waiting: bool = False

    @contextmanager
    def caught(self) -> Generator[None, None, None]:
        """While it lasts, Ctrl-C calls `stop` in the event loop. The handler before is back afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()

        def on_signal(*_: object) -> None:
            if self._waiting:  # the loop did not get round to the last one: something blocks it
                raise KeyboardInterrupt
            self._waiting = True
            loop.call_soon_threadsafe(self._deliver)

        before = signal.signal(signal.SIGINT, on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Generator[None, None, None]:
        """While it lasts, Ctrl-C means `stop`."""
        before, self.stop = self.stop, stop
        try:
            yield
        finally:
            self.stop = before

    def _deliver(self) -> None:
        self._waiting = False
        self.stop()


# ==== the prompt ====


class _Left(Exception):
    """The user wants to leave."""


def _line_from_user(prompt: str) -> asyncio.Future[str]:
    """A line of input, read in a thread that a blocked terminal may keep without keeping the program."""
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def settle(settle_line: Callable[..., None], outcome: object) -> None:
        if not line.done():
            settle_line(outcome)

    def read() -> None:
        stdin = sys.stdin  # held, because a thread that still reads at exit must not lose the file under its feet
        try:
            outcome = line.set_result, input(prompt)
        except (EOFError, RuntimeError):  # RuntimeError: there is no stdin at all
            outcome = line.set_exception, _Left()
        except Exception as error:
            outcome = line.set_exception, error
        with suppress(RuntimeError):  # the chat is over, and its loop is closed
            loop.call_soon_threadsafe(settle, *outcome)
        del stdin

    threading.Thread(target=read, name="kimi_agent prompt", daemon=True).start()
    return line


def _input_is_piped() -> bool:
    """Whether nobody sees what is read. A notebook replaces `input` by one that shows it."""
    return isbuiltin(input) and not sys.stdin.isatty()


# ==== the conversation ====


@dataclass
class _Chat:
    """One conversation: asks, answers, and survives what happens in between."""

    agent: Agent
    display: _Display
    stopword: str | None = field(kw_only=True)
    echo: bool = field(kw_only=True)
    stream: bool = field(kw_only=True)
    _interrupts: _Interrupts = field(default_factory=_Interrupts)
    _unanswered: bool = False
    _is_last: bool = False

    async def run(self, rounds: int, ai_first: bool) -> None:
        async with self.agent:
            with self._interrupts.caught(), suppress(_Left):
                for number in range(rounds) if rounds else count():
                    self._is_last = number == rounds - 1
                    query = None if ai_first and number == 0 else await self._query()
                    await self._answer(query)

    async def _query(self) -> str | None:
        """What the user says. Enter alone means nothing, except after an answer that did not come."""
        while True:
            line = (await self._ask()).strip()
            if self.echo:
                print_width(line, self.display.width, USER)
            if self.stopword and line == self.stopword:
                raise _Left
            if line or self._unanswered:
                return line or None

    async def _ask(self, prompt: str = USER) -> str:
        line = _line_from_user(prompt)
        warned = False

        def interrupted() -> None:
            nonlocal warned
            if warned and not line.done():
                line.set_exception(_Left())
            elif not warned:
                warned = True
                print(f"\n(Ctrl-C again or Ctrl-D leaves)\n{prompt}", end="", flush=True)

        with self._interrupts.stopping(interrupted):
            try:
                said = await line
            except _Left:
                print(flush=True)
                raise
        if _input_is_piped():
            print(end="\n" if self.echo else f"{visible(said)}\n", flush=True)
        return said

    async def _answer(self, query: str | None) -> None:
        """One round. Whatever Ctrl-C or the provider does to it, the chat goes on."""
        self._unanswered = True
        try:
            if await self._went_to_its_end(query):
                self._unanswered = False
            else:
                print("(stopped)" if self._is_last else "(stopped; Enter asks again)", flush=True)
        except KimiAgentError as error:
            _show_error(error, "" if self._is_last else " (Enter tries again)")

    async def _finished(self, answering: Coroutine[Any, Any, None]) -> bool:
        """Run it to its end, which may be Ctrl-C; whether it was not."""
        task = asyncio.create_task(answering)
        with self._interrupts.stopping(task.cancel):
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

    async def _went_to_its_end(self, query: str | None) -> bool:
        """A round, and all that the user has to approve in it; whether it was not stopped."""
        answering = self._stream_round(query) if self.stream else self._whole_round(query)
        while True:
            try:
                return await self._finished(answering)
            except ApprovalPending as pending:
                said = [await self._approval(call) for call in pending.calls]
                answering = self._stream_round(None, said) if self.stream else self._whole_round(None, said)

    async def _approval(self, call: ToolCall) -> Approval:
        """What the user says of a call."""
        asked = " ".join(visible(f"{call.name}({call.arguments})").split())
        line = (await self._ask(f"Run {asked}? [y]es, [a]lways, [n]o, or what to do instead: ")).strip()
        if self.echo:
            print_width(line, self.display.width, USER)
        match line.lower():
            case "y" | "yes":
                return Approval.approve(call)
            case "a" | "always":
                return Approval.approve_for_session(call)
            case "" | "n" | "no":
                return Approval.reject(call=call)
            case _:
                return Approval.reject(line, call)

    async def _stream_round(self, query: str | None, said: Sequence[Approval] = ()) -> None:
        agent = self.agent
        async with agent.resume_stream(said) if said else agent.full_round_stream(query) as round_in_progress:
            async for message in round_in_progress:
                await self.display.show_stream(message)

    async def _whole_round(self, query: str | None, said: Sequence[Approval] = ()) -> None:
        agent = self.agent
        async with agent.resume(said) if said else agent.full_round(query) as round_in_progress:
            async for message in round_in_progress:
                self.display.show_message(message)

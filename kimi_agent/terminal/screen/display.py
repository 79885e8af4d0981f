"""What a chat shows, and the plain way to show it: with `print`, line by line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from ...tools.approval import Approval
from ..formatters import assistant_message_thinking
from ..text import format_width, print_stream, print_width
from .options import ChatOptions
from .telling import is_watched, telling

if TYPE_CHECKING:
    from ...agent import Agent
    from ...message import Message
    from ...stream import MessageStream

__all__ = ["Display", "NoticeKind", "PlainDisplay"]

USER: Final = "USER: "
AI: Final = "AI: "
FUNCTION: Final = "FUNC: "

NoticeKind: TypeAlias = Literal["told", "remark", "error"]


class Display(Protocol):
    """Where a chat is shown. Whatever a model or a tool wrote is made visible before it is written."""

    @property
    def columns(self) -> int | None:
        """How wide a line is at most; `None` for lines of any length."""
        ...

    async def answer(self, agent: Agent, query: str | None, approvals: Sequence[Approval] = ()) -> None:
        """Run one round, and show it while it goes on. Cancelled, it closes the round.

        Args:
            agent: who answers.
            query: what the user said; `None` asks again, or goes on.
            approvals: of the calls that waited; the round goes on with them.

        Raises:
            KimiAgentError: of the round.
        """
        ...

    def said(self, text: str) -> None:
        """Show what the user said, for outputs that do not show what is typed."""
        ...

    def notice(self, text: str, kind: NoticeKind = "told") -> None:
        """Show what the program itself has to say.

        Args:
            text: a line, or several.
            kind: what somebody asked for, a remark in passing, or an error.
        """
        ...


@dataclass(frozen=True)
class PlainDisplay:
    """Shows a chat with `print`, for any output: pipes, notebooks, dumb terminals.

    Args:
        options: how it is to look.
    """

    options: ChatOptions

    @property
    def columns(self) -> int | None:
        return shutil.get_terminal_size().columns if is_watched(sys.stdout) else None

    async def answer(self, agent: Agent, query: str | None, approvals: Sequence[Approval] = ()) -> None:
        with telling(agent, sys.stdout):
            await self._answer(agent, query, approvals)

    async def _answer(self, agent: Agent, query: str | None, approvals: Sequence[Approval]) -> None:
        if self.options.stream:
            rounds = agent.resume_stream(approvals) if approvals else agent.full_round_stream(query)
            async with rounds as streams:
                async for stream in streams:
                    await self._show_stream(stream)
            return
        async with agent.resume(approvals) if approvals else agent.full_round(query) as messages:
            async for message in messages:
                self._show_message(message)

    def said(self, text: str) -> None:
        print_width(text, self.options.width, USER)

    def notice(self, text: str, kind: NoticeKind = "told") -> None:
        print(format_width(text, self.columns), flush=True)

    async def _show_stream(self, stream: MessageStream) -> None:
        if stream.role != "assistant":
            self._show_result(await stream.message() if self.options.show_returns else None)
            return
        await print_stream(self._text_or_calls(stream), self.options.width, AI)
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

    def _show_message(self, message: Message) -> None:
        if message.role != "assistant":
            self._show_result(message if self.options.show_returns else None)
            return
        if message.text:
            print_width(message.text, self.options.width, AI)
        self._show_calls(message)

    def _show_result(self, message: Message | None) -> None:
        if message is not None:
            print_width(message.text, self.options.width, FUNCTION)

    def _show_calls(self, message: Message) -> None:
        if calls := self._calls(message):
            print_width(calls, self.options.width, AI)

    def _calls(self, message: Message) -> str:
        return assistant_message_thinking(message, show_args=self.options.show_args) or ""

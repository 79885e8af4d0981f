"""`kimi-agent run`: one question, one answer, for scripts and pipes.

Standard output has the answer and nothing else: its text as it comes, or with `--json` the frames, a line each. What
modules and tools print goes to stderr. What happens meanwhile - calls, requests that are sent again - is told there,
too, and only to somebody who watches it.
A terminal gets control characters escaped; a pipe gets the text as it is.
"""

from __future__ import annotations

import asyncio
import json
import sys
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, contextmanager, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Final, TextIO

from ...errors import ApprovalPending, KimiAgentError, SessionConflictError
from ..screen.telling import is_watched, telling
from ..text import visible
from .loading import add_agent_options, agent_of, reference
from .sessions import add_session_options, kept

if TYPE_CHECKING:
    from ...agent import Agent
    from ...events import StreamFrame

__all__ = ["add_run"]

OVERTAKEN: Final = "another program has written to the session meanwhile; what came after that is not kept there"


# ==== arguments ====


def add_run(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the subcommand to those of `kimi-agent`."""
    command = commands.add_parser(
        "run",
        usage="%(prog)s [PROMPT] [options]",
        help="ask one question and print the answer",
        description="Ask one question and print the answer. Piped input goes before the prompt, or is the prompt.",
    )
    command.add_argument("prompt", nargs="?", metavar="PROMPT", help="the question; - for what is piped")
    command.add_argument("--agent", type=reference, metavar="AGENT", help="who answers, as module:AgentClass")
    add_agent_options(command)
    add_session_options(command)
    command.add_argument("--json", action="store_true", help="print the frames of the round, one JSON object a line")
    command.set_defaults(run=partial(_run, command))


def _run(command: ArgumentParser, options: Namespace) -> None:
    prompt = _prompt(options.prompt)
    if not prompt:
        command.error("there is no prompt: give one, or pipe one")
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        asyncio.run(_answered(prompt, options, agent_of(options), out))


def _prompt(given: str | None) -> str:
    """What is asked: what is piped, then what is given."""
    stdin: TextIO | None = sys.stdin
    is_read = stdin is not None and (given == "-" or not stdin.isatty())
    said = stdin.read().strip() if stdin is not None and is_read else ""
    return "\n\n".join(filter(None, (said, "" if given in (None, "-") else given.strip())))


# ==== the round ====


async def _answered(prompt: str, options: Namespace, opening: AbstractAsyncContextManager[Agent], out: TextIO) -> None:
    """Ask, and print what comes.

    Args:
        prompt: the question.
        options: of the command.
        opening: who is asked.
        out: where it is printed; `sys.stdout` is everybody's.

    Raises:
        KimiAgentError: there is no answer, or it was cut off.
    """
    from ...events import CUT_OFF, End

    reason: str | None = None
    text = _Text(out)
    show = partial(_print_json, out) if options.json else text.show
    with _in_words():
        async with opening as agent, kept(agent, options), agent:
            try:
                with telling(agent, sys.stderr):
                    async with agent.full_round_frames(prompt) as frames:
                        async for frame in frames:
                            show(frame)
                            reason = frame.finish_reason if isinstance(frame, End) else reason
            finally:  # whoever is told why there is no more reads it on a line of its own
                text.end()
    if reason in CUT_OFF:
        raise KimiAgentError(f"the answer was cut off: {reason}")


@contextmanager
def _in_words() -> Generator[None]:
    """Errors that speak to a program speak to whoever typed the command."""
    try:
        yield
    except ApprovalPending as pending:
        names = ", ".join(dict.fromkeys(call.name for call in pending.calls))
        raise KimiAgentError(f"calls of {names} wait for approval, and here is nobody to ask; use chat") from pending
    except SessionConflictError as error:
        raise KimiAgentError(OVERTAKEN) from error


def _print_json(out: TextIO, frame: StreamFrame) -> None:
    from ...events import to_dict

    print(json.dumps(to_dict(frame)), file=out, flush=True)


class _Text:
    """Prints the text of a round, each message from the beginning of a line.

    Args:
        stream: where it is printed.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_watched = is_watched(stream)
        self._held = ""
        """The half of a line end that may follow."""
        self._is_open = False

    def show(self, frame: StreamFrame) -> None:
        from ...events import Append, End

        if isinstance(frame, Append):
            self._print(frame.text)
        elif isinstance(frame, End):
            self.end()

    def end(self) -> None:
        """The message is over."""
        held, self._held = self._held, ""
        if held or self._is_open:
            print(visible(held), file=self._stream, flush=True)
        self._is_open = False

    def _print(self, text: str) -> None:
        if self._is_watched:
            text = self._held + text
            self._held = "\r" if text.endswith("\r") else ""
            text = visible(text.removesuffix("\r"))
        if text:
            print(text, end="", file=self._stream, flush=True)
            self._is_open = not text.endswith("\n")

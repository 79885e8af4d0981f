"""The `kimi-agent` command.

What goes wrong on purpose is one line on stderr and exit code 1, never a traceback; 2 is a command line that cannot be
read, 130 Ctrl-C. A new subcommand is a function that adds its parser, listed in `COMMANDS`, and one that runs it;
both import what they need when they run.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from ... import __version__
from ...errors import KimiAgentError
from ..screen.telling import is_watched
from ..text import visible
from .loading import add_agent_options, agent_of, kimi_of, reference, running, tell
from .oneshot import add_run
from .reports import add_balance, add_doctor, add_models
from .sessions import add_session_options, add_sessions, add_view, kept

if TYPE_CHECKING:
    from ...agent import Agent

__all__ = ["main"]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `kimi-agent` and return its exit code.

    Args:
        argv: the arguments; those of the process unless given.
    """
    arguments = _parser().parse_args(argv)
    _take_any_bytes()
    try:
        _check_output()
        arguments.run(arguments)
        sys.stdout.flush()
    except KimiAgentError as error:
        tell(str(error))
        return 1
    except BrokenPipeError:  # the reader of our output left; there is nobody to tell
        _say_no_more()
        return 1
    except OSError as error:  # a full disk behind standard output
        _say_no_more()
        tell(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _check_output() -> None:
    """Make sure that somebody can hear of what the command does.

    Raises:
        KimiAgentError: nobody can.
    """
    if sys.stdout is None:
        raise KimiAgentError("standard output is closed; >/dev/null throws away what is printed")


def _say_no_more() -> None:
    """What is still to be written goes nowhere, also at exit."""
    with suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("kimi-agent", description="Agents on Kimi.")
    parser.add_argument("-V", "--version", action="version", version=f"kimi-agent {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return parser


def _take_any_bytes() -> None:
    """What cannot be decoded or encoded is shown as such, instead of ending the program."""
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            cast(Any, stream).reconfigure(errors=errors)


# ==== chat ====


def _add_chat(commands: Commands) -> None:
    text = "Chat with a model. On a terminal the conversation is kept, and chat --continue goes on with it."
    usage, help = "%(prog)s [AGENT] [options]", "chat with a model, or with an agent of yours"
    command = commands.add_parser("chat", usage=usage, help=help, description=text)
    command.add_argument(
        "agent",
        nargs="?",
        type=reference,
        metavar="AGENT",
        help="who answers, as module:AgentClass: a subclass of Agent, or a function from a provider to an agent",
    )
    add_agent_options(command)
    add_session_options(command, kept_by_default=True)
    command.set_defaults(run=_chat)


def _chat(options: argparse.Namespace) -> None:
    asyncio.run(_chatted(options, agent_of(options)))


async def _chatted(options: argparse.Namespace, opening: AbstractAsyncContextManager[Agent]) -> None:
    from ..chat.chat import Chat

    is_watched_here = is_watched(sys.stdin) and is_watched(sys.stdout)
    async with opening as agent, kept(agent, options, by_default=is_watched_here):
        _introduce(agent.provider.model_name, offline=options.offline)
        chat = Chat(agent)
        await chat.run()
        if is_watched_here:
            await _tell_how_to_go_on(chat.agent)


async def _tell_how_to_go_on(agent: Agent) -> None:
    """A command of the chat may have gone to another agent, and to another session."""
    from ..chat.conversations import session_of

    session = session_of(agent)
    if session is not None and (info := await session._store.info(session.id)) is not None and info.messages:
        print(f"Kept: kimi-agent chat --session={shlex.quote(session.id)} goes on.")


def _introduce(model: str, *, offline: bool) -> None:
    from ...kimi.client import KEY_NAMES

    stand_in = f"Offline: a stand-in answers. Set {KEY_NAMES[0]} to talk to Kimi."
    print(stand_in if offline else f"Talking to {visible(model)}.", "Ctrl-D leaves.", flush=True)


# ==== demo ====


def _add_demo(commands: Commands) -> None:
    command = commands.add_parser("demo", help="chat with an agent that has tools; without a key, offline")
    command.set_defaults(run=running(_demo))


async def _demo(options: argparse.Namespace) -> None:
    from ...kimi.client import KEY_NAMES
    from ..chat.chat import chat_in_terminal_async
    from .demo import DemoAgent

    offline = not any(os.environ.get(name, "").strip() for name in KEY_NAMES)
    async with kimi_of(argparse.Namespace(offline=offline)) as kimi:
        _introduce(kimi.model_name, offline=offline)
        await chat_in_terminal_async(DemoAgent(kimi))


# ==== tokenizer ====


def _add_tokenizer(commands: Commands) -> None:
    command = commands.add_parser("tokenizer", help="the rank file, with which tokens are counted exactly")
    command.set_defaults(run=_show_ranks_path)
    actions = command.add_subparsers(title="commands", metavar="COMMAND", description="Without one: path.")
    download = actions.add_parser("download", help="fetch it from where Moonshot AI publishes it, and check it")
    download.add_argument("--from", dest="source", metavar="URL-or-path", help="fetch it from there instead")
    download.set_defaults(run=_download_ranks)
    actions.add_parser("path", help="where it is looked for").set_defaults(run=_show_ranks_path)


def _download_ranks(arguments: argparse.Namespace) -> None:
    from ...prompt.ranks import SIZE, download

    path = download(arguments.source)
    print(f"{visible(str(path))}: {SIZE:,} bytes, checked.")


def _show_ranks_path(arguments: argparse.Namespace) -> None:
    from ...prompt.ranks import ranks_path

    print(ranks_path())


COMMANDS: Final[tuple[Callable[[Commands], None], ...]] = (
    _add_chat,
    add_run,
    _add_demo,
    add_sessions,
    add_view,
    add_models,
    add_balance,
    _add_tokenizer,
    add_doctor,
)

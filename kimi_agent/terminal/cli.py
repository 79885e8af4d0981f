"""The `kimi-agent` command.

What goes wrong on purpose is one line on stderr and exit code 1, never a traceback. A new subcommand is a function that
adds its parser, listed in `COMMANDS`, and one that runs it; both import what they need when they run.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from .. import __version__
from ..errors import KimiAgentError
from .text import visible

if TYPE_CHECKING:
    from ..agent import Agent
    from ..kimi.client import Kimi

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
        arguments.run(arguments)
    except KimiAgentError as error:
        print(f"kimi-agent: {visible(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output left; there is nobody to tell, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("kimi-agent", description="Agents on Kimi.")
    parser.add_argument("--version", action="version", version=f"kimi-agent {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return parser


def _take_any_bytes() -> None:
    """What cannot be decoded or encoded is shown as such, instead of ending the program."""
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            cast(Any, stream).reconfigure(errors=errors)


# ==== demo ====


def _add_demo(commands: Commands) -> None:
    command = commands.add_parser("demo", help="chat with an agent that has tools; without a key, offline")
    command.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> None:
    from ..kimi.client import KEY_NAMES
    from .demo import DemoAgent

    offline = not any(os.environ.get(name, "").strip() for name in KEY_NAMES)
    asyncio.run(_chat_with(lambda kimi: DemoAgent(kimi), offline=offline))


# ==== chat ====


def _add_chat(commands: Commands) -> None:
    command = commands.add_parser("chat", help="chat with a model")
    command.add_argument("--model", help="its name, such as kimi-k3")
    command.add_argument("--system", metavar="TEXT", help="the system prompt")
    command.add_argument("--offline", action="store_true", help="talk to a stand-in on this machine, without a key")
    command.set_defaults(run=_chat)


def _chat(arguments: argparse.Namespace) -> None:
    from ..agent import Agent

    agent: Callable[[Kimi], Agent] = lambda kimi: Agent(kimi, arguments.system)  # noqa: E731
    asyncio.run(_chat_with(agent, model=arguments.model, offline=arguments.offline))


# ==== tokenizer ====


def _add_tokenizer(commands: Commands) -> None:
    command = commands.add_parser("tokenizer", help="the rank file, with which tokens are counted exactly")
    actions = command.add_subparsers(title="commands", metavar="COMMAND", required=True)
    download = actions.add_parser("download", help="fetch it from where Moonshot AI publishes it, and check it")
    download.add_argument("--from", dest="source", metavar="URL-or-path", help="fetch it from there instead")
    download.set_defaults(run=_download_ranks)
    actions.add_parser("path", help="where it is looked for").set_defaults(run=_show_ranks_path)


def _download_ranks(arguments: argparse.Namespace) -> None:
    from ..prompt.ranks import SIZE, download

    path = download(arguments.source)
    print(f"{visible(str(path))}: {SIZE:,} bytes, checked.")


def _show_ranks_path(arguments: argparse.Namespace) -> None:
    from ..prompt.ranks import ranks_path

    print(ranks_path())


# ==== sessions ====


def _add_sessions(commands: Commands) -> None:
    from .sessions import add_sessions

    add_sessions(commands)


COMMANDS: Final[tuple[Callable[[Commands], None], ...]] = (_add_demo, _add_chat, _add_tokenizer, _add_sessions)


# ==== who answers ====


async def _chat_with(agent: Callable[[Kimi], Agent], *, offline: bool, model: str | None = None) -> None:
    from ..kimi.client import KEY_NAMES
    from .chat import chat_in_terminal_async

    async with _kimi(model, offline) as kimi:
        stand_in = f"Offline: a stand-in for Kimi answers. Set {KEY_NAMES[0]} to talk to Kimi."
        print(stand_in if offline else f"Talking to {kimi.model_name}.", "Ctrl-D leaves.", flush=True)
        await chat_in_terminal_async(agent(kimi))


@asynccontextmanager
async def _kimi(model: str | None, offline: bool) -> AsyncGenerator[Kimi, None]:
    """Kimi, or the stand-in behind the same client and the same protocol."""
    from ..kimi.client import Kimi

    client = partial(Kimi, model) if model else Kimi
    if not offline:
        yield client()
        return
    from ..testing import KimiServer

    async with KimiServer() as server:
        yield client(api_key=server.api_key, base_url=server.base_url)

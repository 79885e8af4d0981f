"""`kimi-agent sessions`: what a session store has, shown and taken away."""

from __future__ import annotations

import asyncio
import os
from argparse import ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import SessionError
from .text import visible

if TYPE_CHECKING:
    from ..message import Message
    from ..session.sqlite import SQLiteSessionStore

__all__ = ["add_sessions", "store_path"]

STORE_NAME: Final = "KIMI_AGENT_SESSIONS"
"""The environment variable that names the database."""


def store_path() -> Path:
    """The database that the command uses unless it is told another one."""
    from platformdirs import user_data_path

    return Path(os.environ.get(STORE_NAME) or user_data_path("kimi_agent") / "sessions.db")


def add_sessions(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the subcommand to those of `kimi-agent`."""
    command = commands.add_parser("sessions", help="conversations that were kept in a database")
    command.add_argument("--store", type=Path, metavar="FILE", help=f"the database; {STORE_NAME} names it as well")
    actions = command.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = actions.add_parser("list", help="the newest ones first")
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="at most so many (50)")
    listing.set_defaults(run=_runs(_list))
    showing = actions.add_parser("show", help="what was said in one")
    showing.add_argument("id", metavar="ID")
    showing.set_defaults(run=_runs(_show))
    exporting = actions.add_parser("export", help="write one to a .json or .kimi file")
    exporting.add_argument("id", metavar="ID")
    exporting.add_argument("path", type=Path, metavar="FILE")
    exporting.set_defaults(run=_runs(_export))
    removing = actions.add_parser("rm", help="delete some")
    removing.add_argument("ids", nargs="+", metavar="ID")
    removing.set_defaults(run=_runs(_remove))


def _runs(work: Callable[[SQLiteSessionStore, Any], Awaitable[None]]) -> Callable[[Namespace], None]:
    async def with_store(path: Path, arguments: Namespace) -> None:
        from ..session.sqlite import SQLiteSessionStore

        async with SQLiteSessionStore(path) as store:
            await work(store, arguments)

    def run(arguments: Namespace) -> None:
        path: Path = arguments.store or store_path()
        if not path.exists():  # a command that looks makes nothing
            raise SessionError(f"there are no sessions: {path} does not exist")
        asyncio.run(with_store(path, arguments))

    return run


async def _list(store: SQLiteSessionStore, arguments: Any) -> None:
    for found in await store.list(arguments.limit):
        changed = f"{found.updated.astimezone():%Y-%m-%d %H:%M}"
        print(f"{visible(found.id)}\t{changed}\t{found.messages}\t{visible(found.title)}".replace("\n", " "))


async def _show(store: SQLiteSessionStore, arguments: Any) -> None:
    state = await store.open(arguments.id).load()
    if not (state.chat_history or state.always_included_messages):
        raise SessionError(f"there is no session {arguments.id!r}")
    for message in (*state.always_included_messages, *state.chat_history):
        print(f"{message.role.upper()}: {_said(message)}")


def _said(message: Message) -> str:
    calls = [f"[{call.name}({call.arguments})]" for call in message.tool_calls or ()]
    return visible(" ".join(filter(None, [message.text, *calls])))


async def _export(store: SQLiteSessionStore, arguments: Any) -> None:
    await store.export(arguments.id, arguments.path)
    print(visible(str(arguments.path)))


async def _remove(store: SQLiteSessionStore, arguments: Any) -> None:
    for session in arguments.ids:
        await store.delete(session)

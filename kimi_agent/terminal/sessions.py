"""`kimi-agent sessions`: what a session store has, shown and taken away."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, _SubParsersAction
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import SessionError
from .text import visible

if TYPE_CHECKING:
    from ..message import Message
    from ..session.sqlite import SessionInfo, SQLiteSessionStore
    from ..session.state import SessionState

__all__ = ["add_sessions", "store_path"]

STORE_NAME: Final = "KIMI_AGENT_SESSIONS"
"""The environment variable that names the database."""


def store_path() -> Path:
    """The database that the command uses unless it is told another one."""
    from platformdirs import user_data_path

    return Path(os.environ.get(STORE_NAME) or user_data_path("kimi_agent") / "sessions.db")


# ==== arguments ====


def add_sessions(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the subcommand to those of `kimi-agent`."""
    command = commands.add_parser("sessions", help="conversations that were kept in a database")
    _add_store(command, None)
    actions = command.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = _add(actions, "list", _list, "the newest ones first")
    listing.add_argument("--limit", type=_count, default=50, metavar="N", help="at most so many (50)")
    listing.add_argument("--after", metavar="ID", help="those that come after this one")
    showing = _add(actions, "show", _show, "what was said in one")
    showing.add_argument("id", metavar="ID")
    exporting = _add(actions, "export", _export, "write one to a .json or .kimi file")
    exporting.add_argument("id", metavar="ID")
    exporting.add_argument("path", type=Path, metavar="FILE")
    removing = _add(actions, "rm", _remove, "delete some")
    removing.add_argument("ids", nargs="+", metavar="ID")


def _add(
    actions: _SubParsersAction[ArgumentParser],
    name: str,
    work: Callable[[SQLiteSessionStore, Any], Awaitable[None]],
    help: str,
) -> ArgumentParser:
    action = actions.add_parser(name, help=help)
    _add_store(action, SUPPRESS)  # a default would hide what stands before the command
    action.set_defaults(run=_runs(work))
    return action


def _add_store(command: ArgumentParser, default: str | None) -> None:
    text = f"the database; {STORE_NAME} names it as well"
    command.add_argument("--store", type=Path, default=default, metavar="FILE", help=text)


def _count(text: str) -> int:
    with suppress(ValueError):
        if (count := int(text)) > 0:
            return count
    raise ArgumentTypeError(f"a whole number from 1 on, not {text!r}")


def _runs(work: Callable[[SQLiteSessionStore, Any], Awaitable[None]]) -> Callable[[Namespace], None]:
    async def with_store(path: Path, arguments: Namespace) -> None:
        from ..session.sqlite import SQLiteSessionStore

        async with SQLiteSessionStore(path) as store:
            await work(store, arguments)

    def run(arguments: Namespace) -> None:
        path: Path = arguments.store or store_path()
        with suppress(PermissionError):  # the store says what there is no permission for
            if not path.exists():  # a command that looks makes nothing
                raise SessionError(f"there are no sessions: {path} does not exist")
        asyncio.run(with_store(path, arguments))

    return run


# ==== commands ====


async def _list(store: SQLiteSessionStore, arguments: Any) -> None:
    after = None if arguments.after is None else await _info(store, arguments.after)
    found = await store.list(arguments.limit + 1, after)
    shown = found[: arguments.limit]
    for info in shown:
        print(_row(info))
    if len(found) > len(shown):
        _tell(f"there are more; list --after={shlex.quote(shown[-1].id)} goes on")


def _row(info: SessionInfo) -> str:
    changed = f"{info.updated.astimezone():%Y-%m-%d %H:%M}"
    return "\t".join([_on_one_line(info.id), changed, str(info.messages), _on_one_line(info.title)])


async def _show(store: SQLiteSessionStore, arguments: Any) -> None:
    await _info(store, arguments.id)
    state = await store.open(arguments.id).load()
    for message in (*state.always_included_messages, *state.chat_history):
        print(f"{message.role.upper()}: {_said(message)}")
    _refuse(_damage(arguments.id, state))


def _said(message: Message) -> str:
    """What a message says. Its further lines are indented, so that none looks like the beginning of another message."""
    unsaid = ("text", "think") if message.text else ("text",)
    parts = [f"[{part.type}]" for part in message.parts if part.type not in unsaid]
    calls = [f"[{call.name}({call.arguments})]" for call in message.tool_calls or ()]
    return "\n  ".join(visible(" ".join(filter(None, [message.text, *parts, *calls]))).splitlines())


async def _export(store: SQLiteSessionStore, arguments: Any) -> None:
    await store.export(arguments.id, arguments.path)
    print(visible(str(arguments.path)))
    _refuse(_damage(arguments.id, await store.open(arguments.id).load()))


async def _remove(store: SQLiteSessionStore, arguments: Any) -> None:
    refused: list[str] = []
    for session in arguments.ids:
        try:
            await store.delete(session)
        except SessionError as error:
            refused.append(str(error))
    _refuse(refused)


async def _info(store: SQLiteSessionStore, id: str) -> SessionInfo:
    info = await store.info(id)
    if info is None:
        raise SessionError(f"there is no session {id!r}")
    return info


# ==== what is printed ====


def _on_one_line(text: str) -> str:
    return visible(text).translate(dict.fromkeys(map(ord, "\n\t\u2028\u2029"), " "))


def _damage(id: str, state: SessionState) -> list[str]:
    return [f"session {id!r} is damaged at record {damage.offset}: {damage.reason}" for damage in state.damage]


def _tell(text: str) -> None:
    print(f"kimi-agent: {visible(text)}", file=sys.stderr)


def _refuse(reasons: Sequence[str]) -> None:
    """End the command with an error if there is a reason to: each is told, the last one by whoever ends the program.

    Raises:
        SessionError: there is.
    """
    for reason in reasons[:-1]:
        _tell(reason)
    if reasons:
        raise SessionError(reasons[-1])

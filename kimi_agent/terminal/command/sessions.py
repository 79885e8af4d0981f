"""The sessions that the command keeps: which one a conversation goes on in, `kimi-agent sessions` and `view`."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shlex
import shutil
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, _SubParsersAction
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...errors import SessionError
from ..columns import aligned
from ..disk import STORE_NAME, session_named, store_path, write_for_its_owner
from ..screen.telling import is_watched
from ..text import display_width, on_one_line, visible
from .loading import tell

if TYPE_CHECKING:
    from ...agent import Agent
    from ...message import Message
    from ...session.sqlite import SessionInfo, SQLiteSession, SQLiteSessionStore
    from ...session.state import SessionState

__all__ = ["add_session_options", "add_sessions", "add_view", "kept"]

MOST: Final = 50
"""How many sessions are listed unless another number is asked for."""


# ==== the session of a conversation ====


def add_session_options(command: ArgumentParser, *, kept_by_default: bool = False) -> None:
    """Add the options that say where a conversation is kept.

    Args:
        command: gets them.
        kept_by_default: whether it keeps conversations that nobody has asked it to keep.
    """
    options = command.add_mutually_exclusive_group()
    options.add_argument("--session", metavar="ID", help="keep it in this session, and go on with what is there")
    options.add_argument("--continue", dest="goes_on", action="store_true", help="go on with the newest session")
    if kept_by_default:
        options.add_argument("--no-session", action="store_true", help="keep nothing, on a terminal neither")


@asynccontextmanager
async def kept(agent: Agent, options: Namespace, *, by_default: bool = False) -> AsyncGenerator[SQLiteSession | None]:
    """Keep the conversation of an agent that nobody has entered yet. Gives its session, or `None` for none of ours.

    Args:
        agent: one with a session of its own stays there, unless another one is asked for.
        options: those of `add_session_options`.
        by_default: keep it in a new session unless something else is said. If that is impossible it is told, and is no
            error.

    Raises:
        SessionError: there is no such session, or it cannot be opened.
    """
    from ...session.keeping import Keeper
    from ...session.sqlite import SQLiteSessionStore

    is_asked_for = options.goes_on or options.session is not None
    if not is_asked_for and (not by_default or options.no_session or agent._keeper._session is not None):
        yield None
        return
    async with SQLiteSessionStore(store_path()) as store:
        session = await (_asked_for(store, options) if is_asked_for else _new(store))
        if session is not None:
            agent._keeper = Keeper(session)
        yield session


async def _asked_for(store: SQLiteSessionStore, options: Namespace) -> SQLiteSession:
    if options.session is not None:
        _make_folder(Path(store.path).parent)
        return store.open(options.session)
    for newest in await store.list(1):
        return store.open(newest.id)
    raise SessionError(f"there is no session to go on with in {store.path}")


async def _new(store: SQLiteSessionStore) -> SQLiteSession | None:
    """A session of its own, if one can be kept there."""
    session = store.open(f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
    try:
        _make_folder(Path(store.path).parent)
        await session.load()
    except SessionError as error:
        tell(f"this chat is not kept: {error}")
        return None
    return session


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SessionError(f"cannot make the folder {folder}: {error.strerror or error}") from error


# ==== arguments ====


def add_sessions(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the subcommand to those of `kimi-agent`."""
    command = commands.add_parser("sessions", help="conversations that were kept in a database")
    _add_store(command, None)
    command.set_defaults(run=_runs(_list), limit=MOST, after=None)
    actions = command.add_subparsers(title="commands", metavar="COMMAND", description="Without one: list.")
    listing = _add(actions, "list", _list, "the newest ones first")
    listing.add_argument("--limit", type=_count, default=MOST, metavar="N", help=f"at most so many ({MOST})")
    listing.add_argument("--after", metavar="ID", help="those that come after this one")
    showing = _add(actions, "show", _show, "what was said in one")
    showing.add_argument("id", metavar="ID")
    exporting = _add(actions, "export", _export, "write one to a .json or .kimi file")
    exporting.add_argument("id", metavar="ID")
    exporting.add_argument("path", type=Path, metavar="FILE")
    removing = _add(actions, "rm", _remove, "delete some")
    removing.add_argument("ids", nargs="+", metavar="ID")


def add_view(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the subcommand to those of `kimi-agent`."""
    command = _add(commands, "view", _view_kept, "a page of a session, for a browser")
    command.add_argument("id", metavar="SESSION", help="its id, or the path of a saved file or a journal")
    command.add_argument("-o", dest="path", type=Path, metavar="FILE", help="where to write it; on stdout unless given")
    command.set_defaults(run=_view)


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
        from ...session.sqlite import SQLiteSessionStore

        async with SQLiteSessionStore(path) as store:
            await work(store, arguments)

    def run(arguments: Namespace) -> None:
        path: Path = getattr(arguments, "store", None) or store_path()
        with suppress(PermissionError):  # the store says what there is no permission for
            if not path.exists():  # a command that looks makes nothing
                raise SessionError(f"there are no sessions: {path} does not exist")
        asyncio.run(with_store(path, arguments))

    return run


# ==== commands ====


async def _list(store: SQLiteSessionStore, arguments: Any) -> None:
    after = None if arguments.after is None else await session_named(store, arguments.after)
    found = await store.list(arguments.limit + 1, after)
    shown = found[: arguments.limit]
    for line in _lines(list(map(_row, shown))):
        print(line)
    if len(found) > len(shown):
        tell(f"there are more; list --after={shlex.quote(shown[-1].id)} goes on")


def _row(info: SessionInfo) -> tuple[str, ...]:
    changed = f"{info.updated.astimezone():%Y-%m-%d %H:%M}"
    return (visible(info.id), changed, str(info.messages), on_one_line(info.title))


def _lines(rows: Sequence[tuple[str, ...]]) -> Sequence[str]:
    """Columns for a person, who sees one line for each session; tabs for a program."""
    if not is_watched(sys.stdout):
        return list(map("\t".join, rows))
    width = shutil.get_terminal_size().columns
    return [_cut(line, width) for line in aligned(rows, right=(2,))]


def _cut(line: str, width: int) -> str:
    if display_width(line) <= width:
        return line
    while display_width(line) >= width:
        line = line[:-1]
    return f"{line}…"


async def _show(store: SQLiteSessionStore, arguments: Any) -> None:
    info = await session_named(store, arguments.id)
    state = await store.open(info.id).load()
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


def _view(arguments: Any) -> None:
    if os.path.isfile(arguments.id):
        asyncio.run(_view_file(arguments))
    else:
        _runs(_view_kept)(arguments)


async def _view_file(arguments: Any) -> None:
    _show_page(await _loaded(arguments.id), os.path.basename(arguments.id), arguments)


async def _loaded(path: str) -> SessionState:
    """What a saved file or a journal has.

    Raises:
        SessionError: it cannot be read, or is none of ours.
    """
    from ...session import file
    from ...session.journal import JournalSession

    if not _is_journal(path):
        return file.load(path)
    journal = JournalSession(path)
    try:
        return await journal.load()
    finally:
        await journal.aclose()


def _is_journal(path: str) -> bool:
    """Whether it begins like a line of one."""
    with suppress(OSError), open(path, "rb") as file:
        return re.match(rb'\["[0-9a-f]{8}",', file.read(12)) is not None
    return False


async def _view_kept(store: SQLiteSessionStore, arguments: Any) -> None:
    info = await session_named(store, arguments.id)
    _show_page(await store.open(info.id).load(), info.title or info.id, arguments)


def _show_page(state: SessionState, title: str, arguments: Any) -> None:
    from ..page.view import page

    shown = page(state, title)
    if arguments.path is None:
        print(shown, end="")
    else:
        write_for_its_owner(arguments.path, shown)
        print(visible(str(arguments.path)))
    _refuse(_damage(arguments.id, state))


async def _remove(store: SQLiteSessionStore, arguments: Any) -> None:
    refused: list[str] = []
    for session in arguments.ids:
        try:
            await store.delete(session)
        except SessionError as error:
            refused.append(str(error))
    _refuse(refused)


# ==== what is printed ====


def _damage(id: str, state: SessionState) -> list[str]:
    return [f"session {id!r} is damaged at record {damage.offset}: {damage.reason}" for damage in state.damage]


def _refuse(reasons: Sequence[str]) -> None:
    """End the command with an error if there is a reason to: each is told, the last one by whoever ends the program.

    Raises:
        SessionError: there is.
    """
    for reason in reasons[:-1]:
        tell(reason)
    if reasons:
        raise SessionError(reasons[-1])

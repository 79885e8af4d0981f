"""What the terminal keeps on the disk: the database of sessions, and files that are for their owner alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import SessionError
from ..session.blobs import write_whole

if TYPE_CHECKING:
    from ..session.sqlite import SessionInfo, SQLiteSessionStore

__all__ = ["STORE_NAME", "session_named", "store_path", "write_for_its_owner"]

STORE_NAME: Final = "KIMI_AGENT_SESSIONS"
"""The environment variable that names the database."""
OWNER_ONLY: Final = 0o600
MANY: Final = 10_000
"""Sessions, the newest ones, among which one is looked for by the beginning of its id."""


def store_path() -> Path:
    """The database of sessions, unless another one is named."""
    from platformdirs import user_data_path

    named = os.environ.get(STORE_NAME)
    return Path(os.path.expanduser(named)) if named else user_data_path("kimi_agent") / "sessions.db"


async def session_named(store: SQLiteSessionStore, name: str) -> SessionInfo:
    """The session of an id, or of its beginning.

    Raises:
        SessionError: there is none, or there are several.
    """
    if (info := await store.info(name)) is not None:
        return info
    begun = [info for info in await store.list(MANY) if name and info.id.startswith(name)]
    if len(begun) == 1:
        return begun[0]
    raise SessionError(f"there {'are several sessions' if begun else 'is no session'} {name!r}")


def write_for_its_owner(path: Path, text: str) -> None:
    """Write a file, whole or not at all. A new one is for its owner alone.

    Raises:
        SessionError: it cannot be written.
    """
    target = os.path.realpath(path)
    try:
        mode = os.stat(target).st_mode & 0o777 if os.path.exists(target) else OWNER_ONLY
        write_whole(target, text.encode("utf-8", "backslashreplace"), mode=mode)
    except OSError as error:
        raise SessionError(f"cannot write {path}: {error.strerror or error}") from error

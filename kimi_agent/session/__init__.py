"""Where a conversation lasts: a file, a journal, a database.

    agent = Agent(kimi, session=JournalSession("ada.journal"))

    async with SQLiteSessionStore("sessions.db") as store:
        agent = Agent(kimi, session=store.open("ada"))

Names are imported from their modules on first use: who saves to a file does not pay for a database.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .blobs import SaveContext, get_ctx
    from .journal import JournalSession
    from .sqlite import SessionHit, SessionInfo, SQLiteSession, SQLiteSessionStore
    from .state import Damage, Session, SessionState, WindowState

__all__ = [
    "Damage",
    "JournalSession",
    "SQLiteSession",
    "SQLiteSessionStore",
    "SaveContext",
    "Session",
    "SessionHit",
    "SessionInfo",
    "SessionState",
    "WindowState",
    "get_ctx",
]

_MODULES = ("state", "blobs", "journal", "sqlite")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = import_module(f".{module}", __name__)
            if name in found.__all__:
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

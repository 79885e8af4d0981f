"""What a person types on a real terminal: with editing, a history, several lines, completion and a status line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from platformdirs import user_state_path
from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

from .display import USER
from .interrupts import Interrupts
from .options import ChatOptions
from .options import Completion as Known
from .reading import LEAVING, Left
from .text import visible

__all__ = ["Editor", "history_path"]

STYLE: Final = Style.from_dict({"prompt": "bold", "bottom-toolbar": "noreverse fg:ansibrightblack"})
MENU_ROWS: Final = 5


def history_path() -> Path:
    """Where lines are kept from one chat to the next."""
    return user_state_path("kimi_agent", appauthor=False) / "history"


class Editor:
    """Reads with prompt_toolkit. Enter ends the text; Alt-Enter, or a backslash before Enter, begins a new line.

    Args:
        interrupts: who hears of Ctrl-C.
        options: know how a line goes on, and the status line.
    """

    def __init__(self, interrupts: Interrupts, options: ChatOptions) -> None:
        self._interrupts, self._options = interrupts, options
        self._warned = False
        self._status = ""
        self._says = self._session(
            history=_history(history_path()),
            completer=_Lines(options.complete),
            reserve_space_for_menu=MENU_ROWS,
            multiline=True,
            prompt_continuation=_indent,
        )
        self._answers = self._session(history=InMemoryHistory())

    async def line(self, prompt: str) -> str:
        session = self._says if prompt == USER else self._answers
        self._warned, self._status = False, self._options.status()
        with self._interrupts.stopping(lambda: self._interrupt(session.app)):
            try:
                text = await session.prompt_async(
                    [("class:prompt", visible(prompt))], handle_sigint=False, set_exception_handler=False
                )
            except EOFError:
                raise Left from None
        return _readable(text)

    def _session(self, **options: Any) -> PromptSession[str]:
        return PromptSession(
            key_bindings=self._keys(), bottom_toolbar=self._toolbar, style=STYLE, enable_suspend=True, **options
        )

    def _toolbar(self) -> str:
        return LEAVING if self._warned else self._status

    def _interrupt(self, app: Application[str]) -> None:
        """Ctrl-C takes back what is typed; where there is nothing, it tells how to leave, and then leaves."""
        buffer = app.current_buffer
        if self._warned and not buffer.text:
            app.exit(exception=EOFError)
            return
        self._warned = not buffer.text
        buffer.reset()
        app.invalidate()

    # ---- keys ----

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        for pressed, do in ((("enter",), _end_line), (("escape", "enter"), _new_line), (("c-c",), self._stop)):
            keys.add(*pressed, filter=has_focus(DEFAULT_BUFFER))(do)
        return keys

    def _stop(self, event: KeyPressEvent) -> None:
        self._interrupt(event.app)


def _indent(width: int, line: int, wraps: int) -> str:
    """What stands before the further lines of a text."""
    return " " * width


def _end_line(event: KeyPressEvent) -> None:
    """The end of the text, unless a backslash says that another line comes."""
    buffer = event.current_buffer
    if buffer.document.text_before_cursor.endswith("\\") and buffer.document.is_cursor_at_the_end:
        buffer.delete_before_cursor()
        buffer.insert_text("\n")
    else:
        buffer.validate_and_handle()


def _new_line(event: KeyPressEvent) -> None:
    event.current_buffer.insert_text("\n")


# ==== completion ====


class _Lines(Completer):
    """Completes whole lines."""

    def __init__(self, complete: Callable[[str], Sequence[Known]]) -> None:
        self._complete = complete

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor
        if not document.text_after_cursor and "\n" not in line:
            for text, shown, help in self._complete(line):
                yield Completion(text, -len(line), display=visible(shown), display_meta=visible(help))


# ==== history ====


class _Kept(FileHistory):
    """A history in a file of the user's own. What cannot be written is only not kept."""

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(_readable(string))


def _history(path: Path) -> History:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError:
        return InMemoryHistory()
    return _Kept(path)


def _readable(text: str) -> str:
    """Text without bytes that were none."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

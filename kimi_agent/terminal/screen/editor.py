"""What a person types on a real terminal: with editing, a history, several lines, completion and a status line."""

from __future__ import annotations

import os
import select
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from platformdirs import user_state_path
from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import DummyHistory, FileHistory, History, InMemoryHistory
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.layout.utils import explode_text_fragments
from prompt_toolkit.styles import Style

from ..columns import cut
from ..text import visible
from .interrupts import Interrupts
from .options import ChatOptions
from .options import Completion as Known
from .reading import LEAVING, Left

__all__ = ["Editor", "history_path"]

STYLE: Final = Style.from_dict({"prompt": "bold", "bottom-toolbar": "noreverse fg:ansibrightblack"})
MENU_ROWS: Final = 5


def history_path() -> Path:
    """Where lines are kept from one chat to the next."""
    return user_state_path("kimi_agent", appauthor=False) / "history"


class _Stopped(Exception):
    """Ctrl-C, where a question stands."""


class Editor:
    """Reads with prompt_toolkit. Enter ends the text; Alt-Enter, or a backslash before Enter, begins a new line.

    Args:
        interrupts: who hears of Ctrl-C.
        options: know how a line goes on, and the status line.
    """

    def __init__(self, interrupts: Interrupts, options: ChatOptions) -> None:
        self._interrupts, self._options = interrupts, options
        self._status = ""
        self._says = self._session(
            history=_history(history_path()),
            completer=_Lines(options.complete),
            reserve_space_for_menu=MENU_ROWS,
            multiline=True,
            prompt_continuation=_indent,
        )
        self._replies = self._session(history=DummyHistory())

    async def line(self, prompt: str) -> str:
        return await self._read(self._says, prompt, lambda: EOFError if self._interrupts.count > 1 else None)

    async def reply(self, question: str) -> str | None:
        terminal = self._replies.input
        with terminal.raw_mode():
            typed = get_typeahead(terminal)
            while select.select([terminal.fileno()], [], [], 0)[0] and not terminal.closed:
                typed += terminal.read_keys()  # at most so many bytes at once
            typed += terminal.flush_keys()
        try:
            return await self._read(self._replies, question, lambda: _Stopped)
        except _Stopped:
            return None
        finally:
            store_typeahead(terminal, [*typed, *get_typeahead(terminal)])

    async def _read(
        self, session: PromptSession[str], prompt: str, ends_with: Callable[[], type[Exception] | None]
    ) -> str:
        """A text. Ctrl-C takes back what is typed; where there is nothing, it may end the prompt with an error."""

        def interrupted() -> None:
            if session.app.current_buffer.text:
                self._interrupts.count = 0
                session.app.current_buffer.reset()
            elif (error := ends_with()) is not None:
                session.app.exit(exception=error)
            session.app.invalidate()

        self._status = self._options.status()
        with self._interrupts.stopping(interrupted):
            try:
                text = await session.prompt_async(
                    [("class:prompt", visible(prompt))], handle_sigint=False, set_exception_handler=False
                )
            except (EOFError, OSError):  # OSError: the terminal is gone
                raise Left from None
        self._interrupts.count = 0
        return _readable(text)

    def _session(self, **options: Any) -> PromptSession[str]:
        return PromptSession(
            key_bindings=self._keys(),
            input_processors=[_Seen()],
            bottom_toolbar=self._toolbar,
            style=STYLE,
            enable_suspend=True,
            **options,
        )

    def _toolbar(self) -> str:
        app = get_app()
        is_leaving = self._interrupts.count and not app.current_buffer.text
        return LEAVING if is_leaving else cut(self._status, app.output.get_size().columns)

    # ---- keys ----

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        for pressed, do in ((("enter",), _end_line), (("escape", "enter"), _new_line), (("c-c",), self._stop)):
            keys.add(*pressed, filter=has_focus(DEFAULT_BUFFER))(do)
        return keys

    def _stop(self, event: KeyPressEvent) -> None:
        self._interrupts.deliver()


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


class _Seen(Processor):
    """Shows what is typed or pasted; marks that would turn the rest of the line around are shown as their escapes."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        pieces = explode_text_fragments(transformation_input.fragments)
        shown: StyleAndTextTuples = [(style, _seen(text)) for style, text, *_ in pieces]
        starts = [0, *accumulate(len(text) for _, text, *_ in shown)]
        return Transformation(
            shown,
            source_to_display=lambda place: starts[min(place, len(pieces))],
            display_to_source=lambda place: bisect_right(starts, place) - 1,
        )


def _seen(character: str) -> str:
    return character if character.isascii() else visible(character)  # prompt_toolkit shows these itself


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

"""Markdown while it arrives, cut into blocks that can be printed: text in, lines of one kind out. No I/O.

`structured/markdown.py` says what a text means; this says what of it can be printed for good. So every line comes out
once, as it was written and made `visible`, also the marks; and a block that does not end comes out in parts, because a
screen cannot hold it until then. What a line may be is told by the same patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from ...structured import marks
from ...structured.lines import Cursor
from ..text import visible

__all__ = ["Block", "Blocks", "Kind", "end_of"]

Kind: TypeAlias = Literal["text", "heading", "item", "quote", "table", "code", "break", "blank", "plain"]
"""`plain` is what is too long to be looked into while it is open."""

MOST_OPEN: Final = 30
"""Lines that a block holds back until it has ended."""
MOST_SHOWN: Final = 4_000
"""Characters at the end of what is open, of which there may be millions. They are painted many times a second."""
MARKS: Final = "-=*_+#>|`~:. \t0123456789"
"""What a line may begin with that says what it is, and not what it says."""


def end_of(pieces: Sequence[str], most: int) -> str:
    """The last characters of a text that is there in pieces."""
    length = count = 0
    while count < len(pieces) and length < most:
        count += 1
        length += len(pieces[-count])
    return "".join(pieces[len(pieces) - count :])[-most:]


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of one kind, with their marks."""

    kind: Kind
    lines: tuple[str, ...]
    language: str = ""
    """Of code, as the fence names it."""
    goes_on: bool = False
    """The block began in the one before."""
    above: tuple[str, ...] = ()
    """Of a table that goes on, the lines that it began with: its columns stay as wide as they were."""


class Blocks:
    """Cuts a text into blocks, however it arrives."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        """What there is of a line that has not ended."""
        self._kind: Kind = "blank"
        self._lines: list[str] = []
        self._fence = self._language = ""
        self._goes_on = False
        self._above: tuple[str, ...] = ()
        self._ended: list[Block] = []

    def feed(self, text: str) -> list[Block]:
        """More text; the blocks that have ended, and parts of one that is long."""
        *lines, rest = text.split("\n")
        for line in lines:
            self._read(visible("".join((*self._pieces, line, "\n")))[:-1])
            self._pieces = []
        if rest:
            self._pieces.append(rest)
        return self._taken()

    def close(self) -> list[Block]:
        """The text has ended; what was open."""
        if self._pieces:
            self._read(visible("".join(self._pieces)))
            self._pieces = []
        self._end()
        return self._taken()

    @property
    def open(self) -> list[Block]:
        """What `close` would give; of much text the end, as it is. Marks alone do not say yet what a line will be."""
        begun = end_of(self._pieces, MOST_SHOWN).removesuffix("\r")
        if sum(map(len, self._lines)) + len(begun) >= MOST_SHOWN:
            text = end_of([*(f"{line}\n" for line in self._lines), visible(begun)], MOST_SHOWN)
            return [Block("plain", tuple(text.split("\n")))]
        if self._kind != "code" and not begun.strip(MARKS):
            begun = ""
        ahead = copy(self)
        ahead._lines, ahead._ended, ahead._pieces = self._lines.copy(), [], [begun] if begun else []
        return ahead.close()

    # ---- a line ----

    def _read(self, line: str) -> None:
        cursor = Cursor(line)
        if self._kind == "code" and self._lines_are_open:
            self._add(line)
            if self._is_fence_end(cursor):
                self._end()
        elif not (self._kind == "text" and self._lines and self._remakes_text(line, cursor)):
            self._take(self._kind_of(cursor), line, cursor)
        self._give_part()

    @property
    def _lines_are_open(self) -> bool:
        return bool(self._lines) or self._goes_on

    def _take(self, kind: Kind, line: str, cursor: Cursor) -> None:
        goes_on = kind in GOING_ON and (kind == self._kind or (kind == "text" and self._kind in TAKING_TEXT))
        if not (goes_on and self._lines_are_open):
            self._begin(kind)
        self._add(line)
        if kind == "code":
            self._fence, info = marks.fence(cursor) or ("", "")
            self._language = info.split(" ")[0]
        if kind in ONE_LINE:
            self._end()

    def _kind_of(self, cursor: Cursor) -> Kind:
        for kind, begins in BEGINNINGS:
            if begins(cursor, self._kind):
                return kind
        return "text"

    def _remakes_text(self, line: str, cursor: Cursor) -> bool:
        """Whether the line says that the text above it is a heading, or the header of a table."""
        header, columns = self._lines[-1], marks.columns(cursor)
        if columns and "|" in header and len(marks.cells(header)) == columns:
            self._lines.pop()
            self._begin("table")
            self._lines = [header, line]
            return True
        if not marks.underline(cursor):
            return False
        self._add(line)
        self._kind = "heading"
        self._end()
        return True

    def _is_fence_end(self, cursor: Cursor) -> bool:
        if len(self._lines) == 1 and not self._goes_on:
            return False
        return cursor.content.startswith(self._fence) and cursor.is_only(self._fence[0])

    # ---- blocks ----

    def _begin(self, kind: Kind) -> None:
        self._end()
        self._kind = kind

    def _add(self, line: str) -> None:
        self._lines.append(line)

    def _end(self) -> None:
        if self._lines:
            self._give(len(self._lines))
        self._goes_on, self._kind, self._language, self._above = False, "blank", "", ()

    def _give_part(self) -> None:
        """Of a block that is long; its last line may still turn out to be something else."""
        if len(self._lines) > MOST_OPEN:
            self._give(len(self._lines) - 1)
            self._goes_on = True

    def _give(self, count: int) -> None:
        lines = tuple(self._lines[:count])
        self._ended.append(Block(self._kind, lines, self._language, self._goes_on, self._above))
        if self._kind == "table":
            self._above = self._above or lines
        del self._lines[:count]

    def _taken(self) -> list[Block]:
        taken, self._ended = self._ended, []
        return taken


GOING_ON: Final = frozenset[Kind](("text", "quote", "blank"))
TAKING_TEXT: Final = frozenset[Kind](("item", "quote", "table"))
ONE_LINE: Final = frozenset[Kind](("heading", "break"))


def _is_item(cursor: Cursor, before: Kind) -> bool:
    bullet = marks.BULLET.match(cursor.text, cursor.start)
    return bullet is not None and (before != "text" or marks.can_interrupt(cursor, bullet))


BEGINNINGS: Final[tuple[tuple[Kind, Callable[[Cursor, Kind], bool]], ...]] = (
    ("blank", lambda cursor, _: cursor.blank),
    ("code", lambda cursor, _: marks.fence(cursor) is not None),
    ("heading", lambda cursor, _: marks.heading(cursor, marks.HEADING) is not None),
    ("break", lambda cursor, _: marks.is_break(cursor)),
    ("item", _is_item),
    ("quote", lambda cursor, _: cursor.char == ">"),
)
"""What a line begins, in this order; what begins nothing is text."""

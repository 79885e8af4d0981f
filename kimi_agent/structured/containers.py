"""Blocks that hold blocks, while they are open. (CommonMark 0.31.2, chapter 5)"""

from __future__ import annotations

from bisect import bisect_left
from typing import TypeAlias, cast

from . import marks
from .blocks import ListItem, Quote
from .lines import Cursor

__all__ = ["Container", "Containers", "OpenItem", "OpenQuote"]


class OpenQuote:
    """A block quote (5.1). The outermost keeps its text; what is in it is only followed, to know where it ends."""

    def __init__(self, number: int, *, outermost: bool) -> None:
        self._number = number
        self._outermost = outermost
        self._lines: list[str] = []

    def goes_on(self, line: Cursor) -> bool:
        if line.char != ">" or line.indent >= marks.CODE_INDENT:
            return False
        line.mark(1)
        line.skip(1)
        if self._outermost:
            self.add(line.rest)
        return True

    def add(self, text: str) -> None:
        self._lines.append(text if text.strip(" \t") else "")

    def event(self) -> Quote | None:
        text = "\n".join(self._lines).strip("\n")
        return Quote(text, self._number) if text else None


class OpenItem:
    """An item of a list (5.2). Its event waits for what comes first in it: text, another block, or nothing."""

    def __init__(self, number: int, width: int, ordered: int | None) -> None:
        self.told = False
        self._number = number
        self._width = width
        self._ordered = ordered

    def goes_on(self, line: Cursor) -> bool:
        if line.indent < self._width:
            return False
        line.skip(self._width)
        return True

    def event(self, text: str, depth: int) -> ListItem:
        self.told = True
        box = marks.CHECKBOX.match(text)
        if box is None:
            return ListItem(text, depth, self._ordered, None, self._number)
        return ListItem(text[box.end() :], depth, self._ordered, box[1] != " ", self._number)


Container: TypeAlias = OpenQuote | OpenItem


class Containers:
    """The open containers, outermost first. Where the quotes are is kept: nothing else ends at a blank line."""

    def __init__(self) -> None:
        self._open: list[Container] = []
        self._quotes: list[int] = []

    def __len__(self) -> int:
        return len(self._open)

    @property
    def quote(self) -> OpenQuote | None:
        """The outermost quote."""
        return cast("OpenQuote", self._open[self._quotes[0]]) if self._quotes else None

    def quote_from(self, place: int) -> OpenQuote | None:
        """The outermost quote, if it is not above a place."""
        return self.quote if self._quotes and self._quotes[0] >= place else None

    def item(self, place: int) -> OpenItem | None:
        """The container at a place, if there is one and it is an item."""
        container = self._open[place] if 0 <= place < len(self._open) else None
        return container if isinstance(container, OpenItem) else None

    @property
    def untold(self) -> OpenItem | None:
        """The innermost container, if it is an item whose event is not out."""
        item = self.item(len(self._open) - 1)
        return item if item and not item.told else None

    def matched(self, line: Cursor) -> int:
        """With how many of them the line goes on; their marks are taken off it."""
        place = 0
        while place < len(self._open) and self._open[place].goes_on(line):
            place += 1
        return place if not line.blank else self._matched_by_blank(line, place)

    def _matched_by_blank(self, line: Cursor, place: int) -> int:
        """A blank line is in every item up to the next quote, whatever its indentation."""
        found = bisect_left(self._quotes, place)
        if place < len(self._open):
            line.skip(line.indent)
        return self._quotes[found] if found < len(self._quotes) else len(self._open)

    def push(self, container: Container) -> None:
        if isinstance(container, OpenQuote):
            self._quotes.append(len(self._open))
        self._open.append(container)

    def pop(self) -> Container:
        container = self._open.pop()
        if isinstance(container, OpenQuote):
            self._quotes.pop()
        return container

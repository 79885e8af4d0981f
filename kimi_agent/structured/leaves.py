"""Blocks that hold text, while they are open. (CommonMark 0.31.2, chapter 4)"""

from __future__ import annotations

from typing import Final, TypeAlias

from . import marks
from .blocks import CodeBlock, Heading, HtmlBlock, Paragraph, TableRow
from .lines import Cursor

__all__ = ["Leaf", "OpenCode", "OpenHtml", "OpenParagraph", "OpenTable"]

MOST_FILLED_CELLS: Final = 65_536
"""Cells that the short rows of a table leave out, before it ends: a wide header must not make all lines wide."""


class OpenParagraph:
    """A paragraph (4.8). Its last line may turn out to be the header of a table."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._lines: list[str] = []
        self._may_be_header = False

    def add(self, line: Cursor, *, lazy: bool) -> None:
        """One more line; a lazy one is not in all containers that the paragraph is in."""
        self._lines.append(line.content)
        self._may_be_header = not lazy and line.indent < marks.CODE_INDENT and "|" in line.content

    def without_header(self, columns: int) -> tuple[str, ...] | None:
        """Give up the last line as the header of a table with so many columns; `None` where it cannot be one."""
        if not columns or not self._may_be_header or len(header := marks.cells(self._lines[-1])) != columns:
            return None
        self._lines.pop()
        return header

    @property
    def text(self) -> str:
        return "\n".join(self._lines).rstrip(" \t")

    def heading(self, level: int) -> Heading:
        return Heading(level, self.text, self._number)

    def event(self) -> Paragraph | None:
        return Paragraph(self.text, self._number) if self._lines else None


class OpenCode:
    """Fenced code (4.5)."""

    def __init__(self, number: int, mark: str, info: str, indent: int) -> None:
        self._number = number
        self._mark = mark
        self._info = info
        self._indent = indent
        self._lines: list[str] = []
        self._closed = False

    def take(self, line: Cursor) -> bool:
        """One more line; whether it is not the last."""
        self._closed = line.indent < marks.CODE_INDENT and self._closes(line.content.rstrip(" \t"))
        if not self._closed:
            line.skip(self._indent)
            self._lines.append(line.rest)
        return not self._closed

    def _closes(self, text: str) -> bool:
        return len(text) >= len(self._mark) and not text.strip(self._mark[0])

    def event(self) -> CodeBlock:
        code = "".join(f"{line}\n" for line in self._lines)
        language = next(iter(self._info.split(maxsplit=1)), None)
        return CodeBlock(code, language, self._info, self._closed, self._number)


class OpenHtml:
    """HTML (4.6)."""

    def __init__(self, number: int, kind: marks.HtmlKind) -> None:
        self._number = number
        self._ends = kind.ends
        self._lines: list[str] = []

    def take(self, line: Cursor) -> bool:
        """One more line; whether it is not the last."""
        if self._ends is None and line.blank:
            return False
        self._lines.append(line.rest)
        return self._ends is None or not self._ends.search(line.text, line.start)

    def event(self) -> HtmlBlock:
        return HtmlBlock("\n".join(self._lines), self._number)


class OpenTable:
    """A table (GFM 4.10), of which every row is out already."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._filled = 0

    def row(self, line: Cursor, number: int) -> TableRow | None:
        """The next row; `None` where it would fill in too many cells, which ends the table."""
        cells = marks.cells(line.content)
        missing = self._columns - len(cells)
        self._filled += max(missing, 0)
        if self._filled > MOST_FILLED_CELLS:
            return None
        return TableRow((*cells, *[""] * missing)[: self._columns], False, number)

    def event(self) -> None:
        return None


Leaf: TypeAlias = OpenParagraph | OpenCode | OpenHtml | OpenTable

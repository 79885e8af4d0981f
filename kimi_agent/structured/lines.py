"""Lines out of text that arrives in pieces, and a place on one. No I/O.

Lines end with LF, CR or CRLF and nothing else, so `str.splitlines` will not do. A tab reaches to the next column that
is a multiple of four: where blocks are told apart by their indentation, columns count and not characters.
https://spec.commonmark.org/0.31.2/#line https://spec.commonmark.org/0.31.2/#tabs
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["Cursor", "LineSplitter"]

TAB_STOP: Final = 4
SPACE: Final = re.compile(r"[ \t]++")


class LineSplitter:
    """Splits a text into lines, however it is cut."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        """What there is of a line that has not ended."""
        self._after_cr = False

    def feed(self, text: str) -> list[str]:
        """The lines that `text` ends, without their ends."""
        if "\n" not in text and "\r" not in text:
            if text:
                self._pieces.append(text)
                self._after_cr = False
            return []
        *lines, rest = self._with_plain_newlines(text).split("\n")
        if lines:
            lines[0] = "".join((*self._pieces, lines[0]))
            self._pieces = []
        if rest:
            self._pieces.append(rest)
        return lines

    def close(self) -> list[str]:
        """The line that the end of the text ends, if there is one."""
        line = "".join(self._pieces)
        self._pieces = []
        return [line] if line else []

    def _with_plain_newlines(self, text: str) -> str:
        """`text` with LF as its only line end; a CRLF may be cut in two."""
        rest = text[1:] if self._after_cr and text[0] == "\n" else text
        self._after_cr = text[-1] == "\r"
        return rest.replace("\r\n", "\n").replace("\r", "\n") if "\r" in rest else rest


class Cursor:
    """A place on a line, behind the marks that have been read: `indent` columns of space, and the text from `start` on.

    Space is taken column by column, even where that cuts a tab; nothing is copied for it.
    """

    __slots__ = ("_column", "_space", "_tails", "_width", "indent", "start", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.start = self._column = self._width = self.indent = 0
        self._tails: dict[str, int] = {}
        self.mark(0)

    @property
    def char(self) -> str:
        """The first character of the text; none at the end of the line."""
        return self.text[self.start : self.start + 1]

    @property
    def blank(self) -> bool:
        """Whether nothing is left but space."""
        return self.start == len(self.text)

    @property
    def content(self) -> str:
        """The text, without the space before it."""
        return self.text[self.start :]

    @property
    def rest(self) -> str:
        """The space that is not taken, and the text. What is left of a cut tab is spaces."""
        if "\t" not in self.text[self._space : self.start]:
            return self.text[self.start - self.indent :]
        place, column, border = self._space, self._column, self._column + self._width - self.indent
        while column < border:
            column += _width(self.text[place], column)
            place += 1
        return " " * (column - border) + self.text[place:]

    def skip(self, columns: int) -> None:
        """Take so many columns of the space, or all that there are."""
        self.indent -= min(columns, self.indent)

    def mark(self, length: int) -> None:
        """Take the space and so many characters of the text."""
        self._column += self._width + length
        self._space = self.start + length
        space = SPACE.match(self.text, self._space)
        self.start = space.end() if space else self._space
        self._width = self.indent = _width(space[0], self._column) if space else 0

    def is_only(self, char: str) -> bool:
        """Whether the text is this character and space. However often it is asked, the line is searched once."""
        if char not in self._tails:
            self._tails[char] = len(self.text.rstrip(f"{char} \t"))
        return self.start >= self._tails[char]


def _width(space: str, column: int) -> int:
    """The columns of some space that begins in a column."""
    if "\t" not in space:
        return len(space)
    before = column % TAB_STOP
    return len((" " * before + space).expandtabs(TAB_STOP)) - before

"""The blocks of markdown, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = [
    "CodeBlock",
    "Heading",
    "HtmlBlock",
    "Line",
    "ListItem",
    "MarkdownEvent",
    "Paragraph",
    "Quote",
    "TableRow",
    "ThematicBreak",
]


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; `level` is 1 to 6."""

    level: int
    text: str
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ListItem:
    """An item of a list, without the items below it."""

    text: str
    depth: int = 0
    """How many lists it is in beside its own."""
    ordered: int | None = None
    """Its number; `None` for a bullet."""
    checked: bool | None = None
    """Whether its box is ticked; `None` without a box."""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A fenced block of code."""

    code: str
    """Its lines, each with its `\\n`."""
    language: str | None = None
    """The first word of `info`."""
    info: str = ""
    """What stands behind the opening fence."""
    closed: bool = True
    """Whether it had a closing fence; else the text, or what holds the block, ended first."""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Lines of text."""

    text: str
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Quote:
    """A quotation, without its marks; what is in it stays text."""

    text: str
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table; it has as many cells as the header."""

    cells: tuple[str, ...]
    header: bool = False
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ThematicBreak:
    """A line between two parts of a text."""

    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class HtmlBlock:
    """HTML, as it is written."""

    text: str
    line: int = field(default=0, compare=False)


MarkdownEvent: TypeAlias = Heading | ListItem | CodeBlock | Paragraph | Quote | TableRow | ThematicBreak | HtmlBlock
"""A block of markdown. `line` is the number of its first line, from 1; it takes no part in `==`."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line outside of code, without the space around it."""

    text: str
    line: int = field(default=0, compare=False)

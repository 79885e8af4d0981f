"""Markdown in sections: each heading with what stands below it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from .markdown import CodeBlock, Heading, ListItem, MarkdownEvent, MarkdownStream, Paragraph, TableRow
from .parsing import Parsed, Pieces

__all__ = ["Section", "SectionParser", "sections"]

Block = TypeVar("Block", ListItem, CodeBlock, Paragraph, TableRow)


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it.

    What stands below a deeper heading belongs to a section of its own, in `children`, and is not repeated here.
    """

    title: str
    level: int
    """1 to 6."""
    events: tuple[MarkdownEvent, ...] = ()
    """The blocks before the first child, without the heading."""
    children: tuple[Section, ...] = ()
    """The sections below deeper headings. A child may have children."""
    line: int = field(default=0, compare=False)

    @property
    def items(self) -> tuple[ListItem, ...]:
        """The items of its lists."""
        return self._blocks(ListItem)

    @property
    def code_blocks(self) -> tuple[CodeBlock, ...]:
        """Its fenced code."""
        return self._blocks(CodeBlock)

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """The texts of its paragraphs."""
        return tuple(paragraph.text for paragraph in self._blocks(Paragraph))

    @property
    def rows(self) -> tuple[TableRow, ...]:
        """The rows of its tables, headers among them."""
        return self._blocks(TableRow)

    def _blocks(self, kind: type[Block]) -> tuple[Block, ...]:
        return tuple(event for event in self.events if isinstance(event, kind))


def sections(stream: Pieces, level: int = 1, *, lenient_headings: bool = False) -> Parsed[Section]:
    """The sections of markdown while it arrives, as an async iterator.

    A section is out as soon as a heading of its level or a higher one comes, or the text ends. What stands before the
    first heading of the level, or below a higher one, is in no section and is passed over.

    Args:
        stream: of text or of frames, async or not.
        level: of the headings that begin a section, 1 to 6.
        lenient_headings: whether `#Heading` is a heading too, without a space.

    Raises:
        TypeError: `stream` is a text, and not a stream.
        ValueError: there are no headings of this level.
    """
    return Parsed(stream, SectionParser(level, lenient_headings=lenient_headings))


class SectionParser:
    """Finds the sections of markdown, however it is cut.

    Args:
        level: of the headings that begin a section, 1 to 6.
        lenient_headings: whether `#Heading` is a heading too, without a space.

    Raises:
        ValueError: there are no headings of this level.
    """

    def __init__(self, level: int = 1, *, lenient_headings: bool = False) -> None:
        self._level = checked_level(level)
        self._markdown = MarkdownStream(lenient_headings=lenient_headings)
        self._open: list[_OpenSection] = []
        """The section, its last child, the last child of that, and so on."""

    def feed(self, piece: str) -> list[Section]:
        """More markdown; the sections that are whole now and were not before."""
        return self._taken(self._markdown.feed(piece))

    def close(self) -> list[Section]:
        """The text has ended; the section that was open."""
        return [*self._taken(self._markdown.close()), *self._end(self._level)]

    def _taken(self, events: Iterable[MarkdownEvent]) -> list[Section]:
        return [section for event in events for section in self._take(event)]

    def _take(self, event: MarkdownEvent) -> list[Section]:
        if isinstance(event, Heading):
            ended = self._end(event.level)
            if self._open or event.level == self._level:
                self._open.append(_OpenSection(event))
            return ended
        if self._open:
            self._open[-1].events.append(event)
        return []

    def _end(self, level: int) -> list[Section]:
        """End what is open and not higher than `level`."""
        while self._open and self._open[-1].heading.level >= level:
            section = self._open.pop().section
            if not self._open:
                return [section]
            self._open[-1].children.append(section)
        return []


class _OpenSection:
    def __init__(self, heading: Heading) -> None:
        self.heading = heading
        self.events: list[MarkdownEvent] = []
        self.children: list[Section] = []

    @property
    def section(self) -> Section:
        heading = self.heading
        return Section(heading.text, heading.level, tuple(self.events), tuple(self.children), heading.line)


def checked_level(level: int) -> int:
    """A level of headings.

    Raises:
        ValueError: there are no headings of this level.
    """
    if level not in range(1, 7):
        raise ValueError(f"the level of a heading is 1 to 6, not {level!r}")
    return level

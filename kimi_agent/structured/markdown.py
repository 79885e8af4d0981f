"""Markdown while it arrives: text in, blocks out. No I/O.

A line at a time, in the two steps that CommonMark describes: which of the open containers (quotes, items of lists) the
line goes on with, then which blocks it opens. A block is an event when it ends, so a heading is out with its line and
everything else one line later; nothing is read twice, so the time is linear. What stands within a line is not touched.
https://spec.commonmark.org/0.31.2/#appendix-a-parsing-strategy

Four things are not as CommonMark has them. Indented code is a paragraph: models indent and do not mean code. Within
a list, a bullet may be indented as far as it likes. Link reference definitions stay text. Tables and boxes to tick are
GitHub's: https://github.github.com/gfm/#tables-extension-
"""

from __future__ import annotations

import re
from typing import Final, cast

from . import marks
from .blocks import (
    CodeBlock,
    Heading,
    HtmlBlock,
    Line,
    ListItem,
    MarkdownEvent,
    Paragraph,
    Quote,
    TableRow,
    ThematicBreak,
)
from .containers import Container, Containers, OpenItem, OpenQuote
from .leaves import Leaf, OpenCode, OpenHtml, OpenParagraph, OpenTable
from .lines import Cursor, LineSplitter
from .parsing import Parsed, Pieces

__all__ = [
    "CodeBlock",
    "Heading",
    "HtmlBlock",
    "Line",
    "ListItem",
    "MarkdownEvent",
    "MarkdownStream",
    "Paragraph",
    "Quote",
    "TableRow",
    "ThematicBreak",
    "parse_markdown",
]

BYTE_ORDER_MARK: Final = "\ufeff"


class MarkdownStream:
    """Turns markdown into events while it arrives, however it is cut.

    Args:
        lenient_headings: whether `#Heading` is a heading too, without a space.
    """

    def __init__(self, *, lenient_headings: bool = False, _lines: bool = False) -> None:
        self._splitter = LineSplitter()
        self._output = _OutputWithLines() if _lines else _Output()
        self._reader = _Reader(self._output, marks.LENIENT_HEADING if lenient_headings else marks.HEADING)
        self._closed = False

    def feed(self, text: str) -> list[MarkdownEvent]:
        """More text; the blocks that are certain now and were not before.

        Raises:
            TypeError: `text` is not a `str`.
            RuntimeError: the stream is closed.
        """
        if not isinstance(text, str):
            raise TypeError(f"MarkdownStream.feed takes text, not {type(text).__name__}")
        if self._closed:
            raise RuntimeError("this MarkdownStream is closed; another text takes another one")
        lines = self._splitter.feed(text)
        for line in lines:
            self._reader.read(line)
        return self._output.taken() if lines else []

    def close(self) -> list[MarkdownEvent]:
        """The text has ended; the blocks that were open. Closing again gives nothing."""
        if self._closed:
            return []
        self._closed = True
        for line in self._splitter.close():
            self._reader.read(line)
        self._reader.close()
        return self._output.taken()


def parse_markdown(stream: Pieces, *, lenient_headings: bool = False) -> Parsed[MarkdownEvent]:
    """The blocks of markdown while it arrives, as an async iterator. Closing it closes the stream.

    Args:
        stream: of text or of frames, async or not.
        lenient_headings: whether `#Heading` is a heading too, without a space.

    Raises:
        TypeError: `stream` is a text, and not a stream.
    """
    return Parsed(stream, MarkdownStream(lenient_headings=lenient_headings))


# ==== what comes out ====


class _Output:
    """The events that nobody has taken yet."""

    def __init__(self) -> None:
        self._events: list[MarkdownEvent] = []

    def add(self, event: MarkdownEvent) -> None:
        self._events.append(event)

    def taken(self) -> list[MarkdownEvent]:
        taken, self._events = self._events, []
        return taken

    def wait(self, text: str, number: int) -> None:
        """A line that belongs to the next event."""

    def unwait(self) -> Line | None:
        """The last line that waits, which does not belong to the next event but to the one after it."""

    def wait_again(self, line: Line | None) -> None:
        """That line."""

    def settle(self) -> None:
        """The lines that wait belong to no other event than the last."""


class _OutputWithLines(_Output):
    """The same with the lines of each event behind it."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[Line] = []

    def add(self, event: MarkdownEvent) -> None:
        super().add(event)
        self.settle()

    def wait(self, text: str, number: int) -> None:
        if stripped := text.strip(" \t"):
            self._waiting.append(Line(stripped, number))

    def unwait(self) -> Line | None:
        return self._waiting.pop()

    def wait_again(self, line: Line | None) -> None:
        if line:
            self._waiting.append(line)

    def settle(self) -> None:
        self._events += cast("list[MarkdownEvent]", self._waiting)
        self._waiting.clear()


# ==== reading a line ====


class _Reader:
    """Knows what is open, and reads line by line what goes on, what ends and what begins."""

    def __init__(self, output: _Output, heading: re.Pattern[str]) -> None:
        self._output = output
        self._heading = heading
        self._number = 0
        self._containers = Containers()
        self._matched = 0
        """In how many of the containers the line is."""
        self._leaf: Leaf | None = None
        self._leaves = (self._begin_heading, self._begin_code, self._begin_html, self._begin_break, self._next_row)

    def read(self, text: str) -> None:
        self._number += 1
        line = Cursor(text if self._number > 1 else text.removeprefix(BYTE_ORDER_MARK))
        self._matched = self._containers.matched(line)
        leaf = self._leaf if self._in_all else None
        if isinstance(leaf, OpenCode | OpenHtml):
            self._take(leaf, line)
        elif line.blank:
            self._end_at_blank()
        else:
            self._read_blocks(line)
        self._keep(line, code=isinstance(leaf, OpenCode) or isinstance(self._leaf, OpenCode))

    def close(self) -> None:
        self._matched = 0
        self._end()
        self._output.settle()

    def _read_blocks(self, line: Cursor) -> None:
        if line.indent < marks.CODE_INDENT and (self._begin_table(line) or self._underline(line)):
            return
        while self._begin_quote(line) or self._begin_item(line):
            pass
        if line.indent >= marks.CODE_INDENT or not any(begin(line) for begin in self._leaves):
            self._add_text(line)

    def _keep(self, line: Cursor, *, code: bool) -> None:
        """The line itself goes behind the event of its block, for who wants lines. A quote has no code, only text."""
        if not code or self._containers.quote:
            self._output.wait(line.text, self._number)
        waits = isinstance(self._leaf, OpenParagraph | OpenHtml) or self._containers.untold or self._containers.quote
        if not waits:
            self._output.settle()

    @property
    def _in_all(self) -> bool:
        """Whether the line is in all open containers, and so where the leaf is."""
        return self._matched == len(self._containers)

    @property
    def _paragraph(self) -> OpenParagraph | None:
        """The paragraph that the line would go on with."""
        return self._leaf if isinstance(self._leaf, OpenParagraph) and self._in_all else None

    # ---- what ends ----

    def _end(self) -> None:
        """The leaf ends, and the containers that the line is not in."""
        self._end_leaf()
        while not self._in_all:
            self._tell()
            ended = self._containers.pop()
            if isinstance(ended, OpenQuote):
                self._add(ended.event())

    def _end_leaf(self) -> None:
        leaf, self._leaf = self._leaf, None
        if isinstance(leaf, OpenParagraph) and self._containers.untold:
            self._tell(leaf.text)
        elif leaf:
            self._add(leaf.event())

    def _end_at_blank(self) -> None:
        """A blank line also ends an item that has nothing in it yet. (5.2, rule 3)"""
        if self._in_all and not self._leaf and self._containers.untold:
            self._matched -= 1
        self._end()

    def _tell(self, text: str = "") -> None:
        """The event of the innermost item is due."""
        if item := self._containers.untold:
            self._add(item.event(text, len(self._containers) - 1))

    def _add(self, event: MarkdownEvent | None) -> None:
        """What is in a quote is text of the quote and no event."""
        if event and not self._containers.quote:
            self._output.add(event)

    # ---- what begins: containers ----

    def _begin(self) -> None:
        """Another block begins."""
        self._end()
        self._tell()

    def _begin_quote(self, line: Cursor) -> bool:
        if line.char != ">" or line.indent >= marks.CODE_INDENT:
            return False
        self._begin()
        quote = OpenQuote(self._number, outermost=self._containers.quote is None)
        quote.goes_on(line)
        return self._enter(quote)

    def _begin_item(self, line: Cursor) -> bool:
        bullet = marks.BULLET.match(line.text, line.start)
        if not bullet or not self._may_begin_item(line, bullet):
            return False
        self._begin()
        indent = line.indent
        line.mark(len(bullet[0]))
        space = 1 if line.blank or line.indent > marks.CODE_INDENT else line.indent
        line.skip(space)
        ordered = int(bullet[1]) if bullet[1] else None
        return self._enter(OpenItem(self._number, indent + len(bullet[0]) + space, ordered))

    def _may_begin_item(self, line: Cursor, bullet: re.Match[str]) -> bool:
        in_list = self._containers.item(self._matched - 1) or self._containers.item(self._matched)
        if line.indent >= marks.CODE_INDENT and not in_list:
            return False
        return not marks.is_break(line) and (not self._paragraph or marks.can_interrupt(line, bullet))

    def _enter(self, container: Container) -> bool:
        self._containers.push(container)
        self._matched += 1
        return True

    # ---- what begins: leaves ----

    def _begin_heading(self, line: Cursor) -> bool:
        if not (heading := marks.heading(line, self._heading)):
            return False
        self._begin()
        self._add(Heading(*heading, self._number))
        return True

    def _underline(self, line: Cursor) -> bool:
        paragraph = self._paragraph
        if not paragraph or not (level := marks.underline(line)):
            return False
        self._leaf = None
        self._tell()
        self._add(paragraph.heading(level))
        return True

    def _begin_break(self, line: Cursor) -> bool:
        if not marks.is_break(line):
            return False
        self._begin()
        self._add(ThematicBreak(self._number))
        return True

    def _begin_code(self, line: Cursor) -> bool:
        if not (fence := marks.fence(line)):
            return False
        self._begin()
        self._leaf = OpenCode(self._number, *fence, line.indent)
        return True

    def _begin_html(self, line: Cursor) -> bool:
        in_text = isinstance(self._leaf, OpenParagraph) or (isinstance(self._leaf, OpenTable) and self._in_all)
        if not (kind := marks.html(line, in_text=in_text)):
            return False
        self._begin()
        self._leaf = OpenHtml(self._number, kind)
        self._take(self._leaf, line)
        return True

    def _take(self, leaf: OpenCode | OpenHtml, line: Cursor) -> None:
        if not leaf.take(line):
            self._end_leaf()

    def _begin_table(self, line: Cursor) -> bool:
        header = self._paragraph and self._paragraph.without_header(marks.columns(line))
        if not header:
            return False
        header_line = self._output.unwait()
        self._begin()
        self._output.wait_again(header_line)
        self._add(TableRow(header, True, self._number - 1))
        self._leaf = OpenTable(len(header))
        return True

    def _next_row(self, line: Cursor) -> bool:
        if not isinstance(self._leaf, OpenTable) or not self._in_all:
            return False
        row = self._leaf.row(line, self._number)
        self._add(row)
        return row is not None

    def _add_text(self, line: Cursor) -> None:
        if line.blank:
            return
        if not isinstance(self._leaf, OpenParagraph):
            self._end()
            self._leaf = OpenParagraph(self._number)
        self._leaf.add(line, lazy=not self._in_all)
        if quote := self._containers.quote_from(self._matched):
            quote.add(line.content)

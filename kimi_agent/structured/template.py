"""A template in markdown: blocks with `{placeholders}`, each of which is a place for the blocks of other markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from .markdown import CodeBlock, Heading, MarkdownEvent, MarkdownStream, Paragraph, TableRow, ThematicBreak
from .placeholders import Pattern, Text

__all__ = ["Place", "Template", "BlockTexts", "Values", "line_by_line", "texts_of"]

BlockTexts: TypeAlias = tuple[Text, ...]
"""What a block says, as far as a template looks at it."""
Values: TypeAlias = dict[str, str]
"""What stands in placeholders, by their names."""


# ==== blocks ====


def texts_of(block: MarkdownEvent) -> tuple[str, ...]:
    """What a block says; the cells of a row, the code and the info of a code block."""
    match block:
        case TableRow(cells=cells):
            return cells
        case CodeBlock(code=code, info=info):
            return code.removesuffix("\n"), info
        case ThematicBreak():
            return ()
        case _:
            return (block.text,)


def _looks(block: MarkdownEvent) -> tuple[type[MarkdownEvent], int]:
    """What two blocks have in common that can stand in the same place."""
    match block:
        case Heading(level=level):
            return Heading, level
        case TableRow(header=is_header):
            return TableRow, is_header
        case _:
            return type(block), 0


def _language(block: MarkdownEvent) -> str | None:
    return block.language if isinstance(block, CodeBlock) else None


def line_by_line(blocks: Iterable[MarkdownEvent]) -> Iterator[MarkdownEvent]:
    """The same blocks, with a paragraph for each line of one."""
    for block in blocks:
        if isinstance(block, Paragraph):
            yield from (Paragraph(text, block.line + number) for number, text in enumerate(block.text.split("\n")))
        else:
            yield block


# ==== the template ====


@dataclass(frozen=True)
class Place:
    """A block of a template.

    Args:
        index: in the template.
        block: what it looks like.
        patterns: what its texts look like.
    """

    index: int
    block: MarkdownEvent
    patterns: tuple[Pattern, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Its placeholders."""
        return tuple(name for pattern in self.patterns for name in pattern.names)

    @property
    def steers(self) -> bool:
        """Whether what stands below it has its place only there."""
        return isinstance(self.block, Heading)

    @property
    def is_line(self) -> bool:
        """Whether it is a line of a paragraph."""
        return isinstance(self.block, Paragraph)

    @property
    def is_whole(self) -> bool:
        """Whether it is one placeholder and nothing else."""
        return len(self.patterns) == 1 and self.patterns[0].is_whole

    def values_in(self, block: MarkdownEvent, texts: BlockTexts) -> Values | None:
        """What of a block stands in the placeholders; `None` when this is no place for it."""
        if _looks(block) != _looks(self.block):
            return None
        values: Values = {}
        padded = texts + (Text(""),) * (len(self.patterns) - len(texts))
        for pattern, text in zip(self.patterns, padded, strict=False):
            if (found := pattern.values_in(text)) is None:
                return None
            values |= found
        return values

    def likeness(self, block: MarkdownEvent) -> int:
        """How much speaks for this place, of those that a block can have."""
        same_language = _language(block) == _language(self.block) is not None
        return same_language + any(pattern.has_words for pattern in self.patterns)


def _place(index: int, block: MarkdownEvent) -> Place:
    texts = texts_of(block)
    if isinstance(block, CodeBlock):
        code, info = Pattern.read(texts[0], exact=True), Pattern.read(texts[1])
        return Place(index, block, (code, info) if info.names else (code,))
    return Place(index, block, tuple(Pattern.read(text) for text in texts))


class Template:
    """Markdown with `{placeholders}`; `{{` and `}}` are braces that are none.

    Raises:
        ValueError: a placeholder is no identifier or stands there twice, a brace stands alone, two placeholders stand
            side by side, or a table has no header.
    """

    def __init__(self, markdown: str) -> None:
        blocks = line_by_line(_parsed(markdown))
        self.places = tuple(_place(index, block) for index, block in enumerate(blocks))
        self.names = tuple(name for place in self.places for name in place.names)
        """The placeholders, in order."""
        self._refuse_what_never_fits()

    @property
    def has_code(self) -> bool:
        """Whether code belongs to it."""
        return any(isinstance(place.block, CodeBlock) for place in self.places)

    def has_table(self, header: TableRow) -> bool:
        """Whether a table with this header is one of its own: the words of each column are in it, or the other way."""
        own = [place.block for place in self.places if isinstance(place.block, TableRow) and place.block.header]
        return any(_are_alike(known.cells, header.cells) for known in own)

    def _refuse_what_never_fits(self) -> None:
        for name, number in Counter(self.names).items():
            if number > 1:
                raise ValueError(f"the placeholder {{{name}}} stands there twice")
        for place in self.places:
            if isinstance(place.block, Paragraph) and place.names and place.block.text.startswith("|"):
                raise ValueError(
                    f"the row with {{{place.names[0]}}} is no table: it needs a header and a line of dashes"
                )


def _are_alike(some: tuple[str, ...], others: tuple[str, ...]) -> bool:
    pairs = [(_letters(one), _letters(other)) for one, other in zip(some, others, strict=False)]
    return len(some) <= len(others) and all(one in other or other in one for one, other in pairs)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


def _parsed(markdown: str) -> list[MarkdownEvent]:
    stream = MarkdownStream()
    return [*stream.feed(markdown), *stream.close()]

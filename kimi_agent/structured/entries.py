"""The entries of a template, found in markdown while it arrives. No I/O.

A template is a row of places. The first one with a placeholder is its *anchor*: a block that fits there begins a new
entry. The other blocks of an entry find their places by these rules:

1. A place takes blocks of its own kind: headings of its level, items of its depth, code, paragraphs, quotes, rows. The
   words around its placeholders must be there.
2. Headings steer. What stands below a heading of the template has its place below that heading only. Another heading
   changes nothing if it is deeper, ends the part that it stands in if it is not, and ends the entry if it is not deeper
   than the anchor. So does another item, where the anchor is an item and all other items of the template are deeper.
3. A place is taken once, or as often as something comes for it if it collects.
4. Of several places, one with words goes before one without, and one to come goes before one that was passed.
5. A block that has a place belongs to the entry even if it fits the anchor, unless the anchor has words and the place
   has none.
6. Rows have their places in a table whose header has the words of the template's.
7. A paragraph is taken line by line. A line without a place goes on with the line before it, if a placeholder was the
   end of that. A paragraph goes on with the one before it, if a placeholder was the whole of that; its lines then have
   no places but those with words.

An anchor that collects tells no entries apart: of `## Pros`, `- {pros}`, `## Cons`, `- {cons}` all items belong to one
entry. There the first heading of the template begins a new entry, when it comes again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Final

from .lines import LineSplitter
from .markdown import Heading, ListItem, MarkdownEvent, MarkdownStream, Paragraph, TableRow, ThematicBreak
from .placeholders import Text
from .template import BlockTexts, Place, Template, Values, line_by_line, texts_of

__all__ = ["Entry", "EntryParser"]

ELSEWHERE: Final = -1
"""The part below a heading that the template does not have."""

DEEPEST: Final = 6
"""The level of the deepest headings."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a template found.

    Args:
        values: of each placeholder for which something came, in order.
        raw: the markdown of the entry.
        line: its first, counted from 1.
    """

    values: Mapping[str, tuple[str, ...]]
    raw: str
    line: int


# ==== how entries are told apart ====


class Plan:
    """A template as entries are found by it.

    Args:
        template: has placeholders.
        collecting: the placeholders that take more than one value.
    """

    def __init__(self, template: Template, collecting: AbstractSet[str]) -> None:
        self._collecting = collecting
        anchor = next(place for place in template.places if place.names)
        above = [place for place in template.places[: anchor.index] if place.steers]
        self.opener = above[0] if above and self.collects(anchor) else anchor
        """What begins a new entry."""
        self.places = template.places[self.opener.index :]
        """Where the blocks of an entry can be, the opener first."""
        headings = [place for place in self.places if place.steers]
        self.starters = [anchor] if self.opener is anchor else headings
        """What begins an entry where none is open."""
        highest = min((_level(place) for place in headings), default=DEEPEST + 1)
        self.level = _level(self.opener) if self.opener.steers else highest - 1
        """A heading that is not deeper ends an entry."""
        self._parts = _parts(self.places)
        rows = [place.names for place in self.places if len(place.names) > 1 and self.collects(place)]
        self._paired = set(chain.from_iterable(rows))

    @cached_property
    def is_nested(self) -> bool:
        """Whether an entry is an item and what stands below it."""
        depths = [depth for place in self.places[1:] if (depth := _deeper(self.opener, place.block)) is not None]
        is_item = isinstance(self.opener.block, ListItem) and not self.collects(self.opener)
        return is_item and min(depths, default=1) > 0

    def collects(self, place: Place) -> bool:
        """Whether a place is never full."""
        is_open = bool(place.names) or place is not self.opener
        return is_open and self._collecting >= set(place.names)

    def kept(self, name: str, values: Iterable[str]) -> tuple[str, ...]:
        """The values of a placeholder without blank ones; with them where those of a row stay beside each other."""
        return tuple(values if name in self._paired else filter(None, values))

    def part_of(self, place: Place) -> int:
        """The part of the template that a place is in: the index of the place that it begins with."""
        return self._parts[place.index]

    def level_of(self, part: int) -> int:
        """A heading that is not deeper ends this part."""
        first = self.places[part - self.opener.index]
        return _level(first) if first.steers else self.level


def _parts(places: Sequence[Place]) -> dict[int, int]:
    parts: dict[int, int] = {}
    part = places[0].index
    for place in places:
        part = place.index if place.steers else part
        parts[place.index] = part
    return parts


def _level(place: Place) -> int:
    assert isinstance(place.block, Heading)
    return place.block.level


@dataclass(frozen=True, slots=True)
class Fit:
    """A place for a block, and what of the block stands in its placeholders."""

    place: Place
    values: Values
    likeness: int


class Draft:
    """An entry that is not whole yet.

    Args:
        plan: what it is to look like.
        block: its first.
    """

    def __init__(self, plan: Plan, block: MarkdownEvent) -> None:
        self.line = block.line
        self._plan = plan
        self._part = plan.part_of(plan.opener)
        self._taken: set[int] = set()
        self._latest = plan.opener
        self._ending: Place | None = None
        """Where the latest line of a paragraph is, if another line may go on with it."""
        self._next_line = 0
        self._depth: int | None = None
        """How much deeper its items are than those of the template."""
        self._values: dict[str, list[list[str]]] = {}
        """The pieces of each value."""

    @property
    def values(self) -> dict[str, tuple[str, ...]]:
        """What was found so far."""
        found = {name: ["".join(pieces) for pieces in values] for name, values in self._values.items()}
        return {name: kept for name, values in found.items() if (kept := self._plan.kept(name, values))}

    def fit(self, block: MarkdownEvent, texts: BlockTexts) -> Fit | None:
        """The best place for a block, if there is one."""
        fits = [
            fit for place in self._plan.places if self._has_room(place, block) and (fit := _fit(place, block, texts))
        ]
        return max(fits, key=self._preference, default=None)

    def may_be_followed(self, opener: Place, block: MarkdownEvent) -> bool:
        """Whether a block that looks like the opener can begin the next entry, where it stands."""
        return opener.steers or (self._part in (opener.index, ELSEWHERE) and self._is_not_below(opener, block))

    def fill(self, fit: Fit, block: MarkdownEvent) -> None:
        """Put a block into its place."""
        place = self._latest = fit.place
        self._taken.add(place.index)
        self._ending = place if place.is_line and place.patterns[0].is_open else None
        self._next_line = block.line + 1
        if place.steers:
            self._part = place.index
        if (depth := _deeper(place, block)) is not None:
            self._depth = depth
        for name, value in fit.values.items():
            self._values.setdefault(name, []).append([value])

    def is_within(self, block: MarkdownEvent) -> bool:
        """Whether a block is a line in the middle of a paragraph that one placeholder takes as a whole."""
        return self._ending is not None and self._ending.is_whole and self._is_next(block)

    def is_ended_by(self, block: MarkdownEvent) -> bool:
        """Whether a block that has no place belongs to the entry no more."""
        match block:
            case Heading(level=level):
                return level <= self._plan.level
            case ListItem():
                return self._plan.is_nested and self._is_not_below(self._plan.opener, block)
            case _:
                return False

    def pass_by(self, block: MarkdownEvent) -> None:
        """Take notice of a block that has no place."""
        match block:
            case Paragraph(text=text) if self._ending and (self._is_next(block) or self._ending.is_whole):
                pieces = self._values[self._ending.names[-1]][-1]
                joint = "\n" if self._is_next(block) else "\n\n"
                pieces += [joint, text.strip()] if any(pieces) else [text.strip()]
                self._next_line = block.line + 1
            case ThematicBreak():
                self._ending = None
            case Heading(level=level) if self._part != ELSEWHERE and level <= self._plan.level_of(self._part):
                self._part, self._ending = ELSEWHERE, None
            case _:
                pass

    def _is_next(self, block: MarkdownEvent) -> bool:
        """Whether it is the next line of the same paragraph."""
        return isinstance(block, Paragraph) and block.line == self._next_line

    def _has_room(self, place: Place, block: MarkdownEvent) -> bool:
        is_free = place.index not in self._taken or self._plan.collects(place)
        is_here = place.steers or self._plan.part_of(place) == self._part
        return is_free and is_here and self._is_not_below(place, block)

    def _is_not_below(self, place: Place, block: MarkdownEvent) -> bool:
        """Whether an item is no deeper than the others of this entry: below them, there is no place."""
        depth = _deeper(place, block)
        return depth is None or self._depth is None or depth <= self._depth

    def _preference(self, fit: Fit) -> tuple[int, bool, int]:
        index = fit.place.index
        return fit.likeness, index >= self._latest.index, -index


def _fit(place: Place, block: MarkdownEvent, texts: BlockTexts) -> Fit | None:
    values = None if (_deeper(place, block) or 0) < 0 else place.values_in(block, texts)
    return None if values is None else Fit(place, values, place.likeness(block))


def _at_least(likeness: int, fit: Fit | None) -> Fit | None:
    return fit if fit and fit.likeness >= likeness else None


def _deeper(place: Place, block: MarkdownEvent) -> int | None:
    """How much deeper an item is than that of the template; `None` where there are no items."""
    if isinstance(block, ListItem) and isinstance(place.block, ListItem):
        return block.depth - place.block.depth
    return None


# ==== the parser ====


class EntryParser:
    """Finds the entries of a template in markdown while it arrives. An entry is out when the next one begins.

    Args:
        template: has placeholders.
        collecting: the placeholders that take more than one value.
    """

    def __init__(self, template: Template, collecting: AbstractSet[str] = frozenset()) -> None:
        self._plan = Plan(template, collecting)
        self._markdown = MarkdownStream()
        self._source = _Source()
        self._draft: Draft | None = None
        self._template = template
        self._is_own_table = False
        self.has_found = False
        """Whether there was an entry."""

    @property
    def unread(self) -> str:
        """The text that belongs to no entry that is out. All of it, as long as there was none."""
        return self._source.between(1)

    def feed(self, piece: str) -> list[Entry]:
        """More markdown; the entries that are whole now and were not before."""
        blocks = self._markdown.feed(piece)
        self._source.feed(piece)
        return self._taken(blocks)

    def close(self) -> list[Entry]:
        """The text has ended; the entries that were not out."""
        self._source.close()
        return [*self._taken(self._markdown.close()), *self._end()]

    def _taken(self, blocks: Iterable[MarkdownEvent]) -> list[Entry]:
        return [entry for block in line_by_line(blocks) if self._concerns(block) for entry in self._take(block)]

    def _concerns(self, block: MarkdownEvent) -> bool:
        """Whether the template may have a place for a block: rows of other tables have none."""
        if not isinstance(block, TableRow):
            return True
        if block.header:
            self._is_own_table = self._template.has_table(block)
        return self._is_own_table

    def _take(self, block: MarkdownEvent) -> list[Entry]:
        """Put a block into the entry that it belongs to; the one that it ends."""
        texts = tuple(Text(text) for text in texts_of(block))
        likeness = 1 if self._draft and self._draft.is_within(block) else 0
        fit = _at_least(likeness, self._draft and self._draft.fit(block, texts))
        first = _at_least(likeness, self._first(block, texts))
        if first and not (fit and fit.likeness >= first.likeness):
            return self._begin(first, block)
        if self._draft and fit:
            self._draft.fill(fit, block)
        elif self._draft and self._draft.is_ended_by(block):
            return self._end(block.line)
        elif self._draft:
            self._draft.pass_by(block)
        elif self.has_found:
            self._source.forget_before(block.line)
        return []

    def _first(self, block: MarkdownEvent, texts: BlockTexts) -> Fit | None:
        """The place of a block that begins an entry, if it may."""
        opener = self._plan.opener
        if self._draft and not self._draft.may_be_followed(opener, block):
            return None
        starters = [opener] if self._draft else self._plan.starters
        return next((fit for place in starters if (fit := _fit(place, block, texts))), None)

    def _begin(self, first: Fit, block: MarkdownEvent) -> list[Entry]:
        ended = self._end(block.line)
        self._draft = Draft(self._plan, block)
        self._draft.fill(first, block)
        self._source.forget_before(block.line)
        self.has_found = True
        return ended

    def _end(self, line: int | None = None) -> list[Entry]:
        """End the entry; `line` is the first that does not belong to it."""
        draft, self._draft = self._draft, None
        if not draft:
            return []
        raw = self._source.between(draft.line, line)
        if line:
            self._source.forget_before(line)
        return [Entry(draft.values, raw, draft.line)]


class _Source:
    """The lines of a text, as far back as anybody needs them."""

    def __init__(self) -> None:
        self._splitter = LineSplitter()
        self._lines: deque[str] = deque()
        self._first = 1

    def feed(self, piece: str) -> None:
        self._lines += self._splitter.feed(piece)

    def close(self) -> None:
        self._lines += self._splitter.close()

    def between(self, start: int, end: int | None = None) -> str:
        """The lines from one number to before another, without the blank ones behind them."""
        stop = None if end is None else end - self._first
        return "\n".join(islice(self._lines, max(start - self._first, 0), stop)).rstrip("\n")

    def forget_before(self, line: int) -> None:
        while self._lines and self._first < line:
            self._lines.popleft()
            self._first += 1

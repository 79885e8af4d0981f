"""What a line of markdown may be, as tables and pure functions, by the sections of CommonMark 0.31.2.

No pattern goes back on what it has read, so each takes time that is linear in the line.
https://spec.commonmark.org/0.31.2/ https://github.github.com/gfm/
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from .lines import Cursor

__all__ = [
    "BULLET",
    "CHECKBOX",
    "CODE_INDENT",
    "HEADING",
    "HTML",
    "LENIENT_HEADING",
    "HtmlKind",
    "can_interrupt",
    "cells",
    "columns",
    "fence",
    "heading",
    "html",
    "is_break",
    "underline",
]

CODE_INDENT: Final = 4
"""Columns. What is indented so far opens no block. (4.4)"""

BREAKS: Final = frozenset("-*_")
"""Three or more of one of these, and space, are a thematic break (4.1)."""

HEADING: Final = re.compile(r"#{1,6}+(?=[ \t]|$)")
"""What begins an ATX heading (4.2)."""

LENIENT_HEADING: Final = re.compile(r"#{1,6}+(?!#)")
"""The same where no space is needed."""

UNDERLINE: Final = re.compile(r"(?:(=)=*+|-++)[ \t]*+$")
"""What makes a heading of the paragraph above (4.3), of the first level or the second."""

FENCE: Final = re.compile(r"(?P<ticks>`{3,}+)(?P<info>[^`]*+)$|(?P<tildes>~{3,}+)")
"""What begins fenced code (4.5)."""

BULLET: Final = re.compile(r"(?:[-+*]|([0-9]{1,9}+)[.)])(?=[ \t]|$)")
"""What begins a list item (5.2), and its number."""

CHECKBOX: Final = re.compile(r"\[([ xX])\][ \t\n]++")
"""What begins the text of a task (GFM 5.3)."""

DELIMITERS: Final = re.compile(r"(?!-(?:[ \t]|$))\|?+[ \t]*+(?::?+-++:?+[ \t]*+\|[ \t]*+)*+(?::?+-++:?+[ \t]*+)?+$")
"""The row below a table's header (GFM 4.10); `- ` would be a list item."""

CELL_BORDER: Final = re.compile(r"(?<!\\)\|")

BLOCK_TAGS: Final = (
    "address|article|aside|base|basefont|blockquote|body|caption|center|col|colgroup|dd|details|dialog|dir|div|dl|dt"
    "|fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|head|header|hr|html|iframe|legend|li|link|main|menu"
    "|menuitem|nav|noframes|ol|optgroup|option|p|param|search|section|summary|table|tbody|td|tfoot|th|thead|title|tr"
    "|track|ul"
)
RAW_TAGS: Final = "script|pre|style|textarea"
VALUE: Final = r"""(?:[^ \t"'=<>`]++|'[^']*+'|"[^"]*+")"""
ATTRIBUTE: Final = rf"(?:[ \t]++[a-z_:][\w.:-]*+(?:[ \t]*+=[ \t]*+{VALUE})?+)"
ANY_TAG: Final = rf"<(?:[a-z][a-z0-9-]*+{ATTRIBUTE}*+[ \t]*+/?|/[a-z][a-z0-9-]*+[ \t]*+)>[ \t]*+$"


@dataclass(frozen=True, slots=True)
class HtmlKind:
    """A way to begin HTML (4.6)."""

    begins: re.Pattern[str]
    ends: re.Pattern[str] | None
    """What its last line has; without, it goes on to a blank line."""
    interrupts: bool
    """Whether it ends a paragraph."""


def _kind(begins: str, ends: str | None = None, *, interrupts: bool = True) -> HtmlKind:
    flags = re.IGNORECASE | re.ASCII
    return HtmlKind(re.compile(begins, flags), re.compile(ends, flags) if ends else None, interrupts)


HTML: Final = (
    _kind(rf"<(?:{RAW_TAGS})(?=[ \t>]|$)", rf"</(?:{RAW_TAGS})>"),
    _kind(r"<!--", r"-->"),
    _kind(r"<\?", r"\?>"),
    _kind(r"<![a-z]", r">"),
    _kind(r"<!\[CDATA\[", r"\]\]>"),
    _kind(rf"</?(?:{BLOCK_TAGS})(?=[ \t]|/?>|$)"),
    _kind(ANY_TAG, interrupts=False),
)


def is_break(line: Cursor) -> bool:
    """Whether it is a thematic break."""
    return line.char in BREAKS and line.is_only(line.char) and line.text.count(line.char, line.start) >= 3


def heading(line: Cursor, begins: re.Pattern[str]) -> tuple[int, str] | None:
    """The level and the text of a heading; hashes at its end are not text."""
    match = begins.match(line.text, line.start)
    if not match:
        return None
    text = line.text[match.end() :].strip(" \t")
    unclosed = text.rstrip("#")
    return len(match[0]), unclosed.rstrip(" \t") if unclosed[-1:] in ("", " ", "\t") else text


def underline(line: Cursor) -> int | None:
    """The level of the heading that it makes of the paragraph above."""
    match = UNDERLINE.match(line.text, line.start)
    return match and (1 if match[1] else 2)


def fence(line: Cursor) -> tuple[str, str] | None:
    """The fence that begins code, and its info string."""
    match = FENCE.match(line.text, line.start)
    if not match:
        return None
    mark = match["ticks"] or match["tildes"]
    return mark, line.text[line.start + len(mark) :].strip(" \t")


def html(line: Cursor, *, in_text: bool) -> HtmlKind | None:
    """The kind of HTML that it begins, where that may end the text above."""
    if line.char != "<":
        return None
    kinds = (kind for kind in HTML if kind.begins.match(line.text, line.start))
    return next((kind for kind in kinds if kind.interrupts or not in_text), None)


def can_interrupt(line: Cursor, bullet: re.Match[str]) -> bool:
    """Whether an item may end a paragraph: with text, and as the first of its list."""
    return (bullet[1] is None or int(bullet[1]) == 1) and bool(line.text[bullet.end() :].strip(" \t"))


def columns(line: Cursor) -> int:
    """How many columns the row below a table's header has; 0 where it is no such row."""
    is_row = line.char in ("|", "-", ":") and DELIMITERS.match(line.text, line.start)
    return sum(1 for cell in line.content.split("|") if cell.strip(" \t")) if is_row else 0


def cells(row: str) -> tuple[str, ...]:
    """The cells of a table's row, with its pipes as they are meant."""
    first, *others = CELL_BORDER.split(row.strip(" \t"))
    parts = [first, *others] if first else others
    if parts and not parts[-1]:
        parts.pop()
    return tuple(part.replace("\\|", "|").strip(" \t") for part in parts)

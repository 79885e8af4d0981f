"""Text as HTML that shows it: what people wrote as it stands, what a model wrote as the markdown that it is.

No text becomes an element, an attribute or a link. Control characters are visible, as on a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from html import escape
from itertools import groupby
from typing import Any, Final

from ...structured.markdown import (
    CodeBlock,
    Heading,
    HtmlBlock,
    ListItem,
    MarkdownEvent,
    MarkdownStream,
    Paragraph,
    Quote,
    TableRow,
    ThematicBreak,
)
from ..text import visible

__all__ = ["folded", "markdown", "plain", "text"]

MOST_SHOWN: Final = 20_000
"""In characters. What is longer is folded behind that: a browser need not lay it out before somebody looks."""
MOST_FORMED: Final = 500_000
"""In characters. Markdown behind that is shown as it was written."""


def text(value: str) -> str:
    """Text as HTML that shows it; of any length, in any place but a script or a style."""
    return escape(visible(value))


def plain(value: str) -> str:
    """Text with its lines and spaces."""
    return f'<div class="plain" dir="auto">{text(value)}</div>' if value else ""


def folded(value: str, shown: Callable[[str], str] = plain) -> str:
    """Text of which what is too long is folded."""
    head, rest = _cut(value, MOST_SHOWN)
    return shown(head) + _more(len(rest), shown(rest))


def markdown(value: str) -> str:
    """Markdown as blocks, of which what is too long is folded. Links and HTML in it stay text."""
    formed, beyond = _cut(value, MOST_FORMED)
    stream = MarkdownStream()
    head, rest = _divided([*stream.feed(formed), *stream.close()])
    size = sum(map(_size, rest)) + len(beyond)
    return _blocks(head) + _more(size, _blocks(rest) + plain(beyond))


def _more(size: int, inner: str) -> str:
    return f"<details><summary>{size:,} more characters</summary>{inner}</details>" if size else ""


def _cut(value: str, most: int) -> tuple[str, str]:
    """The beginning, at the end of a line where there is one, and the rest."""
    if len(value) <= most:
        return value, ""
    place = value.rfind("\n", most // 2, most) + 1 or most
    return value[:place], value[place:]


# ==== blocks ====


def _divided(blocks: Sequence[MarkdownEvent]) -> tuple[Sequence[MarkdownEvent], Sequence[MarkdownEvent]]:
    """What is shown at once, and the rest. A block that is longer than that by itself is divided, too."""
    room = MOST_SHOWN
    for place, block in enumerate(blocks):
        if _size(block) > room:
            head, rest = _halves(block, room)
            return [*blocks[:place], *head], [*rest, *blocks[place + 1 :]]
        room -= _size(block)
    return blocks, ()


def _halves(block: MarkdownEvent, room: int) -> tuple[list[MarkdownEvent], list[MarkdownEvent]]:
    body = _body(block)
    if _size(block) <= MOST_SHOWN or not hasattr(block, body):
        return [], [block]
    head, rest = _cut(getattr(block, body), max(room, 1))
    return [replace(block, **{body: head})], [replace(block, **{body: rest})]


def _body(block: MarkdownEvent) -> str:
    return "code" if isinstance(block, CodeBlock) else "text"


def _size(block: MarkdownEvent) -> int:
    """In characters."""
    return sum(map(len, block.cells)) if isinstance(block, TableRow) else len(getattr(block, _body(block), ""))


def _blocks(blocks: Iterable[MarkdownEvent]) -> str:
    return "".join(_together(kind, group) for kind, group in groupby(blocks, type))


def _together(kind: type[MarkdownEvent], blocks: Iterable[Any]) -> str:
    shown = _SHOWN.get(kind, _text_of)
    inner = "".join(shown(block) for block in blocks)
    return f'<div class="scroll"><table>{inner}</table></div>' if kind is TableRow else inner


def _text_of(block: Paragraph | HtmlBlock) -> str:
    return f'<p dir="auto">{_spans(block.text)}</p>'


def _heading(block: Heading) -> str:
    return f'<p class="heading h{block.level}" dir="auto">{_spans(block.text)}</p>'


def _item(block: ListItem) -> str:
    mark = "•" if block.ordered is None else f"{block.ordered}."
    box = {None: "", True: "☑ ", False: "☐ "}[block.checked]
    inner = f'<span class="mark">{mark}</span><span class="of-item">{box}{_spans(block.text)}</span>'
    return f'<p class="item depth{min(block.depth, _DEEPEST)}" dir="auto">{inner}</p>'


def _code(block: CodeBlock) -> str:
    name = f'<span class="language">{text(block.language)}</span>' if block.language else ""
    return f'<div class="code">{name}<pre tabindex="0">{text(block.code)}</pre></div>'


def _quote(block: Quote) -> str:
    return f'<blockquote dir="auto">{_spans(block.text)}</blockquote>'


def _row(block: TableRow) -> str:
    cell = "th" if block.header else "td"
    return "<tr>" + "".join(f"<{cell}>{_spans(each)}</{cell}>" for each in block.cells) + "</tr>"


def _rule(block: ThematicBreak) -> str:
    return "<hr>"


_DEEPEST: Final = 5
_SHOWN: Final[dict[type[MarkdownEvent], Callable[[Any], str]]] = {
    Heading: _heading,
    ListItem: _item,
    CodeBlock: _code,
    Quote: _quote,
    TableRow: _row,
    ThematicBreak: _rule,
}


# ==== within a line ====

_SPAN: Final = re.compile(r"(?<!`)`([^`\n]{1,1000})`(?!`)|\*\*(?=\S)([^*\n]{1,1000})(?<=\S)\*\*")


def _spans(value: str) -> str:
    return "".join(_pieces(value))


def _pieces(value: str) -> Iterator[str]:
    """The text, with what is code or strong in it marked as such."""
    end = 0
    for match in _SPAN.finditer(value):
        code, strong = match.groups()
        yield text(value[end : match.start()])
        yield f"<code>{text(code)}</code>" if code is not None else f"<strong>{text(strong)}</strong>"
        end = match.end()
    yield text(value[end:])

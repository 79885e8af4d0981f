"""Text as HTML that shows it: what people wrote as it stands, what a model wrote as the markdown that it is.

No text becomes an element, an attribute or a link. Control characters are visible, as on a terminal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from html import escape
from itertools import groupby
from typing import Any, Final

from ..structured.markdown import (
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
from .text import visible

__all__ = ["folded", "markdown", "plain", "text"]

MOST_SHOWN: Final = 20_000
"""In characters. What is longer is folded behind that: a browser need not lay it out before somebody looks."""


def text(value: str) -> str:
    """Text as HTML that shows it; of any length, in any place but a script or a style."""
    return escape(visible(value))


def plain(value: str) -> str:
    """Text with its lines and spaces."""
    return f'<div class="plain" dir="auto">{text(value)}</div>' if value else ""


def folded(value: str, shown: Callable[[str], str] = plain) -> str:
    """Text of which what is too long is folded."""
    if len(value) <= MOST_SHOWN:
        return shown(value)
    rest = value[MOST_SHOWN:]
    return (
        f"{plain(value[:MOST_SHOWN])}<details><summary>{len(rest):,} more characters</summary>{plain(rest)}</details>"
    )


def markdown(value: str) -> str:
    """Markdown as blocks. Links and HTML in it stay text."""
    stream = MarkdownStream()
    blocks = [*stream.feed(value), *stream.close()]
    return "".join(_together(kind, group) for kind, group in groupby(blocks, type))


# ==== blocks ====


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

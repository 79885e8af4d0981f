"""Blocks of markdown as colored lines for a terminal. The room that knows rich.

No text is markup to rich, and none is a control sequence to the terminal: also what an entity such as `&#27;` stands
for is made `visible`. Links and pictures are text with their address behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from itertools import zip_longest
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.box import SIMPLE
from rich.cells import cell_len, set_cell_size
from rich.console import Console, JustifyMethod, RenderableType
from rich.style import Style
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ...structured import marks
from ...structured.lines import Cursor
from ..text import visible
from .blocks import Block, Kind

__all__ = ["Painter"]

MOST_INLINE: Final = 10_000
"""Characters of a paragraph in which marks are looked for; longer ones are printed as they are."""
BETWEEN_COLUMNS: Final = 3
"""Of a table, as rich draws it."""
BULLETS: Final = "•◦▪"
DIM: Final = "bright_black"

NO_COLOR: Final = "\x1b[0m"
_COLORS: Final = re.compile(r"\x1b\[[0-9;]*m")

_INLINE: Final = MarkdownIt("commonmark", {"html": False}).enable("strikethrough")


class Painter:
    """Makes lines for a terminal: each ends with a newline, and with the style that it began with."""

    def __init__(self) -> None:
        self._console = Console(
            file=StringIO(),
            force_terminal=True,
            legacy_windows=False,
            highlight=False,
            markup=False,
            emoji=False,
            width=80,
        )

    def blocks(self, blocks: Iterable[Block], width: int) -> str:
        """Blocks of markdown, at most `width` columns wide, except for code."""
        return "".join(self._block(block, width) for block in blocks)

    def _block(self, block: Block, width: int) -> str:
        """What cannot be painted is printed as it is: an answer does not end because of how it looks."""
        try:
            return self._painted(PAINTERS[block.kind](block, width), width)
        except Exception:
            return self.text("\n".join(block.lines))

    def text(self, text: str, style: str = "") -> str:
        """Text in one style. It is made `visible`, and may be of any width."""
        return self._painted(Text(visible(text), style), 0)

    def wrapped(self, text: str, width: int, style: str = "") -> list[str]:
        """The same as lines of at most `width` columns, without newlines."""
        lines = Text(visible(text), style).wrap(self._console, max(width, 1))
        return [self._painted(line, 0)[:-1] for line in lines]

    def line(self, text: str, width: int, style: str = "", tail: str = "") -> str:
        """One line, without its newline. Where it is longer than `width` the text is cut off, and of the tail what is
        longer than half of it."""
        text, tail = _on_one_line(text), _on_one_line(tail)
        tail = _cut(tail, max(width - cell_len(text), width // 2))
        return self._painted(Text(_cut(text, width - cell_len(tail)) + tail, style), 0)[:-1]

    def colored(self, text: str) -> str:
        """A line that a function printed: it may have colors, and nothing else that a terminal would do."""
        *plain, last = _COLORS.split(text.removesuffix("\r"))
        colors = _COLORS.findall(text)
        shown = "".join(f"{visible(before)}{color}" for before, color in zip(plain, colors, strict=True))
        return f"{shown}{visible(last)}{NO_COLOR if colors else ''}"

    def _painted(self, renderable: RenderableType, width: int) -> str:
        """What rich makes of it; text is as wide as it is."""
        self._console.width = max(width, 1)
        with self._console.capture() as captured:
            self._console.print(renderable, soft_wrap=isinstance(renderable, Text))
        return captured.get()


# ==== kinds of blocks ====


def _paragraph(block: Block, width: int) -> Text:
    first = block.lines[0]
    indent = " " * min(len(first) - len(first.lstrip(" \t")), width // 2)
    return _hung(_inline(_joined(block.lines)), indent, indent, width)


def _heading(block: Block, width: int) -> Text:
    first, last = Cursor(block.lines[0]), Cursor(block.lines[-1])
    level, text = marks.heading(first, marks.HEADING) or (marks.underline(last), _joined(block.lines[:-1]))
    heading = _inline(text)
    heading.stylize("bold underline" if level == 1 else "bold")
    return _hung(heading, "", "", width)


def _item(block: Block, width: int) -> Text:
    """An item stands where it is written, and its lines below each other."""
    first = block.lines[0]
    indent = min(len(first) - len(first.lstrip(" \t")), width // 2)
    bullet = marks.BULLET.match(first.lstrip(" \t"))
    if block.goes_on or bullet is None:
        return _paragraph(block, width)
    mark = bullet[0] if bullet[1] else BULLETS[min(indent // 2, len(BULLETS) - 1)]
    text = _joined((first.lstrip(" \t")[bullet.end() :], *block.lines[1:]))
    begin = f"{' ' * indent}{mark} "
    return _hung(_inline(_checked(text)), begin, " " * len(begin), width)


def _checked(text: str) -> str:
    box = marks.CHECKBOX.match(text)
    return text if box is None else f"{'☐' if box[1] == ' ' else '☑'} {text[box.end() :]}"


def _quote(block: Block, width: int) -> Text:
    text = _inline("\n".join(line.strip().removeprefix(">").strip() for line in block.lines))
    text.stylize("italic")
    return _hung(text, "│ ", "│ ", width)


def _code(block: Block, width: int) -> Text:
    """Code as it is written, so that it can be copied, between its fences."""
    lines, opening, closing = list(block.lines), [], []
    if not block.goes_on:
        opening = [Text(lines.pop(0), DIM)]
    if lines and marks.fence(Cursor(lines[-1])) and lines[-1].strip(" \t`~") == "":
        closing = [Text(lines.pop(), DIM)]
    code = [_highlighted("\n".join(lines), block.language)] if lines else []
    return Text("\n").join([*opening, *code, *closing])


def _highlighted(code: str, language: str) -> Text:
    """Colored, if the language is known and nothing of the code is lost by it."""
    plain = Text(code)
    if not language or len(code) > MOST_INLINE:
        return plain
    colored = Syntax("", language, theme="ansi_dark").highlight(code)
    colored.right_crop(len(colored.plain) - len(colored.plain.rstrip("\n")))
    colored.append("\n" * (len(code) - len(code.rstrip("\n"))))
    return colored if colored.plain == code else plain


def _table(block: Block, width: int) -> RenderableType:
    """A table, if all its columns have room; the parts of one that is long have the columns of the first."""
    header, *begun = _cells(block.above or block.lines)
    widths = _widths([header, *begun[1:]], width)
    if sum(widths) + BETWEEN_COLUMNS * (len(widths) - 1) > width:
        return _plain(block, width)
    delimiters = marks.cells((block.above or block.lines)[1])
    table = Table(
        box=SIMPLE,
        show_edge=False,
        pad_edge=False,
        show_header=not block.goes_on,
        header_style="bold",
        border_style=DIM,
    )
    for cell, columns, delimiter in zip(header, widths, delimiters, strict=True):
        table.add_column(cell, overflow="fold", width=columns, justify=_side(delimiter))
    for row in _cells(block.lines) if block.goes_on else begun[1:]:
        table.add_row(*row[: len(header)])
    return table


def _side(delimiter: str) -> JustifyMethod:
    """Where the cells of a column stand, as `---:` says it."""
    if not delimiter.endswith(":"):
        return "left"
    return "center" if delimiter.startswith(":") else "right"


def _cells(lines: Iterable[str]) -> list[list[Text]]:
    return [[_inline(cell) for cell in marks.cells(line)] for line in lines]


def _widths(rows: Sequence[Sequence[Text]], width: int) -> list[int]:
    """As wide as the columns need to be; where there is no room for that, the wide ones share what there is."""
    needed = [max([1, *(cell.cell_len for cell in cells if cell)]) for cells in zip_longest(*rows)][: len(rows[0])]
    room = width - BETWEEN_COLUMNS * (len(needed) - 1)
    most = next((most for most in range(room, 1, -1) if sum(min(most, columns) for columns in needed) <= room), 1)
    return [min(most, columns) for columns in needed]


def _plain(block: Block, width: int) -> Text:
    return _hung(Text("\n".join(block.lines)), "", "", width)


def _break(block: Block, width: int) -> Text:
    return Text("─" * width, DIM)


def _blank(block: Block, width: int) -> Text:
    return Text("")


PAINTERS: Final[dict[Kind, Callable[[Block, int], RenderableType]]] = {
    "text": _paragraph,
    "heading": _heading,
    "item": _item,
    "quote": _quote,
    "code": _code,
    "table": _table,
    "break": _break,
    "blank": _blank,
    "plain": _plain,
}


def _on_one_line(text: str) -> str:
    return visible(text).replace("\n", "\\n").expandtabs(1)


def _cut(text: str, width: int) -> str:
    """Text that is no wider than so many columns."""
    return text if cell_len(text) <= width else set_cell_size(text, max(width - 1, 0)).rstrip() + "…"


def _joined(lines: Iterable[str]) -> str:
    """Lines stay lines: who writes for a terminal means them."""
    return "\n".join(line.strip(" \t") for line in lines)


def _hung(text: Text, first: str, other: str, width: int) -> Text:
    """A text that is wrapped, with something before its first line and its other lines."""
    room = width - len(other)
    lines = list(text.wrap(_WRAPPING, max(room, 8))) if len(text) <= MOST_INLINE else [text]
    for line in lines:
        line.rstrip()
    return Text("\n").join(
        Text.assemble((other if place else first, DIM), line) for place, line in enumerate(lines or [Text()])
    )


_WRAPPING: Final = Console(width=80)


# ==== what stands within a line ====

_MARKED: Final = re.compile(r"[\\\\`*_\[\]<>&!~]")
_STYLES: Final = {"strong": "bold", "em": "italic", "s": "strike", "link": "underline"}


def _inline(text: str) -> Text:
    """Emphasis, code and links."""
    painted = Text()
    if len(text) > MOST_INLINE or _MARKED.search(text) is None:
        return painted.append(text)
    styles: list[Style] = []
    links: list[str] = []
    for token in _INLINE.parseInline(text)[0].children or ():
        kind, _, side = token.type.rpartition("_")
        if kind in _STYLES and side == "open":
            styles.append(Style.parse(_STYLES[kind]))
            links += [str(token.attrs["href"])] if kind == "link" else []
        elif kind in _STYLES:
            styles.pop()
            painted.append(_address(painted, links.pop()) if kind == "link" else "", DIM)
        else:
            painted.append(visible(_content(token)), Style.combine([Style.null(), *styles, *_own_style(token)]))
    return painted


def _content(token: Token) -> str:
    match token.type:
        case "softbreak" | "hardbreak":
            return "\n"
        case "image":
            return f"{token.content} ({token.attrs['src']})"
        case _:
            return token.content


def _own_style(token: Token) -> list[Style]:
    return [Style.parse("cyan")] if token.type == "code_inline" else []


def _address(before: Text, address: str) -> str:
    """Where a link leads, unless that is what it says."""
    address = visible(address)
    return "" if before.plain.endswith(address.removeprefix("mailto:")) else f" ({address})"

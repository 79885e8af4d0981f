"""The screen of a terminal as a picture: SVG that needs no font of its own, and nothing from anywhere else.

Each run of letters is told how wide it is, so columns are straight in any font. What is no ASCII stands in a cell of
its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from itertools import groupby
from typing import Final, NamedTuple, TypeAlias

from pyte.screens import Char, Screen

__all__ = ["picture"]

Cells: TypeAlias = list[tuple[int, Char]]
"""Characters of a row with their columns."""

WIDTH, HEIGHT, SIZE = 9, 20, 15
"""Of a cell, and of the letters in it."""
EDGE, BAR = 16, 38
"""Around the screen, and the height of the bar with the title."""
FONTS: Final = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"

PAPER, INK, FRAME, EDGING = "#1b1e25", "#dfe2e8", "#262a33", "#3b414e"
COLORS: Final = {
    "black": "#3b4048",
    "red": "#f0808a",
    "green": "#8fd3a0",
    "brown": "#e5c07b",
    "blue": "#82aaf0",
    "magenta": "#c99be8",
    "cyan": "#7ecfe0",
    "white": "#dfe2e8",
    "brightblack": "#8b93a3",
    "brightred": "#ff9ca3",
    "brightgreen": "#a8e6b5",
    "brightbrown": "#f3d79b",
    "brightblue": "#a3c2ff",
    "brightmagenta": "#deb6f7",
    "bfightmagenta": "#deb6f7",  # as pyte spells it where it is a background
    "brightcyan": "#a0e4f0",
    "brightwhite": "#ffffff",
}
FORBIDDEN: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML cannot contain."""


def picture(screen: Screen, title: str) -> str:
    """What is on a screen, down to its last line that is not blank.

    Args:
        screen: with its cursor.
        title: of the window, such as the command that runs in it.
    """
    last = max((row for row, line in enumerate(screen.display) if line.strip()), default=0)
    rows = [_cells(screen.buffer[row], screen.columns) for row in range(last + 1)]
    width, height = screen.columns * WIDTH + 2 * EDGE, len(rows) * HEIGHT + BAR + 2 * EDGE
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" font-family="{FONTS}" font-size="{SIZE}" fill="{INK}">',
            f"<title>{_text(title)}</title>",
            *_window(width, height, title),
            *_cursor(screen, last),
            *(piece for row, cells in enumerate(rows) for piece in _row(cells, BAR + EDGE + row * HEIGHT)),
            "</svg>\n",
        ]
    )


def _window(width: int, height: int, title: str) -> Iterator[str]:
    yield f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>'
    yield f'<path d="M0 {BAR}V10a10 10 0 0 1 10-10H{width - 10}a10 10 0 0 1 10 10V{BAR}z" fill="{FRAME}"/>'
    yield f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="9.5" fill="none" stroke="{EDGING}"/>'
    for number, color in enumerate(("red", "brown", "green")):
        yield f'<circle cx="{EDGE + 6 + number * 20}" cy="{BAR // 2}" r="6" fill="{COLORS[color]}"/>'
    yield f'<text x="{EDGE + 72}" y="{BAR // 2 + 5}" fill="{COLORS["brightblack"]}">{_text(title)}</text>'


def _cursor(screen: Screen, last: int) -> Iterator[str]:
    if not screen.cursor.hidden and screen.cursor.y <= last:
        x, y = EDGE + screen.cursor.x * WIDTH, BAR + EDGE + screen.cursor.y * HEIGHT
        yield f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" fill="{INK}" opacity=".8"/>'


# ==== a row ====


class Look(NamedTuple):
    """How a run of characters looks: colors, and what SVG says of the rest."""

    ink: str
    paper: str
    more: str

    @property
    def is_plain(self) -> bool:
        """Whether blanks that look so cannot be seen."""
        return self.paper == PAPER and "decoration" not in self.more


def _cells(line: Mapping[int, Char], columns: int) -> Cells:
    """The characters of a row. The second cell of a wide one is empty and left out."""
    return [(column, line[column]) for column in range(columns) if line[column].data]


def _row(cells: Cells, y: int) -> Iterator[str]:
    for look, run in groupby(cells, key=lambda cell: _look(cell[1])):
        for _, piece in groupby(run, key=lambda cell: "" if cell[1].data.isascii() else cell[1].data):
            yield from _piece(list(piece), look, y)


def _piece(cells: Cells, look: Look, y: int) -> Iterator[str]:
    text = "".join(char.data for _, char in cells)
    if look.is_plain:
        cells = cells[len(text) - len(text.lstrip(" ")) :]
        text = text.strip(" ")
    if not text:
        return
    x, width = EDGE + cells[0][0] * WIDTH, _columns(text, cells) * WIDTH
    if look.paper != PAPER:
        yield f'<rect x="{x}" y="{y}" width="{width}" height="{HEIGHT}" fill="{look.paper}"/>'
    ink = "" if look.ink == INK else f' fill="{look.ink}"'
    fit = f' textLength="{width}" lengthAdjust="spacingAndGlyphs"' if len(text) > 1 else ""
    yield f'<text x="{x}" y="{y + SIZE}"{fit}{ink}{look.more}>{_text(text)}</text>'


def _columns(text: str, cells: Cells) -> int:
    return len(text) if text.isascii() else cells[-1][0] - cells[0][0] + 1


def _look(char: Char) -> Look:
    ink, paper = _color(char.fg, INK), _color(char.bg, PAPER)
    if char.reverse:
        ink, paper = paper, ink
    lines = " ".join(["underline"] * char.underscore + ["line-through"] * char.strikethrough)
    more = ' font-weight="bold"' * char.bold + ' font-style="italic"' * char.italics
    return Look(ink, paper, more + (f' text-decoration="{lines}"' if lines else ""))


def _color(name: str, default: str) -> str:
    """pyte names sixteen colors and the default one; of others it has the six digits."""
    return default if name == "default" else COLORS.get(name) or f"#{name}"


def _text(text: str) -> str:
    """Text of SVG, where blanks in a row would be one."""
    return escape(FORBIDDEN.sub("\ufffd", text).replace("  ", "\xa0\xa0"), quote=False)

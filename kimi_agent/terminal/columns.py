"""Lines in columns, which fit a terminal of 80."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from .text import display_width, format_width

__all__ = ["WIDTH", "aligned", "cut", "described"]

WIDTH: Final = 79
WIDEST_NAME: Final = 24
GAP: Final = 2


def described(rows: Sequence[tuple[str, str]], width: int | None = None) -> str:
    """Names, and beside each what it is; a name that is too long has it below.

    Args:
        rows: name and description, made visible.
        width: of a line, in columns; it has at most 79 in any case.
    """
    width = min(width or WIDTH, WIDTH)
    most = WIDEST_NAME if width >= 2 * WIDEST_NAME else GAP
    widest = max((columns for name, _ in rows if (columns := display_width(name)) <= most), default=most)
    return "\n".join(line for name, text in rows for line in _described(name, text, widest, width))


def _described(name: str, text: str, widest: int, width: int) -> Iterable[str]:
    indent = " " * (widest + GAP)
    lines = [f"{indent}{line}" for line in format_width(text, max(width - len(indent), GAP)).splitlines()]
    if not lines or display_width(name) > widest:
        return [name, *lines]
    return [_padded(name, len(indent)) + lines[0].lstrip(), *lines[1:]]


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows whose columns stand below each other.

    Args:
        rows: of cells that are made visible, each with as many.
        right: the columns that are flush right, by position.
    """
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    return [
        (" " * GAP)
        .join(
            _padded(cell, width, flush_right=place in right)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        .rstrip()
        for row in rows
    ]


def cut(text: str, width: int) -> str:
    """The beginning of a line, in so many columns."""
    if display_width(text) <= width:
        return text
    shorter = text[: width - 1]
    while display_width(shorter) >= width:
        shorter = shorter[:-1]
    return f"{shorter}…"


def _padded(cell: str, width: int, *, flush_right: bool = False) -> str:
    blanks = " " * (width - display_width(cell))
    return blanks + cell if flush_right else cell + blanks

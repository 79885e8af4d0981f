"""What the pictures of a page have in common: numbers as people read them, SVG, and the figure around it.

A picture grows with the page: widths are shares, heights and letters are pixels. Each is a figure with a legend, an
axis that stays while the picture scrolls, the exact numbers as titles, and all of them as a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import floor, log10
from typing import Final

from ...measured import MeasuredAnswer, MeasuredCall
from .prose import text

__all__ = [
    "BELOW",
    "TOP",
    "WIDEST",
    "Answer",
    "Call",
    "Days",
    "Figure",
    "beside",
    "block",
    "clock",
    "date",
    "duration",
    "figure",
    "letters",
    "percent",
    "px",
    "round_step",
    "short",
    "stroke",
    "table",
    "together",
]


# ==== what is drawn ====


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the model that was measured.

    Args:
        number: among all answers, from 1.
        took: what it took.
    """

    number: int
    took: MeasuredAnswer


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was measured.

    Args:
        name: of the function.
        took: what it took.
        failed: whether it went wrong.
        answer: the number of the one that made it.
    """

    name: str
    took: MeasuredCall
    failed: bool = False
    answer: int = 0


_PAPER: Final = 600
"""Pixels that a picture has on paper."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with all that belongs to it.

    Args:
        name: of it in the page.
        html: the figure.
        width: below which it scrolls, in pixels.
    """

    name: str
    html: str
    width: int

    @property
    def rule(self) -> str:
        """What the style of the page says of it. Paper does not scroll: where its words would collide, it has none."""
        crowded = f"@media print{{#{self.name} .plot text{{display:none}}}}" if self.width > _PAPER else ""
        return f"@media screen{{#{self.name} .plot{{min-width:{self.width}px}}}}{crowded}"


# ==== numbers ====


def short(number: float) -> str:
    """A number of tokens as an axis has room for it."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}" if number < 1e12 else f"{number:.0e}"
    return f"{number:.3g}"


_SPANS: Final = ((172_800, 86_400, "days", 3600, "h"), (3600, 3600, "h", 60, "min"), (60, 60, "min", 1, "s"))
"""From how many seconds on what is counted: units of so many seconds, and the rest in smaller ones."""


def duration(seconds: float) -> str:
    """A time span as people say it."""
    seconds = float(f"{seconds:.3g}") if seconds < 60 else round(seconds)
    for least, unit, name, smaller, rest_name in _SPANS:
        if seconds >= least:
            whole, rest = divmod(round(seconds / smaller), unit // smaller)
            return f"{whole} {name} {rest:02} {rest_name}" if rest else f"{whole} {name}"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:g} s"


def clock(moment: float, form: str = "%H:%M:%S") -> str:
    """A moment, in UTC."""
    return f"{datetime.fromtimestamp(moment, UTC):{form}}"


def date(moment: float) -> str:
    """Its day, in UTC."""
    return clock(moment, "%Y-%m-%d")


class Days:
    """Tells the days of moments, one after another, where they change."""

    def __init__(self) -> None:
        self._last = ""

    def change(self, moment: float) -> str:
        """The day of a moment, if it is another one than that of the last moment; else nothing."""
        before, self._last = self._last, date(moment)
        return "" if before == self._last else self._last


def round_step(most: float, ticks: int) -> float:
    """A round distance of marks, of which at most about so many fit."""
    rough = max(most, 1e-9) / ticks
    size = 10.0 ** floor(log10(rough))
    return next(size * factor for factor in (1, 2, 5, 10, 20) if size * factor >= rough * 0.999)


def px(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")


# ==== pieces ====

TOP: Final = 12
BELOW: Final = 28
AXIS: Final = 60
"""Pixels above, below and beside a picture."""
WIDEST: Final = 30_000
"""In pixels."""


def beside(high: int, marks: Iterable[tuple[float, str]]) -> str:
    """What stands at the left, and stays there."""
    labels = together(letters(AXIS - 8, y + 4, words, "end") for y, words in marks)
    return f'<svg class="axis" width="{AXIS}" height="{high + BELOW}" aria-hidden="true">{labels}</svg>'


def together(pieces: Iterable[str]) -> str:
    return "".join(pieces)


def letters(x: float | str, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{px(y)}" text-anchor="{anchor}">{text(words)}</text>'


def stroke(x1: str, y1: float, x2: str, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1}" y1="{px(y1)}" x2="{x2}" y2="{px(y2)}"/>'


def block(kind: str, x: float, width: float, y: float, height: float, title: str) -> str:
    """A bar; `x` and `width` in percent."""
    place = f'x="{percent(x)}" width="{percent(width)}" y="{px(y)}" height="{px(height)}"'
    return f'<rect class="{kind}" {place}><title>{text(title)}</title></rect>'


def percent(share: float) -> str:
    return f"{share:.4f}".rstrip("0").rstrip(".") + "%"


def figure(
    name: str,
    heading: str,
    legend: Sequence[tuple[str, str]],
    axis: str,
    plot: str,
    size: tuple[int, int],
    table: str,
    words: str,
) -> Figure:
    width, height = size
    keys = together(
        f'<li><svg class="key" aria-hidden="true"><rect class="{kind}"/></svg>{text(label)}</li>'
        for kind, label in legend
    )
    picture = f'<svg class="plot" width="100%" height="{height}" role="img" aria-label="{text(words)}">{plot}</svg>'
    html = (
        f'<figure id="{name}"><figcaption><h3>{text(heading)}</h3><ul class="legend">{keys}</ul></figcaption>'
        f'<div class="chart">{axis}<div class="scroll" tabindex="0">{picture}</div></div>'
        f'<details class="numbers"><summary>Numbers</summary><div class="scroll">{table}</div></details></figure>'
    )
    return Figure(name, html, width)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    first = together(f'<th scope="col">{text(each)}</th>' for each in head)
    body = together(f"<tr>{together(f'<td>{text(each)}</td>' for each in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table>"

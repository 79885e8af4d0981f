"""Bars and lines of a page: the tokens of each answer, and how full the window was after it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from typing import Final

from ...measured import MeasuredAnswer
from .drawing import (
    BELOW,
    TOP,
    WIDEST,
    Answer,
    Figure,
    beside,
    block,
    figure,
    letters,
    percent,
    px,
    round_step,
    short,
    stroke,
    table,
    together,
)
from .prose import text

__all__ = ["context", "tokens"]

HIGH: Final = 180
"""Pixels from nothing to the end of the axis."""


class _Scale:
    """From tokens to pixels, from 0 to a round number."""

    def __init__(self, most: int) -> None:
        self.step = max(round_step(most, 4), 1)
        self.end = self.step * max(ceil(most / self.step), 1)

    def y(self, value: float) -> float:
        """The height of a value, from above."""
        return TOP + HIGH - self.height(value)

    def height(self, value: float) -> float:
        """How many pixels it is high."""
        return value / self.end * HIGH

    @property
    def ticks(self) -> list[float]:
        """The values that are marked."""
        return [self.step * number for number in range(round(self.end / self.step) + 1)]

    def axis(self) -> str:
        """The marks, beside the picture."""
        return beside(TOP + HIGH, [(self.y(tick), short(tick)) for tick in self.ticks])

    def grid(self) -> str:
        """The marks, across the picture."""
        return together(
            stroke("0", self.y(tick), "100%", self.y(tick), "grid" if tick else "base") for tick in self.ticks
        )


def _number(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


class _Slots:
    """Places beside each other, one for each answer."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.count = max(_FEWEST_SLOTS, answers[-1].number)
        self.share = 100 / self.count

    def middle(self, number: int) -> float:
        """Where an answer stands, in percent."""
        return (number - 0.5) * self.share

    def labels(self, answers: Sequence[Answer]) -> str:
        """The numbers of as many answers as there is room for, below."""
        every = 1 if self.count <= _FEW_SLOTS else round(round_step(_LABEL * self.count / self.width, 1))
        named = [each.number for each in answers if each.number == 1 or each.number % every == 0]
        return together(letters(percent(self.middle(number)), TOP + HIGH + 18, str(number)) for number in named)

    @property
    def width(self) -> int:
        """What the picture needs, in pixels."""
        return min(self.count * 14, WIDEST)


_FEWEST_SLOTS: Final = 8
_FEW_SLOTS: Final = 20
_LABEL: Final = 40  # pixels that a number needs


# ==== tokens of each answer ====

_PARTS: Final = (("cached", "from the cache"), ("new", "new"), ("output", "output"))


def _parts(took: MeasuredAnswer) -> tuple[int, int, int] | None:
    """Cached, new and output tokens."""
    if took.input is None or took.output is None:
        return None
    cached = min(took.cached or 0, took.input)
    return cached, took.input - cached, took.output


def tokens(answers: Sequence[Answer]) -> Figure | None:
    """What each answer took: tokens of the prompt out of the cache, others, and those of the answer."""
    counted = [(each, parts) for each in answers if (parts := _parts(each.took)) is not None]
    if not counted:
        return None
    drawn = [each for each, _ in counted]
    slots, scale = _Slots(drawn), _Scale(max(sum(parts) for _, parts in counted))
    sums = [sum(parts[place] for _, parts in counted) for place in range(3)]
    bars = together(_stack(slots, scale, each, parts) for each, parts in counted)
    return figure(
        "tokens",
        "Tokens of each answer",
        [(kind, f"{label}: {total:,}") for (kind, label), total in zip(_PARTS, sums, strict=True)],
        scale.axis(),
        scale.grid() + bars + slots.labels(drawn),
        (slots.width, TOP + HIGH + BELOW),
        table(
            ("Answer", "From the cache", "New", "Output", "Together"),
            ([str(each.number), *map(_number, parts), _number(sum(parts))] for each, parts in counted),
        ),
        f"Tokens of {len(counted)} answers: {sums[0]:,} from the cache, {sums[1]:,} new, {sums[2]:,} output.",
    )


def _stack(slots: _Slots, scale: _Scale, answer: Answer, parts: tuple[int, int, int]) -> str:
    below, bars = 0, ""
    x, width = slots.middle(answer.number) - slots.share * 0.34, slots.share * 0.68
    for (kind, label), number in zip(_PARTS, parts, strict=True):
        if number:
            title = f"answer {answer.number}: {number:,} {label}"
            bars += block(kind, x, width, scale.y(below + number), scale.height(number), title)
        below += number
    return bars


# ==== how full the window was ====


def _filled(took: MeasuredAnswer) -> int | None:
    """Tokens in the window when the answer was there."""
    prompt = took.prompt if took.input is None else took.input
    return None if prompt is None else prompt + (took.output or 0)


def context(answers: Sequence[Answer]) -> Figure | None:
    """How much of the window was filled after each answer."""
    known = [(each, filled) for each in answers if (filled := _filled(each.took)) is not None]
    if not known:
        return None
    drawn, most = [each for each, _ in known], max(filled for _, filled in known)
    windows = sorted({each.took.window for each in drawn if each.took.window})
    slots, scale = _Slots(drawn), _Scale(max(most, *(window for window in windows if window < most * 4), 0))
    dots = together(_dot(slots, scale, each, filled) for each, filled in known)
    words = f"at most {most:,}{_largest_share(known)}"
    legend = [("filled", f"filled: {words}")]
    limits = [f"{window:,}" for window in windows if window <= scale.end]
    legend += [("window", f"window{'s' * (len(limits) > 1)}: {' and '.join(limits)}")] if limits else []
    return figure(
        "context",
        "Context after each answer",
        legend,
        scale.axis(),
        scale.grid() + _limits(slots, scale, drawn) + _area(slots, scale, known) + dots + slots.labels(drawn),
        (slots.width, TOP + HIGH + BELOW),
        table(
            ("Answer", "Tokens", "Window", "Share"),
            (
                [str(each.number), f"{filled:,}", _number(each.took.window), _share(filled, each.took.window, "{}")]
                for each, filled in known
            ),
        ),
        f"Tokens in the window after {len(known)} answers: {words}.",
    )


def _largest_share(known: Iterable[tuple[Answer, int]]) -> str:
    """Of each answer's own window, which another model has larger or smaller."""
    shares = [filled / each.took.window for each, filled in known if each.took.window]
    return f", at most {max(shares):.1%} of the window" if shares else ""


def _share(filled: int, window: int | None, form: str = ", {} of the window") -> str:
    return form.format(f"{filled / window:.1%}") if window else "" if "," in form else "not known"


def _limits(slots: _Slots, scale: _Scale, answers: Sequence[Answer]) -> str:
    """The window of each answer, where it is not far above."""
    return together(
        stroke(
            percent((each.number - 1) * slots.share),
            scale.y(window),
            percent(each.number * slots.share),
            scale.y(window),
            "window",
        )
        for each in answers
        if (window := each.took.window) and window <= scale.end
    )


def _area(slots: _Slots, scale: _Scale, known: Sequence[tuple[Answer, int]]) -> str:
    points = [(each.number - 0.5, scale.y(filled)) for each, filled in known]
    line = " ".join(f"{px(x)},{px(y)}" for x, y in points)
    base = px(scale.y(0))
    area = f"{px(points[0][0])},{base} {line} {px(points[-1][0])},{base}"
    box = f'viewBox="0 0 {slots.count} {TOP + HIGH}" width="100%" height="{TOP + HIGH}" preserveAspectRatio="none"'
    return f'<svg {box}><polygon class="under" points="{area}"/><polyline class="filled" points="{line}"/></svg>'


def _dot(slots: _Slots, scale: _Scale, answer: Answer, filled: int) -> str:
    title = f"answer {answer.number}: {filled:,} tokens{_share(filled, answer.took.window)}"
    radius = 2 if slots.count > 3 * _FEW_SLOTS else 3.5
    place = f'cx="{percent(slots.middle(answer.number))}" cy="{px(scale.y(filled))}" r="{radius}"'
    return f'<circle class="filled" {place}><title>{text(title)}</title></circle>'

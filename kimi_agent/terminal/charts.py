"""The pictures of a page, as SVG that grows with it: widths are shares, heights and letters are pixels.

Each is a figure with a legend, an axis that stays while the picture scrolls, the exact numbers as titles, and all of
them as a table.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from math import ceil, floor, log10
from operator import itemgetter
from typing import Final

from ..measured import MeasuredAnswer, MeasuredCall
from .prose import text

__all__ = ["Answer", "Call", "Figure", "busy", "clock", "context", "duration", "short", "time_line", "tokens"]


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
    """

    name: str
    took: MeasuredCall
    failed: bool = False


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
        """What the style of the page says of it."""
        return f"#{self.name} .plot{{min-width:{self.width}px}}"


# ==== numbers ====


def short(number: float) -> str:
    """A number of tokens as an axis has room for it."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}" if number < 1e12 else f"{number:.0e}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """A time span as people say it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} days"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def clock(moment: float, form: str = "%H:%M:%S") -> str:
    """A moment, in UTC."""
    return f"{datetime.fromtimestamp(moment, UTC):{form}}"


def _step(most: float, ticks: int) -> float:
    """A round distance of marks, of which at most about so many fit."""
    rough = max(most, 1e-9) / ticks
    size = 10.0 ** floor(log10(rough))
    return next(size * factor for factor in (1, 2, 5, 10, 20) if size * factor >= rough * 0.999)


def _px(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")


# ==== the frame of a picture ====

_TOP: Final = 12
_HIGH: Final = 180
_BELOW: Final = 28
_AXIS: Final = 52


class _Scale:
    """From tokens to pixels, from 0 to a round number."""

    def __init__(self, most: int) -> None:
        self.step = max(_step(most, 4), 1)
        self.end = self.step * max(ceil(most / self.step), 1)

    def y(self, value: float) -> float:
        """The height of a value, from above."""
        return _TOP + _HIGH - self.height(value)

    def height(self, value: float) -> float:
        """How many pixels it is high."""
        return value / self.end * _HIGH

    @property
    def ticks(self) -> list[float]:
        """The values that are marked."""
        return [self.step * number for number in range(round(self.end / self.step) + 1)]

    def axis(self) -> str:
        """The marks, beside the picture."""
        return _axis(_TOP + _HIGH, [(self.y(tick), short(tick)) for tick in self.ticks])

    def grid(self) -> str:
        """The marks, across the picture."""
        return _all(_line("0", self.y(tick), "100%", self.y(tick), "grid" if tick else "base") for tick in self.ticks)


def _axis(high: int, marks: Iterable[tuple[float, str]]) -> str:
    """What stands at the left, and stays there."""
    labels = _all(_label(_AXIS - 8, y + 4, words, "end") for y, words in marks)
    return f'<svg class="axis" width="{_AXIS}" height="{high + _BELOW}" aria-hidden="true">{labels}</svg>'


def _all(pieces: Iterable[str]) -> str:
    return "".join(pieces)


def _label(x: float | str, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{_px(y)}" text-anchor="{anchor}">{text(words)}</text>'


def _line(x1: str, y1: float, x2: str, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1}" y1="{_px(y1)}" x2="{x2}" y2="{_px(y2)}"/>'


def _rect(kind: str, x: float, width: float, y: float, height: float, title: str) -> str:
    """A bar; `x` and `width` in percent."""
    place = f'x="{_percent(x)}" width="{_percent(width)}" y="{_px(y)}" height="{_px(height)}"'
    return f'<rect class="{kind}" {place}><title>{text(title)}</title></rect>'


def _percent(share: float) -> str:
    return f"{share:.4f}".rstrip("0").rstrip(".") + "%"


def _figure(
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
    keys = _all(
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


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    first = _all(f'<th scope="col">{text(each)}</th>' for each in head)
    body = _all(f"<tr>{_all(f'<td>{text(each)}</td>' for each in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table>"


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
        """The numbers of some of the answers, below."""
        every = max(1, int(_step(self.count, 20)))
        y = _TOP + _HIGH + 18
        named = [each.number for each in answers if each.number % every == 0 or self.count <= 20 or each.number == 1]
        return _all(_label(_percent(self.middle(number)), y, str(number)) for number in named)

    @property
    def width(self) -> int:
        """What the picture needs, in pixels."""
        return min(self.count * 14, _WIDEST)


_FEWEST_SLOTS: Final = 8
_WIDEST: Final = 30_000


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
    bars = _all(_stack(slots, scale, each, parts) for each, parts in counted)
    return _figure(
        "tokens",
        "Tokens of each answer",
        [(kind, f"{label}: {total:,}") for (kind, label), total in zip(_PARTS, sums, strict=True)],
        scale.axis(),
        scale.grid() + bars + slots.labels(drawn),
        (slots.width, _TOP + _HIGH + _BELOW),
        _table(
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
            bars += _rect(kind, x, width, scale.y(below + number), scale.height(number), title)
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
    window = max((each.took.window or 0 for each in drawn), default=0)
    slots, scale = _Slots(drawn), _Scale(max(most, window if most * 4 > window else 0))
    dots = _all(_dot(slots, scale, each, filled) for each, filled in known)
    legend = [("filled", f"filled: at most {most:,}{_share(most, window)}")]
    legend += [("window", f"window: {window:,}")] if 0 < window <= scale.end else []
    return _figure(
        "context",
        "Context after each answer",
        legend,
        scale.axis(),
        scale.grid() + _limits(slots, scale, drawn) + _area(slots, scale, known) + dots + slots.labels(drawn),
        (slots.width, _TOP + _HIGH + _BELOW),
        _table(
            ("Answer", "Tokens", "Window", "Share"),
            (
                [str(each.number), f"{filled:,}", _number(each.took.window), _share(filled, each.took.window, "{}")]
                for each, filled in known
            ),
        ),
        f"Tokens in the window after {len(known)} answers: at most {most:,}{_share(most, window)}.",
    )


def _share(filled: int, window: int | None, form: str = ", {} of the window") -> str:
    return form.format(f"{filled / window:.1%}") if window else "" if "," in form else "not known"


def _limits(slots: _Slots, scale: _Scale, answers: Sequence[Answer]) -> str:
    """The window of each answer, where it is not far above."""
    return _all(
        _line(
            _percent((each.number - 1) * slots.share),
            scale.y(window),
            _percent(each.number * slots.share),
            scale.y(window),
            "window",
        )
        for each in answers
        if (window := each.took.window) and window <= scale.end
    )


def _area(slots: _Slots, scale: _Scale, known: Sequence[tuple[Answer, int]]) -> str:
    points = [(each.number - 0.5, scale.y(filled)) for each, filled in known]
    line = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
    base = _px(scale.y(0))
    area = f"{_px(points[0][0])},{base} {line} {_px(points[-1][0])},{base}"
    box = f'viewBox="0 0 {slots.count} {_TOP + _HIGH}" width="100%" height="{_TOP + _HIGH}" preserveAspectRatio="none"'
    return f'<svg {box}><polygon class="under" points="{area}"/><polyline class="filled" points="{line}"/></svg>'


def _dot(slots: _Slots, scale: _Scale, answer: Answer, filled: int) -> str:
    title = f"answer {answer.number}: {filled:,} tokens{_share(filled, answer.took.window)}"
    place = f'cx="{_percent(slots.middle(answer.number))}" cy="{_px(scale.y(filled))}" r="3.5"'
    return f'<circle class="filled" {place}><title>{text(title)}</title></circle>'


# ==== what happened when ====


class _Line:
    """From moments to shares of the width. Where nothing happened for long, time is left out.

    Args:
        spans: beginnings and ends, of which there is one at least.
    """

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        self.busy = _merged(sorted(spans), 0.0)
        worked = sum(end - begin for begin, end in self.busy)
        self.gap = max(0.5, worked * 0.03)
        self.busy = _merged(self.busy, self.gap)
        self.length = sum(end - begin for begin, end in self.busy) + self.gap * (len(self.busy) - 1) or 1.0

    @cached_property
    def starts(self) -> list[float]:
        """Where each busy time begins, in seconds on the line."""
        starts, at = list[float](), 0.0
        for begin, end in self.busy:
            starts.append(at)
            at += end - begin + self.gap
        return starts

    def x(self, moment: float) -> float:
        """Where a moment is, in percent."""
        number = min(bisect_left(self.busy, moment, key=itemgetter(1)), len(self.busy) - 1)
        within = min(max(moment - self.busy[number][0], 0.0), self.busy[number][1] - self.busy[number][0])
        return (self.starts[number] + within) / self.length * 100

    def marks(self) -> list[tuple[float, str]]:
        """Where it may be marked, and how, what matters most first: busy times by the clock, what passes in them."""
        step, passing = _step(self.length, 8), list[tuple[float, str]]()
        for (begin, end), start in zip(self.busy, self.starts, strict=True):
            inner = [step * number for number in range(1, floor((end - begin) / step) + 1)]
            passing += [((start + passed) / self.length * 100, f"+{duration(passed)}") for passed in inner]
        begins = zip(self.busy, self.starts, strict=True)
        return [*((start / self.length * 100, clock(begin)) for (begin, _), start in begins), *passing]

    def pauses(self) -> list[tuple[float, float]]:
        """Where time is left out, and how much."""
        ends = zip(pairwise(self.busy), self.starts[1:], strict=True)
        return [((start - self.gap / 2) / self.length * 100, after[0] - before[1]) for (before, after), start in ends]


def busy(spans: Iterable[tuple[float, float]]) -> float:
    """How many seconds something went on; what overlaps counts once."""
    return sum(end - begin for begin, end in _merged(sorted(spans), 0.0))


def _merged(spans: Sequence[tuple[float, float]], gap: float) -> list[tuple[float, float]]:
    """Sorted spans, those together between which no more than `gap` lies."""
    merged: list[tuple[float, float]] = []
    for begin, end in spans:
        if merged and begin - merged[-1][1] <= gap:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((begin, end))
    return merged


_ROW: Final = 26
_BAR: Final = 16
_MOST_ROWS: Final = 8


def time_line(answers: Sequence[Answer], calls: Sequence[Call]) -> Figure | None:
    """When the model was asked, what failed first, and when functions ran."""
    took = [*(each.took for each in answers), *(each.took for each in calls)]
    if not took:
        return None
    line = _Line((each.began, each.began + each.seconds) for each in took)
    placed = _in_rows(sorted(calls, key=lambda call: call.took.began))
    rows = 1 + max((row for _, row in placed), default=0)
    high = _TOP + rows * _ROW
    bars = _all(_request(line, each) for each in answers) + _all(_ran(line, call, row) for call, row in placed)
    retries = sum(len(each.took.retries) for each in answers)
    legend = [("waiting", "until the first token"), ("answering", "answer")]
    legend += [("retry", f"asked again: {retries}")] if retries else []
    legend += [("tool", "function")] if calls else []
    legend += [("failed", f"went wrong: {failed}")] if (failed := sum(call.failed for call in calls)) else []
    width = min(max(320, 90 * len(line.busy), 12 * len(took)), _WIDEST)
    return _figure(
        "timeline",
        "Time line",
        legend,
        _names(high, bool(calls)),
        _background(line, high, width) + bars,
        (width, high + _BELOW),
        _table(("Began (UTC)", "What", "Took", "First token after", "Asked again"), _happenings(answers, calls)),
        f"{len(answers)} requests, {retries} of them made again, and {len(calls)} calls of functions "
        f"in {duration(sum(end - begin for begin, end in line.busy))}.",
    )


def _in_rows(calls: Sequence[Call]) -> list[tuple[Call, int]]:
    """Calls and their rows, from 1: what runs at the same time stands below each other."""
    ends: list[float] = []
    placed: list[tuple[Call, int]] = []
    for call in calls:
        free = (row for row, end in enumerate(ends) if end <= call.took.began)
        row = next(free, min(len(ends), _MOST_ROWS - 1))
        ends[row : row + 1] = [call.took.began + call.took.seconds]
        placed.append((call, row + 1))
    return placed


def _names(high: int, with_calls: bool) -> str:
    return _axis(
        high, [(_TOP + row * _ROW + _BAR / 2, name) for row, name in enumerate(("Model", "Calls")[: 1 + with_calls])]
    )


def _background(line: _Line, high: int, width: int) -> str:
    """Marks of the clock and the pauses."""
    room = 68 / width * 100
    drawn = _all(_mark(x, label, high, room) for x, label in _with_room(line.marks(), room))
    for x, left_out in line.pauses():
        title = f"<title>nothing for {text(duration(left_out))}</title>"
        drawn += f'<line class="pause" x1="{_percent(x)}" y1="0" x2="{_percent(x)}" y2="{high}">{title}</line>'
    return drawn


def _with_room(marks: Iterable[tuple[float, str]], room: float) -> list[tuple[float, str]]:
    """Those that stand apart from all that come before them in the list."""
    shown: list[tuple[float, str]] = []
    for x, label in marks:
        place = bisect_left(shown, (x, label))
        if all(abs(x - other) >= room for other, _ in shown[max(place - 1, 0) : place + 1]):
            shown.insert(place, (x, label))
    return shown


def _mark(x: float, label: str, high: int, room: float) -> str:
    anchor = "start" if x < room / 2 else "end" if x > 100 - room / 2 else "middle"
    return _line(_percent(x), _TOP - 4, _percent(x), high, "grid") + _label(_percent(x), high + 18, label, anchor)


def _bar(line: _Line, kind: str, row: int, begin: float, end: float, title: str) -> str:
    x = line.x(begin)
    return _rect(kind, x, max(line.x(end) - x, 0.0), _TOP + row * _ROW, _BAR, title)


def _request(line: _Line, answer: Answer) -> str:
    took = answer.took
    end = took.began + took.seconds
    first = end if took.first is None else min(took.began + took.first, end)
    name = f"answer {answer.number}"
    title = f"{name}: {duration(first - took.began)} until the first token, {duration(took.seconds)} in all"
    drawn = _bar(line, "waiting", 0, took.began, first, title) + _bar(line, "answering", 0, first, end, title)
    for retry in took.retries:
        begin = min(took.began + retry.at, end)
        title = f"{name}: {retry.error}, again after {duration(retry.delay)}"
        drawn += _bar(line, "retry", 0, begin, min(begin + retry.delay, end), title)
    return drawn


def _ran(line: _Line, call: Call, row: int) -> str:
    kind, outcome = ("failed", ", went wrong") if call.failed else ("tool", "")
    title = f"{call.name}: {duration(call.took.seconds)}{outcome}"
    return _bar(line, kind, row, call.took.began, call.took.began + call.took.seconds, title)


def _happenings(answers: Sequence[Answer], calls: Sequence[Call]) -> list[tuple[str, ...]]:
    rows = [(each.took.began, _answer_row(each)) for each in answers]
    rows += [(each.took.began, _call_row(each)) for each in calls]
    return [row for _, row in sorted(rows, key=lambda row: row[0])]


def _answer_row(answer: Answer) -> tuple[str, ...]:
    took = answer.took
    first = "not known" if took.first is None else duration(took.first)
    again = "; ".join(f"{retry.error}, after {duration(retry.delay)}" for retry in took.retries)
    return clock(took.began), f"answer {answer.number}", duration(took.seconds), first, again


def _call_row(call: Call) -> tuple[str, ...]:
    what = f"{call.name} (went wrong)" if call.failed else call.name
    return clock(call.took.began), what, duration(call.took.seconds), "", ""

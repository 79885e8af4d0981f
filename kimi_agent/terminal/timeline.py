"""The time line of a page: when the model was asked, what failed first, and when functions ran."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from math import floor
from operator import itemgetter
from typing import Final

from .drawing import (
    BELOW,
    TOP,
    WIDEST,
    Answer,
    Call,
    Figure,
    beside,
    block,
    clock,
    duration,
    figure,
    letters,
    percent,
    round_step,
    stroke,
    table,
    together,
)
from .prose import text

__all__ = ["busy", "time_line"]


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
        step, passing = round_step(self.length, 8), list[tuple[float, str]]()
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
    high = TOP + rows * _ROW
    bars = together(_request(line, each) for each in answers) + together(_ran(line, call, row) for call, row in placed)
    retries = sum(len(each.took.retries) for each in answers)
    legend = [("waiting", "until the first token"), ("answering", "answer")]
    legend += [("retry", f"asked again: {retries}")] if retries else []
    legend += [("tool", "function")] if calls else []
    legend += [("failed", f"went wrong: {failed}")] if (failed := sum(call.failed for call in calls)) else []
    width = min(max(320, 90 * len(line.busy), 12 * len(took)), WIDEST)
    return figure(
        "timeline",
        "Time line",
        legend,
        _names(high, bool(calls)),
        _background(line, high, width) + bars,
        (width, high + BELOW),
        table(("Began (UTC)", "What", "Took", "First token after", "Asked again"), _happenings(answers, calls)),
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
    return beside(
        high, [(TOP + row * _ROW + _BAR / 2, name) for row, name in enumerate(("Model", "Calls")[: 1 + with_calls])]
    )


def _background(line: _Line, high: int, width: int) -> str:
    """Marks of the clock and the pauses."""
    room = 68 / width * 100
    drawn = together(_mark(x, label, high, room) for x, label in _with_room(line.marks(), room))
    for x, left_out in line.pauses():
        title = f"<title>nothing for {text(duration(left_out))}</title>"
        drawn += f'<line class="pause" x1="{percent(x)}" y1="0" x2="{percent(x)}" y2="{high}">{title}</line>'
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
    return stroke(percent(x), TOP - 4, percent(x), high, "grid") + letters(percent(x), high + 18, label, anchor)


def _bar(line: _Line, kind: str, row: int, begin: float, end: float, title: str) -> str:
    x = line.x(begin)
    return block(kind, x, max(line.x(end) - x, 0.0), TOP + row * _ROW, _BAR, title)


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


_DAY: Final = "%Y-%m-%d %H:%M:%S"


def _happenings(answers: Sequence[Answer], calls: Sequence[Call]) -> list[tuple[str, ...]]:
    rows = [(each.took.began, _answer_row(each)) for each in answers]
    rows += [(each.took.began, _call_row(each)) for each in calls]
    return [row for _, row in sorted(rows, key=lambda row: row[0])]


def _answer_row(answer: Answer) -> tuple[str, ...]:
    took = answer.took
    first = "not known" if took.first is None else duration(took.first)
    again = "; ".join(f"{retry.error}, after {duration(retry.delay)}" for retry in took.retries)
    return clock(took.began, _DAY), f"answer {answer.number}", duration(took.seconds), first, again


def _call_row(call: Call) -> tuple[str, ...]:
    what = f"{call.name} (went wrong)" if call.failed else call.name
    return clock(call.took.began, _DAY), what, duration(call.took.seconds), "", ""

"""The time line of a page: when the model was asked, what failed first, and when functions ran."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from heapq import heappop, heappush
from itertools import pairwise
from math import floor
from operator import itemgetter
from typing import Final, Generic, NamedTuple, TypeVar

from ...measured import MeasuredCall
from .drawing import (
    BELOW,
    TOP,
    WIDEST,
    Answer,
    Call,
    Days,
    Figure,
    beside,
    block,
    clock,
    date,
    duration,
    figure,
    letters,
    percent,
    round_step,
    short,
    stroke,
    table,
    together,
)
from .prose import text

__all__ = ["busy", "time_line"]


class _Mark(NamedTuple):
    """Words for a moment; `x` in percent."""

    moment: float
    x: float
    words: str


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

    @property
    def has_days(self) -> bool:
        """Whether it goes on over several days."""
        return date(self.busy[0][0]) != date(self.busy[-1][1])

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

    def marks(self, most: int) -> list[_Mark]:
        """Where it may be marked, and how, what matters most first: busy times by the clock, what passes in them.

        Args:
            most: how many of the latter have room, about.
        """
        step, passing = _time_step(self.length, most), list[tuple[float, float, str]]()
        for (begin, end), start in zip(self.busy, self.starts, strict=True):
            inner = [step * number for number in range(1, floor((end - begin) / step) + 1)]
            passing += [(begin + passed, start + passed, f"+{duration(passed)}") for passed in inner]
        begins = zip(self.busy, self.starts, strict=True)
        marks = [*((begin, start, clock(begin)) for (begin, _), start in begins), *passing]
        return [_Mark(moment, at / self.length * 100, words) for moment, at, words in marks]

    def pauses(self) -> list[_Mark]:
        """Where time is left out, and how much, the longest first."""
        ends = zip(pairwise(self.busy), self.starts[1:], strict=True)
        pauses = [(after[0] - before[1], before[1], start - self.gap / 2) for (before, after), start in ends]
        longest = sorted(pauses, reverse=True)
        return [_Mark(moment, at / self.length * 100, duration(seconds)) for seconds, moment, at in longest]


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


_STEPS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200)
_A_DAY: Final = 86_400


def _time_step(length: float, marks: int) -> float:
    """A distance of marks that is round on a clock, of which at most about so many fit."""
    rough = length / marks
    if rough <= _STEPS[0]:
        return round_step(length, marks)
    step = next((step for step in _STEPS if step >= rough * 0.999), None)
    return step or _A_DAY * max(round_step(length / _A_DAY, marks), 1)


# ==== the picture ====

_ROW: Final = 26
_BAR: Final = 16
_TOP: Final = TOP + 14
"""The lengths of pauses stand above the rows."""
_MOST_ROWS: Final = 16
_LEAST: Final = 5
"""Pixels of a bar where the picture is at its smallest."""
_SLACK: Final = 0.05
"""Seconds by which answers may overlap: clocks are set while a computer runs, and one answer ended before the next."""


def time_line(answers: Sequence[Answer], calls: Sequence[Call]) -> Figure | None:
    """When the model was asked, what failed first, and when functions ran."""
    took = [*(each.took for each in answers), *(each.took for each in calls)]
    if not took:
        return None
    line = _Line((each.began, each.began + each.seconds) for each in took)
    width = min(max(320, 90 * len(line.busy), 12 * len(took)), WIDEST)
    model = _Lane("Model", answers, 0, _SLACK)
    functions = _Lane("Calls", calls, model.rows)
    high = _TOP + (model.rows + functions.rows) * _ROW
    bars = together(_request(line, each, row, width) for each, row in model.placed)
    bars += together(_ran(line, each, row, width) for each, row in sorted(functions.placed, key=_failed))
    retries, failed = sum(len(each.took.retries) for each in answers), sum(call.failed for call in calls)
    legend = [("waiting", "until the first token"), ("answering", "answer")]
    legend += [("retry", f"asked again: {retries}")] if retries else []
    legend += [("tool", "function")] if calls else []
    legend += [("failed", f"went wrong: {failed}")] if failed else []
    return figure(
        "timeline",
        "Time line",
        legend,
        beside(high, [*model.names, *functions.names]),
        _pauses(line, high, width) + _clock(line, high, width) + bars,
        (width, high + BELOW + _DATE * line.has_days),
        table(("Began (UTC)", "What", "Took", "First token after", "Asked again"), _happenings(answers, calls)),
        f"{len(answers)} requests, {retries} of them made again, and {len(calls)} calls of functions "
        f"in {duration(sum(end - begin for begin, end in line.busy))}.",
    )


# ---- rows ----

Item = TypeVar("Item", Answer, Call)


class _Lane(Generic[Item]):
    """Rows of the picture: what went on at the same time stands below each other.

    Args:
        name: of the first row.
        happened: what went on.
        first: the row that is free.
        slack: by how many seconds two may overlap in a row.
    """

    def __init__(self, name: str, happened: Iterable[Item], first: int, slack: float = 0.0) -> None:
        items = sorted(happened, key=lambda each: each.took.began)
        found = list(_rows([each.took for each in items], slack))
        needed = max(found, default=-1) + 1
        last = min(needed, _MOST_ROWS) - 1
        self.rows = last + 1
        self.placed = [(each, first + min(row, last)) for each, row in zip(items, found, strict=True)]
        self.names = [(_beside(first), name)] if items else []
        if needed > self.rows:
            crowd = sum(row >= last for row in found)
            self.names.append((_beside(first + last), f"+{short(crowd)} more"))


def _beside(row: int) -> float:
    return _TOP + row * _ROW + _BAR / 2


def _rows(took: Iterable[MeasuredCall], slack: float) -> Iterator[int]:
    """The first row that is free for each, sorted by their beginnings."""
    ends, free = list[tuple[float, int]](), list[int]()
    for each in took:
        while ends and ends[0][0] <= each.began + slack:
            heappush(free, heappop(ends)[1])
        row = heappop(free) if free else len(ends)
        heappush(ends, (each.began + each.seconds, row))
        yield row


def _failed(placed: tuple[Call, int]) -> bool:
    """What goes wrong is drawn last, where it cannot be hidden."""
    return placed[0].failed


# ---- marks ----

_LETTER: Final = 7.8
_APART: Final = 6
_DATE: Final = 14
"""Pixels of a letter, between labels, and of the line with dates."""
_DATE_LETTERS: Final = len("2000-12-31")
_MARK_LETTERS: Final = len("+1 min 30 s")


class _Label(NamedTuple):
    """Words with the room that they take, in percent."""

    begin: float
    end: float
    anchor: str
    mark: _Mark


def _label(mark: _Mark, width: int, letters: int = 0) -> _Label:
    room = (max(len(mark.words), letters) * _LETTER + _APART) / width * 100
    if mark.x < room / 2:
        return _Label(mark.x, mark.x + room, "start", mark)
    if mark.x > 100 - room / 2:
        return _Label(mark.x - room, mark.x, "end", mark)
    return _Label(mark.x - room / 2, mark.x + room / 2, "middle", mark)


def _with_room(labels: Iterable[_Label]) -> list[_Label]:
    """Those that touch none of those that come before them in the list."""
    shown: list[_Label] = []
    for label in labels:
        place = bisect_left(shown, label)
        if all(each.end <= label.begin or label.end <= each.begin for each in shown[max(place - 1, 0) : place + 1]):
            shown.insert(place, label)
    return shown


def _clock(line: _Line, high: int, width: int) -> str:
    """Marks of the clock, and the day below where it is another one."""
    drawn, days, room = "", Days(), _MARK_LETTERS * _LETTER + _APART
    marks = line.marks(int(width / room))
    for label in _with_room(_label(mark, width, _DATE_LETTERS * line.has_days) for mark in marks):
        x, day = percent(label.mark.x), days.change(label.mark.moment) if line.has_days else ""
        drawn += stroke(x, _TOP - 4, x, high, "grid") + letters(x, high + 18, label.mark.words, label.anchor)
        drawn += letters(x, high + 18 + _DATE, day, label.anchor) if day else ""
    return drawn


def _pauses(line: _Line, high: int, width: int) -> str:
    """Where nothing happened, and for how long."""
    pauses = line.pauses()
    drawn = together(_pause(percent(pause.x), high, pause.words) for pause in pauses)
    labels = _with_room(_label(pause, width) for pause in pauses)
    return drawn + together(letters(percent(each.mark.x), 12, each.mark.words, each.anchor) for each in labels)


def _pause(x: str, high: int, words: str) -> str:
    title = f"<title>nothing for {text(words)}</title>"
    return f'<line class="pause" x1="{x}" y1="{_TOP - 8}" x2="{x}" y2="{high}">{title}</line>'


# ---- bars ----


def _span(line: _Line, took: MeasuredCall, width: int) -> tuple[float, float]:
    """Where a bar begins and how wide it is, in percent: wide enough to be seen."""
    x = line.x(took.began)
    wide = max(line.x(took.began + took.seconds) - x, _LEAST / width * 100)
    return min(x, 100 - wide), wide


def _request(line: _Line, answer: Answer, row: int, width: int) -> str:
    took, name = answer.took, f"answer {answer.number}"
    x, wide = _span(line, took, width)
    whole = took.seconds or 1.0

    def bar(kind: str, begin: float, end: float, title: str) -> str:
        begin, end = min(begin / whole, 1.0) * wide, min(end / whole, 1.0) * wide
        return block(kind, x + begin, end - begin, _TOP + row * _ROW, _BAR, title)

    first = min(took.first or 0.0, took.seconds)
    told = "" if took.first is None else f"{duration(first)} until the first token, "
    title = f"{name}: {told}{duration(took.seconds)} in all"
    drawn = bar("waiting", 0.0, first, title) if first else ""
    drawn += bar("answering", first, whole, title) if first < whole else ""
    for retry in took.retries:
        title = f"{name}: {retry.error}, again after {duration(retry.delay)}"
        drawn += bar("retry", retry.at, retry.at + retry.delay, title)
    return drawn


def _ran(line: _Line, call: Call, row: int, width: int) -> str:
    kind, outcome = ("failed", ", went wrong") if call.failed else ("tool", "")
    title = f"{call.name}: {duration(call.took.seconds)}{outcome}"
    return block(kind, *_span(line, call.took, width), _TOP + row * _ROW, _BAR, title)


# ---- the table ----

_DAY: Final = "%Y-%m-%d %H:%M:%S"


def _happenings(answers: Sequence[Answer], calls: Sequence[Call]) -> list[tuple[str, ...]]:
    """In the order of the clock; within one millisecond, in that of the conversation."""
    rows = [((each.took.began, each.number, False), _answer_row(each)) for each in answers]
    rows += [((each.took.began, each.answer, True), _call_row(each)) for each in calls]
    return [row for _, row in sorted(rows, key=lambda row: row[0])]


def _answer_row(answer: Answer) -> tuple[str, ...]:
    took = answer.took
    first = "not known" if took.first is None else duration(took.first)
    again = "; ".join(f"{retry.error}, after {duration(retry.delay)}" for retry in took.retries)
    return clock(took.began, _DAY), f"answer {answer.number}", duration(took.seconds), first, again


def _call_row(call: Call) -> tuple[str, ...]:
    what = f"{call.name} (went wrong)" if call.failed else call.name
    return clock(call.took.began, _DAY), what, duration(call.took.seconds), "", ""

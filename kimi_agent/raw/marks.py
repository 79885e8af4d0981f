"""Marks: which of them count in which mode, and where they lead. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, TypeAlias

__all__ = ["DATA", "HELD", "PENDING", "SAID", "SPACES", "WHOLE", "Machine", "Mode", "Scanner", "beginning", "scanners"]


class Mode(Enum):
    """What the text is that a parser reads."""

    START = auto()
    REASONING = auto()
    TEXT = auto()
    GAP = auto()
    SECTION = auto()
    END = auto()
    UNSURE = auto()
    HEADER = auto()
    CALL = auto()
    STRING = auto()
    ARGUMENT = auto()
    PLAIN = auto()


Machine: TypeAlias = Mapping[Mode, Mapping[str, Mode]]
"""By mode, the marks that count in it, and where each of them leads. No mark of a mode begins with another one."""

SAID: Final = (Mode.REASONING, Mode.TEXT)
PENDING: Final = (Mode.SECTION, Mode.END)
SPACES: Final = (Mode.START, Mode.GAP, *PENDING)
WHOLE: Final = (Mode.CALL, Mode.PLAIN)
DATA: Final = (Mode.STRING, Mode.ARGUMENT)
HELD: Final = (Mode.HEADER, *WHOLE, *DATA)


class Scanner:
    """Finds the marks of one mode."""

    def __init__(self, marks: Mapping[str, Mode]) -> None:
        self.marks = marks
        self.find = re.compile("|".join(map(re.escape, marks)) or "(?!)").search
        self._beginnings = frozenset(mark[:size] for mark in marks for size in range(1, len(mark)))
        self.longest = max(map(len, marks), default=1)

    def kept(self, text: str, start: int) -> int:
        """How many characters at the end of the text may be the beginning of a mark."""
        for size in range(min(self.longest - 1, len(text) - start), 0, -1):
            if text[-size:] in self._beginnings:
                return size
        return 0


def scanners(machine: Machine, *, quotes: bool) -> tuple[Mapping[Mode, Scanner], Mapping[Mode, Scanner]]:
    """What finds the marks of each mode, and what does while it is unsure whether the text is reasoning.

    Args:
        machine: the table.
        quotes: whether calls have JSON strings.
    """
    sure = _with_strings(machine) if quotes else machine
    ends = machine.get(Mode.UNSURE, {})
    unsure = {
        mode: {**sure.get(mode, {}), **(dict.fromkeys(ends, mode) if mode in DATA else ends)}
        for mode in Mode
        if mode is not Mode.START
    }
    return _scanners(sure), _scanners(unsure)


def _scanners(machine: Machine) -> Mapping[Mode, Scanner]:
    return {mode: Scanner(machine.get(mode, {})) for mode in Mode}


def _with_strings(machine: Machine) -> Machine:
    """The machine, in whose calls strings are seen."""
    call = machine.get(Mode.CALL, {})
    closing = dict.fromkeys(call, Mode.STRING)
    string = {'"': Mode.CALL, '\\"': Mode.STRING, "\\\\": Mode.STRING, **closing}
    return {
        **machine,
        Mode.CALL: {'"': Mode.STRING, **call},
        Mode.STRING: string,
        Mode.PLAIN: {**call, **machine.get(Mode.PLAIN, {})},
    }


def beginning(word: str) -> str:
    """A pattern of the word as far as it may have come."""
    return "".join(f"(?:{re.escape(character)}" for character in word) + ")?" * len(word)

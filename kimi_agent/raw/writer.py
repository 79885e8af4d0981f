"""What a parser says, as frames. No I/O."""

from __future__ import annotations

from typing import TypeAlias

from ..events import Append, Reasoning, StreamFrame

__all__ = ["Writer"]


Kept: TypeAlias = tuple[list[str], bool, str | None]
"""What a writer knows of what it has said."""


class Writer:
    """Frames of reasoning and text. Spaces at the end of what is said wait: before a mark they are the mark's.

    Between text before a mark and text behind it those spaces are said after all.

    Args:
        trims: whether spaces beside a mark belong to it.
    """

    def __init__(self, trims: bool) -> None:
        self.frames: list[StreamFrame] = []
        self.blank: list[str] = []
        """Spaces that belong to a mark, if one comes next."""
        self._trims = trims
        self._fresh = self._reasoned = self._answered = False
        self._gap: str | None = None
        """Spaces beside a mark that stands behind text, if there is one."""

    def say(self, text: str, *, reasoning: bool) -> None:
        """Reasoning or text."""
        if not self._trims:
            self._emit(text, reasoning)
            return
        if self._fresh:
            behind = text.lstrip()
            self._widen(text[: len(text) - len(behind)], reasoning)
            text = behind
            if not text:
                return
            self._fresh = False
        kept = text.rstrip()
        if kept:
            self._emit(self._parted(reasoning) + "".join(self.blank) + kept, reasoning)
            self.blank = []
        if len(kept) < len(text):
            self.blank.append(text[len(kept) :])

    def begin(self) -> None:
        """A mark stands here: spaces behind it are its own."""
        self._fresh = self._trims

    def part(self, *, reasoning: bool) -> None:
        """A mark ends what was said. Reasoning about nothing is told, too."""
        if self._answered and not reasoning:
            self._gap = self._gap or ""
            self._widen("".join(self.blank), reasoning)
        self.blank = []
        self.begin()
        if reasoning and not self._reasoned:
            self._reasoned = True
            self.frames.append(Reasoning(""))

    def go_on(self) -> None:
        """What looked like a mark was none."""
        self._fresh = False

    def end(self, *, reasoning: bool) -> None:
        """No mark comes any more: spaces were said."""
        self._emit("".join(self.blank), reasoning)

    def attempt(self) -> Kept:
        """What comes may be taken back: what to go on with then."""
        kept, self.blank = (self.blank, self._answered, self._gap), []
        return kept

    def take_back(self, frames: int, kept: Kept) -> None:
        """All frames but so many were none."""
        del self.frames[frames:]
        self.blank, self._answered, self._gap = kept

    def _widen(self, spaces: str, reasoning: bool) -> None:
        if self._gap is not None and not reasoning:
            self._gap += spaces

    def _parted(self, reasoning: bool) -> str:
        """What stands between this text and the one before the last mark."""
        if reasoning or self._gap is None:
            return ""
        gap, self._gap = self._gap, None
        return gap

    def _emit(self, text: str, reasoning: bool) -> None:
        if not text:
            return
        self._reasoned, self._answered = self._reasoned or reasoning, self._answered or not reasoning
        self.frames.append(Reasoning(text) if reasoning else Append(text))

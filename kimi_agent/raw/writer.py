"""What a parser says, as frames. No I/O."""

from __future__ import annotations

from ..events import Append, Reasoning, StreamFrame

__all__ = ["Writer"]


class Writer:
    """Frames of reasoning and text. Spaces at the end of what is said wait: before a mark they are the mark's.

    Args:
        trims: whether spaces beside a mark belong to it.
    """

    def __init__(self, trims: bool) -> None:
        self.frames: list[StreamFrame] = []
        self.blank: list[str] = []
        """Spaces that belong to a mark, if one comes next."""
        self._trims = trims
        self._fresh = self._reasoned = False

    def say(self, text: str, *, reasoning: bool) -> None:
        """Reasoning or text."""
        if not self._trims:
            self._emit(text, reasoning)
            return
        if self._fresh:
            text = text.lstrip()
            if not text:
                return
            self._fresh = False
        kept = text.rstrip()
        if kept:
            self._emit("".join(self.blank) + kept, reasoning)
            self.blank = []
        if len(kept) < len(text):
            self.blank.append(text[len(kept) :])

    def begin(self) -> None:
        """A mark stands here: spaces behind it are its own."""
        self._fresh = self._trims

    def part(self, *, reasoning: bool) -> None:
        """A mark ends what was said. Reasoning about nothing is told, too."""
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

    def _emit(self, text: str, reasoning: bool) -> None:
        if not text:
            return
        self._reasoned = self._reasoned or reasoning
        self.frames.append(Reasoning(text) if reasoning else Append(text))

"""The tokens of the next prompt, from what the server counted last and what was added since.

As long as the beginning of the prompt is the same, nothing old has to be counted again, exactly or not:

    next prompt = last prompt + last answer + new messages + header of the next answer

where what stands beside the messages is taken as the difference of the two requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..history import is_begun
from ..message import Message, TokenUsage
from .counting import TokenCounter, cost

__all__ = ["Anchor", "RunningCount"]

HEADER = 7
"""Tokens that begin an answer. The server counts them with the prompt, and not with the answer."""

_UNSAID = 10
"""Tokens of the marks that end an answer, which one that was cut off lacks, and gets in the next prompt."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """What the server has counted.

    Args:
        tokens: of the prompt and its answer.
        overhead: of the prompt beside its messages, as counted here.
        length: messages of the prompt, with the answer.
    """

    tokens: int
    overhead: int
    length: int


class RunningCount:
    """Knows what the server counted last, and in which messages."""

    def __init__(self) -> None:
        self.anchor: Anchor | None = None
        self._first: Message | None = None
        self.last: Message | None = None
        """The answer that was counted."""

    def holds(self, prompt: Sequence[Message]) -> bool:
        """Whether a prompt begins with the messages that were counted."""
        anchor = self.anchor
        if anchor is None or not anchor.length <= len(prompt):
            return False
        return prompt[0] is self._first and prompt[anchor.length - 1] is self.last

    def of(self, counter: TokenCounter, prompt: Sequence[Message], overhead: int, scale: float) -> int:
        """Tokens of a prompt, as the server will count them.

        Args:
            counter: counts what is new, or everything.
            prompt: its messages.
            overhead: of the prompt beside its messages, as `counter` has it.
            scale: how many tokens a counted one really is.
        """
        if (anchor := self.anchor) is None or not self.holds(prompt):
            return round((overhead + cost(counter, prompt)) * scale)
        new = cost(counter, prompt[anchor.length :]) + overhead - anchor.overhead
        return anchor.tokens + HEADER + round(new * scale)

    def put(
        self, prompt: Sequence[Message], overhead: int, usage: TokenUsage, answer: Message, *, cut_off: bool = False
    ) -> None:
        """Remember what the server counted.

        Args:
            prompt: that was sent.
            overhead: of it, beside its messages, as counted here.
            usage: of the request.
            answer: as it stands in the history.
            cut_off: whether it ended before the model was done.
        """
        if not prompt or is_begun(prompt[-1]):  # which the answer has become one with
            self.anchor = None
            return
        tokens = usage.input + usage.output + (_UNSAID if cut_off else 0)
        self.put_back(Anchor(tokens, overhead, len(prompt) + 1), prompt[0], answer)

    def put_back(self, anchor: Anchor, first: Message, last: Message) -> None:
        """Go on with what was remembered elsewhere."""
        self.anchor, self._first, self.last = anchor, first, last

"""The tokens of the next prompt, from what the server counted last and what was added since.

As long as the beginning of the prompt is the same, nothing old has to be counted again, exactly or not:

    next prompt = last prompt + last answer + new messages + header of the next answer

where what stands beside the messages is taken as the difference of the two requests.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from ..history import is_begun
from ..message import Message, TokenUsage
from .counting import TokenCounter, cost

__all__ = ["Anchor", "RunningCount"]

_UNSAID = 10
"""Tokens of the marks that end an answer, which one that was cut off lacks, and gets in the next prompt."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """What the server has counted.

    Args:
        tokens: of the prompt and its answer.
        overhead: of the prompt beside its messages, as counted here.
        by: the `cost_key` of the counter that counted these.
    """

    tokens: int
    overhead: int
    by: str


class RunningCount:
    """Knows what the server counted last, and in which messages."""

    def __init__(self) -> None:
        self.anchor: Anchor | None = None
        self._counted: tuple[Message, ...] = ()

    @property
    def last(self) -> Message | None:
        """The answer that was counted."""
        return self._counted[-1] if self._counted else None

    def holds(self, counter: TokenCounter, prompt: Sequence[Message]) -> bool:
        """Whether a prompt begins with the messages that were counted, and goes on as they ended."""
        counted = self._counted
        if self.anchor is None or self.anchor.by != counter.cost_key or not counter.grows or len(counted) > len(prompt):
            return False
        return all(map(operator.is_, counted, prompt))

    def of(self, counter: TokenCounter, prompt: Sequence[Message], overhead: int, scale: float) -> int:
        """Tokens of a prompt, as the server will count them.

        Args:
            counter: counts what is new, or everything.
            prompt: its messages.
            overhead: of the prompt beside its messages, as `counter` has it.
            scale: how many tokens a counted one really is.
        """
        if (anchor := self.anchor) is None or not self.holds(counter, prompt):
            return round((overhead + cost(counter, prompt)) * scale)
        new = cost(counter, prompt[len(self._counted) :]) + overhead - anchor.overhead
        return anchor.tokens + counter.header + round(new * scale)

    def put(
        self,
        counter: TokenCounter,
        prompt: Sequence[Message],
        overhead: int,
        usage: TokenUsage,
        answer: Message,
        *,
        cut_off: bool = False,
    ) -> None:
        """Remember what the server counted.

        Args:
            counter: that counted what is beside the messages.
            prompt: that was sent.
            overhead: of it, beside its messages, as counted here.
            usage: of the request.
            answer: as it stands in the history.
            cut_off: whether it ended before the model was done.
        """
        is_one = not prompt or is_begun(prompt[-1])  # the answer has become one with its beginning
        if is_one or usage.input <= 0:
            self.anchor = None
            return
        tokens = usage.input + usage.output + (_UNSAID if cut_off else 0)
        self.put_back(Anchor(tokens, overhead, counter.cost_key), (*prompt, answer))

    def put_back(self, anchor: Anchor, counted: Sequence[Message]) -> None:
        """Go on with what was remembered elsewhere.

        Args:
            anchor: what was counted.
            counted: the messages of the prompt and its answer.
        """
        self.anchor, self._counted = anchor, tuple(counted)

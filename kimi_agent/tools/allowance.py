"""How long the model may go on calling functions within one round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..message import Message, ToolCall

__all__ = ["Allowance", "CallOutcome"]


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What became of one call.

    Args:
        call: what the model asked for.
        message: the result.
        is_model_turn: whether the model speaks next.
        failed: whether the call went wrong.
        should_retry: whether the model may try again.
        duration: how many seconds it ran; `None` when it was not run.
    """

    call: ToolCall
    message: Message
    is_model_turn: bool = True
    failed: bool = False
    should_retry: bool = False
    duration: float | None = None

    @classmethod
    def not_run(cls, call: ToolCall, text: str, *, failed: bool = False, should_retry: bool = False) -> CallOutcome:
        """A call that is answered with `text` and not run."""
        message = Message.tool(text, call.id, name=call.name, is_tool_call_error=True)
        return cls(call, message, False, failed, should_retry)


class Allowance:
    """Counts the function rounds and the failures in a row.

    A function round is one message with calls, however many. It failed when one of its calls did. When no failed call
    of a round may be tried again, or the rounds are used up, `calls` is false and stays so: the model has to answer.

    Args:
        max_function_rounds: how many function rounds there may be; `None` is no limit.

    Raises:
        ValueError: it is negative.
    """

    def __init__(self, max_function_rounds: int | None) -> None:
        if max_function_rounds is not None and max_function_rounds < 0:
            raise ValueError(f"max_function_rounds is 0 or more, or None for no limit; not {max_function_rounds}")
        self.calls = max_function_rounds != 0
        """Whether the model may call functions."""
        self.failures = 0
        """How many function rounds failed in a row."""
        self._left = max_function_rounds

    def goes_on(self, outcomes: Sequence[CallOutcome]) -> bool:
        """Count a function round; whether the model speaks next."""
        if not self.calls:  # what was called all the same was not run
            return False
        failed = [outcome for outcome in outcomes if outcome.failed]
        self.failures = self.failures + 1 if failed else 0
        if self._left is not None:
            self._left -= 1
        if self._left == 0 or (failed and not any(outcome.should_retry for outcome in failed)):
            self.calls = False
        return bool(failed) or any(outcome.is_model_turn for outcome in outcomes)

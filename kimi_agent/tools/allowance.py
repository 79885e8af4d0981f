"""How long the model may go on calling functions within one round."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import ToolArgumentsError
from ..kinds import NUMBER, Kinds, check_kinds
from ..message import Message, ToolCall, parse_any_arguments

__all__ = ["Allowance", "CallOutcome", "LoopGuard"]


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
        fatal: what ends the round.
        waits: whether it waits for an approval; the result says so.
        error_type: the name of the class of what was raised.
    """

    call: ToolCall
    message: Message
    is_model_turn: bool = True
    failed: bool = False
    should_retry: bool = False
    duration: float | None = None
    fatal: BaseException | None = None
    waits: bool = False
    error_type: str | None = None

    @classmethod
    def not_run(
        cls,
        call: ToolCall,
        text: str,
        *,
        is_model_turn: bool = False,
        failed: bool = False,
        should_retry: bool = False,
    ) -> CallOutcome:
        """A call that is answered with `text` and not run."""
        message = Message.tool(text, call.id, name=call.name, is_tool_call_error=True)
        return cls(call, message, is_model_turn, failed, should_retry)


_TIMES: Final[Kinds] = dict.fromkeys(("remind", "stop"), (NUMBER | None, "a number, or None for never"))
_ROUNDS: Final[Kinds] = {"max_function_rounds": (NUMBER | None, "a number, or None for no limit")}


@dataclass(frozen=True, slots=True)
class LoopGuard:
    """What becomes of a model that makes the same call with the same arguments again and again in one round.

    Calls of one message count as one.

    Args:
        remind: from how many on its results have a reminder; `None` for never.
        stop: with how many the call is not run, and the model has to answer without calls; `None` for never.

    Raises:
        TypeError: what should be a number is none.
        ValueError: a number is less than 2.
    """

    remind: int | None = 3
    stop: int | None = 6

    def __post_init__(self) -> None:
        check_kinds(_TIMES, {"remind": self.remind, "stop": self.stop})
        for name, times in (("remind", self.remind), ("stop", self.stop)):
            if times is not None and times < 2:
                raise ValueError(f"{name} is 2 or more, or None for never; not {times}")

    def reminds(self, times: int) -> bool:
        """Whether the result of a call that is made so often has a reminder."""
        return self.remind is not None and times >= self.remind

    def stops(self, times: int) -> bool:
        """Whether a call that is made so often is one too many."""
        return self.stop is not None and times >= self.stop


class Allowance:
    """Counts the function rounds, the failures in a row, and the calls that are always the same.

    A function round is one message with calls, however many. It failed when one of its calls did. When no failed call
    of a round may be tried again, or the rounds are used up, `calls` is false and stays so: the model has to answer.

    Args:
        max_function_rounds: how many function rounds there may be; `None` is no limit.
        guard: against calls that are always the same.

    Raises:
        TypeError: `max_function_rounds` is no number.
        ValueError: `max_function_rounds` is negative.
    """

    def __init__(self, max_function_rounds: int | None, guard: LoopGuard) -> None:
        check_kinds(_ROUNDS, {"max_function_rounds": max_function_rounds})
        if max_function_rounds is not None and max_function_rounds < 0:
            raise ValueError(f"max_function_rounds is 0 or more, or None for no limit; not {max_function_rounds}")
        self.calls = max_function_rounds != 0
        """Whether the model may call functions."""
        self.failures = 0
        """How many function rounds failed in a row."""
        self.guard = guard
        self._left = max_function_rounds
        self._calls = _Repetitions()

    def begins(self, calls: Iterable[ToolCall]) -> None:
        """A function round begins: count which calls were there before."""
        self._calls.add(calls)

    def times(self, call: ToolCall) -> int:
        """In how many function rounds a call was made with these arguments."""
        return self._calls.times(call)

    def goes_on(self, outcomes: Sequence[CallOutcome]) -> bool:
        """Count a function round; whether the model speaks next."""
        if not self.calls:  # what was called all the same was not run
            return False
        failed = [outcome for outcome in outcomes if outcome.failed]
        self.failures = self.failures + 1 if failed else 0
        if self._left is not None:
            self._left -= 1
        no_retry = bool(failed) and not any(outcome.should_retry for outcome in failed)
        if self._left == 0 or no_retry or any(self.guard.stops(self.times(outcome.call)) for outcome in outcomes):
            self.calls = False
        return bool(failed) or any(outcome.is_model_turn for outcome in outcomes)


class _Repetitions:
    """In how many messages each call was made. Arguments are compared when a function is called in a second message."""

    def __init__(self) -> None:
        self._once: dict[str, set[str]] = {}
        """The arguments of functions that were called in one message only, as they were written."""
        self._more: dict[str, Counter[str]] = {}
        self._known: dict[str, str] = {}

    def add(self, calls: Iterable[ToolCall]) -> None:
        """One more message with calls."""
        by_name: dict[str, set[str]] = {}
        for call in calls:
            by_name.setdefault(call.name, set()).add(call.arguments)
        for name, written in by_name.items():
            if name not in self._more and name not in self._once:
                self._once[name] = written
                continue
            if (before := self._once.pop(name, None)) is not None:
                self._more[name] = Counter(set(map(self._meant, before)))
            self._more[name].update(set(map(self._meant, written)))

    def times(self, call: ToolCall) -> int:
        """In how many messages."""
        return self._more[call.name][self._meant(call.arguments)] if call.name in self._more else 1

    def _meant(self, arguments: str) -> str:
        """The same for all ways to write the same arguments."""
        if arguments not in self._known:
            self._known[arguments] = _canonical(arguments)
        return self._known[arguments]


def _canonical(arguments: str) -> str:
    try:
        return json.dumps(parse_any_arguments(arguments), sort_keys=True)
    except (ToolArgumentsError, RecursionError):
        return arguments

"""What a conversation has used, what that costs, and how far it may go.

Limits are checked before anything is spent. What cannot be known before is the length of an answer: it is checked when
the answer is there, which stays where it is, and the error has it.

What is not known is `None` and never 0. A limit on a cost that is not known cannot be kept, so it refuses.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from pydantic import Field

from .errors import UsageLimitExceeded
from .kimi.models import ModelInfo, Prices, model_info
from .kinds import NUMBER, Kinds, check_kinds
from .message import Message, TokenUsage, is_zero
from .provider import ChatProvider

__all__ = ["NO_LIMITS", "Spent", "UsageLimits", "as_spent", "cost_of", "nothing_spent", "prices_of"]


# ==== cost ====

_MILLION: Final = 1_000_000


def cost_of(usage: TokenUsage, prices: Prices | None) -> float | None:
    """What the tokens cost, in USD, tax excluded; `None` when the prices are not known.

    Args:
        usage: of one or more requests to the same model.
        prices: of that model, as in `model_info(name).prices`.
    """
    if prices is None:
        return None
    written = prices.input if prices.cache_write is None else prices.cache_write
    return (
        usage.input_other * prices.input
        + usage.input_cache_read * prices.cached_input
        + usage.input_cache_creation * written
        + usage.output * prices.output
    ) / _MILLION


def prices_of(provider: ChatProvider) -> Prices | None:
    """The prices of a provider's model; `None` when they are not known."""
    info = getattr(provider, "model_info", None)
    known = info if isinstance(info, ModelInfo) else model_info(provider.model_name)
    return known.prices


# ==== what was spent ====


def _cost_at_first(known: Mapping[str, Any]) -> float | None:
    """Nothing costs nothing; what something cost that nobody counted is not known."""
    counted = ("input_other", "output", "input_cache_read", "input_cache_creation", "requests")
    return None if any(known.get(name) for name in counted) else 0.0


def _is_unknown(cost: float | None) -> bool:
    return cost is None


class Spent(TokenUsage):
    """What a conversation has used so far: the tokens of all its requests, and more.

    Args:
        requests: how many were answered.
        tool_calls: how many were run.
        cost: in USD; `None` as soon as a request was answered whose cost is not known.
        priced: in USD; while `cost` is `None`, what is known of it.
        stopped: how many were stopped under way. What they cost is in no other number.
    """

    input_other: int = 0
    output: int = 0
    requests: int = Field(default=0, exclude_if=is_zero)
    tool_calls: int = Field(default=0, exclude_if=is_zero)
    cost: float | None = Field(default_factory=_cost_at_first, exclude_if=_is_unknown)
    priced: float = Field(default=0.0, exclude_if=is_zero)
    stopped: int = Field(default=0, exclude_if=is_zero)

    @property
    def cached(self) -> int:
        """Prompt tokens that came out of the cache."""
        return self.input_cache_read

    @property
    def known_cost(self) -> float:
        """What it has cost at least, in USD."""
        return self.priced if self.cost is None else self.cost

    @property
    def is_known(self) -> bool:
        """Whether that is all that it has cost."""
        return self.cost is not None and not self.stopped

    def __add__(self, other: TokenUsage) -> Self:
        """Both together. What plain tokens cost is not known."""
        more = as_spent(other)
        cost = None if self.cost is None or more.cost is None else self.cost + more.cost
        return self.copy_with(
            input_other=self.input_other + more.input_other,
            output=self.output + more.output,
            input_cache_read=self.input_cache_read + more.input_cache_read,
            input_cache_creation=self.input_cache_creation + more.input_cache_creation,
            reasoning=self.reasoning + more.reasoning,
            requests=self.requests + more.requests,
            tool_calls=self.tool_calls + more.tool_calls,
            cost=cost,
            priced=self.known_cost + more.known_cost if cost is None else 0.0,
            stopped=self.stopped + more.stopped,
        )

    def with_answer(self, usage: TokenUsage | None, prices: Prices | None) -> Self:
        """The same after one more request was answered.

        Args:
            usage: what the provider says of the request; `None` when it says nothing.
            prices: of the model.
        """
        if usage is None:
            return self + Spent(requests=1, cost=None)
        return self + as_spent(usage).copy_with(requests=1, cost=cost_of(usage, prices))

    def with_calls(self, number: int) -> Self:
        """The same after so many more calls."""
        return self.copy_with(tool_calls=self.tool_calls + number)

    def with_stopped(self) -> Self:
        """The same after one more request was stopped under way."""
        return self.copy_with(stopped=self.stopped + 1)


@functools.cache
def nothing_spent() -> Spent:
    """What every conversation begins with."""
    return Spent()


def as_spent(usage: TokenUsage) -> Spent:
    """What is known of plain tokens as what was spent."""
    if isinstance(usage, Spent):
        return usage
    return Spent(
        input_other=usage.input_other,
        output=usage.output,
        input_cache_read=usage.input_cache_read,
        input_cache_creation=usage.input_cache_creation,
        reasoning=usage.reasoning,
    )


# ==== limits ====

_LIMITS: Final[Kinds] = dict.fromkeys(
    ("requests", "tool_calls", "input_tokens", "output_tokens", "cost"),
    (NUMBER | None, "a number, or None for no limit"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLimits:
    """How far a conversation may go; `None` is no limit.

    Args:
        requests: how many may be made.
        tool_calls: how many may be run.
        input_tokens: of all prompts together, cached or not.
        output_tokens: of all answers together, reasoning included.
        cost: of everything, in USD.

    Raises:
        TypeError: a limit is no number.
        ValueError: a limit is negative.
    """

    requests: int | None = None
    tool_calls: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        check_kinds(_LIMITS, {name: getattr(self, name) for name in _LIMITS})
        for name in _LIMITS:
            if (limit := getattr(self, name)) is not None and not limit >= 0:
                raise ValueError(f"the limit {name} is {limit}; it is 0 or more, or None for no limit")

    def before_request(
        self, spent: Spent, expected_input_tokens: int = 0, *, cached: int = 0, prices: Prices | None = None
    ) -> None:
        """Make sure that one more request is within the limits, with an answer of at least one token.

        Args:
            spent: what was used so far.
            expected_input_tokens: of the prompt.
            cached: how many of those are likely to come out of the cache.
            prices: of the model. With a limit on the cost they must be known.

        Raises:
            UsageLimitExceeded: it is not. Nothing has been spent.
        """
        prompt = max(expected_input_tokens, 1)
        self._refuse_more("requests", spent.requests, 1)
        self._refuse_more("input_tokens", spent.input, prompt)
        self._refuse_more("output_tokens", spent.output, 1)
        least = TokenUsage(input_other=max(prompt - cached, 0), input_cache_read=min(cached, prompt), output=1)
        self._refuse_cost(spent, cost_of(least, prices))

    def before_calls(self, spent: Spent, number: int = 1, message: Message | None = None) -> None:
        """Make sure that so many more calls are within the limits.

        Args:
            spent: what was used so far.
            number: of calls.
            message: that calls; the error has it.

        Raises:
            UsageLimitExceeded: they are not. None of them has been run.
        """
        self._refuse_more("tool_calls", spent.tool_calls, number, message)

    def after_answer(self, spent: Spent, message: Message) -> None:
        """Make sure that an answer stayed within the limits.

        Args:
            spent: what was used, with the answer.
            message: the answer. It is finished and remains so, whatever it cost.

        Raises:
            UsageLimitExceeded: it did not. `message` of the error is the answer.
        """
        reached = {"input_tokens": spent.input, "output_tokens": spent.output, "cost": spent.cost}
        for name, amount in reached.items():
            limit = getattr(self, name)
            if limit is not None and amount is not None and amount > limit:
                raise UsageLimitExceeded(
                    f"the answer went beyond the limit {self._named(name)}: {_amount(name, amount)} used; it is "
                    "kept, and was the last one: raise the limit to go on",
                    message,
                )

    def _refuse_more(self, name: str, used: float, more: float, message: Message | None = None) -> None:
        limit = getattr(self, name)
        if limit is not None and used + more > limit:
            raise UsageLimitExceeded(
                f"the limit {self._named(name)} is reached: {_amount(name, used)} used, and what comes next needs "
                f"about {_amount(name, more)} more; raise the limit to go on",
                message,
            )

    def _refuse_cost(self, spent: Spent, more: float | None) -> None:
        if self.cost is None:
            return
        if spent.cost is None or more is None:
            raise UsageLimitExceeded(
                f"the limit {self._named('cost')} cannot be kept, as the cost is not known; limit `input_tokens` and "
                "`output_tokens` instead, or use a model whose prices are known"
            )
        self._refuse_more("cost", spent.cost, more)

    def _named(self, name: str) -> str:
        return f"{name}={getattr(self, name)}"


def _amount(name: str, number: float) -> str:
    return f"${number:.6g}" if name == "cost" else f"{number:,}"


NO_LIMITS: Final = UsageLimits()

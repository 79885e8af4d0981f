"""What a long conversation costs by the price list: our window against a sliding one.

A turn is one request, for which 2,000 tokens are new: two calls and their results, or after every fourth turn an answer
and a question with a text in it. Kimi serves the beginning that a prompt shares with the one before at the price of
cached tokens. The sliding window drops its oldest exchanges one by one as soon as the prompt overflows; ours makes room
for several turns at once. Nothing is timed, so that the figures are the same on every machine.
"""

from __future__ import annotations

import itertools
import operator
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from kimi_agent import Agent, Message, ToolCall, model_info
from kimi_agent.prompt.counting import ESTIMATE, cost
from kimi_agent.prompt.window import Window, assemble, fit
from kimi_agent.testing import ScriptedKimi

TURNS = 500
NEW = 2_000
"""Tokens that a turn adds, tool output included."""
CONTEXT_WINDOW = 128 * 1024
CACHED = 0.9
"""Share of our prompt tokens that is cached at least."""
PRICE = 1 / 5
"""Share of the sliding window's price that ours is at most."""

MODEL = "kimi-k3"
ROUND = 5
"""Turns from one question to the next."""
OVERHEAD = ESTIMATE.overhead([], {})
PINNED = [Message.system("You keep the books of a small shop." + " rule" * 500)]
AGENT = Agent(ScriptedKimi([], context_window=CONTEXT_WINDOW))
"""Whose defaults count."""
BUDGET = CONTEXT_WINDOW - AGENT.desired_response_tokens


# ==== the conversation ====


def turns(count: int) -> Iterator[list[Message]]:
    """What is new in each turn."""
    dice = random.Random(0)
    for number in range(count):
        yield exchange(dice, number) if number % ROUND else question(dice, first=number == 0)


def question(dice: random.Random, *, first: bool) -> list[Message]:
    """An answer to what was asked before, and a question."""
    answers = [] if first else [Message.assistant("So" + " word" * dice.randrange(50, 500))]
    used = cost(ESTIMATE, [*answers, Message.user("And")])
    return [*answers, Message.user("And" + " word" * (NEW - used))]


def exchange(dice: random.Random, number: int) -> list[Message]:
    """Two calls and their results, one shorter than the other."""
    calls = [ToolCall(id=f"{name}_{number}", function={"name": name, "arguments": "{}"}) for name in ("stock", "sales")]
    asked = Message.assistant(tool_calls=calls)
    left = NEW - cost(ESTIMATE, [asked, *(Message.tool("Row", call.id, name=call.name) for call in calls)])
    lengths = (shorter := dice.randrange(left // 2)), left - shorter
    texts = ["Row" + " word" * length for length in lengths]
    return [asked, *(Message.tool(text, call.id, name=call.name) for call, text in zip(calls, texts, strict=True))]


# ==== the windows ====

Prompts: TypeAlias = Callable[[Sequence[Message]], list[Message]]
"""The prompt of the next request, by the history."""


def ours() -> Prompts:
    """As an agent asks for its prompt, and moves the cut when it is sent."""
    window = Window()

    def prompt(history: Sequence[Message]) -> list[Message]:
        cut, ratio = window.start_in(history), AGENT.trim_ratio
        kept = fit(PINNED, history, fixed=OVERHEAD, budget=BUDGET, trim_ratio=ratio, cut=cut)
        window.move_to(history, kept.start)
        return assemble(PINNED, history, kept)

    return prompt


def sliding() -> Prompts:
    """As long as the prompt is too long, its oldest exchange goes."""
    start = 0

    def prompt(history: Sequence[Message]) -> list[Message]:
        nonlocal start
        while OVERHEAD + cost(ESTIMATE, PINNED) + cost(ESTIMATE, history[start:]) > BUDGET:
            later = range(start + 1, len(history))
            start = next(index for index in later if history[index].role != "tool")
        return [*PINNED, *history[start:]]

    return prompt


# ==== the bill ====


@dataclass
class Bill:
    """What was asked for, in tokens."""

    new: int = 0
    cached: int = 0
    output: int = 0

    @property
    def share(self) -> float:
        """Of the prompt tokens, the cached ones."""
        return self.cached / (self.new + self.cached)

    @property
    def price(self) -> float:
        """In dollars."""
        prices = model_info(MODEL).prices
        assert prices is not None
        output = self.output * prices.output
        return (self.new * prices.input + self.cached * prices.cached_input + output) / 1e6


def bill_of(prompts: Prompts, count: int) -> Bill:
    """What `count` turns cost."""
    bill, history, before = Bill(), list[Message](), list[Message]()
    for added in turns(count):
        bill.output += cost(ESTIMATE, [message for message in added if message.role == "assistant"])
        history += added
        prompt = prompts(history)
        cached = cached_tokens(before, prompt)
        bill.cached += cached
        bill.new += OVERHEAD + cost(ESTIMATE, prompt) - cached
        before = prompt
    return bill


def cached_tokens(before: Sequence[Message], prompt: Sequence[Message]) -> int:
    """Tokens of the beginning that two prompts share; nothing is cached before the first."""
    same = sum(itertools.takewhile(bool, map(operator.is_, before, prompt)))
    return OVERHEAD + cost(ESTIMATE, prompt[:same]) if before else 0


def main() -> None:
    """Print the table; fail where a bound is broken."""
    bills = {"sliding window": bill_of(sliding(), TURNS), "ours": bill_of(ours(), TURNS)}
    slid, our = bills.values()
    print(f"{TURNS} turns of {NEW:,} tokens in a window of {CONTEXT_WINDOW:,}, by the prices of {MODEL}")
    print("                    prompt tokens   cached     price")
    for name, bill in bills.items():
        print(f"  {name:16} {bill.new + bill.cached:14,} {bill.share:8.1%} {bill.price:8.2f} $   {figure(bill, slid)}")
    assert our.share >= CACHED, f"{our.share:.1%} cached, not {CACHED:.0%}"
    assert our.price <= PRICE * slid.price, f"{our.price / slid.price:.3f} of the sliding window's price, not {PRICE}"


def figure(bill: Bill, other: Bill) -> str:
    return "" if bill is other else f"1/{other.price / bill.price:.1f} of the sliding window's"


if __name__ == "__main__":
    main()

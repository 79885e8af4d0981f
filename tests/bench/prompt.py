"""What a prompt costs: time of `get_prompt`, and of encoding a request body.

`get_prompt` is timed on 1k, 10k and 100k messages, the first time (every message is counted) and repeated, when the
history fits the window and when only the newest 2,000 messages do. A body of 10k messages is compared with dumping the
same messages with pydantic and `json.dumps`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

from kimi_agent import Agent, Message
from kimi_agent.history import repair
from kimi_agent.kimi.models import model_info
from kimi_agent.kimi.request import ChatRequest
from kimi_agent.testing import ScriptedKimi

SIZES = (1_000, 10_000, 100_000)
KEPT = 2_000
REPEATED = {("fitting", 10_000): 1.0, ("overflowing", 10_000): 1.0, ("overflowing", 100_000): 5.0}
"""Milliseconds below which a repeated `get_prompt` stays."""
SPAN = 1.0
"""Seconds in which the best of them is looked for: longer than a machine is busy with something else."""
LONGEST = 15.0
"""The same where that is not below its bound: a machine may be slow for some seconds."""
BODY = 1 / 20
"""Share of `model_dump` and `json.dumps` that encoding a body may take."""


def conversation(size: int) -> list[Message]:
    """A chat of `size` messages of some twenty words."""
    words = "the quick brown fox jumps over the lazy dog and runs on to the next town before night"
    makers = (Message.user, Message.assistant)
    return [makers[number % 2](f"{number}: {words}") for number in range(size)]


def body_of(messages: list[Message]) -> bytes:
    return ChatRequest(model_info("kimi-k3"), "", [], messages, {}).body()


def milliseconds(work: Callable[[], object], runs: int = 5) -> float:
    """The best of several runs in a row."""
    best = float("inf")
    for _ in range(runs):
        before = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - before)
    return best * 1e3


def by_turns(*works: Callable[[], object]) -> list[float]:
    """The best of each within `SPAN`: a machine that is now faster and now slower is so for all of them."""
    best, end = [float("inf") for _ in works], time.perf_counter() + SPAN
    while time.perf_counter() < end:
        best = [min(before, milliseconds(work)) for before, work in zip(best, works, strict=True)]
    return best


async def agent_with(size: int, case: str) -> Agent:
    """An agent of `size` messages. They fill its window, or only the newest do."""
    kept = size if case == "fitting" else min(KEPT, size // 2)
    counting = Agent(ScriptedKimi([]), desired_response_tokens=0)
    window = await counting.prompt_token_len(conversation(size)[-kept:])
    provider = ScriptedKimi([], context_window=window)
    return Agent(provider, desired_response_tokens=0, chat_history=conversation(size))


async def measure_prompts() -> dict[tuple[str, int], float]:
    """Print the table of `get_prompt`; the repeated times."""
    print("get_prompt, ms        messages      first   repeated   kept")
    repeated: dict[tuple[str, int], float] = {}
    for size in SIZES:
        for case in ("fitting", "overflowing"):
            agent = await agent_with(size, case)
            first, length = await timed_prompt(agent)
            repeated[case, size] = await best_prompt(agent, REPEATED.get((case, size), float("inf")))
            print(f"  {case:12} {size:15,} {first:10.2f} {repeated[case, size]:10.3f} {length:6,}")
    return repeated


async def best_prompt(agent: Agent, bound: float) -> float:
    """Milliseconds of the best `get_prompt` within `SPAN`, or within `LONGEST` until one is below the bound."""
    best, begun = float("inf"), time.perf_counter()
    while (taken := time.perf_counter() - begun) < SPAN or (best >= bound and taken < LONGEST):
        best = min(best, (await timed_prompt(agent))[0])
    return best


async def timed_prompt(agent: Agent) -> tuple[float, int]:
    """Milliseconds of a `get_prompt`, and how many messages the prompt has."""
    before = time.perf_counter()
    prompt = await agent.get_prompt()
    return (time.perf_counter() - before) * 1e3, len(prompt)


def measure_body() -> float:
    """Print the cost of a body; the repeated one as a share of dumping."""
    messages = conversation(10_000)
    first = milliseconds(lambda: body_of(messages), 1)
    dump, again = by_turns(
        lambda: json.dumps([message.model_dump() for message in messages]), lambda: body_of(messages)
    )
    print("body of 10,000 messages, ms")
    print(f"  model_dump + json.dumps {dump:8.2f}")
    print(f"  request_body, first     {first:8.2f}   1/{dump / first:.1f}")
    print(f"  request_body, repeated  {again:8.2f}   1/{dump / again:.1f}")
    checked = milliseconds(lambda: repair(messages, interrupted=""))
    print(f"  history.repair          {checked:8.2f}   before every request")
    return again / dump


def main() -> None:
    """Print the tables; fail where a bound is broken."""
    repeated = asyncio.run(measure_prompts())
    share = measure_body()
    for (case, size), bound in REPEATED.items():
        assert repeated[case, size] < bound, f"{case} {size:,}: {repeated[case, size]:.2f} ms, not below {bound}"
    assert repeated["overflowing", 100_000] < 10 * repeated["overflowing", 10_000], "the cost grows with what is cut"
    assert share <= BODY, f"encoding a body takes {share:.3f} of dumping it; the bound is {BODY}"


if __name__ == "__main__":
    main()

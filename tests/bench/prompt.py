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
REPEATED_10K = 2.0
"""Milliseconds that a repeated `get_prompt` on 10k messages may take."""
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
    """The best of several runs."""
    best = float("inf")
    for _ in range(runs):
        before = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - before)
    return best * 1e3


def window_for(messages: list[Message], kept: int) -> int:
    """A window that `kept` of these messages fill."""
    agent = Agent(ScriptedKimi([]), desired_response_tokens=0)
    return asyncio.run(agent.prompt_token_len(messages[-kept:]))


def measure_prompts() -> dict[tuple[str, int], float]:
    """Print the table of `get_prompt`; the repeated times."""
    print("get_prompt, ms        messages      first   repeated   kept")
    repeated: dict[tuple[str, int], float] = {}
    for size in SIZES:
        for case in ("fitting", "overflowing"):
            messages = conversation(size)
            kept = size if case == "fitting" else min(KEPT, size // 2)
            window = window_for(conversation(size), kept)
            agent = Agent(ScriptedKimi([], context_window=window), desired_response_tokens=0, chat_history=messages)
            first, repeated[case, size], length = timed_prompts(agent)
            print(f"  {case:12} {size:15,} {first:10.2f} {repeated[case, size]:10.3f} {length:6,}")
    return repeated


def timed_prompts(agent: Agent) -> tuple[float, float, int]:
    """Milliseconds of the first and of a repeated `get_prompt`, and how many messages the prompt has."""
    with asyncio.Runner() as runner:
        first = milliseconds(lambda: runner.run(agent.get_prompt()), 1)
        prompt = runner.run(agent.get_prompt())
        return first, milliseconds(lambda: runner.run(agent.get_prompt())), len(prompt)


def measure_body() -> float:
    """Print the cost of a body; the repeated one as a share of dumping."""
    messages = conversation(10_000)
    dump = milliseconds(lambda: json.dumps([message.model_dump() for message in messages]), 3)
    first = milliseconds(lambda: body_of(messages), 1)
    again = milliseconds(lambda: body_of(messages))
    print("body of 10,000 messages, ms")
    print(f"  model_dump + json.dumps {dump:8.2f}")
    print(f"  request_body, first     {first:8.2f}   1/{dump / first:.1f}")
    print(f"  request_body, repeated  {again:8.2f}   1/{dump / again:.1f}")
    checked = milliseconds(lambda: repair(messages, interrupted=""))
    print(f"  history.repair          {checked:8.2f}   before every request")
    return again / dump


def main() -> None:
    """Print the tables; fail where a bound is broken."""
    repeated = measure_prompts()
    share = measure_body()
    for case in ("fitting", "overflowing"):
        assert repeated[case, 10_000] < REPEATED_10K, (
            f"{case}: {repeated[case, 10_000]:.2f} ms, not below {REPEATED_10K}"
        )
    assert repeated["overflowing", 100_000] < 10 * repeated["overflowing", 10_000], "the cost grows with what is cut"
    assert share <= BODY, f"encoding a body takes {share:.3f} of dumping it; the bound is {BODY}"


if __name__ == "__main__":
    main()

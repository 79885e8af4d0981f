"""How fast tokens are counted, with Kimi's ranks and with the estimator, and what a counted message keeps in memory.

The rank file is looked for as the package does it, and in the folder of the recorded data; without it, only the
estimator is measured.
"""

from __future__ import annotations

import gc
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from kimi_agent import Message
from kimi_agent.prompt.exact import KimiTokenCounter
from kimi_agent.prompt.ranks import RanksError, load
from kimi_agent.prompt.tokens import estimate_text, message_cost

MESSAGES = 10_000
MEASURED = 1_000
KEPT = 100
"""Bytes that a counted message may keep."""
SPEED = 300_000
"""Tokens per second that counting with the ranks reaches at least."""
LENGTH = 300_000
"""Characters of each text."""

PROSE = "The quick brown fox jumps over the lazy dog, and nobody who has seen it will believe it. "
TEXTS = {
    "English": PROSE,
    "Chinese": "北京今天晴，气温二十六摄氏度，适合出门散步；晚上可能会下雨，请带伞。",
    "Python": "def area(width: float, height: float) -> float:\n    return width * height  # in metres\n\n",
    "JSON": '{"id": 48213, "name": "Bergen", "position": [60.3913, 5.3221], "open": true}, ',
    "log": "2026-11-21T15:45:02.118Z INFO worker-7 GET /v1/files/9f86d081 200 in 12.7 ms\n",
}


def texts() -> dict[str, str]:
    return {name: (text * (LENGTH // len(text) + 1))[:LENGTH] for name, text in TEXTS.items()}


def conversation() -> list[Message]:
    makers = (Message.user, Message.assistant)
    return [makers[number % 2](f"{number}: {PROSE}") for number in range(MESSAGES)]


def seconds(work: Callable[[], object], runs: int = 3) -> float:
    """The best of several runs."""
    best = float("inf")
    for _ in range(runs):
        before = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - before)
    return best


def counter() -> KimiTokenCounter | None:
    data = os.environ.get("KIMI_AGENT_TEST_DATA")
    try:
        return KimiTokenCounter.from_file(Path(data) / "tiktoken.model" if data else None)
    except RanksError as error:
        print(f"without ranks: {error}")
        return None


def measure_speed(exact: KimiTokenCounter | None) -> float:
    """Print the table; the slowest counting with ranks, in tokens per second."""
    print("a million tokens/s      ranks   estimator   estimate is off by")
    slowest = float("inf")
    for name, text in texts().items():
        estimated = estimate_text(text)
        tokens = exact.count_text(text) if exact else estimated
        guessing = tokens / seconds(lambda text=text: estimate_text(text))
        if exact is None:
            print(f"  {name:16} {'':10} {guessing / 1e6:11.2f}")
            continue
        counting = tokens / seconds(lambda text=text: exact.count_text(text))
        slowest = min(slowest, counting)
        print(f"  {name:16} {counting / 1e6:10.2f} {guessing / 1e6:11.2f} {estimated / tokens - 1:17.1%}")
    return slowest


def measure_messages(name: str, cost: Callable[[Message], int]) -> float:
    """Print what counting messages takes; the bytes that one keeps."""
    first = conversation()
    begun = time.perf_counter()
    sum(map(cost, first))
    once = time.perf_counter() - begun
    again = seconds(lambda: sum(map(cost, first)))
    kept = bytes_kept(cost)
    print(f"  {name:16} {once * 1e3:10.1f} {again * 1e3:11.2f} {kept:17.0f}")
    return kept


def bytes_kept(cost: Callable[[Message], int]) -> float:
    """Of long messages: small numbers are shared by everybody and take no memory."""
    messages = [Message.user(f"{number}: {PROSE * 20}") for number in range(MEASURED)]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for message in messages:
        cost(message)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / len(messages)


def main() -> None:
    """Print the tables; fail where a bound is broken."""
    exact = counter()
    if exact is not None:
        print(f"asking for loaded ranks: {seconds(load_again(exact)) * 1e6:.0f} µs")
    slowest = measure_speed(exact)
    print(f"{MESSAGES:,} messages           first, ms   again, ms   bytes per message")
    kept = {"estimator": measure_messages("estimator", message_cost)}
    if exact is not None:
        kept["ranks"] = measure_messages("ranks", exact.count_message)
    assert slowest >= SPEED, f"{slowest:,.0f} tokens per second, not {SPEED:,}"
    for name, size in kept.items():
        assert size < KEPT, f"{name}: a counted message keeps {size:.0f} bytes, not below {KEPT}"


def load_again(exact: KimiTokenCounter) -> Callable[[], object]:
    data = os.environ.get("KIMI_AGENT_TEST_DATA")
    path = Path(data) / "tiktoken.model" if data else None
    return lambda: load(path)


if __name__ == "__main__":
    main()

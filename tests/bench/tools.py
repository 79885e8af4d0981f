"""What a round with tools costs: CPU of two turns, eight parallel calls and then a text of 100 deltas.

A loopback server in another process sends the calls when the user spoke last, and the text after results: once as one
body with a Content-Length and once with one HTTP chunk per event, where most of the time is httpx's own. The figures
are CPU of this process alone. `step` is compared with the same two requests made by httpx and `from_json`, the calls
awaited one after the other. Each has an httpx client of its own, made alike, and they take turns. In each repetition
the best round of each counts, and of the ratios the median.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import httpx
import loopback
from loopback import KEY, MODEL
from pydantic import BaseModel
from pydantic_core import from_json, to_json

from kimi_agent import CallableTool2, Kimi, Message, SimpleToolset, ToolOk, ToolReturnValue, step
from kimi_agent import tool_result_to_message as answered

CALLS = 8
DELTAS = 100
BOUND = 2.2
"""A round may cost so many times the floor, however it is sent."""
LIMIT = 300.0
"""Seconds after which the whole is given up."""

SYSTEM = "You are a precise math tutor."
QUESTION = "Please add these eight pairs of numbers."
NAME, DESCRIPTION = "add", "Add two integers."


# ==== the server, in a process of its own ====


DELIVERIES = {"one body": loopback.in_one_body, "one HTTP chunk per event": loopback.in_chunks}
"""How an answer travels."""


def answers() -> loopback.Answers:
    """By who spoke last, each delivery below a path of its own."""
    by_role = {
        "user": loopback.answer(loopback.additions(CALLS), "tool_calls"),
        "tool": loopback.answer(loopback.words(DELTAS)),
    }
    deliveries = {
        (b"%d" % number, role): made(events)
        for number, made in enumerate(DELIVERIES.values())
        for role, events in by_role.items()
    }
    return lambda path, body: deliveries[path.split(b"/")[1], json.loads(body)["messages"][-1]["role"]]


# ==== the contestants ====

Outcome: TypeAlias = tuple[list[object], str]
"""The sums, and the text after them."""
Round: TypeAlias = Callable[[], Awaitable[Outcome]]


class Pair(BaseModel):
    a: int
    b: int


async def add(a: int, b: int) -> str:
    return str(a + b)


def floor_round(url: str, client: httpx.AsyncClient) -> Round:
    """httpx, split, `from_json` and eight awaits: what nobody can do without."""
    function = {"name": NAME, "description": DESCRIPTION, "parameters": Pair.model_json_schema()}
    fixed = {"model": MODEL, "stream": True, "stream_options": {"include_usage": True}}
    fixed["tools"] = [{"type": "function", "function": function}]
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}

    async def deltas(messages: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        body = to_json({**fixed, "messages": messages})
        async with client.stream("POST", f"{url}/chat/completions", content=body, headers=headers) as response:
            tail = b""
            async for data in response.aiter_raw():
                *lines, tail = (tail + data).split(b"\n\n")
                for line in lines:
                    if line.startswith(b"data: {"):
                        yield from_json(line[6:])["choices"][0]["delta"]

    async def run() -> Outcome:
        messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
        calls: list[dict[str, Any]] = []
        async for delta in deltas(messages):
            for piece in delta.get("tool_calls", ()):
                if "id" in piece:
                    calls.append(piece)
                else:
                    calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
        sums = [await add(**from_json(call["function"]["arguments"])) for call in calls]
        messages.append({"role": "assistant", "tool_calls": calls})
        for made, result in zip(calls, sums, strict=True):
            messages.append({"role": "tool", "tool_call_id": made["id"], "content": result})
        return list(sums), "".join([delta.get("content", "") async for delta in deltas(messages)])

    return run


def our_round(url: str, client: httpx.AsyncClient) -> Round:
    """`step`, its results, and `step` again."""

    class Add(CallableTool2[Pair]):
        name: str = NAME
        description: str = DESCRIPTION
        params: type[Pair] = Pair

        async def __call__(self, params: Pair) -> ToolReturnValue:
            return ToolOk(output=await add(params.a, params.b))

    kimi = Kimi(MODEL, base_url=url, api_key=KEY, max_retries=0, http_client=client)
    toolset = SimpleToolset([Add()])

    async def run() -> Outcome:
        history = [Message.user(QUESTION)]
        first = await step(kimi, SYSTEM, toolset, history)
        results = await first.tool_results()
        history = [*history, first.message, *map(answered, results)]
        second = await step(kimi, SYSTEM, toolset, history)
        return [result.return_value.output for result in results], second.message.text

    return run


FLOOR, OURS = "httpx + from_json + 8 awaits", "kimi_agent.step"
CONTESTANTS = {FLOOR: floor_round, OURS: our_round}


# ==== the figures ====

SUMS = loopback.sums(CALLS)


async def cpu(run: Round) -> float:
    """Milliseconds of CPU of this process for a round."""
    before = time.process_time()
    sums, text = await run()
    spent = time.process_time() - before
    assert sums == SUMS, f"{sums} instead of {SUMS}"
    assert text.count("word") == DELTAS, f"{text.count('word')} deltas instead of {DELTAS}"
    return spent * 1e3


async def measure(url: str, repetitions: int, rounds: int) -> list[dict[str, float]]:
    """The best round of each contestant, by repetition. The first repetition warms up and does not count."""
    async with asyncio.timeout(LIMIT), AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(httpx.AsyncClient(trust_env=False)) for name in CONTESTANTS}
        contestants = {name: CONTESTANTS[name](url, client) for name, client in clients.items()}
        best = [dict.fromkeys(CONTESTANTS, float("inf")) for _ in range(repetitions + 1)]
        for costs in best:
            for _ in range(rounds):
                for name, run in contestants.items():
                    costs[name] = min(costs[name], await cpu(run))
    return best[1:]


def times_the_floor(best: list[dict[str, float]], name: str) -> float:
    """How many times the CPU of the floor a contestant takes: the median of the repetitions."""
    return statistics.median(costs[name] / costs[FLOOR] for costs in best)


def print_table(delivery: str, best: list[dict[str, float]]) -> None:
    print(f"a round of {CALLS} calls and {DELTAS} text deltas, {delivery}: CPU per round")
    for name in CONTESTANTS:
        cost = statistics.median(costs[name] for costs in best)
        print(f"  {name:28} {cost:7.2f} ms   {times_the_floor(best, name):5.2f} x")


def main() -> None:
    """Print the table; fail where the bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=40, help="per contestant and repetition")
    options = loopback.options(parser, lambda: loopback.serve(answers()))
    with loopback.served_by(__file__) as url:
        figures = {
            delivery: asyncio.run(measure(f"{url}/{number}", options.repetitions, options.rounds))
            for number, delivery in enumerate(DELIVERIES)
        }
    for delivery, best in figures.items():
        print_table(delivery, best)
    for delivery, best in figures.items():
        ratio = times_the_floor(best, OURS)
        assert ratio <= BOUND, f"{delivery}: {ratio:.2f} times the floor; the bound is {BOUND}"


if __name__ == "__main__":
    main()

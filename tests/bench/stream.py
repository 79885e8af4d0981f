"""What a delta costs: CPU per text delta, as a ratio to reading the same bytes with httpx and `from_json` alone.

A loopback server in another process sends an answer of 4,000 text deltas, once as one body with a Content-Length and
once with one HTTP chunk per event. Each reader takes it several times, over a connection that is already open; the best
run of each counts.

Then a tool call with up to a megabyte of arguments, four bytes a delta: twice the arguments may cost twice the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise

import httpx
import loopback
from pydantic_core import from_json

from kimi_agent import Agent, Kimi, Message, generate
from kimi_agent.events import End, StreamFrame
from kimi_agent.kimi.assemble import Assembler

DELTAS = 4_000
BOUND = 2.5
"""With one body, an agent may cost so many times the floor."""
SIZES = (262_144, 524_288, 1_048_576)
"""Bytes of arguments of a call; each size is twice the one before."""
DOUBLED = 2.6
"""Times the time that twice the arguments may take."""


def answers() -> loopback.Answers:
    """By the path, which says how the answer travels."""
    events = loopback.answer(loopback.words(DELTAS))
    deliveries = {b"whole": loopback.in_one_body(events), b"chunks": loopback.in_chunks(events)}
    return lambda path, body: deliveries[path.split(b"/")[1]]


# ==== the readers ====


async def floor(client: httpx.AsyncClient, kimi: Kimi) -> int:
    """httpx, split, `from_json`: what nobody can do without."""
    count = 0
    body = b'{"model":"kimi-k3","messages":[],"stream":true}'
    async with client.stream("POST", f"{kimi.base_url}/chat/completions", content=body) as response:
        tail = b""
        async for data in response.aiter_raw():
            *lines, tail = (tail + data).split(b"\n\n")
            for line in lines:
                if line.startswith(b"data: {"):
                    from_json(line[6:])
                    count += 1
    return count - 2


async def with_generate(client: httpx.AsyncClient, kimi: Kimi) -> int:
    """`Kimi` and `generate`."""
    result = await generate(kimi, "", [], [Message.user("go")])
    return result.message.text.count("word")


async def with_agent(client: httpx.AsyncClient, kimi: Kimi) -> int:
    """`Agent.full_round_stream`, every token looked at."""
    count = 0
    async for stream in Agent(kimi).full_round_stream("go"):
        async for token in stream:
            count += bool(token)
    return count


Reader = Callable[[httpx.AsyncClient, Kimi], Awaitable[int]]
READERS: dict[str, Reader] = {
    "httpx + split + from_json": floor,
    "Kimi + generate": with_generate,
    "Agent.full_round_stream": with_agent,
}


async def cpu_per_delta(read: Reader, client: httpx.AsyncClient, kimi: Kimi) -> float:
    """Microseconds of CPU of this process per delta."""
    before = time.process_time()
    count = await read(client, kimi)
    spent = time.process_time() - before
    assert count == DELTAS, f"{count} deltas instead of {DELTAS}"
    return spent / DELTAS * 1e6


async def measure(url: str, runs: int) -> dict[str, float]:
    """The best of several runs, the readers taking turns."""
    best = dict.fromkeys(READERS, float("inf"))
    async with httpx.AsyncClient() as client, Kimi(base_url=url, api_key="sk-test") as kimi:
        for _ in range(runs + 1):
            for name, read in READERS.items():
                best[name] = min(best[name], await cpu_per_delta(read, client, kimi))
    return best


# ==== long calls ====

PIECE = "abcd"
BATCH = 100
"""Deltas per network read."""


def piece(arguments: str, call_id: str | None = None, name: str | None = None) -> dict[str, object]:
    """A chunk with more of a call."""
    call = {"index": 0, "id": call_id, "function": {"name": name, "arguments": arguments}}
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}


FIRST = piece("", "write_0", "write")
NEXT = piece(PIECE)
LAST = {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}


def assembled(size: int) -> int:
    """How many bytes of arguments the assembler makes of the chunks of a call."""
    assembler = Assembler()
    assembler.feed(FIRST, [])
    for _ in range(size // len(PIECE) // BATCH + 1):
        frames: list[StreamFrame] = []
        for _ in range(BATCH):
            assembler.feed(NEXT, frames)
    assembler.feed(LAST, [])
    end = assembler.close()[-1]
    assert isinstance(end, End)
    return sum(len(call.arguments) for call in end.message.tool_calls or ())


def streamed(size: int) -> int:
    """The same through `Kimi` and `generate`, over a transport without a network."""

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield event(FIRST)
            batch = event(NEXT) * BATCH
            for _ in range(size // len(PIECE) // BATCH + 1):
                yield batch
            yield event(LAST)

    async def ask() -> int:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Body()))
        async with httpx.AsyncClient(transport=transport) as client:
            result = await generate(Kimi(api_key="sk-test", http_client=client), "", [], [Message.user("go")])
        return sum(len(call.arguments) for call in result.message.tool_calls or ())

    return asyncio.run(ask())


def event(chunk: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def seconds(work: Callable[[int], int], size: int) -> float:
    """CPU of this process for a call of that size."""
    before = time.process_time()
    made = work(size)
    spent = time.process_time() - before
    assert made >= size, f"{made} bytes of arguments instead of {size}"
    return spent


def measure_calls(runs: int) -> None:
    """Print how the time of a call grows with its arguments, the sizes taking turns; fail where it is not linear."""
    print("a tool call in deltas of 4 bytes: CPU, and times that of half the arguments")
    for name, work in (("Assembler", assembled), ("Kimi + generate", streamed)):
        best = dict.fromkeys(SIZES, float("inf"))
        for _ in range(runs):
            for size in SIZES:
                best[size] = min(best[size], seconds(work, size))
        ratios = {larger: best[larger] / best[smaller] for smaller, larger in pairwise(SIZES)}
        for size in SIZES:
            ratio = f"{ratios[size]:.2f} x" if size in ratios else ""
            print(f"  {name:16} {size:9,} bytes {best[size] * 1e3:8.1f} ms   {ratio}")
        for size, ratio in ratios.items():
            assert ratio <= DOUBLED, f"{name}: {size:,} bytes cost {ratio:.2f} times the half; the bound is {DOUBLED}"


def main() -> None:
    """Print the tables; fail where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    options = loopback.options(parser, lambda: loopback.serve(answers()))
    with loopback.served_by(__file__) as url:
        for path, title in (("whole", "one body with Content-Length"), ("chunks", "one HTTP chunk per event")):
            best = asyncio.run(measure(f"{url}/{path}", options.runs))
            base = best["httpx + split + from_json"]
            print(f"{DELTAS:,} text deltas, {title}: CPU per delta")
            for name, cost in best.items():
                print(f"  {name:28} {cost:7.2f} us   {cost / base:5.2f} x")
            if path == "whole":
                ratio = best["Agent.full_round_stream"] / base
                assert ratio <= BOUND, f"an agent costs {ratio:.2f} times the floor; the bound is {BOUND}"
    measure_calls(runs=5)


if __name__ == "__main__":
    main()

"""What many agents cost: a thousand streaming at once in one event loop, ten thousand that wait, all cancelled at once.

A loopback server in another process writes into each delta at what moment it was sent. A thousand agents with a delta
a second are compared with one agent that gets as many deltas in the same time. They share one `Kimi`. Memory is what
tracemalloc sees, which is all but the kernel's buffers. When the server sees the end of a connection, it is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import statistics
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import httpx
import loopback
from pydantic_core import from_json

from kimi_agent import Agent, Kimi

AGENTS = 1_000
"""That stream at once."""
DELTAS = 20
"""That each of them gets."""
PAUSE = 1.0
"""Seconds between two of them."""
OPENING = 10.0
"""Seconds over which they begin, where they do not all begin at once."""
IDLE = 10_000
"""Agents that wait."""

LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20)
"""Of connections, as `Kimi` has them: httpx looks at all of them for each request."""

IDLE_KB = 25.0
"""What an agent that waits may take."""
CLOSED = 1.0
"""Seconds until the last connection is closed when all are cancelled."""
TRIES = 5
"""Of cancelling, of which the best counts: what it takes is CPU, and others may be using the processor."""
SPARE = 100
"""Open files that are no connections."""


# ==== the server, in a process of its own ====

BEFORE, _, AFTER = loopback.event({"content": "MOMENT "}).partition(b"MOMENT")
START = loopback.HEAD + b"transfer-encoding: chunked\r\n\r\n"
*_, LAST, DONE = loopback.answer([])


def in_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def delta() -> bytes:
    """A delta that says when it was made."""
    return in_chunk(BEFORE + b"%.6f" % time.monotonic() + AFTER)


@dataclass
class Server:
    """Streams at some pace, or keeps silent after the first delta and waits for the end of the connection."""

    held: int = 0
    """Connections that it keeps silent on."""
    closed_at: float = 0.0
    """When the last one of them ended."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                path, _ = await loopback.request(reader)
                if path.startswith(b"/held/"):
                    await self.hold(reader, writer)
                elif path.startswith(b"/paced/"):
                    _, _, count, pause, *_ = path.split(b"/")
                    await self.stream(writer, int(count), float(pause))
                else:
                    said = json.dumps([self.held, self.closed_at]).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(said), said))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def stream(self, writer: asyncio.StreamWriter, count: int, pause: float) -> None:
        writer.write(START)
        for _ in range(count):
            writer.write(delta())
            await asyncio.sleep(pause)
        writer.write(b"".join(map(in_chunk, (LAST, DONE))) + b"0\r\n\r\n")

    async def hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.held += 1
        writer.write(START + delta())
        try:
            await reader.read()
        finally:
            self.held -= 1
            self.closed_at = time.monotonic()


# ==== the agents ====


@dataclass
class Lags:
    """Milliseconds from the moment at which the server sent a delta to the one at which an agent handed it out."""

    first: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)


async def listen(agent: Agent, lags: Lags) -> None:
    """One round, every token looked at."""
    heard = lags.first
    async for stream in agent.full_round_stream("go"):
        async for token in stream:
            heard.append((time.monotonic() - float(token)) * 1e3)
            heard = lags.later


async def by_hand(client: httpx.AsyncClient, url: str, lags: Lags) -> None:
    """The same with httpx alone: what nobody can do without."""
    heard = lags.first
    async with client.stream("POST", f"{url}/chat/completions", json={"messages": []}) as response:
        async for data in response.aiter_raw():
            for event in data.split(b"\n\n"):
                if b'"content":"' in event:
                    moment = from_json(event.removeprefix(b"data: "))["choices"][0]["delta"]["content"]
                    heard.append((time.monotonic() - float(moment)) * 1e3)
                    heard = lags.later


Reader: TypeAlias = Callable[[Lags], Awaitable[None]]


async def streamed(read: Reader, count: int, opening: float) -> tuple[float, Lags]:
    """Seconds of CPU of so many readers at once, which begin one after the other, and what their deltas waited."""
    lags = Lags()

    async def begin(number: int) -> None:
        await asyncio.sleep(opening * number / count)
        await read(lags)

    gc.collect()
    before = time.process_time()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(begin(number))
    return time.process_time() - before, lags


@asynccontextmanager
async def kimi_at(url: str, path: str) -> AsyncIterator[Kimi]:
    """A client with connections of its own."""
    async with Kimi(base_url=f"{url}/{path}", api_key=loopback.KEY) as kimi:
        yield kimi


async def measure_streams(url: str, count: int) -> None:
    """Print what deltas cost one agent and many, what the rounds around them cost, and how long the deltas waited."""
    deltas = count * DELTAS
    print("text streams                     CPU in all   first token, p50, p99     later ones, p50, p99")
    alone = await measured(f"1 agent, {deltas:,} deltas", url, 1, deltas, PAUSE / count, 0.0)
    many = await measured(f"{count:,} agents, {DELTAS} deltas each", url, count, DELTAS, PAUSE, OPENING)
    rounds = await measured(f"{count:,} agents, 1 delta each", url, count, 1, OPENING, OPENING)
    at_once = await measured(f"{count:,} at once, 1 delta each", url, count, 1, 0.0, 0.0)
    async with httpx.AsyncClient(limits=LIMITS, trust_env=False) as client:
        floor, lags = await streamed(lambda lags: by_hand(client, f"{url}/paced/1/0", lags), count, 0.0)
    assert len(lags.first) == count, f"{len(lags.first)} deltas came to {count} readers"
    print_row("the same with httpx alone", floor, lags)
    each = {"1 agent": alone / deltas, f"{count:,} agents": (many - rounds) / (deltas - count)}
    print("CPU per delta, the rounds around them left out")
    for name, cost in each.items():
        print(f"  {name:28} {cost * 1e6:7.1f} us {cost / each['1 agent']:5.2f} x")
    print(
        f"CPU per round of one delta, {count:,} at once: {at_once / count * 1e3:.2f} ms, {at_once / floor:.2f} x httpx"
    )


async def measured(name: str, url: str, agents: int, deltas: int, pause: float, opening: float) -> float:
    """Print what the deltas of so many agents waited; seconds of CPU of all of them."""
    async with kimi_at(url, f"paced/{deltas}/{pause}") as kimi:
        spent, lags = await streamed(lambda lags: listen(Agent(kimi, "You are terse."), lags), agents, opening)
    came = len(lags.first), len(lags.later)
    assert came == (agents, agents * (deltas - 1)), f"{came} first and later deltas came to {agents} agents"
    print_row(name, spent, lags)
    return spent


def print_row(name: str, spent: float, lags: Lags) -> None:
    print(f"  {name:28} {spent:6.2f} s of CPU   {spread(lags.first)}   {spread(lags.later)}", flush=True)


def spread(lags: list[float]) -> str:
    """Median and 99th percentile."""
    if not lags:
        return ""
    cuts = statistics.quantiles(lags, n=100) if len(lags) > 1 else lags * 99
    return f"{cuts[49]:8.1f} ms {cuts[98]:8.1f} ms"


# ==== memory ====


@contextmanager
def traced() -> Generator[Callable[[], float], None, None]:
    """A function that gives the kB that are allocated since the block began."""
    tracemalloc.start()
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()

    def kilobytes() -> float:
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / 1e3

    try:
        yield kilobytes
    finally:
        tracemalloc.stop()


async def measure_idle(url: str) -> float:
    """Print what agents take that have said nothing yet; kB of one of them."""
    async with kimi_at(url, "held") as kimi:
        Agent(kimi, "You are terse.")  # what the first one makes for all of them is not counted
        with traced() as kilobytes:
            agents = [Agent(kimi, "You are terse.") for _ in range(IDLE)]
            each = kilobytes() / len(agents)
    print(f"memory per agent\n  {IDLE:,} new ones {each:30.1f} kB")
    return each


async def measure_after_a_round(url: str) -> float:
    """Print what agents take that wait behind a round; kB of one of them, its conversation included."""
    async with kimi_at(url, "paced/1/0") as kimi:
        await Agent(kimi, "You are terse.").chat_round("go")
        with traced() as kilobytes:
            agents = [Agent(kimi, "You are terse.") for _ in range(IDLE // 10)]
            for agent in agents:
                await listen(agent, Lags())
            each = kilobytes() / len(agents)
    print(f"  {IDLE // 10:,} behind a round {each:26.1f} kB")
    return each


async def measure_held(url: str, count: int) -> None:
    """Print what agents take in the middle of an answer, their connections included."""
    with traced() as kilobytes:
        async with held(url, count) as tasks:
            each = kilobytes() / count
            assert not any(task.done() for task in tasks)
    print(f"  {count:,} streaming, connections included {each:6.1f} kB")


# ==== cancelling ====


@asynccontextmanager
async def held(url: str, count: int) -> AsyncIterator[list[asyncio.Task[None]]]:
    """The tasks of agents that all have their first token and get no second one; they are cancelled at the end."""
    lags = Lags()
    async with kimi_at(url, "held") as kimi:
        tasks = [asyncio.create_task(listen(Agent(kimi, "You are terse."), lags)) for _ in range(count)]
        while len(lags.first) < count:
            await asyncio.sleep(0.05)
        yield tasks
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def measure_cancel(url: str, count: int) -> float:
    """Print how long it takes until nothing is open when all is cancelled in one go; the best of some tries."""
    print(f"{count:,} agents cancelled in one go: the last task ended, the server saw the last connection closed, CPU")
    return min([await cancelled(url, count) for _ in range(TRIES)])


async def cancelled(url: str, count: int) -> float:
    async with httpx.AsyncClient(trust_env=False) as control, held(url, count) as tasks:
        open_before, _ = await state(control, url)
        assert open_before == count, f"{open_before} connections for {count} agents"
        before, spent = time.monotonic(), time.process_time()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        ended = time.monotonic() - before
        closed = await closed_at(control, url) - before
        spent = time.process_time() - spent
    print(f"  {ended:6.2f} s {closed:6.2f} s {spent:6.2f} s")
    return closed


async def state(control: httpx.AsyncClient, url: str) -> tuple[int, float]:
    """How many connections the server holds, and when the last one ended."""
    held_now, last = (await control.get(f"{url}/state")).json()
    return held_now, last


async def closed_at(control: httpx.AsyncClient, url: str) -> float:
    """The moment of the end of the last connection.

    Raises:
        TimeoutError: some stay open.
    """
    async with asyncio.timeout(CLOSED * 10):
        while (now := await state(control, url))[0]:
            await asyncio.sleep(0.02)
    return now[1]


# ==== all of it ====


def agents_allowed() -> int:
    """As many as this process may open connections, with a word if those are fewer."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most == resource.RLIM_INFINITY or most >= AGENTS + SPARE:
        return AGENTS
    print(f"only {most:,} files may be open, so there are {most - SPARE:,} agents and not {AGENTS:,}")
    return most - SPARE


def main() -> None:
    """Print the tables; fail where a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    count = agents_allowed()  # also in the server, which has as many connections
    loopback.options(parser, lambda: loopback.listen(Server().handle))
    with loopback.served_by(__file__) as url:
        idle = asyncio.run(measure_idle(url))
        waiting = asyncio.run(measure_after_a_round(url))
        asyncio.run(measure_held(url, count))
        asyncio.run(measure_streams(url, count))
        closed = asyncio.run(measure_cancel(url, count))
    for name, each in {"new": idle, "behind a round": waiting}.items():
        assert each < IDLE_KB, f"an agent that is {name} takes {each:.1f} kB; the bound is {IDLE_KB}"
    assert closed < CLOSED, f"the last connection was closed after {closed:.2f} s; the bound is {CLOSED}"


if __name__ == "__main__":
    main()

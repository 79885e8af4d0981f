"""What a round with tools costs: CPU of two turns, eight parallel calls and then a text of 100 deltas.

A loopback server in another process sends the calls when the user spoke last, and the text after results: once as one
body with a Content-Length and once with one HTTP chunk per event, where most of the time is httpx's own. The figures
are CPU of this process alone. `step` is compared with the same two requests made by httpx and `from_json`, the calls
awaited one after the other, and with kosong's `step` where kosong is installed. Each has an httpx client of its own,
made alike, and they take turns. In each repetition the best round of each counts, and of the ratios the median.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import httpx
from pydantic import BaseModel
from pydantic_core import from_json, to_json

from kimi_agent import CallableTool2, Kimi, Message, SimpleToolset, ToolOk, ToolReturnValue, step
from kimi_agent import tool_result_to_message as answered

CALLS = 8
DELTAS = 100
BOUNDS = {"one body": 1 / 5, "one HTTP chunk per event": 1 / 3}
"""Share of kosong's CPU for the same round that a round may take. With a chunk per event httpx alone takes a fifth."""
LIMIT = 300.0
"""Seconds after which the whole is given up."""

SYSTEM = "You are a precise math tutor."
QUESTION = "Please add these eight pairs of numbers."
NAME, DESCRIPTION = "add", "Add two integers."
MODEL, KEY = "kimi-k3", "sk-test"


# ==== the server, in a process of its own ====


def event(delta: dict[str, object], **more: object) -> bytes:
    """A chunk as Kimi streams it."""
    body = {
        "id": "chatcmpl-2fd89a86-2ca0-983f-b91a-01c260395d0a",
        "object": "chat.completion.chunk",
        "created": 1787771120,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "finish_reason": None, **more}],
    }
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def call(number: int) -> list[bytes]:
    """The events of a call: one opens it, two bring its arguments."""
    head = {"id": f"add_{number}", "type": "function", "function": {"name": NAME, "arguments": ""}}
    pieces = [{"function": {"arguments": text}} for text in (f'{{"a": {number},', f' "b": {number * number}}}')]
    return [event({"tool_calls": [{"index": number, **piece}]}) for piece in (head, *pieces)]


def answer(events: list[bytes], finish_reason: str) -> list[bytes]:
    """All events of an answer."""
    usage = {"prompt_tokens": 90, "completion_tokens": 100, "total_tokens": 190}
    last = event({}, finish_reason=finish_reason, usage=usage)
    return [event({"role": "assistant", "content": ""}), *events, last, b"data: [DONE]\n\n"]


ANSWERS = {
    "user": answer([piece for number in range(CALLS) for piece in call(number)], "tool_calls"),
    "tool": answer([event({"content": f" word{number % 97}"}) for number in range(DELTAS)], "stop"),
}
"""By who spoke last."""

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: keep-alive\r\n"


def in_one_body(events: list[bytes]) -> list[bytes]:
    body = b"".join(events)
    return [HEAD + b"content-length: %d\r\n\r\n" % len(body) + body]


def in_chunks(events: list[bytes]) -> list[bytes]:
    chunks = [b"%x\r\n%s\r\n" % (len(data), data) for data in events]
    return [HEAD + b"transfer-encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"]


DELIVERIES = {"one body": in_one_body, "one HTTP chunk per event": in_chunks}
"""How an answer travels: the writes that it is sent in."""


async def serve() -> None:
    """Answer by who spoke last, each delivery below a path of its own. Ends with its standard input."""
    answers = {
        (b"/%d/chat/completions" % number, role): writes(events)
        for number, writes in enumerate(DELIVERIES.values())
        for role, events in ANSWERS.items()
    }

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.split(b": ", 1) for line in head.lower().splitlines()[1:-1])
                request = json.loads(await reader.readexactly(int(fields[b"content-length"])))
                for piece in answers[head.split(b" ", 2)[1], request["messages"][-1]["role"]]:
                    writer.write(piece)
                    await asyncio.sleep(0)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


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


def kosong_round(url: str, client: httpx.AsyncClient) -> Round:
    """The same with kosong.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    import kosong
    from kosong import message, tooling
    from kosong.chat_provider.kimi import Kimi
    from kosong.tooling.simple import SimpleToolset

    class Add(tooling.CallableTool2[Pair]):
        name: str = NAME
        description: str = DESCRIPTION
        params: type[Pair] = Pair

        async def __call__(self, params: Pair) -> tooling.ToolReturnValue:
            return tooling.ToolOk(output=await add(params.a, params.b))

    kimi = Kimi(model=MODEL, base_url=url, api_key=KEY, max_retries=0, http_client=client)
    toolset = SimpleToolset([Add()])

    def as_message(result: Any) -> Any:
        return message.Message(role="tool", tool_call_id=result.tool_call_id, content=result.return_value.output)

    async def run() -> Outcome:
        history = [message.Message(role="user", content=QUESTION)]
        first = await kosong.step(kimi, SYSTEM, toolset, history)
        results = await first.tool_results()
        history = [*history, first.message, *map(as_message, results)]
        second = await kosong.step(kimi, SYSTEM, toolset, history)
        return [result.return_value.output for result in results], second.message.extract_text()

    return run


FLOOR, OURS, PEER = "httpx + from_json + 8 awaits", "kimi_agent.step", "kosong.step"
CONTESTANTS = {FLOOR: floor_round, OURS: our_round, PEER: kosong_round}


# ==== the figures ====

SUMS = [str(number + number * number) for number in range(CALLS)]


async def cpu(run: Round) -> float:
    """Milliseconds of CPU of this process for a round."""
    before = time.process_time()
    sums, text = await run()
    spent = time.process_time() - before
    assert sums == SUMS, f"{sums} instead of {SUMS}"
    assert text.count("word") == DELTAS, f"{text.count('word')} deltas instead of {DELTAS}"
    return spent * 1e3


async def measure(url: str, names: list[str], repetitions: int, rounds: int) -> list[dict[str, float]]:
    """The best round of each contestant, by repetition. The first repetition warms up and does not count."""
    async with asyncio.timeout(LIMIT), AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(httpx.AsyncClient(trust_env=False)) for name in names}
        contestants = {name: CONTESTANTS[name](url, client) for name, client in clients.items()}
        best = [dict.fromkeys(names, float("inf")) for _ in range(repetitions + 1)]
        for costs in best:
            for _ in range(rounds):
                for name, run in contestants.items():
                    costs[name] = min(costs[name], await cpu(run))
    return best[1:]


def ratio(best: list[dict[str, float]], name: str, other: str) -> float:
    """How many times the CPU of `other` `name` takes: the median of the repetitions."""
    return statistics.median(costs[name] / costs[other] for costs in best)


def print_table(delivery: str, best: list[dict[str, float]]) -> None:
    print(f"a round of {CALLS} calls and {DELTAS} text deltas, {delivery}: CPU per round")
    for name in best[0]:
        cost = statistics.median(costs[name] for costs in best)
        compared = PEER in best[0] and name != PEER
        share = f"   1/{ratio(best, PEER, name):.2f} of kosong's" if compared else ""
        print(f"  {name:28} {cost:7.2f} ms   {ratio(best, name, FLOOR):5.2f} x{share}")


def peer_version() -> str | None:
    """Of kosong; `None` where it is not installed."""
    try:
        return importlib.metadata.version("kosong")
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Print the table; fail where the bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=40, help="per contestant and repetition")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
        return
    peer = peer_version()
    names = [name for name in CONTESTANTS if name != PEER or peer]
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        figures = [
            asyncio.run(measure(f"{url}/{number}", names, options.repetitions, options.rounds))
            for number in range(len(DELIVERIES))
        ]
        server.communicate("")
    for delivery, best in zip(DELIVERIES, figures, strict=True):
        print_table(delivery, best)
    if peer is None:
        print("kosong is not installed, so nothing is compared with it: pip install kosong (Python 3.12 or later)")
        return
    for (delivery, bound), best in zip(BOUNDS.items(), figures, strict=True):
        share = ratio(best, OURS, PEER)
        assert share <= bound, f"{delivery}: {share:.3f} of what kosong {peer} takes; the bound is {bound:.3f}"


if __name__ == "__main__":
    main()

"""What the benches speak with: a server on the loopback interface, in a process of its own, and its answers.

The server sends bytes that were made beforehand and looks at nothing but what it has to: what it costs is not measured,
and it is the same for whoever asks. Nothing beside the standard library is imported, so that any environment has it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

MODEL, KEY = "kimi-k3", "sk-test"

# ==== answers ====


def event(delta: dict[str, object], finish_reason: str | None = None, **more: object) -> bytes:
    """A chunk as Kimi streams it."""
    body = {
        "id": "chatcmpl-2fd89a86-2ca0-983f-b91a-01c260395d0a",
        "object": "chat.completion.chunk",
        "created": 1787771120,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason, **more}],
    }
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def answer(deltas: Sequence[bytes], finish_reason: str = "stop") -> list[bytes]:
    """All events of an answer, the usage at its end."""
    usage = {"prompt_tokens": 90, "completion_tokens": len(deltas), "total_tokens": 90 + len(deltas)}
    last = event({}, finish_reason, usage=usage)
    return [event({"role": "assistant", "content": ""}), *deltas, last, b"data: [DONE]\n\n"]


def words(count: int) -> list[bytes]:
    """So many deltas of text, a word each."""
    return [event({"content": f" word{number % 97}"}) for number in range(count)]


def additions(count: int) -> list[bytes]:
    """So many parallel calls of `add`: an event opens each, two bring its arguments."""
    return [event({"tool_calls": [piece]}) for number in range(count) for piece in _addition(number)]


def _addition(number: int) -> list[dict[str, object]]:
    opening = {"id": f"add_{number}", "type": "function", "function": {"name": "add", "arguments": ""}}
    texts = f'{{"a": {number},', f' "b": {number * number}}}'
    return [{"index": number, **piece} for piece in (opening, *({"function": {"arguments": text}} for text in texts))]


def sums(count: int) -> list[str]:
    """What these calls give."""
    return [str(number + number * number) for number in range(count)]


# ==== how an answer travels ====

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: keep-alive\r\n"


@dataclass(frozen=True)
class Delivery:
    """The writes that an answer is sent in.

    Args:
        writes: one after the other.
        pause: seconds between two of them.
    """

    writes: Sequence[bytes]
    pause: float = 0.0


def in_one_body(events: Sequence[bytes]) -> Delivery:
    """One write, with a Content-Length."""
    body = b"".join(events)
    return Delivery([HEAD + b"content-length: %d\r\n\r\n" % len(body) + body])


def in_chunks(events: Sequence[bytes], pause: float = 0.0) -> Delivery:
    """One HTTP chunk and one write per event."""
    chunks = [b"%x\r\n%s\r\n" % (len(data), data) for data in events]
    return Delivery([HEAD + b"transfer-encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"], pause)


# ==== the server ====

Answers: TypeAlias = Callable[[bytes, bytes], Delivery]
"""By the path and the body of a request."""


async def serve(answers: Answers) -> None:
    """Print the port, answer every request, and end with the standard input."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                path, body = await request(reader)
                delivery = answers(path, body)
                for piece in delivery.writes:
                    writer.write(piece)
                    await asyncio.sleep(delivery.pause)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    await listen(handle)


async def listen(handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]) -> None:
    """Print the port, handle every connection, and end with the standard input."""
    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Path and body of the next one.

    Raises:
        asyncio.IncompleteReadError: the connection has ended.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.lower().splitlines()[1:-1])
    return head.split(b" ", 2)[1], await reader.readexactly(int(fields.get(b"content-length", 0)))


def options(parser: argparse.ArgumentParser, server: Callable[[], Coroutine[Any, Any, None]]) -> argparse.Namespace:
    """What a bench was told; where it is to be the server, that runs here, and the process ends with it.

    Args:
        parser: of the options of the bench.
        server: runs until it ends with the standard input.
    """
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.serve:
        asyncio.run(server())
        sys.exit()
    return told


@contextmanager
def served_by(bench: str) -> Generator[str, None, None]:
    """The base URL of the server that `python bench --serve` is, while the block runs."""
    command = [sys.executable, str(Path(bench).resolve()), "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.communicate("")

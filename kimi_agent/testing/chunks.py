"""A `Reply` as Kimi puts it on the wire: chunks of a stream, or one completion. Both doubles answer through here.

Everything is a function of its arguments: ids and times are counted or fixed, usage is estimated from what was said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..message import TokenUsage
from .script import Body, Call, Delivery, Recorded, Reply

__all__ = [
    "CREATED",
    "Envelope",
    "PrefixCache",
    "as_events",
    "call_json",
    "completion",
    "ending",
    "events",
    "prompt_tokens",
    "text_completion",
    "text_events",
    "to_json",
    "wrapped",
]

CREATED = 1_790_000_000
"""The time of every answer, in seconds since 1970: a double has no clock."""

DONE = b"data: [DONE]\n\n"


def to_json(value: Any) -> bytes:
    """Compact JSON in UTF-8, characters as they are."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8, but an escape
        return json.dumps(value, separators=(",", ":")).encode()


# ==== usage ====


class PrefixCache:
    """Kimi's prefix cache in small: knows which earlier prompts a prompt begins with."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def read(self, body: Body) -> tuple[int, int]:
        """The tokens of a request's prompt, and how many of them an earlier prompt had; remembers the prompt."""
        digest, size, known = hashlib.blake2b(), 0, 0
        for part in _prompt_parts(body):
            data = to_json(part)
            digest.update(data)
            size += len(data)
            if digest.digest() in self._seen:
                known = size
        self._seen.add(digest.digest())
        return max(1, size // 4), known // 4


def prompt_tokens(body: Body) -> int:
    """The tokens of a request's prompt, as the doubles estimate them."""
    return max(1, sum(len(to_json(part)) for part in _prompt_parts(body)) // 4)


def _prompt_parts(body: Body) -> list[Any]:
    messages = body.get("messages")
    if isinstance(prompt := body.get("prompt"), str):
        messages = [prompt]
    head = [body.get("model"), body.get("tools")]
    return [head, *cast(list[Any], messages)] if isinstance(messages, list) else [head]


def _tokens(text: str) -> int:
    return (len(text) + 3) // 4


def _estimated(reply: Reply, prompt: int, cached: int) -> TokenUsage:
    written = [reply.text, reply.reasoning or "", *(call.name + call.arguments for call in reply.tool_calls)]
    output = max(1, sum(_tokens(text) for text in written))
    return TokenUsage(input_other=prompt - cached, output=output, input_cache_read=cached)


def _usage_json(usage: TokenUsage, reasoning: str | None) -> Body:
    """Usage as Kimi writes it: what is zero is absent."""
    cached = usage.input_cache_read
    found: Body = {"prompt_tokens": usage.input, "completion_tokens": usage.output, "total_tokens": usage.total}
    if cached:
        found |= {"cached_tokens": cached, "prompt_tokens_details": {"cached_tokens": cached}}
    if reasoning:
        found["completion_tokens_details"] = {"reasoning_tokens": min(_tokens(reasoning), usage.output)}
    return found


# ==== answers ====


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an answer needs to know about its request.

    Args:
        number: of the request, from 1.
        model: that was asked.
        prompt_tokens: of the request, estimated.
        cached_tokens: how many of them the cache had.
        include_usage: the request wants a chunk with the usage.
    """

    number: int
    model: str
    prompt_tokens: int
    cached_tokens: int
    include_usage: bool

    @property
    def id(self) -> str:
        """Of the answer."""
        return f"chatcmpl-{self.number}"

    def usage(self, reply: Reply) -> Body:
        """What `reply` costs, as Kimi writes it."""
        usage = reply.usage or _estimated(reply, self.prompt_tokens, self.cached_tokens)
        return _usage_json(usage, reply.reasoning)

    def wrap(self, kind: str, choices: Sequence[Body], **more: Any) -> Body:
        """`choices` in the object that Kimi sends them in."""
        return {"id": self.id, "object": kind, "created": CREATED, "model": self.model, "choices": choices, **more}


def finish_reason(reply: Reply) -> str:
    """Why the reply ends."""
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def completion(reply: Reply, envelope: Envelope) -> Body:
    """The reply as the one body of an answer that is not streamed."""
    message: Body = {"role": "assistant", "content": reply.text}
    if reply.reasoning is not None:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["tool_calls"] = [
            {"index": index, **call_json(call, index, call.arguments)} for index, call in enumerate(reply.tool_calls)
        ]
    choice = {"index": 0, "message": message, "finish_reason": finish_reason(reply)}
    return envelope.wrap("chat.completion", [choice], usage=envelope.usage(reply))


def chunks(reply: Reply, envelope: Envelope, *, finish: bool = True) -> Iterator[Body]:
    """The reply as the chunks of a stream, in the order that Kimi sends them."""
    yield from wrapped(_deltas(reply), envelope)
    yield from ending(reply, envelope, finish=finish)


def wrapped(deltas: Iterable[Body], envelope: Envelope) -> Iterator[Body]:
    """A chunk for each delta, after the one that tells whose they are."""
    for delta in ({"role": "assistant", "content": ""}, *deltas):
        yield _chunk(envelope, {"index": 0, "delta": delta, "finish_reason": None})


def ending(reply: Reply, envelope: Envelope, *, finish: bool = True) -> Iterator[Body]:
    """The chunks that end the stream of a reply: why it ends, and what it cost."""
    usage = envelope.usage(reply)
    if finish:
        yield _chunk(envelope, {"index": 0, "delta": {}, "finish_reason": finish_reason(reply), "usage": usage})
    if envelope.include_usage:
        yield envelope.wrap("chat.completion.chunk", [], usage=usage)


def text_completion(body: Body) -> Body:
    """A completion, or a chunk of one, as a text completion has it."""
    choices: list[Body] = [_of_text(choice) for choice in body.get("choices") or ()]
    return {**body, "object": "text_completion", "choices": choices}


def _of_text(choice: Body) -> Body:
    said: Body = choice.get("delta") or choice.get("message") or {}
    text = said.get("content") or ""
    return {"index": choice["index"], "text": text, "logprobs": None, "finish_reason": choice.get("finish_reason")}


def text_events(events: Iterable[bytes]) -> list[bytes]:
    """The events of a streamed answer as those of a text completion."""
    return [
        event if event == DONE else b"data: " + to_json(text_completion(json.loads(event[6:]))) + b"\n\n"
        for event in events
    ]


def events(answer: Reply | Recorded, envelope: Envelope, delivery: Delivery) -> list[bytes]:
    """The server-sent events of a streamed answer."""
    if isinstance(answer, Reply):
        data: Iterable[bytes] = map(to_json, chunks(answer, envelope, finish=delivery.finish))
    else:
        data = _recorded(answer.chunks)
    return as_events(data, done=delivery.done)


def as_events(data: Iterable[bytes], *, done: bool) -> list[bytes]:
    """Each item as an event; then, if it is `done`, the event that says so."""
    found = [b"data: " + item + b"\n\n" for item in data]
    return [*found, DONE] if done else found


def _recorded(source: Sequence[Mapping[str, Any]] | Path) -> list[bytes]:
    if isinstance(source, Path):
        return [line for line in source.read_bytes().splitlines() if line.strip()]
    return [to_json(chunk) for chunk in source]


def _chunk(envelope: Envelope, choice: Body) -> Body:
    return envelope.wrap("chat.completion.chunk", [choice])


def _deltas(reply: Reply) -> Iterator[Body]:
    if reply.reasoning is not None:
        for piece in _pieces(reply.reasoning, reply.chunk_size):
            yield {"reasoning_content": piece}
        yield {"reasoning_content": ""}
    for piece in _pieces(reply.text, reply.chunk_size):
        yield {"content": piece}
    for index, call in enumerate(reply.tool_calls):
        yield {"tool_calls": [{"index": index, **call_json(call, index, "")}]}
        for piece in _pieces(call.arguments, reply.chunk_size):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def call_json(call: Call, index: int, arguments: str) -> Body:
    """A call as Kimi writes it, with that much of its arguments."""
    call_id = f"{call.name}_{index}" if call.id is None else call.id
    return {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _pieces(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))

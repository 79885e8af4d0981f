"""Recorded answers, cut, shortened and damaged at random: the same answer, an error of the tree, and nothing else.

`KIMI_AGENT_FUZZ` is the number of damaged bodies. One that fails names its seed, with which `case` makes it again.
"""

import asyncio
import json
import os
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kimi_agent.errors import APIConnectionError, ChatProviderError, RateLimitError, ServerError, StreamInterruptedError
from kimi_agent.events import Append, End, Reasoning, StreamFrame
from kimi_agent.kimi.answer import KimiStreamedMessage
from kimi_agent.kimi.status import is_retryable, status_error
from kimi_agent.kimi.wire import Dialect, messages_json
from kimi_agent.message import Message
from kimi_agent.testing import Call, Delivery, Reply
from kimi_agent.testing.chunks import Envelope, completion, events, to_json

CASES = int(os.environ.get("KIMI_AGENT_FUZZ", "2000"))
BLOCK = 2_000
STREAMS = ("k3-text-live", "v1-text-live", "indexless-tools", "error-midstream")
WHOLE_STREAMS = STREAMS[:3]


# ==== reading from the memory ====


class Memory:
    """A body that is there already, in pieces; in the end the connection breaks, or it ends well."""

    def __init__(
        self, pieces: Iterable[bytes], content_type: str = "text/event-stream", *, breaks: bool = False
    ) -> None:
        self.headers: Mapping[str, str] = {"content-type": content_type}
        self._pieces = iter(pieces)
        self._breaks = breaks

    async def read(self) -> bytes | None:
        piece = next(self._pieces, None)
        if piece is None and self._breaks:
            raise APIConnectionError("the connection broke")
        return piece

    read_near_end = read

    async def aclose(self) -> None:
        pass


class Outcome(NamedTuple):
    """What an answer came to: its frames, and the error that it ended with."""

    frames: list[StreamFrame]
    error: ChatProviderError | None

    @property
    def end(self) -> End:
        """Of an answer that ended well."""
        assert self.error is None
        end = self.frames[-1]
        assert isinstance(end, End)
        return end

    @property
    def said(self) -> tuple[list[StreamFrame], str]:
        """Something that compares: errors do not."""
        return joined(self.frames), f"{type(self.error).__name__}: {self.error}"


def joined(frames: Iterable[StreamFrame]) -> list[StreamFrame]:
    """The frames with neighbours of a kind as one: how a text is cut into pieces is not what it says."""
    found: list[StreamFrame] = []
    for frame in frames:
        last = found[-1] if found else None
        if isinstance(frame, Append | Reasoning) and isinstance(last, Append | Reasoning) and type(last) is type(frame):
            found[-1] = type(frame)(last.text + frame.text)
        else:
            found.append(frame)
    return found


async def outcome(body: Memory) -> Outcome:
    frames: list[StreamFrame] = []
    stream = KimiStreamedMessage(body)
    try:
        async for batch in stream.batches():
            assert batch, "a batch without a frame"
            frames += batch
    except ChatProviderError as error:
        return Outcome(frames, error)
    return Outcome(frames, None)


# ==== bodies ====


def recorded(data: Path, name: str) -> list[bytes]:
    """The events of a recorded stream."""
    lines = (data / "streams" / f"{name}.jsonl").read_bytes().splitlines()
    return [b"data: " + line + b"\n\n" for line in lines] + [b"data: [DONE]\n\n"]


def cut(body: bytes, positions: Iterable[int]) -> list[bytes]:
    return [body[start:end] for start, end in pairwise([0, *sorted(positions), len(body)])]


def bytewise(body: bytes) -> list[bytes]:
    return [body[place : place + 1] for place in range(len(body))]


# ==== cut ====


@pytest.mark.parametrize("name", STREAMS)
async def test_a_recorded_stream_cut_at_any_place_says_the_same(data: Path, name: str) -> None:
    body = b"".join(recorded(data, name))
    unsplit = (await outcome(Memory([body]))).said
    for place in range(len(body) + 1):
        assert (await outcome(Memory([body[:place], body[place:]]))).said == unsplit, f"cut at {place}"


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=repr)
@pytest.mark.parametrize("name", STREAMS)
async def test_a_recorded_stream_byte_by_byte_says_the_same(data: Path, name: str, end: bytes) -> None:
    body = b"".join(recorded(data, name))
    unsplit = (await outcome(Memory([body]))).said
    assert (await outcome(Memory(bytewise(body.replace(b"\n", end))))).said == unsplit


# ==== shortened ====


def size_that_suffices(parts: Sequence[bytes], last: bytes) -> int:
    """How many bytes have to come: all up to the event with `last`, whose blank line may be missing."""
    number = next(number for number, event in enumerate(parts) if last in event)
    return len(b"".join(parts[: number + 1])) - len(b"\n\n")


def is_beginning(partial: Message, whole: Message) -> bool:
    """Whether a message is another one as far as it had come."""
    calls, whole_calls = partial.tool_calls or (), whole.tool_calls or ()
    return (
        whole.text.startswith(partial.text)
        and (whole.reasoning or "").startswith(partial.reasoning or "")
        and len(calls) <= len(whole_calls)
        and all(
            (call.id, call.name) == (full.id, full.name) and full.arguments.startswith(call.arguments)
            for call, full in zip(calls, whole_calls, strict=False)
        )
    )


@pytest.mark.parametrize("breaks", [False, True], ids=["ends", "breaks"])
@pytest.mark.parametrize("name", WHOLE_STREAMS)
async def test_a_recorded_stream_that_stops_before_it_is_whole_is_interrupted(
    data: Path, name: str, breaks: bool
) -> None:
    parts = recorded(data, name)
    body, enough = b"".join(parts), size_that_suffices(parts, b'"delta":{}')
    whole = (await outcome(Memory([body]))).end
    came: set[str] = set()
    for size in range(enough):
        error = (await outcome(Memory([body[:size]], breaks=breaks))).error
        assert isinstance(error, StreamInterruptedError), f"stopped after {size}"
        assert is_beginning(error.partial, whole.message), f"stopped after {size}"
        came.add(error.partial.model_dump_json())
    assert len(came) > 1
    for size in range(enough if not breaks else enough + 2, len(body) + 1):
        end = (await outcome(Memory([body[:size]], breaks=breaks))).end
        assert (end.message, end.finish_reason) == (whole.message, whole.finish_reason), f"stopped after {size}"


async def test_a_recorded_stream_with_an_error_is_interrupted_or_that_error(data: Path) -> None:
    parts = recorded(data, "error-midstream")
    body, enough = b"".join(parts), size_that_suffices(parts, b'"error"')
    for size in range(len(body) + 1):
        error = (await outcome(Memory([body[:size]]))).error
        assert type(error) is (StreamInterruptedError if size < enough else ServerError), f"stopped after {size}"


# ==== damaged ====

ENVELOPE = Envelope(1, "kimi-k3", 100, 50, include_usage=True)
REPLY = Reply(
    "天气: four degrees, \\u0000 \U0001f326️",
    reasoning="Two cities, \n\none call each.",
    tool_calls=(Call("get_weather", '{"city": "Oslo", "of": [1, {"a": null}]}'), Call("get_time")),
    chunk_size=7,
)
SLOPPY: list[dict[str, Any]] = [
    {"choices": [{"delta": {"role": "assistant", "reasoning": "Hm", "reasoning_details": [{"text": "Hm"}]}}]},
    {"choices": [{"delta": {"content": "x"}, "logprobs": {"content": [{"token": "x", "logprob": -1}]}}]},
    {"choices": [{"delta": {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{"}}]}}]},
    {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "}"}}]}, "index": 0}]},
    {"choices": [{"delta": {"tool_calls": [{"function": {"name": "g", "arguments": "{}"}, "index": "b"}]}}]},
    {"choices": [{"delta": None, "finish_reason": "stop", "usage": {"prompt_tokens": 5, "cached_tokens": 2}}]},
]
MADE = [
    b"".join(events(REPLY, ENVELOPE, Delivery())),
    b"".join(events(REPLY, ENVELOPE, Delivery())).replace(b"\n", b"\r\n"),
    b"\xef\xbb\xbf: hi\n\n" + b"".join(b"event: message\ndata: " + to_json(chunk) + b"\n\n" for chunk in SLOPPY),
    to_json(completion(REPLY, ENVELOPE)),
    b'event: error\ndata: {"error": {"message": "please try again after 5 s", "type": "rate_limit_reached_error"}}\n\n',
]

TOKENS = [
    b"\n",
    b"\n\n",
    b"\r",
    b"\r\n",
    b"data: ",
    b"data",
    b"event: error\n",
    b"event: x\n",
    b": ",
    b"[DONE]",
    b"\x00",
]
TOKENS += [
    b"data: [DONE]\n\n",
    b'"',
    b"\\",
    b"\\u",
    b"\\ud83c",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\xff",
    b"\xef\xbb\xbf",
]
TOKENS += [b'"error": ', b'"index": 1, ', b'"finish_reason": "length", ', b"\xe2\x80\xa8", b"[" * 3000, b'{"a":' * 3000]
VALUES = [b"null", b"true", b"-1", b"0", b"1", b"0.5", b"1e999", b"9" * 400, b"NaN", b'""', b'"x"', b'"\\ud800"', b"[]"]
VALUES += [
    b"{}",
    b"[null]",
    b'[{"index": 1}]',
    b'{"choices": []}',
    b'{"content": 5}',
    b'"tool_calls"',
    b'{"message": [1]}',
]
VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.e+-]*|null|true|\[\]|\{\}')

Damage = Callable[[bytes, random.Random], bytes]


def span(body: bytes, source: random.Random) -> tuple[int, int]:
    start = source.randrange(len(body) + 1)
    return start, min(len(body), start + int(source.paretovariate(0.5)))


def flipped(body: bytes, source: random.Random) -> bytes:
    place = source.randrange(len(body) or 1)
    return body[:place] + bytes([source.randrange(256)]) + body[place + 1 :]


def deleted(body: bytes, source: random.Random) -> bytes:
    start, end = span(body, source)
    return body[:start] + body[end:]


def doubled(body: bytes, source: random.Random) -> bytes:
    start, end = span(body, source)
    return body[:end] + body[start:end] + body[end:]


def inserted(body: bytes, source: random.Random) -> bytes:
    place = source.randrange(len(body) + 1)
    return body[:place] + source.choice(TOKENS) + body[place:]


def with_another_value(body: bytes, source: random.Random) -> bytes:
    """One value, or the name of a field, is another one: the JSON stays whole."""
    found = [match.span() for match in VALUE.finditer(body)]
    start, end = source.choice(found or [(0, 0)])
    return body[:start] + source.choice(VALUES) + body[end:]


DAMAGES: list[Damage] = [
    flipped,
    deleted,
    doubled,
    inserted,
    with_another_value,
    with_another_value,
    with_another_value,
]


def damaged(body: bytes, source: random.Random) -> bytes:
    for _ in range(source.choice((1, 1, 1, 2, 3, 6))):
        body = source.choice(DAMAGES)(body, source)
    return body


def case(bodies: Sequence[bytes], seed: int) -> tuple[bytes, Memory]:
    """A damaged body and how it arrives."""
    source = random.Random(seed)
    body = damaged(source.choice(bodies), source)
    positions = [source.randrange(len(body) + 1) for _ in range(source.randrange(6))]
    return body, case_of(body, positions, breaks=source.random() < 0.1)


def case_of(body: bytes, positions: Iterable[int] = (), *, breaks: bool = False) -> Memory:
    content_type = "application/json" if body.lstrip()[:1] == b"{" else "text/event-stream"
    return Memory(cut(body, positions), content_type, breaks=breaks)


def check(found: Outcome) -> None:
    """An answer that ended well has one end, and a message that can be kept and sent again."""
    if found.error is not None:
        assert not any(isinstance(frame, End) for frame in found.frames)
        return
    message = found.end.message
    assert sum(isinstance(frame, End) for frame in found.frames) == 1
    assert Message.model_validate(message.model_dump()) == message
    assert all(isinstance(json.loads(body), dict) for body in messages_json(Dialect(), "", [message]))
    texts = "".join([frame.text for frame in found.frames if isinstance(frame, Append)])
    assert texts.encode("utf-16-le", "surrogatepass") == message.text.encode("utf-16-le", "surrogatepass")
    ids = [call.id for call in message.tool_calls or ()]
    assert len(set(ids)) == len(ids)
    usage = found.end.usage
    assert usage is None or min(usage.input_other, usage.output, usage.input_cache_read) >= 0


async def run(bodies: Sequence[bytes], seeds: range) -> list[tuple[Any, ...]]:
    """What each case comes to. Whatever else goes wrong names its seed."""
    said: list[tuple[Any, ...]] = []
    for seed in seeds:
        body, memory = case(bodies, seed)
        try:
            found = await outcome(memory)
            check(found)
            refusal = status_error(400 + seed % 200, body, {"retry-after": body[:20].decode("latin-1")})
            said.append((*found.said, type(refusal), str(refusal), is_retryable(refusal)))
        except Exception as error:
            raise AssertionError(f"seed {seed} with {body!r}") from error
    return said


@pytest.mark.parametrize("start", range(0, CASES, BLOCK))
async def test_a_damaged_body_is_an_answer_or_an_error_of_the_tree(start: int) -> None:
    seeds = range(start, min(start + BLOCK // 2, CASES))
    await run(MADE, seeds)


@pytest.mark.parametrize("start", range(0, CASES, BLOCK))
async def test_a_damaged_recording_is_an_answer_or_an_error_of_the_tree(data: Path, start: int) -> None:
    seeds = range(start + BLOCK // 2, min(start + BLOCK, CASES))
    recordings = [b"".join(recorded(data, name)) for name in STREAMS]
    await run([*MADE, *recordings], seeds)


async def test_without_damage_each_body_is_what_it_says() -> None:
    *answers, error = [await outcome(case_of(body)) for body in MADE]
    assert [(found.end.message.text != "", len(found.end.message.tool_calls or ())) for found in answers] == [
        (True, 2)
    ] * 4
    assert isinstance(error.error, RateLimitError)


def test_damage_leads_everywhere() -> None:
    """Else the cases above would say little: answers end well, are cut, are no answers, and tell of errors."""
    ends = [said[1].partition(":")[0] for said in asyncio.run(run(MADE, range(400)))]
    for kind in ("NoneType", "StreamInterruptedError", "StreamProtocolError", "ServerError", "RateLimitError"):
        assert ends.count(kind) > 4, kind


def test_a_case_comes_to_the_same_each_time() -> None:
    first, second = (asyncio.run(run(MADE, range(200))) for _ in range(2))
    assert first == second

"""Recorded streams over TCP, cut at random places, give what they give in one piece."""

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kimi_agent import Agent, Kimi, ai_function, generate
from kimi_agent.errors import ServerError, StreamInterruptedError
from kimi_agent.events import End, ToolCallDelta
from kimi_agent.generate import GenerateResult
from kimi_agent.message import Message, ThinkPart, TokenUsage, ToolCall
from kimi_agent.testing import Answer, Delivery, KimiServer, Recorded, say

SEEDS = range(25)
QUESTION = Message.user("Hello")
K3_USAGE = TokenUsage(input_other=0, output=50, input_cache_read=90)
V1_USAGE = TokenUsage(input_other=11, output=2)
CALLS_USAGE = TokenUsage(input_other=61, output=25)

WHOLE = {
    "k3-text-live": ("OK", "stop", K3_USAGE),
    "v1-text-live": ("OK", "stop", V1_USAGE),
    "indexless-tools": ("", "tool_calls", CALLS_USAGE),
}
"""What each stream says: its text, its finish reason, its cost."""


class Travel(Agent):
    """Has the functions that the recorded stream calls."""

    @ai_function()
    def weather(self, location: str) -> str:
        return f"4 degrees in {location}"

    @ai_function()
    def time(self, zone: str) -> str:
        return f"noon {zone}"


def stream(data: Path, name: str) -> Path:
    return data / "streams" / f"{name}.jsonl"


def cuts(path: Path, seed: int) -> Delivery:
    """The body of a recorded stream in up to 40 pieces, or byte by byte."""
    size = path.stat().st_size + 8 * len(path.read_bytes().splitlines()) + 16
    source = random.Random(seed)
    positions = range(size) if seed == 0 else sorted(source.sample(range(size), source.randint(1, 40)))
    return Delivery(cuts=list(positions))


@asynccontextmanager
async def kimi_for(*script: Answer) -> AsyncIterator[Kimi]:
    async with KimiServer(script) as server:
        async with Kimi(api_key=server.api_key, base_url=server.base_url, max_retries=0) as kimi:
            yield kimi
        server.assert_complete()


async def replayed(path: Path, delivery: Delivery) -> GenerateResult:
    async with kimi_for(Recorded(path, delivery)) as kimi:
        return await generate(kimi, "", [], [QUESTION])


# ==== generate ====


@pytest.mark.parametrize("name", WHOLE)
async def test_a_recorded_stream_gives_the_same_result_in_any_pieces(data: Path, name: str) -> None:
    path = stream(data, name)
    unsplit = await replayed(path, Delivery(whole=True))
    assert (unsplit.message.text, unsplit.finish_reason, unsplit.usage) == WHOLE[name]
    assert unsplit.id == json.loads(path.read_bytes().splitlines()[0])["id"]
    for seed in SEEDS:
        assert await replayed(path, cuts(path, seed)) == unsplit, f"seed {seed}"


async def test_the_reasoning_of_a_recorded_stream_is_kept_whole(data: Path) -> None:
    path = stream(data, "k3-text-live")
    deltas = [json.loads(line)["choices"] for line in path.read_bytes().splitlines()]
    thoughts = "".join(choices[0]["delta"].get("reasoning_content", "") for choices in deltas if choices)
    message = (await replayed(path, cuts(path, 1))).message
    assert message.parts[0] == ThinkPart(think=thoughts)
    assert len(message.parts) == 2


async def test_the_calls_of_a_recorded_stream_without_indexes_are_whole(data: Path) -> None:
    path = stream(data, "indexless-tools")
    calls = (await replayed(path, cuts(path, 1))).message.tool_calls or ()
    assert [(call.id, call.name, call.args) for call in calls] == [
        ("weather_0", "weather", {"location": "San Francisco"}),
        ("time_1", "time", {"zone": "UTC"}),
    ]


async def test_an_error_in_a_recorded_stream_is_that_error_in_any_pieces(data: Path) -> None:
    path = stream(data, "error-midstream")
    for seed in SEEDS:
        parts: list[Any] = []
        async with kimi_for(Recorded(path, cuts(path, seed))) as kimi:
            with pytest.raises(ServerError, match="Stream failed") as caught:
                await generate(kimi, "", [], [QUESTION], on_message_part=parts.append)
        assert (caught.value.type, caught.value.code) == ("server_error", "stream_failure")
        assert "".join(part.text for part in parts) == "Partial", f"seed {seed}"


@pytest.mark.parametrize("name", WHOLE)
async def test_a_recorded_stream_that_stops_before_its_end_is_interrupted(data: Path, name: str) -> None:
    path = stream(data, name)
    body = b"".join(b"data: " + line + b"\n\n" for line in path.read_bytes().splitlines())
    end = body.index(b"data: ", body.rindex(b'"delta":{}') - 400)
    whole = (await replayed(path, Delivery(whole=True))).message
    for seed in SEEDS:
        size = random.Random(seed).randrange(end)
        stop = random.Random(seed).choice(["end", "close"])
        with pytest.raises(StreamInterruptedError) as caught:
            await replayed(path, Delivery(stop_after=size, stop=stop))
        partial = caught.value.partial
        assert whole.text.startswith(partial.text), f"seed {seed}"
        assert (whole.reasoning or "").startswith(partial.reasoning or ""), f"seed {seed}"


# ==== an agent ====


async def round_over(path: Path, delivery: Delivery) -> tuple[list[Message], list[Message], TokenUsage]:
    """The messages of a round, the history after it, and what it cost."""
    async with kimi_for(*answers(path, delivery)) as kimi:
        agent = Travel(kimi)
        messages = [message async for message in agent.full_round("Hello")]
        return messages, agent.chat_history, agent.usage


def answers(path: Path, delivery: Delivery) -> list[Answer]:
    """The recorded stream, and the turn after it if there are calls."""
    last = [say("Noon and cold.")] if "tools" in path.name else []
    return [Recorded(path, delivery), *last]


@pytest.mark.parametrize("name", WHOLE)
async def test_a_round_over_a_recorded_stream_is_the_same_in_any_pieces(data: Path, name: str) -> None:
    path = stream(data, name)
    unsplit = await round_over(path, Delivery(whole=True))
    messages, history, usage = unsplit
    assert history == [QUESTION, *messages]
    assert messages[0].text == WHOLE[name][0]
    assert usage.output >= WHOLE[name][2].output
    for seed in SEEDS:
        assert await round_over(path, cuts(path, seed)) == unsplit, f"seed {seed}"


async def test_the_calls_of_a_recorded_stream_run_once_and_are_answered_in_order(data: Path) -> None:
    path = stream(data, "indexless-tools")
    messages, _, _ = await round_over(path, cuts(path, 1))
    assert [(message.role, message.tool_call_id, message.text) for message in messages] == [
        ("assistant", None, ""),
        ("tool", "weather_0", "4 degrees in San Francisco"),
        ("tool", "time_1", "noon UTC"),
        ("assistant", None, "Noon and cold."),
    ]


@pytest.mark.parametrize("name", WHOLE)
async def test_a_streamed_round_over_a_recorded_stream_is_the_same_in_any_pieces(data: Path, name: str) -> None:
    path = stream(data, name)
    messages, _, _ = await round_over(path, Delivery(whole=True))
    for seed in SEEDS:
        async with kimi_for(*answers(path, cuts(path, seed))) as kimi:
            agent = Travel(kimi)
            streamed: list[Message] = []
            async for part in agent.full_round_stream("Hello"):
                frames = [frame async for frame in part.frames()]
                end = frames[-1]
                if isinstance(end, End):
                    assert (end.finish_reason, end.usage) == (WHOLE[name][1:] if not streamed else ("stop", end.usage))
                    whole = [frame for frame in frames if isinstance(frame, ToolCall)]
                    assert tuple(whole) == (end.message.tool_calls or ())
                    names = [frame.name for frame in frames if isinstance(frame, ToolCallDelta) and frame.name]
                    assert names == [call.name for call in whole]
                streamed.append(await part)
            assert streamed == messages, f"seed {seed}"
            assert agent.chat_history == [QUESTION, *messages]


async def test_an_error_in_a_recorded_stream_leaves_the_history_as_it_was_but_for_the_question(data: Path) -> None:
    path = stream(data, "error-midstream")
    earlier = [Message.user("a"), Message.assistant("b")]
    for seed in SEEDS:
        async with kimi_for(Recorded(path, cuts(path, seed)), say("Now it works.")) as kimi:
            agent = Travel(kimi, chat_history=earlier)
            with pytest.raises(ServerError, match="Stream failed"):
                async for _ in agent.full_round("Hello"):
                    pass
            assert agent.chat_history == [*earlier, QUESTION], f"seed {seed}"
            assert (await agent.chat_round(None)).text == "Now it works."


async def test_an_error_in_a_streamed_round_comes_after_the_text_before_it(data: Path) -> None:
    path = stream(data, "error-midstream")
    for seed in SEEDS:
        texts: list[str] = []
        async with kimi_for(Recorded(path, cuts(path, seed))) as kimi:
            agent = Travel(kimi)
            with pytest.raises(ServerError, match="Stream failed"):
                async for part in agent.full_round_stream("Hello"):
                    async for text in part:
                        texts.append(text)
            assert agent.chat_history == [QUESTION]
        assert "".join(texts) == "Partial", f"seed {seed}"

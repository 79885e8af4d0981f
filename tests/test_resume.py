"""An answer that is cut off is continued where it stopped, and reads as one answer; or it is not, and says so."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from kimi_agent import (
    Agent,
    AIFunction,
    Append,
    ChatProviderError,
    End,
    Kimi,
    Message,
    Reasoning,
    RequestSent,
    StreamInterruptedError,
    TextPart,
    ThinkPart,
    TokenUsage,
    ToolCall,
)
from kimi_agent.generate import collect
from kimi_agent.resume import joined
from kimi_agent.testing import Answer, Call, Delivery, Failure, Gate, KimiServer, Recorded, Reply, ScriptedKimi, say

REASONING, TEXT = "Both are near the sea.", "Bergen is warmer, by three degrees."
WHOLE = Message.assistant([ThinkPart(think=REASONING), TextPart(text=TEXT)])
USAGE = TokenUsage(input_other=10, output=5)


def partial_of(body: dict[str, Any]) -> dict[str, Any] | None:
    last = body["messages"][-1]
    return last if last.get("partial") else None


def rest(body: dict[str, Any], delivery: Delivery | None = None) -> Reply:
    """The answer, or what of it is not in the request yet, as Kimi gives it in partial mode."""
    begun = partial_of(body) or {}
    reasoning = REASONING[len(begun.get("reasoning_content") or "") :]
    text = TEXT[len(begun.get("content") or "") :]
    thinks = None if begun.get("content") else reasoning
    return Reply(text, thinks, usage=USAGE, chunk_size=4, delivery=delivery)


def cutting(*sizes: int, stop: Any = "close") -> Any:
    """Answers that are cut off after so many bytes, one after the other; the one after them is whole."""
    left = list(sizes)

    def answer(body: dict[str, Any]) -> Reply:
        return rest(body, Delivery(stop_after=left.pop(0), stop=stop) if left else None)

    return answer


async def agent_for(server: KimiServer, **options: Any) -> Agent:
    kimi = Kimi(api_key=server.api_key, base_url=server.base_url, max_retries=0)
    return Agent(kimi, **{"resume_interrupted": True, **options})


@pytest.mark.parametrize("stop", ["end", "close"])
async def test_an_answer_cut_off_anywhere_reads_as_one_answer(stop: Any) -> None:
    resumed = 0
    for size in range(400, 4000, 97):
        async with KimiServer(cutting(size, stop=stop)) as server:
            async with await agent_for(server) as agent:
                async for stream in agent.full_round_stream("Which is warmer?"):
                    frames = [frame async for frame in stream.frames()]
            resumed += len(server.requests) - 1
        assert agent.chat_history == [Message.user("Which is warmer?"), WHOLE], size
        assert "".join(frame.text for frame in frames if isinstance(frame, Append)) == TEXT
        assert "".join(frame.text for frame in frames if isinstance(frame, Reasoning)) == REASONING
        assert [type(frame) for frame in frames].count(End) == 1
        assert frames[-1] == End("stop", USAGE, WHOLE)
        kinds = [type(frame) for frame in frames]
        assert kinds == sorted(kinds, key=[Reasoning, Append, End].index), "reasoning comes before text"
    assert resumed > 10


async def test_an_answer_cut_off_several_times_is_continued_each_time() -> None:
    async with KimiServer(cutting(1300, 1500, 900)) as server, await agent_for(server) as agent:
        assert await agent.chat_round("Which is warmer?") == WHOLE
        begun = [partial_of(request.body) for request in server.requests]
    assert begun[0] is None
    sizes = [len(message["content"]) + len(message["reasoning_content"]) for message in begun if message]
    assert len(sizes) == 3
    assert sizes == sorted(sizes)


async def test_the_beginning_goes_back_as_it_came_and_nothing_else_changes() -> None:
    async with KimiServer(cutting(2600)) as server, await agent_for(server, system_prompt="Be terse.") as agent:
        await agent.chat_round("Which is warmer?", stop=["\n\n"])
        first, second = (request.body for request in server.requests)
    begun = second["messages"].pop()
    assert second == first
    assert begun == {
        "role": "assistant",
        "reasoning_content": REASONING,
        "content": TEXT[: len(begun["content"])],
        "partial": True,
    }
    assert begun["content"]


async def test_reasoning_that_was_cut_off_is_continued_as_reasoning() -> None:
    async with KimiServer(cutting(900)) as server, await agent_for(server) as agent:
        assert await agent.chat_round("Which is warmer?") == WHOLE
        begun = partial_of(server.requests[1].body)
    assert begun is not None
    assert begun["content"] == ""
    assert REASONING.startswith(begun["reasoning_content"])
    assert begun["reasoning_content"] not in ("", REASONING)


async def test_an_answer_that_only_lost_its_end_is_whole_with_an_empty_continuation() -> None:
    script = [Reply("Bergen.", delivery=Delivery(finish=False, done=False)), say("")]
    async with KimiServer(script) as server, await agent_for(server) as agent:
        assert (await agent.chat_round("Which is warmer?")).text == "Bergen."


async def test_a_continuation_may_call_functions() -> None:
    cut = Reply("Let me look", chunk_size=11, delivery=Delivery(finish=False, done=False))
    script = [cut, Reply(" it up.", tool_calls=[Call("look", "{}")]), say("Four.")]
    looked: list[int] = []

    async def look() -> str:
        """Look."""
        looked.append(1)
        return "4"

    async with KimiServer(script) as server:
        kimi = Kimi(api_key=server.api_key, base_url=server.base_url, max_retries=0)
        async with Agent(kimi, functions=[AIFunction(look)], resume_interrupted=True) as agent:
            texts = [message.text async for message in agent.full_round("How warm?")]
    assert texts == ["Let me look it up.", "4", "Four."]
    assert looked == [1]


async def test_without_being_asked_nothing_is_glued() -> None:
    async with KimiServer(cutting(2600)) as server, await agent_for(server, resume_interrupted=False) as agent:
        with pytest.raises(StreamInterruptedError) as caught:
            await agent.chat_round("Which is warmer?")
        assert len(server.requests) == 1
    assert TEXT.startswith(caught.value.partial.text)
    assert agent.chat_history == [Message.user("Which is warmer?")]


async def test_a_call_that_was_cut_off_is_not_continued() -> None:
    reply = Reply(tool_calls=[Call("look", '{"where": "everywhere"}')], chunk_size=4)
    cut = Reply(
        reply.text, None, reply.tool_calls, chunk_size=4, delivery=Delivery(stop_after=900, finish=False, done=False)
    )
    async with KimiServer([cut]) as server, await agent_for(server) as agent:
        with pytest.raises(StreamInterruptedError) as caught:
            await agent.chat_round("Look.")
        assert len(server.requests) == 1
    assert [call.name for call in caught.value.partial.tool_calls or ()] == ["look"]


@pytest.mark.parametrize("failure", [Failure(400, "invalid_request_error", "no"), Failure(500, "server_error", "oops")])
async def test_when_going_on_fails_the_error_has_everything_that_came(failure: Answer) -> None:
    cut = Reply("Bergen is", chunk_size=9, delivery=Delivery(finish=False, done=False))
    async with KimiServer([cut, failure]) as server, await agent_for(server) as agent:
        stream = agent.chat_round_stream("Which is warmer?")
        with pytest.raises(StreamInterruptedError, match="could not be continued") as caught:
            await stream
    assert caught.value.partial == Message.assistant("Bergen is")
    assert stream.partial == Message.assistant("Bergen is")
    assert isinstance(caught.value.__cause__, ChatProviderError)
    assert agent.chat_history == [Message.user("Which is warmer?")]


async def test_a_connection_that_never_holds_is_given_up() -> None:
    steps = [Reply("ab", chunk_size=2, delivery=Delivery(finish=False, done=False)) for _ in range(20)]
    async with KimiServer(steps) as server, await agent_for(server) as agent:
        with pytest.raises(StreamInterruptedError) as caught:
            await agent.chat_round("Which is warmer?")
        assert len(server.requests) == 6
    assert caught.value.partial.text == "ab" * 6


async def test_a_stream_that_is_closed_half_way_begins_no_other() -> None:
    gate = Gate(before=3)
    async with KimiServer([Reply("abcdef", chunk_size=2, delivery=Delivery(gate=gate))]) as server:
        async with await agent_for(server) as agent:
            stream = agent.chat_round_stream("Which is warmer?")
            async for _ in stream:
                break
            await stream.aclose()
            await server.until(lambda: not server.connections)
            assert len(server.requests) == 1


async def test_cancelling_the_continuation_leaves_nothing_behind() -> None:
    asked = asyncio.Event()

    async def never(_: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    cut = Reply("Bergen is", chunk_size=9, delivery=Delivery(finish=False, done=False))
    async with KimiServer([cut, never]) as server, await agent_for(server) as agent:
        task = asyncio.create_task(agent.chat_round("Which is warmer?"))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda: not server.connections)
        assert agent.chat_history == [Message.user("Which is warmer?")]


async def test_what_all_requests_cost_is_added_up_and_the_estimate_learns_nothing() -> None:
    heavy = TokenUsage(input_other=900_000, output=1)
    script = [
        Reply("Bergen is", usage=heavy, chunk_size=9, delivery=Delivery(finish=False, done=False)),
        Reply(" warmer.", usage=heavy),
    ]
    async with KimiServer(script) as server, await agent_for(server) as agent:
        before = agent._window.scale
        await agent.chat_round("Which is warmer? " * 200)
        assert agent._window.scale == before
    assert agent.usage.output >= 1


async def test_what_a_host_counted_before_the_break_is_spent_too() -> None:
    def counting(text: str, tokens: int, reason: str | None) -> Recorded:
        usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
        return Recorded([{"choices": [choice], "usage": usage}], Delivery(done=False))

    pieces = [counting("Bergen is", 2, None), counting(" warmer,", 3, None), counting(" by three.", 4, "stop")]
    async with KimiServer(pieces) as server, await agent_for(server) as agent:
        assert (await agent.chat_round("Which is warmer?")).text == "Bergen is warmer, by three."
    assert (agent.usage.requests, agent.usage.input, agent.usage.output) == (3, 30, 9)


async def test_the_handlers_see_each_request_and_one_answer() -> None:
    sent: list[RequestSent] = []
    async with KimiServer(cutting(2600)) as server, await agent_for(server) as agent:
        agent.on(RequestSent, sent.append)
        await agent.chat_round("Which is warmer?")
    assert len(sent) == 2
    assert '"partial":true' in sent[1].body


async def test_it_works_with_any_provider_that_interrupts() -> None:
    cut = Reply("Bergen is", chunk_size=9, delivery=Delivery(finish=False, done=False))
    agent = Agent(ScriptedKimi([cut, say(" warmer.")]), resume_interrupted=True)
    assert (await agent.chat_round("Which is warmer?")).text == "Bergen is warmer."


async def test_its_stream_gives_parts_too() -> None:
    cut = Reply("Bergen is", chunk_size=9, delivery=Delivery(finish=False, done=False))
    agent = Agent(ScriptedKimi([cut, say(" warmer.")]), resume_interrupted=True, chat_history=[Message.user("Well?")])
    stream = await agent.get_model_stream()
    parts = [part async for part in stream]
    assert "".join(part.text for part in parts if isinstance(part, TextPart)) == "Bergen is warmer."
    agent = Agent(ScriptedKimi([cut, say(" warmer.")]), resume_interrupted=True, chat_history=[Message.user("Well?")])
    result = await collect(await agent.get_model_stream())
    assert (result.message.text, result.finish_reason) == ("Bergen is warmer.", "stop")


CALL = ToolCall.from_function("look", call_id_="look_0")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], ["b"], ["b"]),
        (["a"], [], ["a"]),
        (["a"], ["b"], ["ab"]),
        ([ThinkPart(think="x"), "a"], ["b"], [ThinkPart(think="x"), "ab"]),
        ([ThinkPart(think="x")], [ThinkPart(think="y"), "b"], [ThinkPart(think="xy"), "b"]),
        ([ThinkPart(think="x"), "a"], [ThinkPart(think=""), "b"], [ThinkPart(think="x"), "ab"]),
        ([ThinkPart(think="")], ["b"], [ThinkPart(think=""), "b"]),
    ],
)
def test_two_pieces_are_joined(before: Sequence[Any], after: Sequence[Any], expected: Sequence[Any]) -> None:
    made = joined(Message.assistant(before), Message.assistant(after, tool_calls=[CALL]))
    assert made == Message.assistant(expected, tool_calls=[CALL])


# ==== answers that the caller begins ====


def begun(*script: Answer) -> tuple[Agent, ScriptedKimi]:
    kimi = ScriptedKimi(script)
    history = [Message.user("A city?"), Message.assistant("Os", partial=True)]
    return Agent(kimi, chat_history=history, resume_interrupted=True), kimi


async def test_the_beginning_of_an_answer_and_its_rest_become_one_message() -> None:
    agent, _ = begun(say("lo."), say("Bergen."))
    assert await agent.chat_round(None) == Message.assistant("Oslo.")
    await agent.chat_round("Another one?")
    said = [message.text for message in agent.chat_history]
    assert said == ["A city?", "Oslo.", "Another one?", "Bergen."]
    assert not any(message.partial for message in agent.chat_history)


async def test_a_round_after_a_beginning_that_nobody_continued_goes_on() -> None:
    agent, kimi = begun(say("Bergen."))
    await agent.chat_round("Another one?")
    assert not any("partial" in message for message in kimi.requests[0].body["messages"])


async def test_an_answer_that_was_begun_and_cut_off_is_continued_from_both() -> None:
    cut = Reply("lo, Ber", chunk_size=7, delivery=Delivery(finish=False, done=False))
    agent, kimi = begun(cut, say("gen."))
    assert (await agent.chat_round(None)).text == "Oslo, Bergen."
    asked = kimi.requests[1].body["messages"]
    assert [message["content"] for message in asked] == ["A city?", "Oslo, Ber"]
    assert [message.get("partial") for message in asked] == [None, True]
    assert [message.text for message in agent.chat_history] == ["A city?", "Oslo, Bergen."]


async def test_a_beginning_survives_an_answer_that_fails() -> None:
    agent, _ = begun(Failure(400, "invalid_request_error", "no"), say("lo."))
    with pytest.raises(ChatProviderError):
        await agent.chat_round(None)
    assert agent.chat_history[-1].partial
    assert (await agent.chat_round(None)).text == "Oslo."


async def test_a_beginning_is_not_lost_when_its_rest_cannot_be_kept() -> None:
    class Full(Agent):
        async def add_to_history(self, message: Message) -> None:
            if message.role == "assistant":
                raise OSError("disk full")
            await super().add_to_history(message)

    agent = Full(ScriptedKimi([say("lo")]), chat_history=[Message.user("q"), Message.assistant("Hel", partial=True)])
    with pytest.raises(OSError, match="disk full"):
        await agent.chat_round(None)
    assert [message.text for message in agent.chat_history] == ["q", "Hel"]


@pytest.mark.parametrize(
    "last",
    [
        [Message.user("mine", partial=True)],
        [Message.user("q"), Message.assistant("t", partial=True, tool_calls=[CALL])],
        [Message.user("q"), Message.assistant(tool_calls=[CALL]), Message.tool("4", CALL.id, partial=True)],
    ],
)
async def test_only_an_answer_without_calls_is_a_beginning(last: list[Message]) -> None:
    agent = Agent(ScriptedKimi([say("Hello")]), chat_history=last, resume_interrupted=True)
    await agent.chat_round(None)
    assert agent.chat_history[: len(last)] == last
    assert agent.chat_history[-1] == Message.assistant("Hello")


async def test_a_beginning_that_was_all_of_it_is_the_answer() -> None:
    agent, _ = begun(Reply("", finish_reason="stop"))
    assert (await agent.chat_round(None)).text == "Os"
    assert agent.chat_history == [Message.user("A city?"), Message.assistant("Os")]


async def test_name_and_extra_of_the_beginning_stay() -> None:
    first = Message.assistant("", partial=True, name="Bob", extra={"k": 1})
    agent = Agent(ScriptedKimi([say("Hello")]), chat_history=[Message.user("q"), first])
    answer = await agent.chat_round(None)
    assert (answer.text, answer.name, answer.extra, answer.partial) == ("Hello", "Bob", {"k": 1}, None)


async def test_a_continuation_that_fails_half_way_has_everything_that_came() -> None:
    cut = Reply("one ", chunk_size=4, delivery=Delivery(finish=False, done=False))
    chunks = [
        {"choices": [{"index": 0, "delta": {"content": "two "}}]},
        {"error": {"message": "boom", "type": "server_error"}},
    ]
    agent = Agent(ScriptedKimi([cut, Recorded(chunks)]), resume_interrupted=True)
    with pytest.raises(StreamInterruptedError, match="boom") as caught:
        await agent.chat_round("q")
    assert caught.value.partial == Message.assistant("one two ")


async def test_closing_ends_the_wait_for_a_continuation() -> None:
    gate = Gate(0)
    cut = Reply("x", delivery=Delivery(finish=False, done=False))
    async with KimiServer([cut, Reply("late", delivery=Delivery(gate=gate))]) as server:
        async with await agent_for(server, chat_history=[Message.user("q")]) as agent:
            stream = await agent.get_model_stream()
            reading = asyncio.create_task(collect(stream))
            await server.until(lambda: len(server.requests) == 2)
            await stream.aclose()
            with pytest.raises(StreamInterruptedError):
                await reading
            await server.until(lambda: not server.connections)

"""An agent that outgrows its window condenses what was said; what it spends is counted, and limited."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from kimi_agent import (
    Agent,
    ChatProviderError,
    Compaction,
    DropToolOutput,
    GenerateResult,
    HistoryCompacted,
    Message,
    PromptError,
    RequestSent,
    Spent,
    StreamInterruptedError,
    SummarizeChunks,
    SummarizeHistory,
    TokenUsage,
    UsageLimitExceeded,
    UsageLimits,
    generate,
    is_compacted,
    model_info,
)
from kimi_agent.history import problems
from kimi_agent.testing import Delivery, Failure, Reply, ScriptedKimi, call, say

USAGE = TokenUsage(input_other=1_000, output=100, input_cache_read=9_000)
PAID = Reply("Fine.", usage=USAGE)
PRICES = model_info("kimi-k3").prices


def look(number: int) -> str:
    """Look something up."""
    return f"{number}: " + "found " * 400


def kimi(body: Any) -> Reply:
    """Answers "And now?", and summarises whatever else it is asked."""
    return say("Because.") if body["messages"][-1]["content"] == "And now?" else say("They asked why.")


def small(script: Any, **options: Any) -> Agent:
    """An agent with a window of 4,000 tokens."""
    return Agent(ScriptedKimi(script, context_window=4_000), **options)


def talk(turns: int) -> list[Message]:
    said = [
        (Message.user(f"Question {turn}. " + "why " * 40), Message.assistant(f"Answer {turn}."))
        for turn in range(turns)
    ]
    return [message for pair in said for message in pair]


# ==== compaction ====


async def test_a_long_conversation_is_summarised_before_it_is_sent() -> None:
    agent = small(kimi, compaction=SummarizeHistory(), chat_history=talk(50))
    events: list[HistoryCompacted] = []
    agent.on(HistoryCompacted, events.append)
    assert await agent.chat_round_str("And now?") == "Because."
    assert is_compacted(agent.chat_history[0])
    assert "They asked why." in agent.chat_history[0].text
    assert [message.text for message in agent.chat_history[-2:]] == ["And now?", "Because."]
    (event,) = events
    assert event.messages_before == 101
    assert event.by == ("SummarizeHistory",)
    assert event.tokens_after < event.tokens_before / 2
    provider: Any = agent.provider
    assert provider.requests[-1].history[0] == agent.chat_history[0]
    assert agent.usage.requests == len(provider.requests) > 1


async def test_a_short_conversation_is_left_alone() -> None:
    agent = small([say("Because.")], compaction=SummarizeHistory(), chat_history=talk(3))
    await agent.chat_round("And now?")
    assert len(agent.chat_history) == 8
    assert not any(map(is_compacted, agent.chat_history))


async def test_results_are_shortened_in_the_middle_of_a_long_round() -> None:
    script = [call("look", number=number) for number in range(12)]
    agent = small([*script, say("Found.")], compaction=DropToolOutput(older_than=1), functions=[look])
    messages = [message async for message in agent.full_round("Look everywhere.")]
    assert messages[-1].text == "Found."
    shortened = [message for message in agent.chat_history if is_compacted(message)]
    assert shortened
    assert all(message.role == "tool" for message in shortened)
    assert agent.chat_history[0].text == "Look everywhere."
    assert not problems(agent.chat_history)
    assert [call.name for message in agent.chat_history for call in message.tool_calls or ()] == ["look"] * 12


async def test_a_summary_that_fails_leaves_the_history_and_the_window_makes_room() -> None:
    script = [Failure(500, "server_error"), say("Because."), Reply("cut", finish_reason="length"), say("never")]
    history = talk(50)
    agent = small(script, compaction=SummarizeHistory(), chat_history=history)
    assert await agent.chat_round_str("And now?") == "Because."
    assert agent.chat_history[:100] == history
    with pytest.raises(ChatProviderError, match="cut off"):
        await agent.chat_round("Again?")
    assert agent.chat_history[:100] == history
    assert agent.chat_history[-1].text == "Again?"


async def test_two_compactions_in_a_row_without_progress_end_with_an_error() -> None:
    class Useless:
        async def compact(self, history: Sequence[Message], task: Any) -> None:
            return None

    agent = small([say("one"), say("two")], compaction=[Useless()], chat_history=talk(50))
    await agent.chat_round("First?")
    with pytest.raises(PromptError, match="2 compactions in a row made no progress"):
        await agent.chat_round("Second?")


async def test_a_conversation_may_be_compacted_by_hand() -> None:
    agent = small(kimi, compaction=Compaction(SummarizeHistory(keep_last=1)), chat_history=talk(50))
    assert await agent.compact()
    assert is_compacted(agent.chat_history[0])
    assert [message.text for message in agent.chat_history[-2:]] == [message.text for message in talk(50)[-2:]]
    with pytest.raises(PromptError, match="compaction="):
        await small([]).compact()


async def test_the_next_prompt_begins_with_the_summary_also_after_the_window_had_cut() -> None:
    agent = small(kimi, chat_history=talk(60))
    await agent.chat_round("Cut?")
    agent.compaction = Compaction(SummarizeHistory())
    await agent.chat_round("And now?")
    assert (await agent.get_prompt())[0] is agent.chat_history[0]


# ==== what is spent ====


async def test_everything_that_is_spent_is_counted() -> None:
    script = [Reply(tool_calls=[call("look", number=1), call("look", number=2)], usage=USAGE, reasoning="Hm."), PAID]
    agent = Agent(ScriptedKimi(script), functions=[look])
    async for _ in agent.full_round("Look."):
        pass
    spent = agent.usage
    assert (spent.requests, spent.tool_calls, spent.input, spent.cached, spent.output) == (2, 2, 20_000, 18_000, 200)
    assert spent.reasoning > 0
    assert PRICES is not None
    expected = 2 * (1_000 * PRICES.input + 9_000 * PRICES.cached_input + 100 * PRICES.output) / 1e6
    assert spent.cost == pytest.approx(expected)


async def test_a_cost_that_nobody_knows_is_none_and_not_zero() -> None:
    agent = Agent(ScriptedKimi([PAID], model="somebody-elses-model"))
    assert agent.usage.cost == 0
    await agent.chat_round("?")
    assert agent.usage.cost is None


async def test_what_was_spent_is_saved_and_loaded(tmp_path: Any) -> None:
    agent = Agent(ScriptedKimi([call("look", number=1), PAID]), functions=[look])
    async for _ in agent.full_round("Look."):
        pass
    agent.save(tmp_path / "a.json")
    again = Agent(ScriptedKimi([]))
    again.load(tmp_path / "a.json")
    assert isinstance(again.usage, Spent)
    assert again.usage.model_dump() == agent.usage.model_dump()


# ==== limits ====


@pytest.mark.parametrize(
    "limits",
    [
        UsageLimits(requests=1),
        UsageLimits(input_tokens=10_010),
        UsageLimits(output_tokens=100),
        UsageLimits(cost=0.00721),
    ],
)
async def test_a_request_beyond_a_limit_is_not_made(limits: UsageLimits) -> None:
    agent = Agent(ScriptedKimi([PAID, PAID]), limits=limits)
    await agent.chat_round("First?")
    with pytest.raises(UsageLimitExceeded, match="raise the limit") as caught:
        await agent.chat_round("Second?")
    assert caught.value.message is None
    provider: Any = agent.provider
    assert len(provider.requests) == 1
    assert agent.chat_history[-1].text == "Second?"


async def test_an_answer_beyond_a_limit_is_kept_and_the_error_has_it() -> None:
    agent = Agent(ScriptedKimi([PAID]), limits=UsageLimits(output_tokens=50))
    with pytest.raises(UsageLimitExceeded) as caught:
        await agent.chat_round("First?")
    assert caught.value.message is agent.chat_history[-1]
    assert agent.chat_history[-1].text == "Fine."


async def test_calls_beyond_a_limit_are_not_run_and_answered() -> None:
    ran: list[int] = []

    def count(number: int) -> str:
        ran.append(number)
        return str(number)

    script = [call("count", number=1), Reply(tool_calls=[call("count", number=2), call("count", number=3)])]
    agent = Agent(ScriptedKimi(script), functions=[count], limits=UsageLimits(tool_calls=2))
    with pytest.raises(UsageLimitExceeded, match="tool_calls=2") as caught:
        async for _ in agent.full_round("Count."):
            pass
    assert caught.value.message is not None
    assert len(caught.value.message.tool_calls or ()) == 2
    assert ran == [1]
    assert not problems(agent.chat_history)
    assert [message.is_tool_call_error for message in agent.chat_history if message.role == "tool"] == [
        None,
        True,
        True,
    ]


async def test_a_limit_holds_for_summaries_too() -> None:
    agent = small([say("never")], compaction=SummarizeHistory(), chat_history=talk(50), limits=UsageLimits(requests=0))
    with pytest.raises(UsageLimitExceeded, match="requests=0"):
        await agent.chat_round("And now?")
    assert len(agent.chat_history) == 101


async def test_summaries_that_are_made_side_by_side_keep_to_the_limit_together() -> None:
    agent = small(kimi, compaction=SummarizeChunks(size=400), chat_history=talk(50), limits=UsageLimits(requests=2))
    with pytest.raises(UsageLimitExceeded, match="requests=2"):
        await agent.chat_round("And now?")
    provider: Any = agent.provider
    assert len(provider.requests) <= 2
    assert len(agent.chat_history) == 101


async def test_an_answer_that_broke_off_was_a_request_of_unknown_cost() -> None:
    broken = Delivery(stop_after=700)
    script = [Reply("A long answer. " * 40, delivery=broken)] * 2
    agent = Agent(ScriptedKimi(script), limits=UsageLimits(requests=1))
    with pytest.raises(StreamInterruptedError):
        await agent.chat_round("?")
    assert (agent.usage.requests, agent.usage.cost) == (1, None)
    with pytest.raises(UsageLimitExceeded):
        await agent.chat_round(None)


async def test_going_on_with_an_answer_is_a_request_too() -> None:
    script = [Reply("A long answer. " * 40, delivery=Delivery(stop_after=1_500))] * 2
    agent = Agent(ScriptedKimi(script), limits=UsageLimits(requests=1), resume_interrupted=True)
    with pytest.raises(UsageLimitExceeded, match="requests=1"):
        await agent.chat_round("?")
    provider: Any = agent.provider
    assert len(provider.requests) == 1


async def test_who_overrides_how_the_model_is_asked_keeps_to_the_limits() -> None:
    class Own(Agent):
        async def get_model_completion(self, include_functions: bool = True, **overrides: Any) -> GenerateResult:
            return await generate(self.provider, "", [], self.chat_history)

    agent = Own(ScriptedKimi([PAID, PAID]), limits=UsageLimits(requests=1))
    await agent.chat_round("First?")
    with pytest.raises(UsageLimitExceeded):
        await agent.chat_round("Second?")


async def test_what_is_cached_is_cheaper_for_a_limit_too() -> None:
    usage = TokenUsage(input_other=1_000, output=100, input_cache_read=90_000)
    agent = Agent(ScriptedKimi([Reply("Fine.", usage=usage)] * 2), limits=UsageLimits(cost=0.1))
    await agent.chat_round("First?")
    await agent.chat_round("Second?")
    assert agent.usage.requests == 2


async def test_requests_for_summaries_are_told() -> None:
    agent = small(kimi, compaction=SummarizeHistory(), chat_history=talk(50))
    sent: list[RequestSent] = []
    agent.on(RequestSent, sent.append)
    await agent.chat_round("And now?")
    provider: Any = agent.provider
    assert len(sent) == len(provider.requests) > 1
    assert {request.body["prompt_cache_key"] for request in provider.requests} == {agent.prompt_cache_key}


async def test_a_compactor_that_cannot_do_it_is_passed_over_once() -> None:
    class Unable:
        async def compact(self, history: Sequence[Message], task: Any) -> None:
            raise PromptError("cannot")

    agent = small([say("one"), say("two")], compaction=[Unable()], chat_history=talk(50))
    assert await agent.chat_round_str("First?") == "one"
    with pytest.raises(PromptError, match="cannot"):
        await agent.chat_round("Second?")


async def test_it_is_compacted_before_the_window_leaves_anything_out() -> None:
    agent = small(kimi, compaction=SummarizeHistory(), chat_history=talk(30), desired_response_tokens=2_000)
    await agent.chat_round("And now?")
    assert is_compacted(agent.chat_history[0])


async def test_pinned_messages_that_leave_no_room_cause_no_summaries() -> None:
    pinned = [Message.system("doc " * 2_300)]
    agent = small(kimi, compaction=SummarizeHistory(), always_included_messages=pinned, chat_history=talk(20))
    await agent.chat_round("And now?")
    provider: Any = agent.provider
    assert len(provider.requests) == 1
    with pytest.raises(PromptError, match="pin less"):
        await agent.compact()


async def test_a_plain_usage_may_be_assigned() -> None:
    agent = Agent(ScriptedKimi([PAID]))
    agent.usage = TokenUsage(input_other=5, output=5)  # type: ignore[assignment]
    await agent.chat_round("?")
    assert agent.usage.input == 10_005


@pytest.mark.parametrize("wrong", [SummarizeHistory, "summary", [1]])
def test_what_is_no_compactor_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(TypeError, match="no compactor"):
        small([], compaction=wrong)


# ==== what is known of a cost ====

COST_OF_PAID = (1_000 * 3.0 + 9_000 * 0.3 + 100 * 15.0) / 1e6


async def test_of_a_cost_that_is_not_known_as_a_whole_the_known_part_is_kept(tmp_path: Any) -> None:
    agent = Agent(ScriptedKimi([PAID, Reply("A long answer. " * 40, delivery=Delivery(stop_after=700)), PAID]))
    await agent.chat_round("One?")
    assert agent.usage.known_cost == agent.cost == pytest.approx(COST_OF_PAID)
    assert agent.usage.is_known
    with pytest.raises(StreamInterruptedError):
        await agent.chat_round("Two?")
    await agent.chat_round(None)
    assert (agent.usage.requests, agent.cost, agent.usage.is_known) == (3, None, False)
    assert agent.usage.known_cost == pytest.approx(2 * COST_OF_PAID)
    agent.save(tmp_path / "a.json")
    again = Agent(ScriptedKimi([]))
    again.load(tmp_path / "a.json")
    assert again.usage == agent.usage


async def test_an_answer_that_was_stopped_has_cost_more_than_is_known_and_is_no_request_that_was_answered() -> None:
    begun = asyncio.Event()

    async def hold(writes: int) -> None:
        if writes == 2:
            begun.set()
            await asyncio.Event().wait()

    agent = Agent(ScriptedKimi([PAID, Reply("A story.", delivery=Delivery(gate=hold)), PAID]))
    child = agent.fork()
    await child.chat_round("One?")
    stopped = asyncio.create_task(child.chat_round("Two?"))
    await begun.wait()
    stopped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopped
    for each in (child, agent):
        assert (each.usage.requests, each.usage.stopped, each.usage.is_known) == (1, 1, False)
        assert each.usage.known_cost == each.cost == pytest.approx(COST_OF_PAID)
        assert not each._pending._least
    child.limits = UsageLimits(cost=1.0)
    await child.chat_round(None)
    assert child.usage.known_cost == pytest.approx(2 * COST_OF_PAID)


async def test_a_round_that_is_stopped_before_the_model_is_asked_costs_nothing() -> None:
    class Slow(Agent):
        async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
            asking.set()
            return await asyncio.Event().wait() or []

    asking = asyncio.Event()
    agent = Slow(ScriptedKimi([PAID]))
    stopped = asyncio.create_task(agent.chat_round("One?"))
    await asking.wait()
    stopped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopped
    assert agent.usage == Spent()


async def test_a_summary_that_is_stopped_has_cost_something() -> None:
    asking = asyncio.Event()

    async def hold(writes: int) -> None:
        asking.set()
        await asyncio.Event().wait()

    agent = small([Reply("never", delivery=Delivery(gate=hold))], compaction=SummarizeHistory(), chat_history=talk(50))
    stopped = asyncio.create_task(agent.compact())
    await asking.wait()
    stopped.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopped
    assert (agent.usage.stopped, agent.usage.requests, agent.usage.is_known) == (1, 0, False)
    assert not agent._pending._least

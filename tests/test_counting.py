"""What the next prompt costs: counted by the server up to the last answer, and by us from there on."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kimi_agent import Agent, Message, ThinkPart, TokenUsage, ai_function
from kimi_agent.events import TokenCountDrifted
from kimi_agent.kimi.models import model_info
from kimi_agent.kimi.request import ChatRequest
from kimi_agent.prompt import counting
from kimi_agent.prompt.exact import KimiTokenCounter
from kimi_agent.testing import Reply, ScriptedKimi, call, say

SAID = ["Hello, how are you?", "你好，今天天气怎么样？", "def f(x):\n    return x ** 2", "1234567890 " * 30, "[]"]


@pytest.fixture
def ranks(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = data / "tiktoken.model"
    monkeypatch.setenv("KIMI_AGENT_RANKS", str(path))
    yield path
    counting._known.clear()


class Weather(Agent):
    @ai_function()
    def get_weather(self, city: str, days: int = 1) -> str:
        """Current weather of a city."""
        return f"{city}: 4 °C for {days} days"


def like_kimi(script: list[Any], path: Path, model: str = "kimi-k3") -> Any:
    """A double whose usage is what Kimi would report."""
    counter = KimiTokenCounter.from_file(path, model)
    replies = iter(script)

    def answer(body: dict[str, Any]) -> Reply:
        reply = next(replies)
        made = Message.assistant(reply.text, tool_calls=[]) if reply.text else None
        calls = [
            {"id": f"c{place}", "type": "function", "function": {"name": made.name, "arguments": made.arguments}}
            for place, made in enumerate(reply.tool_calls)
        ]
        message = made or Message(role="assistant", tool_calls=calls)  # type: ignore[arg-type]
        if reply.reasoning:
            message = message.copy_with(content=[ThinkPart(think=reply.reasoning), *message.content])
        usage = TokenUsage(input_other=counter.count_request(body), output=counter.count_completion(message))
        return replace(reply, usage=usage)

    return ScriptedKimi(answer, model=model)


async def test_with_the_rank_file_no_prompt_is_another_than_expected(ranks: Path) -> None:
    script = [Reply(text) for text in SAID]
    calls = Reply(tool_calls=[call("get_weather", city="Oslo"), call("get_weather", city="卑尔根", days=3)])
    agent = Weather(like_kimi([*script, calls, Reply("Four degrees.")], ranks), "You are terse.")
    drifts: list[TokenCountDrifted] = []
    agent.on(TokenCountDrifted, drifts.append)
    for text in SAID:
        await agent.chat_round(text)
        assert agent._window.tokens > 0
    async for _ in agent.full_round("Oslo and Bergen?"):
        pass
    assert agent._window.counter.is_exact
    assert drifts == []
    assert agent._window.scale == 1.0


async def test_what_the_agent_expects_is_the_count_of_its_request(ranks: Path) -> None:
    agent = Weather(ScriptedKimi([say("Fine.")]), "You are terse.")
    await agent.chat_round("How are you?", temperature=1.0)
    provider: Any = agent.provider
    counted = KimiTokenCounter.from_file(ranks).count_request(provider.requests[0].body)
    agent._window.expect(provider.requests[0].history, agent._window._sent[1])
    assert agent._window.expected == counted


async def test_only_what_is_new_is_counted_after_an_answer() -> None:
    usage = TokenUsage(input_other=5_000, output=50)
    agent = Agent(ScriptedKimi([Reply("Fine.", usage=usage)] * 3), chat_history=[Message.user("word " * 100)])
    await agent.chat_round("First?")
    drifts: list[TokenCountDrifted] = []
    agent.on(TokenCountDrifted, drifts.append)
    scale = agent._window.scale
    await agent.chat_round("Second?")
    (drift,) = drifts
    new = counting.cost(counting.ESTIMATE, [Message.user("Second?")])
    assert drift == TokenCountDrifted(5_050 + 7 + round(new * scale), 5_000)


async def test_another_beginning_is_counted_as_a_whole() -> None:
    usage = TokenUsage(input_other=5_000, output=50)
    agent = Agent(ScriptedKimi([Reply("Fine.", usage=usage)] * 2), chat_history=[Message.user("word")])
    await agent.chat_round("First?")
    del agent.chat_history[0]
    drifts: list[TokenCountDrifted] = []
    agent.on(TokenCountDrifted, drifts.append)
    await agent.chat_round("Second?")
    assert drifts[0].expected < 1_000


@pytest.mark.parametrize("name", ["a.json", "a.kimi"])
async def test_a_conversation_that_was_loaded_goes_on_counting(tmp_path: Path, name: str) -> None:
    usage = TokenUsage(input_other=5_000, output=50)
    agent = Agent(ScriptedKimi([Reply("Fine.", usage=usage)] * 2), "You are terse.")
    await agent.chat_round("First?")
    agent.save(tmp_path / name)
    again = Agent(ScriptedKimi([Reply("Fine.", usage=usage)]))
    again.load(tmp_path / name)
    await again.chat_round("Second?")
    await agent.chat_round("Second?")
    assert again._window.tokens == agent._window.tokens > 5_000


async def test_a_conversation_that_was_loaded_goes_on_counting_exactly(ranks: Path, tmp_path: Path) -> None:
    agent = Weather(like_kimi([Reply(text) for text in SAID[:2]], ranks), "You are terse.")
    await agent.chat_round("First?")
    agent.save(tmp_path / "a.json")
    again = Weather(like_kimi([Reply(SAID[1])], ranks))
    again.load(tmp_path / "a.json")
    await again.chat_round("Second?")
    assert again.counts_exactly
    assert agent._window.running.anchor is not None
    assert again._window.cached == agent._window.running.anchor.tokens


async def test_without_the_rank_file_or_for_another_model_it_is_an_estimate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIMI_AGENT_RANKS", str(tmp_path / "none"))
    assert counting.counter_for("kimi-k3") is counting.ESTIMATE
    (tmp_path / "none").write_text("broken")
    assert not counting.counter_for("kimi-k3").is_exact
    assert counting.counter_for("somebody-elses") is counting.ESTIMATE


async def test_parts_that_nobody_can_count_are_estimated(ranks: Path) -> None:
    counter = counting.counter_for("kimi-k3")
    odd = Message.model_validate({"role": "user", "content": [{"type": "hologram", "url": "x"}]})
    assert counter.message_cost(odd) > 1_000
    assert counting.cost(counter, [odd, odd]) == 2 * counter.message_cost(odd)


def test_an_overhead_is_counted_once_for_the_same_request(ranks: Path) -> None:
    counter = counting.counter_for("kimi-k3")
    tools = [function.base for function in Weather(ScriptedKimi([])).functions.values()]
    body = ChatRequest(model_info("kimi-k3"), "", tools, [Message.user("x")], {"tool_choice": "none"}).body()
    assert counter.overhead(tools, {"tool_choice": "none"}) == counter.overhead(list(tools), {"tool_choice": "none"})
    assert counter.overhead(tools, {}) == counter.overhead(tools, {"tool_choice": "none"}) - 38
    assert b"get_weather" in body


@pytest.mark.parametrize("model", ["kimi-k3", "kimi-k2.7-code", "kimi-k2.6"])
@pytest.mark.parametrize("functions", [True, False])
async def test_no_model_counts_otherwise_than_expected(ranks: Path, model: str, functions: bool) -> None:
    script = [Reply(text, reasoning="Hm, let me see.") for text in (*SAID, "One more.")]
    agent = (Weather if functions else Agent)(like_kimi(script, ranks, model), "You are terse.")
    drifts: list[TokenCountDrifted] = []
    agent.on(TokenCountDrifted, drifts.append)
    for text in SAID:
        await agent.chat_round(text)
    await agent.chat_round("And now?", include_functions=False)
    assert agent.counts_exactly
    assert drifts == []


async def test_a_history_that_was_edited_in_the_middle_is_counted_as_a_whole() -> None:
    usage = TokenUsage(input_other=5_000, output=50)
    history = [Message.user("word " * 500), Message.assistant("Yes.")]
    agent = Agent(ScriptedKimi([Reply("Fine.", usage=usage)] * 2), "Terse.", chat_history=history)
    await agent.chat_round("First?")
    agent.chat_history[1] = Message.assistant("No.")
    await agent.chat_round("Second?")
    assert agent._window.tokens < 5_000


@pytest.mark.parametrize("usage", [TokenUsage(input_other=0, output=0), TokenUsage(input_other=-100, output=5)])
async def test_what_no_server_counts_is_no_anchor(usage: TokenUsage) -> None:
    agent = Agent(ScriptedKimi([Reply("Fine.", usage=usage)] * 2), chat_history=[Message.user("word " * 500)])
    await agent.chat_round("First?")
    await agent.chat_round("Second?")
    assert agent._window.tokens > 500


async def test_what_was_learnt_of_one_counter_does_not_hold_for_another(ranks: Path) -> None:
    agent = Agent(ScriptedKimi([Reply("Fine.", usage=TokenUsage(input_other=9_000, output=50))] * 2, model="other"))
    agent.chat_history.append(Message.user("word " * 1_000))
    await agent.chat_round("First?")
    assert agent._window.scale > 1
    agent.provider = ScriptedKimi([say("Fine.")])
    await agent.chat_round("Second?")
    assert agent._window.tokens < 2_000


@pytest.mark.parametrize("name", ["~nobody-has-this-name/x", "x" * 5_000, "/proc/1/root/x"])
async def test_a_variable_that_names_no_file_means_an_estimate(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("KIMI_AGENT_RANKS", name)
    agent = Agent(ScriptedKimi([say("Fine.")]))
    assert await agent.chat_round_str("?") == "Fine."
    assert not agent.counts_exactly


async def test_a_file_that_comes_later_is_used(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIMI_AGENT_RANKS", str(tmp_path / "ranks"))
    agent = Agent(ScriptedKimi([say("Fine.")] * 2))
    await agent.chat_round("?")
    (tmp_path / "ranks").symlink_to(data / "tiktoken.model")
    await agent.chat_round("?")
    assert agent.counts_exactly
    counting._known.clear()


@pytest.mark.parametrize(("more", "told"), [(0, 0), (3, 0), (4, 1), (-3, 0), (-4, 1)])
async def test_a_host_may_add_three_tokens_of_its_own(ranks: Path, more: int, told: int) -> None:
    counter = KimiTokenCounter.from_file(ranks)

    def answer(body: dict[str, Any]) -> Reply:
        return Reply("Fine.", usage=TokenUsage(input_other=counter.count_request(body) + more, output=17))

    agent = Agent(ScriptedKimi(answer))
    drifts: list[TokenCountDrifted] = []
    agent.on(TokenCountDrifted, drifts.append)
    await agent.chat_round("Hello.")
    assert len(drifts) == told


async def test_an_answer_that_was_cut_off_gets_its_closing_marks_in_the_next_prompt(ranks: Path) -> None:
    usage = TokenUsage(input_other=1_000, output=50)
    expected: list[int] = []
    for reason in ("stop", "length"):
        agent = Agent(ScriptedKimi([Reply("Fine.", finish_reason=reason, usage=usage)] * 2))
        await agent.chat_round("Hello.")
        await agent.chat_round("Go on.")
        expected.append(agent._window.tokens)
    assert expected[1] - expected[0] == 10


async def test_an_answer_that_goes_on_with_its_beginning_is_counted_as_a_whole() -> None:
    usage = TokenUsage(input_other=9_000, output=50)
    begun = Message.assistant("Once upon", partial=True)
    agent = Agent(ScriptedKimi([Reply(" a time.", usage=usage)] * 2), chat_history=[Message.user("Tell."), begun])
    await agent.chat_round(None)
    await agent.chat_round("And then?")
    assert agent._window.tokens < 9_000


def test_the_tools_of_an_agent_are_counted_once(ranks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter: Any = counting.counter_for("kimi-k3")
    tools = [function.base for function in Weather(ScriptedKimi([])).functions.values()]
    counter.overhead(tools, {"temperature": 1.0})
    monkeypatch.setattr(counter, "_count_overhead", lambda *_: pytest.fail("counted again"))
    counter.overhead(tools, {"temperature": 0.5})

"""How an answer is to look: the instructions of a format go out with the requests of one round and stay nowhere."""

from types import SimpleNamespace
from typing import Any

import pytest
from naming import without_address

from kimi_agent import Agent, Message, PromptTooLong, ai_function
from kimi_agent.history import problems
from kimi_agent.testing import Delivery, Reply, ScriptedKimi, call, say

LIST = SimpleNamespace(message=Message.system("Write a list."))


class Weather(Agent):
    @ai_function()
    async def get_weather(self, city: str) -> str:
        """Current weather of a city."""
        return f"{city}: 4"


def sent(kimi: ScriptedKimi, position: int = -1) -> list[tuple[str, str]]:
    return [(message["role"], message.get("content") or "") for message in kimi.requests[position].body["messages"]]


INSTRUCTIONS = ("system", "Write a list.")


@pytest.mark.parametrize("entry", ["chat_round", "chat_round_str", "chat_round_stream"])
async def test_instructions_go_with_the_request_and_are_not_stored(entry: str):
    kimi = ScriptedKimi([say("- a"), say("hello")])
    agent = Agent(kimi, "You are terse.")
    await getattr(agent, entry)("A list.", format=LIST)
    assert sent(kimi) == [("system", "You are terse."), ("user", "A list."), INSTRUCTIONS]
    assert [message.role for message in agent.chat_history] == ["user", "assistant"]
    await agent.chat_round("Thanks.")
    assert INSTRUCTIONS not in sent(kimi)
    assert "format" not in kimi.requests[0].body


@pytest.mark.parametrize("entry", ["full_round", "full_round_str", "full_round_stream", "full_round_frames"])
async def test_they_go_with_each_request_of_a_round(entry: str):
    kimi = ScriptedKimi([call("get_weather", city="Oslo"), say("- 4")])
    agent = Weather(kimi)
    async for _ in getattr(agent, entry)("Oslo?", format=LIST):
        pass
    assert sent(kimi, 0) == [("user", "Oslo?"), INSTRUCTIONS]
    assert [role for role, _ in sent(kimi, 1)] == ["user", "assistant", "tool", "system"]
    assert sent(kimi, 1)[-1] == INSTRUCTIONS
    assert problems(agent.chat_history) == []


async def test_the_prompt_tells_of_them():
    agent = Agent(ScriptedKimi([]), "Be terse.", chat_history=[Message.user("A list.")])
    assert await agent.get_prompt(format=LIST) == [Message.system("Be terse."), Message.user("A list."), LIST.message]
    assert (await agent.get_prompt(format=None))[-1] == Message.user("A list.")


async def test_a_prompt_of_your_own_need_not_know_of_formats():
    class LastTwo(Agent):
        async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
            return self.chat_history[-2:]

    class Marked(Agent):
        async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
            return [Message.system("Mine."), *await super().get_prompt(include_functions, **overrides)]

    for kind in (LastTwo, Marked):
        kimi = ScriptedKimi([say("- a")])
        await kind(kimi).chat_round("A list.", format=LIST)
        assert [message for message in sent(kimi) if message == INSTRUCTIONS] == [INSTRUCTIONS]
        assert sent(kimi)[-1] == INSTRUCTIONS


async def test_what_the_model_is_to_go_on_writing_stays_the_last():
    kimi = ScriptedKimi([say(" b")])
    agent = Agent(kimi, chat_history=[Message.user("A list."), Message.assistant("- a", partial=True)])
    await agent.chat_round(None, format=LIST)
    assert sent(kimi) == [("user", "A list."), INSTRUCTIONS, ("assistant", "- a")]
    assert agent.chat_history[-1].text == "- a b"


async def test_they_take_room_in_the_window():
    long = SimpleNamespace(message=Message.system("Write a list. " * 2000))
    kimi = ScriptedKimi([say("- a")], context_window=4_500)
    agent = Agent(kimi, chat_history=[Message.user("word " * 1000), Message.assistant("yes")] * 3)
    bare = await agent.get_prompt()
    with_long = await agent.get_prompt(format=SimpleNamespace(message=Message.system("Write a list. " * 500)))
    assert len(with_long) - 1 < len(bare)
    with pytest.raises(PromptTooLong):
        await agent.get_prompt(format=long)


async def test_the_beginning_of_the_prompt_is_the_same_with_and_without():
    kimi = ScriptedKimi([say("a"), say("b"), say("c")])
    agent = Agent(kimi, "Be terse.")
    await agent.chat_round("1")
    await agent.chat_round("2", format=LIST)
    await agent.chat_round("3")
    assert sent(kimi, 1)[:-1] == sent(kimi, 2)[: len(sent(kimi, 1)) - 1]


@pytest.mark.parametrize("wrong", ["markdown", 3, object()], ids=without_address)
async def test_what_is_no_format_is_refused_at_once(wrong: Any):
    agent = Agent(ScriptedKimi([]))
    for entry in (agent.chat_round_stream, agent.full_round, agent.full_round_frames):
        with pytest.raises(TypeError, match="format is a MarkdownFormat"):
            entry("?", format=wrong)
    assert agent.chat_history == []


async def test_an_answer_that_is_continued_keeps_its_instructions():
    kimi = ScriptedKimi([Reply("- one - two", delivery=Delivery(stop_after=450)), say(" - three")])
    agent = Agent(kimi, resume_interrupted=True)
    await agent.chat_round("A list.", format=LIST)
    assert [INSTRUCTIONS in sent(kimi, position) for position in (0, 1)] == [True, True]
    assert agent.chat_history[-1].text.startswith("- o")
    assert agent.chat_history[-1].text.endswith(" - three")

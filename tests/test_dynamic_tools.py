"""Functions that come after the first request: on Kimi K3 they are declared late, so that the cached prompt holds."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from kimi_agent import (
    Agent,
    AIFunction,
    ChatProviderError,
    FunctionSpecError,
    Kimi,
    Message,
    MessageTooLong,
    PromptError,
    RequestSent,
    SimpleToolset,
    SummarizeHistory,
    TokenCountDrifted,
    TokenUsage,
    Tool,
    ToolLike,
    ToolOk,
    ToolsPart,
    ai_function,
    generate,
)
from kimi_agent.history import problems
from kimi_agent.kimi.formulas import WebSearch
from kimi_agent.latecomers import LATE, as_sent, at_top, declaration
from kimi_agent.prompt import counting
from kimi_agent.prompt.compaction import Compaction, CompactionTask
from kimi_agent.prompt.exact import KimiTokenCounter
from kimi_agent.prompt.window import fit
from kimi_agent.session import JournalSession
from kimi_agent.testing import Call, Delivery, Failure, KimiServer, Reply, ScriptedKimi, call, check_request, say

LIST: Any = SimpleNamespace(message=Message.system("Write a list."))
USER = Message.user("Hello.")


def function(name: str, desc: str = "Does something.", answer: str = "done", **options: Any) -> AIFunction:
    async def work(text: str = "") -> str:
        return answer

    return AIFunction(work, name=name, desc=desc, **options)


class Growing(Agent):
    """Learns functions while it works."""

    @ai_function()
    async def first(self) -> str:
        """The first."""
        return "first"

    @ai_function()
    async def learn(self, name: str) -> str:
        """Learn a function."""
        self.functions[name] = function(name, answer=f"{name} was called")
        return f"{name} is learnt"


def names_at_top(body: Any) -> list[str]:
    return [tool["function"]["name"] for tool in body.get("tools", ())]


def names_declared(body: Any) -> list[list[str]]:
    return [
        [tool["function"]["name"] for tool in message["tools"]] for message in body["messages"] if "tools" in message
    ]


class Watched:
    """The bodies that an agent sent, as they went out."""

    def __init__(self, agent: Agent) -> None:
        self.texts: list[str] = []
        agent.on(RequestSent, lambda event: self.texts.append(event.body))

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(text) for text in self.texts]

    @property
    def last(self) -> Any:
        return self.bodies[-1]

    def head(self, number: int) -> tuple[str, str]:
        """Of a body: its messages, and everything that stands before them in the prompt, as it went out."""
        text = self.texts[number]
        rest, mark, _ = text.rpartition('],"model":')
        assert text.startswith('{"messages":[')
        assert mark
        messages, _, tools = rest.removeprefix('{"messages":[').rpartition('],"tools":[')
        return (messages, tools) if "tools" in self.bodies[number] else (rest.removeprefix('{"messages":['), "")

    def assert_prefixes_hold(self) -> None:
        """Each prompt begins with the one before, byte for byte, and Kimi would take it."""
        for number in range(len(self.texts)):
            assert check_request(self.bodies[number]) is None
            if number:
                (before, tools_before), (messages, tools) = self.head(number - 1), self.head(number)
                assert tools == tools_before
                assert messages.startswith(before + ",")


async def run(agent: Agent, query: Any, **overrides: Any) -> list[Message]:
    return [message async for message in agent.full_round(query, **overrides)]


def replying(*steps: Any) -> ScriptedKimi:
    return ScriptedKimi([*steps, *(say("Fine.") for _ in range(20))])


# ==== the prefix holds ====


async def test_a_function_that_comes_late_is_declared_where_it_comes_in():
    agent = Growing(replying(), "Be terse.")
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    await agent.chat_round("Two?")
    assert names_at_top(watched.bodies[0]) == names_at_top(watched.last) == ["first", "learn"]
    assert [message["role"] for message in watched.last["messages"]] == [
        *("system", "user", "assistant"),
        *("user", "system"),
    ]
    late = watched.last["messages"][-1]
    assert late == {
        "role": "system",
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "late",
                    "description": "Does something.",
                    "parameters": late["tools"][0]["function"]["parameters"],
                },
            }
        ],
    }
    watched.assert_prefixes_hold()


async def test_the_prefix_holds_over_rounds_in_which_functions_come_from_everywhere():
    script = [
        say("Hello."),
        Reply(tool_calls=[call("learn", name="alpha"), call("learn", name="beta"), call("first")]),  # side by side
        Reply(tool_calls=[call("beta", text="x"), call("learn", name="gamma")]),  # by a tool that was just learnt
        call("gamma"),
        say("Learnt."),
        call("learn", name="alpha"),  # again: the same definition
        call("delta"),
        say("Done."),
    ]
    agent = Growing(ScriptedKimi([*script, say("Bye."), say("Bye.")]), "Be terse.")
    watched = Watched(agent)
    await agent.chat_round("Hello?")
    assert [message.text for message in await run(agent, "Learn.")][-1] == "Learnt."
    agent.functions["delta"] = function("delta")  # between rounds
    agent.functions["delta"] = function("delta")  # and again
    assert [message.text for message in await run(agent, "Again.")][-1] == "Done."
    await agent.chat_round("Bye?")
    watched.assert_prefixes_hold()
    assert len(watched.texts) == 9
    assert names_declared(watched.last) == [["alpha", "beta"], ["gamma"], ["delta"]]
    assert names_at_top(watched.last) == ["first", "learn"]
    assert problems(agent.chat_history) == []
    texts = [message.text for message in agent.chat_history if message.role == "tool"]
    assert texts[3] == "beta was called"


async def test_the_server_finds_the_whole_prompt_in_its_cache():
    agent = Growing(replying(), "Be terse. " * 50)
    await agent.chat_round("One?")
    cached: list[int] = []
    for number in range(5):
        agent.functions[f"late_{number}"] = function(f"late_{number}")
        before = agent.usage
        await agent.chat_round("And?")
        spent = agent.usage.input_cache_read - before.input_cache_read
        cached.append(spent)
    assert cached[0] > 100
    assert cached == sorted(cached)


async def test_functions_may_come_at_any_point_of_a_long_conversation():
    for position in range(6):
        agent = Growing(ScriptedKimi(lambda body: Reply(f"{len(body['messages'])}")))
        watched = Watched(agent)
        for turn in range(6):
            if turn == position:
                agent.functions["late"] = function("late")
            await agent.chat_round(f"{turn}?")
        watched.assert_prefixes_hold()
        expected = [] if position == 0 else [["late"]]
        assert names_declared(watched.last) == expected
        assert ("late" in names_at_top(watched.last)) is (position == 0)


async def test_an_agent_without_functions_may_get_its_first_ones_late():
    agent = Agent(replying())
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    await run(agent, "Two?", tool_choice="required")
    await agent.chat_round("Three?")
    assert [names_at_top(body) for body in watched.bodies] == [[], [], []]
    assert [names_declared(body) for body in watched.bodies] == [[], [["late"]], [["late"]]]
    assert [body.get("tool_choice") for body in watched.bodies] == [None, "required", "none"]
    watched.assert_prefixes_hold()


async def test_a_function_that_is_enabled_late_comes_late():
    tools = SimpleToolset([function("one"), function("two", enabled=False), function("three")])
    agent = Agent(replying(), functions=tools)
    watched = Watched(agent)
    await agent.chat_round("One?")
    tools.enable("two")
    await agent.chat_round("Two?")
    watched.assert_prefixes_hold()
    assert names_at_top(watched.last) == ["one", "three"]
    assert names_declared(watched.last) == [["two"]]


async def test_any_tool_may_come_late():
    class Foreign:
        base = Tool(name="foreign", description="Anything.", parameters={"type": "object", "properties": {}})

        async def call(self, arguments: Any) -> ToolOk:
            return ToolOk(output="foreign")

    agent = Growing(replying(say("Hi."), call("my_foreign"), say("Done.")))
    watched = Watched(agent)
    await agent.chat_round("One?")
    for tool in SimpleToolset([Foreign()]).prefixed("my_"):
        agent.functions[tool.base.name] = tool
    said = await run(agent, "Two?")
    assert said[1].text == "foreign"
    watched.assert_prefixes_hold()
    assert names_declared(watched.last) == [["my_foreign"]]


async def test_the_built_in_search_is_never_declared_late():
    agent = Growing(replying())
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["$web_search"] = WebSearch()
    agent.functions["late"] = function("late")
    await agent.chat_round("Two?")
    assert names_at_top(watched.last) == ["first", "learn", "$web_search"]
    assert names_declared(watched.last) == [["late"]]


# ==== where a declaration stands ====


async def test_asking_for_the_prompt_changes_nothing_and_shows_what_would_be_sent():
    agent = Growing(replying())
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    await agent.add_to_history(Message.user("Two?"))
    before = list(agent.chat_history)
    prompt = await agent.get_prompt()
    assert await agent.get_prompt() == prompt
    assert agent.chat_history == before
    await agent.chat_round(None)
    assert agent.chat_history[:-1] == prompt == [*before, declaration([agent.functions["late"].base])]
    assert len(watched.last["messages"]) == len(prompt)


async def test_a_request_that_is_in_nobodys_history_declares_what_came_late_all_the_same():
    agent = Growing(replying())
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    await agent.add_to_history(Message.user("Two?"))
    before = list(agent.chat_history)
    await agent.get_model_completion()
    assert agent.chat_history == before
    assert names_declared(watched.last) == [["late"]]
    await agent.chat_round(None)
    assert names_declared(watched.last) == [["late"]]
    assert names_at_top(watched.last) == ["first", "learn"]
    assert watched.bodies[1]["messages"] == watched.last["messages"]


async def test_a_declaration_stands_behind_all_results_of_an_exchange():
    script = [Reply(tool_calls=[call("learn", name="late"), call("first"), call("first")]), say("Done.")]
    agent = Growing(ScriptedKimi(script))
    await run(agent, "Learn.")
    assert [message.role for message in agent.chat_history] == [
        *("user", "assistant", "tool", "tool", "tool"),
        *("system", "assistant"),
    ]


async def test_no_declaration_stands_inside_of_an_open_exchange():
    agent = Growing(replying())
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    open_call = Message(role="assistant", tool_calls=[{"id": "c", "function": {"name": "first", "arguments": "{}"}}])  # type: ignore[list-item]
    agent.chat_history += [USER, open_call]
    prompt = await agent.get_prompt()
    assert prompt[-1] == open_call
    await agent.get_model_completion()
    assert names_declared(watched.last) == []
    assert names_at_top(watched.last) == ["first", "learn", "late"]


async def test_the_beginning_of_an_answer_stays_the_last_message():
    agent = Growing(replying(say("Hi."), say(" world.")))
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    agent.chat_history += [USER, Message(role="assistant", content="Hello", partial=True)]
    answer = await agent.chat_round(None)
    assert answer.text == "Hello world."
    assert watched.last["messages"][-1].get("partial") is True
    assert names_at_top(watched.last) == ["first", "learn", "late"]
    await agent.chat_round("Two?")
    assert names_declared(watched.last) == []


async def test_instructions_of_a_format_stand_behind_a_declaration():
    agent = Growing(replying())
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    await agent.chat_round("Two?", format=LIST)
    assert [message.get("content") for message in watched.last["messages"]][-2:] == [None, "Write a list."]
    await agent.chat_round("Three?")
    assert names_declared(watched.last) == [["late"]]
    assert check_request(watched.last) is None


class Number(BaseModel):
    number: int


async def test_structured_answers_go_with_functions_that_came_late():
    agent = Growing(ScriptedKimi([say("Hi."), call("late"), say('{"number": 2}'), say("Fine.")]))
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    assert await agent.structured(Number, "Two?") == Number(number=2)
    assert names_declared(watched.last) == [["late"]]
    await agent.chat_round("Three?")
    watched.assert_prefixes_hold()


@pytest.mark.parametrize("entry", ["full_round", "full_round_str", "full_round_stream", "full_round_frames"])
async def test_every_kind_of_round_declares_what_came_late(entry: str):
    agent = Growing(replying(say("Hi."), call("late")))
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    async for item in getattr(agent, entry)("Two?"):
        if entry == "full_round_stream":
            await item.message()
    watched.assert_prefixes_hold()
    assert names_declared(watched.last) == [["late"]]
    assert any(message.text == "done" for message in agent.chat_history)


async def test_a_request_that_fails_leaves_the_declaration_once():
    async with KimiServer([say("Hi."), Failure(500, "server_error", "oops"), say("Fine.")]) as server:
        async with Kimi(api_key=server.api_key, base_url=server.base_url, max_retries=0) as kimi:
            agent = Growing(kimi)
            watched = Watched(agent)
            await agent.chat_round("One?")
            agent.functions["late"] = function("late")
            with pytest.raises(ChatProviderError):
                await agent.chat_round("Two?")
            await agent.chat_round(None)
    assert names_declared(watched.last) == [["late"]]
    assert watched.bodies[1] == watched.bodies[2]


async def test_an_answer_that_is_continued_is_asked_for_with_the_same_functions():
    cut = Reply("Half of ", delivery=Delivery(stop_after=600))
    async with KimiServer([say("Hi."), cut, say("it.")]) as server:
        async with Kimi(api_key=server.api_key, base_url=server.base_url, max_retries=0) as kimi:
            agent = Growing(kimi, resume_interrupted=True)
            await agent.chat_round("One?")
            agent.functions["late"] = function("late")
            await agent.chat_round("Two?")
            bodies = [request.body for request in server.requests]
    assert len(bodies) == 3
    assert [names_declared(body) for body in bodies] == [[], [["late"]], [["late"]]]
    assert bodies[1]["tools"] == bodies[2]["tools"]


# ==== without functions, and switching ====


async def test_without_functions_nothing_is_declared():
    agent = Growing(replying())
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    await agent.chat_round("Two?", include_functions=False)
    assert names_at_top(watched.last) == names_declared(watched.last) == []
    await agent.chat_round("Three?")
    assert names_declared(watched.last) == [["late"]]
    await agent.chat_round("Four?", include_functions=False)
    assert names_at_top(watched.last) == names_declared(watched.last) == []
    assert all(message["role"] != "system" for message in watched.last["messages"])
    await agent.chat_round("Five?")
    assert names_declared(watched.last) == [["late"]]
    assert names_at_top(watched.last) == ["first", "learn"]


async def test_a_first_request_without_functions_is_not_the_first_of_the_functions():
    agent = Growing(replying())
    watched = Watched(agent)
    await agent.chat_round("One?", include_functions=False)
    await agent.chat_round("Two?")
    assert names_at_top(watched.last) == ["first", "learn"]
    assert names_declared(watched.last) == []


async def test_the_model_is_not_told_of_a_late_function_that_was_switched_off():
    agent = Growing(replying())
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"], agent.functions["other"] = late, _ = function("late"), function("other")
    await agent.chat_round("Two?")
    late.enabled = False
    await agent.chat_round("Three?")
    assert names_declared(watched.last) == [["other"]]
    assert await agent.get_prompt() == [
        *agent.chat_history[:3],
        declaration([agent.functions["other"].base]),
        *agent.chat_history[4:],
    ]
    late.enabled = True
    await agent.chat_round("Four?")
    assert names_declared(watched.last) == [["late", "other"]]
    assert watched.last["messages"][: len(watched.bodies[1]["messages"])] == watched.bodies[1]["messages"]
    assert names_at_top(watched.last) == ["first", "learn"]


async def test_a_late_function_that_was_taken_out_is_not_declared_any_more_and_not_found():
    agent = Growing(ScriptedKimi([say("Hi."), say("Fine."), call("late"), say("I see."), say("Fine.")]))
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    await agent.chat_round("Two?")
    late = agent.functions.pop("late")
    said = await run(agent, "Three?")
    assert "no function 'late'" in said[1].text
    assert all(names_declared(body) == [] for body in watched.bodies[2:])
    agent.functions["late"] = late
    await agent.chat_round("Four?")
    assert names_declared(watched.last) == [["late"]]
    assert names_at_top(watched.last) == ["first", "learn"]


async def test_a_function_of_the_first_request_that_comes_back_is_in_its_old_place():
    agent = Growing(replying())
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["first"].enabled = False  # type: ignore[attr-defined]
    await agent.chat_round("Two?")
    assert names_at_top(watched.last) == ["learn"]
    agent.functions["first"].enabled = True  # type: ignore[attr-defined]
    await agent.chat_round("Three?")
    assert watched.last["tools"] == watched.bodies[0]["tools"]
    assert names_declared(watched.last) == []


async def test_a_definition_that_changed_is_never_sent_as_it_was():
    agent = Growing(replying())
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late", "Old.")
    agent.functions["other"] = function("other")
    await agent.chat_round("Two?")
    agent.functions["late"] = function("late", "New.")
    await agent.chat_round("Three?")
    assert check_request(watched.last) is None
    assert "Old." not in watched.texts[-1]
    assert watched.texts[-1].count("New.") == 1
    assert names_declared(watched.last) == [["other"]]
    assert names_at_top(watched.last) == ["first", "learn", "late"]
    await agent.chat_round("Four?")
    assert watched.last["tools"] == watched.bodies[-2]["tools"]


async def test_the_same_function_made_anew_is_the_same():
    agent = Growing(replying())
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    await agent.chat_round("Two?")
    agent.functions["late"] = function("late")
    agent.functions["first"] = Growing(agent.provider).functions["first"]
    await agent.chat_round("Three?")
    watched.assert_prefixes_hold()


async def test_a_tool_that_kimi_would_refuse_never_comes_into_the_history():
    class Bad:
        base = Tool(name="no name", description="", parameters={"type": "object", "properties": {}})

        async def call(self, arguments: Any) -> ToolOk:
            return ToolOk(output="")

    agent = Growing(replying())
    await agent.chat_round("One?")
    agent.functions["no name"] = Bad()
    with pytest.raises(FunctionSpecError, match="no name"):
        await agent.chat_round("Two?")
    assert [message.role for message in agent.chat_history] == ["user", "assistant", "user"]
    del agent.functions["no name"]
    assert (await agent.chat_round(None)).text == "Fine."


# ==== other models ====


@pytest.mark.parametrize("model", ["kimi-k2.6", "kimi-k2.7-code", "somebody-elses"])
async def test_models_that_know_no_late_tools_have_all_of_them_in_the_list(model: str):
    agent = Growing(ScriptedKimi([say("Fine.")] * 3, model=model))
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    await agent.chat_round("Two?")
    assert names_at_top(watched.last) == ["first", "learn", "late"]
    assert names_declared(watched.last) == []
    assert all(message.role != "system" for message in agent.chat_history)


async def test_a_conversation_may_go_on_with_a_model_that_knows_no_late_tools_and_come_back():
    agent = Growing(replying())
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    await agent.chat_round("Two?")
    agent.provider, k3 = ScriptedKimi([call("late"), say("Fine.")], model="kimi-k2.6"), agent.provider
    said = await run(agent, "Three?")
    assert said[1].text == "done"
    assert names_at_top(watched.last) == ["first", "learn", "late"]
    assert names_declared(watched.last) == []
    assert check_request(watched.last) is None
    agent.provider = k3
    await agent.chat_round("Four?")
    assert names_at_top(watched.last) == ["first", "learn"]
    assert names_declared(watched.last) == [["late"]]


# ==== declarations of others ====


async def test_what_somebody_declared_by_hand_is_sent_as_it_is_and_not_declared_twice():
    mine, other = function("late"), Tool(name="other", description="", parameters={"type": "object", "properties": {}})
    by_hand = Message.system(ToolsPart(tools=[mine.base, other]))
    agent = Growing(replying(), functions=[mine], chat_history=[by_hand])
    watched = Watched(agent)
    await agent.chat_round("One?")
    assert names_at_top(watched.last) == ["first", "learn"]
    assert names_declared(watched.last) == [["late", "other"]]
    mine.enabled = False
    await agent.chat_round("Two?", include_functions=False)
    assert names_declared(watched.last) == [["late", "other"]]


async def test_what_is_declared_by_hand_late_is_not_declared_again():
    agent = Growing(replying())
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = late = function("late")
    await agent.add_to_history(Message.system(ToolsPart(tools=[late.base])))
    await agent.chat_round("Two?")
    watched.assert_prefixes_hold()
    assert names_declared(watched.last) == [["late"]]
    agent.always_included_messages.append(Message.system(ToolsPart(tools=[(more := function("more")).base])))
    agent.functions["more"] = more
    await agent.chat_round("Three?")
    assert names_declared(watched.last) == [["more"], ["late"]]
    assert not any(LATE in message.extra for message in agent.chat_history)


async def test_what_somebody_declared_otherwise_is_refused_by_its_name():
    by_hand = Message.system(ToolsPart(tools=[function("late", "Old.").base]))
    agent = Agent(replying(), functions=[function("late", "New.")], chat_history=[by_hand])
    with pytest.raises(FunctionSpecError, match="two tools with one name: late"):
        await agent.chat_round("One?")


def test_a_name_that_is_declared_twice_is_sent_once_where_it_was_first():
    one, two = function("one"), function("two")
    history = [
        declaration([one.base]),
        USER,
        declaration([one.base, two.base]),
        Message.system(ToolsPart(tools=[two.base])),
    ]
    sent = as_sent(ScriptedKimi(), [one, two], history)
    assert sent == [history[0], USER, history[3]]
    assert at_top([one, two], sent) == []


def test_messages_without_declarations_are_the_very_list():
    history = [Message.system("Be terse."), USER]
    assert as_sent(ScriptedKimi(), [], history) is history


def test_a_declaration_in_part_is_the_same_object_again():
    one, two = function("one"), function("two")
    history = [declaration([one.base, two.base])]
    (first,), (second,) = as_sent(ScriptedKimi(), [two], history), as_sent(ScriptedKimi(), [two], history)
    assert first is second
    assert first == declaration([two.base])


async def test_generate_knows_nothing_of_all_that():
    provider = replying()
    late = function("late")
    with pytest.raises(FunctionSpecError):
        await generate(provider, "", [late.base], [declaration([late.base]), USER])


# ==== restarts ====


async def grown(provider: Any, **options: Any) -> Growing:
    agent = Growing(provider, "Be terse.", **options)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    await agent.chat_round("Two?")
    agent.functions["later"] = function("later")
    await agent.chat_round("Three?")
    return agent


LATER: list[ToolLike] = [function("late"), function("later")]


@pytest.mark.parametrize("name", ["a.json", "a.kimi"])
async def test_after_a_restart_all_functions_are_there_and_the_prefix_holds(tmp_path: Path, name: str):
    agent = await grown(replying())
    watched = Watched(agent)
    agent.save(tmp_path / name)
    again = Growing(replying(), functions=[function("late"), function("later")])
    again.load(tmp_path / name)
    assert again.chat_history == agent.chat_history
    watched_again = Watched(again)
    for each in (agent, again):
        await each.chat_round("Four?")
        each.functions["latest"] = function("latest")
        await each.chat_round("Five?")
    assert watched_again.texts == watched.texts
    watched_again.assert_prefixes_hold()
    assert names_at_top(watched_again.last) == ["first", "learn"]
    assert names_declared(watched_again.last) == [["late"], ["later"], ["latest"]]


async def test_a_session_has_the_declarations(tmp_path: Path):
    session = JournalSession(tmp_path / "a.kimi")
    agent = await grown(replying(), session=session)
    watched = Watched(agent)
    await agent.chat_round("Four?")
    await session.aclose()
    again = Growing(
        replying(), functions=[function("late"), function("later")], session=JournalSession(tmp_path / "a.kimi")
    )
    watched_again = Watched(again)
    async with again:
        await again.chat_round("Five?")
    assert watched_again.head(0)[1] == watched.head(0)[1]
    assert watched_again.head(0)[0].startswith(watched.head(0)[0] + ",")
    assert names_declared(watched_again.last) == [["late"], ["later"]]


async def test_what_is_not_there_after_a_restart_is_not_declared(tmp_path: Path):
    agent = await grown(replying())
    agent.save(tmp_path / "a.json")
    again = Growing(replying(), functions=[function("later"), function("late", "Changed.")])
    again.load(tmp_path / "a.json")
    watched = Watched(again)
    await again.chat_round("Four?")
    assert names_declared(watched.last) == [["later"]]
    assert names_at_top(watched.last) == ["first", "learn", "late"]
    assert 'Does something."' in watched.texts[-1]
    assert check_request(watched.last) is None


async def test_a_conversation_that_is_loaded_into_a_used_agent_is_another_one(tmp_path: Path):
    agent = Growing(replying())
    await agent.chat_round("One?")
    agent.save(tmp_path / "a.json")
    agent.load(tmp_path / "a.json")
    agent.functions["late"] = function("late")
    watched = Watched(agent)
    await agent.chat_round("Two?")
    assert names_at_top(watched.last) == ["first", "learn", "late"]


# ==== the window and compaction ====


async def test_what_the_window_cuts_off_with_its_declaration_comes_into_the_list():
    provider = ScriptedKimi(lambda body: Reply("word " * 300), context_window=4_000)
    agent = Growing(provider, "Be terse.", desired_response_tokens=500)
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    for number in range(30):
        await agent.chat_round(f"{number}? " + "word " * 100)
        body = watched.last
        assert check_request(body) is None
        assert sorted([*names_at_top(body), *(name for names in names_declared(body) for name in names)]) == [
            "first",
            "late",
            "learn",
        ]
    assert names_at_top(watched.last) == ["first", "learn", "late"]
    moved = [names_at_top(body) for body in watched.bodies]
    assert moved == sorted(moved, key=len)  # once, and for good
    assert sum(LATE in message.extra for message in agent.chat_history) == 1


async def test_what_moves_into_the_list_fits_the_window():
    answer = Reply("word " * 100, usage=TokenUsage(input_other=10, output=1))
    provider = ScriptedKimi(lambda body: answer, context_window=4_000)
    agent = Growing(provider, desired_response_tokens=500, trim_ratio=1.0)
    watched, sizes = Watched(agent), list[int]()
    agent.on(RequestSent, lambda event: sizes.append(agent._window.expected))
    await agent.chat_round("One?")
    agent.functions["wide"] = function("wide", "word " * 1_200)
    for number in range(12):
        await agent.chat_round(f"{number}? " + "word " * 300)
    assert "wide" in names_at_top(watched.last)
    assert 3_000 < max(sizes) <= 3_500


def test_the_newest_exchange_is_never_cut_because_a_declaration_stands_behind_it():
    calls: list[Any] = [{"id": "c", "function": {"name": "first", "arguments": "{}"}}]
    exchange = [Message(role="assistant", tool_calls=calls), Message.tool("word " * 800, "c", name="first")]
    history = [Message.user("word " * 500), USER, *exchange, declaration([function("late").base])]
    kept = fit([], history, fixed=0, budget=1_300, trim_ratio=0.3)
    assert (kept.anchor, kept.start) in ((1, 2), (None, 1))
    with pytest.raises(MessageTooLong):
        fit([], history, fixed=0, budget=700, trim_ratio=0.3)


async def test_the_newest_exchange_stays_when_a_declaration_comes_behind_it():
    script = [say("Hi."), Reply(tool_calls=[Call("learn", '{"name": "late"}')]), say("Done.")]
    agent = Growing(ScriptedKimi(script, context_window=2_400), "Be terse.", desired_response_tokens=200)
    watched = Watched(agent)
    await agent.chat_round("word " * 1_500)
    await run(agent, "Learn.")
    roles = [message["role"] for message in watched.last["messages"]]
    assert roles[-4:] == ["user", "assistant", "tool", "system"]
    assert names_declared(watched.last) == [["late"]]


class Forgetful:
    """A compactor that keeps the last messages, and no system message."""

    async def compact(self, history: Sequence[Message], task: CompactionTask) -> Sequence[Message] | None:
        return [message for message in history[-2:] if message.role != "system"]


async def test_what_a_compactor_removes_comes_into_the_list():
    agent = Growing(replying(), "Be terse.", compaction=Compaction(Forgetful(), down_to=0.002))
    watched = Watched(agent)
    await agent.chat_round("One? " + "word " * 600)
    agent.functions["late"] = function("late")
    await agent.chat_round("Two?")
    assert await agent.compact()
    agent.functions["later"] = function("later")
    await agent.chat_round("Three?")
    assert names_at_top(watched.last) == ["first", "learn", "late"]
    assert names_declared(watched.last) == [["later"]]
    assert check_request(watched.last) is None


async def test_a_summary_leaves_declarations_where_they_are():
    agent = Growing(replying(), "Be terse.", compaction=Compaction(SummarizeHistory(keep_last=1), down_to=0.002))
    watched = Watched(agent)
    await agent.chat_round("One? " + "word " * 600)
    agent.functions["late"] = function("late")
    await agent.chat_round("Two? " + "word " * 600)
    await agent.chat_round("Three?")
    assert await agent.compact()
    await agent.chat_round("Four?")
    assert names_declared(watched.last) == [["late"]]
    assert names_at_top(watched.last) == ["first", "learn"]
    assert check_request(watched.last) is None


class LastOnly(Growing):
    async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
        return self.chat_history[-1:]


async def test_a_prompt_of_your_own_that_leaves_declarations_out_has_all_functions_in_the_list():
    agent = LastOnly(replying())
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    for query in ("Two?", "Three?", "Four?"):
        await agent.chat_round(query)
        names = [*names_at_top(watched.last), *(name for names in names_declared(watched.last) for name in names)]
        assert sorted(names) == ["first", "late", "learn"]
    assert sum(LATE in message.extra for message in agent.chat_history) == 1


class All(Growing):
    async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
        return list(self.chat_history)


async def test_a_prompt_of_your_own_need_not_know_what_is_true_of_declarations():
    agent = All(replying())
    watched = Watched(agent)
    await agent.chat_round("One?")
    agent.functions["late"] = function("late")
    await agent.chat_round("Two?")
    del agent.functions["late"]
    await agent.chat_round("Three?")
    assert names_declared(watched.last) == []


# ==== counting ====


@pytest.fixture
def ranks(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = data / "tiktoken.model"
    monkeypatch.setenv("KIMI_AGENT_RANKS", str(path))
    yield path
    counting._known.clear()


def like_kimi(path: Path, script: Sequence[Reply]) -> ScriptedKimi:
    """A double whose usage is what Kimi would report."""
    counter, replies = KimiTokenCounter.from_file(path), iter(script)

    def answer(body: Any) -> Reply:
        reply = next(replies)
        made: list[Any] = [
            {"id": f"c{place}", "type": "function", "function": {"name": each.name, "arguments": each.arguments}}
            for place, each in enumerate(reply.tool_calls)
        ]
        message = Message(role="assistant", content=reply.text, tool_calls=made)
        usage = TokenUsage(input_other=counter.count_request(body), output=counter.count_completion(message))
        return Reply(reply.text, tool_calls=reply.tool_calls, usage=usage)

    return ScriptedKimi(answer)


Change = Callable[[Growing], object]
CHANGES: dict[str, Change] = {
    "late": lambda agent: agent.functions.update(late=function("late", "天气, whatever “that” is.")),
    "two": lambda agent: agent.functions.update(one=function("one"), two=function("two")),
    "disabled": lambda agent: setattr(agent.functions["late"], "enabled", False),
    "enabled": lambda agent: setattr(agent.functions["late"], "enabled", True),
    "gone": lambda agent: agent.functions.pop("one"),
    "changed": lambda agent: agent.functions.update(two=function("two", "Changed.")),
    "nothing": lambda agent: None,
}


async def test_with_the_rank_file_no_prompt_with_late_tools_is_another_than_expected(ranks: Path):
    script = [Reply(f"Answer {number}.") for number in range(20)]
    script[3:3] = [Reply(tool_calls=[Call("learn", '{"name": "taught"}'), Call("late", '{"text": "天"}')])]
    agent = Growing(like_kimi(ranks, script), "Be terse.")
    drifts: list[TokenCountDrifted] = []
    agent.on(TokenCountDrifted, drifts.append)
    await agent.chat_round("First?")
    for name, change in CHANGES.items():
        change(agent)
        assert [message.text for message in await run(agent, f"{name}?")]
        assert agent._window.tokens > 0
    await agent.chat_round("No calls?")
    await agent.chat_round("No functions?", include_functions=False)
    await agent.chat_round("Again?")
    assert agent.counts_exactly
    assert drifts == []
    assert agent._window.scale == 1.0


async def test_with_the_rank_file_what_an_agent_expects_is_the_count_of_its_body(ranks: Path):
    agent = Agent(replying())
    watched, counter = Watched(agent), KimiTokenCounter.from_file(ranks)
    await agent.chat_round("First?")
    for number in range(3):
        agent.functions[f"late_{number}"] = function(f"late_{number}")
        await agent.chat_round("And?")  # all functions came late, and calls are not allowed
        assert agent._window.expected == counter.count_request(watched.last)
        assert names_at_top(watched.last) == []


# ==== at the same time ====


async def test_many_tools_that_learn_side_by_side_are_declared_in_one_message():
    names = [f"skill_{number}" for number in range(12)]

    class Slow(Growing):
        @ai_function()
        async def pick_up(self, name: str) -> str:
            """Learn slowly."""
            await asyncio.sleep(0)
            self.functions[name] = function(name)
            return name

    script = [Reply(tool_calls=[call("pick_up", name=name) for name in names]), *map(call, names), say("Done.")]
    agent = Slow(ScriptedKimi(script))
    watched = Watched(agent)
    said = await run(agent, "Learn.")
    assert said[-1].text == "Done."
    assert all(sorted(declared[0]) == sorted(names) for declared in map(names_declared, watched.bodies[1:]))
    watched.assert_prefixes_hold()


async def test_more_functions_than_kimi_takes_are_refused_and_the_conversation_goes_on_with_less():
    agent = Growing(replying())
    await agent.chat_round("One?")
    agent.functions |= {f"late_{number}": function(f"late_{number}") for number in range(130)}
    with pytest.raises((ChatProviderError, PromptError), match="128 tools at most"):
        await agent.chat_round("Two?")
    for number in range(10):
        del agent.functions[f"late_{number}"]
    assert (await agent.chat_round(None)).text == "Fine."

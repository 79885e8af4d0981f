"""Rounds of an agent: what a user of `Agent` sees, hooks included."""

import asyncio
import gc
import json
import re
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Self

import pytest
from loguru import logger
from pydantic import BaseModel

from kimi_agent import (
    Agent,
    AIFunction,
    ChatProviderError,
    ExceptionHandleResult,
    FunctionCallResult,
    FunctionSpecError,
    GenerateResult,
    Kimi,
    Message,
    MessageTooLong,
    ModelRetry,
    PromptTooLong,
    RateLimitError,
    RequestSent,
    RoundInProgressError,
    SessionError,
    StreamedMessagePart,
    TextPart,
    TokenUsage,
    ToolArgumentsError,
    ToolCall,
    ToolError,
    ToolOk,
    ToolTexts,
    ai_function,
)
from kimi_agent.history import problems
from kimi_agent.prompt import tokens
from kimi_agent.testing import Call, Failure, KimiServer, RawBody, Reply, ScriptedKimi, call, say


def calls(*wanted: Call) -> Reply:
    return Reply(tool_calls=wanted)


class Tools(Agent):
    @ai_function()
    async def get_weather(self, city: str) -> dict[str, Any]:
        """Current weather of a city."""
        return {"city": city, "t": 4}

    @ai_function()
    async def fail(self, text: str = "no luck") -> str:
        """Always fails."""
        raise KeyError(text)

    @ai_function(auto_retry=False)
    async def fail_for_good(self) -> str:
        """Always fails, and cannot be tried again."""
        raise ValueError("never")

    @ai_function(after="user")
    async def hand_over(self) -> str:
        """Hands over to the user."""
        return "over to you"


def tools(*script: Any, **options: Any) -> Tools:
    return Tools(ScriptedKimi(script), **options)


async def full(agent: Agent, query: Any = "go", **options: Any) -> list[Message]:
    return [message async for message in agent.full_round(query, **options)]


def texts(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in messages]


def bodies(agent: Agent) -> list[Mapping[str, Any]]:
    provider = agent.provider
    assert isinstance(provider, ScriptedKimi)
    return [request.body for request in provider.requests]


# ==== rounds ====


async def test_a_chat_round_asks_and_answers():
    agent = Agent(ScriptedKimi([say("Hello.")]), "  You are terse.  ")
    answer = await agent.chat_round("Hi")
    assert answer == Message.assistant("Hello.")
    assert agent.chat_history == [Message.user("Hi"), answer]
    assert await agent.get_prompt() == [Message.system("You are terse."), Message.user("Hi"), answer]


async def test_a_blank_system_prompt_is_none():
    assert Agent(ScriptedKimi([]), "   ").always_included_messages == []


async def test_a_query_of_none_lets_the_model_go_on():
    agent = Agent(ScriptedKimi([say("more")]), chat_history=[Message.user("a"), Message.assistant("b")])
    await agent.chat_round(None)
    assert texts(agent.chat_history) == [("user", "a"), ("assistant", "b"), ("assistant", "more")]


async def test_a_query_may_be_parts():
    agent = Agent(ScriptedKimi([say("ok")]))
    await agent.chat_round(["look: ", TextPart(text="here")])
    assert agent.chat_history[0].text == "look: here"


async def test_the_passed_history_is_copied():
    passed = [Message.user("a"), Message.assistant("b")]
    agent = Agent(ScriptedKimi([say("c")]), chat_history=passed)
    await agent.chat_round("x")
    assert len(passed) == 2


async def test_a_full_round_runs_calls_until_the_model_answers():
    agent = tools(call("get_weather", city="Oslo"), say("Four degrees."))
    messages = await full(agent, "Weather?")
    assert texts(messages) == [("assistant", ""), ("tool", '{"city":"Oslo","t":4}'), ("assistant", "Four degrees.")]
    assert agent.chat_history == [Message.user("Weather?"), *messages]


async def test_results_of_parallel_calls_come_in_the_order_of_the_calls():
    gate = asyncio.Event()

    class Slow(Agent):
        @ai_function()
        async def first(self) -> str:
            await gate.wait()
            return "one"

        @ai_function()
        async def second(self) -> str:
            gate.set()
            return "two"

    agent = Slow(ScriptedKimi([calls(call("first"), call("second")), say("done")]))
    assert [m.text for m in await full(agent)] == ["", "one", "two", "done"]
    assert [m.text for m in agent.chat_history] == ["go", "", "one", "two", "done"]


async def test_a_finished_result_is_in_the_history_while_its_sibling_still_runs():
    seen: list[list[str]] = []

    class Watching(Agent):
        @ai_function()
        async def slow(self) -> str:
            while len(self.chat_history) < 3:
                await asyncio.sleep(0)
            seen.append([m.text for m in self.chat_history])
            return "slow"

        @ai_function()
        async def quick(self) -> str:
            return "quick"

    agent = Watching(ScriptedKimi([calls(call("slow"), call("quick")), say("done")]))
    await full(agent)
    assert seen == [["go", "", "quick"]]
    assert [m.text for m in agent.chat_history] == ["go", "", "slow", "quick", "done"]


async def test_a_round_ends_on_the_result_when_only_user_functions_ran():
    agent = tools(call("hand_over"))
    assert texts(await full(agent)) == [("assistant", ""), ("tool", "over to you")]


async def test_the_model_speaks_when_one_of_the_functions_wants_it_to():
    agent = tools(calls(call("hand_over"), call("get_weather", city="Oslo")), say("ok"))
    assert (await full(agent))[-1].text == "ok"


async def test_full_round_str_formats_and_skips_nothing_texts():
    agent = tools(call("get_weather", city="Oslo"), say("Four."))
    assert [text async for text in agent.full_round_str("Weather?")] == ["Four."]
    agent = tools(call("get_weather", city="Oslo"), say("Four."))
    assert [t async for t in agent.full_round_str("?", lambda m: m.role)] == ["assistant", "tool", "assistant"]


async def test_chat_round_offers_the_functions_but_allows_no_call_and_runs_none():
    agent = tools(call("get_weather", city="Oslo"), say("ok"))
    await agent.chat_round("Weather?")
    assert bodies(agent)[0]["tool_choice"] == "none"
    assert [tool["function"]["name"] for tool in bodies(agent)[0]["tools"]] == list(agent.functions)
    assert problems(agent.chat_history) == []
    assert agent.chat_history[-1].is_tool_call_error
    await agent.chat_round("And now?")


async def test_functions_can_be_left_out_of_the_prompt():
    agent = tools(say("ok"))
    await full(agent, include_functions=False)
    assert "tools" not in bodies(agent)[0]


async def test_overrides_reach_the_request_and_last_for_one_round():
    agent = tools(say("a"), say("b"))
    await full(agent, max_completion_tokens=100)
    await full(agent)
    assert [body.get("max_completion_tokens") for body in bodies(agent)] == [100, 131_072]


@pytest.mark.parametrize("method", ["chat_round_stream", "full_round", "full_round_str", "full_round_stream"])
def test_an_unknown_override_is_a_type_error_that_names_it(method: str):
    with pytest.raises(TypeError, match="temprature"):
        getattr(tools(), method)("x", temprature=1)


async def test_an_unknown_override_of_chat_round_is_a_type_error_too():
    with pytest.raises(TypeError, match="temprature"):
        await tools().chat_round("x", temprature=1)  # pyright: ignore[reportCallIssue]


async def test_usage_adds_up():
    usage = TokenUsage(input_other=10, output=2, input_cache_read=5)
    agent = Agent(ScriptedKimi([Reply("a", usage=usage), Reply("b", usage=usage)]))
    await agent.chat_round("x")
    await agent.chat_round("y")
    assert agent.usage == usage + usage


async def test_a_failed_request_keeps_the_question_and_none_tries_again():
    agent = Agent(ScriptedKimi([Failure(429, "rate_limit_reached_error", "slow down"), say("ok")]))
    with pytest.raises(RateLimitError):
        await agent.chat_round("x")
    assert texts(agent.chat_history) == [("user", "x")]
    await agent.chat_round(None)
    assert texts(agent.chat_history) == [("user", "x"), ("assistant", "ok")]


async def test_reasoning_is_kept_and_sent_back():
    agent = Agent(ScriptedKimi([say("ok", reasoning="hm"), say("fine")]))
    await agent.chat_round("x")
    await agent.chat_round("y")
    assert bodies(agent)[1]["messages"][1]["reasoning_content"] == "hm"


async def test_the_prompt_prefix_is_the_same_to_the_byte_from_turn_to_turn():
    agent = tools(call("get_weather", city="Oslo"), say("ok"), say("fine"), system_prompt="s")
    await full(agent)
    await agent.chat_round("more")
    sent = [body["messages"] for body in bodies(agent)]
    assert sent[1][: len(sent[0])] == sent[0]
    assert sent[2][: len(sent[1])] == sent[1]
    assert len({str(body["tools"]) for body in bodies(agent)}) == 1


# ==== errors of calls ====


@pytest.mark.parametrize("attempts", [0, 1, 2, 3])
async def test_a_call_that_always_fails_is_tried_again_and_then_the_model_answers_without(attempts: int):
    agent = Tools(ScriptedKimi(lambda body: call("fail") if body.get("tool_choice") != "none" else say("sorry")))
    agent.retry_attempts = attempts
    messages = await full(agent)
    assert len(bodies(agent)) == attempts + 2
    assert [body.get("tool_choice") for body in bodies(agent)] == [None] * (attempts + 1) + ["none"]
    assert all(body["tools"] == bodies(agent)[0]["tools"] for body in bodies(agent))
    assert messages[-1].text == "sorry"


async def test_an_error_names_its_type_and_is_marked():
    agent = tools(call("fail"), say("ok"))
    result = (await full(agent))[1]
    assert result.text == "Error: KeyError: 'no luck'"
    assert result.is_tool_call_error
    assert "is_tool_call_error" not in bodies(agent)[1]["messages"][-1]


async def test_an_all_success_round_resets_the_attempts():
    agent = tools(call("fail"), call("get_weather", city="Oslo"), call("fail"), say("ok"))
    await full(agent)
    assert [body.get("tool_choice") for body in bodies(agent)] == [None] * 4


async def test_no_retry_turns_calls_off_for_the_rest_of_the_round():
    agent = tools(call("fail_for_good"), call("get_weather", city="Oslo"))
    messages = await full(agent)
    assert bodies(agent)[1]["tool_choice"] == "none"
    assert messages[-1].is_tool_call_error
    assert len(bodies(agent)) == 2
    assert problems(agent.chat_history) == []


async def test_one_call_that_may_be_tried_again_keeps_calls_on():
    agent = tools(calls(call("fail_for_good"), call("fail")), say("ok"))
    await full(agent)
    assert bodies(agent)[1].get("tool_choice") is None


async def test_a_failure_beside_a_success_turns_calls_off_when_it_may_not_be_tried_again():
    agent = tools(calls(call("fail_for_good"), call("get_weather", city="Oslo")), say("ok"))
    await full(agent)
    assert bodies(agent)[1]["tool_choice"] == "none"


async def test_an_unknown_function_is_reported():
    agent = tools(call("nonsense"), say("ok"))
    result = (await full(agent))[1]
    assert result.text == "Error: there is no function 'nonsense'. Call only the functions that are listed."
    assert result.tool_call_id == "nonsense_0"


async def test_bad_arguments_name_the_field_and_what_was_expected():
    agent = tools(call("get_weather", town="Oslo"), say("ok"))
    text = (await full(agent))[1].text
    assert "city" in text
    assert "town" in text
    assert "http" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize("arguments", ["[]", "5", '{"city": "Os', "nonsense"])
async def test_arguments_that_are_no_object_are_reported(arguments: str):
    agent = tools(Call("get_weather", arguments), say("ok"))
    messages = await full(agent)
    assert messages[1].is_tool_call_error
    assert "JSON" in messages[1].text
    assert messages[-1].text == "ok"


async def test_a_lone_surrogate_in_arguments_bricks_nothing():
    agent = tools(Call("get_weather", '{"city": "\ud800"}'), say("ok"), say("again"))
    messages = await full(agent)
    assert messages[-1].text == "ok"
    await agent.chat_round("again")


async def test_a_usage_beyond_all_reason_loses_no_answer():
    chunk = '{"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1%s}}'
    body = f"data: {chunk % ('0' * 400)}\n\ndata: [DONE]\n\n".encode()
    agent = Agent(ScriptedKimi([RawBody(body)]))
    assert (await agent.chat_round("x " * 400)).text == "hi"


async def test_no_arguments_at_all_are_an_empty_object():
    agent = tools(Call("hand_over", ""))
    assert (await full(agent))[1].text == "over to you"


async def test_model_retry_says_exactly_what_it_says():
    class Picky(Agent):
        @ai_function()
        async def pick(self) -> str:
            raise ModelRetry("pick something else")

    agent = Picky(ScriptedKimi([call("pick"), say("ok")]))
    assert (await full(agent))[1].text == "pick something else"


async def test_what_the_library_says_can_be_said_differently():
    class Polite(ToolTexts):
        def empty(self) -> str:
            return "nichts"

    class Quiet(Agent):
        texts = Polite()

        @ai_function()
        async def quiet(self) -> None: ...

    agent = Quiet(ScriptedKimi([call("quiet"), say("ok")]))
    assert (await full(agent))[1].text == "nichts"


# ==== limits ====


@pytest.mark.parametrize("limit", [0, 1, 3])
async def test_when_the_function_rounds_are_used_up_the_model_answers_without(limit: int):
    def model(body: Mapping[str, Any]) -> Any:
        return say("enough") if body.get("tool_choice") == "none" else call("get_weather", city="Oslo")

    agent = Tools(ScriptedKimi(model))
    messages = await full(agent, max_function_rounds=limit)
    assert [m.role for m in messages].count("tool") == limit
    assert messages[-1].text == "enough"
    assert all("tools" in body for body in bodies(agent))


async def test_a_model_that_calls_all_the_same_is_answered_and_the_round_ends():
    agent = Tools(ScriptedKimi(lambda body: call("get_weather", city="Oslo")))
    messages = await full(agent, max_function_rounds=2)
    assert len(bodies(agent)) == 3
    assert texts(messages[-1:]) == [("tool", "Not run: the round ended before this call was started.")]
    assert problems(agent.chat_history) == []


async def test_no_round_goes_on_for_ever_by_accident():
    agent = Tools(ScriptedKimi(lambda body: call("get_weather", city=f"Town {len(body['messages'])}")))
    await full(agent)
    assert len(bodies(agent)) == 201


async def test_calls_cut_by_the_length_limit_are_never_run():
    ran: list[str] = []

    class Counting(Agent):
        @ai_function()
        async def run(self, x: int = 0) -> str:
            ran.append("ran")
            return "ok"

    agent = Counting(ScriptedKimi([Reply(tool_calls=[call("run", x=1)], finish_reason="length"), say("shorter")]))
    messages = await full(agent)
    assert ran == []
    assert "cut off" in messages[1].text
    assert messages[-1].text == "shorter"


async def test_a_filtered_answer_with_calls_ends_the_round():
    agent = tools(Reply("I", tool_calls=[call("get_weather", city="Oslo")], finish_reason="content_filter"))
    messages = await full(agent)
    assert [m.role for m in messages] == ["assistant", "tool"]
    assert problems(agent.chat_history) == []


# ==== the window ====


async def test_the_oldest_messages_are_left_out_when_the_window_is_full():
    agent = Agent(ScriptedKimi(lambda body: say("ok"), context_window=600), "sys", desired_response_tokens=50)
    for number in range(60):
        await agent.chat_round(f"question number {number}")
    sent = bodies(agent)[-1]["messages"]
    assert len(agent.chat_history) == 120
    assert len(sent) < 60
    assert sent[0]["content"] == "sys"
    assert sent[-1]["content"] == "question number 59"


async def test_the_beginning_of_the_prompt_moves_seldom():
    numbers = count()
    agent = Agent(
        ScriptedKimi(lambda body: say(f"answer {next(numbers)}"), context_window=2000), desired_response_tokens=50
    )
    for number in range(200):
        await agent.chat_round(f"question number {number}")
    starts = [body["messages"][0]["content"] for body in bodies(agent)]
    assert 3 < len(set(starts)) < 20


async def test_get_prompt_changes_nothing():
    agent = Agent(ScriptedKimi(lambda body: say("ok"), context_window=600), desired_response_tokens=50)
    for number in range(40):
        await agent.chat_round(f"question number {number}")
    before = await agent.get_prompt()
    agent.chat_history.append(Message.user("word " * 300))
    assert len(await agent.get_prompt()) < len(before)
    agent.chat_history.pop()
    assert await agent.get_prompt() == before


async def test_a_message_that_never_fits_says_how_long_it_is():
    agent = Agent(ScriptedKimi([], context_window=500), desired_response_tokens=0)
    with pytest.raises(MessageTooLong, match=r"need about [12]\d{3} tokens; 4\d\d are left"):
        await agent.chat_round("word " * 2000)
    with pytest.raises(PromptTooLong):
        await Agent(ScriptedKimi([], context_window=500), "word " * 2000).chat_round("x")


async def test_an_exchange_that_never_fits_says_so_though_its_newest_message_is_empty():
    history = [
        Message.user("word " * 2000),
        Message.assistant(tool_calls=[ToolCall.from_function("f", call_id_="a")]),
        Message.tool("", "a"),
    ]
    with pytest.raises(MessageTooLong, match="tokens"):
        await Agent(ScriptedKimi([], context_window=500), desired_response_tokens=0, chat_history=history).get_prompt()


async def test_a_response_reserve_of_zero_is_zero():
    assert Agent(ScriptedKimi([]), desired_response_tokens=0).desired_response_tokens == 0
    assert Agent(ScriptedKimi([], context_window=10_000)).desired_response_tokens == 1000
    assert Agent(ScriptedKimi([], context_window=1_000_000)).desired_response_tokens == 8192


async def test_the_history_is_a_public_list():
    agent = Agent(ScriptedKimi(lambda body: say("ok")))
    await agent.chat_round("a")
    agent.chat_history.clear()
    agent.chat_history.append(Message.user("changed"))
    assert texts(await agent.get_prompt()) == [("user", "changed")]
    agent.chat_history = [Message.user("replaced")]
    assert texts(await agent.get_prompt()) == [("user", "replaced")]


async def test_a_history_with_open_calls_is_repaired_on_the_way_out():
    broken = [Message.user("a"), Message.assistant(tool_calls=[ToolCall.from_function("f")])]
    agent = Agent(ScriptedKimi([say("ok")]), chat_history=broken)
    await agent.chat_round("b")
    assert [m["role"] for m in bodies(agent)[0]["messages"]] == ["user", "assistant", "tool", "user"]


async def test_a_streamed_round_sends_the_same_prompt_as_one_that_is_not():
    history = [Message.user(f"question {n}") if n % 2 == 0 else Message.assistant("answer") for n in range(60)]
    sent: list[Any] = []
    for streamed in (False, True):
        provider = ScriptedKimi([say("ok")], context_window=700)
        agent = Tools(provider, desired_response_tokens=0, chat_history=history)
        query = agent.chat_round_stream("now", include_functions=False) if streamed else None
        await (query or agent.chat_round("now", include_functions=False))
        sent.append(provider.requests[0].body["messages"])
    assert sent[0] == sent[1]
    assert len(sent[0]) < 60


async def test_what_goes_wrong_while_counting_goes_wrong_once_and_says_what(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def broken(text: str) -> int:
        asked.append(text)
        raise LookupError("no vocabulary")

    monkeypatch.setattr(tokens, "estimate_text", broken)
    agent = Agent(ScriptedKimi([]), chat_history=[Message.user("a"), Message.assistant("b")] * 50)
    with pytest.raises(LookupError, match="no vocabulary"):
        await agent.get_prompt()
    assert len(asked) == 1


async def test_long_texts_are_counted_in_a_thread(monkeypatch: pytest.MonkeyPatch):
    in_threads: list[Any] = []
    to_thread = asyncio.to_thread

    async def noting(function: Any, *args: Any, **options: Any) -> Any:
        in_threads.append(function)
        return await to_thread(function, *args, **options)

    monkeypatch.setattr(asyncio, "to_thread", noting)
    agent = Agent(ScriptedKimi([say("ok"), say("ok")]))
    await agent.chat_round("short")
    assert in_threads == []
    await agent.chat_round("long text " * 10_000)
    assert len(in_threads) == 1


# ==== functions ====


async def test_functions_can_be_passed():
    async def now(zone: str) -> str:
        """What time it is."""
        return f"noon in {zone}"

    agent = Agent(ScriptedKimi([call("now", zone="CET"), say("ok")]), functions=[AIFunction(now)])
    assert (await full(agent))[1].text == "noon in CET"


def test_two_functions_of_one_name_are_refused():
    async def get_weather() -> None: ...

    with pytest.raises(FunctionSpecError, match="get_weather"):
        Tools(ScriptedKimi([]), functions=[AIFunction(get_weather)])


async def test_a_disabled_function_is_not_in_the_prompt_but_can_be_called():
    agent = tools(call("get_weather", city="Oslo"), say("ok"))
    agent.functions["get_weather"].enabled = False  # type: ignore[attr-defined]
    assert (await full(agent))[1].text == '{"city":"Oslo","t":4}'
    assert "get_weather" not in [tool["function"]["name"] for tool in bodies(agent)[0]["tools"]]


async def test_a_function_may_take_itself_away():
    class Once(Agent):
        @ai_function()
        async def once(self) -> str:
            del self.functions["once"]
            return "done"

    agent = Once(ScriptedKimi([call("once"), say("ok")]))
    assert (await full(agent))[1].text == "done"


async def test_one_message_returned_by_two_calls_is_two_results():
    shared = Message.tool("same", "whatever")

    class Sharing(Agent):
        @ai_function()
        async def share(self) -> Message:
            return shared

    agent = Sharing(ScriptedKimi([calls(call("share"), call("share")), say("ok")]))
    results = [m for m in await full(agent) if m.role == "tool"]
    assert [m.tool_call_id for m in results] == ["share_0", "share_1"]
    assert shared.tool_call_id == "whatever"


async def test_a_result_that_cannot_be_converted_is_an_error_and_loses_no_sibling():
    circle: dict[str, Any] = {}
    circle["self"] = circle

    class Circular(Tools):
        @ai_function()
        async def loop(self) -> Any:
            return circle

    agent = Circular(ScriptedKimi([calls(call("loop"), call("get_weather", city="Oslo")), say("ok")]))
    messages = await full(agent)
    assert messages[1].is_tool_call_error
    assert messages[2].text == '{"city":"Oslo","t":4}'


async def test_nested_models_work():
    class Inner(BaseModel):
        x: int

    class Outer(BaseModel):
        inner: Inner
        others: list["Outer"] = []

    seen: list[Outer] = []

    async def nest(outer: Outer) -> None:
        seen.append(outer)

    agent = Agent(ScriptedKimi([call("nest", outer={"inner": {"x": 1}}), say("ok")]), functions=[AIFunction(nest)])
    await full(agent)
    assert seen == [Outer(inner=Inner(x=1))]


def test_dropped_agents_are_collected():
    dropped = [weakref.ref(Tools(ScriptedKimi([]))) for _ in range(200)]
    gc.collect()
    assert [agent for agent in dropped if agent() is not None] == []


# ==== hooks ====


async def test_every_step_may_be_overridden():
    log: list[str] = []

    class Noting(Tools):
        async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
            log.append("prompt")
            return (await super().get_prompt(include_functions, **overrides))[-4:]

        async def add_to_history(self, message: Message) -> None:
            log.append(f"add {message.role}")
            await super().add_to_history(message)

        async def add_completion_to_history(self, completion: GenerateResult) -> Message:
            log.append(f"completion {completion.finish_reason}")
            return await super().add_completion_to_history(completion)

        async def do_function_call(self, call: ToolCall) -> FunctionCallResult:
            log.append(f"do {call.name}")
            return await super().do_function_call(call)

    agent = Noting(ScriptedKimi([call("get_weather", city="Oslo"), say("ok")]))
    await full(agent)
    assert log == [
        "add user",
        "prompt",
        "completion tool_calls",
        "add assistant",
        "do get_weather",
        "add tool",
        "prompt",
        "completion stop",
        "add assistant",
    ]


async def test_the_error_prompt_can_be_overridden_and_stays_a_result_of_its_call():
    class Own(Tools):
        async def handle_function_call_exception(self, call: ToolCall, err: Any, attempt: int) -> ExceptionHandleResult:
            return ExceptionHandleResult(True, Message.system(f"{type(err).__name__} {attempt}"))

    agent = Own(ScriptedKimi([call("fail"), say("ok")]))
    result = (await full(agent))[1]
    assert (result.role, result.text, result.tool_call_id) == ("tool", "WrappedCallException 0", "fail_0")
    assert result.is_tool_call_error


async def test_whatever_do_function_call_raises_is_handled():
    class Odd(Tools):
        async def do_function_call(self, call: ToolCall) -> FunctionCallResult:
            raise LookupError("odd")

    agent = Odd(ScriptedKimi([call("get_weather", city="Oslo"), say("ok")]))
    assert (await full(agent))[1].text == "Error: LookupError: odd"


async def test_an_error_in_a_hook_reaches_the_caller_and_leaves_a_valid_history():
    class Broken(Tools):
        async def handle_function_call_exception(self, call: ToolCall, err: Any, attempt: int) -> Any:
            raise RuntimeError("hook")

    agent = Broken(ScriptedKimi([calls(call("get_weather", city="Oslo"), call("fail")), say("ok")]))
    with pytest.raises(RuntimeError, match="hook"):
        await full(agent)
    assert problems(agent.chat_history) == []
    assert agent.chat_history[2].text == '{"city":"Oslo","t":4}'
    assert len(asyncio.all_tasks()) == 1
    agent.provider = ScriptedKimi([say("ok")])
    await agent.chat_round("again")


async def test_get_model_completion_changes_no_history():
    agent = Agent(ScriptedKimi([say("ok")]), chat_history=[Message.user("x")])
    assert (await agent.get_model_completion()).message.text == "ok"
    assert len(agent.chat_history) == 1


async def test_get_model_stream_gives_the_parts():
    agent = Agent(ScriptedKimi([say("ok")]), chat_history=[Message.user("x")])
    stream = await agent.get_model_stream()
    assert [part async for part in stream] == [TextPart(text="ok")]
    await stream.aclose()


async def test_the_functions_are_budgeted_only_when_they_are_in_the_prompt():
    class Wordy(Agent):
        @ai_function(desc="word " * 300)
        async def wordy(self) -> None: ...

    history = [Message.user("a"), Message.assistant("b")] * 30
    agent = Wordy(ScriptedKimi([], context_window=700), desired_response_tokens=0, chat_history=history)
    assert len(await agent.get_prompt(include_functions=False)) > len(await agent.get_prompt())


async def test_expected_failures_of_functions_leave_no_traceback_in_the_log():
    lines: list[str] = []
    sink = logger.add(lines.append, level="INFO")
    logger.enable("kimi_agent")
    try:
        await full(tools(call("fail"), say("ok")))
    finally:
        logger.disable("kimi_agent")
        logger.remove(sink)
    assert lines == []


# ==== provider ====


async def test_entering_an_agent_enters_its_provider():
    entered: list[str] = []

    class Entered(ScriptedKimi):
        async def __aenter__(self) -> Self:
            entered.append("in")
            return self

        async def __aexit__(self, *exc_info: object) -> None:
            entered.append("out")

    async with Agent(Entered([say("ok")])) as agent:
        await agent.chat_round("x")
        assert entered == ["in"]
    assert entered == ["in", "out"]


async def test_an_empty_answer_is_an_error_and_leaves_the_history_alone():
    agent = Agent(ScriptedKimi([Reply("")]))
    with pytest.raises(ChatProviderError, match="neither text nor calls"):
        await agent.chat_round("x")
    assert texts(agent.chat_history) == [("user", "x")]


class PartByPart:
    """A provider that knows parts and no frames, as somebody else would write one."""

    name, model_name, context_window = "parts", "parts-1", 100_000

    def __init__(self, *answers: list[StreamedMessagePart]) -> None:
        self.answers = list(answers)
        self.closed = 0

    async def generate(self, *args: Any, **kwargs: Any) -> "PartByPart.Stream":
        return PartByPart.Stream(self, self.answers.pop(0))

    class Stream:
        id, trace_id, finish_reason = "x", None, None
        usage = TokenUsage(input_other=1, output=1)

        def __init__(self, provider: "PartByPart", parts: list[StreamedMessagePart]) -> None:
            self.provider, self.parts = provider, parts

        async def __aiter__(self) -> AsyncIterator[StreamedMessagePart]:
            for part in self.parts:
                yield part

        async def aclose(self) -> None:
            self.provider.closed += 1


async def test_a_provider_that_gives_parts_only_works_in_both_modes():
    wanted = ToolCall.from_function("get_weather", city="Oslo")
    for streamed in (False, True):
        provider = PartByPart([TextPart(text="wait"), wanted], [TextPart(text="Four "), TextPart(text="degrees.")])
        agent = Tools(provider)
        async for _ in agent.full_round_stream("?") if streamed else agent.full_round("?"):
            pass
        assert [m.text for m in agent.chat_history] == ["?", "wait", '{"city":"Oslo","t":4}', "Four degrees."]
        assert provider.closed >= 2


async def test_the_request_can_be_seen_as_it_goes_out_without_the_key():
    async with KimiServer([say("ok")]) as server:
        async with Agent(Kimi(base_url=server.base_url, api_key=server.api_key), "s") as agent:
            sent: list[RequestSent] = []
            agent.on(RequestSent, sent.append)
            await agent.chat_round("x")
        assert sent[0].body.encode() == server.requests[0].raw
        assert server.api_key not in sent[0].body


def test_tool_call_arguments_error_is_exported():
    with pytest.raises(ToolArgumentsError):
        _ = ToolCall(id="a", function=ToolCall.FunctionBody(name="f", arguments="[")).args


# ==== save and load ====


async def test_a_conversation_goes_on_from_where_it_was_saved(tmp_path: Path):
    agent = Agent(ScriptedKimi(lambda body: say("ok"), context_window=600), "sys", desired_response_tokens=50)
    for number in range(40):
        await agent.chat_round(f"question number {number}")
    prompt = await agent.get_prompt()
    agent.save(tmp_path / "chat.json")
    other = Agent(ScriptedKimi([say("on")], context_window=600), "another", desired_response_tokens=50)
    other.load(tmp_path / "chat.json")
    assert other.chat_history == agent.chat_history
    assert other.usage == agent.usage
    assert await other.get_prompt() == prompt
    assert prompt[0].text == "sys"
    assert len(prompt) < 41


async def test_the_window_goes_on_from_its_saved_beginning(tmp_path: Path):
    agent = Agent(ScriptedKimi(lambda body: say("ok"), context_window=600), desired_response_tokens=50)
    for number in range(40):
        await agent.chat_round(f"question number {number}")
    first = (await agent.get_prompt())[0]
    agent.save(tmp_path / "chat.kimi")
    roomier = Agent(ScriptedKimi([], context_window=100_000))
    roomier.load(tmp_path / "chat.kimi")
    assert (await roomier.get_prompt())[0] == first


def test_what_only_a_newer_version_knows_is_saved_again(tmp_path: Path):
    path = tmp_path / "chat.json"
    Agent(ScriptedKimi([]), chat_history=[Message.user("hi")]).save(path)
    saved = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(saved | {"version": "1.9", "mood": {"happy": True}}), "utf-8")
    agent = Agent(ScriptedKimi([]))
    agent.load(path)
    agent.save(path)
    assert json.loads(path.read_text("utf-8"))["mood"] == {"happy": True}


def test_calls_that_were_open_when_it_was_saved_are_answered_when_it_is_loaded(tmp_path: Path):
    history = [Message.user("a"), Message.assistant(tool_calls=[ToolCall.from_function("f")])]
    Agent(ScriptedKimi([]), chat_history=history).save(tmp_path / "chat.json")
    agent = Agent(ScriptedKimi([]))
    agent.load(tmp_path / "chat.json")
    assert problems(agent.chat_history) == []
    assert agent.chat_history[:2] == history


def test_a_file_that_cannot_be_loaded_leaves_the_agent_as_it_was(tmp_path: Path):
    (tmp_path / "bad.json").write_text('{"format": "kimi_agent", "version": "2.0"}', "utf-8")
    agent = Agent(ScriptedKimi([]), "sys", chat_history=[Message.user("hi")])
    with pytest.raises(SessionError):
        agent.load(tmp_path / "bad.json")
    assert (len(agent.always_included_messages), agent.chat_history) == (1, [Message.user("hi")])


async def test_loading_within_a_round_is_refused_and_closes_one_that_was_left(tmp_path: Path):
    class Loading(Agent):
        @ai_function()
        async def load_it(self) -> None:
            self.load(tmp_path / "chat.json")

    Agent(ScriptedKimi([]), chat_history=[Message.user("saved")]).save(tmp_path / "chat.json")
    agent = Loading(ScriptedKimi([call("load_it"), say("ok"), call("load_it")]))
    assert "RoundInProgressError" in (await full(agent))[1].text
    left = agent.full_round("again")
    await anext(left)
    agent.load(tmp_path / "chat.json")
    assert texts(agent.chat_history) == [("user", "saved")]
    with pytest.raises(RoundInProgressError):
        await anext(left)


async def test_a_round_that_was_closed_by_loading_says_so(tmp_path: Path):
    agent = Agent(ScriptedKimi([say("Hello.")]))
    agent.save(tmp_path / "chat.json")
    with pytest.raises(RoundInProgressError, match="closed because its agent loaded another conversation"):
        async for _ in agent.full_round("Hi"):
            agent.load(tmp_path / "chat.json")


async def test_a_question_in_the_loop_of_a_round_is_answered_and_ends_that_loop():
    agent = Agent(ScriptedKimi([say("Hello."), say("Yes?")]))
    answers: list[str] = []
    with pytest.raises(RoundInProgressError, match="closed because its agent began another one"):
        async for _ in agent.full_round("Hi"):
            answers.append(await agent.chat_round_str("Ada?"))
    assert answers == ["Yes?"]


# ==== what a caller may get wrong ====


@pytest.mark.parametrize(
    "options", [{"trim_ratio": 0}, {"trim_ratio": 1.5}, {"desired_response_tokens": -1}, {"retry_attempts": -1}]
)
def test_numbers_out_of_their_range_are_refused(options: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(options))):
        Agent(ScriptedKimi([]), **options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"provider": "kimi-k3"}, "provider is a ChatProvider, such as Kimi(); not 'kimi-k3'"),
        ({"provider": Kimi}, "provider is a ChatProvider, such as Kimi(); not <class 'kimi_....client.Kimi'>"),
        ({"provider": None}, "provider is a ChatProvider, such as Kimi(); not None"),
        ({"system_prompt": 5}, "system_prompt is text, or None; not 5"),
        ({"desired_response_tokens": "9"}, "desired_response_tokens is a number, or None; not '9'"),
        ({"retry_attempts": "2"}, "retry_attempts is a number; not '2'"),
        ({"retry_attempts": None}, "retry_attempts is a number; not None"),
        ({"trim_ratio": "1"}, "trim_ratio is a number; not '1'"),
        ({"compaction": 5}, "compaction is a Compaction(...), or compactors; not 5"),
        ({"limits": 5}, "limits is UsageLimits(...), or None for no limits; not 5"),
        ({"loop_guard": 3}, "loop_guard is a LoopGuard(...), or None for nothing; not 3"),
        ({"functions": full}, "{full!r} is no list of functions and tools; pass [...] also for one"),
    ],
)
def test_an_argument_of_another_kind_is_named(options: dict[str, Any], complaint: str):
    with pytest.raises(TypeError) as caught:
        Agent(**{"provider": ScriptedKimi([]), **options})
    assert str(caught.value) == complaint.replace("{full!r}", repr(full))


BAD_LISTS: list[tuple[Any, str]] = [
    ("Be brief", "is a list of messages, such as [Message.user(...)], or None; not 'Be brief'"),
    (Message.user("x"), "is a list of messages, such as [Message.user(...)], or None; not Message("),
    ({"role": "user"}, "is a list of messages, such as [Message.user(...)], or None; not {'role': 'user'}"),
    (5, "is a list of messages, such as [Message.user(...)], or None; not 5"),
]


@pytest.mark.parametrize("name", ["chat_history", "always_included_messages"])
@pytest.mark.parametrize(("wrong", "complaint"), BAD_LISTS)
def test_what_is_no_list_of_messages_is_refused(name: str, wrong: Any, complaint: str):
    with pytest.raises(TypeError, match=f"^{re.escape(f'{name} {complaint}')}"):
        Agent(ScriptedKimi([]), **{name: wrong})


@pytest.mark.parametrize("name", ["chat_history", "always_included_messages"])
@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"role": "user", "content": "hi"}, "is a dict, and no Message; use Message.model_validate(...)"),
        ("hi", "is a str, and no Message; use Message.user(...)"),
    ],
)
async def test_what_is_no_message_is_named_wherever_it_would_be_used(
    tmp_path: Path, name: str, wrong: Any, complaint: str
):
    complaint = re.escape(f"item 1 of {name} {complaint}")
    with pytest.raises(TypeError, match=complaint):
        Agent(ScriptedKimi([]), **{name: iter([Message.user("a"), wrong])})
    agent = Agent(ScriptedKimi([say("b")]))
    getattr(agent, name).extend([Message.user("a"), wrong])
    with pytest.raises(TypeError, match=complaint):
        await agent.get_prompt()
    with pytest.raises(TypeError, match=complaint):
        await agent.chat_round("hi")
    with pytest.raises(TypeError, match=complaint):
        await full(agent)
    with pytest.raises(TypeError, match=complaint):
        agent.save(saved := tmp_path / "chat.json")
    assert not saved.exists()
    getattr(agent, name).remove(wrong)
    assert await agent.chat_round_str("now") == "b"


async def test_a_function_that_puts_no_message_into_the_history_leaves_an_agent_that_can_be_mended():
    class Spoiling(Agent):
        @ai_function()
        async def spoil(self) -> str:
            self.chat_history.append({"role": "user"})  # pyright: ignore[reportArgumentType]
            return "done"

    agent = Spoiling(ScriptedKimi([call("spoil"), say("ok")]))
    with pytest.raises((AttributeError, TypeError)):
        await full(agent)
    agent.chat_history.clear()
    assert await agent.chat_round_str("again") == "ok"


@pytest.mark.parametrize("wrong", [Message.user("hi"), {"role": "user", "content": "hi"}, 5, ["a", 5], b"hi"])
@pytest.mark.parametrize(
    "method", ["full_round", "full_round_str", "full_round_stream", "full_round_frames", "chat_round_stream"]
)
def test_a_query_that_is_nothing_to_say_is_refused_at_once(method: str, wrong: Any):
    with pytest.raises(TypeError, match=r"^a query is text, a content part, a list of both, or None; not "):
        getattr(Agent(ScriptedKimi([])), method)(wrong)


@pytest.mark.parametrize("ask", [Agent.chat_round, Agent.chat_round_str, partial(Agent.structured, kind=int)])
async def test_a_message_is_no_query_and_the_error_says_where_it_goes(ask: Any):
    agent = Agent(ScriptedKimi([]))
    with pytest.raises(TypeError, match=r"put messages into agent\.chat_history$"):
        await ask(agent, query=Message.user("hi"))
    assert agent.chat_history == []


def test_a_number_of_function_rounds_is_a_number():
    with pytest.raises(TypeError, match="max_function_rounds is a number, or None for no limit; not '3'"):
        Agent(ScriptedKimi([])).full_round("x", max_function_rounds="3")  # pyright: ignore[reportArgumentType]


def test_a_negative_number_of_function_rounds_is_no_way_to_say_for_ever():
    with pytest.raises(ValueError, match="max_function_rounds"):
        Agent(ScriptedKimi([])).full_round("x", max_function_rounds=-1)


async def test_a_plain_function_will_do():
    def double(number: int) -> int:
        return number * 2

    agent = Agent(ScriptedKimi([call("double", number=4), say("8.")]), functions=[double])
    assert [message.text async for message in agent.full_round("?")][1:] == ["8", "8."]


@pytest.mark.parametrize("wrong", [3, Agent, "double"])
def test_what_is_no_function_is_refused(wrong: Any):
    with pytest.raises(FunctionSpecError, match="pass"):
        Agent(ScriptedKimi([]), functions=[wrong])


def test_an_override_that_is_no_json_is_refused_at_once():
    with pytest.raises(TypeError, match="JSON"):
        Agent(ScriptedKimi([])).full_round("x", stop=object())  # pyright: ignore[reportArgumentType]


async def test_an_explicit_tool_choice_of_a_chat_round_is_sent():
    agent = tools(say("ok"))
    await agent.chat_round("x", tool_choice="auto")
    assert bodies(agent)[0]["tool_choice"] == "auto"


async def test_without_functions_no_tool_choice_is_sent():
    agent = Agent(ScriptedKimi([say("ok")]))
    await agent.chat_round("x")
    assert "tool_choice" not in bodies(agent)[0]


# ==== hooks and the window ====


async def test_whoever_asks_the_model_in_another_way_does_not_spoil_the_estimate():
    class Own(Agent):
        async def get_model_completion(self, include_functions: bool = True, **overrides: Any) -> GenerateResult:
            usage = TokenUsage(input_other=50_000, output=1)
            return GenerateResult("x", Message.assistant("ok"), usage, "stop")

    agent = Own(ScriptedKimi([]), chat_history=[Message.user("word " * 300)])
    for _ in range(5):
        await agent.chat_round("x")
    assert agent._window.scale == 1.0


async def test_the_estimate_learns_from_what_the_server_counted():
    usage = TokenUsage(input_other=2000, output=1)
    agent = Agent(ScriptedKimi(lambda body: Reply("ok", usage=usage)), chat_history=[Message.user("word " * 500)])
    await agent.chat_round("x")
    assert agent._window.scale > 1.0


async def test_a_note_behind_the_prompt_does_not_move_its_beginning():
    class Noting(Agent):
        async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
            return [*await super().get_prompt(include_functions, **overrides), Message.system("by the way")]

    agent = Noting(ScriptedKimi(lambda body: say("ok"), context_window=1000), desired_response_tokens=50)
    for number in range(60):
        await agent.chat_round(f"question number {number}")
    starts = [json.dumps(body["messages"][:2]) for body in bodies(agent)]
    assert len(set(starts)) < 12


async def test_an_error_that_a_function_returns_may_be_tried_again_as_often_as_one_that_it_raises():
    class Returning(Agent):
        @ai_function()
        async def bad(self) -> ToolError:
            return ToolError(message="no", brief="no")

    agent = Returning(ScriptedKimi(lambda body: call("bad") if body.get("tool_choice") != "none" else say("sorry")))
    await full(agent)
    assert len(bodies(agent)) == 3


@pytest.mark.parametrize("limit", [0, 2, 10, 40])
async def test_no_result_is_longer_than_auto_truncate_allows(limit: int):
    class Long(Agent):
        @ai_function(auto_truncate=limit)
        async def noted(self) -> ToolOk:
            return ToolOk(output="x" * 100, message="note " * 20)

        @ai_function(auto_truncate=limit)
        async def empty(self) -> str:
            return ""

        @ai_function(auto_truncate=limit)
        async def raising(self) -> str:
            raise ValueError("y" * 500)

    wanted = calls(call("noted"), call("empty"), call("raising"), call("raising", nonsense=1))
    messages = await full(Long(ScriptedKimi([wanted, say("ok")])))
    assert all(len(message.text) <= limit for message in messages[1:5])


async def test_a_result_that_was_not_committed_yet_is_kept_when_the_round_is_dropped():
    committing = asyncio.Event()

    class Slow(Agent):
        @ai_function()
        async def work(self) -> str:
            return "worked"

        async def add_to_history(self, message: Message) -> None:
            if message.role == "tool" and not committing.is_set():
                committing.set()
                await asyncio.Event().wait()
            await super().add_to_history(message)

    agent = Slow(ScriptedKimi([call("work")]))
    task = asyncio.create_task(full(agent))
    await committing.wait()
    task.cancel()
    await asyncio.wait([task])
    assert texts(agent.chat_history[2:]) == [("tool", "worked")]

"""Answers that are written as text: what a text says, how it goes out, and what is a mistake in it."""

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_agent import Agent, ai_function
from kimi_agent.errors import (
    APIConnectionError,
    APIEmptyResponseError,
    APIStatusError,
    APITimeoutError,
    ChatProviderError,
    RateLimitError,
    ServerError,
    StreamInterruptedError,
)
from kimi_agent.generate import GenerateResult, generate
from kimi_agent.kimi.client import Kimi
from kimi_agent.kimi.patience import Timeouts
from kimi_agent.message import Message, TokenUsage
from kimi_agent.testing import Delivery, Failure, Gate, HangUp, KimiServer, Reply, ScriptedKimi, call, language, say
from kimi_agent.testing.language import Written, read

Body = dict[str, Any]
QUESTION = Message.user("What is two and two?")

SUM = r"""
    # one sum, in pieces
    think: Two and
    think:  two
    text: Let me add.
    tool_call: {"name": "add", "arguments": "{\"a\": 2,"}
    tool_call_part: "b": 2}
    usage: {"input_other": 10, "output": 2, "input_cache_read": 4}
"""


async def asked(provider: ScriptedKimi | Kimi) -> GenerateResult:
    return await generate(provider, "", [], [QUESTION])


async def said_by(text: str) -> GenerateResult:
    return await asked(ScriptedKimi([text]))


async def outcome(provider: ScriptedKimi | Kimi) -> object:
    """The message and its cost, or the kind of error with what had come."""
    try:
        result = await asked(provider)
        return result.message, result.usage
    except StreamInterruptedError as error:
        return type(error), error.partial, type(error.__cause__)
    except APIStatusError as error:
        return type(error), error.status_code, str(error)
    except ChatProviderError as error:
        return type(error)


async def over_http(text: str) -> object:
    silence = 0.05 if "timeout" in text else 5.0
    async with KimiServer([text]) as server:
        async with Kimi(
            api_key=server.api_key,
            base_url=server.base_url,
            max_retries=0,
            timeout=Timeouts(first_byte=silence, between_chunks=silence),
        ) as kimi:
            return await outcome(kimi)


async def post(server: KimiServer, *, stream: bool) -> httpx.Response:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    body = {"model": "kimi-k3", "stream": stream, "messages": [{"role": "user", "content": "Hello."}]}
    async with httpx.AsyncClient(headers=headers, trust_env=False, verify=False) as client:
        return await client.post(f"{server.base_url}/chat/completions", json=body)


async def choices_of(text: str) -> list[Body]:
    async with KimiServer([text]) as server:
        events = (await post(server, stream=True)).text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: "))["choices"][0] for event in events[:-2]]


async def deltas_of(text: str) -> list[Body]:
    return [choice["delta"] for choice in await choices_of(text)][1:-1]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses, which take no time."""
    seconds: list[float] = []

    async def sleep(delay: float) -> None:
        seconds.append(delay)
        await asyncio.sleep(0)

    monkeypatch.setattr(language, "sleep", sleep)
    return seconds


# ==== what a text says ====


async def test_a_text_says_what_a_reply_says() -> None:
    result = await said_by(SUM)
    assert (result.message.reasoning, result.message.text) == ("Two and two", "Let me add.")
    (made,) = result.message.tool_calls
    assert (made.id, made.function.name, made.function.arguments) == ("add_0", "add", '{"a": 2,"b": 2}')
    assert result.usage == TokenUsage(input_other=10, output=2, input_cache_read=4)
    assert result.finish_reason == "tool_calls"


async def test_each_instruction_is_one_delta_in_the_order_written() -> None:
    choices = await choices_of(
        'text: a\ntool_call: {"name": "f"}\nthink: b\n'
        'tool_call: {"name": "g", "id": "x"}\ntool_call_part: {"index": 0, "arguments_part": "{}"}\ntext: c'
    )

    def starts(index: int, call_id: str, name: str) -> Body:
        function = {"name": name, "arguments": ""}
        return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}

    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        starts(0, "f_0", "f"),
        {"reasoning_content": "b"},
        starts(1, "x", "g"),
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
        {"content": "c"},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None] * 7 + ["tool_calls"]


@pytest.mark.parametrize(
    ("line", "content"),
    [
        ("text: Hello", "Hello"),
        ("text:Hello", "Hello"),
        ("text:  two blanks ", " two blanks "),
        ('text: "a\\nb "', "a\nb "),
        ('text: "Hello," she said', '"Hello," she said'),
        ("text: a: b", "a: b"),
        ("text:", ""),
        ("text: # no comment", "# no comment"),
        ("text: one\u2028line\r", "one\u2028line"),
        ('text: "\\ud83d"', "\ud83d"),
    ],
)
async def test_a_payload_is_verbatim_or_a_json_string(line: str, content: str) -> None:
    assert await deltas_of(line) == [{"content": content}]


async def test_an_empty_thought_is_the_empty_reasoning() -> None:
    assert (await said_by("think:\ntext: Hi")).message.reasoning == ""
    assert (await said_by("text: Hi")).message.reasoning is None


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        (r'"{\"a\":"', '{"a":'),
        ('{"a": "ß"}', '{"a": "ß"}'),
        ("[1, 2]", "[1, 2]"),
        ("{}", "{}"),
    ],
)
async def test_arguments_are_a_piece_of_json_or_a_value_that_becomes_one(arguments: str, sent: str) -> None:
    (delta,) = await deltas_of(f'tool_call: {{"name": "f", "arguments": {arguments}}}')
    assert delta["tool_calls"][0]["function"]["arguments"] == sent


async def test_a_call_without_an_index_gets_the_next_free_one_and_a_part_belongs_to_the_newest_call() -> None:
    deltas = await deltas_of(
        'tool_call: {"name": "f", "index": 3}\ntool_call: {"name": "g"}\ntool_call_part: [1,\n'
        'tool_call_part: {"arguments_part": " 2]"}\ntool_call_part: {"index": 3, "arguments_part": "{}"}'
    )
    pieces = [delta["tool_calls"][0] for delta in deltas]
    assert [piece["index"] for piece in pieces] == [3, 4, 4, 4, 3]
    assert [piece.get("id") for piece in pieces] == ["f_3", "g_4", None, None, None]
    assert [piece["function"]["arguments"] for piece in pieces] == ["", "", "[1,", " 2]", "{}"]


async def test_usage_is_estimated_as_for_a_reply_unless_it_is_said() -> None:
    reply = Reply("Four degrees.", "Hm", [call("f", a=1)])
    text = 'think: Hm\ntext: Four degrees.\ntool_call: {"name": "f", "arguments": {"a": 1}}'
    assert (await said_by(text)).usage == (await asked(ScriptedKimi([reply]))).usage


async def test_an_answer_of_nothing_can_be_written() -> None:
    with pytest.raises(APIEmptyResponseError):
        await said_by('usage: {"input_other": 1, "output": 0}')


lines = st.lists(
    st.tuples(st.just("text"), st.text(max_size=8))
    | st.tuples(st.just("think"), st.text(max_size=8))
    | st.tuples(st.just("call"), st.text(max_size=8)),
    min_size=1,
    max_size=8,
)


@given(lines)
def test_whatever_is_written_as_json_is_read_back(said: list[tuple[str, str]]) -> None:
    written = [
        f"tool_call: {json.dumps({'name': 'f', 'arguments': value})}"
        if kind == "call"
        else f"{kind}: {json.dumps(value)}"
        for kind, value in said
    ]
    answer = read("\n".join(written))
    assert isinstance(answer, Written)
    reply = answer.reply
    assert reply.text == "".join(value for kind, value in said if kind == "text")
    assert (reply.reasoning or "") == "".join(value for kind, value in said if kind == "think")
    assert [made.arguments for made in reply.tool_calls] == [value for kind, value in said if kind == "call"]


# ==== errors ====


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("error: 429 slow down", Failure(429, "rate_limit_reached_error", "slow down")),
        ("error: 503", Failure(503, "server_unavailable", "Service Unavailable")),
        ("error: 502 bad", Failure(502, None, "bad")),
        ("error: 529", Failure(529)),
        ("error: connection", HangUp("close")),
        ("error: timeout", HangUp("stall")),
        ("\n# nothing else\nerror: 401", Failure(401, "invalid_authentication_error", "Unauthorized")),
    ],
)
def test_an_error_alone_stands_in_place_of_an_answer(line: str, answer: Failure | HangUp) -> None:
    assert read(line) == answer


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 429, 500, 502, 503, 504])
async def test_an_error_in_the_middle_has_the_status_and_the_words(status: int) -> None:
    with pytest.raises(APIStatusError, match="no more") as error:
        await said_by(f"text: Half an\nerror: {status} no more")
    assert error.value.status_code == status


ENDINGS = {
    "refused": "error: 429 slow down",
    "hung up": "error: connection",
    "silent": "error: timeout",
    "error inside": "text: Half an\nerror: 503 busy",
    "broken inside": "text: Half an\nerror: connection",
    "silent inside": "text: Half an\nerror: timeout",
    "silent before a word": "delay: 0\nerror: timeout",
    "broken inside a call": 'tool_call: {"name": "f", "arguments": "{"}\nerror: connection',
    "whole": SUM,
    "empty": "text:",
}


@pytest.mark.parametrize("text", ENDINGS.values(), ids=ENDINGS)
async def test_a_text_ends_alike_with_and_without_http(text: str) -> None:
    assert await outcome(ScriptedKimi([text])) == await over_http(text)


async def test_what_came_before_an_error_is_kept() -> None:
    with pytest.raises(StreamInterruptedError) as broken:
        await said_by("text: Half an\nerror: connection")
    assert broken.value.partial.text == "Half an"
    assert type(broken.value.__cause__) is APIConnectionError
    with pytest.raises(StreamInterruptedError) as silent:
        await said_by("text: Half an\nerror: timeout")
    assert silent.value.partial.text == "Half an"
    assert type(silent.value.__cause__) is APITimeoutError


async def test_an_error_in_the_middle_is_sent_as_kimi_sends_it() -> None:
    async with KimiServer(["text: a\nerror: 500 oops", "text: a\nerror: 504 late"]) as server:
        bodies = [(await post(server, stream=True)).text for _ in range(2)]
    errors = [json.loads(body.split("\n\n")[-2].removeprefix("data: ")) for body in bodies]
    assert errors == [
        {"error": {"message": "oops", "type": "server_error"}},
        {"error": {"message": "late", "code": 504}},
    ]


async def test_a_double_that_stops_earlier_does_so() -> None:
    kimi = ScriptedKimi(["text: Hi\nerror: timeout"], delivery=Delivery(stop_after=250, stop="end"))
    with pytest.raises(StreamInterruptedError) as error:
        await asked(kimi)
    assert error.value.__cause__ is None


async def test_errors_of_texts_are_retried_like_any_other() -> None:
    async with KimiServer(["error: 503", "error: connection", "text: Hi"]) as server:
        async with Kimi(api_key=server.api_key, base_url=server.base_url) as kimi:
            assert (await asked(kimi)).message.text == "Hi"
    with pytest.raises(RateLimitError, match="slow down"):
        await said_by("error: 429 slow down")
    with pytest.raises(ServerError):
        await said_by("error: 529")


# ==== delays ====


async def test_delays_pause_before_what_follows(slept: list[float]) -> None:
    """Event 0 tells whose answer it is."""
    order: list[float | int] = []

    async def gate(number: int) -> None:
        order.extend([*slept, number])
        slept.clear()

    kimi = ScriptedKimi(
        ["delay: 1\ntext: a\ntext: b\ndelay: 2\ndelay: 0.5\ntext: c\ndelay: 3"], delivery=Delivery(gate=gate)
    )
    assert (await asked(kimi)).message.text == "abc"
    assert order == [0, 1, 1, 2, 2.5, 3, 3, 4, 5, 6]


@pytest.mark.parametrize("fault", ["connection", "timeout"])
async def test_a_delay_may_stand_before_a_break(slept: list[float], fault: str) -> None:
    for ask in (lambda text: outcome(ScriptedKimi([text])), over_http):
        await ask(f"text: a\ndelay: 2\nerror: {fault}")
    assert slept == [2, 2]


@pytest.mark.parametrize("delivery", [Delivery(whole=True), Delivery(cuts=range(0, 2000, 7)), Delivery(cuts=[300])])
async def test_delays_survive_any_cut_of_the_bytes(slept: list[float], delivery: Delivery) -> None:
    kimi = ScriptedKimi(["delay: 1\ntext: a\ndelay: 2\ntext: b"], delivery=delivery)
    assert (await asked(kimi)).message.text == "ab"
    assert sum(slept) == 3


async def test_a_pause_after_the_last_byte_is_not_waited_for(slept: list[float]) -> None:
    kimi = ScriptedKimi(["text: a\ndelay: 9\ntext: b"], delivery=Delivery(stop_after=200))
    with pytest.raises(APIConnectionError):
        await asked(kimi)
    assert slept == []


CUT_AT_THE_END = Reply("abc", delivery=Delivery(cuts=[10_000], stop_after=10_000, finish=False, done=False))


@pytest.mark.parametrize("step", [CUT_AT_THE_END, "text: abc\nerror: connection"], ids=["reply", "text"])
async def test_a_gate_may_hold_the_moment_before_a_break(step: Reply | str) -> None:
    gate = Gate(before=1)
    if isinstance(step, Reply) and step.delivery:
        step = replace(step, delivery=replace(step.delivery, gate=gate))
    kimi = ScriptedKimi([step], delivery=Delivery(whole=True, gate=gate))
    asking = asyncio.ensure_future(asked(kimi))
    await gate.reached()
    assert not asking.done()
    gate.open()
    with pytest.raises(StreamInterruptedError) as error:
        await asking
    assert error.value.partial.text == "abc"


# ==== answers that are not streamed ====


async def test_who_wants_no_stream_gets_the_same_as_one_body(slept: list[float]) -> None:
    async with KimiServer([f"delay: 0.5\n{SUM}delay: 1", say("next")]) as server:
        body = (await post(server, stream=False)).json()
        assert (await post(server, stream=False)).json()["id"] == "chatcmpl-2"
    assert body["object"] == "chat.completion"
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    assert (message["content"], message["reasoning_content"]) == ("Let me add.", "Two and two")
    assert message["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 2,"b": 2}'}
    assert body["usage"]["prompt_tokens"] == 14
    assert slept == [1.5]


async def test_who_wants_no_stream_gets_an_error_alone() -> None:
    async with KimiServer(["text: a\nerror: 503 busy", "text: a\nerror: connection"]) as server:
        response = await post(server, stream=False)
        assert (response.status_code, response.json()["error"]["message"]) == (503, "busy")
        with pytest.raises(httpx.RemoteProtocolError):
            await post(server, stream=False)


# ==== scripts of texts ====


class Adder(Agent):
    @ai_function()
    async def add(self, a: int, b: int) -> int:
        """Add."""
        return a + b


async def test_an_agent_runs_on_texts_and_functions_that_return_them() -> None:
    async def later(body: Body) -> str:
        return f"text: It is {body['messages'][-1]['content']}."

    kimi = ScriptedKimi([SUM, later])
    messages = [message async for message in Adder(kimi).full_round("What is two and two?")]
    assert [message.text for message in messages] == ["Let me add.", "4", "It is 4."]
    assert len(kimi.requests) == 2
    kimi.assert_complete()


async def test_a_function_in_place_of_a_script_may_return_a_text() -> None:
    async with KimiServer(lambda body: f"text: {body['model']}") as server:
        assert (await post(server, stream=False)).json()["choices"][0]["message"]["content"] == "kimi-k3"


async def test_a_mistake_in_a_text_of_a_function_is_seen_where_it_was_asked() -> None:
    with pytest.raises(ValueError, match="line 1, 'txt: a'"):
        await asked(ScriptedKimi([lambda body: "txt: a"]))
    async with KimiServer([lambda body: "txt: a"]) as server:
        assert "line 1" in (await post(server, stream=True)).text


def test_what_was_not_asked_for_is_named_as_it_was_written() -> None:
    with pytest.raises(AssertionError) as error:
        ScriptedKimi(["text: first", say("second")]).assert_complete()
    assert "'text: first'\n  Reply(text='second'" in str(error.value)


# ==== mistakes ====

INSTRUCTIONS = "text:, think:, tool_call:, tool_call_part:, usage:, error:, delay:"
CALL = 'tool_call: {"name": "f"}\n'

MISTAKES = {
    "": INSTRUCTIONS,
    "\n# only a comment\n": INSTRUCTIONS,
    "hello": INSTRUCTIONS,
    "Text: hello": INSTRUCTIONS,
    "text : hello": INSTRUCTIONS,
    "tool_call: f": "name, id, index, arguments",
    "tool_call: [1]": "name, id, index, arguments",
    'tool_call: {"nme": "f"}': "nme is no field; the fields are name, id, index, arguments",
    'tool_call: {"id": "x"}': "name",
    'tool_call: {"name": ""}': "name",
    'tool_call: {"name": 1}': "name",
    'tool_call: {"name": "f", "id": 1}': "id of a call is a text",
    'tool_call: {"name": "f", "index": -1}': "whole number from 0",
    'tool_call: {"name": "f", "index": true}': "whole number from 0",
    'tool_call: {"name": "f", "arguments": 1}': "a text, or an object or array",
    'tool_call: {"name": "f", "arguments": null}': "a text, or an object or array",
    "tool_call_part: {": "begin one with tool_call",
    CALL + 'tool_call_part: {"a": 1}': "the fields are index, arguments_part",
    CALL + 'tool_call_part: {"index": 0}': "arguments_part has to be there",
    CALL + 'tool_call_part: {"index": 1, "arguments_part": "{"}': "no call with the index 1 has begun; there are 0",
    "usage: 3": "input_other, output, input_cache_read, input_cache_creation",
    'usage: {"input": 3}': "the fields are input_other, output, input_cache_read, input_cache_creation",
    'usage: {"output": 3}': "no input_other",
    'usage: {"input_other": 1, "output": 0.5}': "output is a number of tokens",
    'usage: {"input_other": -1, "output": 0}': "input_other is a number of tokens",
    'usage: {"input_other": 1, "output": 0}\nusage: {"input_other": 1, "output": 0}': "the usage has been said",
    "error:": "a status from 400 to 599 and a message, or connection or timeout",
    "error: 200": "a status from 400 to 599",
    "error: broken": "connection or timeout",
    "error: 503\ntext: a": "nothing comes after an error",
    "delay: soon": "a number of seconds from 0",
    "delay: -1": "a number of seconds from 0",
    "delay: nan": "a number of seconds from 0",
    "delay: inf": "a number of seconds from 0",
}


@pytest.mark.parametrize("double", [ScriptedKimi, KimiServer])
@pytest.mark.parametrize(("text", "allowed"), MISTAKES.items(), ids=map(repr, MISTAKES))
def test_a_mistake_is_a_value_error_when_the_double_is_made(
    double: type[ScriptedKimi] | type[KimiServer], text: str, allowed: str
) -> None:
    with pytest.raises(ValueError) as error:
        double([say("fine"), text])
    said = str(error.value)
    assert said.startswith("step 2 of the script: ")
    assert allowed in said
    if text.strip() and not text.startswith("\n#"):
        number = text.count("\n") + 1
        assert f"line {number}, {text.splitlines()[-1]!r}: " in said


async def test_a_text_in_place_of_a_script_answers_one_request() -> None:
    kimi = ScriptedKimi("text: Hello")
    assert (await generate(kimi, "", [], [Message.user("x")])).message.text == "Hello"
    kimi.assert_complete()


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ValueError):
        read(text)


@pytest.mark.parametrize("step", [5, b"text: a", None, {"text": "a"}])
def test_what_is_no_step_is_refused_when_the_double_is_made(step: Any) -> None:
    with pytest.raises(TypeError, match="step 2 of the script"):
        ScriptedKimi([say("a"), step])


@pytest.mark.parametrize("double", [ScriptedKimi, KimiServer])
@pytest.mark.parametrize("script", [5, say("a"), call("f")], ids=repr)
def test_what_is_no_script_is_refused_when_the_double_is_made(
    double: type[ScriptedKimi] | type[KimiServer], script: Any
) -> None:
    with pytest.raises(TypeError) as error:
        double(script)
    assert str(error.value) == f"a script is a list of steps, a text, or a function, not {script!r}"


def test_a_piece_that_is_an_object_is_told_how_to_be_written() -> None:
    with pytest.raises(ValueError, match="arguments_part"):
        read('tool_call: {"name": "f"}\ntool_call_part: {"a": 1}')


@pytest.mark.parametrize("line", ["usage: ", "tool_call: ", 'text: "'])
def test_endless_nesting_is_a_mistake_and_no_crash(line: str) -> None:
    with suppress(ValueError):
        read(line + "[" * 100_000)

"""What messages, tools and texts cost, by estimate."""

import base64
import json
import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_agent.message import (
    AudioURLPart,
    ImageURLPart,
    MediaURL,
    Message,
    TextPart,
    ThinkPart,
    ToolCall,
    UnknownPart,
    VideoURLPart,
)
from kimi_agent.prompt.tokens import REQUEST_COST, estimate_text, message_cost, quickly_counted, tools_cost
from kimi_agent.tools.base import Tool, ToolsPart

dice = random.Random(7)


def call(name: str, arguments: str) -> ToolCall:
    return ToolCall(id="c", function=ToolCall.FunctionBody(name=name, arguments=arguments))


# ==== text ====


def test_nothing_costs_nothing():
    assert estimate_text("") == 0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("hello", 1),
        ("Reply with exactly OK", 4),
        ("You are a helpful assistant.", 6),
        ("1234567", 3),
        ("\n\n\n", 1),
    ],
)
def test_short_texts_are_counted_as_the_tokenizer_does(text, tokens):
    assert estimate_text(text) == pytest.approx(tokens, abs=1)


@given(st.text(max_size=300))
def test_any_text_has_a_cost_between_nothing_and_a_few_tokens_per_character(text):
    assert (estimate_text(text) > 0) == bool(text)
    assert estimate_text(text) <= 3 * len(text) + 1


@given(st.text(max_size=200), st.text(max_size=200))
def test_two_texts_on_two_lines_cost_about_what_they_cost_alone(first, second):
    together = estimate_text(f"{first}\n{second}")
    assert together <= estimate_text(first) + estimate_text(second) + 3


def test_base64_and_hex_cost_more_than_words_do():
    blob = dice.randbytes(9000)
    encoded = base64.b64encode(blob).decode()
    assert estimate_text(encoded) == pytest.approx(0.67 * len(encoded), rel=0.02)
    assert estimate_text(blob.hex()) == pytest.approx(0.57 * len(blob.hex()), rel=0.02)
    assert estimate_text(f"data:image/png;base64,{encoded}") == pytest.approx(0.67 * len(encoded), rel=0.02)


def test_a_long_path_is_no_blob():
    path = "/usr/local/lib/python/site-packages/kimi_agent/prompt/tokens/" * 3
    assert estimate_text(path) < 0.4 * len(path)


def test_lone_surrogates_are_counted():
    assert estimate_text("before \ud83d after") > 2


ADVERSARIAL = {
    "one letter": "a",
    "capitals": "A",
    "spaces": " ",
    "lines": "\n",
    "spaces then lines": " \n",
    "ruler": "=",
    "digits": "7",
    "camel": "aA",
    "apostrophes": "'s",
    "just below a blob": "aB3/" * 15 + "abc.",
    "blobs": "aB3/" * 16 + " ",
    "Han": "中",
    "accents": "é",
    "emoji": "😀",
    "surrogates": "\ud83d",
    "space and word": " " * 99 + "x",
}


def seconds(text: str) -> float:
    """The best of three runs."""
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        estimate_text(text)
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize("unit", ADVERSARIAL.values(), ids=ADVERSARIAL.keys())
def test_no_text_takes_more_than_linear_time(unit):
    assert seconds((unit * 100_000)[:100_000]) < 0.15


# ==== messages ====


@pytest.mark.parametrize(
    ("message", "fixed", "texts"),
    [
        (Message.user("hello there"), 11, ["hello there"]),
        (Message.system("be terse"), 11, ["be terse"]),
        (Message.user("hello", name="anna"), 11 + 3, ["hello", "anna"]),
        (Message.assistant("fine"), 23, ["fine"]),
        (Message.assistant([ThinkPart(think="let me see"), "fine"]), 23, ["let me see", "fine"]),
        (Message.tool("sunny", "c", name="get_weather"), 18, ["sunny", "get_weather"]),
        (Message.assistant(tool_calls=[call("ping", "")]), 23 + 19, ["ping"]),
        (Message.assistant(tool_calls=[call("ping", "{}"), call("pong", "{}")]), 23 + 19 + 13, ["ping", "pong"]),
        (
            Message.assistant(tool_calls=[call("get", '{"city": "Oslo", "days": [1, 2]}')]),
            23 + 19 + 2 * 13,
            ["get", "city", "Oslo", "days", "[1, 2]"],
        ),
        (Message.assistant(tool_calls=[call("get", '{"city": "Os')]), 23 + 19 + 10, ["get", '{"city": "Os']),
        (Message.user([ImageURLPart(image_url=MediaURL(url="data:image/png;base64,AAAA")), "what?"]), 2011, ["what?"]),
        (Message.user(AudioURLPart(audio_url=MediaURL(url="ms://1"))), 2011, []),
        (Message.user(VideoURLPart(video_url=MediaURL(url="ms://1"))), 2011, []),
        (Message.user(UnknownPart(type="hologram", data={"url": "ms://1"})), 2011, []),
    ],
)
def test_a_message_costs_its_frame_and_its_texts(message, fixed, texts):
    assert message_cost(message) == fixed + sum(map(estimate_text, texts))


@pytest.mark.parametrize("arguments", ['{"a": ' * 190 + "1" + "}" * 190, "[" * 5000, '{"a": "\\ud83d"}', '{"a": NaN}'])
def test_arguments_of_any_shape_are_counted(arguments):
    assert message_cost(Message.assistant(tool_calls=[call("f", arguments)])) > 23 + 19


def test_a_cost_is_worked_out_once_and_goes_with_the_value(monkeypatch):
    counted: list[str] = []
    real = estimate_text
    monkeypatch.setattr("kimi_agent.prompt.tokens.estimate_text", lambda text: counted.append(text) or real(text))
    message = Message.user("hello there")
    assert message_cost(message) == message_cost(message)
    assert counted == ["hello there"]
    assert message_cost(message.copy_with(content="something much longer")) > message_cost(message)


def test_a_short_text_may_be_counted_on_the_event_loop_and_a_long_one_not():
    long = "word " * 20_000
    assert quickly_counted([Message.user("word " * 5_000)])
    assert not quickly_counted([Message.user(long)])
    assert not quickly_counted([Message.assistant([ThinkPart(think=long)])])
    assert not quickly_counted([Message.assistant(tool_calls=[call("f", json.dumps({"text": long}))])])
    assert not quickly_counted([Message.user([TextPart(text="word " * 6000)] * 2)])
    assert not quickly_counted([Message.user("word " * 6000), Message.user("word " * 6000)])
    assert quickly_counted(
        [Message.user(ImageURLPart(image_url=MediaURL(url="data:image/png;base64," + "A" * 99_999)))]
    )


def test_what_was_counted_before_is_not_counted_again():
    message = Message.user("word " * 20_000)
    message_cost(message)
    assert quickly_counted([message])
    assert quickly_counted([Message.user("word " * 20_000), message])


# ==== tools and requests ====

PING = Tool(name="ping", description="Is it there?", parameters={"type": "object", "properties": {}})


def test_no_tools_cost_nothing():
    assert tools_cost([]) == 0


def test_tools_cost_their_note_and_their_json():
    other = PING.copy_with(name="pong", description="Is it still there?")
    one, two = tools_cost([PING]), tools_cost([PING, other])
    assert one == tools_cost((PING,))
    assert 35 < one < 100
    assert two - one == tools_cost([other]) - 36


def test_a_tool_is_counted_once(monkeypatch):
    tool = PING.copy_with(description="Say something.")
    cost = tools_cost([tool])
    monkeypatch.setattr("kimi_agent.prompt.tokens.estimate_text", lambda text: pytest.fail("counted again"))
    assert tools_cost([tool]) == cost


def test_tools_of_a_system_message_cost_at_least_what_the_same_tools_cost_elsewhere():
    other = PING.copy_with(name="pong", description="word " * 100)
    one, two = (message_cost(Message.system(ToolsPart(tools=tools))) for tools in ((PING,), (PING, other)))
    assert one >= tools_cost([PING])
    assert two - one == tools_cost([PING, other]) - tools_cost([PING])
    assert two - one > 100


def test_the_note_of_late_tools_costs_56_tokens_beside_its_list():
    the_list = tools_cost([PING]) - 35
    assert message_cost(Message.system(ToolsPart(tools=(PING,)))) == 56 + the_list


def test_long_tools_of_a_system_message_are_not_counted_on_the_event_loop():
    assert not quickly_counted([Message.system(ToolsPart(tools=(PING.copy_with(description="word " * 20_000),)))])


def cases(data: Path) -> list[dict]:
    """Requests of plain messages with the number of prompt tokens that the server counted."""
    lines = (data / "prompt_token_cases.jsonl").read_text("utf-8").splitlines()
    plain = {"messages", "tools", "max_tokens", "temperature", "top_p", "n", "reasoning_effort", "stream", "thinking"}
    found = [json.loads(line) for line in lines]
    return [case for case in found if set(case["request"]) <= plain and is_plain(case["request"])]


def is_plain(request: dict) -> bool:
    special = [message.get("tools") or message.get("partial") for message in request["messages"]]
    return not any(special) and request.get("reasoning_effort") != "none" and "thinking" not in request


def estimate(request: dict) -> int:
    tools = [Tool(**{"description": "", "parameters": {}, **tool["function"]}) for tool in request.get("tools") or ()]
    return REQUEST_COST + tools_cost(tools) + sum(message_cost(read(message)) for message in request["messages"])


def read(message: dict) -> Message:
    thoughts = [ThinkPart(think=text)] if (text := message.get("reasoning_content")) else []
    content = message.get("content") or []
    parts = [content] if isinstance(content, str) else [part["text"] for part in content]
    known = {key: message[key] for key in ("name", "tool_calls", "tool_call_id") if message.get(key)}
    return Message(role=message["role"], content=[*thoughts, *parts], **known)


def test_estimates_are_close_to_what_the_server_counted(data):
    pairs = [(estimate(case["request"]), case["expected_prompt_tokens"]) for case in cases(data)]
    assert len(pairs) >= 10
    for estimated, counted in pairs:
        assert estimated == pytest.approx(counted, rel=0.12)
    assert sum(estimated for estimated, _ in pairs) == pytest.approx(sum(counted for _, counted in pairs), rel=0.04)


def test_late_tools_are_counted_about_as_the_server_counts_them(data):
    lines = (data / "prompt_token_cases.jsonl").read_text("utf-8").splitlines()
    late = [case for case in map(json.loads, lines) if any("tools" in each for each in case["request"]["messages"])]
    assert late
    for case in late:
        request = case["request"]
        plain = [each for each in request["messages"] if "tools" not in each]
        tools = [tool["function"] for each in request["messages"] for tool in each.get("tools", ())]
        part = ToolsPart(tools=[Tool(**{"description": "", "parameters": {}, **tool}) for tool in tools])
        estimated = estimate({**request, "messages": plain}) + message_cost(Message.system(part))
        assert estimated == pytest.approx(case["expected_prompt_tokens"], rel=0.12)

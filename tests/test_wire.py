"""Messages and tools as Kimi wants them, to the byte, and nothing that nobody gave."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_agent.kimi.models import model_info
from kimi_agent.kimi.request import ChatRequest
from kimi_agent.kimi.wire import Dialect, encode, messages_json, tool_json
from kimi_agent.message import (
    KEEP_UNKNOWN,
    AudioURLPart,
    ContentPart,
    ImageURLPart,
    Message,
    TextPart,
    ThinkPart,
    ToolCall,
    VideoURLPart,
)
from kimi_agent.tools.base import Tool

OSLO = ToolCall(id="get_weather_0", function=ToolCall.FunctionBody(name="get_weather", arguments='{"city": "Oslo"}'))
TOOL = Tool(
    name="get_weather",
    description="Wetter – 天气",
    parameters={"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo", "Bergen"]}}},
)


PLAIN = Dialect()


def message_json(message: Message, dialect: Dialect = PLAIN) -> bytes:
    return messages_json(dialect, "", [message])[0]


def sent(message: Message, dialect: Dialect = PLAIN) -> Any:
    return json.loads(message_json(message, dialect))


def request_body(
    model: str, system_prompt: str, tools: list[Tool], history: list[Message], overrides: Any = None
) -> bytes:
    return ChatRequest(model_info(model), system_prompt, tools, history, overrides or {}).body()


def body_of(*args: Any) -> Any:
    return json.loads(request_body("some-model", *args))


# ==== a request ====


def test_the_body_of_a_small_request_to_the_byte() -> None:
    assert request_body("kimi-k3", "Be terse.", [], [Message.user("Hi")]) == (
        b'{"messages":[{"role":"system","content":"Be terse."},{"role":"user","content":"Hi"}],'
        b'"model":"kimi-k3","stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":131072}'
    )


def test_the_body_of_a_request_with_tools_to_the_byte() -> None:
    assert (
        request_body("m", "", [TOOL, TOOL.copy_with(name="get_wetter")], [Message.user("Hi"), Message.user("Ho")])
        == (
            '{"messages":[{"role":"user","content":"Hi"},{"role":"user","content":"Ho"}],"tools":['
            + ",".join(
                [
                    f'{{"type":"function","function":{{"name":"{name}","description":"Wetter – 天气","parameters":'
                    '{"type":"object","properties":{"city":{"type":"string","enum":["Oslo","Bergen"]}}}}}'
                    for name in ("get_weather", "get_wetter")
                ]
            )
            + '],"model":"m","stream":true,"stream_options":{"include_usage":true}}'
        ).encode()
    )


@pytest.mark.parametrize("system", ["", "Be terse."])
@pytest.mark.parametrize("tools", [[], [TOOL]])
@pytest.mark.parametrize("history", [[], [Message.user("a")], [Message.user("a"), Message.assistant("b")]])
def test_a_request_is_what_its_parts_are(system: str, tools: list[Tool], history: list[Message]) -> None:
    for _ in range(2):  # the second time from what is known
        body = body_of(system, tools, history)
        messages = [{"role": "system", "content": system}] if system else []
        assert body.pop("messages") == messages + [{"role": m.role, "content": m.text} for m in history]
        assert body.pop("tools", []) == [json.loads(tool_json(tool)) for tool in tools]
        assert body == {"model": "some-model", "stream": True, "stream_options": {"include_usage": True}}


def test_a_request_without_tools_has_no_tools() -> None:
    assert "tools" not in body_of("", [], [Message.user("Hi")])


def test_overrides_are_sent_and_the_caller_keeps_them() -> None:
    overrides: Any = {
        "temperature": 0.5,
        "max_completion_tokens": 100,
        "stop": ["\n"],
        "tool_choice": "none",
        "response_format": {"type": "json_object"},
        "n": None,
    }
    before = dict(overrides)
    body = body_of("", [], [Message.user("Hi")], overrides)
    assert overrides == before
    del body["messages"]
    assert body == {"model": "some-model", "stream": True, "stream_options": {"include_usage": True}} | {
        name: value for name, value in before.items() if value is not None
    }


def test_extra_body_is_merged_into_the_top_level_and_has_the_last_word() -> None:
    overrides: Any = {
        "temperature": 0.5,
        "extra_body": {"thinking": {"type": "disabled"}, "temperature": 1, "top_p": None},
    }
    body = body_of("", [], [Message.user("Hi")], overrides)
    assert body["thinking"] == {"type": "disabled"}
    assert body["temperature"] == 1
    assert not {"extra_body", "top_p"} & body.keys()
    assert overrides["extra_body"]["temperature"] == 1


@pytest.mark.parametrize("empty", [None, {}])
def test_an_empty_extra_body_adds_nothing(empty: Any) -> None:
    assert body_of("", [], [Message.user("Hi")], {"extra_body": empty}) == body_of("", [], [Message.user("Hi")])


@pytest.mark.parametrize("taken", ["messages", "tools"])
def test_extra_body_cannot_replace_what_the_history_says(taken: str) -> None:
    with pytest.raises(TypeError, match=taken):
        request_body("kimi-k3", "", [], [Message.user("Hi")], {"extra_body": {taken: []}})


def test_a_history_is_not_changed_by_being_sent() -> None:
    history = [Message.user("a"), Message.assistant("b")]
    first = request_body("m", "s", [TOOL], history)
    assert history == [Message.user("a"), Message.assistant("b")]
    assert request_body("m", "s", [TOOL], history) == first


def test_the_beginning_of_a_longer_history_is_the_same_bytes() -> None:
    history = [Message.user("a"), Message.assistant("b", tool_calls=[OSLO]), Message.tool("4", OSLO.id)]
    short = request_body("m", "s", [], history).partition(b'],"model"')[0]
    longer = request_body("m", "s", [], [*history, Message.user("c")])
    assert longer.startswith(short)


# ==== messages ====

MESSAGES = [
    (Message.system("s"), {"role": "system", "content": "s"}),
    (Message.user('天气\n\u2028"\\'), {"role": "user", "content": '天气\n\u2028"\\'}),
    (Message.user(""), {"role": "user", "content": ""}),
    (Message.user("x", name="Ada"), {"role": "user", "content": "x", "name": "Ada"}),
    (Message.assistant("x"), {"role": "assistant", "content": "x"}),
    (
        Message.assistant([ThinkPart(think="hm"), TextPart(text="x")]),
        {"role": "assistant", "reasoning_content": "hm", "content": "x"},
    ),
    (
        Message.assistant([ThinkPart(think="a"), ThinkPart(think="b"), "x", "y"]),
        {"role": "assistant", "reasoning_content": "ab", "content": "xy"},
    ),
    (
        Message.assistant([ThinkPart(think=""), TextPart(text="x")]),
        {"role": "assistant", "reasoning_content": "", "content": "x"},
    ),
    (
        Message.assistant('{"a":', partial=True, name="Ada"),
        {"role": "assistant", "content": '{"a":', "name": "Ada", "partial": True},
    ),
    (
        Message.tool("4", "get_weather_0", name="get_weather", is_tool_call_error=True),
        {"role": "tool", "content": "4", "tool_call_id": "get_weather_0", "name": "get_weather"},
    ),
    (Message.tool("", "a"), {"role": "tool", "content": "", "tool_call_id": "a"}),
    (
        Message.user(["a", "b"]),
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ),
    (
        Message.tool(["see", ImageURLPart(image_url=ImageURLPart.ImageURL(url="data:image/png;base64,aaaa"))], "a"),
        {
            "role": "tool",
            "content": [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}},
            ],
            "tool_call_id": "a",
        },
    ),
    (
        Message.user(
            [
                AudioURLPart(audio_url=AudioURLPart.AudioURL(url="data:a")),
                VideoURLPart(video_url=VideoURLPart.VideoURL(url="ms://file", id="v")),
            ]
        ),
        {
            "role": "user",
            "content": [
                {"type": "audio_url", "audio_url": {"url": "data:a"}},
                {"type": "video_url", "video_url": {"url": "ms://file", "id": "v"}},
            ],
        },
    ),
]


@pytest.mark.parametrize(("message", "expected"), MESSAGES, ids=lambda value: repr(value)[:40])
def test_a_message_is_sent_as_kimi_wants_it(message: Message, expected: Any) -> None:
    assert sent(message) == expected


WIRE_CALL = {
    "id": "get_weather_0",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
}


@pytest.mark.parametrize("content", [None, "", " \n", [ThinkPart(think="hm")], [ThinkPart(think="hm"), "", " "]])
def test_with_calls_blank_content_is_left_out(content: Any) -> None:
    body = sent(Message.assistant(content, tool_calls=[OSLO]))
    body.pop("reasoning_content", None)
    assert body == {"role": "assistant", "tool_calls": [WIRE_CALL]}


def test_with_calls_text_and_reasoning_are_sent_too() -> None:
    assert sent(Message.assistant([ThinkPart(think=""), "Looking."], tool_calls=[OSLO])) == {
        "role": "assistant",
        "reasoning_content": "",
        "content": "Looking.",
        "tool_calls": [WIRE_CALL],
    }


@pytest.mark.parametrize("arguments", [None, "", " "])
def test_a_call_without_arguments_is_sent_with_an_empty_object(arguments: str | None) -> None:
    call = ToolCall(id="a", function=ToolCall.FunctionBody(name="f", arguments=arguments))
    assert sent(Message.assistant(tool_calls=[call]))["tool_calls"][0]["function"]["arguments"] == "{}"


def test_broken_arguments_are_sent_as_the_model_wrote_them() -> None:
    call = ToolCall(id="a", function=ToolCall.FunctionBody(name="f", arguments='{"a": "lo'))
    assert sent(Message.assistant(tool_calls=[call]))["tool_calls"][0]["function"]["arguments"] == '{"a": "lo'


def test_reasoning_of_anybody_but_the_model_is_not_sent() -> None:
    assert sent(Message.user([ThinkPart(think="hm"), "x"])) == {"role": "user", "content": "x"}


class Note(ContentPart):
    type: str = "note_to_kimi"
    body: str
    image: ImageURLPart.ImageURL


SECRET = {"mine": "secret"}


def test_extra_is_never_sent_from_any_depth() -> None:
    url = ImageURLPart.ImageURL(url="data:x", extra=SECRET)
    function = ToolCall.FunctionBody(name="f", arguments="{}", extra=SECRET)
    message = Message.assistant(
        [
            TextPart(text="a", extra=SECRET),
            ThinkPart(think="b", extra=SECRET),
            ImageURLPart(image_url=url, extra=SECRET),
            Note(body="c", image=url, extra=SECRET),
        ],
        tool_calls=[ToolCall(id="a", function=function, extra=SECRET)],
        extra=SECRET,
    )
    tool = TOOL.copy_with(extra=SECRET)
    assert b"secret" not in request_body("m", "", [tool], [message])
    assert sent(message)["content"][1:] == [
        {"type": "image_url", "image_url": {"url": "data:x"}},
        {"type": "note_to_kimi", "body": "c", "image": {"url": "data:x"}},
    ]


def test_fields_of_a_newer_version_are_not_sent() -> None:
    saved = {
        "role": "user",
        "new": 1,
        "content": [{"type": "image_url", "new": 2, "image_url": {"url": "u", "new": 3}}],
    }
    message = Message.model_validate(saved, context=KEEP_UNKNOWN)
    assert sent(message) == {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}


def test_a_part_of_an_unknown_type_is_sent_as_it_came() -> None:
    part = {"type": "hologram", "url": "ms://x", "size": [1, {"deep": None}]}
    message = Message.model_validate({"role": "user", "content": [part, "x"]})
    assert sent(message)["content"] == [part, {"type": "text", "text": "x"}]


def test_a_lone_surrogate_is_sent_as_an_escape() -> None:
    raw = message_json(Message.user("天a\ud83cb"))
    assert raw.isascii()
    assert b"\\ud83c" in raw
    assert json.loads(raw)["content"] == "天a\ud83cb"
    assert json.loads(request_body("m", "a\udc00", [TOOL.copy_with(description="\ud800")], [Message.user("\udfff")]))


# ==== bytes that are known ====


def test_the_bytes_of_a_message_are_made_once() -> None:
    message = Message.user("x")
    assert message_json(message) is message_json(message)
    assert tool_json(TOOL) is tool_json(TOOL)


def test_a_copy_is_encoded_anew() -> None:
    message = Message.user("x")
    message_json(message)
    assert sent(message.copy_with(content="y")) == {"role": "user", "content": "y"}
    assert sent(message.model_copy(update={"name": "Ada"})) == {"role": "user", "content": "x", "name": "Ada"}
    assert sent(message) == {"role": "user", "content": "x"}


def test_known_bytes_change_neither_equality_nor_hash_nor_what_is_saved() -> None:
    message, same = Message.user("x"), Message.user("x")
    message_json(message)
    assert message == same
    assert hash(message) == hash(same)
    assert message.model_dump_json() == same.model_dump_json()


# ==== any value ====


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    )
)
@settings(deadline=None)
def test_any_json_is_encoded_so_that_it_reads_back(value: Any) -> None:
    assert json.loads(encode(value)) == value


@given(st.text(st.characters()), st.text(st.characters()))
@settings(deadline=None)
def test_any_text_is_sent_so_that_it_reads_back(system: str, text: str) -> None:
    body = json.loads(request_body("m", "s" + system, [], [Message.user("a" + text)]))
    assert [message["content"] for message in body["messages"]] == ["s" + system, "a" + text]


def test_what_json_has_no_number_for_is_null() -> None:
    assert encode({"a": float("inf"), "b": float("nan")}) == b'{"a":null,"b":null}'

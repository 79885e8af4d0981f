"""Messages and tools as Kimi wants them, to the byte, and nothing that nobody gave.

`KIMI_AGENT_FUZZ` is ten times the number of examples.
"""

import json
import os
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_agent.errors import InvalidRequestError
from kimi_agent.history import repair
from kimi_agent.kimi.models import model_info
from kimi_agent.kimi.request import ChatRequest
from kimi_agent.kimi.wire import Dialect, encode, messages_json, tool_json
from kimi_agent.message import (
    KEEP_UNKNOWN,
    AudioURLPart,
    ContentPart,
    ImageURLPart,
    MediaURL,
    Message,
    TextPart,
    ThinkPart,
    ToolCall,
    VideoURLPart,
)
from kimi_agent.testing import check_request
from kimi_agent.tools.base import Tool

EXAMPLES = int(os.environ.get("KIMI_AGENT_FUZZ", "1000")) // 10

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
@pytest.mark.parametrize("history", [[Message.user("a")], [Message.user("a"), Message.assistant("b")]])
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
        "tool_choice": "auto",
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
def test_any_json_is_encoded_so_that_it_reads_back(value: Any) -> None:
    assert json.loads(encode(value)) == value


@given(st.text(st.characters()), st.text(st.characters()))
def test_any_text_is_sent_so_that_it_reads_back(system: str, text: str) -> None:
    body = json.loads(request_body("m", "s" + system, [], [Message.user("a" + text)]))
    assert [message["content"] for message in body["messages"]] == ["s" + system, "a" + text]


def test_what_json_has_no_number_for_is_null() -> None:
    assert encode({"a": float("inf"), "b": float("nan")}) == b'{"a":null,"b":null}'


# ==== what comes from elsewhere ====

STRICT = Dialect(strict=True)
PICTURE = ImageURLPart(image_url=MediaURL(url="data:image/png;base64,aaaa"))


def calling(*ids: str, content: Any = None, **fields: Any) -> Message:
    body = ToolCall.FunctionBody(name="get_weather", arguments="{}")
    return Message.assistant(content, tool_calls=[ToolCall(id=each, function=body) for each in ids], **fields)


def sent_id(call_id: str, dialect: Dialect = STRICT) -> str:
    return sent(calling(call_id), dialect)["tool_calls"][0]["id"]


@pytest.mark.parametrize(
    ("content", "reasoning"),
    [(None, " "), ("Looking.", " "), ([ThinkPart(think="hm")], "hm"), ([ThinkPart(think="")], "")],
)
def test_a_call_without_reasoning_gets_the_least_that_kimi_takes(content: Any, reasoning: str) -> None:
    message = calling("a", content=content)
    assert sent(message, STRICT)["reasoning_content"] == reasoning
    assert sent(message, Dialect("reasoning", strict=True))["reasoning"] == reasoning
    assert message == calling("a", content=content)


def test_an_unknown_server_gets_no_reasoning_that_nobody_thought() -> None:
    assert not {"reasoning_content", "reasoning"} & sent(calling("a")).keys()
    assert "reasoning_content" not in sent(Message.assistant("x"), STRICT)


@pytest.mark.parametrize("url", ["data:image/png;base64,aaaa", "data:image/heic;base64,aaaa", "ms://file-1"])
@pytest.mark.parametrize("role", ["user", "tool", "assistant"])
def test_a_picture_comes_in_the_request_or_is_uploaded(role: Any, url: str) -> None:
    message = Message(role=role, content=["see", ImageURLPart(image_url=MediaURL(url=url))], tool_call_id="a")
    assert sent(message, STRICT)["content"][1] == {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://x.test/a.png", "send a data: URL, or upload the file with kimi.files"),
        ("http://x.test/a.png", "send a data: URL, or upload the file with kimi.files"),
        ("/home/a.png", "send a data: URL, or upload the file with kimi.files"),
        ("data:image/svg+xml;base64,aaaa", "send a"),
        pytest.param(
            "data:image/SVG+xml;base64,aaaa",
            "send a",
        ),
    ],
)
@pytest.mark.parametrize("video", [False, True])
def test_what_kimi_cannot_see_is_refused_with_what_to_do(url: str, words: str, video: bool) -> None:
    where = MediaURL(url=url)
    part = VideoURLPart(video_url=where) if video else ImageURLPart(image_url=where)
    with pytest.raises(InvalidRequestError, match=words):
        sent(Message.user([part, "see"]), STRICT)
    assert sent(Message.user([part, "see"]))["content"][0][part.type] == {"url": url}


# ---- ids ----

IDS = st.text(max_size=80) | st.from_regex(r"[a-z._:-]{1,70}", fullmatch=True) | st.sampled_from(["\ud800", "a" * 65])


@pytest.mark.parametrize("call_id", ["a", "get_weather_0", "call-1", "A" * 64])
def test_an_id_that_every_server_takes_stays_as_it_is(call_id: str) -> None:
    assert sent_id(call_id) == sent_id(call_id, PLAIN) == call_id


def test_ids_of_k2_stay_where_the_rules_of_kimi_do_not_hold() -> None:
    assert sent_id("functions.get_weather:12", PLAIN) == "functions.get_weather:12"
    assert sent_id("functions.get_weather:12").startswith("functions_get_weather_12_")


@given(IDS, st.sampled_from([STRICT, PLAIN]))
def test_any_id_is_sent_in_plain_letters_and_the_same_with_its_result(call_id: str, dialect: Dialect) -> None:
    call_id = call_id or "a"
    there = sent_id(call_id, dialect)
    back = sent(Message.tool("4", call_id), dialect)["tool_call_id"]
    assert there == back
    plain = r"[A-Za-z0-9_-]{1,64}" if dialect.strict else r"[A-Za-z0-9_-]{1,64}|functions\.[A-Za-z0-9_-]+:\d+"
    assert re.fullmatch(plain, there)


@given(st.lists(IDS, min_size=2, max_size=8, unique=True))
def test_different_ids_stay_different(ids: list[str]) -> None:
    assert len({sent_id(each) for each in ids}) == len(ids)


@pytest.mark.parametrize("call_id", ["a.b", "functions.get_weather:0", "天气", "a" * 65])
def test_an_id_that_looks_like_a_mended_one_stays_different_from_it(call_id: str) -> None:
    assert sent_id(sent_id(call_id)) != sent_id(call_id)


@pytest.mark.parametrize("dialect", [STRICT, PLAIN])
def test_an_empty_id_is_mended_in_the_call_and_in_its_result(dialect: Dialect) -> None:
    assert sent(Message.tool("4", ""), dialect)["tool_call_id"] == sent_id("", dialect)


# ---- any history ----

SOME_IDS = st.sampled_from(["a", "b", "a.b", "a_b", "functions.f:0", "天", "a b", "x" * 80, "\ud800", "-"])
TEXTS = st.sampled_from(["", " ", "\n\t", "x", "天气", '"tools":[', "\udfff", "partial"])
PARTS = TEXTS | TEXTS.map(lambda text: ThinkPart(think=text)) | st.just(PICTURE)
CONTENT = TEXTS | st.lists(PARTS, max_size=3)
NAMES = st.none() | st.sampled_from(["Ada", "", "天"])
CALLS = st.lists(SOME_IDS, max_size=3)


def speaking(role: Any) -> st.SearchStrategy[Message]:
    return st.builds(lambda content, name: Message(role=role, content=content, name=name), CONTENT, NAMES)


ASSISTANTS = st.builds(lambda ids, content, name: calling(*ids, content=content, name=name), CALLS, CONTENT, NAMES)
RESULTS = st.builds(lambda content, each, name: Message.tool(content, each, name=name), CONTENT, SOME_IDS, NAMES)
WILD = st.lists(speaking("system") | speaking("user") | ASSISTANTS | ASSISTANTS | RESULTS | RESULTS, max_size=8)
BEGUN = st.builds(lambda content: Message.assistant(content, partial=True), CONTENT)
MODELS = ("kimi-k3", "kimi-k2.6", "nobody-knows")


def checked_body(model: str, history: list[Message]) -> Any:
    """What is sent of a history from anywhere; Kimi must take it."""
    body = json.loads(request_body(model, "", [], repair(history, interrupted="interrupted")))
    refusal = check_request(body)
    assert refusal is None, refusal
    return body


@pytest.mark.parametrize("model", MODELS)
@given(WILD, st.none() | BEGUN)
@settings(max_examples=EXAMPLES)
def test_any_history_is_sent_so_that_kimi_takes_it(model: str, wild: list[Message], begun: Message | None) -> None:
    history = [Message.user("Hi"), *wild, *([begun] if begun else [])]
    before = [message.model_dump() for message in history]
    kept = list(history)
    body = checked_body(model, history)
    assert [message.model_dump() for message in history] == before
    assert all(now is then for now, then in zip(history, kept, strict=True))
    assert [each["content"] for each in body["messages"] if each["role"] in ("user", "system")] == [
        sent(message)["content"] for message in history if message.role in ("user", "system")
    ]


@given(WILD)
@settings(max_examples=EXAMPLES)
def test_each_call_is_followed_by_its_own_result(wild: list[Message]) -> None:
    messages = checked_body("kimi-k3", [Message.user("Hi"), *wild])["messages"]
    for position, message in enumerate(messages):
        ids = [each["id"] for each in message.get("tool_calls", ())]
        assert [each.get("tool_call_id") for each in messages[position + 1 :][: len(ids)]] == ids


@given(WILD, WILD)
@settings(max_examples=EXAMPLES)
def test_what_follows_changes_no_byte_of_what_was_sent(wild: list[Message], more: list[Message]) -> None:
    first = repair([Message.user("Hi"), *wild], interrupted="interrupted")
    second = repair([*first, Message.user("And?"), *more], interrupted="interrupted")
    short = request_body("kimi-k3", "s", [TOOL], first).partition(b'],"tools"')[0]
    assert request_body("kimi-k3", "s", [TOOL], second).startswith(short)


MISPLACED = {
    "in the middle": [Message.user("a"), Message.assistant("b", partial=True), Message.user("c")],
    "by the user": [Message.user("a", partial=True)],
    "with calls": [Message.user("a"), calling("a", content="b", partial=True)],
    "with nothing in the middle": [Message.user("a"), Message.assistant("", partial=True), Message.user("c")],
    "an empty id": [Message.user("a"), calling(""), Message.tool("4", "")],
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("history", MISPLACED.values(), ids=MISPLACED)
def test_a_history_that_was_stopped_half_way_is_mended_or_refused(model: str, history: list[Message]) -> None:
    with suppress(InvalidRequestError):
        checked_body(model, history)


def test_a_partial_answer_goes_out_last_with_its_reasoning() -> None:
    begun = Message.assistant([ThinkPart(think="hm"), "Fo"], partial=True, name="Ada")
    assert checked_body("kimi-k3", [Message.user("a"), begun])["messages"][1] == {
        "role": "assistant",
        "reasoning_content": "hm",
        "content": "Fo",
        "name": "Ada",
        "partial": True,
    }


def test_results_without_a_call_and_empty_answers_are_left_out() -> None:
    history = [Message.user("a"), Message.assistant([ThinkPart(think="hm"), " "]), Message.tool("4", "x")]
    assert checked_body("kimi-k3", history)["messages"] == [{"role": "user", "content": "a"}]
    assert len(history) == 3


def test_a_call_that_nobody_answered_is_answered() -> None:
    messages = checked_body("kimi-k3", [Message.user("a"), calling("x.y"), Message.user("b")])["messages"]
    assert messages[2] == {
        "role": "tool",
        "content": "interrupted",
        "tool_call_id": messages[1]["tool_calls"][0]["id"],
        "name": "get_weather",
    }

"""Values as JSON and back."""

import json
import time
import tracemalloc

import pytest
from pydantic import field_serializer
from sessions.make import SavedSound

from kimi_agent.message import (
    KEEP_UNKNOWN,
    ContentPart,
    FrozenDict,
    KeepUnknown,
    Message,
    TextPart,
    ThinkPart,
    ToolCall,
    UnknownPart,
)
from kimi_agent.session.codec import decode_messages, encode, parse

CALL = ToolCall(id="c1", function=ToolCall.FunctionBody(name="look", arguments='{"where": "Köln"}'))
MESSAGES = (
    Message.user("天气 ☀", extra={"rated": 5, "nothing": None}),
    Message.assistant([ThinkPart(think=""), "null"], tool_calls=[CALL]),
    Message.tool("sunny", "c1", is_tool_call_error=True),
    Message.user(UnknownPart(type="hologram", data={"a": None, "b": [1, {"c": None}]})),
)
BROKEN = (
    Message.user("half a face \ud83d"),
    Message.user("x", extra={"\udc00": {"b": ["\ud800"]}}),
    Message.assistant(tool_calls=[CALL.copy_with(id="\ud83d")]),
    Message.user(UnknownPart(type="hologram", data={"\udc00": 1})),
)


@pytest.mark.parametrize("messages", [(), MESSAGES, BROKEN, MESSAGES + BROKEN], ids=["none", "some", "broken", "all"])
def test_messages_come_back_as_they_were(messages):
    assert decode_messages(encode(messages)) == messages
    assert decode_messages(b"[" + b",".join(encode(message) for message in messages) + b"]") == messages


def test_the_json_is_compact_and_what_pydantic_writes():
    assert encode(MESSAGES[0]) == MESSAGES[0].model_dump_json().encode()
    assert encode({"messages": MESSAGES[:1], "first": 3}) == b'{"messages":[' + encode(MESSAGES[0]) + b'],"first":3}'


def test_a_lone_surrogate_is_an_escape_in_the_json_and_everything_else_is_itself():
    assert encode(["天 \ud83d", {"\udc00": 1}]) == '["天 \\ud83d",{"\\udc00":1}]'.encode()
    record = {"type": "append", "messages": BROKEN, "more": MESSAGES}
    assert [Message.model_validate(fields) for fields in parse(encode(record))["messages"]] == list(BROKEN)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda number: number,
        lambda number: {"scale": number},
        lambda number: {"scale": number, "b": "\ud83d"},
        lambda number: {"messages": [Message.user("x", extra={"a": {"b": [1, (number,)]}})]},
        lambda number: {"messages": (Message.user(TextPart(text="\ud83d", extra={"a": number})),)},
    ],
)
def test_a_number_that_json_does_not_have_is_refused_wherever_it_is(number, wrap):
    with pytest.raises(ValueError, match=r"JSON has no number (nan|-?inf)"):
        encode(wrap(number))


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("thing", [object(), {"a": [object()]}, b"\xff", nested(5000), {"a": nested(5000)}])
def test_what_json_cannot_say_is_a_value_error(thing):
    with pytest.raises(ValueError):
        encode(thing)


def test_what_is_nested_deeper_than_the_fast_decoder_goes_is_read_all_the_same():
    message = Message.user("x", extra={"deep": nested(220)})
    assert decode_messages(encode([message])) == (message,)


WRONG = {
    "an object": (b'{"a": 1}', "must be a list of messages, not an object"),
    "nothing": (b"", "not JSON at line 1, column 1"),
    "cut off": (b'[{"role": "user"}, ', "not JSON at line 1, column 20"),
    "no UTF-8": (b'["\xff"]', "not UTF-8 at byte 2"),
    "no message": (b'[{"role": "user"}, 5]', "message 1: "),
    "a wrong role": (b'[{"role": "user"}, {"role": "x"}]', "message 1, field role: "),
    "NaN": (b'[{"role": "user", "extra": {"a": NaN}}]', "not JSON: NaN"),
    "infinity": (b'[{"role": "user", "extra": {"a": -Infinity}}]', "not JSON: -Infinity"),
    "too deep": (b"[" * 100_000, "nested too deeply"),
    "too many digits": (b"[" + b"9" * 10_000 + b"]", "line 1, column 2: a number of 10000 digits"),
}


@pytest.mark.parametrize(("content", "reason"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_list_of_messages_is_refused_with_the_place(content, reason):
    start = time.process_time()
    with pytest.raises(ValueError, match=reason):
        decode_messages(content)
    assert time.process_time() - start < 1


def test_a_nest_of_many_megabytes_is_refused_before_it_is_copied():
    nest = b"[" * (2**26 + 1)
    tracemalloc.start()
    with pytest.raises(ValueError, match="nested too deeply"):
        parse(nest)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20


@pytest.mark.parametrize("number", ["1e999", "-1E+400", "0.1e0999", "9" * 309 + ".0", "[1e400]"])
def test_a_number_that_would_become_infinity_is_no_json(number):
    for text in (f'{{"a": {number}}}', f'{{"a":{number}, "b": "\\ud800"}}', number):
        with pytest.raises(ValueError, match=r"JSON has no number -?inf"):
            parse(text.encode())


def test_numbers_that_look_like_it_are_numbers():
    text = '{"a": 1e-400, "b": 1e0005, "c": "1e999", "id": "f_1e9990", "d": ' + "9" * 400 + "}"
    assert parse(text.encode()) == json.loads(text)


def test_the_words_of_numbers_that_json_does_not_have_may_be_said():
    messages = (Message.user("NaN and Infinity"), Message.user("-Infinity", extra={"NaN": 1}))
    assert decode_messages(encode(messages)) == messages


def test_unknown_fields_are_kept_at_every_depth_on_the_fast_path_and_on_the_slow_one():
    new = {"new": {"deep": [1, None]}}
    content = [{"type": "text", "text": "hi", **new}, {"type": "later", **new}]
    fields = {"role": "user", "content": content, **new}
    for text in ("fine", "\ud83d"):
        saved = [fields, {"role": "user", "content": text}]
        assert json.loads(encode(decode_messages(json.dumps(saved).encode()))) == saved


class Watching(KeepUnknown):
    """A context that somebody subclassed."""


SEEN: list[object] = []


class Watched(ContentPart):
    """A part that notes the context in which it is written and read."""

    type: str = "watched_by_the_codec"
    text: str

    @field_serializer("text")
    def _write(self, text, info):
        SEEN.append(info.context)
        return text

    def model_post_init(self, context):
        SEEN.append(context)
        super().model_post_init(context)


@pytest.mark.parametrize("text", ["plain", "null", "\ud83d"])
def test_the_context_reaches_the_parts_of_a_user_on_every_path(text):
    context, messages = Watching(), (Message.user(Watched(text=text)),)
    SEEN.clear()
    assert decode_messages(encode({"a": messages}, context)[5:-1], context) == messages
    assert set(SEEN) == {context}
    SEEN.clear()
    assert decode_messages(encode(messages)) == messages
    assert set(SEEN) == {None, KEEP_UNKNOWN}


def test_frozen_values_and_plain_ones_are_the_same_json():
    assert encode({"a": FrozenDict(b=(1, 2))}) == encode({"a": {"b": [1, 2]}}) == b'{"a":{"b":[1,2]}}'


def test_a_message_with_a_surrogate_and_a_part_that_writes_itself_is_json():
    message = Message.user(["a \ud83d", SavedSound(samples=b"\xff\xfe")], extra={"\udc00": 1})
    for value in (message, {"messages": [message]}):
        written = encode(value)
        assert b"//4=" in written
        assert b"\\ud83d" in written
        assert b"\\udc00" in written

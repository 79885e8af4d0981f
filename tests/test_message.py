"""The values of a conversation."""

import copy
import json
import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kimi_agent.errors import ToolArgumentsError
from kimi_agent.message import (
    KEEP_UNKNOWN,
    AudioURLPart,
    ContentPart,
    FrozenDict,
    ImageURLPart,
    MediaURL,
    Message,
    TextPart,
    ThinkPart,
    TokenUsage,
    ToolCall,
    ToolCallPart,
    UnknownPart,
    VideoURLPart,
    freeze,
    once_per_value,
)


class Shout(TextPart):
    """Text of a user's own kind: not a plain text part, though it has a text."""

    type: str = "test_shout"


class Note(ContentPart):
    """A part that the package does not know."""

    type: str = "test_note"
    body: str


CALL = ToolCall(id="c1", function=ToolCall.FunctionBody(name="look", arguments='{"where": "Oslo"}'))
VALUES = [
    TextPart(text="hi"),
    ThinkPart(think="", encrypted="x"),
    ImageURLPart(image_url=MediaURL(url="ms://1", id="p")),
    AudioURLPart(audio_url=MediaURL(url="ms://2")),
    VideoURLPart(video_url=MediaURL(url="ms://3")),
    UnknownPart(type="hologram", data={"a": [1, {"b": None}]}),
    Note(body="remember"),
    CALL,
    ToolCallPart(arguments_part='{"a', index=1),
    TokenUsage(input_other=1, output=2),
    Message.user("hi", extra={"list": [1, {"deep": 2}]}),
    Message.assistant([ThinkPart(think="hm"), "yes"], tool_calls=[CALL]),
]
every_value = pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)

plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(st.text(max_size=4), plain_json, max_size=3)
parts = st.one_of(
    st.builds(TextPart, text=st.text(min_size=1), extra=mappings),
    st.builds(ThinkPart, think=st.text(), encrypted=st.none() | st.text()),
    st.builds(lambda data: UnknownPart(type="hologram", data=data), mappings),
    st.builds(Note, body=st.text()),
)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.lists(parts, max_size=3) | st.text() | st.none(),
    name=st.none() | st.text(),
    tool_calls=st.none() | st.lists(st.just(CALL), max_size=2),
    extra=mappings,
)


# ==== frozen, equal, hashable ====


@every_value
def test_a_value_equals_its_copies_and_hashes_alike(value):
    for other in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value)), value.copy_with()):
        assert other == value
        assert hash(other) == hash(value)


@every_value
def test_a_value_cannot_be_changed(value):
    for name in type(value).model_fields:
        with pytest.raises(ValidationError):
            setattr(value, name, None)


@every_value
def test_a_value_survives_its_json(value):
    if isinstance(value, ContentPart):  # a part is read as what its `type` says, within a message
        value = Message.user(value)
    assert type(value).model_validate_json(value.model_dump_json()) == value


def test_frozen_is_deep():
    data = {"list": [1, {"deep": 2}]}
    message = Message.user("hi", extra=data)
    data["list"].append(3)
    assert message.extra == {"list": (1, {"deep": 2})}
    with pytest.raises(TypeError, match="copy_with"):
        message.extra["list"] = ()
    with pytest.raises(TypeError, match="copy_with"):
        message.extra["list"][1]["deep"] = 3


@pytest.mark.parametrize(
    "change",
    [
        lambda mapping: mapping.update(a=2),
        lambda mapping: mapping.pop("a"),
        lambda mapping: mapping.popitem(),
        lambda mapping: mapping.clear(),
        lambda mapping: mapping.setdefault("b", 1),
        lambda mapping: mapping.__delitem__("a"),
        lambda mapping: mapping.__ior__({"a": 2}),
    ],
)
def test_a_frozen_mapping_refuses_every_change(change):
    mapping = FrozenDict(a=1)
    with pytest.raises(TypeError, match="belongs to a frozen value"):
        change(mapping)
    assert mapping == {"a": 1}


@given(mappings)
def test_equal_frozen_mappings_hash_alike_whatever_their_order(mapping):
    backwards = dict(reversed(mapping.items()))
    assert freeze(mapping) == freeze(backwards)
    assert hash(freeze(mapping)) == hash(freeze(backwards))
    assert copy.deepcopy(freeze(mapping)) is not None
    assert pickle.loads(pickle.dumps(freeze(mapping))) == freeze(mapping)


def test_sets_are_frozen_too():
    extra = Message.user("hi", extra={"seen": {1, 2}}).extra
    assert extra["seen"] == frozenset({1, 2})
    assert isinstance(extra["seen"], frozenset)


def test_lists_are_accepted_and_become_tuples():
    message = Message(role="user", content=["a", TextPart(text="b")])
    assert message.content == (TextPart(text="a"), TextPart(text="b"))
    assert message == Message(role="user", content=(TextPart(text="a"), "b"))


def test_messages_go_into_sets():
    assert len({Message.user("a"), Message.user("a"), Message.user("a", extra={"n": [1]})}) == 2


# ==== building ====


def test_a_mistyped_field_is_refused_by_name():
    with pytest.raises(TypeError, match="Message has no field nmae"):
        Message(role="user", content="hi", nmae="x")
    with pytest.raises(TypeError, match="TextPart has no field txet"):
        TextPart(text="a", txet="b")
    with pytest.raises(TypeError, match="Message has no field nmae"):
        Message.user("hi").copy_with(nmae="x")


def test_copy_with_changes_validates_and_leaves_the_old_value():
    old = Message.user("hi", extra={"a": 1})
    new = old.copy_with(content="there", name="anna")
    assert (new.text, new.name, new.extra) == ("there", "anna", {"a": 1})
    assert old == Message.user("hi", extra={"a": 1})
    with pytest.raises(ValidationError):
        old.copy_with(role="nobody")
    assert old.model_copy(update={"name": "bob"}).name == "bob"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ()),
        ("", ()),
        ("hi", (TextPart(text="hi"),)),
        (TextPart(text="hi"), (TextPart(text="hi"),)),
        (["a", ThinkPart(think="b")], (TextPart(text="a"), ThinkPart(think="b"))),
        ([], ()),
        ([{"type": "text", "text": "a"}], (TextPart(text="a"),)),
    ],
)
def test_content_becomes_parts(content, expected):
    assert Message.user(content).parts == expected


@pytest.mark.parametrize("content", [5, [5], {"type": "text", "text": "a"}, [None], [{}], [{"type": 5}], b"bytes"])
def test_content_of_another_kind_is_refused(content):
    with pytest.raises(ValidationError):
        Message.user(content)


def test_the_constructors_set_their_role():
    assert [make("x").role for make in (Message.system, Message.user, Message.assistant)] == [
        "system",
        "user",
        "assistant",
    ]
    assert Message.tool("x", "c1", name="look").copy_with(name=None) == Message(
        role="tool", content="x", tool_call_id="c1"
    )


def test_no_calls_are_none_and_not_an_empty_list():
    assert Message.assistant("x", tool_calls=[]).tool_calls is None


def test_text_and_reasoning_are_joined_and_absent_is_not_empty():
    message = Message.assistant([ThinkPart(think="a"), "b", ThinkPart(think="c"), "d"])
    assert (message.text, message.reasoning) == ("bd", "ac")
    assert Message.assistant("x").reasoning is None
    assert Message.assistant([ThinkPart(think=""), "x"]).reasoning == ""
    assert Message.assistant().text == ""


# ==== JSON ====


@given(messages)
def test_a_message_survives_its_json(message):
    again = Message.model_validate_json(message.model_dump_json())
    assert again == message
    assert again.model_dump_json() == message.model_dump_json()


def test_what_is_not_there_is_not_written():
    assert json.loads(Message.user("hi").model_dump_json()) == {"role": "user", "content": "hi"}
    assert json.loads(TextPart(text="a").model_dump_json()) == {"type": "text", "text": "a"}


def test_a_part_with_extra_is_written_as_a_part():
    message = Message.user(TextPart(text="a", extra={"b": 1}))
    assert json.loads(message.model_dump_json())["content"] == [{"extra": {"b": 1}, "type": "text", "text": "a"}]


def test_an_unknown_part_survives_unchanged():
    raw = {"type": "hologram", "url": "ms://1", "size": [1, None, {"deep": None}], "extra": {"a": 1}}
    message = Message.model_validate({"role": "user", "content": [raw]})
    assert isinstance(message.content[0], UnknownPart)
    assert json.loads(message.model_dump_json())["content"] == [raw]


def test_a_part_of_ones_own_is_known_by_its_type():
    message = Message.user([Note(body="x"), "y"])
    assert Message.model_validate_json(message.model_dump_json()).content[0] == Note(body="x")


def test_two_parts_with_one_type_are_refused():
    with pytest.raises(TypeError, match="'text' already belongs to TextPart"):

        class Other(ContentPart):
            type: str = "text"


def test_unknown_fields_are_kept_for_files_and_through_copies():
    raw = {"role": "user", "content": [{"type": "text", "text": "a", "new": 1}], "later": None}
    with pytest.raises(TypeError, match="has no field"):
        Message.model_validate(raw)
    kept = Message.model_validate(raw, context=KEEP_UNKNOWN)
    assert json.loads(kept.model_dump_json()) == raw
    assert json.loads(kept.copy_with(name="anna").model_dump_json()) == {**raw, "name": "anna"}


def test_an_empty_text_survives_its_json():
    message = Message.user(TextPart(text=""))
    assert Message.model_validate_json(message.model_dump_json()) == message


def test_a_subclass_of_text_survives_its_json():
    message = Message.user(Shout(text="HELLO"))
    assert Message.model_validate_json(message.model_dump_json()) == message


def test_what_an_owner_keeps_with_an_unknown_part_is_saved():
    part = UnknownPart(type="hologram", data={"a": 1}, extra={"mine": 2})
    assert json.loads(Message.user(part).model_dump_json())["content"][0]["extra"] == {"mine": 2}


# ==== tool calls ====


@pytest.mark.parametrize(
    ("arguments", "parsed"),
    [
        (None, {}),
        ("", {}),
        (" \n", {}),
        ("null", {}),
        ("{}", {}),
        ('{"a": [1, "x"]}', {"a": [1, "x"]}),
        ('{"a": "line\nbreak\tand tab"}', {"a": "line\nbreak\tand tab"}),
        ('{"a": "\\ud83d"}', {"a": "\ud83d"}),
    ],
)
def test_arguments_are_parsed(arguments, parsed):
    assert ToolCall(id="1", function=ToolCall.FunctionBody(name="f", arguments=arguments)).args == parsed


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("[1]", "must be a JSON object, not an array"),
        ('"x"', "not a string"),
        ("1", "not a number"),
        ("1.5", "not a number"),
        ("true", "not a boolean"),
        ('{"a": ', "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        ("[" * 100_000, "not valid JSON|nested too deeply"),
    ],
)
def test_arguments_that_are_no_object_are_refused_in_words_for_the_model(arguments, problem):
    call = ToolCall(id="1", function=ToolCall.FunctionBody(name="f", arguments=arguments))
    with pytest.raises(ToolArgumentsError, match=problem):
        _ = call.args


@given(st.text())
def test_arguments_of_any_text_are_an_object_or_a_refusal(text):
    call = ToolCall(id="1", function=ToolCall.FunctionBody(name="f", arguments=text))
    try:
        parsed = call.args
    except ToolArgumentsError:
        return
    assert isinstance(parsed, dict)


def test_a_call_written_by_hand_has_its_arguments_and_an_id_of_its_own():
    first, second = ToolCall.from_function("look", where="Köln"), ToolCall.from_function("look", where="Köln")
    assert first.args == {"where": "Köln"}
    assert "Köln" in first.arguments
    assert first.name == "look"
    assert first.id != second.id
    assert ToolCall.from_function("look", call_id_="c9").id == "c9"
    assert ToolCall.from_function("look", name="x").args == {"name": "x"}


# ==== once per value ====


def test_what_is_worked_out_about_a_value_is_worked_out_once_and_is_invisible():
    seen: list[Message] = []

    @once_per_value
    def length(message: Message) -> int:
        """How long it is."""
        seen.append(message)
        return len(message.text)

    message, same = Message.user("hello"), Message.user("hello")
    assert (length(message), length(message), len(seen)) == (5, 5, 1)
    assert message == same
    assert hash(message) == hash(same)
    assert repr(message) == repr(same)
    assert message.model_dump_json() == same.model_dump_json()
    assert length(message.copy_with(content="longer text")) == 11
    assert length(message.model_copy(update={"content": "x"})) == 1
    assert length.__doc__ == "How long it is."


def test_nothing_worked_out_as_none_is_worked_out_once_too():
    seen: list[Message] = []

    @once_per_value
    def nothing(message: Message) -> None:
        seen.append(message)

    message = Message.user("hello")
    nothing(message)
    nothing(message)
    assert len(seen) == 1


# ==== usage ====

usages = st.builds(
    TokenUsage,
    input_other=st.integers(0, 10**9),
    output=st.integers(0, 10**9),
    input_cache_read=st.integers(0, 10**9),
    input_cache_creation=st.integers(0, 10**9),
)


@given(usages, usages, usages)
def test_usage_adds_up(first, second, third):
    assert (first + second).total == first.total + second.total
    assert (first + second).input == first.input + second.input
    assert (first + second) + third == first + (second + third)
    assert first.total == first.input + first.output


# ==== merging ====

PICTURE = ImageURLPart(image_url=MediaURL(url="ms://1"))


def piece(arguments, index=None):
    return ToolCallPart(arguments_part=arguments, index=index)


def asked(arguments, **fields):
    return ToolCall(id="c1", function=ToolCall.FunctionBody(name="look", arguments=arguments), **fields)


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        (TextPart(text="a"), TextPart(text="b"), TextPart(text="ab")),
        (TextPart(text="a"), TextPart(text=""), TextPart(text="a")),
        (TextPart(text="a", extra={"n": 1}), TextPart(text="b", extra={"n": 1}), TextPart(text="ab", extra={"n": 1})),
        (TextPart(text="a", extra={"n": 1}), TextPart(text="b"), None),
        (TextPart(text="a"), TextPart(text="b", extra={"n": 1}), None),
        (TextPart(text="a"), Shout(text="b"), None),
        (Shout(text="a"), TextPart(text="b"), None),
        (Shout(text="a"), Shout(text="b"), Shout(text="ab")),
        (TextPart(text="a"), ThinkPart(think="b"), None),
        (TextPart(text="a"), PICTURE, None),
        (PICTURE, PICTURE, None),
        (PICTURE, TextPart(text="a"), None),
        (ThinkPart(think="a"), ThinkPart(think="b"), ThinkPart(think="ab")),
        (ThinkPart(think="a"), ThinkPart(think="b", encrypted="x"), ThinkPart(think="ab", encrypted="x")),
        (ThinkPart(think="a", encrypted="x"), ThinkPart(think="b"), None),
        (ThinkPart(think="a", encrypted="x"), ThinkPart(think="", encrypted="x"), None),
        (ThinkPart(think="a"), TextPart(text="b"), None),
        (asked(None), piece("{"), asked("{")),
        (asked("{"), piece("}"), asked("{}")),
        (asked("{"), piece(None), asked("{")),
        (asked(None), piece(None), asked(None)),
        (asked("{"), piece("}", index=3), asked("{}")),
        (
            asked("{", extras={"s": 1}, extra={"n": 1}),
            piece("}"),
            asked("{}", extras={"s": 1}, extra={"n": 1}),
        ),
        (asked("{"), asked("}"), None),
        (asked("{"), TextPart(text="a"), None),
        (piece("a"), piece("b"), piece("ab")),
        (piece(None), piece("b"), piece("b")),
        (piece("a", index=0), piece("b", index=0), piece("ab", index=0)),
        (piece("a", index=0), piece("b", index=1), None),
        (piece("a", index=0), piece("b", index="0"), None),
        (piece("a", index=0), piece("b"), None),
        (piece("a"), asked("b"), None),
        (Note(body="a"), Note(body="b"), None),
        (UnknownPart(type="hologram", data={}), UnknownPart(type="hologram", data={}), None),
    ],
)
def test_two_parts_are_one_where_they_belong_together_and_stay_as_they_were(first, second, both):
    before = copy.deepcopy((first, second))
    result = first.merged_with(second)
    assert result == both
    assert result is None or type(result) is type(first)
    assert (first, second) == before


streamed = st.one_of(
    parts,
    st.builds(lambda text: asked(text), st.none() | st.text(max_size=5)),
    st.builds(ToolCallPart, arguments_part=st.none() | st.text(max_size=5), index=st.none() | st.integers(0, 1)),
)


@given(st.lists(streamed, max_size=8))
def test_merging_any_parts_changes_none_of_them_and_loses_no_character(given_parts):
    before = copy.deepcopy(given_parts)
    hashes = [hash(part) for part in given_parts]
    whole = []
    for part in given_parts:
        both = whole[-1].merged_with(part) if whole else None
        whole = [*whole[:-1], both] if both is not None else [*whole, part]
    assert given_parts == before
    assert [hash(part) for part in given_parts] == hashes
    assert "".join(map(written_in, whole)) == "".join(map(written_in, given_parts))
    assert all(first.merged_with(second) is None for first, second in pairwise(whole))


def written_in(part):
    """What the model wrote."""
    match part:
        case TextPart(text=text) | ThinkPart(think=text):
            return text
        case ToolCall(arguments=arguments) | ToolCallPart(arguments_part=arguments):
            return arguments or ""
        case _:
            return ""


def test_a_merged_part_remembers_nothing_that_was_worked_out_about_the_first():
    @once_per_value
    def length(part):
        return len(part.text)

    first = TextPart(text="a")
    assert length(first) == 1
    assert length(first.merged_with(TextPart(text="b"))) == 2


@pytest.mark.parametrize(("sep", "expected"), [(None, "abc"), ("", "abc"), ("\n", "a\nb\nc")])
def test_the_texts_of_a_message_are_joined_with_what_one_wants(sep, expected):
    message = Message.user(["a", ThinkPart(think="x"), PICTURE, "b", Shout(text="c")])
    assert (message.extract_text() if sep is None else message.extract_text(sep)) == expected
    assert Message.user(PICTURE).extract_text("\n") == ""

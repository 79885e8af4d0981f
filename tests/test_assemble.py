"""Deltas become one message, however a host orders, names, numbers and repeats its pieces."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from timing import takes_at_most

from kimi_agent.errors import StreamInterruptedError, StreamProtocolError
from kimi_agent.events import Append, End, Reasoning, StreamFrame, ToolCallDelta
from kimi_agent.kimi.assemble import Assembler, Parts, fold, part_of, usage_of
from kimi_agent.message import Message, TextPart, ThinkPart, TokenUsage, ToolCall, ToolCallPart

Chunk = dict[str, Any]


# ==== how chunks are written here ====


def delta(finish_reason: str | None = None, **fields: Any) -> Chunk:
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


def calls(*pieces: Chunk) -> Chunk:
    return delta(tool_calls=list(pieces))


def piece(index: Any = None, id: Any = None, name: Any = None, arguments: Any = None) -> Chunk:
    """A piece of a call with what is given and nothing else."""
    function = {key: value for key, value in [("name", name), ("arguments", arguments)] if value is not None}
    head = {key: value for key, value in [("index", index), ("id", id)] if value is not None}
    return head | ({"function": function} if function else {})


CALLS_END = delta("tool_calls")
STOP = delta("stop")


def fed(chunks: Iterable[Any]) -> tuple[Assembler, list[StreamFrame]]:
    assembler, frames = Assembler(), list[StreamFrame]()
    for chunk in chunks:
        assembler.feed(chunk, frames)
    return assembler, frames


def whole(*chunks: Any) -> list[StreamFrame]:
    assembler, frames = fed(chunks)
    return frames + assembler.close()


def end_of(*chunks: Any) -> End:
    end = whole(*chunks)[-1]
    assert isinstance(end, End)
    return end


def made(*chunks: Chunk) -> list[tuple[str, str, str]]:
    """The calls that chunks make together."""
    message = end_of(*chunks, CALLS_END).message
    return [(call.id, call.name, call.arguments) for call in message.tool_calls or ()]


# ==== text and reasoning ====


def test_text_comes_as_it_is_and_the_end_comes_last() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    frames = whole(delta(content="He"), delta(content="llo"), STOP, {"choices": [], "usage": usage})
    message = Message.assistant("Hello")
    assert frames == [Append("He"), Append("llo"), End("stop", TokenUsage(input_other=5, output=2), message)]


def test_empty_text_is_no_frame_and_no_part() -> None:
    assert whole(delta(role="assistant", content=""), delta(content="a"), STOP)[:-1] == [Append("a")]
    assert end_of(delta(content=""), STOP).message == Message.assistant()


def test_reasoning_is_joined_and_stands_before_the_text() -> None:
    message = end_of(delta(reasoning_content="a"), delta(content="x"), delta(reasoning_content="b"), STOP).message
    assert message.content == (ThinkPart(think="ab"), TextPart(text="x"))


def test_empty_reasoning_is_not_absent() -> None:
    assert end_of(delta(reasoning_content=""), delta(content="x"), STOP).message.reasoning == ""
    assert end_of(delta(content="x"), STOP).message.reasoning is None
    assert end_of(delta(reasoning_content=None, content="x"), STOP).message.reasoning is None


def test_empty_reasoning_counts_once_and_tears_no_text() -> None:
    chunks = [delta(reasoning_content="", content=text) for text in ("H", "e", "y")]
    frames = whole(*chunks, STOP)
    assert frames[:-1] == [Reasoning(""), Append("H"), Append("e"), Append("y")]
    assert end_of(*chunks, STOP).message.content == (ThinkPart(think=""), TextPart(text="Hey"))


def test_the_empty_reasoning_that_closes_the_thinking_is_no_frame() -> None:
    assert whole(delta(reasoning_content="a"), delta(reasoning_content=""), STOP)[:-1] == [Reasoning("a")]


def test_only_the_first_of_several_choices_counts() -> None:
    def choice(index: int, text: str) -> Chunk:
        return {"index": index, "delta": {"content": text}, "finish_reason": None}

    chunks = [{"choices": [choice(n, f"{text}{n} ")]} for text in "AB" for n in (1, 0, 2)]
    both = {"choices": [choice(1, "no"), choice(0, "yes")]}
    assert end_of(*chunks, both, STOP).message.text == "A0 B0 yes"


def test_another_choices_end_is_not_the_end() -> None:
    chunk = {"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]}
    with pytest.raises(StreamInterruptedError):
        whole(delta(content="x"), chunk)


def test_a_whole_completion_is_folded_like_a_chunk() -> None:
    message = {
        "role": "assistant",
        "content": "Four.",
        "reasoning_content": "",
        "tool_calls": [{"index": 0, "id": "f_0", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    end = end_of({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})
    assert (end.message.text, end.message.reasoning, end.finish_reason) == ("Four.", "", "tool_calls")
    assert [call.name for call in end.message.tool_calls or ()] == ["f"]


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": []},
        {"choices": None},
        {},
        {"object": "ping"},
        {"choices": [{"index": 0, "delta": None}]},
        {"choices": [{"index": 0}]},
        {"choices": [{}]},
        {"choices": [{"delta": {}}], "usage": None},
        delta(content=None, reasoning_content=None, tool_calls=None),
        delta(tool_calls=[]),
        {"choices": [{"delta": {}, "usage": {}}]},
    ],
    ids=json.dumps,
)
def test_a_chunk_that_says_nothing_changes_nothing(chunk: Chunk) -> None:
    assert whole(delta(content="a"), chunk, delta(content="b"), STOP) == whole(
        delta(content="a"), delta(content="b"), STOP
    )


def test_a_surrogate_pair_cut_in_two_becomes_one_character() -> None:
    high, low = "\ud83c", "\udf26"
    end = end_of(
        delta(reasoning_content=high),
        delta(reasoning_content=low),
        delta(content=f"a{high}"),
        delta(content=f"{low}b"),
        calls(piece(0, "f_0", "f", f'{{"a":"{high}')),
        calls(piece(0, arguments=f'{low}"}}')),
        CALLS_END,
    )
    assert (end.message.reasoning, end.message.text) == ("🌦", "a🌦b")
    assert end.message.tool_calls is not None
    assert end.message.tool_calls[0].arguments == '{"a":"🌦"}'


def test_a_lone_surrogate_survives() -> None:
    assert end_of(delta(content="a\ud83c"), delta(content="b"), STOP).message.text == "a\ud83cb"


# ==== tool calls: which piece belongs where ====


def test_a_call_in_pieces_is_one_call() -> None:
    frames = whole(
        calls(piece(0, "c1", "f", "")),
        calls(piece(0, arguments='{"a"')),
        calls(piece(0, arguments=":1}")),
        CALLS_END,
    )
    call = ToolCall(id="c1", function=ToolCall.FunctionBody(name="f", arguments='{"a":1}'))
    assert frames == [
        ToolCallDelta(0, "c1", "f", ""),
        ToolCallDelta(0, None, None, '{"a"'),
        ToolCallDelta(0, None, None, ":1}"),
        call,
        End("tool_calls", None, Message.assistant(tool_calls=[call])),
    ]


@pytest.mark.parametrize("keys", [(0, 1), ("a", "b"), (7, "7"), (1, 0), (-1, 1000)], ids=repr)
def test_interleaved_pieces_are_routed_by_index(keys: tuple[Any, Any]) -> None:
    first, second = keys
    assert made(
        calls(piece(first, "c0", "f")),
        calls(piece(second, "c1", "g")),
        calls(piece(first, arguments='{"x":')),
        calls(piece(second, arguments='{"y":')),
        calls(piece(first, arguments="1}")),
        calls(piece(second, arguments="2}")),
    ) == [("c0", "f", '{"x":1}'), ("c1", "g", '{"y":2}')]


def test_a_hundred_calls_in_reverse_order_stand_in_the_order_in_which_they_came() -> None:
    heads = [calls(piece(n, f"c{n}", f"f{n}")) for n in reversed(range(100))]
    tails = [calls(piece(n, arguments=f'{{"n":{n}}}')) for n in range(100)]
    assert made(*heads, *tails) == [(f"c{n}", f"f{n}", f'{{"n":{n}}}') for n in reversed(range(100))]


def test_several_pieces_of_one_list_are_routed_by_their_indexes() -> None:
    assert made(
        calls(piece(1, "c1", "g"), piece(0, "c0", "f")),
        calls(piece(0, arguments="0"), piece(1, arguments="1")),
    ) == [("c1", "g", "1"), ("c0", "f", "0")]


def test_without_an_index_the_id_says_which_call() -> None:
    assert made(
        calls(piece(id="a", name="f")),
        calls(piece(id="b", name="g")),
        calls(piece(id="a", arguments='{"x":')),
        calls(piece(id="b", arguments="{}")),
        calls(piece(id="a", arguments="1}")),
    ) == [("a", "f", '{"x":1}'), ("b", "g", "{}")]


def test_without_index_and_id_the_place_in_the_list_says_which_call() -> None:
    assert made(
        calls(piece(id="a", name="f"), piece(id="b", name="g")),
        calls(piece(arguments='{"x":'), piece(arguments='{"y":')),
        calls(piece(arguments="1}"), piece(arguments="2}")),
    ) == [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')]


def test_the_recorded_stream_without_indexes_has_two_whole_calls(data: Path) -> None:
    lines = (data / "streams" / "indexless-tools.jsonl").read_bytes().splitlines()
    end = end_of(*map(json.loads, lines))
    assert [(call.id, call.name, call.args) for call in end.message.tool_calls or ()] == [
        ("weather_0", "weather", {"location": "San Francisco"}),
        ("time_1", "time", {"zone": "UTC"}),
    ]
    assert (end.finish_reason, end.usage) == ("tool_calls", TokenUsage(input_other=61, output=25))


def test_a_list_of_several_without_any_key_opens_calls_by_place() -> None:
    assert made(calls(piece(name="f"), piece(name="g")), calls(piece(arguments="1"), piece(arguments="2"))) == [
        ("f_0", "f", "1"),
        ("g_1", "g", "2"),
    ]


def test_without_any_key_a_piece_belongs_to_the_only_call() -> None:
    assert made(calls(piece(id="a", name="f")), calls(piece(arguments="{")), calls(piece(arguments="}"))) == [
        ("a", "f", "{}")
    ]


def test_a_call_without_index_is_later_found_by_its_place() -> None:
    assert made(
        calls(piece(id="a", name="f")),
        calls(piece(id="b", name="g")),
        calls(piece(1, arguments="1")),
        calls(piece(0, arguments="0")),
    ) == [("a", "f", "0"), ("b", "g", "1")]


@pytest.mark.parametrize(
    "chunks",
    [
        [calls(piece(name="f", arguments="{}"))],
        [calls(piece(arguments="{}"))],
        [calls(piece(0, "a", "f")), calls(piece(1, "b", "g")), calls(piece(arguments="{}"))],
        [calls(piece(0, "a", "f")), calls(piece(1, "b", "g")), calls(piece(id=" ", name="", arguments="{}"))],
    ],
)
def test_a_piece_that_may_belong_to_none_or_several_calls_is_refused(chunks: list[Chunk]) -> None:
    with pytest.raises(StreamProtocolError, match="neither index nor id"):
        fed(chunks)


# ==== tool calls: ids and names ====


def test_an_id_repeated_on_each_piece_is_one_call() -> None:
    assert made(*[calls(piece(0, "c1", arguments=part, name="f")) for part in ("{", '"a":', "1}")]) == [
        ("c1", "f", '{"a":1}')
    ]


@pytest.mark.parametrize("blank", ["", " ", "\n", None])
def test_blank_ids_and_names_are_absent(blank: str | None) -> None:
    following = {"index": 0, "id": blank, "function": {"name": blank, "arguments": "}"}}
    assert made(calls(piece(0, "c1", "f", "{")), calls(following)) == [("c1", "f", "{}")]


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_id_at_the_start_is_filled_in_later(blank: str) -> None:
    assert made(calls(piece(0, blank, "f", "{")), calls(piece(0, "c1", arguments="}"))) == [("c1", "f", "{}")]


def test_a_late_name_fills_in() -> None:
    assert made(
        calls(piece(0, "c1")), calls(piece(0, arguments="{")), calls(piece(0, name="f")), calls(piece(0, arguments="}"))
    ) == [("c1", "f", "{}")]


def test_a_late_id_fills_in() -> None:
    frames = whole(calls(piece(0, name="f")), calls(piece(0, "c1")), CALLS_END)
    assert frames[:2] == [ToolCallDelta(0, None, "f", ""), ToolCallDelta(0, "c1", None, "")]
    assert isinstance(frames[2], ToolCall)
    assert frames[2].id == "c1"


def test_id_and_name_are_in_the_frames_once() -> None:
    frames = whole(*[calls(piece(0, "c1", "f", part)) for part in ("", "{", "}")], CALLS_END)
    assert [frame for frame in frames if isinstance(frame, ToolCallDelta)] == [
        ToolCallDelta(0, "c1", "f", ""),
        ToolCallDelta(0, None, None, "{"),
        ToolCallDelta(0, None, None, "}"),
    ]


def test_a_new_id_on_a_known_index_starts_a_call() -> None:
    assert made(
        calls(piece(0, "a", "f", "{}")), calls(piece(0, "b", "g", '{"x":')), calls(piece(0, arguments="1}"))
    ) == [("a", "f", "{}"), ("b", "g", '{"x":1}')]


def test_a_known_id_on_a_known_index_goes_on_with_its_call() -> None:
    assert made(
        calls(piece(0, "a", "f", '{"x":')),
        calls(piece(0, "b", "g", '{"y":')),
        calls(piece(0, "a", arguments="1}")),
        calls(piece(0, "b", arguments="2}")),
    ) == [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')]


def test_two_calls_on_one_index_have_an_index_each_in_the_frames() -> None:
    _, frames = fed([calls(piece(0, "a", "f")), calls(piece(0, "b", "g")), calls(piece(1, "c", "h"))])
    indexes = [frame.index for frame in frames if isinstance(frame, ToolCallDelta)]
    assert len(set(indexes)) == 3


def test_the_same_id_on_two_indexes_is_made_unique() -> None:
    assert made(
        calls(piece(0, "same", "f", "1")), calls(piece(1, "same", "f", "2")), calls(piece(2, "same_2", "f", "3"))
    ) == [("same", "f", "1"), ("same_2", "f", "2"), ("same_2_2", "f", "3")]


def test_missing_ids_are_made_from_the_name_and_the_place() -> None:
    assert made(calls(piece(5, name="f", arguments="1")), calls(piece(6, name="f", arguments="2"))) == [
        ("f_0", "f", "1"),
        ("f_1", "f", "2"),
    ]


def test_a_made_id_is_none_that_the_provider_gave() -> None:
    ids = [call_id for call_id, _, _ in made(calls(piece(0, name="f")), calls(piece(1, "f_0", "f")))]
    assert len(set(ids)) == 2


def test_without_ids_a_name_after_a_whole_object_starts_a_call() -> None:
    assert made(
        calls(piece(0, name="f", arguments='{"a":{"b":[1,{}]}}')),
        calls(piece(0, name="g", arguments="{")),
        calls(piece(0, arguments="}")),
        calls(piece(0, name="f", arguments="{}")),
    ) == [("f_0", "f", '{"a":{"b":[1,{}]}}'), ("g_1", "g", "{}"), ("f_2", "f", "{}")]


@pytest.mark.parametrize(
    "arguments",
    [
        '{"a": 1}',
        '{"a": "}", "b": "{"}',
        r'{"a": "\"}", "b": 1}',
        r'{"a": "\\", "b": {"c": "\\\""}}',
        r'{"path": "C:\\", "n": [[]], "q": "]}"}',
    ],
)
def test_a_name_repeated_before_the_object_is_whole_starts_nothing(arguments: str) -> None:
    pieces = [calls(piece(0, name="f", arguments=mark)) for mark in arguments]
    assert made(*pieces) == [("f_0", "f", arguments)]
    following = calls(piece(0, name="f", arguments="{}"))
    assert made(*pieces, following) == [("f_0", "f", arguments), ("f_1", "f", "{}")]


def test_with_an_id_a_repeated_name_starts_nothing_even_after_a_whole_object() -> None:
    assert made(calls(piece(0, "a", "f", "{}")), calls(piece(0, name="f", arguments=" "))) == [("a", "f", "{} ")]


def test_text_and_reasoning_between_pieces_of_a_call_harm_nothing() -> None:
    chunks = [
        calls(piece(0, "c1", "f", '{"a"')),
        delta(content="Let me see. "),
        delta(reasoning_content="hm"),
        calls(piece(0, arguments=":1}")),
        delta(content="Done."),
    ]
    assert made(*chunks) == [("c1", "f", '{"a":1}')]
    assert end_of(*chunks, CALLS_END).message.text == "Let me see. Done."


def test_arguments_that_are_no_json_stay_as_the_model_wrote_them() -> None:
    assert made(calls(piece(0, "c1", "f", "{a:1"))) == [("c1", "f", "{a:1")]


def test_a_call_without_arguments_has_none() -> None:
    message = end_of(calls(piece(0, "c1", "f", "")), CALLS_END).message
    assert message.tool_calls is not None
    assert message.tool_calls[0].args == {}


def test_calls_count_whatever_the_finish_reason_says() -> None:
    frames = whole(calls(piece(0, "c1", "f", "{}")), STOP)
    assert [frame.id for frame in frames if isinstance(frame, ToolCall)] == ["c1"]


def test_a_call_that_never_gets_a_name_is_refused() -> None:
    with pytest.raises(StreamProtocolError, match="without the name"):
        whole(calls(piece(0, "c1", arguments="{}")), CALLS_END)


# ==== the end ====


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_calls_that_were_cut_off_are_no_frames(reason: str) -> None:
    frames = whole(calls(piece(0, "c1", "f", '{"a": "lo')), calls(piece(1, "c2", "g", "{}")), delta(reason))
    assert not [frame for frame in frames if isinstance(frame, ToolCall)]
    end = frames[-1]
    assert isinstance(end, End)
    assert [call.arguments for call in end.truncated_calls] == ['{"a": "lo', "{}"]
    assert end.message.tool_calls == end.truncated_calls


def test_a_call_cut_off_before_its_name_is_left_out() -> None:
    assert end_of(delta(content="x"), calls(piece(0, "c1")), delta("length")).message == Message.assistant("x")


@pytest.mark.parametrize("reason", ["stop", "tool_calls"])
def test_a_whole_answer_has_no_truncated_calls(reason: str) -> None:
    assert end_of(calls(piece(0, "c1", "f", "{}")), delta(reason)).truncated_calls == ()


def test_without_finish_reason_and_done_the_answer_was_interrupted() -> None:
    assembler, _ = fed([delta(content="par"), delta(content="tial"), calls(piece(0, "c", "f", "{"))])
    with pytest.raises(StreamInterruptedError) as caught:
        assembler.close()
    assert caught.value.partial.text == "partial"
    assert caught.value.partial.tool_calls is not None
    assert caught.value.partial.tool_calls[0].arguments == "{"


def test_no_chunk_at_all_is_an_interrupted_answer() -> None:
    with pytest.raises(StreamInterruptedError) as caught:
        Assembler().close()
    assert caught.value.partial == Message.assistant()


def test_done_without_a_finish_reason_is_a_whole_answer() -> None:
    assembler, frames = fed([delta(content="x")])
    assembler.done = True
    assert frames + assembler.close() == [Append("x"), End(None, None, Message.assistant("x"))]


def test_the_id_of_the_answer_is_kept() -> None:
    assert fed([delta(content="x"), {"choices": []}])[0].id == "chatcmpl-1"


# ==== usage ====

FULL = {"prompt_tokens": 261, "completion_tokens": 88, "total_tokens": 349}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (FULL, TokenUsage(input_other=261, output=88)),
        (FULL | {"cached_tokens": 256}, TokenUsage(input_other=5, output=88, input_cache_read=256)),
        (
            FULL | {"prompt_tokens_details": {"cached_tokens": 256}},
            TokenUsage(input_other=5, output=88, input_cache_read=256),
        ),
        (
            FULL | {"cached_tokens": 0, "prompt_tokens_details": {"cached_tokens": 256}},
            TokenUsage(input_other=5, output=88, input_cache_read=256),
        ),
        (
            FULL | {"cached_tokens": None, "prompt_tokens_details": {"cached_tokens": 256}},
            TokenUsage(input_other=5, output=88, input_cache_read=256),
        ),
        (FULL | {"cached_tokens": None, "prompt_tokens_details": None}, TokenUsage(input_other=261, output=88)),
        (FULL | {"cached_tokens": 300}, TokenUsage(input_other=0, output=88, input_cache_read=261)),
        (FULL | {"cached_tokens": -3}, TokenUsage(input_other=261, output=88)),
        ({"prompt_tokens": 5}, TokenUsage(input_other=5, output=0)),
        ({"completion_tokens": 5}, TokenUsage(input_other=0, output=5)),
        ({"total_tokens": 5}, TokenUsage(input_other=0, output=0)),
        ({"prompt_tokens": -5, "completion_tokens": -1}, TokenUsage(input_other=0, output=0)),
        ({"prompt_tokens": 5.0, "completion_tokens": "7"}, TokenUsage(input_other=5, output=0)),
        ({"prompt_tokens": float("inf"), "completion_tokens": float("nan")}, TokenUsage(input_other=0, output=0)),
    ],
    ids=repr,
)
def test_usage_is_read_as_far_as_it_makes_sense(usage: Chunk, expected: TokenUsage) -> None:
    assert usage_of(usage) == expected
    in_choice = {"choices": [{"delta": {}, "finish_reason": "stop", "usage": usage}]}
    assert end_of(delta(content="x"), in_choice).usage == expected
    assert end_of(delta(content="x"), STOP, {"choices": [], "usage": usage}).usage == expected
    assert end_of(delta(content="x"), {"usage": usage}, STOP).usage == expected


def test_the_latest_usage_counts_and_null_is_none() -> None:
    early = {"choices": [{"delta": {}, "finish_reason": "stop", "usage": {"prompt_tokens": 1}}], "usage": None}
    late = {"choices": [], "usage": {"prompt_tokens": 2}}
    nothing = {"choices": [], "usage": None}
    assert end_of(delta(content="x"), early, nothing).usage == TokenUsage(input_other=1, output=0)
    assert end_of(delta(content="x"), early, late, nothing).usage == TokenUsage(input_other=2, output=0)
    assert end_of(delta(content="x"), STOP, nothing).usage is None


# ==== what is no chunk ====


@pytest.mark.parametrize(
    "chunk",
    [
        None,
        [],
        1,
        "text",
        {"choices": 1},
        {"choices": [None]},
        {"choices": ["x"]},
        {"choices": {"a": 1}},
        {"choices": [{"delta": "x"}]},
        {"choices": [{"delta": [1]}]},
        delta(content=5),
        delta(content=[{"type": "text", "text": "x"}]),
        delta(reasoning_content={"a": 1}),
        delta(reasoning_content=[]),
        delta(tool_calls="x"),
        delta(tool_calls=5),
        delta(tool_calls=[None]),
        delta(tool_calls=[{"index": 0, "function": "f"}]),
        delta(tool_calls=[{"index": 0.5}]),
        delta(tool_calls=[{"index": [0]}]),
        calls(piece(0, "c", "f", {"a": 1})),
        calls(piece(0, "c", "f", 7)),
    ],
    ids=repr,
)
def test_what_is_no_chunk_is_a_protocol_error(chunk: Any) -> None:
    with pytest.raises(StreamProtocolError):
        fed([chunk])


def test_a_protocol_error_quotes_the_chunk_in_short() -> None:
    with pytest.raises(StreamProtocolError) as caught:
        fed([delta(content=["x" * 100_000])])
    assert len(str(caught.value)) < 1000


def test_a_chunk_nested_too_deeply_to_print_is_a_protocol_error() -> None:
    deep: Any = 5
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(StreamProtocolError):
        fed([delta(content=deep)])
    while isinstance(deep, list):  # freed piece by piece, as the whole may be too deep for that too
        deep = deep.pop()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def or_garbage(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return strategy | json_values


names = st.sampled_from(["f", "g", "", " "])
indexes = st.sampled_from([0, 1, 2, "a", ""])
some_pieces = st.fixed_dictionaries(
    {},
    optional={
        "index": or_garbage(indexes),
        "id": or_garbage(names),
        "function": or_garbage(
            st.fixed_dictionaries(
                {},
                optional={"name": or_garbage(names), "arguments": or_garbage(st.sampled_from(["{", "}", '"', "\\"]))},
            )
        ),
    },
)
some_chunks = st.fixed_dictionaries(
    {},
    optional={
        "id": or_garbage(st.just("x")),
        "usage": or_garbage(
            st.fixed_dictionaries(
                {},
                optional=dict.fromkeys(
                    ("prompt_tokens", "completion_tokens", "cached_tokens", "prompt_tokens_details"), json_values
                ),
            )
        ),
        "choices": or_garbage(
            st.lists(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "index": or_garbage(st.just(0)),
                        "finish_reason": or_garbage(st.just("stop")),
                        "usage": json_values,
                        "delta": or_garbage(
                            st.fixed_dictionaries(
                                {},
                                optional={
                                    "content": or_garbage(st.text(max_size=5)),
                                    "reasoning_content": or_garbage(st.text(max_size=5)),
                                    "tool_calls": or_garbage(st.lists(or_garbage(some_pieces), max_size=3)),
                                },
                            )
                        ),
                    },
                ),
                max_size=2,
            )
        ),
    },
)


@given(st.lists(json_values | some_chunks, max_size=6))
def test_garbage_is_taken_or_refused_by_name(chunks: list[Any]) -> None:
    assembler, frames = Assembler(), list[StreamFrame]()
    for chunk in chunks:
        try:
            assembler.feed(chunk, frames)
        except StreamProtocolError:
            break
    assert isinstance(assembler.message, Message)
    assert isinstance(assembler.usage, TokenUsage | None)
    with contextlib.suppress(StreamInterruptedError, StreamProtocolError):
        assert isinstance(assembler.close()[-1], End)


sound_pieces = st.builds(
    piece,
    index=st.sampled_from([None, 0, 1, 2, "a"]),
    id=st.sampled_from([None, "", "x", "y", "z"]),
    name=st.sampled_from([None, "", "f", "g"]),
    arguments=st.sampled_from([None, "", "{", "}", '"', "\\", "{}"]),
)
sound_chunks = st.one_of(
    st.lists(sound_pieces, min_size=1, max_size=3).map(lambda pieces: calls(*pieces)),
    st.builds(delta, content=st.sampled_from(["", "a", "\ud83c", "\udf26"])),
    st.builds(delta, reasoning_content=st.sampled_from(["", "a"])),
)


@given(st.lists(sound_chunks, max_size=12))
@example([calls({"id": "x", "function": {"arguments": "{}"}}, {"id": "x", "function": {"name": "f"}})])
def test_the_frames_so_far_fold_to_the_message_so_far(chunks: list[Chunk]) -> None:
    assembler, frames = Assembler(), list[StreamFrame]()
    for chunk in chunks:
        try:
            assembler.feed(chunk, frames)
        except StreamProtocolError:
            break
        told = fold(frames)
        assert (told.text, told.reasoning) == (assembler.message.text, assembler.message.reasoning)
        assert written(told) == written(assembler.message)


def written(message: Message) -> list[tuple[str, str]]:
    """The calls, sorted: one that began with an empty piece is in the message earlier than in the frames."""
    return sorted((call.name, call.arguments) for call in message.tool_calls or ())


@given(st.permutations([0, 0, 0, 1, 1, 1, 2, 2, 2]), st.sampled_from(["index", "id", "both"]))
def test_calls_come_out_whole_however_their_pieces_interleave(order: list[int], key: str) -> None:
    """Three calls of three pieces each, told apart by index, by id or by both."""
    parts = {n: iter(['{"n":', f"{n}", "}"]) for n in range(3)}
    chunks: list[Chunk] = []
    for n in order:
        first = not any(chunk["choices"][0]["delta"]["tool_calls"][0].get("n") == n for chunk in chunks)
        call_id = f"c{n}" if key != "index" else None
        sent = piece(n if key != "id" else None, call_id, f"f{n}" if first else None, next(parts[n]))
        chunks.append(calls(sent | {"n": n}))
    expected = {f"f{n}": f'{{"n":{n}}}' for n in range(3)}
    assert {name: arguments for _, name, arguments in made(*chunks)} == expected


# ==== time ====


@pytest.mark.parametrize(
    "chunk",
    [
        calls(piece(0, arguments="xxxx")),
        calls(piece(0, "c", "f", "xxxx")),
        calls(piece(0, name="f", arguments='{"a"')),
        calls(piece(arguments="xxxx")),
        calls(piece(id="c", arguments="xxxx")),
        delta(content="xxxx"),
        delta(reasoning_content="xxxx"),
    ],
    ids=["index", "all repeated", "name repeated", "no key", "id", "text", "reasoning"],
)
def test_four_times_the_deltas_take_about_four_times_as_long(chunk: Chunk) -> None:
    head = calls(piece(0, None if "name" in str(chunk) else "c", "f"))
    small, large = [head, *[chunk] * 4_000, CALLS_END], [head, *[chunk] * 16_000, CALLS_END]
    assert takes_at_most(9, lambda: whole(*small), lambda: whole(*large))


def test_a_megabyte_of_arguments_in_small_deltas_is_whole() -> None:
    pieces = [calls(piece(0, arguments="abcd" * 5))] * 50_000
    assert made(calls(piece(0, "c", "f")), *pieces) == [("c", "f", "abcd" * 250_000)]


# ==== parts of other providers, and for their callbacks ====


def folded(*parts: Any) -> Message:
    assembler, frames = Assembler(), list[StreamFrame]()
    for part in parts:
        assembler.feed_part(part, frames)
    assembler.end("stop", None)
    end = assembler.close()[-1]
    assert isinstance(end, End)
    return end.message


def test_parts_are_folded_like_deltas() -> None:
    call = ToolCall(id="c", function=ToolCall.FunctionBody(name="f"))
    message = folded(
        ThinkPart(think="hm"),
        TextPart(text="a"),
        call,
        ToolCallPart(arguments_part='{"a"'),
        TextPart(text="b"),
        ToolCallPart(arguments_part=":1}"),
        ToolCallPart(arguments_part=None),
    )
    whole_call = ToolCall(id="c", function=ToolCall.FunctionBody(name="f", arguments='{"a":1}'))
    assert message == Message.assistant([ThinkPart(think="hm"), TextPart(text="ab")], tool_calls=[whole_call])


def test_a_part_of_a_call_before_any_call_is_refused() -> None:
    with pytest.raises(StreamProtocolError, match="before the call"):
        folded(ToolCallPart(arguments_part="{}"))


def parts_of(*chunks: Chunk) -> list[Any]:
    parts = Parts()
    return [part for frame in whole(*chunks) if (part := parts.of(frame)) is not None]


def test_parts_of_interleaved_calls_fold_to_the_same_calls() -> None:
    chunks = [
        calls(piece(0, "c0", "f")),
        calls(piece(1, "c1", "g", "{")),
        calls(piece(0, arguments="{}")),
        calls(piece(1, arguments="}")),
    ]
    assert folded(*parts_of(*chunks, CALLS_END)) == end_of(*chunks, CALLS_END).message


def test_a_call_is_held_back_until_its_name_is_known() -> None:
    parts = parts_of(
        calls(piece(0, "c1")),
        calls(piece(0, arguments="{")),
        calls(piece(0, name="f", arguments='"a":')),
        calls(piece(0, arguments="1}")),
        CALLS_END,
    )
    assert parts == [
        ToolCall(id="c1", function=ToolCall.FunctionBody(name="f", arguments='{"a":')),
        ToolCallPart(arguments_part="1}", index=0),
    ]


def test_a_late_id_is_no_second_call() -> None:
    parts = parts_of(calls(piece(0, name="f")), calls(piece(0, "c1", arguments="{}")), CALLS_END)
    assert [type(part) for part in parts] == [ToolCall, ToolCallPart]


def test_an_end_is_no_part() -> None:
    assert part_of(End("stop", None, Message.assistant("x"))) is None


# ==== folding frames ====


def test_an_end_says_what_the_message_is() -> None:
    message = Message.assistant("whole")
    assert fold([Append("a"), End("stop", None, message)]) == message


def test_frames_without_an_end_fold_to_what_came() -> None:
    call = ToolCall(id="c", function=ToolCall.FunctionBody(name="f", arguments="{}"))
    assert fold([]) == Message.assistant()
    assert fold([Reasoning(""), Append("a"), ToolCallDelta(0, "c", "f", "{}")]) == Message.assistant(
        [ThinkPart(think=""), TextPart(text="a")], tool_calls=[call]
    )
    assert fold([ToolCallDelta(0, "c", "f", "{}"), call]).tool_calls == (call,)


def test_with_an_id_another_name_after_a_whole_object_starts_a_call() -> None:
    chunks = [
        {
            "choices": [
                {
                    "delta": {
                        "tool_calls": [{"index": 0, "id": "c1", "function": {"name": "add", "arguments": '{"a":1}'}}]
                    }
                }
            ]
        },
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "sub", "arguments": '{"b":2}'}}]}}]},
        {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
    ]
    assembler = Assembler()
    for chunk in chunks:
        assembler.feed(chunk, [])
    assert [(call.name, call.arguments) for call in assembler.message.tool_calls or ()] == [
        ("add", '{"a":1}'),
        ("sub", '{"b":2}'),
    ]

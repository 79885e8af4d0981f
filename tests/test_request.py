"""What a request asks for: what Kimi would refuse is refused before it is sent, and what Kimi takes is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kimi_agent.errors import ChatProviderError, FunctionSpecError, InvalidRequestError
from kimi_agent.generate import generate
from kimi_agent.kimi.client import Kimi
from kimi_agent.kimi.models import model_info
from kimi_agent.kimi.request import ChatRequest
from kimi_agent.message import ImageURLPart, MediaURL, Message
from kimi_agent.provider import GenerationKwargs, checked
from kimi_agent.testing import KimiServer, Recorded, call, check_request, say
from kimi_agent.tools.base import Tool, ToolsPart

USER = Message.user("Hi")
TOOL = Tool(name="get_weather", description="", parameters={"type": "object", "properties": {}})
LATE = Message.system(ToolsPart(tools=(TOOL.copy_with(name="get_news"),)))
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
ON, OFF = {"type": "enabled"}, {"type": "disabled"}


def request(
    model: str,
    fields: Mapping[str, Any],
    *,
    tools: Sequence[Tool] = (),
    history: Sequence[Message] = (USER,),
    system: str = "",
) -> dict[str, Any]:
    """The decoded body of a request, asked for as `Kimi` asks for it."""
    asked = checked(fields, GenerationKwargs)
    return json.loads(ChatRequest(model_info(model), system, tools, history, asked).body())


def fields_of(model: str, fields: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    body = request(model, fields, **options)
    return {name: body[name] for name in body.keys() - {"messages", "model", "stream", "stream_options", "tools"}}


# ==== what is sent ====

LIMIT = {"kimi-k3": 131_072, "kimi-k2.7-code": 32_768, "kimi-k2.6": 32_768}
SENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "stop": ({"stop": "x"}, {"stop": "x"}),
    "stops": ({"stop": ["x"] * 5}, {"stop": ["x"] * 5}),
    "choice": ({"tool_choice": "none"}, {"tool_choice": "none"}),
    "format": ({"response_format": FORMAT}, {"response_format": FORMAT}),
    "cache": ({"prompt_cache_key": "a"}, {"prompt_cache_key": "a"}),
    "user": ({"safety_identifier": "a"}, {"safety_identifier": "a"}),
    "logprobs": ({"logprobs": True, "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
    "prediction": (
        {"prediction": {"type": "content", "content": "x"}},
        {"prediction": {"type": "content", "content": "x"}},
    ),
    "old limit": ({"max_tokens": 9}, {"max_completion_tokens": 9}),
    "limit": ({"max_completion_tokens": 9}, {"max_completion_tokens": 9}),
    "both limits": ({"max_tokens": 9, "max_completion_tokens": 8}, {"max_completion_tokens": 8}),
    "nothing": ({"temperature": None, "stop": None}, {}),
    "thinking of nothing": ({"thinking": {}}, {}),
    "something else": ({"extra_body": {"mood": "good"}}, {"mood": "good"}),
}


@pytest.mark.parametrize("model", LIMIT)
@pytest.mark.parametrize(("asked", "expected"), SENT.values(), ids=SENT)
def test_what_is_asked_for_is_sent_beside_the_models_own_limit(
    model: str, asked: dict[str, Any], expected: dict[str, Any]
) -> None:
    before = deepcopy(asked)
    assert fields_of(model, asked, tools=[TOOL]) == {"max_completion_tokens": LIMIT[model], **expected}
    assert asked == before


@pytest.mark.parametrize("model", LIMIT)
@pytest.mark.parametrize("name", ["max_completion_tokens", "max_tokens"])
def test_a_limit_of_none_sends_none(model: str, name: str) -> None:
    assert fields_of(model, {name: None}) == {}


def test_an_unknown_model_gets_plain_fields_and_no_limit() -> None:
    assert fields_of("nobody-knows", {}) == {}
    assert fields_of("nobody-knows", {"max_tokens": 5}) == {"max_completion_tokens": 5}


def test_a_schema_is_sent_in_the_dialect_of_kimi() -> None:
    wanted = {"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}, {"type": "null"}]}}}
    asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": wanted}}}
    before = deepcopy(asked)
    assert check_request(request("kimi-k3", asked)) is None
    assert asked == before


THINKING: dict[str, tuple[Any, Any, Any]] = {
    "field by field": ({"type": "enabled"}, {"keep": "all"}, {"type": "enabled", "keep": "all"}),
    "the last word": ({"type": "enabled", "keep": "all"}, {"type": "disabled"}, {"type": "disabled", "keep": "all"}),
    "nothing": ({"type": "disabled"}, {}, {"type": "disabled"}),
    "alone": (None, {"type": "disabled"}, {"type": "disabled"}),
}


@pytest.mark.parametrize(("named", "extra", "expected"), THINKING.values(), ids=THINKING)
def test_thinking_is_merged_field_by_field_with_that_of_the_extra_body(named: Any, extra: Any, expected: Any) -> None:
    asked = {"thinking": named, "extra_body": {"thinking": extra}}
    assert fields_of("kimi-k2.6", asked)["thinking"] == expected


def test_the_extra_body_is_not_looked_at() -> None:
    extra = {"temperature": 0.3, "tool_choice": "maybe", "reasoning_effort": "none", "seed": 4}
    assert fields_of("kimi-k3", {"extra_body": extra}) == {"max_completion_tokens": 131_072, **extra}


def test_a_limit_in_the_extra_body_takes_the_place_of_the_default() -> None:
    body = fields_of("kimi-k3", {"extra_body": {"max_tokens": 5}})
    assert body.get("max_completion_tokens", body["max_tokens"]) == 5


# ==== how long an answer may be ====


def limit_of(model: str, **options: Any) -> int:
    return fields_of(model, {}, **options)["max_completion_tokens"]


@pytest.mark.parametrize("model", LIMIT)
def test_a_long_prompt_leaves_less_for_the_answer_and_never_the_window(model: str) -> None:
    window = model_info(model).context_window
    words = "word " * (window - LIMIT[model] // 2)
    limit = limit_of(model, history=[Message.user(words)])
    assert 1_024 <= limit < LIMIT[model]
    assert limit + window - LIMIT[model] // 2 <= window


def test_a_prompt_that_fills_the_window_is_kimis_to_refuse() -> None:
    assert limit_of("kimi-k2.6", history=[Message.user("word " * 300_000)]) == 1_024


def test_a_large_picture_is_not_counted_by_its_bytes() -> None:
    picture = ImageURLPart(image_url=MediaURL(url="data:image/png;base64," + "A" * 2_000_000))
    assert limit_of("kimi-k2.6", history=[Message.user([picture])]) == 32_768


def test_a_limit_of_the_caller_is_sent_as_it_is() -> None:
    fields = fields_of("kimi-k2.6", {"max_completion_tokens": 50_000}, history=[Message.user("word " * 240_000)])
    assert fields["max_completion_tokens"] == 50_000


def test_long_tools_leave_less_for_the_answer() -> None:
    tools = [TOOL.copy_with(description="word " * 245_000)]
    assert limit_of("kimi-k2.6", tools=tools) < 32_768


def test_a_long_system_prompt_is_counted_like_any_other_text() -> None:
    words = "word " * 70_000
    assert limit_of("kimi-k2.6", history=[Message.user(words)]) == 32_768
    assert limit_of("kimi-k2.6", system=words) == 32_768


# ==== what is refused ====

ALL = ("kimi-k3", "kimi-k2.7-code", "kimi-k2.6")
REFUSED: dict[str, tuple[Sequence[str], dict[str, Any], str]] = {
    "temperature": (ALL, {"temperature": 0.3}, "temperature=1 only"),
    "temperature as text": (ALL, {"temperature": "1"}, "temperature=1 only"),
    "no number": (ALL, {"temperature": float("nan")}, "temperature=1 only"),
    "temperature of the other kind": (ALL, {"temperature": 0.6}, "temperature=1 only"),
    "temperature without thinking": (["kimi-k2.6"], {"temperature": 1, "thinking": OFF}, "temperature=0.6 only"),
    "temperature without thinking by the extra body": (
        ["kimi-k2.6"],
        {"temperature": 1, "extra_body": {"thinking": OFF}},
        "temperature=0.6 only",
    ),
    "top_p": (ALL, {"top_p": 1}, "top_p=0.95 only"),
    "n": (ALL, {"n": 2}, "n=1 only"),
    "presence": (ALL, {"presence_penalty": 0.1}, "presence_penalty=0 only"),
    "frequency": (ALL, {"frequency_penalty": 0.1}, "frequency_penalty=0 only"),
    "limit of nothing": (ALL, {"max_completion_tokens": 0}, "max_completion_tokens"),
    "limit below nothing": (ALL, {"max_tokens": -1}, "max_completion_tokens"),
    "half a token": (ALL, {"max_completion_tokens": 1.5}, "max_completion_tokens"),
    "true as a limit": (ALL, {"max_completion_tokens": True}, "max_completion_tokens"),
    "limit as text": (ALL, {"max_completion_tokens": "9"}, "max_completion_tokens"),
    "limit above all": (ALL, {"max_completion_tokens": 1_048_577}, "at most"),
    "no thinking": (["kimi-k3", "kimi-k2.7-code"], {"thinking": OFF}, "always thinks"),
    "no thinking by the extra body": (["kimi-k3"], {"extra_body": {"thinking": OFF}}, "always thinks"),
    "effort": (["kimi-k3"], {"reasoning_effort": "medium"}, "low, high, max"),
    "effort in an object": (["kimi-k3"], {"reasoning_effort": {"effort": "low"}}, "low, high, max"),
    "effort of another model": (["kimi-k2.7-code", "kimi-k2.6"], {"reasoning_effort": "high"}, "with_thinking"),
    "six stops": (ALL, {"stop": ["x"] * 6}, "five stop strings"),
    "a long stop": (ALL, {"stop": "晴" * 11}, "32 bytes"),
    "a stop that is no text": (ALL, {"stop": ["x", 4]}, "stop is a string or a list"),
    "stops in an object": (ALL, {"stop": {"a": 1}}, "stop is a string or a list"),
    "unknown choice": (ALL, {"tool_choice": "any"}, "'auto', 'none' or 'required'"),
    "empty choice": (ALL, {"tool_choice": ""}, "'auto', 'none' or 'required'"),
    "choice of one function": (ALL, {"tool_choice": NAMED}, "tool_choice"),
    "required": (["kimi-k2.7-code", "kimi-k2.6"], {"tool_choice": "required"}, "auto, none"),
    "format": (ALL, {"response_format": {"type": "xml"}}, "text, json_object, json_schema"),
    "format without type": (ALL, {"response_format": {}}, "text, json_object, json_schema"),
    "format as text": (ALL, {"response_format": "json_object"}, "text, json_object, json_schema"),
    "schema is missing": (ALL, {"response_format": {"type": "json_schema"}}, "name and a schema"),
    "schema has no name": (
        ALL,
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        "needs a name",
    ),
    "schema is text": (
        ALL,
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": "b"}}},
        "needs a schema",
    ),
    "schema is half strict": (
        ALL,
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": None}}},
        "strict is true or false",
    ),
}
REFUSED_CASES = [(model, fields, words) for models, fields, words in REFUSED.values() for model in models]


@pytest.mark.parametrize(
    ("model", "fields", "words"), REFUSED_CASES, ids=[f"{case[0]}-{case[1]}" for case in REFUSED_CASES]
)
def test_what_kimi_refuses_is_refused_before_it_is_sent(model: str, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        request(model, fields, tools=[TOOL])
    assert isinstance(caught.value, ChatProviderError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("model", "fields", "words"), REFUSED_CASES)
def test_an_unknown_model_is_asked_for_anything(model: str, fields: dict[str, Any], words: str) -> None:
    request("nobody-knows", fields, tools=[TOOL])


@pytest.mark.parametrize(
    "fields", [{"seed": 1}, {"parallel_tool_calls": True}, {"stop": object()}, {"extra_body": {"tools": []}}]
)
@pytest.mark.parametrize("model", [*ALL, "nobody-knows"])
def test_what_no_request_has_is_a_type_error(model: str, fields: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        request(model, fields)


def test_required_needs_something_to_call() -> None:
    with pytest.raises(InvalidRequestError, match="needs tools"):
        request("kimi-k3", {"tool_choice": "required"})
    assert check_request(request("kimi-k3", {"tool_choice": "required"}, tools=[TOOL])) is None
    assert check_request(request("kimi-k3", {"tool_choice": "required"}, history=[USER, LATE])) is None


NOT_REFUSED = [
    pytest.param("kimi-k2.6", {"thinking": {"type": "off"}}, id="type"),
    pytest.param("kimi-k2.6", {"thinking": {**ON, "keep": "some"}}, id="keep"),
    pytest.param("kimi-k3", {"thinking": "hard"}, id="no-object"),
    pytest.param("kimi-k3", {"stop": 0}, id="zero"),
    pytest.param("kimi-k2.6", {"thinking": OFF, "tool_choice": 5}, id="5"),
    pytest.param("kimi-k3", {"max_completion_tokens": 1_048_576}, id="window"),
    pytest.param("kimi-k2.6", {"max_completion_tokens": 262_144}, id="window"),
    pytest.param("kimi-k3", {"prompt_cache_key": 5}, id="cache"),
    pytest.param("kimi-k3", {"safety_identifier": 5}, id="user"),
]


@pytest.mark.parametrize(("model", "fields"), NOT_REFUSED)
def test_what_the_embedded_kimi_refuses_is_refused_before_it_is_sent(model: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        request(model, fields, tools=[TOOL])


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"temperature": True}),
        pytest.param({"logprobs": True, "top_logprobs": 21}),
    ],
    ids=str,
)
def test_values_out_of_the_documented_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        request("kimi-k3", fields)


def test_an_extra_body_that_is_no_mapping_is_a_type_error_or_refused() -> None:
    with pytest.raises((InvalidRequestError, TypeError)):
        request("kimi-k3", {"extra_body": "abc"})


def test_json_objects_cannot_be_begun_by_the_caller() -> None:
    begun = [USER, Message.assistant('{"a":', partial=True)]
    with pytest.raises(InvalidRequestError):
        request("kimi-k3", {"response_format": {"type": "json_object"}}, history=begun)


@pytest.mark.parametrize("model", ["kimi-k2-0905-preview", "kimi-k2-thinking"])
def test_a_model_that_sees_nothing_is_not_shown_pictures(model: str) -> None:
    picture = ImageURLPart(image_url=MediaURL(url="data:image/png;base64,aaaa"))
    with pytest.raises(InvalidRequestError, match="sees no pictures"):
        request(model, {}, history=[Message.user([picture])])


def test_a_request_without_messages_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        request("kimi-k3", {}, history=[])


# ==== any combination ====

VALUES: dict[str, list[Any]] = {
    "max_completion_tokens": [None, 1, 1_024, 200_000, 0, -1, 1.5, "9", True, 1_048_577],
    "max_tokens": [1, 4_096, 0, "9", 1_048_577],
    "temperature": [None, 1, 1.0, 0.6, 0, 0.3, "1", float("nan")],
    "top_p": [0.95, 1, 0],
    "n": [1, 2, 0],
    "presence_penalty": [0, 0.0, 1, -2],
    "frequency_penalty": [0, 0.0, 1],
    "stop": [None, "", "x", "x" * 32, "x" * 33, [], ["a"] * 5, ["a"] * 6, ["晴" * 11], [1], ("a", "b"), {"a": 1}],
    "tool_choice": [None, "auto", "none", "required", "any", "", NAMED],
    "response_format": [
        None,
        FORMAT,
        {"type": "text"},
        {"type": "json_object"},
        {"type": "xml"},
        {},
        "json_object",
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "", "schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"oneOf": [{}]}, "strict": False}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": [], "strict": "yes"}},
    ],
    "reasoning_effort": [None, "low", "high", "max", "medium", "none", {"effort": "low"}, 5],
    "thinking": [None, {}, ON, OFF, {**ON, "keep": "all"}, {"keep": "all"}, {"keep": None}],
    "prompt_cache_key": ["a", ""],
    "safety_identifier": ["a", ""],
    "logprobs": [True, False],
    "top_logprobs": [0, 20],
    "prediction": [{"type": "content", "content": "x"}],
    "extra_body": [None, {}, {"mood": 1}, {"thinking": OFF}, {"thinking": ON}, {"thinking": {}}, {"tools": []}],
    "seed": [1],
}
ASKED = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in VALUES.items()})
FEW = st.lists(st.sampled_from(sorted(VALUES)), max_size=4, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from(VALUES[name]) for name in names})
)


def is_known_gap(fields: Mapping[str, Any]) -> bool:
    """A named function while nothing thinks: see `NOT_REFUSED`."""
    return fields.get("tool_choice") is NAMED


@pytest.mark.parametrize("model", ALL)
@given(
    fields=FEW | ASKED,
    base=st.sampled_from([{}, {"thinking": OFF}, {"thinking": ON}]),
    tools=st.sampled_from([[], [TOOL]]),
    declares=st.booleans(),
)
@settings(max_examples=150)
def test_what_is_not_refused_here_kimi_does_not_refuse(
    model: str, fields: dict[str, Any], base: dict[str, Any], tools: list[Tool], declares: bool
) -> None:
    assume(not (model == "kimi-k2.6" and is_known_gap(fields)))
    history = [USER, LATE] if declares and model == "kimi-k3" else [USER]
    try:
        body = request(model, {**base, **fields}, tools=tools, history=history)
    except (InvalidRequestError, TypeError):
        return
    assert check_request(body) is None


@given(fields=FEW | ASKED)
@settings(max_examples=100)
def test_an_unknown_model_is_never_refused_anything_but_unknown_names(fields: dict[str, Any]) -> None:
    try:
        request("nobody-knows", fields, tools=[TOOL])
    except TypeError:
        assert "seed" in fields or "tools" in (fields.get("extra_body") or {})


TAKEN: dict[str, list[Any]] = {
    "max_completion_tokens": [None, 1, 32_768, 200_000],
    "top_p": [None, 0.95],
    "n": [None, 1, 1.0],
    "presence_penalty": [None, 0, 0.0],
    "frequency_penalty": [None, 0, 0.0],
    "stop": [None, "x", "x" * 32, ["晴" * 10] * 5, []],
    "response_format": [None, {"type": "text"}, {"type": "json_object"}, FORMAT],
    "prompt_cache_key": ["a"],
    "safety_identifier": ["a"],
    "logprobs": [True, False],
    "top_logprobs": [0, 20],
    "prediction": [{"type": "content", "content": "x"}],
}
TAKEN_BY: dict[str, tuple[str, dict[str, Any], dict[str, list[Any]]]] = {
    "K3": (
        "kimi-k3",
        {},
        {
            "temperature": [1, 1.0],
            "tool_choice": ["auto", "none", "required"],
            "reasoning_effort": ["low", "high", "max"],
            "thinking": [None, {}, ON, {**ON, "keep": "all"}],
        },
    ),
    "K2.7": (
        "kimi-k2.7-code",
        {},
        {"temperature": [1, 1.0], "tool_choice": ["auto", "none"], "thinking": [None, {}, ON]},
    ),
    "K2.6": (
        "kimi-k2.6",
        {},
        {
            "temperature": [1, 1.0],
            "tool_choice": ["auto", "none"],
            "thinking": [None, {}, ON, {**ON, "keep": "all"}, {**ON, "keep": None}],
        },
    ),
    "K2.6 without thinking": (
        "kimi-k2.6",
        {"thinking": OFF},
        {"temperature": [0.6], "tool_choice": ["auto", "none", "required"]},
    ),
}


@pytest.mark.parametrize(("model", "base", "more"), TAKEN_BY.values(), ids=TAKEN_BY)
@given(data=st.data())
@settings(max_examples=100)
def test_what_kimi_takes_is_not_refused_here(
    model: str, base: dict[str, Any], more: dict[str, list[Any]], data: st.DataObject
) -> None:
    values = {name: st.sampled_from(choices) for name, choices in {**TAKEN, **more}.items()}
    fields = {**base, **data.draw(st.fixed_dictionaries({}, optional=values))}
    body = request(model, fields, tools=[TOOL])
    assert check_request(body) is None
    for name, value in fields.items():
        assert body.get(name) == (None if value == {} else value)


# ==== tools ====

NAMES = {
    True: ["abc", "_ab", "a-b", "A_9", "a" * 64, "get_weather"],
    False: ["", "a", "ab", "1ab", "-ab", "a b", "a.b", "a@bc", "abc\n", "änd", "abc​", "a" * 65, "天气查询"],
}


@pytest.mark.parametrize("model", ["kimi-k3", "kimi-k2.6", "nobody-knows"])
@pytest.mark.parametrize(("taken", "name"), [(taken, name) for taken, names in NAMES.items() for name in names])
def test_a_tool_has_a_name_that_every_kimi_takes(model: str, taken: bool, name: str) -> None:
    tools = [TOOL.copy_with(name=name)]
    if taken:
        assert check_request(request(model, {}, tools=tools)) is None
        return
    with pytest.raises(FunctionSpecError) as caught:
        request(model, {}, tools=tools)
    assert repr(name) in str(caught.value)


@given(st.text(max_size=5) | st.from_regex(r"[A-Za-z_$][A-Za-z0-9_-]{0,70}", fullmatch=True))
def test_any_other_name_is_sent_only_if_kimi_takes_it(name: str) -> None:
    assume(not name.startswith("$"))
    try:
        body = request("kimi-k3", {}, tools=[TOOL.copy_with(name=name)])
    except FunctionSpecError:
        return
    assert check_request(body) is None


def test_a_tool_of_kimi_itself_is_sent_by_its_name_alone() -> None:
    tools = request("kimi-k3", {}, tools=[TOOL.copy_with(name="$web_search")])["tools"]
    assert tools == [{"type": "builtin_function", "function": {"name": "$web_search"}}]


@pytest.mark.parametrize("name", ["$", "$a b", "$天气", "$" + "a" * 200])
def test_a_name_after_the_dollar_has_letters_that_kimi_takes(name: str) -> None:
    with pytest.raises(FunctionSpecError):
        request("kimi-k3", {}, tools=[TOOL.copy_with(name=name)])


def many(count: int) -> list[Tool]:
    return [TOOL.copy_with(name=f"tool_{number}") for number in range(count)]


@pytest.mark.parametrize("model", ["kimi-k3", "nobody-knows"])
def test_there_are_128_tools_at_most_wherever_they_are_declared(model: str) -> None:
    assert check_request(request(model, {}, tools=many(127), history=[USER, LATE])) is None
    for tools, history in ((many(129), [USER]), (many(128), [USER, LATE])):
        with pytest.raises(InvalidRequestError, match=r"128 tools at most, and these are 129; leave some out"):
            request(model, {}, tools=tools, history=history)


@pytest.mark.parametrize(
    ("tools", "history"),
    [([TOOL, TOOL], [USER]), ([LATE.content[0].tools[0]], [USER, LATE]), ([], [LATE, USER, LATE])],  # type: ignore[attr-defined]
    ids=["top", "both", "late"],
)
def test_two_tools_with_one_name_are_refused_wherever_they_are_declared(
    tools: list[Tool], history: list[Message]
) -> None:
    with pytest.raises(FunctionSpecError, match=r"two tools with one name: get_(weather|news)"):
        request("kimi-k3", {}, tools=tools, history=history)


def test_a_text_that_looks_like_a_declaration_declares_nothing() -> None:
    text = '{"role":"system","tools":[{"type":"function"'
    assert check_request(request("kimi-k3", {}, tools=[TOOL], history=[Message.user(text)])) is None


def test_a_system_message_declares_tools_half_way() -> None:
    body = request("kimi-k3", {}, tools=[TOOL], history=[USER, LATE])
    function = {"name": "get_news", "description": "", "parameters": {"type": "object", "properties": {}}}
    assert body["messages"][1] == {"role": "system", "tools": [{"type": "function", "function": function}]}
    assert check_request(body) is None


@pytest.mark.parametrize(
    "message", [Message.user(LATE.content), Message.assistant(LATE.content), Message.system([*LATE.content, "x"])]
)
def test_tools_are_declared_by_a_system_message_that_has_nothing_else(message: Message) -> None:
    with pytest.raises(InvalidRequestError, match="system message that has no other content; make it two messages"):
        request("kimi-k3", {}, history=[message])


def test_a_tool_of_a_system_message_has_a_name_that_kimi_takes() -> None:
    with pytest.raises(FunctionSpecError, match="'ab'"):
        request("kimi-k3", {}, history=[USER, Message.system(ToolsPart(tools=(TOOL.copy_with(name="ab"),)))])


@pytest.mark.parametrize("model", ["kimi-k2.6", "kimi-k2.7-code"])
def test_a_model_that_knows_no_tools_in_messages_is_not_sent_any(model: str) -> None:
    with pytest.raises(InvalidRequestError, match=model):
        request(model, {}, history=[USER, LATE])


# ==== copies ====


def client(server: KimiServer, model: str = "kimi-k3") -> Kimi:
    return Kimi(model, api_key=server.api_key, base_url=server.base_url, max_retries=0)


async def sent_by(kimi: Kimi, server: KimiServer, **overrides: Any) -> dict[str, Any]:
    """What goes over the wire beside the messages."""
    await (await kimi.generate("", [], [USER], generation_overrides=overrides or None)).aclose()  # type: ignore[arg-type]
    body = server.requests[-1].body
    return {
        name: value for name, value in body.items() if name not in ("messages", "model", "stream", "stream_options")
    }


K3_LIMIT = {"max_completion_tokens": 131_072}
K2_LIMIT = {"max_completion_tokens": 32_768}


async def test_a_copy_differs_and_the_original_stays_as_it_is() -> None:
    async with KimiServer(lambda _: say("x")) as server, client(server) as kimi:
        changed = kimi.with_generation_kwargs(stop="a").with_extra_body({"mood": 1}).with_thinking("low")
        assert await sent_by(changed, server) == {**K3_LIMIT, "stop": "a", "mood": 1, "reasoning_effort": "low"}
        assert await sent_by(kimi, server) == K3_LIMIT
        assert (changed.thinking_effort, kimi.thinking_effort) == ("low", None)


async def test_copies_share_their_connections() -> None:
    async with KimiServer(lambda _: say("x")) as server, client(server) as kimi:
        for each in (kimi, kimi.with_thinking("low"), kimi.with_generation_kwargs(n=1), kimi.with_extra_body({"a": 1})):
            await generate(each, "", [], [USER])
            assert server.connections == 1


async def test_who_spoke_last_counts_and_an_override_goes_first() -> None:
    async with KimiServer(lambda _: say("x")) as server, client(server) as kimi:
        changed = kimi.with_generation_kwargs(stop="a", n=1).with_generation_kwargs(stop="b")
        assert await sent_by(changed, server) == {**K3_LIMIT, "n": 1, "stop": "b"}
        assert await sent_by(changed, server, stop="c") == {**K3_LIMIT, "n": 1, "stop": "c"}
        assert await sent_by(changed, server) == {**K3_LIMIT, "n": 1, "stop": "b"}


async def test_extra_bodies_add_up_key_by_key_and_thinking_field_by_field() -> None:
    async with KimiServer(lambda _: say("x")) as server, client(server, "kimi-k2.6") as kimi:
        first = kimi.with_extra_body({"a": {"x": 1}, "b": 1, "thinking": {"type": "enabled"}})
        both = first.with_extra_body({"a": {"y": 2}, "thinking": {"keep": "all"}})
        thinking = {"type": "enabled", "keep": "all"}
        assert await sent_by(both, server) == {**K2_LIMIT, "a": {"y": 2}, "b": 1, "thinking": thinking}
        replaced = both.with_generation_kwargs(extra_body={"c": 1})
        assert await sent_by(replaced, server) == {**K2_LIMIT, "c": 1}


async def test_thinking_said_in_two_ways_is_what_was_said_last() -> None:
    async with KimiServer(lambda _: say("x")) as server, client(server) as kimi:
        low, high = {"reasoning_effort": "low"}, {"reasoning_effort": "high"}
        assert await sent_by(kimi.with_thinking("high").with_thinking("minimal"), server) == {**K3_LIMIT, **low}
        by_name = kimi.with_thinking("high").with_generation_kwargs(reasoning_effort="low")
        assert await sent_by(by_name, server) == {**K3_LIMIT, **low}
        assert by_name.thinking_effort is None
        assert await sent_by(by_name.with_thinking("medium"), server) == {**K3_LIMIT, **high}
        assert await sent_by(kimi.with_thinking("high").with_extra_body(low), server) == {**K3_LIMIT, **low}


@pytest.mark.parametrize(
    ("model", "extra", "effort", "expected"),
    [
        ("kimi-k2.6", {"thinking": OFF}, "high", {"thinking": ON}),
        ("kimi-k3", {"reasoning_effort": "low"}, "max", {"reasoning_effort": "max"}),
    ],
)
async def test_with_thinking_counts_after_with_extra_body(model: str, extra: Any, effort: Any, expected: Any) -> None:
    async with KimiServer(lambda _: say("x")) as server, client(server, model) as kimi:
        sent = await sent_by(kimi.with_extra_body(extra).with_thinking(effort), server)
        assert {name: sent[name] for name in expected} == expected


async def test_the_old_name_of_the_limit_counts_when_it_was_said_last() -> None:
    async with KimiServer(lambda _: say("x")) as server, client(server) as kimi:
        limited = kimi.with_generation_kwargs(max_completion_tokens=100)
        first = await sent_by(limited.with_generation_kwargs(max_tokens=50), server)
        second = await sent_by(limited, server, max_tokens=50)
        assert (first, second) == ({"max_completion_tokens": 50}, {"max_completion_tokens": 50})


async def test_what_is_refused_is_not_sent() -> None:
    async with KimiServer() as server, client(server) as kimi:
        for refused in (
            kimi.with_generation_kwargs(temperature=0.3).generate("", [], [USER]),
            kimi.generate("", [], [USER], generation_overrides={"tool_choice": "required"}),
            kimi.generate("", many(129), [USER]),
            kimi.generate("", [], [Message.user(ImageURLPart(image_url=MediaURL(url="https://x.test/a.png")))]),
        ):
            with pytest.raises(InvalidRequestError):
                await refused
        with pytest.raises(FunctionSpecError):
            await kimi.generate("", [TOOL, TOOL], [USER])
        with pytest.raises(TypeError, match="no seed"):
            kimi.with_generation_kwargs(seed=1)  # type: ignore[call-arg]
        with pytest.raises(InvalidRequestError, match="always thinks"):
            kimi.with_thinking("off")
        assert server.calls == []


# ==== the way back ====


def recorded(key: str, value: Any) -> Recorded:
    deltas: list[tuple[dict[str, Any], str | None]] = [
        ({"role": "assistant", "content": ""}, None),
        ({key: value}, None),
        ({"content": "Four."}, None),
        ({}, "stop"),
    ]
    return Recorded([{"id": "1", "choices": [{"index": 0, "delta": d, "finish_reason": f}]} for d, f in deltas])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("reasoning_content", "hm"),
        ("reasoning", "hm"),
        ("reasoning_details", [{"type": "reasoning.text", "text": "hm"}]),
    ],
)
@pytest.mark.parametrize("model", ["kimi-k3", "nobody-knows"])
async def test_reasoning_goes_back_under_the_key_that_the_server_used(model: str, key: str, value: Any) -> None:
    async with KimiServer([recorded(key, value), say("x")], check=False) as server, client(server, model) as kimi:
        first = await generate(kimi, "", [], [USER])
        assert first.message.reasoning == "hm"
        await generate(kimi.with_generation_kwargs(stop="x"), "", [], [USER, first.message, USER])
        assert server.requests[1].body["messages"][1] == {"role": "assistant", key: value, "content": "Four."}


@pytest.mark.parametrize("model", ["kimi-k3", "nobody-knows"])
async def test_the_beginning_of_a_conversation_is_the_same_bytes_from_turn_to_turn(model: str) -> None:
    script = [call("get_weather"), say("Four.", reasoning="hm"), call("get_weather"), say("Five.")]
    async with KimiServer(script) as server, client(server, model) as kimi:
        history = [Message.user(["Oslo?", "Now?"]), LATE, Message.system("Be terse.")]
        for _ in script:
            answer = (await generate(kimi, "You know the weather.", [TOOL], history)).message
            results = [Message.tool("4", each.id) for each in answer.tool_calls or ()]
            history = [*history, answer, *(results or [Message.user("And now?")])]
        raw = [each.raw.partition(b'],"tools"')[0] for each in server.requests]
        assert all(later.startswith(earlier) for earlier, later in pairwise(raw))
        assert len(set(map(len, raw))) == len(script)

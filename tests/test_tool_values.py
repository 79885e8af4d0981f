"""What a tool gives back, as values that survive their JSON whatever their class; and the names of what is public."""

import copy
import gc
import inspect
import json
import pickle
import typing
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    computed_field,
    create_model,
    model_validator,
)

import kimi_agent
from kimi_agent import (
    BriefDisplayBlock,
    ContentPart,
    DisplayBlock,
    ImageURLPart,
    TextPart,
    ThinkPart,
    ToolError,
    ToolNotFoundError,
    ToolOk,
    ToolParseError,
    ToolResult,
    ToolReturnValue,
    ToolRuntimeError,
    ToolValidateError,
    UnknownDisplayBlock,
    UnknownPart,
)
from kimi_agent.message import KEEP_UNKNOWN, Message
from kimi_agent.tools.base import ToolMessage

PICTURE = ImageURLPart(image_url=ImageURLPart.ImageURL(url="ms://1"))


class Written(ToolOk):
    """Has fields and a constructor of its own."""

    path: str
    sizes: tuple[int, ...] = ()

    def __init__(self, path: str, **more: Any) -> None:
        super().__init__(output=f"wrote {path}", path=path, **more)


class Denied(ToolError):
    """Has a constructor that takes something else, and a private attribute."""

    code: int = 0
    _seen: int = PrivateAttr(default=0)

    def __init__(self, code: int) -> None:
        super().__init__(message=f"code {code}", brief="denied")


class Deeper(Denied):
    """Is a subclass of a subclass, with values inside."""

    cause: ToolReturnValue = ToolReturnValue(is_error=True)
    where: dict[str, list[int]] = {}

    @model_validator(mode="after")
    def check(self) -> "Deeper":
        if self.code < 0:
            raise ValueError("a code is 0 or more")
        return self


class Table(DisplayBlock):
    """A block of one's own."""

    type: str = "test_tool_values.table"
    rows: tuple[tuple[int, ...], ...]


texts = st.text(st.characters(codec="utf-8"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
open_data = st.dictionaries(texts.filter(lambda key: key not in ("type", "extra")), json_values, max_size=3)
extras = st.dictionaries(texts, json_values, max_size=2)
parts: st.SearchStrategy[ContentPart] = st.one_of(
    st.builds(lambda text, extra: TextPart(text=text, extra=extra), texts, extras),
    st.builds(lambda text: ThinkPart(think=text), texts),
    st.just(PICTURE),
    st.builds(lambda data: UnknownPart(type="nobody knows", data=data), open_data),
)
blocks: st.SearchStrategy[DisplayBlock] = st.one_of(
    st.builds(lambda text: BriefDisplayBlock(text=text), texts),
    st.builds(lambda data, extra: UnknownDisplayBlock(type="nobody knows", data=data, extra=extra), open_data, extras),
    st.builds(lambda rows: Table(rows=rows), st.lists(st.tuples(st.integers()), max_size=2)),
)
outputs = texts | st.lists(parts, max_size=3) | parts
fields = st.fixed_dictionaries(
    {},
    optional={
        "message": texts,
        "output": outputs,
        "display": st.lists(blocks, max_size=2),
        "extras": st.none() | extras,
        "extra": extras,
    },
)
begun: st.SearchStrategy[ToolReturnValue] = st.one_of(
    st.builds(lambda is_error: ToolReturnValue(is_error=is_error), st.booleans()),
    st.builds(lambda output: ToolOk(output=output), outputs),
    st.builds(lambda message, brief: ToolError(message=message, brief=brief), texts, texts),
    st.builds(lambda kind, text: kind(text), st.sampled_from([ToolNotFoundError, ToolParseError]), texts),
    st.builds(lambda kind, text: kind(text), st.sampled_from([ToolValidateError, ToolRuntimeError]), texts),
    st.builds(lambda text: ToolMessage(is_error=False, written=Message.assistant(text)), texts),
    st.builds(lambda path, sizes: Written(path, sizes=sizes), texts, st.lists(st.integers(), max_size=2)),
    st.integers().map(Denied),
    st.builds(lambda n, cause: Deeper(n).copy_with(code=abs(n), cause=cause), st.integers(), st.just(1).map(Denied)),
)
values: st.SearchStrategy[ToolReturnValue] = st.builds(lambda value, changes: value.copy_with(**changes), begun, fields)


def same(again: Any, value: ToolReturnValue) -> bool:
    return again == value and type(again) is type(value) and hash(again) == hash(value)


# ==== what survives ====


def without_values_inside(value: ToolReturnValue) -> bool:
    return not isinstance(value, Deeper) or type(value.cause) is ToolReturnValue


@settings(max_examples=60)
@given(values.filter(without_values_inside))
def test_a_value_survives_its_json_whoever_reads_it(value: ToolReturnValue) -> None:
    for kind in (ToolReturnValue, type(value)):
        assert same(kind.model_validate_json(value.model_dump_json()), value)
        assert same(kind.model_validate(value.model_dump()), value)
        assert same(kind.model_validate(json.loads(json.dumps(value.model_dump(mode="json")))), value)
    result = ToolResult(tool_call_id="c", return_value=value)
    again = ToolResult.model_validate_json(result.model_dump_json())
    assert again == result
    assert hash(again) == hash(result)
    assert same(again.return_value, value)
    assert again.model_dump_json() == result.model_dump_json()


@settings(max_examples=40)
@given(values)
def test_a_value_equals_its_copies_and_they_are_of_its_class(value: ToolReturnValue) -> None:
    copies = (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value)), value.copy_with())
    assert all(same(again, value) for again in (*copies, value.model_copy(deep=True)))
    changed = value.copy_with(message=value.message + "!")
    assert type(changed) is type(value)
    assert changed != value
    assert same(changed.copy_with(message=value.message), value)
    assert {value: 1}[value.copy_with()] == 1


@settings(max_examples=40)
@given(values)
def test_classes_do_not_tell_values_apart_but_fields_do(value: ToolReturnValue) -> None:
    base = ToolReturnValue(
        is_error=value.is_error,
        output=value.output,
        message=value.message,
        display=value.display,
        extras=value.extras,
        extra=value.extra,
    )
    assert (value == base) is (base == value) is (type(value).model_fields.keys() == base.__class__.model_fields.keys())
    assert hash(value) == hash(base)
    assert value != base.copy_with(is_error=not value.is_error)
    assert value != value.message


def test_equal_fields_are_equal_across_classes() -> None:
    assert ToolOk(output="5") == ToolReturnValue(is_error=False, output="5")
    assert ToolReturnValue(is_error=False, output="5") == ToolOk(output="5")
    assert ToolRuntimeError("x") == ToolError(message="Error running tool: x", brief="Tool runtime error")
    assert len({ToolOk(output="5"), ToolReturnValue(is_error=False, output="5")}) == 1
    assert ToolOk(output="5") != ToolOk(output="6")
    assert ToolOk(output="5") != ToolError(message="", brief="", output="5")
    assert Written("p") != ToolOk(output="wrote p")
    assert ToolOk(output="5", extra={"a": 1}) != ToolOk(output="5")
    assert ToolOk(output=TextPart(text="5")) == ToolOk(output=["5"])


def test_a_value_that_does_not_fit_its_class_is_refused() -> None:
    dumped = Deeper(1).model_dump(mode="json") | {"code": -1}
    with pytest.raises(ValidationError, match="0 or more"):
        ToolReturnValue.model_validate(dumped)


def test_a_subclass_is_read_by_any_of_its_bases() -> None:
    dumped = Deeper(1).model_dump_json()
    assert all(
        same(kind.model_validate_json(dumped), Deeper(1)) for kind in (ToolReturnValue, ToolError, Denied, Deeper)
    )


def test_a_class_is_not_read_as_its_sibling() -> None:
    dumped = ToolError(message="m", brief="").model_dump_json()
    with pytest.raises(ValueError):
        ToolOk.model_validate_json(dumped)


def test_a_union_of_classes_is_read_as_the_one_that_was_written() -> None:
    either: TypeAdapter[Any] = TypeAdapter(ToolOk | ToolError)
    assert type(either.validate_json(ToolError(message="m", brief="").model_dump_json())) is ToolError


class Holder(BaseModel):
    value: ToolReturnValue


def test_a_value_without_fields_of_its_own_survives_in_any_model() -> None:
    held = Holder(value=ToolRuntimeError("x"))
    again = Holder.model_validate_json(held.model_dump_json())
    assert same(again.value, held.value)


@pytest.mark.parametrize(
    "held",
    [Holder(value=Written("p")), Deeper(1).copy_with(cause=Written("p"))],
    ids=["model", "value"],
)
def test_a_value_inside_another_keeps_its_own_fields(held: BaseModel) -> None:
    assert type(held).model_validate_json(held.model_dump_json()) == held


class Aliased(ToolOk):
    """A field of it has another name in JSON."""

    kind: str = Field(default="k", alias="theKind")


def test_a_field_with_an_alias_survives() -> None:
    value = Aliased(output="x", theKind="z")
    assert value.copy_with(message="m").kind == "z"
    assert same(ToolReturnValue.model_validate_json(value.model_dump_json()), value)


def test_a_class_that_is_gone_becomes_a_name() -> None:
    def here() -> str:
        class Local(ToolOk):
            pages: int = 3

        value = Local(output="x")
        assert same(ToolReturnValue.model_validate_json(value.model_dump_json()), value)
        return value.model_dump_json()

    dumped = here()
    gc.collect()
    again = ToolReturnValue.model_validate_json(dumped)
    assert type(again) is ToolReturnValue
    assert json.loads(again.model_dump_json()) == json.loads(dumped)


FOREIGN: dict[str, Any] = {
    "class": "gone.Tool",
    "is_error": True,
    "output": [{"type": "hologram", "depth": [1, {"data": 2}]}, {"type": "text", "text": "t", "tone": "high"}],
    "message": "m",
    "display": [
        {"type": "weird", "data": {"data": {"x": 1}}, "extra": {"k": 1}},
        {"type": "brief", "text": "b", "colour": 1},
    ],
    "code": 5,
    "deep": {"list": [1, {"a": []}]},
}


def read_twice(read: Callable[[str], BaseModel], written: Any) -> tuple[BaseModel, Any, Any]:
    first = read(json.dumps(written))
    second = read(first.model_dump_json())
    assert first == second
    assert hash(first) == hash(second)
    return second, json.loads(first.model_dump_json()), json.loads(second.model_dump_json())


@pytest.mark.parametrize("kind", [ToolReturnValue, ToolError, ToolRuntimeError])
def test_an_unknown_class_and_unknown_types_survive_unchanged(kind: type[ToolReturnValue]) -> None:
    value, first, second = read_twice(kind.model_validate_json, FOREIGN)
    assert first == second == FOREIGN
    assert type(value) is kind
    assert value.copy_with(message="other").model_dump(mode="json") == FOREIGN | {"message": "other"}  # type: ignore[attr-defined]
    assert same(pickle.loads(pickle.dumps(value)), value)  # type: ignore[arg-type]


def test_an_unknown_class_survives_inside_a_result() -> None:
    written = {"tool_call_id": "c", "return_value": FOREIGN}
    _, first, second = read_twice(ToolResult.model_validate_json, written)
    assert first == second == written


def test_an_unknown_display_type_does_not_nest_deeper() -> None:
    block = {"type": "weird", "data": {"data": 1}, "more": [1]}
    written = {"is_error": False, "output": "", "message": "", "display": [block]}
    value, first, second = read_twice(ToolReturnValue.model_validate_json, written)
    assert first == second == written
    assert value.display[0].data == {"data": {"data": 1}, "more": (1,)}  # type: ignore[attr-defined]


def test_a_display_type_of_ones_own_is_known_by_its_name() -> None:
    value = ToolReturnValue(is_error=False, display=[Table(rows=[(1, 2)])])
    assert value.model_dump(mode="json")["display"] == [{"type": "test_tool_values.table", "rows": [[1, 2]]}]
    again = ToolReturnValue.model_validate_json(value.model_dump_json())
    assert type(again.display[0]) is Table


@pytest.mark.parametrize("display", [[{"text": "x"}], [{"type": 5}], ["text"], "text", [{"type": "brief"}]])
def test_a_display_that_is_none_is_refused(display: Any) -> None:
    with pytest.raises(ValidationError):
        ToolReturnValue(is_error=False, display=display)


def test_unknown_fields_are_refused_by_name_and_kept_in_files() -> None:
    written = {
        "is_error": False,
        "output": "",
        "message": "",
        "display": [{"type": "brief", "text": "b", "colour": 1}],
        "q": [1],
    }
    with pytest.raises(TypeError, match="colour"):
        ToolReturnValue.model_validate_json(json.dumps(written))
    with pytest.raises(TypeError, match="ToolOk has no field outptu"):
        ToolOk(output="", outptu="x")  # type: ignore[call-arg]
    value = ToolReturnValue.model_validate_json(json.dumps(written), context=KEEP_UNKNOWN)
    assert json.loads(value.model_dump_json()) == written
    assert value.copy_with(message="m").model_dump(mode="json") == written | {"message": "m"}


@pytest.mark.parametrize("brief", ["short", {"a": 1}])
def test_a_brief_of_an_unknown_class_is_a_field_like_any_other(brief: Any) -> None:
    _, first, _ = read_twice(ToolReturnValue.model_validate_json, FOREIGN | {"brief": brief})
    assert first == FOREIGN | {"brief": brief}


# ==== making them ====


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("x", "x"),
        ("", ""),
        (PICTURE, (PICTURE,)),
        ([PICTURE, "x"], (PICTURE, TextPart(text="x"))),
        ((), ()),
        ([{"type": "text", "text": "x"}], (TextPart(text="x"),)),
    ],
)
def test_output_is_text_or_parts(given: Any, kept: Any) -> None:
    assert ToolOk(output=given).output == kept
    assert ToolError(message="m", brief="", output=given).output == kept
    assert ToolReturnValue(is_error=False, output=given).output == kept


@pytest.mark.parametrize("output", [None, 5, ["a", 5], [None], b"x", {"type": "text", "text": "x"}, [["a"]]])
def test_output_of_another_kind_is_refused(output: Any) -> None:
    with pytest.raises(ValidationError):
        ToolOk(output=output)


@pytest.mark.parametrize(
    ("make", "is_error", "brief"),
    [
        (lambda brief: ToolOk(output="x", brief=brief), False, "line"),
        (lambda brief: ToolError(message="x", brief=brief), True, "line"),
    ],
)
def test_a_brief_is_a_display_of_one_line(make: Callable[[str], ToolReturnValue], is_error: bool, brief: str) -> None:
    value = make(brief)
    assert (value.is_error, value.brief, value.display) == (is_error, brief, (BriefDisplayBlock(text=brief),))
    assert (make("").display, make("").brief) == ((), "")


def test_the_brief_is_the_first_one_line_block() -> None:
    blocks = [UnknownDisplayBlock(type="w", data={}), BriefDisplayBlock(text="a"), BriefDisplayBlock(text="b")]
    assert ToolReturnValue(is_error=False, display=blocks).brief == "a"


@pytest.mark.parametrize(
    ("kind", "message", "brief"),
    [
        (ToolNotFoundError, "Tool `x` not found", "Tool `x` not found"),
        (ToolParseError, "Error parsing JSON arguments: x", "Invalid arguments"),
        (ToolValidateError, "Error validating JSON arguments: x", "Invalid arguments"),
        (ToolRuntimeError, "Error running tool: x", "Tool runtime error"),
    ],
)
def test_the_four_errors_are_made_of_one_text(kind: Any, message: str, brief: str) -> None:
    value = kind("x")
    assert isinstance(value, ToolError)
    assert not isinstance(value, Exception)
    assert (value.is_error, value.message, value.brief, value.output) == (True, message, brief, "")
    with pytest.raises(TypeError):
        kind()


def test_values_are_frozen_to_the_bottom() -> None:
    value = ToolOk(output=["a"], brief="b").copy_with(extras={"list": [1, {"a": []}]})
    for field in type(value).model_fields:
        with pytest.raises(ValidationError):
            setattr(value, field, None)
    assert value.extras == {"list": (1, {"a": ()})}
    with pytest.raises(TypeError):
        value.extras["list"][1]["a"] = 1  # type: ignore[index]


@pytest.mark.parametrize("changes", [{"outptu": 1}, {"brief": "b"}, {"class": "x"}])
def test_a_copy_has_no_other_fields(changes: Any) -> None:
    with pytest.raises(TypeError, match=f"has no field {next(iter(changes))}"):
        Written("p").copy_with(**changes)


@pytest.mark.parametrize("changes", [{"output": 5}, {"display": ["x"]}, {"path": None}])
def test_a_copy_is_checked_like_any_other_value(changes: Any) -> None:
    with pytest.raises(ValidationError):
        Written("p").copy_with(**changes)


def test_a_brief_beside_a_display_loses_nothing() -> None:
    block = UnknownDisplayBlock(type="w", data={})
    value = ToolOk.model_validate({"output": "x", "brief": "b", "display": [block]})
    assert block in value.display


def test_the_fields_of_a_dump_passed_by_name_give_the_value() -> None:
    dumped: Any = ToolOk(output="x").model_dump()
    assert ToolOk(**dumped) == ToolOk(output="x")


# ==== names and fields ====

SDK_NAMES = [
    "Kimi",
    "KimiFiles",
    "KimiStreamedMessage",
    "StreamedMessagePart",
    "ThinkingEffort",
    "APIConnectionError",
    "APIEmptyResponseError",
    "APIStatusError",
    "APITimeoutError",
    "ChatProviderError",
    "Message",
    "Role",
    "ContentPart",
    "TextPart",
    "ThinkPart",
    "ImageURLPart",
    "AudioURLPart",
    "VideoURLPart",
    "ToolCall",
    "ToolCallPart",
    "Tool",
    "CallableTool",
    "CallableTool2",
    "Toolset",
    "SimpleToolset",
    "ToolReturnValue",
    "ToolOk",
    "ToolError",
    "ToolResult",
    "ToolResultFuture",
    "DisplayBlock",
    "BriefDisplayBlock",
    "UnknownDisplayBlock",
    "generate",
    "step",
    "GenerateResult",
    "StepResult",
    "TokenUsage",
]
MORE_NAMES = [
    "ChatProvider",
    "StreamedMessage",
    "EmptyToolset",
    "HandleResult",
    "ToolNotFoundError",
    "ToolParseError",
    "ToolValidateError",
    "ToolRuntimeError",
    "tool_result_to_message",
]


def test_the_sdk_has_thirty_eight_names() -> None:
    assert len(set(SDK_NAMES)) == 38


def test_every_name_is_public() -> None:
    assert {*SDK_NAMES, *MORE_NAMES} <= set(kimi_agent.__all__)
    assert all(getattr(kimi_agent, name) is not None for name in SDK_NAMES + MORE_NAMES)


REQUIRED = object()
VALUE_FIELDS: dict[str, dict[str, Any]] = {
    "Tool": {"name": REQUIRED, "description": REQUIRED, "parameters": REQUIRED},
    "ToolReturnValue": {"is_error": REQUIRED, "output": "", "message": "", "display": (), "extras": None},
    "ToolResult": {"tool_call_id": REQUIRED, "return_value": REQUIRED},
    "BriefDisplayBlock": {"type": "brief", "text": REQUIRED},
    "UnknownDisplayBlock": {"type": REQUIRED, "data": REQUIRED},
    "TextPart": {"type": "text", "text": REQUIRED},
    "ThinkPart": {"type": "think", "think": REQUIRED, "encrypted": None},
    "ImageURLPart": {"type": "image_url", "image_url": REQUIRED},
    "AudioURLPart": {"type": "audio_url", "audio_url": REQUIRED},
    "VideoURLPart": {"type": "video_url", "video_url": REQUIRED},
    "ImageURLPart.ImageURL": {"url": REQUIRED, "id": None},
    "AudioURLPart.AudioURL": {"url": REQUIRED, "id": None},
    "VideoURLPart.VideoURL": {"url": REQUIRED, "id": None},
    "ToolCall": {"type": "function", "id": REQUIRED, "function": REQUIRED, "extras": None},
    "ToolCall.FunctionBody": {"name": REQUIRED},
    "ToolCallPart": {"arguments_part": None},
    "Message": {
        "role": REQUIRED,
        "content": (),
        "name": None,
        "tool_calls": None,
        "tool_call_id": None,
        "partial": None,
    },
    "TokenUsage": {"input_other": REQUIRED, "output": REQUIRED, "input_cache_read": 0, "input_cache_creation": 0},
}
NO_DEFAULT = inspect.Parameter.empty
PARAMETERS: dict[str, dict[str, Any]] = {
    "generate": {
        "provider": NO_DEFAULT,
        "system_prompt": NO_DEFAULT,
        "tools": NO_DEFAULT,
        "history": NO_DEFAULT,
        "on_message_part": None,
        "on_tool_call": None,
        "on_trace_id": None,
    },
    "step": {
        "provider": NO_DEFAULT,
        "system_prompt": NO_DEFAULT,
        "toolset": NO_DEFAULT,
        "history": NO_DEFAULT,
        "on_message_part": None,
        "on_tool_result": None,
        "on_trace_id": None,
    },
    "GenerateResult": {"id": NO_DEFAULT, "message": NO_DEFAULT, "usage": NO_DEFAULT, "trace_id": None},
    "StepResult": {
        "id": NO_DEFAULT,
        "message": NO_DEFAULT,
        "usage": NO_DEFAULT,
        "tool_calls": NO_DEFAULT,
        "trace_id": None,
    },
    "SimpleToolset": {"tools": None},
    "EmptyToolset": {},
    "Toolset.handle": {"tool_call": NO_DEFAULT},
    "SimpleToolset.handle": {"tool_call": NO_DEFAULT},
    "SimpleToolset.add": {"tool": NO_DEFAULT},
    "SimpleToolset.remove": {"tool_name": NO_DEFAULT},
    "CallableTool.call": {"arguments": NO_DEFAULT},
    "CallableTool2.call": {"arguments": NO_DEFAULT},
    "CallableTool2": {"name": None, "description": None, "params": None},
    "ToolNotFoundError": {"tool_name": NO_DEFAULT},
    "ToolParseError": {"message": NO_DEFAULT},
    "ToolValidateError": {"message": NO_DEFAULT},
    "ToolRuntimeError": {"message": NO_DEFAULT},
    "tool_result_to_message": {"result": NO_DEFAULT},
    "APIStatusError": {"status_code": NO_DEFAULT, "message": NO_DEFAULT, "request_id": None, "trace_id": None},
    "Kimi": {"api_key": None, "base_url": None, "stream": True},
    "Kimi.generate": {
        "system_prompt": NO_DEFAULT,
        "tools": NO_DEFAULT,
        "history": NO_DEFAULT,
        "generation_overrides": None,
    },
    "Kimi.with_thinking": {"effort": NO_DEFAULT},
    "Kimi.with_extra_body": {"extra_body": NO_DEFAULT},
    "KimiFiles.upload_video": {"data": None, "mime_type": None},
}
KEYWORD_ONLY = {
    "on_message_part",
    "on_tool_call",
    "on_tool_result",
    "on_trace_id",
    "generation_overrides",
    "request_id",
}


def public(path: str) -> Any:
    found: Any = kimi_agent
    for name in path.split("."):
        found = getattr(found, name)
    return found


def missing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What of `wanted` is not found, or with another default."""
    return {name: found.get(name) for name in wanted if name not in found or found[name] != wanted[name]}


@pytest.mark.parametrize("path", VALUE_FIELDS)
def test_a_value_has_its_fields_and_defaults(path: str) -> None:
    fields = public(path).model_fields
    found = {name: REQUIRED if field.is_required() else field.default for name, field in fields.items()}
    assert missing(found, VALUE_FIELDS[path]) == {}
    added = found.keys() - VALUE_FIELDS[path].keys()
    assert all(found[name] is not REQUIRED for name in added)


@pytest.mark.parametrize("path", PARAMETERS)
def test_a_callable_has_its_parameters_and_defaults(path: str) -> None:
    parameters = inspect.signature(public(path)).parameters
    found = {name: parameter.default for name, parameter in parameters.items()}
    assert missing(found, PARAMETERS[path]) == {}
    added = found.keys() - PARAMETERS[path].keys() - {"self", "_results"}
    assert all(found[name] is not NO_DEFAULT for name in added)
    named = [parameters[name] for name in KEYWORD_ONLY & parameters.keys()]
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in named)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: ToolOk(output="o", message="m", brief="b"), (False, "o", "m", "b")),
        (lambda: ToolError(message="m", brief="b", output="o"), (True, "o", "m", "b")),
        (lambda: ToolOk(output="o"), (False, "o", "", "")),
        (lambda: ToolError(message="m", brief="b"), (True, "", "m", "b")),
    ],
)
def test_ok_and_error_take_their_keywords(make: Callable[[], ToolReturnValue], expected: Any) -> None:
    value = make()
    assert (value.is_error, value.output, value.message, value.brief) == expected


def test_the_efforts_and_roles_are_those_of_the_sdk() -> None:
    assert {"off", "low", "medium", "high", "xhigh", "max"} <= set(typing.get_args(kimi_agent.ThinkingEffort))
    assert set(typing.get_args(kimi_agent.Role)) == {"system", "user", "assistant", "tool"}


def test_a_kimi_has_the_attributes_of_the_sdk() -> None:
    kimi = kimi_agent.Kimi("kimi-k3", api_key="sk-none")
    assert (kimi.name, kimi.model_name, kimi.stream) == ("kimi", "kimi-k3", True)
    for name in [
        "thinking_effort",
        "files",
        "model_parameters",
        "generate",
        "with_thinking",
        "with_generation_kwargs",
        "with_extra_body",
    ]:
        assert hasattr(kimi, name)


def test_usage_has_its_sums() -> None:
    usage = kimi_agent.TokenUsage(input_other=1, output=2, input_cache_read=3, input_cache_creation=4)
    assert (usage.input, usage.total) == (8, 10)


# ==== fields that a class works out, or cannot have ====


class Measured(ToolReturnValue):
    path: str = ""

    @computed_field
    @property
    def length(self) -> int:
        return len(self.path)


class Log(BaseModel):
    value: ToolReturnValue
    more: list[ToolReturnValue] = []


@pytest.mark.parametrize("options", [{}, {"exclude_none": True}, {"exclude_unset": True}, {"by_alias": True}])
def test_a_container_keeps_the_class_and_its_fields(options: dict[str, Any]) -> None:
    value = Measured(is_error=False, output="x", path="abc")  # type: ignore[call-arg]
    log = Log(value=value, more=[value, ToolOk(output="y")])
    again = Log.model_validate_json(log.model_dump_json(**options))
    assert again == log
    assert [type(item) for item in (again.value, *again.more)] == [Measured, Measured, ToolOk]


@pytest.mark.filterwarnings("ignore:Field name .brief.")
@pytest.mark.parametrize("field", [{"brief": (str, "")}, {"kind": (str, Field("", alias="class"))}])
def test_a_field_that_means_something_else_in_a_result_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="cannot have a field"):
        create_model("Odd", __base__=ToolReturnValue, **field)


@pytest.mark.parametrize(
    "make", [lambda: ToolOk(), lambda: ToolError(brief="b"), lambda: ToolOk(output="x", is_error=True)]
)  # type: ignore[call-arg]
def test_a_result_is_what_its_class_says(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError):
        make()


def test_help_tells_the_fields_of_a_value() -> None:
    assert {"is_error", "output", "message"} <= inspect.signature(ToolOk).parameters.keys()
    assert list(inspect.signature(ToolNotFoundError).parameters) == ["tool_name"]

"""Tools that are classes: what they take, what they refuse, and what becomes of what they raise."""

import asyncio
import contextvars
import copy
import functools
import pickle
import socket
import sys
import threading
import types
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Generic, Optional, TypeVar, Union

import pytest
from naming import without_address
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator
from typing_extensions import TypeAliasType

from kimi_agent import (
    AIFunction,
    CallableTool,
    CallableTool2,
    ContentPart,
    FunctionSpecError,
    Message,
    ModelRetry,
    SimpleToolset,
    TextPart,
    Tool,
    ToolArgumentsError,
    ToolCall,
    ToolError,
    ToolOk,
    ToolParseError,
    ToolResult,
    ToolReturnValue,
    ToolRuntimeError,
    ToolValidateError,
    WrappedCallException,
)

SHORT = 1000
"""Characters that an error about one argument may have."""
HUGE = "x" * 1_000_000


class Echo(CallableTool):
    """Tells how it was called."""

    name: str = "echo"
    description: str = "Tell the arguments."
    parameters: dict[str, Any] = {}

    async def __call__(self, *args: Any, **kwargs: Any) -> ToolReturnValue:
        return ToolOk(output=repr((args, kwargs)))


def echo(**parameters: Any) -> Echo:
    return Echo(parameters=parameters)


def taking(**properties: Any) -> Echo:
    return echo(type="object", properties=properties)


class Params(BaseModel):
    a: int
    b: Annotated[int, Field(description="the second")] = 1


class Add(CallableTool2[Params]):
    """Adds."""

    name: str = "add"
    description: str = "Add two integers."
    params: type[Params] = Params

    async def __call__(self, params: Params) -> ToolReturnValue:
        return ToolOk(output=str(params.a + params.b))


def two(model: type[BaseModel], **attributes: Any) -> CallableTool2[Any]:
    """A tool that answers with the repr of its arguments."""

    async def run(self: Any, params: BaseModel) -> ToolReturnValue:
        return ToolOk(output=repr(params))

    body = {"name": "two", "description": "d", "params": model, "__call__": run, **attributes}
    return types.new_class("Two", (CallableTool2,), exec_body=lambda namespace: namespace.update(body))()


def schema_of(params: type[BaseModel]) -> Any:
    return two(params).base.model_dump(mode="json")["parameters"]


# ==== CallableTool: arguments ====


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (1, ((1,), {})),
        ("x", (("x",), {})),
        (None, ((None,), {})),
        (0.5, ((0.5,), {})),
        ([1, [2]], ((1, [2]), {})),
        ([], ((), {})),
        ({"a": 1, "b": {"c": 2}}, ((), {"a": 1, "b": {"c": 2}})),
        ({}, ((), {})),
        (
            {"function": 1, "in_thread": 2, "args": 3, "texts": 4},
            ((), {"function": 1, "in_thread": 2, "args": 3, "texts": 4}),
        ),
        ({"not a name": 1, "": 2}, ((), {"not a name": 1, "": 2})),
    ],
)
async def test_objects_go_by_name_arrays_by_position_and_the_rest_as_one(arguments: Any, seen: Any) -> None:
    assert (await Echo().call(arguments)).output == repr(seen)


@pytest.mark.parametrize("in_thread", [True, False])
async def test_an_argument_may_be_called_self(in_thread: bool) -> None:
    class Waits(Echo):
        async def __call__(self, /, **kwargs: Any) -> ToolReturnValue:
            return ToolOk(output=repr(kwargs))

    class Blocks(Echo):
        def __call__(self, /, **kwargs: Any) -> ToolReturnValue:
            return ToolOk(output=repr(kwargs))

    tool = Blocks() if in_thread else Waits()
    assert (await tool.call({"self": 1})).output == "{'self': 1}"


TREE = {
    "$ref": "#/$defs/tree",
    "$defs": {
        "tree": {
            "type": "object",
            "required": ["value"],
            "properties": {"value": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
        }
    },
}


@pytest.mark.parametrize(
    ("schema", "good", "bad", "said"),
    [
        ({"type": "object", "required": ["a"]}, {"a": 1}, {}, "a"),
        (
            {"properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}},
            {"a": 1},
            {"a": "x"},
            "a: ",
        ),
        ({"properties": {"a": {"$ref": "#/$defs/x~1y"}}, "$defs": {"x/y": {"enum": [1]}}}, {"a": 1}, {"a": 2}, "a: "),
        (TREE, {"value": 1, "kids": [{"value": 2}]}, {"value": 1, "kids": [{"value": "x"}]}, "kids[0].value: "),
        ({"properties": {"kid": {"$ref": "#"}, "n": {"type": "null"}}}, {"kid": {}}, {"kid": {"n": 1}}, "kid.n: "),
        ({"type": "array", "prefixItems": [{"type": "integer"}]}, [1], ["x"], "[0]: "),
        ({"type": "integer"}, 3, "x", "integer"),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "definitions": {"n": {"type": "integer"}},
                "properties": {
                    "a": {"$ref": "#/definitions/n"},
                    "pair": {"items": [{"type": "integer"}, {"const": 2}]},
                },
            },
            {"a": 1, "pair": [1, 2]},
            {"a": 1, "pair": [1, 3]},
            "pair[1]: ",
        ),
        ({"$schema": "http://example.com/nobody-knows", "type": "object"}, {}, 1, "object"),
    ],
)
async def test_arguments_are_checked_against_the_schema(schema: Any, good: Any, bad: Any, said: str) -> None:
    tool = echo(**schema)
    assert isinstance(await tool.call(good), ToolOk)
    refused = await tool.call(bad)
    assert type(refused) is ToolValidateError
    assert said in refused.message


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What somebody tried to connect to, or to look up."""
    tried: list[Any] = []

    def refuse(*args: Any, **_: Any) -> Any:
        tried.append(args)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return tried


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.json", "https://schemas.invalid/x", "file:///etc/hostname"])
async def test_a_remote_reference_is_never_fetched(url: str, connections: list[Any]) -> None:
    tool = taking(a={"$ref": url})
    assert (await tool.call({"a": 1})).is_error
    assert connections == []


BAD_DEFINITIONS: dict[str, Callable[[], Any]] = {
    "no such type": lambda: taking(a={"type": "nonsense"}),
    "a type that is a number": lambda: taking(a={"type": 17}),
    "a pattern that is none": lambda: taking(a={"pattern": "("}),
    "no JSON": lambda: taking(a={"const": object()}),
    "a lone surrogate": lambda: taking(a={"description": "\ud800"}),
    "a schema that is a list": lambda: Echo(parameters=[1]),  # type: ignore[arg-type]
    "no name": lambda: Echo(name=""),
}


@pytest.mark.parametrize("make", BAD_DEFINITIONS.values(), ids=BAD_DEFINITIONS)
def test_a_bad_definition_is_refused_when_the_tool_is_made(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize("make", BAD_DEFINITIONS.values(), ids=BAD_DEFINITIONS)
def test_a_bad_definition_is_a_spec_error_that_names_the_tool(make: Callable[[], Any]) -> None:
    with pytest.raises(FunctionSpecError, match=r"(?i)echo") as caught:
        make()
    assert "pydantic.dev" not in str(caught.value)


def test_a_dialect_that_is_no_text_is_a_spec_error() -> None:
    with pytest.raises(ValueError):
        Echo(parameters={"$schema": 5})


async def test_a_reference_to_nowhere_is_told_in_short() -> None:
    value = await taking(a={"$ref": "#/$defs/nowhere"}, b={"description": HUGE[:10_000]}).call({"a": 1})
    assert value.is_error
    assert len(value.message) < SHORT


@pytest.mark.parametrize(
    "arguments",
    [{"a": HUGE}, {"a": [HUGE]}, {"a": {HUGE: HUGE}}, {"a": list(range(100_000))}, HUGE, [HUGE]],
    ids=["text", "array", "object", "numbers", "alone", "by position"],
)
@pytest.mark.parametrize(
    "tool", [echo(type="object", properties={"a": {"type": "integer"}}), Add()], ids=["raw", "model"]
)
async def test_an_error_about_a_huge_value_is_short(tool: Any, arguments: Any) -> None:
    value = await tool.call(arguments)
    assert type(value) is ToolValidateError
    assert len(value.message) < SHORT


async def test_an_error_about_very_many_problems_is_short() -> None:
    tool = echo(additionalProperties={"type": "integer"})
    value = await tool.call({f"key{number}": "x" * 300 for number in range(1000)})
    assert type(value) is ToolValidateError
    assert len(value.message.splitlines()) <= 21
    assert len(value.message) < 10 * SHORT


class Counts(BaseModel):
    counts: dict[str, int]


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    a: int = 0


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        (echo(additionalProperties={"type": "integer"}), {HUGE: "x"}),
        (two(Counts), {"counts": {HUGE: "x"}}),
        (two(Closed), {HUGE: 1}),
    ],
    ids=["raw", "model", "forbidden"],
)
async def test_an_error_about_a_huge_key_is_short(tool: Any, arguments: Any) -> None:
    value = await tool.call(arguments)
    assert type(value) is ToolValidateError
    assert len(value.message) < SHORT


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


LISTS = {"properties": {"a": {"$ref": "#/$defs/l"}}, "$defs": {"l": {"type": "array", "items": {"$ref": "#/$defs/l"}}}}


@pytest.mark.parametrize("schema", [LISTS, {"properties": {"a": {"type": "integer"}}}, {"$ref": "#"}])
async def test_arguments_too_deep_to_be_checked_are_an_error(schema: Any) -> None:
    value = await echo(**schema).call({"a": nested(3000)})
    assert value.is_error
    assert len(value.message) < SHORT


async def test_arguments_too_deep_to_be_checked_are_no_fault_of_the_tool() -> None:
    assert not isinstance(await echo(**LISTS).call({"a": nested(3000)}), ToolRuntimeError)


@pytest.mark.parametrize("text", ["\ud800", "\x00\x1b[31m", "\u2028", "😀"])
async def test_any_text_is_an_argument(text: str) -> None:
    assert (await taking(a={"type": "string"}).call({"a": text})).output == repr(((), {"a": text}))
    refused = await taking(a={"type": "integer"}).call({"a": text})
    assert type(refused) is ToolValidateError


def handled(tool: Any, arguments: str) -> Any:
    call = ToolCall(id="c", function=ToolCall.FunctionBody(name=tool.base.name, arguments=arguments))
    return SimpleToolset([tool]).handle(call)


@pytest.mark.parametrize("arguments", ["[" * 100_000, '{"a":' + "[" * 100_000, "{", '{"a":1}{"a":2}', "nonsense"])
@pytest.mark.parametrize("tool", [Echo(), Add()], ids=["raw", "model"])
def test_arguments_that_are_no_json_are_an_error_at_once(tool: Any, arguments: str) -> None:
    result = handled(tool, arguments)
    assert isinstance(result, ToolResult)
    assert type(result.return_value) is ToolParseError
    assert len(result.return_value.message) < SHORT


@pytest.mark.parametrize("arguments", ['{"a": "\x01\t\n"}', '{"a": "\\ud800"}'])
async def test_control_characters_and_lone_surrogates_in_the_json_are_let_through(arguments: str) -> None:
    result = await handled(taking(a={"type": "string"}), arguments)
    assert isinstance(result.return_value, ToolOk)


@pytest.mark.parametrize("arguments", ["", "  ", "null", "{}"])
async def test_nothing_and_null_are_no_arguments(arguments: str) -> None:
    assert (await handled(Echo(), arguments)).return_value.output == "((), {})"


# ==== CallableTool: the tool itself ====


def test_a_tool_is_its_own_definition() -> None:
    tool = taking(a={"type": "integer"})
    assert tool.base == Tool(name="echo", description="Tell the arguments.", parameters=tool.parameters)
    assert type(tool.base) is Tool
    assert tool.base is tool.base


def test_the_constructor_beats_the_class() -> None:
    tool = Echo(name="other", description="Other.", parameters={"type": "object"})
    assert tool.base == Tool(name="other", description="Other.", parameters={"type": "object"})


class Owned(Echo):
    """Has a constructor of its own."""

    _owner: str = PrivateAttr()
    _late: ClassVar[str] = "late"

    def __init__(self, owner: str) -> None:
        super().__init__(description=f"Belongs to {owner}.")
        self._owner = owner

    async def __call__(self, *args: Any, **kwargs: Any) -> ToolReturnValue:
        return ToolOk(output=self._owner)


class Undeclared(Echo):
    """Has an attribute that nobody declared."""

    def __init__(self, owner: str) -> None:
        super().__init__()
        self._whose = owner

    def __call__(self, *args: Any, **kwargs: Any) -> ToolReturnValue:
        return ToolOk(output=self._whose)


@pytest.mark.parametrize("make", [Owned, Undeclared])
async def test_a_constructor_of_ones_own_and_private_attributes_work(make: Any) -> None:
    tools = make("me"), copy.copy(make("me")), copy.deepcopy(make("me")), pickle.loads(pickle.dumps(make("me")))
    assert [(await tool.call({})).output for tool in tools] == ["me"] * 4
    assert (await make("you").call({})).output == "you"


def test_a_tool_without_call_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="__call__"):
        CallableTool(name="none", description="d", parameters={})  # type: ignore[abstract]
    with pytest.raises(TypeError, match="__call__"):
        CallableTool2(name="none", description="d", params=Params)  # type: ignore[abstract]


# ==== CallableTool2 ====


async def test_a_model_describes_and_checks_the_arguments() -> None:
    assert Add().base == Tool(
        name="add",
        description="Add two integers.",
        parameters={
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "b": {"type": "integer", "default": 1, "description": "the second"},
            },
            "required": ["a"],
        },
    )
    assert Add().base is not Add().base
    assert (await Add().call({"a": 1, "b": 2})).output == "3"
    assert (await Add().call({"a": "7"})).output == "8"
    assert (await Add().call({"a": 1, "unknown": 2})).output == "2"


@pytest.mark.parametrize("arguments", [{}, None, [], [1], 1, "x", {"a": None}, {"a": "x"}, {"a": []}])
async def test_what_does_not_fit_the_model_is_an_error_that_says_where(arguments: Any) -> None:
    value = await Add().call(arguments)
    assert type(value) is ToolValidateError
    assert value.brief == "Invalid arguments"
    assert "pydantic" not in value.message
    assert value.message.startswith(
        ("Error validating JSON arguments: a:", "Error validating JSON arguments: arguments:")
    )


class Inner(BaseModel):
    """Inside."""

    n: int


class Outer(BaseModel):
    inner: Inner = Field(description="the one inside")
    many: list[Inner] = []
    kind: str = Field(default="k", alias="type", description="its kind")


class Node(BaseModel):
    value: int
    kids: list["Node"] = []


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    item: T


async def test_an_alias_is_the_name_for_the_model() -> None:
    assert set(schema_of(Outer)["properties"]) == {"inner", "many", "type"}
    value = await two(Outer).call({"inner": {"n": 1}, "type": "z"})
    assert value.output == "Outer(inner=Inner(n=1), many=[], kind='z')"


def test_the_description_of_a_field_survives_its_model() -> None:
    schema = schema_of(Outer)
    assert schema["properties"]["inner"]["description"] == "the one inside"
    assert schema["properties"]["type"]["description"] == "its kind"
    assert schema["required"] == ["inner"]


@pytest.mark.parametrize(
    ("model", "good", "bad", "where"),
    [
        (Outer, {"inner": {"n": 1}}, {"inner": {"n": 1}, "many": [{"n": 2}, {}]}, "many[1].n: missing"),
        (Node, {"value": 1, "kids": [{"value": 2}]}, {"value": 1, "kids": [{"value": "x"}]}, "kids[0].value: "),
        (Box[int], {"item": 1}, {"item": "x"}, "item: "),
        (Box[Inner], {"item": {"n": 1}}, {"item": {}}, "item.n: missing"),
        (Box[list[int]], {"item": [1]}, {"item": 1}, "item: "),
        (Closed, {"a": 1}, {"a": 1, "z": 2}, "z: unexpected; the parameters are: a"),
    ],
)
async def test_any_model_works(model: type[BaseModel], good: Any, bad: Any, where: str) -> None:
    tool = two(model)
    assert isinstance(await tool.call(good), ToolOk)
    assert where in (await tool.call(bad)).message


def test_titles_that_pydantic_makes_up_are_left_out() -> None:
    assert all("title" not in repr(schema_of(model)) for model in (Outer, Node, Box[int], Closed))


def test_a_closed_model_says_so() -> None:
    assert schema_of(Closed)["additionalProperties"] is False


class Checked(BaseModel):
    a: Any

    @field_validator("a")
    @classmethod
    def check(cls, value: Any) -> Any:
        raise value


@pytest.mark.parametrize("error", [ValueError(""), ValueError("too small"), AssertionError("no")])
async def test_what_a_validator_refuses_does_not_fit(error: Exception) -> None:
    value = await two(Checked).call({"a": error})
    assert type(value) is ToolValidateError
    assert str(error) in value.message


@pytest.mark.parametrize("error", [KeyError("k"), RuntimeError(), SystemExit(3), asyncio.CancelledError()])
async def test_a_validator_that_breaks_is_an_error_of_the_call(error: BaseException) -> None:
    value = await two(Checked).call({"a": error})
    assert type(value) is ToolRuntimeError
    assert type(error).__name__ in value.message


@pytest.mark.parametrize("field", ["name", "description", "params"])
@pytest.mark.parametrize("value", ["", None])
def test_what_is_missing_or_empty_is_named(field: str, value: Any) -> None:
    with pytest.raises(FunctionSpecError, match=f"Two has no {field}"):
        two(Params, **{field: value})


@pytest.mark.parametrize("given", [{"name": 5}, {"description": b"d"}, {"params": int}, {"params": Params(a=1)}])
def test_what_is_of_another_type_is_refused(given: Any) -> None:
    with pytest.raises(FunctionSpecError, match=f"Add: .*{next(iter(given))}") as caught:
        Add(**given)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)


def test_an_empty_text_given_is_not_that_of_the_class() -> None:
    with pytest.raises(FunctionSpecError):
        Add(name="")


def test_a_class_that_says_nothing_can_be_told_everything() -> None:
    class Bare(CallableTool2[Params]):
        async def __call__(self, params: Params) -> ToolReturnValue:
            return ToolOk(output="")

    assert Bare("bare", "Does nothing.", Params).base.name == "bare"
    with pytest.raises(FunctionSpecError, match="Bare has no name"):
        Bare()


def test_a_model_that_cannot_be_described_is_named() -> None:
    class Odd(BaseModel):
        run: Callable[[], None]

    with pytest.raises(FunctionSpecError, match="Odd"):
        two(Odd)


async def test_a_model_tool_has_a_constructor_of_its_own() -> None:
    class Ours(Add):
        def __init__(self, owner: str) -> None:
            super().__init__(description=f"Belongs to {owner}.")
            self._owner = owner

        def __call__(self, params: Params) -> ToolReturnValue:  # type: ignore[override]
            return ToolOk(output=self._owner)

    assert Ours("me").base.description == "Belongs to me."
    assert (await Ours("me").call({"a": 1})).output == "me"
    assert (await copy.deepcopy(Ours("me")).call({"a": 1})).output == "me"
    assert (await pickle.loads(pickle.dumps(Add())).call({"a": 1})).output == "2"


# ==== running ====

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


@pytest.mark.parametrize("kind", [CallableTool, CallableTool2])
async def test_blocking_tools_run_in_a_thread_with_the_context_of_the_caller(kind: type) -> None:
    def where(self: Any, params: Any = None) -> ToolReturnValue:
        return ToolOk(output=f"{threading.current_thread() is threading.main_thread()} {VARIABLE.get()}")

    async def here(self: Any, params: Any = None) -> ToolReturnValue:
        return where(self)

    VARIABLE.set("mine")
    for run, on_the_loop in ((where, False), (here, True)):
        tool = two(Params, __call__=run) if kind is CallableTool2 else type("Where", (Echo,), {"__call__": run})()
        assert (await tool.call({"a": 1} if kind is CallableTool2 else [])).output == f"{on_the_loop} mine"
        assert tool.in_thread is not on_the_loop


async def test_the_loop_goes_on_while_a_tool_blocks() -> None:
    gate = threading.Event()

    def wait(self: Any, params: Any) -> ToolReturnValue:
        return ToolOk(output=str(gate.wait(5)))

    running = asyncio.ensure_future(two(Params, __call__=wait).call({"a": 1}))
    await asyncio.sleep(0)
    gate.set()
    assert (await running).output == "True"


async def test_a_plain_method_may_return_an_awaitable() -> None:
    def later(self: Any, params: Params) -> Any:
        return Add()(params)

    assert (await two(Params, __call__=later).call({"a": 1})).output == "2"


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def raising(error: BaseException, in_thread: bool) -> CallableTool2[Any]:
    def now(self: Any, params: Any) -> ToolReturnValue:
        raise error

    async def later(self: Any, params: Any) -> ToolReturnValue:
        raise error

    return two(Params, __call__=now if in_thread else later)


@pytest.mark.parametrize("in_thread", [True, False])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("too big"), "ValueError: too big"),
        (ValueError(), "ValueError"),
        (ValueError(""), "ValueError"),
        (TimeoutError(), "TimeoutError"),
        (KeyError("k"), "KeyError: 'k'"),
        (asyncio.CancelledError(), "CancelledError"),
        (asyncio.CancelledError("mine"), "CancelledError: mine"),
        (SystemExit(1), "SystemExit: 1"),
        (RecursionError(), "RecursionError"),
        (BaseExceptionGroup("both", [SystemExit(1)]), "both"),
        (Unreadable(), "Unreadable"),
        (StopIteration(1), "StopIteration"),
        (StopAsyncIteration(), "StopAsyncIteration"),
        (ValueError("\ud800"), "ValueError: \ud800"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
async def test_whatever_a_tool_raises_is_a_value_with_its_class(
    error: BaseException, said: str, in_thread: bool
) -> None:
    value = await raising(error, in_thread).call({"a": 1})
    assert type(value) is ToolRuntimeError
    assert value.message.startswith("Error running tool: ")
    assert said in value.message
    assert value.message != "Error running tool: "


async def test_a_tool_may_ask_for_another_try_in_its_own_words() -> None:
    value = await raising(ModelRetry("Use a smaller number."), False).call({"a": 1})
    assert type(value) is ToolError
    assert value.message == "Use a smaller number."


async def test_invoke_raises_what_call_says() -> None:
    with pytest.raises(WrappedCallException) as caught:
        await raising(KeyError("k"), False).invoke({"a": 1})
    assert isinstance(caught.value.original, KeyError)
    with pytest.raises(ToolArgumentsError, match="a: missing"):
        await Add().invoke({})


async def test_an_argument_error_of_another_call_inside_is_an_error_of_the_tool_as_in_functions() -> None:
    error = ToolArgumentsError("of something else")

    async def function() -> str:
        raise error

    assert type(await AIFunction(function, name="function").call({})) is ToolRuntimeError
    assert type(await raising(error, False).call({"a": 1})) is ToolRuntimeError


@pytest.mark.parametrize("in_thread", [True, False])
async def test_the_cancellation_of_the_caller_goes_through(in_thread: bool) -> None:
    gate, started = threading.Event(), threading.Event()

    def block(self: Any, params: Any) -> ToolReturnValue:
        started.set()
        gate.wait(5)
        return ToolOk(output="")

    async def wait(self: Any, params: Any) -> ToolReturnValue:
        started.set()
        await asyncio.Event().wait()
        return ToolOk(output="")

    running = asyncio.ensure_future(two(Params, __call__=block if in_thread else wait).call({"a": 1}))
    while not started.is_set():
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    gate.set()


def a_generator(self: Any, params: Any) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    "returned", [None, "text", 5, {}, [ToolOk(output="")], ToolOk, Message.user("x"), TextPart(text="x")]
)
async def test_what_is_no_return_value_is_an_error_that_names_its_type(returned: Any) -> None:
    async def run(self: Any, params: Any) -> Any:
        return returned

    value = await two(Params, __call__=run).call({"a": 1})
    assert type(value) is ToolRuntimeError
    assert f"Invalid return type: {type(returned).__name__}" in value.message


async def test_a_generator_is_no_return_value() -> None:
    assert "generator" in (await two(Params, __call__=a_generator).call({"a": 1})).message


class Mine(ToolOk):
    """A result of one's own."""


@pytest.mark.parametrize(
    "returned", [ToolReturnValue(is_error=False), Mine(output="x"), ToolError(message="m", brief="")]
)
async def test_a_return_value_comes_out_as_it_is(returned: ToolReturnValue) -> None:
    async def run(self: Any, params: Any) -> Any:
        return returned

    assert await two(Params, __call__=run).call({"a": 1}) is returned


# ==== what __call__ says that it returns ====

Alias = TypeAliasType("Alias", ToolOk | ToolError)
Indirect = TypeAliasType("Indirect", Alias)
Wrong = TypeAliasType("Wrong", ToolOk | str)
Bound = TypeVar("Bound", bound=ToolReturnValue)
NOTHING = object()


def returning(annotation: Any) -> CallableTool2[Any]:
    async def run(self: Any, params: Any):  # type: ignore[no-untyped-def]
        return ToolOk(output="")

    if annotation is not NOTHING:
        run.__annotations__["return"] = annotation
    return two(Params, __call__=run)


ACCEPTED = [
    NOTHING,
    Any,
    ToolReturnValue,
    ToolOk,
    ToolError,
    ToolRuntimeError,
    Mine,
    ToolOk | ToolError,
    ToolOk | (ToolError | Mine),
    Union[ToolOk, ToolError],  # noqa: UP007
    Annotated[ToolOk, "fine"],
    Annotated[ToolOk | Annotated[ToolError, "inner"], "outer"],
    Bound,
    Alias,
    Indirect,
    Alias | Mine,
    "ToolReturnValue",
    "ToolOk | ToolError",
    "Union[ToolOk, 'ToolError']",
    "Annotated[ToolOk, 1]",
    "Alias",
    "NobodyKnows",
    "NobodyKnows | ToolOk",
]
REFUSED = [
    int,
    str,
    None,
    object,
    BaseModel,
    Message,
    ToolResult,
    ContentPart,
    str | ToolOk,
    ToolOk | None,
    Optional[ToolOk],  # noqa: UP045
    Annotated[int, "no"],
    Annotated[ToolOk | None, "no"],
    list[ToolOk],
    type[ToolOk],
    Sequence[ToolOk],
    Wrong,
    Alias | None,
    "int",
    "None",
    "str | ToolOk",
    "ToolOk | None",
    "Optional[ToolOk]",
    "Annotated[int, 1]",
    "list[ToolOk]",
    "Wrong",
]


@pytest.mark.parametrize("annotation", ACCEPTED, ids=without_address)
def test_a_return_value_its_subclasses_unions_and_strings_of_them_are_accepted(annotation: Any) -> None:
    assert len(SimpleToolset([returning(annotation)]).tools) == 1


@pytest.mark.parametrize("annotation", REFUSED, ids=str)
def test_anything_else_is_refused_by_name(annotation: Any) -> None:
    with pytest.raises(FunctionSpecError, match=r"Two\.__call__ returns .*ToolReturnValue"):
        SimpleToolset([returning(annotation)])


@pytest.mark.parametrize("add", [SimpleToolset().add, SimpleToolset().__add__, SimpleToolset().__iadd__])
def test_every_way_into_a_toolset_is_guarded(add: Callable[[Any], Any]) -> None:
    class Wrongly(Echo):
        async def __call__(self, *args: Any, **kwargs: Any) -> int:  # type: ignore[override]
            return 1

    with pytest.raises(FunctionSpecError, match=r"Wrongly\.__call__ returns int"):
        add(Wrongly())


MODULE = """
from __future__ import annotations
from typing import TYPE_CHECKING
from pydantic import BaseModel
import kimi_agent as ka
import kimi_agent
from kimi_agent import CallableTool2, ToolOk as Fine
if TYPE_CHECKING:
    from kimi_agent import ToolReturnValue

class Params(BaseModel):
    a: int

class Own(CallableTool2[Params]):
    name = "own"
    description = "d"
    params = Params

    async def __call__(self, params: Params) -> {annotation}:
        return Fine(output=str(params.a))
"""


def in_a_module(annotation: str) -> Any:
    module = types.ModuleType("a_module_of_the_user")
    sys.modules[module.__name__] = module  # pydantic looks names up there
    try:
        exec(MODULE.replace("{annotation}", annotation), module.__dict__)
        return module.Own()
    finally:
        del sys.modules[module.__name__]


@pytest.mark.parametrize("annotation", ["Fine", "ka.ToolOk", "kimi_agent.ToolReturnValue | Fine", "ToolReturnValue"])
async def test_names_are_those_of_the_module_and_of_type_checkers(annotation: str) -> None:
    tool = in_a_module(annotation)
    assert len(SimpleToolset([tool]).tools) == 1
    assert (await tool.call({"a": 3})).output == "3"


@pytest.mark.parametrize("annotation", ["int", "Fine | None", "ka.Message", "str | Fine"])
def test_what_a_module_names_wrongly_is_refused(annotation: str) -> None:
    with pytest.raises(FunctionSpecError, match=r"Own\.__call__"):
        SimpleToolset([in_a_module(annotation)])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement is as old as Python 3.12")
@pytest.mark.parametrize(("value", "accepted"), [("ToolOk | ToolError", True), ("ToolOk | None", False)])
def test_a_type_statement_is_looked_into(value: str, accepted: bool) -> None:
    namespace: dict[str, Any] = dict(globals())
    exec(f"type Statement = {value}", namespace)
    if accepted:
        assert len(SimpleToolset([returning(namespace["Statement"])]).tools) == 1
        return
    with pytest.raises(FunctionSpecError):
        SimpleToolset([returning(namespace["Statement"])])


def test_a_plain_method_may_say_that_it_returns_an_awaitable() -> None:
    def later(self: Any, params: Params) -> Awaitable[ToolReturnValue]:
        return Add()(params)

    assert len(SimpleToolset([two(Params, __call__=later)]).tools) == 1


def test_a_type_variable_is_what_it_is_bound_to() -> None:
    with pytest.raises(FunctionSpecError):
        SimpleToolset([returning(TypeVar("Number", bound=int))])


def test_a_decorated_method_keeps_its_annotation() -> None:
    def traced(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return wrapper

    class Wrongly(Add):
        @traced
        async def __call__(self, params: Params) -> int:  # type: ignore[override]
            return 1

    with pytest.raises(FunctionSpecError):
        SimpleToolset([Wrongly()])


# ==== how __call__ is written, and how long a check takes ====


def with_b(function: Any) -> Any:
    @functools.wraps(function)
    async def inner(self: Any, **arguments: Any) -> Any:
        return await function(self, b=9, **arguments)

    return inner


class Adds(CallableTool):
    name: str = "adds"
    description: str = "x"
    parameters: dict[str, Any] = {"type": "object"}

    async def __call__(self, a: int, b: int = 1) -> ToolReturnValue:
        return ToolOk(output=str(a + b))


class Decorated(Adds):
    __call__ = with_b(Adds.__call__)


class Static(Adds):
    @staticmethod
    async def __call__(a: int) -> ToolReturnValue:
        return ToolOk(output=str(a))


@pytest.mark.parametrize(("tool", "output"), [(Adds, "2"), (Decorated, "10"), (Static, "1")])
async def test_a_call_may_be_written_in_many_ways(tool: type[CallableTool], output: str) -> None:
    assert (await tool().call({"a": 1})).output == output


async def test_an_argument_that_no_parameter_takes_is_no_unexpected_error() -> None:
    value = await Adds().call({"a": 1, "c": 2})
    assert isinstance(value, ToolValidateError)
    assert "'c'" in value.message


async def test_a_check_that_may_take_long_leaves_the_loop_free() -> None:
    tool = taking(a={"type": "array", "uniqueItems": True})
    checking = asyncio.create_task(tool.call({"a": [{"i": number} for number in range(600)]}))
    turns = 0
    while not checking.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 3
    assert not (await checking).is_error


@pytest.mark.parametrize("name", ["ls", "two words", "9lives", ""])
def test_a_name_that_kimi_refuses_is_refused_at_once(name: str) -> None:
    with pytest.raises(FunctionSpecError, match="3 to 64"):
        Adds(name=name)

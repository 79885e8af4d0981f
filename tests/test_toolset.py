"""Sets of tools: what goes in, what is found, what runs; in `step` and in an agent alike."""

import asyncio
import copy
import functools
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from naming import without_address
from pydantic import BaseModel

from kimi_agent import (
    Agent,
    AIFunction,
    CallableTool,
    CallableTool2,
    EmptyToolset,
    FunctionSpecError,
    Message,
    SimpleToolset,
    Tool,
    ToolArgumentsError,
    ToolCall,
    ToolError,
    ToolNotFoundError,
    ToolOk,
    ToolParseError,
    ToolResult,
    ToolReturnValue,
    ToolRuntimeError,
    Toolset,
    ToolValidateError,
    WrappedCallException,
    ai_function,
    step,
    tool_result_to_message,
)
from kimi_agent.testing import Call, Reply, ScriptedKimi, check_request, say
from kimi_agent.tools.texts import MarkedTexts


class Numbers(BaseModel):
    a: int
    b: int = 0


def answer(a: int, b: int = 0) -> ToolReturnValue:
    """What all tools here do."""
    if a == 0:
        return ToolError(message="zero", brief="zero")
    if a < 0:
        raise ValueError("negative")
    return ToolOk(output=str(a + b))


class Raw(CallableTool):
    """With a schema."""

    name: str = "add"
    description: str = "Add."
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }

    async def __call__(self, a: int, b: int = 0) -> ToolReturnValue:
        return answer(a, b)


class Modelled(CallableTool2[Numbers]):
    """With a model."""

    name: str = "add"
    description: str = "Add."
    params: type[Numbers] = Numbers

    def __call__(self, params: Numbers) -> ToolOk | ToolError:
        return answer(params.a, params.b)  # type: ignore[return-value]


def add(a: int, b: int = 0) -> ToolReturnValue:
    """Add."""
    return answer(a, b)


class Foreign:
    """A tool of somebody else's."""

    def __init__(self, name: str = "add", run: Callable[..., Any] = answer) -> None:
        self.base = Tool(name=name, description="Add.", parameters=Raw().parameters)
        self._run = run

    async def call(self, arguments: Any) -> ToolReturnValue:
        return self._run(**arguments)


KINDS: dict[str, Callable[[], Any]] = {
    "schema": Raw,
    "model": Modelled,
    "function": lambda: AIFunction(add),
    "plain function": lambda: add,
}
every_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def named(name: str) -> Modelled:
    return Modelled(name=name)


def names(toolset: Toolset) -> list[str]:
    return [tool.name for tool in toolset.tools]


def call(name: str = "add", arguments: str = "{}", id: str = "c") -> ToolCall:
    return ToolCall(id=id, function=ToolCall.FunctionBody(name=name, arguments=arguments))


async def result_of(toolset: Toolset, made: ToolCall) -> ToolResult:
    result = toolset.handle(made)
    return result if isinstance(result, ToolResult) else await result


# ==== what goes in ====


@every_kind
def test_every_kind_of_tool_may_go_in(make: Callable[[], Any]) -> None:
    (tool,) = SimpleToolset([make()]).tools
    assert type(tool) is Tool
    assert (tool.name, tool.description) == ("add", "Add.")
    assert set(tool.parameters["properties"]) == {"a", "b"}


def test_tools_stand_in_the_order_in_which_they_came() -> None:
    toolset = SimpleToolset([named("zzz"), named("aaa")])
    toolset += named("mmm")
    assert names(toolset.add(named("bbb"))) == ["zzz", "aaa", "mmm", "bbb"]
    assert names(toolset.remove("aaa").add(named("aaa"))) == ["zzz", "mmm", "bbb", "aaa"]
    assert names(toolset | SimpleToolset([named("ccc")])) == ["zzz", "mmm", "bbb", "aaa", "ccc"]
    assert SimpleToolset()  # an empty one is a toolset, too


def test_no_tools_are_fine() -> None:
    assert (
        SimpleToolset().tools
        == SimpleToolset(None).tools
        == SimpleToolset([]).tools
        == SimpleToolset(iter(())).tools
        == []
    )


def test_adding_in_place_changes_the_toolset_and_plus_does_not() -> None:
    toolset = same = SimpleToolset([named("one")])
    toolset += named("two")
    assert toolset is same
    assert toolset.add(named("three")) is same
    assert names(toolset + named("four")) == ["one", "two", "three", "four"]
    merged = toolset | SimpleToolset([named("five")])
    merged.remove("one")
    toolset |= SimpleToolset([named("six")])
    assert names(toolset) == ["one", "two", "three", "six"]
    assert toolset is same


@pytest.mark.parametrize(
    "copied", [copy.copy, lambda toolset: toolset + named("two"), lambda toolset: toolset | SimpleToolset()]
)
def test_copies_are_independent(copied: Callable[[SimpleToolset], SimpleToolset]) -> None:
    toolset = SimpleToolset([named("one")])
    other = copied(toolset)
    other.add(named("xxx")).remove("one")
    toolset.add(named("yyy"))
    assert names(toolset) == ["one", "yyy"]
    assert "one" not in names(other)
    assert "yyy" not in names(other)


def test_the_list_of_tools_is_nobodys_door() -> None:
    toolset = SimpleToolset([named("one")])
    toolset.tools.clear()
    assert names(toolset) == ["one"]


def test_operators_keep_the_class_and_the_texts() -> None:
    class Ours(SimpleToolset):
        texts = MarkedTexts()

    ours = Ours([named("one")])
    ours.texts = MarkedTexts()
    for other in (ours + named("two"), ours | SimpleToolset([named("two")])):
        assert type(other) is Ours
        assert other.texts is ours.texts


DUPLICATES: dict[str, Callable[[SimpleToolset, Any], Any]] = {
    "add": lambda toolset, tool: toolset.add(tool),
    "+": lambda toolset, tool: toolset + tool,
    "+=": lambda toolset, tool: toolset.__iadd__(tool),
    "|": lambda toolset, tool: toolset | SimpleToolset([tool]),
    "|=": lambda toolset, tool: toolset.__ior__(SimpleToolset([named("other"), tool])),
    "constructor": lambda toolset, tool: SimpleToolset([tool, named("other"), tool]),
    "itself": lambda toolset, tool: toolset | toolset,
}


@pytest.mark.parametrize("operate", DUPLICATES.values(), ids=DUPLICATES)
@every_kind
def test_two_tools_of_one_name_are_refused_and_nothing_changes(operate: Any, make: Callable[[], Any]) -> None:
    toolset = SimpleToolset([named("first"), Raw()])
    with pytest.raises(ValueError, match=r"'(add|first)'.*another name") as caught:
        operate(toolset, make())
    assert isinstance(caught.value, FunctionSpecError)
    assert names(toolset) == ["first", "add"]


def test_who_removes_an_absent_tool_is_told_what_there_is() -> None:
    toolset = SimpleToolset([named("one"), named("two")])
    with pytest.raises(KeyError, match=r"'three'.*one, two"):
        toolset.remove("three")
    assert names(toolset) == ["one", "two"]
    with pytest.raises(KeyError):
        SimpleToolset().remove("three")


class Meeting:
    @ai_function(name="meet_again", after="user")
    async def again(self, a: int) -> str:
        """Meet."""
        return f"{a} {type(self).__name__}"

    @classmethod
    def of_class(cls, a: int) -> str:
        """Of the class."""
        return f"{a} {cls.__name__}"

    def __call__(self, a: int) -> str:
        """Called."""
        return f"{a} called"


@pytest.mark.parametrize(
    ("function", "name", "said"),
    [
        (Meeting().again, "meet_again", "1 Meeting"),
        (Meeting().of_class, "of_class", "1 Meeting"),
        (Meeting.of_class, "of_class", "1 Meeting"),
        (Meeting(), "Meeting", "1 called"),
        (functools.partial(add, b=2), "add", "3"),
        (functools.partial(Meeting().again), "again", "1 Meeting"),
    ],
)
async def test_any_callable_becomes_a_tool(function: Any, name: str, said: str) -> None:
    toolset = SimpleToolset([function])
    assert names(toolset) == [name]
    assert (await result_of(toolset, call(name, '{"a": 1}'))).return_value.output == said


async def test_a_decorated_plain_function_keeps_its_options() -> None:
    @ai_function(name="long_text", desc="Long.", auto_truncate=5, after="user", auto_retry=False)
    def text(a: int) -> str:
        """Not this."""
        return "x" * 100

    toolset = SimpleToolset([text])
    assert (toolset.tools[0].name, toolset.tools[0].description) == ("long_text", "Long.")
    assert (await result_of(toolset, call("long_text", '{"a": 1}'))).return_value.output == "xx..."
    function = Agent(ScriptedKimi(), functions=[text]).functions["long_text"]
    assert (function.after, function.auto_retry, function.auto_truncate) == ("user", False, 5)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "candidate",
    [
        5,
        None,
        "add",
        object(),
        Raw,
        Modelled,
        Numbers,
        int,
        print,
        lambda a: a,
        Tool(name="add", description="d", parameters={}),
        SimpleToolset(),
        [add],
        CallableTool2[Numbers],
    ],
    ids=without_address,
)
def test_what_is_no_tool_is_refused_in_every_way_in(candidate: Any) -> None:
    ways: list[Callable[[], Any]] = [
        lambda: SimpleToolset([candidate]),
        lambda: SimpleToolset().add(candidate),
        lambda: SimpleToolset() + candidate,
        lambda: Agent(ScriptedKimi(), functions=[candidate]),
    ]
    for way in ways:
        with pytest.raises(FunctionSpecError) as caught:
            way()
        assert isinstance(caught.value, TypeError)
        assert isinstance(caught.value, ValueError)


def test_a_class_is_refused_with_what_to_do() -> None:
    with pytest.raises(FunctionSpecError, match=r"Raw is a class.*pass Raw\(\)"):
        SimpleToolset([Raw])


@pytest.mark.parametrize("other", [[add], None, 5, EmptyToolset()], ids=["list", "None", "number", "toolset"])
@pytest.mark.parametrize("merge", [lambda ours, other: ours | other, lambda ours, other: ours.__ior__(other)])
def test_merging_with_something_else_is_an_error_that_says_so_or_works(merge: Any, other: Any) -> None:
    try:
        merged = merge(SimpleToolset([named("one")]), other)
    except TypeError:
        return
    assert merged is NotImplemented or names(merged)[0] == "one"


def test_adding_costs_no_look_at_what_is_there() -> None:
    looks = 0

    class Watched(Foreign):
        @property
        def base(self) -> Tool:  # type: ignore[override]
            nonlocal looks
            looks += 1
            return Tool(name=self._name, description="d", parameters={})

        def __init__(self, name: str) -> None:
            self._name = name

    toolset = SimpleToolset()
    for number in range(100):
        toolset += Watched(f"tool{number}")
    assert looks < 1000


# ==== protocols ====


class Custom:
    """A toolset of somebody else's."""

    def __init__(self) -> None:
        self.given: list[ToolCall] = []

    @property
    def tools(self) -> list[Tool]:
        return [Raw().base]

    def handle(self, tool_call: ToolCall) -> ToolResult:
        self.given.append(tool_call)
        return ToolResult(tool_call_id=tool_call.id, return_value=ToolOk(output="custom"))


@pytest.mark.parametrize("toolset", [SimpleToolset(), EmptyToolset(), Custom()])
def test_a_toolset_is_what_has_tools_and_handles_calls(toolset: Any) -> None:
    assert isinstance(toolset, Toolset)


@pytest.mark.parametrize("other", [5, [], Raw(), Agent, object()])
def test_other_things_are_no_toolsets(other: Any) -> None:
    assert not isinstance(other, Toolset)


def test_an_empty_toolset_finds_nothing() -> None:
    result = EmptyToolset().handle(call("add", "{"))
    assert result == ToolResult(tool_call_id="c", return_value=ToolNotFoundError("add"))
    assert type(result.return_value) is ToolNotFoundError  # type: ignore[union-attr]
    assert EmptyToolset().tools == []


async def test_a_toolset_of_ones_own_serves_step() -> None:
    toolset = Custom()
    result = await step(ScriptedKimi([Call("add", '{"a": 1}')]), "", toolset, [Message.user("q")])
    assert [given.return_value.output for given in await result.tool_results()] == ["custom"]
    assert [given.name for given in toolset.given] == ["add"]


# ==== calls ====

SIX = [
    ("add", '{"a": 1, "b": 2}', ToolOk, "3"),
    ("add", '{"a": 1,', ToolParseError, "Error parsing JSON arguments: "),
    ("add", "{}", ToolValidateError, "Error validating JSON arguments: "),
    ("add", '{"a": -1}', ToolRuntimeError, "Error running tool: ValueError: negative"),
    ("nothing", "{}", ToolNotFoundError, "Tool `nothing` not found"),
    ("add", '{"a": 0}', ToolError, "zero"),
]


@every_kind
async def test_six_calls_end_in_six_values(make: Callable[[], Any]) -> None:
    """One that is fine, broken JSON, a missing argument, an exception, no such tool, and an error of the tool's own."""
    toolset = SimpleToolset([make()])
    calls = [call(name, arguments, str(number)) for number, (name, arguments, *_) in enumerate(SIX)]
    script = [Reply(tool_calls=[Call(made.name, made.arguments, made.id) for made in calls])]
    history = [Message.user("q")]
    turn = await step(ScriptedKimi(script), "", toolset, history)
    for results in (await turn.tool_results(), [await result_of(toolset, made) for made in calls]):
        assert [result.tool_call_id for result in results] == [made.id for made in calls]
        assert [type(result.return_value) for result in results] == [kind for *_, kind, _ in SIX]
        for result, (*_, kind, said) in zip(results, SIX, strict=True):
            value = result.return_value
            assert said in (value.output if kind is ToolOk else value.message)
            assert value.is_error is (kind is not ToolOk)
    assert history == [Message.user("q")]


@every_kind
async def test_what_cannot_start_is_answered_at_once(make: Callable[[], Any]) -> None:
    toolset = SimpleToolset([make()])
    for made in (call("nothing"), call("add", "{"), call("add", "[" * 100_000)):
        assert isinstance(toolset.handle(made), ToolResult)
    running = toolset.handle(call("add", '{"a": 1}'))
    assert isinstance(running, asyncio.Future)
    assert (await running).return_value == ToolOk(output="1")


@every_kind
async def test_arguments_that_are_no_object_are_an_error_where_names_are_wanted(make: Callable[[], Any]) -> None:
    for arguments in ("[1]", "1", '"x"', "true"):
        result = await result_of(SimpleToolset([make()]), call("add", arguments))
        assert type(result.return_value) is ToolValidateError


async def test_a_schema_may_want_an_array_or_a_number() -> None:
    class Sum(Raw):
        parameters: dict[str, Any] = {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "integer"}]}

        async def __call__(self, *numbers: int) -> ToolReturnValue:
            return ToolOk(output=str(sum(numbers)))

    toolset = SimpleToolset([Sum()])
    assert (await result_of(toolset, call("add", "[1, 2, 3]"))).return_value.output == "6"
    assert (await result_of(toolset, call("add", "4"))).return_value.output == "4"
    assert type((await result_of(toolset, call("add", '"x"'))).return_value) is ToolValidateError


async def test_invoke_raises_what_handle_says() -> None:
    with pytest.raises(WrappedCallException, match="negative"):
        await SimpleToolset([Raw()]).invoke(call("add", '{"a": -1}'))


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(1), ValueError("")], ids=repr)
async def test_a_tool_that_breaks_does_not_disturb_its_siblings(error: BaseException) -> None:
    class Breaks(Raw):
        async def __call__(self, a: int, b: int = 0) -> ToolReturnValue:
            if a == 1:
                raise error
            await asyncio.sleep(0)
            return ToolOk(output="fine")

    calls = [Call("add", json.dumps({"a": number})) for number in (2, 1, 2)]
    turn = await step(ScriptedKimi([Reply(tool_calls=calls)]), "", SimpleToolset([Breaks()]), [Message.user("q")])
    values = [result.return_value for result in await turn.tool_results()]
    assert [type(value) for value in values] == [ToolOk, ToolRuntimeError, ToolOk]
    assert type(error).__name__ in values[1].message


async def test_a_tool_of_somebody_else_that_keeps_its_promise_runs_like_the_others() -> None:
    toolset = SimpleToolset([Foreign()])
    assert (await result_of(toolset, call("add", '{"a": 1, "b": 2}'))).return_value == ToolOk(output="3")
    assert type((await result_of(toolset, call("add", "{"))).return_value) is ToolParseError


@pytest.mark.parametrize("arguments", ['{"a": -1}', "{}", '{"a": 1, "z": 2}'])
async def test_a_tool_of_somebody_else_that_raises_is_an_error_result(arguments: str) -> None:
    result = await result_of(SimpleToolset([Foreign()]), call("add", arguments))
    assert type(result.return_value) is ToolRuntimeError


async def test_a_tool_of_somebody_else_that_returns_no_value_is_an_error_result() -> None:
    result = await result_of(SimpleToolset([Foreign(run=lambda **_: "text")]), call("add", "{}"))
    assert type(result.return_value) is ToolRuntimeError


async def test_what_a_toolset_says_can_be_said_differently() -> None:
    class Curt(MarkedTexts):
        def no_such_function(self, error: Any) -> str:
            return f"no {error.name}"

        def bad_arguments(self, error: Any) -> str:
            return "bad"

        def raised(self, error: BaseException) -> str:
            return type(error).__name__

    toolset = SimpleToolset([Raw()])
    toolset.texts = Curt()
    said = [(await result_of(toolset, call(name, arguments))).return_value for name, arguments, *_ in SIX]
    assert [value.message for value in said] == ["", "bad", "bad", "ValueError", "no nothing", "zero"]
    assert [type(value) for value in said] == [kind for *_, kind, _ in SIX]


@pytest.mark.parametrize("in_thread", [True, False])
async def test_a_call_that_is_cancelled_in_step_has_a_result(in_thread: bool) -> None:
    gate, started = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    class Blocks(Modelled):
        def __call__(self, params: Numbers) -> ToolOk:
            loop.call_soon_threadsafe(started.set)
            gate.wait(5)
            return ToolOk(output="late")

    class Waits(Raw):
        async def __call__(self, a: int, b: int = 0) -> ToolReturnValue:
            started.set()
            await asyncio.Event().wait()
            return ToolOk(output="never")

    tool = Blocks() if in_thread else Waits()
    turn = await step(ScriptedKimi([Call("add", '{"a": 1}')]), "", SimpleToolset([tool]), [Message.user("q")])
    waiting = asyncio.ensure_future(turn.tool_results())
    await started.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (result,) = await turn.tool_results()
    gate.set()
    assert result.return_value.is_error
    assert ("cannot be stopped" in result.return_value.message) is in_thread


# ==== in an agent ====


async def round_of(tool: Any, *arguments: str, name: str = "add", agent: type[Agent] = Agent, **options: Any) -> Any:
    """What a round is whose model calls a tool with each of `arguments`, one after the other."""
    kimi = ScriptedKimi([*(Call(name, each) for each in arguments), say("done")])
    conversation = agent(kimi, functions=[tool], **options)
    return kimi, [message async for message in conversation.full_round("q")]


@every_kind
async def test_every_kind_of_tool_runs_in_an_agent(make: Callable[[], Any]) -> None:
    kimi, messages = await round_of(make(), '{"a": 1, "b": 2}')
    assert [(message.role, message.text) for message in messages[1:]] == [("tool", "3"), ("assistant", "done")]
    assert messages[1].name == "add"
    assert messages[1].is_tool_call_error is None
    assert kimi.requests[0].tools == kimi.requests[1].tools == (SimpleToolset([make()]).tools[0],)
    assert all(check_request(request.body) is None for request in kimi.requests)


@every_kind
@pytest.mark.parametrize(
    "arguments", [arguments for name, arguments, kind, _ in SIX if kind is not ToolOk and name == "add"]
)
@pytest.mark.parametrize("retry_attempts", [0, 1, 2])
async def test_errors_of_every_kind_count_as_failures(make: Any, arguments: str, retry_attempts: int) -> None:
    kimi, messages = await round_of(make(), *[arguments] * (retry_attempts + 1), retry_attempts=retry_attempts)
    assert [message.is_tool_call_error for message in messages[1::2]] == [True] * (retry_attempts + 1)
    choices = [request.overrides.get("tool_choice") for request in kimi.requests]
    assert choices == [None] * (retry_attempts + 1) + ["none"]


@every_kind
async def test_an_agent_and_a_toolset_say_the_same_in_the_same_words(make: Callable[[], Any]) -> None:
    class Marked(Agent):
        texts = MarkedTexts()

    toolset = SimpleToolset([make()])
    for name, arguments, kind, _ in SIX:
        _, messages = await round_of(make(), arguments, name=name, agent=Marked)
        value = (await result_of(toolset, call(name, arguments))).return_value
        said = tool_result_to_message(ToolResult(tool_call_id="c", return_value=value))
        assert messages[1].text == said.text
        assert messages[1].is_tool_call_error == said.is_tool_call_error == (True if kind is not ToolOk else None)


async def test_a_tool_of_somebody_else_that_raises_is_an_error_in_an_agent() -> None:
    _, messages = await round_of(Foreign(), '{"a": -1}')
    assert messages[1].is_tool_call_error
    assert "negative" in messages[1].text


async def test_classes_say_who_speaks_next_what_is_cut_and_what_is_hidden() -> None:
    class Last(Modelled):
        after = "user"
        auto_truncate = 3
        enabled = False

    kimi, messages = await round_of(Last(), '{"a": 12345}')
    assert [(message.role, message.text) for message in messages] == [("assistant", ""), ("tool", "...")]
    assert kimi.requests[0].tools == ()


@every_kind
async def test_by_default_the_assistant_speaks_next_nothing_is_cut_and_nothing_is_hidden(
    make: Callable[[], Any],
) -> None:
    kimi, messages = await round_of(make(), '{"a": 1%s}' % ("0" * 3000))
    assert len(messages[1].text) == 3001
    assert messages[2].text == "done"
    assert len(kimi.requests[0].tools) == 1


async def test_a_function_that_is_switched_off_is_in_no_prompt() -> None:
    function = AIFunction(add, enabled=False)
    agent = Agent(ScriptedKimi(), functions=[function])
    assert list(await agent.get_enabled_functions()) == []
    toolset = SimpleToolset([function, named("other")])
    assert names(toolset) == ["other"]
    function.enabled = True
    assert names(toolset) == ["add", "other"]


async def test_an_agent_takes_all_kinds_at_once_beside_its_methods() -> None:
    class Ours(Agent):
        @ai_function()
        async def method(self, a: int) -> str:
            """Of the agent."""
            return str(a)

    agent = Ours(
        ScriptedKimi(), functions=[Raw(), named("two"), AIFunction(add, name="three"), Meeting().again, Foreign("four")]
    )
    assert list(agent.functions) == ["method", "add", "two", "three", "meet_again", "four"]
    with pytest.raises(FunctionSpecError, match="'method'"):
        Ours(ScriptedKimi(), functions=[named("method")])


class Pair(BaseModel):
    a: int = 0


class GuardedFunction(AIFunction):
    async def call(self, arguments: Any) -> ToolReturnValue:
        return ToolError(message="denied", brief="denied")


class GuardedTool(CallableTool):
    name: str = "guarded"
    description: str = "x"
    parameters: dict[str, Any] = {"type": "object"}

    async def call(self, arguments: Any) -> ToolReturnValue:
        return ToolError(message="denied", brief="denied")

    async def __call__(self) -> ToolReturnValue:
        raise AssertionError("this must not run")


class GuardedModelTool(CallableTool2[Pair]):
    name: str = "guarded"
    description: str = "x"
    params: type[Pair] = Pair

    async def call(self, arguments: Any) -> ToolReturnValue:
        return ToolError(message="denied", brief="denied")

    async def __call__(self, params: Pair) -> ToolReturnValue:
        raise AssertionError("this must not run")


def guarded() -> str:
    raise AssertionError("this must not run")


@pytest.mark.parametrize("make", [lambda: GuardedFunction(guarded), GuardedTool, GuardedModelTool])
async def test_a_tool_with_a_call_of_its_own_is_run_by_that(make: Callable[[], Any]) -> None:
    result = await step(
        ScriptedKimi([Reply(tool_calls=[Call("guarded")])]), "", SimpleToolset([make()]), [Message.user("?")]
    )
    assert [given.return_value.message for given in await result.tool_results()] == ["denied"]
    agent = Agent(ScriptedKimi([Reply(tool_calls=[Call("guarded")]), say("No.")]), functions=[make()])
    assert "denied" in [message.text async for message in agent.full_round("?")]


async def test_malformed_arguments_of_a_function_that_must_not_be_tried_again_are_not() -> None:
    function = AIFunction(guarded, auto_retry=False)
    with pytest.raises(ToolArgumentsError) as caught:
        await SimpleToolset([function]).invoke(
            ToolCall(id="c", function=ToolCall.FunctionBody(name="guarded", arguments="{"))
        )
    assert (caught.value.retry, caught.value.malformed) == (False, True)


def test_a_toolset_is_no_tool() -> None:
    with pytest.raises(FunctionSpecError, match="merge two sets"):
        SimpleToolset([SimpleToolset()])  # type: ignore[list-item]

"""Sets made from sets, tools under other names, and tools that are switched off and on."""

import asyncio
import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from naming import without_address
from pydantic import BaseModel

from kimi_agent import (
    Agent,
    AIFunction,
    Approval,
    ApprovalPending,
    CallableTool,
    CallableTool2,
    EmptyToolset,
    FunctionSpecError,
    ModelRetry,
    SimpleToolset,
    Tool,
    ToolArgumentsError,
    ToolCall,
    ToolOk,
    ToolReturnValue,
    WrappedCallException,
    ai_function,
)
from kimi_agent.testing import Call, Reply, ScriptedKimi, call, say
from kimi_agent.tools.renamed import RenamedTool
from kimi_agent.tools.texts import MarkedTexts

PARAMETERS: dict[str, Any] = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}

FOREIGN = Tool(name="foreign", description="Anything.", parameters=PARAMETERS)


def read(path: str) -> str:
    """Read a file."""
    if path == "gone":
        raise FileNotFoundError(path)
    return f"what {path} says"


def write(path: str, text: str = "") -> None:
    """Write a file."""


def delete(path: str) -> str:
    """Delete a file."""
    raise ModelRetry("Never delete.")


class Search(CallableTool):
    """Frozen, as all values are."""

    name: str = "search"
    description: str = "Search files."
    parameters: dict[str, Any] = PARAMETERS

    async def __call__(self, path: str) -> ToolReturnValue:
        return ToolOk(output=f"found in {path}")


class Lines(CallableTool):
    """Its arguments are a list."""

    name: str = "lines"
    description: str = "Some lines."
    parameters: dict[str, Any] = {"type": "array", "items": {"type": "integer"}}

    async def __call__(self, *numbers: int) -> ToolReturnValue:
        return ToolOk(output=str(sum(numbers)))


class Path(BaseModel):
    path: str


class Stat(CallableTool2[Path]):
    """An ordinary object."""

    name = "stat"
    description = "Size of a file."
    params = Path

    async def __call__(self, params: Path) -> ToolReturnValue:
        return ToolOk(output=f"{len(params.path)} bytes")


@dataclass(frozen=True)
class Foreign:
    """Somebody else's tool, without any option."""

    base: Tool = FOREIGN

    async def call(self, arguments: Any) -> ToolReturnValue:
        return ToolOk(output=f"foreign {arguments['path']}")


class Closed:
    """One with no place for anything."""

    __slots__ = ()
    base = FOREIGN
    call = Foreign.call


class Decided(Foreign):
    """One that says itself whether it is enabled."""

    @property
    def enabled(self) -> bool:
        return True


def files() -> SimpleToolset:
    return SimpleToolset([read, write, delete, Search(), Stat(), Foreign()])


ALL = ["read", "write", "delete", "search", "stat", "foreign"]


def names_of(toolset: SimpleToolset) -> list[str]:
    return [tool.base.name for tool in toolset]


def call_of(name: str, arguments: str = '{"path": "a"}') -> ToolCall:
    return ToolCall(id="c1", function=ToolCall.FunctionBody(name=name, arguments=arguments))


# ==== a set is a collection of its tools ====


def test_a_set_is_iterated_in_the_order_in_which_the_tools_came():
    toolset = files()
    assert names_of(toolset) == ALL
    assert len(toolset) == 6
    assert toolset["search"] in list(toolset)


def test_a_set_knows_its_tools_by_name():
    toolset = files()
    assert "read" in toolset
    assert "rad" not in toolset
    assert 5 not in toolset
    assert toolset["read"].base.name == "read"


def test_a_disabled_tool_is_still_one_of_the_set():
    toolset = files().disable("read")
    assert "read" in toolset
    assert names_of(toolset) == ALL
    assert [tool.name for tool in toolset.tools] == ALL[1:]


def test_tools_may_be_added_and_removed_while_a_set_is_iterated():
    toolset = files()
    for tool in toolset:
        toolset.remove(tool.base.name)
    assert names_of(toolset) == []


def test_a_set_without_tools_is_a_set():
    assert SimpleToolset()
    assert len(SimpleToolset()) == 0
    assert list(EmptyToolset()) == []
    assert Agent(ScriptedKimi(), functions=EmptyToolset()).functions == {}


@pytest.mark.parametrize(
    "look_up",
    [
        operator.itemgetter("rad"),
        operator.methodcaller("only", "read", "rad"),
        operator.methodcaller("without", "rad"),
        operator.methodcaller("enable", "rad"),
        operator.methodcaller("disable", "read", "rad"),
        operator.methodcaller("remove", "rad"),
    ],
    ids=without_address,
)
def test_an_unknown_name_is_told_with_those_that_there_are(look_up: Callable[[SimpleToolset], object]):
    toolset = files()
    with pytest.raises(KeyError, match=r"no tool 'rad'; there are read, write, delete, search, stat, foreign"):
        look_up(toolset)
    assert [tool.name for tool in toolset.tools] == ALL  # and nothing was switched before it was noticed


def test_what_an_empty_set_has_is_none():
    with pytest.raises(KeyError, match="no tool 'read'; there are none"):
        SimpleToolset().only("read")


# ==== sets made from sets ====


def test_some_of_the_tools_keep_the_order_of_the_set():
    toolset = files()
    assert names_of(toolset.only("stat", "read", "stat")) == ["read", "stat"]
    assert names_of(toolset.only()) == []
    assert names_of(toolset) == ALL


def test_all_but_some_of_the_tools_keep_their_order():
    toolset = files()
    assert names_of(toolset.without("stat", "read")) == ["write", "delete", "search", "foreign"]
    assert names_of(toolset.without()) == ALL
    assert names_of(toolset) == ALL


def test_a_set_that_was_made_from_another_has_the_tools_that_were_there():
    toolset = files()
    derived = toolset.without("read")
    toolset.remove("write").add(Lines())
    derived.remove("delete")
    assert names_of(derived) == ["write", "search", "stat", "foreign"]
    assert "delete" in toolset


class Spoken(SimpleToolset):
    """A set with something of its own."""

    texts = MarkedTexts()

    def __init__(self, tools: Any, owner: str) -> None:
        super().__init__(tools)
        self.owner = owner


@pytest.mark.parametrize(
    "derive",
    [
        operator.methodcaller("only", "read"),
        operator.methodcaller("without", "read"),
        operator.methodcaller("prefixed", "my_"),
        lambda toolset: toolset | SimpleToolset([Lines()]),  # type: ignore[reportUnknownLambdaType]
        lambda toolset: toolset + Lines(),  # type: ignore[reportUnknownLambdaType]
    ],
    ids=["only", "without", "prefixed", "or", "add"],
)
def test_a_derived_set_is_of_the_same_class_and_keeps_what_that_has(derive: Callable[[Any], Any]):
    toolset = Spoken(files(), "Ada")
    derived = derive(toolset)
    assert type(derived) is Spoken
    assert derived.owner == "Ada"
    assert derived.texts is toolset.texts
    assert names_of(toolset) == ALL


def test_the_operations_go_together():
    toolset = files().only("read", "write").prefixed("fs_") | files().only("read").prefixed("web_")
    assert names_of(toolset) == ["fs_read", "fs_write", "web_read"]
    assert names_of(toolset.without("fs_read")) == ["fs_write", "web_read"]


# ==== other names ====


def test_a_prefixed_tool_has_another_name_and_the_same_definition():
    toolset = files()
    for plain, renamed in zip(toolset, toolset.prefixed("fs_"), strict=True):
        assert renamed.base == plain.base.copy_with(name=f"fs_{plain.base.name}")
        assert renamed.base is renamed.base  # its bytes stay with it
    assert names_of(toolset) == ALL


@pytest.mark.parametrize(
    ("name", "arguments", "output"),
    [
        ("fs_read", '{"path": "a"}', "what a says"),
        ("fs_search", '{"path": "a"}', "found in a"),
        ("fs_stat", '{"path": "a"}', "1 bytes"),
        ("fs_foreign", '{"path": "a"}', "foreign a"),
        ("fs_lines", "[1, 2, 3]", "6"),
    ],
)
async def test_a_prefixed_tool_does_what_the_tool_does(name: str, arguments: str, output: str):
    toolset = (files() + Lines()).prefixed("fs_")
    assert (await toolset.invoke(call_of(name, arguments))).output == output
    result = toolset.handle(call_of(name, arguments))
    assert (await result).return_value.output == output  # type: ignore[reportGeneralTypeIssues]


async def test_what_goes_wrong_in_a_prefixed_tool_goes_wrong_as_in_the_tool():
    toolset = files().prefixed("fs_")
    with pytest.raises(ToolArgumentsError, match="path"):
        await toolset.invoke(call_of("fs_read", "{}"))
    with pytest.raises(WrappedCallException) as caught:
        await toolset.invoke(call_of("fs_read", '{"path": "gone"}'))
    assert isinstance(caught.value.original, FileNotFoundError)
    with pytest.raises(WrappedCallException) as caught:
        await toolset.invoke(call_of("fs_delete"))
    assert isinstance(caught.value.original, ModelRetry)
    unknown: Any = toolset.handle(call_of("read"))
    assert unknown.return_value.message == "Tool `read` not found"


async def test_the_texts_of_an_agent_reach_a_prefixed_function():
    script = [call("fs_write", path="a"), say("Done.")]
    agent = Agent(ScriptedKimi(script), functions=files().prefixed("fs_"))
    said = [message.text async for message in agent.full_round("Write.")]
    assert said[1] == "The function returned no output."
    assert agent.chat_history[2].name == "fs_write"


async def test_a_prefixed_function_is_cut_off_and_ends_the_round_as_the_function_does():
    function = AIFunction(read, after="user", auto_truncate=9, auto_retry=False)
    agent = Agent(
        ScriptedKimi([call("fs_read", path="a long name")]), functions=SimpleToolset([function]).prefixed("fs_")
    )
    said = [message async for message in agent.full_round("Read.")]
    assert len(said) == 2
    assert len(said[1].text) <= 9


async def test_a_prefixed_function_waits_for_its_approval_under_its_name():
    toolset = SimpleToolset([AIFunction(read, approval=True)]).prefixed("fs_")
    agent = Agent(ScriptedKimi([call("fs_read", path="a"), say("Done.")]), functions=toolset)
    with pytest.raises(ApprovalPending) as pending:
        _ = [message async for message in agent.full_round("Read.")]
    assert [each.name for each in pending.value.calls] == ["fs_read"]
    said = [message.text async for message in agent.resume([Approval.approve(each) for each in pending.value.calls])]
    assert said[0] == "what a says"


async def test_a_prefixed_function_has_the_timeout_of_the_function():
    async def hang() -> None:
        """Hang."""
        await asyncio.Event().wait()

    toolset = SimpleToolset([AIFunction(hang, timeout=0.01)]).prefixed("fs_")
    agent = Agent(ScriptedKimi([call("fs_hang"), say("Done.")]), functions=toolset)
    said = [message.text async for message in agent.full_round("Hang.")]
    assert said[1].startswith("Timed out")


class Place(BaseModel):
    path: str


def describe(place: Place) -> str:
    """Describe a place."""
    return place.path


async def test_a_prefixed_function_takes_a_model_whole_as_the_function_does():
    agent = Agent(ScriptedKimi(), functions=SimpleToolset([describe]).prefixed("my_"))
    result = await agent.call_tool("my_describe", Place(path="a"))
    assert result.return_value.output == "a"


@pytest.mark.parametrize(
    "option", ["after", "auto_retry", "auto_truncate", "timeout", "sequential", "approval", "fatal", "in_thread", "own"]
)
def test_every_option_of_a_prefixed_tool_is_that_of_the_tool_at_any_time(option: str):
    stat: Any = Stat()
    (renamed,) = SimpleToolset([stat]).prefixed("fs_")
    setattr(stat, option, "one")
    assert getattr(renamed, option) == "one"
    setattr(stat, option, "two")
    assert getattr(renamed, option) == "two"


def test_what_a_tool_does_not_have_a_prefixed_one_does_not_have():
    (renamed,) = SimpleToolset([Foreign()]).prefixed("fs_")
    assert not hasattr(renamed, "timeout")
    assert not hasattr(renamed, "takes_whole")


def test_a_tool_whose_definition_changes_has_the_new_one_under_the_other_name():
    stat: Any = Stat()
    (renamed,) = SimpleToolset([stat]).prefixed("fs_")
    before = renamed.base
    stat.__dict__["_base"] = stat.base.copy_with(description="Better.")
    assert renamed.base is not before
    assert (renamed.base.name, renamed.base.description) == ("fs_stat", "Better.")


def test_a_name_twice_changed_is_one_name():
    (renamed,) = files().only("read").prefixed("a_").prefixed("b_")
    assert isinstance(renamed, RenamedTool)
    assert renamed.name == "b_a_read"
    assert isinstance(renamed.inner, AIFunction)


@pytest.mark.parametrize("prefix", ["1_", "-", "$", "a b", "ö", "x" * 61, "fs."])
def test_a_prefix_that_makes_a_name_that_kimi_refuses_is_refused(prefix: str):
    with pytest.raises(FunctionSpecError, match="Kimi refuses the tool name"):
        files().prefixed(prefix)


def test_no_prefix_changes_no_name():
    assert names_of(files().prefixed("")) == ALL


def test_a_prefixed_tool_may_be_copied_and_looked_at():
    (renamed,) = files().only("foreign").prefixed("fs_")
    assert copy.copy(renamed).base == renamed.base
    assert copy.deepcopy(renamed).base == renamed.base
    assert "foreign" in repr(renamed)


def test_one_tool_may_be_there_under_several_names():
    toolset = files().only("read")
    both = toolset | toolset.prefixed("fs_")
    both.disable("fs_read")
    assert both.tools == []


# ==== switching ====


@pytest.mark.parametrize("name", ALL)
async def test_any_tool_can_be_switched_off_and_on_and_all_who_have_it_see_it(name: str):
    toolset = files()
    agent = Agent(ScriptedKimi(), functions=toolset)
    derived = toolset.prefixed("fs_")
    assert toolset.disable(name) is toolset
    assert name not in [tool.name for tool in toolset.tools]
    assert f"fs_{name}" not in [tool.name for tool in derived.tools]
    assert name not in [function.base.name for function in await agent.get_enabled_functions()]
    assert toolset.enable(name) is toolset
    assert [tool.name for tool in toolset.tools] == ALL
    assert [function.base.name for function in await agent.get_enabled_functions()] == ALL


def test_a_prefixed_tool_switches_the_tool():
    toolset = files()
    toolset.prefixed("fs_").disable("fs_search", "fs_read")
    assert [tool.name for tool in toolset.tools] == ["write", "delete", "stat", "foreign"]
    (renamed,) = toolset.only("stat").prefixed("fs_")
    renamed.enabled = False  # type: ignore[reportAttributeAccessIssue]
    assert toolset["stat"].enabled is False  # type: ignore[reportAttributeAccessIssue]


def test_switching_a_frozen_tool_leaves_its_value_alone():
    search = Search()
    SimpleToolset([search]).disable("search")
    assert search == Search()
    assert search.model_dump() == Search().model_dump()


@pytest.mark.parametrize("tool", [Closed(), Decided()], ids=["closed", "decided"])
def test_a_tool_that_cannot_be_switched_is_named(tool: Any):
    toolset = SimpleToolset([tool])
    with pytest.raises(FunctionSpecError, match="the tool 'foreign' cannot be disabled from outside"):
        toolset.disable("foreign")
    assert [each.name for each in toolset.tools] == ["foreign"]


async def test_a_disabled_tool_that_is_called_all_the_same_runs():
    toolset = files().disable("stat")
    assert (await toolset.invoke(call_of("stat"))).output == "1 bytes"


async def test_a_tool_may_switch_another_one_during_a_round():
    toolset = files()

    class Curious(Agent):
        @ai_function()
        async def unlock(self) -> str:
            """Allow to write."""
            toolset.enable("write")
            return "unlocked"

    toolset.disable("write")
    provider = ScriptedKimi([Reply(tool_calls=[Call("unlock", "{}")]), say("Now I can.")])
    agent = Curious(provider, functions=toolset.only("read", "write"))
    _ = [message async for message in agent.full_round("Unlock.")]
    offered = [
        {
            tool["function"]["name"]
            for part in (request.body, *request.body["messages"])
            for tool in part.get("tools", ())
        }
        for request in provider.requests
    ]
    assert offered == [{"unlock", "read"}, {"unlock", "read", "write"}]

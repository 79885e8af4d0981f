"""Calls that the program makes itself: the same hook and events as those of a model, and nothing in the history."""

import asyncio
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import BaseModel, Field, RootModel, field_serializer

from kimi_agent import (
    Agent,
    AIFunction,
    BriefDisplayBlock,
    FunctionCallException,
    FunctionCallResult,
    ImageURLPart,
    Message,
    ModelRetry,
    NoSuchFunction,
    TextPart,
    ToolCall,
    ToolCallFinished,
    ToolCallStarted,
    ToolError,
    ToolNotFoundError,
    ToolOk,
    ToolParseError,
    ToolRuntimeError,
    ToolTexts,
    ToolValidateError,
    ai_function,
)
from kimi_agent.history import problems
from kimi_agent.testing import Reply, ScriptedKimi, call, say

PICTURE = ImageURLPart(image_url=ImageURLPart.ImageURL(url="ms://1"))


class Dutch(ToolTexts):
    """Says it in other words."""

    def raised(self, error: BaseException) -> str:
        return f"Mislukt: {error}"


class Shop(Agent):
    """Functions that give all kinds of things, and fail in all kinds of ways."""

    def __init__(self, *script: Any, **options: Any) -> None:
        super().__init__(ScriptedKimi(script or [say("Done.")]), **options)
        self.called: list[Any] = []
        self.events: list[Any] = []
        self.on(ToolCallStarted, self.events.append)
        self.on(ToolCallFinished, self.events.append)

    @ai_function()
    async def price(self, item: str, pieces: int = 1) -> str:
        """What it costs."""
        self.called.append((item, pieces))
        return f"{pieces} {item}: {pieces * 3} euros"

    @ai_function()
    def stock(self) -> dict[str, Any]:
        return {"apples": 3, "pears": ["green", "yellow"]}

    @ai_function()
    async def fail(self, how: str) -> str:
        match how:
            case "retry":
                raise ModelRetry("Ask for something else.")
            case "exit":
                raise SystemExit(3)
            case "interrupt":
                raise KeyboardInterrupt
            case "cancel":
                raise asyncio.CancelledError
            case _:
                raise ValueError(how)

    @ai_function(enabled=False)
    async def secret(self) -> str:
        return "1234"

    @ai_function(auto_truncate=10)
    async def chatter(self) -> str:
        return "a word and another word"

    @ai_function()
    async def nothing(self) -> None:
        pass

    @ai_function()
    async def rich(self) -> ToolOk:
        return ToolOk(output="for the model", message="a note", brief="for the user", extras={"kept": 1})

    @ai_function()
    async def picture(self) -> list[Any]:
        return ["Look:", PICTURE]

    @ai_function()
    async def whole_message(self) -> Message:
        return Message.tool("written by hand", "another id")

    @ai_function(after="user")
    async def ends_the_round(self) -> str:
        return "your turn"

    @ai_function()
    async def endless(self) -> str:
        self.called.append("endless")
        await asyncio.Event().wait()
        return "never"


# ==== what it gives ====


async def test_a_call_gives_a_result_and_leaves_the_conversation_alone():
    agent = Shop()
    used = agent.usage
    result = await agent.call_tool("price", {"item": "apples", "pieces": 2})
    assert result.return_value.output == "2 apples: 6 euros"
    assert not result.return_value.is_error
    assert (agent.chat_history, agent.usage) == ([], used)
    assert await agent.call_tool_raw("price", {"item": "apples", "pieces": 2}) == "2 apples: 6 euros"
    assert agent.called == [("apples", 2)] * 2


async def test_each_call_has_an_id_of_its_own():
    agent = Shop()
    ids = {(await agent.call_tool("stock")).tool_call_id for _ in range(20)}
    assert len(ids) == 20
    assert all(id.startswith("call_") for id in ids)


async def test_the_raw_call_gives_what_a_model_reads():
    agent = Shop()
    asked = Shop(
        Reply(tool_calls=[call(name) for name in ("stock", "nothing", "rich", "picture", "chatter")]), say(".")
    )
    messages = [message.text async for message in asked.full_round("Go.") if message.role == "tool"]
    raw = [await agent.call_tool_raw(name) for name in ("stock", "nothing", "rich", "picture", "chatter")]
    assert raw == messages
    assert raw[0] == '{"apples":3,"pears":["green","yellow"]}'
    assert raw[1] == "The function returned no output."
    assert len(raw[4]) <= 10


async def test_what_a_function_gives_beside_its_text_is_kept():
    value = (await Shop().call_tool("rich")).return_value
    assert value == ToolOk(output="for the model", message="a note", brief="for the user", extras={"kept": 1})
    assert value.display == (BriefDisplayBlock(text="for the user"),)
    assert (await Shop().call_tool("picture")).return_value.output == (TextPart(text="Look:"), PICTURE)


async def test_a_message_that_a_function_wrote_is_its_text():
    assert await Shop().call_tool_raw("whole_message") == "written by hand"


async def test_a_disabled_function_runs():
    assert await Shop().call_tool_raw("secret") == "1234"


async def test_functions_that_are_given_to_an_agent_run_too():
    def double(number: int) -> int:
        return 2 * number

    agent = Shop(functions=[double, AIFunction(double, name="twice")])
    assert (
        await agent.call_tool_raw("double", {"number": 4}) == await agent.call_tool_raw("twice", {"number": 4}) == "8"
    )


# ==== what it is called with ====


class Order(BaseModel):
    item: str
    pieces: int = 1


class Renamed(BaseModel):
    what: str = Field(serialization_alias="item")


@dataclass
class Wanted:
    item: str
    pieces: int = 1


@dataclass(slots=True, frozen=True)
class Slotted:
    item: str


@pytest.mark.parametrize(
    "args",
    [
        {"item": "pears"},
        MappingProxyType({"item": "pears"}),
        Order(item="pears"),
        Renamed(what="pears"),
        RootModel[dict[str, str]]({"item": "pears"}),
        Wanted("pears"),
        Slotted("pears"),
        '{"item": "pears"}',
        ' {"item":\n"pears", "pieces": "1"}',
    ],
)
async def test_arguments_may_have_many_forms(args: Any):
    assert await Shop().call_tool_raw("price", args) == "1 pears: 3 euros"


async def test_no_arguments_are_an_empty_object():
    agent = Shop()
    assert [await agent.call_tool_raw("secret", args) for args in (None, {}, "", "{}", "null")] == ["1234"] * 5
    assert agent.events[0].call.arguments == "{}"


async def test_what_is_inside_of_the_arguments_may_be_anything_that_has_json():
    seen: list[Any] = []

    async def note(deep: dict[str, Any], number: float) -> None:
        seen.append((deep, number))

    agent = Shop(functions=[note])
    deep = MappingProxyType({"order": Order(item="a"), "set": {1}, "tuple": (Wanted("b"),), "text": "é\n\u2028"})
    await agent.call_tool("note", {"deep": deep, "number": float("inf")})
    assert seen == [
        (
            {
                "order": {"item": "a", "pieces": 1},
                "set": [1],
                "tuple": [{"item": "b", "pieces": 1}],
                "text": "é\n\u2028",
            },
            float("inf"),
        )
    ]


class Unwritable(BaseModel):
    item: str

    @field_serializer("item")
    def _refuse(self, item: str) -> str:
        raise RuntimeError("not this one")


def looped() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    return loop


@pytest.mark.parametrize(
    "args",
    [{"item": object()}, {"item": "\ud800"}, {"item": b"\xff"}, {"item": lambda: 1}, looped(), Unwritable(item="a")],
)
async def test_arguments_that_are_no_json_are_an_error_that_names_the_function(args: Any):
    agent = Shop()
    with pytest.raises(TypeError, match="the arguments of 'price' cannot be written as JSON"):
        await agent.call_tool("price", args)
    assert (agent.called, agent.events) == ([], [])


@pytest.mark.parametrize("args", [1, [1], ("item", "pears"), b"{}", object(), Order, Wanted, {1, 2}])
async def test_arguments_of_another_kind_are_an_error_that_says_what_they_may_be(args: Any):
    with pytest.raises(TypeError, match="'price' is called with a mapping, a model, a dataclass or JSON, not with"):
        await Shop().call_tool_raw("price", args)


# ==== what goes wrong ====


async def test_an_unknown_name_is_an_error_that_names_the_functions():
    agent = Agent(ScriptedKimi([]), functions=[looped])
    with pytest.raises(NoSuchFunction, match="no function named 'prize'; there are looped") as caught:
        await agent.call_tool("prize")
    assert caught.value.name == "prize"
    with pytest.raises(NoSuchFunction, match="there are none"):
        await Agent(ScriptedKimi([])).call_tool_raw("prize")


@pytest.mark.parametrize(
    ("args", "kind", "text"),
    [
        ('{"item": ', ToolParseError, "not valid JSON"),
        ("[1]", ToolValidateError, "must be a JSON object, not an array"),
        ({}, ToolValidateError, "item"),
        ({"item": "a", "pieces": "many"}, ToolValidateError, "pieces"),
        (RootModel[list[int]]([1]), ToolValidateError, "must be a JSON object, not an array"),
    ],
)
async def test_arguments_that_do_not_fit_are_a_result(args: Any, kind: type[ToolError], text: str):
    value = (await Shop().call_tool("price", args)).return_value
    assert isinstance(value, kind)
    assert text in value.message
    assert text in await Shop().call_tool_raw("price", args)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("no stock", "Error: ValueError: no stock"),
        ("retry", "Ask for something else."),
        ("exit", "Error: SystemExit: 3"),
        ("interrupt", "Error: KeyboardInterrupt"),
        ("cancel", "Error: CancelledError"),
    ],
)
async def test_what_a_function_raises_is_a_result(how: str, text: str):
    agent = Shop()
    result = await agent.call_tool("fail", {"how": how})
    assert isinstance(result.return_value, ToolError)
    assert result.return_value.message == text
    assert await agent.call_tool_raw("fail", {"how": how}) == text


async def test_what_went_wrong_is_said_in_the_words_of_the_agent():
    agent = Shop()
    agent.texts = Dutch()
    assert await agent.call_tool_raw("fail", {"how": "op"}) == "Mislukt: op"


async def test_what_went_wrong_is_no_longer_than_the_function_says():
    @ai_function(auto_truncate=20)
    async def shout() -> str:
        raise ValueError("a" * 100)

    assert len(await Shop(functions=[shout]).call_tool_raw("shout")) <= 20


async def test_a_cancel_goes_on():
    agent = Shop()
    calling = asyncio.create_task(agent.call_tool("endless"))
    while not agent.called:
        await asyncio.sleep(0)
    calling.cancel()
    await asyncio.wait([calling])
    assert calling.cancelled()
    assert [type(event) for event in agent.events] == [ToolCallStarted]
    assert len(asyncio.all_tasks()) == 1


async def test_a_timeout_around_a_call_is_a_timeout():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await Shop().call_tool("endless")


# ==== the hook ====


class Guarded(Shop):
    """Lets no more than two apples out, and hides prices."""

    async def do_function_call(self, call: ToolCall) -> FunctionCallResult:
        if call.name == "secret":
            raise PermissionError("not for you")
        if call.name == "stock":
            raise FunctionCallException(False, "closed today")
        result = await super().do_function_call(call)
        if call.name == "price":
            return replace(result, message=result.message.copy_with(content="a price"))
        return result


async def test_a_guard_in_the_hook_holds():
    agent = Guarded()
    refused = await agent.call_tool("secret")
    assert isinstance(refused.return_value, ToolRuntimeError)
    assert await agent.call_tool_raw("secret") == "Error: PermissionError: not for you"
    assert "closed today" in await agent.call_tool_raw("stock")


async def test_what_a_hook_makes_of_the_message_is_the_result():
    agent = Guarded()
    args = {"item": "apples"}
    assert await agent.call_tool_raw("price", args) == "a price"
    value = (await agent.call_tool("price", args)).return_value
    assert (value.output, value.is_error) == ("a price", False)
    assert (await agent.call_tool("rich")).return_value.brief == "for the user"


async def test_a_hook_that_gives_a_message_alone_gives_a_result():
    class Own(Shop):
        async def do_function_call(self, call: ToolCall) -> FunctionCallResult:
            if call.name == "picture":
                return FunctionCallResult(True, Message.tool(["Look:", PICTURE], "other"))
            return FunctionCallResult(True, Message.tool("no", "other", is_tool_call_error=True))

    agent = Own()
    result = await agent.call_tool("price", {"item": "apples"})
    assert (result.return_value.is_error, result.return_value.output) == (True, "no")
    assert result.tool_call_id != "other"
    assert (await agent.call_tool("picture")).return_value.output == (TextPart(text="Look:"), PICTURE)
    assert agent.events[-1].message.tool_call_id == agent.events[-1].call.id


async def test_a_function_that_the_hook_does_not_find_is_a_result():
    class Fickle(Shop):
        async def do_function_call(self, call: ToolCall) -> FunctionCallResult:
            raise NoSuchFunction(call.name)

    assert isinstance((await Fickle().call_tool("stock")).return_value, ToolNotFoundError)


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit])
async def test_what_ends_the_program_goes_through_when_a_hook_raises_it(error: type[BaseException]):
    class Ending(Shop):
        async def do_function_call(self, call: ToolCall) -> FunctionCallResult:
            raise error

    with pytest.raises(error):
        await Ending().call_tool("stock")


# ==== events ====


async def test_handlers_are_told_of_the_call_and_of_its_result():
    agent = Shop()
    result = await agent.call_tool("price", {"item": "apples"})
    started, finished = agent.events
    assert started == ToolCallStarted(finished.call)
    assert (started.call.id, started.call.name) == (result.tool_call_id, "price")
    assert started.call.args == {"item": "apples"}
    assert finished.message == Message.tool("1 apples: 3 euros", started.call.id, name="price")
    assert finished.duration >= 0


async def test_handlers_are_told_of_a_call_that_went_wrong():
    agent = Shop()
    await agent.call_tool("fail", {"how": "so"})
    assert agent.events[-1].message.is_tool_call_error
    assert agent.events[-1].message.text == "Error: ValueError: so"


async def test_what_a_strict_handler_raises_is_no_result():
    agent = Shop(strict_hooks=True)
    agent.on(ToolCallStarted, lambda event: 1 // 0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ZeroDivisionError):
        await agent.call_tool("stock")
    with pytest.raises(ZeroDivisionError):
        async for _ in agent.map_tool("secret", [None] * 100):
            pass
    assert len(agent.events) < 50


# ==== where it may be called ====


class Busy(Shop):
    """Calls a function from wherever it can."""

    def __init__(self, *script: Any) -> None:
        super().__init__(*script)
        self.said: list[str] = []

    @ai_function()
    async def outer(self, item: str) -> str:
        """Ask for a price."""
        return "inside: " + await self.call_tool_raw("price", {"item": item})

    async def add_to_history(self, message: Message) -> None:
        self.said.append(await self.call_tool_raw("secret"))
        await super().add_to_history(message)


async def test_a_tool_and_a_hook_may_call_a_function_of_their_agent():
    agent = Busy(Reply(tool_calls=[call("outer", item="apples"), call("outer", item="pears")]), say("Cheap."))
    messages = [message async for message in agent.full_round("Apples and pears?")]
    assert [message.text for message in messages[1:]] == [
        "inside: 1 apples: 3 euros",
        "inside: 1 pears: 3 euros",
        "Cheap.",
    ]
    assert agent.said == ["1234"] * 5
    assert [message.role for message in agent.chat_history] == ["user", "assistant", "tool", "tool", "assistant"]
    assert problems(agent.chat_history) == []


async def test_a_function_may_be_called_between_the_messages_of_a_round_and_while_one_streams():
    agent = Shop(Reply("Let me see.", tool_calls=[call("stock")]), say("Enough."))
    raw: list[str] = []
    async for stream in agent.full_round_stream("How many?"):
        raw.append(await agent.call_tool_raw("secret"))
        async for _ in stream:
            raw.append(await agent.call_tool_raw("secret"))
    assert len(raw) > 4
    assert set(raw) == {"1234"}
    assert [message.role for message in agent.chat_history] == ["user", "assistant", "tool", "assistant"]
    assert problems(agent.chat_history) == []


async def test_a_function_may_be_called_while_another_task_has_the_turn():
    agent = Shop(Reply(tool_calls=[call("endless")]))

    async def read() -> None:
        async for _ in agent.full_round("Go."):
            pass

    reading = asyncio.create_task(read())
    while not agent.called:
        await asyncio.sleep(0)
    assert await agent.call_tool_raw("secret") == "1234"
    reading.cancel()
    await asyncio.wait([reading])
    assert problems(agent.chat_history) == []


async def test_calls_of_the_program_do_not_count_as_calls_of_the_model():
    agent = Shop(Reply(tool_calls=[call("stock")]), say("Enough."))
    async for _ in agent.full_round("Go."):
        await agent.call_tool("secret")
    assert agent.usage.tool_calls == 1


async def test_many_calls_may_run_side_by_side():
    agent = Shop()
    given = await asyncio.gather(*(agent.call_tool_raw("price", {"item": "a", "pieces": n}) for n in range(50)))
    assert given == [f"{n} a: {3 * n} euros" for n in range(50)]


async def test_a_function_with_a_single_parameter_of_the_type_takes_a_model_whole():
    class Title(BaseModel):
        text: str

    @dataclass
    class Place:
        name: str

    def shelve(book: Title) -> str:
        return book.text

    def visit(place: Place) -> str:
        return place.name

    def spread(text: str) -> str:
        return text

    agent = Agent(ScriptedKimi([]), functions=[shelve, visit, spread])
    assert await agent.call_tool_raw("shelve", Title(text="Emma")) == "Emma"
    assert await agent.call_tool_raw("shelve", {"book": {"text": "Emma"}}) == "Emma"
    assert await agent.call_tool_raw("visit", Place("Oslo")) == "Oslo"
    assert await agent.call_tool_raw("spread", Title(text="Emma")) == "Emma"

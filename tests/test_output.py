"""Answers of a given type: what is asked for, what is checked, and what becomes of an answer that does not fit."""

import asyncio
import json
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator
from typing_extensions import TypedDict

from kimi_agent import (
    Agent,
    APIEmptyResponseError,
    Message,
    RoundFinished,
    RoundInProgressError,
    StructuredOutputError,
    ToolTexts,
    ai_function,
    mfjs_errors,
)
from kimi_agent.history import problems
from kimi_agent.structured import output as room
from kimi_agent.structured.output import Shape
from kimi_agent.testing import Reply, ScriptedKimi, call, say


class Forecast(BaseModel):
    city: str
    celsius: int = Field(ge=-90, le=60)


class Node(BaseModel):
    name: str
    below: list["Node"] = []


@dataclass
class Place:
    name: str


class Pair(TypedDict):
    a: int
    b: int


OSLO = '{"city":"Oslo","celsius":4}'
HALF = '{"city":"Oslo"}'


class Weather(Agent):
    @ai_function()
    async def get_weather(self, city: str) -> str:
        """Current weather of a city."""
        return f"{city}: 4"


def asked(kimi: ScriptedKimi, position: int = -1) -> Any:
    return kimi.requests[position].body.get("response_format")


async def snapshots(stream: Any) -> list[Any]:
    return [item async for item in stream]


# ==== what is asked for ====


async def test_an_answer_is_an_object_of_the_type():
    kimi = ScriptedKimi([say(OSLO)])
    agent = Agent(kimi)
    assert await agent.structured(Forecast, "Oslo?") == Forecast(city="Oslo", celsius=4)
    assert [message.role for message in agent.chat_history] == ["user", "assistant"]
    kimi.assert_complete()


async def test_the_model_is_asked_for_the_schema_of_the_type():
    kimi = ScriptedKimi([say(OSLO)])
    await Agent(kimi).structured(Forecast, "Oslo?")
    wanted = asked(kimi)
    assert (wanted["type"], wanted["json_schema"]["name"], wanted["json_schema"]["strict"]) == (
        "json_schema",
        "Forecast",
        True,
    )
    schema = wanted["json_schema"]["schema"]
    assert schema["required"] == ["city", "celsius"]
    assert schema["properties"]["celsius"] == {"type": "integer", "minimum": -90, "maximum": 60, "title": "Celsius"}
    assert mfjs_errors(schema) == []


@pytest.mark.parametrize(
    ("kind", "answer", "value"),
    [
        (Forecast, OSLO, Forecast(city="Oslo", celsius=4)),
        (Place, '{"name":"Oslo"}', Place("Oslo")),
        (Pair, '{"a":1,"b":2}', {"a": 1, "b": 2}),
        (dict[str, int], '{"x":1}', {"x": 1}),
        (Node, '{"name":"a","below":[{"name":"b"}]}', Node(name="a", below=[Node(name="b")])),
        (list[Forecast], f'{{"value":[{OSLO}]}}', [Forecast(city="Oslo", celsius=4)]),
        (int, '{"value":7}', 7),
        (bool, '{"value":true}', True),
        (Literal["yes", "no"], '{"value":"no"}', "no"),
        (Forecast | Place, '{"value":{"name":"Oslo"}}', Place("Oslo")),
        (Annotated[list[int], Field(max_length=2)], '{"value":[1,2]}', [1, 2]),
        (Annotated[int, ["a note that cannot be hashed"]], '{"value":1}', 1),
        (int | None, '{"value":null}', None),
    ],
    ids=str,
)
async def test_any_type_that_pydantic_describes_will_do(kind: Any, answer: str, value: Any):
    kimi = ScriptedKimi([say(answer), say(answer)])
    agent = Agent(kimi)
    assert await agent.structured(kind, "?") == value
    assert (await snapshots(agent.structured_stream(kind, "?")))[-1] == value
    schema = asked(kimi)["json_schema"]["schema"]
    assert mfjs_errors(schema) == []


async def test_a_type_that_is_no_json_is_refused_before_anything_is_said():
    kimi = ScriptedKimi([])
    agent = Agent(kimi)
    with pytest.raises(TypeError, match=r"Callable.*cannot be described as JSON"):
        await agent.structured(Callable[[int], int], "?")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"object.*cannot be described"):
        agent.structured_stream(type("object_of_mine", (), {}), "?")
    assert agent.chat_history == []
    assert kimi.requests == []


@pytest.mark.parametrize(
    "given",
    [{"response_format": {"type": "text"}}, {"format": SimpleNamespace(message=Message.system("Write a list."))}],
    ids=str,
)
async def test_the_shape_is_said_once(given: dict[str, Any]):
    agent = Agent(ScriptedKimi([]))
    with pytest.raises(TypeError, match=f"leave out {next(iter(given))}"):
        await agent.structured(Forecast, "?", **given)
    with pytest.raises(TypeError, match="leave out"):
        agent.structured_stream(Forecast, "?", **given)


async def test_other_overrides_go_with_every_request_and_unknown_ones_are_refused():
    kimi = ScriptedKimi([say(HALF), say(OSLO)])
    agent = Agent(kimi)
    await agent.structured(Forecast, "Oslo?", max_completion_tokens=777)
    assert [request.body["max_completion_tokens"] for request in kimi.requests] == [777, 777]
    with pytest.raises(TypeError, match="repairs"):
        await agent.structured(Forecast, "Oslo?", repairs=2)  # pyright: ignore[reportCallIssue]
    with pytest.raises(ValueError, match="repair_attempts"):
        await agent.structured(Forecast, "Oslo?", repair_attempts=-1)


async def test_the_model_may_call_functions_first():
    kimi = ScriptedKimi([call("get_weather", city="Oslo"), say(OSLO)])
    agent = Weather(kimi)
    assert await agent.structured(Forecast, "Oslo?") == Forecast(city="Oslo", celsius=4)
    assert [message.role for message in agent.chat_history] == ["user", "assistant", "tool", "assistant"]
    assert asked(kimi, 0) == asked(kimi, 1)


async def test_without_function_rounds_left_the_model_answers():
    kimi = ScriptedKimi([call("get_weather", city="Oslo"), say(OSLO)])
    agent = Weather(kimi)
    await agent.structured(Forecast, "Oslo?", max_function_rounds=1)
    assert [request.body.get("tool_choice") for request in kimi.requests] == [None, "none"]


# ==== what does not fit ====


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_is_wrong_is_said_to_the_model(streamed: bool):
    kimi = ScriptedKimi([say(HALF), say('{"city":"Oslo","celsius":100}'), say(OSLO)])
    agent = Agent(kimi)
    if streamed:
        value = (await snapshots(agent.structured_stream(Forecast, "Oslo?", repair_attempts=2)))[-1]
    else:
        value = await agent.structured(Forecast, "Oslo?", repair_attempts=2)
    assert value == Forecast(city="Oslo", celsius=4)
    assert [message.role for message in agent.chat_history] == ["user", "assistant"] * 3
    assert "celsius: Field required" in agent.chat_history[2].text
    assert "celsius: Input should be less than or equal to 60" in agent.chat_history[4].text
    assert all(asked(kimi, position) for position in range(3))


@pytest.mark.parametrize("streamed", [False, True])
async def test_when_no_attempt_is_left_it_is_an_error_with_the_text(streamed: bool):
    agent = Agent(ScriptedKimi([say(OSLO[:-1]), say(HALF), say("hello")]))
    finished: list[RoundFinished] = []
    agent.on(RoundFinished, finished.append)
    with pytest.raises(StructuredOutputError, match="no Forecast: celsius: Field required") as caught:
        if streamed:
            await snapshots(agent.structured_stream(Forecast, "Oslo?"))
        else:
            await agent.structured(Forecast, "Oslo?")
    assert caught.value.raw == HALF
    assert isinstance(caught.value.__cause__, ValidationError)
    assert [message.text for message in agent.chat_history][1::2] == [OSLO[:-1], HALF]
    assert [event.outcome for event in finished] == ["failed"]
    assert await agent.chat_round_str("And now?") == "hello"


async def test_without_attempts_the_first_answer_counts():
    kimi = ScriptedKimi([say(HALF)])
    with pytest.raises(StructuredOutputError):
        await Agent(kimi).structured(Forecast, "Oslo?", repair_attempts=0)
    assert len(kimi.requests) == 1


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_an_answer_that_was_cut_off_is_not_asked_for_again(reason: Any):
    kimi = ScriptedKimi([Reply(OSLO, finish_reason=reason)])
    with pytest.raises(StructuredOutputError, match=f"cut off \\({reason}\\)") as caught:
        await Agent(kimi).structured(Forecast, "Oslo?", repair_attempts=5)
    assert caught.value.raw == OSLO
    assert len(kimi.requests) == 1


async def test_a_round_that_ends_with_calls_has_no_object():
    class Ends(Agent):
        @ai_function(after="user")
        async def give_up(self) -> str:
            """Leave it."""
            return "left"

    for streamed in (False, True):
        agent = Ends(ScriptedKimi([call("give_up")]))
        with pytest.raises(StructuredOutputError, match="ended with calls, and without the Forecast"):
            await (snapshots(agent.structured_stream(Forecast, "?")) if streamed else agent.structured(Forecast, "?"))
        assert problems(agent.chat_history) == []


async def test_what_the_model_is_told_can_be_said_differently():
    class Brusque(ToolTexts):
        def wrong_shape(self, error: StructuredOutputError) -> str:
            return f"No. {error.raw}"

    agent = Agent(ScriptedKimi([say(HALF), say(OSLO)]))
    agent.texts = Brusque()
    await agent.structured(Forecast, "Oslo?")
    assert agent.chat_history[2] == Message.user(f"No. {HALF}")


async def test_a_thousand_wrong_fields_are_not_told_one_by_one():
    answer = json.dumps({"value": ["x"] * 1000})
    agent = Agent(ScriptedKimi([say(answer), say('{"value":[1]}')]))
    assert await agent.structured(list[int], "?") == [1]
    assert "and 980 more" in agent.chat_history[2].text
    assert len(agent.chat_history[2].text) < 3000


AROUND = ["```json\n{}\n```", "\n```\n{}```\n", "  {}\n", "```json {} ```", "\ufeff{}", "~~~\n{}\n~~~"]
AROUND += ["Here is the JSON:\n```json\n{}\n```\nHope this helps!", "<think>x</think>{}\n\nDone."]


@pytest.mark.parametrize("around", AROUND)
async def test_what_stands_around_the_json_is_passed_over(around: str):
    fenced = around.replace("{}", OSLO)
    agent = Agent(ScriptedKimi([say(fenced), say(fenced)]))
    assert await agent.structured(Forecast, "?", repair_attempts=0) == Forecast(city="Oslo", celsius=4)
    found = await snapshots(agent.structured_stream(Forecast, "?", repair_attempts=0))
    assert found[-1] == Forecast(city="Oslo", celsius=4)
    assert len(found) > 1


async def test_types_that_are_equal_and_read_otherwise_are_told_apart():
    class Cat(BaseModel):
        name: str

    class Dog(BaseModel):
        name: str

    answer = '{"value":{"name":"x"}}'
    agent = Agent(ScriptedKimi([say(answer)] * 3))
    assert type(await agent.structured(Cat | Dog, "?")) is Cat
    assert type(await agent.structured(Dog | Cat, "?")) is Dog
    assert type(await agent.structured(list[Dog | Cat] | Dog, "?")) is Dog


async def test_an_error_of_a_validator_is_not_for_the_model():
    class Broken(BaseModel):
        city: str

        @field_validator("city")
        @classmethod
        def look(cls, value: str) -> str:
            raise RuntimeError("the map is gone")

    agent = Agent(ScriptedKimi([say(OSLO), say("hello")]))
    with pytest.raises(StructuredOutputError, match="RuntimeError: the map is gone") as caught:
        await agent.structured(Broken, "?")
    assert (caught.value.raw, type(caught.value.__cause__)) == (OSLO, RuntimeError)
    assert await agent.chat_round_str("And now?") == "hello"


async def test_an_empty_answer_is_the_error_that_it_always_is():
    with pytest.raises(APIEmptyResponseError):
        await Agent(ScriptedKimi([say("")])).structured(Forecast, "?")


# ==== while it arrives ====


async def test_snapshots_grow_and_the_object_comes_last():
    kimi = ScriptedKimi([Reply('{"city":"Oslo","notes":["cold","wet"],"celsius":4}', chunk_size=1)])

    class Notes(Forecast):
        notes: list[str]

    found = await snapshots(Agent(kimi).structured_stream(Notes, "?"))
    assert found[-1] == Notes(city="Oslo", celsius=4, notes=["cold", "wet"])
    partial = found[:-1]
    assert all(isinstance(item, dict) for item in partial)
    assert partial[-1] == {"city": "Oslo", "notes": ["cold", "wet"], "celsius": 4}
    assert any(len(item.get("notes", [])) == 1 for item in partial)
    assert {"city": "Os"} in partial
    cities = [item["city"] for item in partial if "city" in item]
    assert all("Oslo".startswith(city) for city in cities)
    assert all(before != after for before, after in pairwise(partial))


async def test_the_snapshots_of_a_value_that_is_no_object_are_its_own():
    found = await snapshots(Agent(ScriptedKimi([say('{"value":[1,2,3]}')])).structured_stream(list[int], "?"))
    assert found[-1] == [1, 2, 3]
    assert all(isinstance(item, list) for item in found)


async def test_text_that_is_no_json_has_no_snapshots():
    agent = Agent(ScriptedKimi([say("It is four degrees."), say(OSLO)]))
    found = await snapshots(agent.structured_stream(Forecast, "?"))
    assert all(isinstance(item, dict) for item in found[:-1])
    assert found[-1] == Forecast(city="Oslo", celsius=4)


async def test_results_of_calls_are_no_snapshots():
    agent = Weather(ScriptedKimi([call("get_weather", city="Oslo"), say(OSLO)]))
    found = await snapshots(agent.structured_stream(Forecast, "?"))
    assert found[-1] == Forecast(city="Oslo", celsius=4)
    assert all("city" in item or item == {} for item in found[:-1])


async def test_a_long_answer_is_not_read_anew_at_each_piece(monkeypatch: pytest.MonkeyPatch):
    read: list[int] = []

    def counting(self: Shape[Any], text: str) -> Any:
        read.append(len(text))
        return so_far(self, text)

    so_far = Shape.so_far
    monkeypatch.setattr(room.Shape, "so_far", counting)
    text = json.dumps({"value": ["word " * 20] * 400})
    found = await snapshots(Agent(ScriptedKimi([say(text)])).structured_stream(list[str], "?"))
    assert len(found[-1]) == 400
    assert len(read) < 600
    assert sum(read) < 60 * len(text)


async def test_leaving_the_stream_gives_the_turn_back():
    agent = Agent(ScriptedKimi([say(OSLO), say("hello")]))
    async for _ in agent.structured_stream(Forecast, "?"):
        break
    assert await agent.chat_round_str("And now?") == "hello"
    assert problems(agent.chat_history) == []


async def test_a_repair_is_within_the_turn():
    first = asyncio.Event()
    waiting: list[asyncio.Task[str]] = []

    async def answer(body: dict[str, Any]) -> Reply:
        if not first.is_set():
            first.set()
            waiting.append(asyncio.create_task(agent.chat_round_str("Another question."), context=Context()))
            await asyncio.sleep(0)
            return say(HALF)
        return say(OSLO)

    agent = Agent(ScriptedKimi(answer))
    await agent.structured(Forecast, "Oslo?")
    await waiting[0]
    assert [message.text for message in agent.chat_history if message.role == "user"][0::2] == [
        "Oslo?",
        "Another question.",
    ]


async def test_a_function_of_the_round_cannot_ask_for_another_one():
    class Nested(Agent):
        @ai_function()
        async def look(self) -> str:
            """Look."""
            try:
                await self.structured(Forecast, "?")
            except RoundInProgressError:
                return "busy"
            return "free"

    agent = Nested(ScriptedKimi([call("look"), say(OSLO)]))
    await agent.structured(Forecast, "?")
    assert agent.chat_history[2].text == "busy"

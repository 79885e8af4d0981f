"""The offline stand-in calls the tools that it is given and repeats what they say."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_agent.testing import Reply, check_request, persona

Body = dict[str, Any]

TEXT = {"type": "string"}
NUMBER = {"type": "number"}


def tool(name: str, description: str, properties: Body, required: list[str] | None = None, **schema: Any) -> Body:
    needed = list(properties) if required is None else required
    parameters = {"type": "object", "properties": properties, "required": needed, **schema}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


CALCULATE = tool("calculate", "Evaluate arithmetic.", {"expression": TEXT})
WEATHER = tool(
    "get_weather",
    "Current weather of a city.",
    {"city": {"type": "string", "description": "City, in English"}, "unit": {"type": "string", "enum": ["c", "f"]}},
    ["city"],
)
ADD = tool("add", "", {"a": NUMBER, "b": NUMBER})
MULTIPLY = tool("multiply", "", {"a": NUMBER, "b": NUMBER})
CLOCK = tool("get_time", "The time now.", {})
TRANSLATE = tool("translate", "Translate a text.", {"text": TEXT, "language": TEXT})
SEARCH = tool("search_web", "Search the web.", {"query": TEXT})
MAIL = tool("send_email", "Send an e-mail.", {"to": TEXT, "subject": TEXT, "body": TEXT})
ALL = [MAIL, CALCULATE, WEATHER, ADD, CLOCK, TRANSLATE, SEARCH, MULTIPLY]


def ask(question: Any, *tools: Body, **fields: Any) -> Reply:
    messages = [{"role": "user", "content": question}]
    return persona({"model": "kimi-k3", "messages": messages, "tools": list(tools), **fields})


def called(reply: Reply) -> list[tuple[str, Body]]:
    return [(call.name, json.loads(call.arguments)) for call in reply.tool_calls]


def played(question: str, results: dict[str, str], *tools: Body) -> str:
    """Ask, answer every call by the name of its tool, and return what the persona makes of it."""
    messages: list[Body] = [{"role": "system", "content": "Be terse."}, {"role": "user", "content": question}]
    reply = persona({"messages": messages, "tools": list(tools)})
    made = [
        {"id": f"{n}", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for n, call in enumerate(reply.tool_calls)
    ]
    messages.append({"role": "assistant", "reasoning_content": " ", "tool_calls": made})
    messages += [
        {"role": "tool", "tool_call_id": f"{n}", "content": results[call.name]}
        for n, call in enumerate(reply.tool_calls)
    ]
    body = {"model": "kimi-k3", "messages": messages, "tools": list(tools)}
    assert check_request(body) is None
    answer = persona(body)
    assert not answer.tool_calls
    return answer.text


@pytest.mark.parametrize(
    ("question", "calls"),
    [
        ("what is 17 * 23?", [("calculate", {"expression": "17 * 23"})]),
        ("what is 12 plus 7", [("calculate", {"expression": "12 + 7"})]),
        ("Please compute (2 + 3) * 4.", [("calculate", {"expression": "(2 + 3) * 4"})]),
        ("(by the way, what is 6 x 7)", [("calculate", {"expression": "6 * 7"})]),
        ("what is two plus two?", [("calculate", {"expression": "2 + 2"})]),
        ("3*4 and 10 / 4?", [("calculate", {"expression": "3*4"}), ("calculate", {"expression": "10 / 4"})]),
        ("Which is warmer, Oslo or Bergen?", [("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Bergen"})]),
        ("Oslo or Bergen?", [("get_weather", {"city": "Oslo"}), ("get_weather", {"city": "Bergen"})]),
        ("Weather in Oslo", [("get_weather", {"city": "Oslo"})]),
        ("weather in oslo, please", [("get_weather", {"city": "oslo"})]),
        ("What's the weather in New York in F?", [("get_weather", {"city": "New York", "unit": "f"})]),
        ("Is Oslo warm?", [("get_weather", {"city": "Oslo"})]),
        ("what time is it?", [("get_time", {})]),
        ("Add 3 and 4.5", [("add", {"a": 3, "b": 4.5})]),
        (
            "multiply 12345678901234567890 by -2",
            [("multiply", {"a": 12345678901234567890, "b": -2})],
        ),
        (
            'Translate "good morning" to French',
            [("translate", {"text": "good morning", "language": "French"})],
        ),
        ("search for the best pizza in town", [("search_web", {"query": "the best pizza in town"})]),
    ],
)
def test_it_calls_the_tool_that_fits(question: str, calls: list[tuple[str, Body]]) -> None:
    reply = ask(question, *ALL)
    assert called(reply) == calls
    assert reply.text == ""


@pytest.mark.parametrize("question", ["hi", "Hello, my name is Ada.", "Thanks a lot!", "…", "What is love?"])
def test_without_a_fitting_tool_it_says_who_it_is_and_repeats_what_was_asked(question: str) -> None:
    reply = ask(question, *ALL)
    assert not reply.tool_calls
    assert "offline stand-in" in reply.text
    assert question in reply.text


def test_without_tools_it_answers_in_text() -> None:
    assert "17 * 23" in ask("what is 17 * 23?").text


def test_calls_that_are_not_allowed_are_not_made() -> None:
    reply = ask("Weather in Oslo", WEATHER, tool_choice="none")
    assert not reply.tool_calls
    assert reply.text


def test_a_call_that_is_required_is_made_whatever_was_said() -> None:
    assert [name for name, _ in called(ask("hello", WEATHER, tool_choice="required"))] == ["get_weather"]
    (made,) = called(ask("hello", ADD, tool_choice="required"))
    assert made == ("add", {"a": 0, "b": 0})


def test_it_knows_no_tool_by_name() -> None:
    strange = tool("zork", "", {"formula": TEXT})
    assert called(ask("what is 17 * 23?", strange)) == [("zork", {"formula": "17 * 23"})]
    strange = tool("blorb", "How a place is called by wizards.", {"place": TEXT})
    assert called(ask("How do wizards call this place, Oslo?", strange)) == [("blorb", {"place": "Oslo"})]


def test_numbers_choose_the_tool_of_their_operator() -> None:
    assert called(ask("what is 12 plus 7?", MULTIPLY, ADD)) == [("add", {"a": 12, "b": 7})]
    assert called(ask("what is 12 * 7?", ADD, MULTIPLY)) == [("multiply", {"a": 12, "b": 7})]


def test_optional_arguments_are_given_when_the_text_speaks_of_them() -> None:
    forecast = tool(
        "forecast", "", {"city": TEXT, "days": {"type": "integer"}, "hourly": {"type": "boolean"}}, ["city"]
    )
    assert called(ask("forecast for Oslo", forecast)) == [("forecast", {"city": "Oslo"})]
    assert called(ask("hourly forecast for 3 days in Oslo and Bergen", forecast)) == [
        ("forecast", {"city": "Oslo", "days": 3, "hourly": True}),
        ("forecast", {"city": "Bergen", "days": 3, "hourly": True}),
    ]


def test_a_number_belongs_to_the_word_after_it() -> None:
    integer = {"type": "integer"}
    dice = tool("roll_dice", "Roll dice.", {"dice": integer, "sides": integer}, [])
    assert called(ask("Roll two dice with 20 sides", dice)) == [("roll_dice", {"dice": 2, "sides": 20})]
    assert called(ask("Roll a die with 20 sides and roll the dice", dice)) == [("roll_dice", {"sides": 20})]


def test_dates_are_values() -> None:
    day = tool("weekday_of", "The weekday of a date.", {"date": {"type": "string", "format": "date"}})
    assert called(ask("Which weekday is 2026-12-24?", day)) == [("weekday_of", {"date": "2026-12-24"})]


def test_references_alternatives_and_lists_are_understood() -> None:
    paint = tool(
        "paint",
        "",
        {
            "color": {"$ref": "#/$defs/Color"},
            "rooms": {"type": "array", "items": TEXT},
            "coats": {"anyOf": [{"type": "null"}, {"type": "integer"}]},
        },
        **{"$defs": {"Color": {"type": "string", "enum": ["red", "blue"]}}},
    )
    assert called(ask("paint Kitchen and Hall blue, 2 coats", paint)) == [
        ("paint", {"color": "blue", "rooms": ["Kitchen", "Hall"], "coats": 2})
    ]


def test_a_schema_that_goes_in_circles_ends() -> None:
    node = {"$ref": "#/$defs/Node"}
    circular = tool("grow", "", {"node": node}, **{"$defs": {"Node": node}})
    assert isinstance(ask("grow Oak", circular), Reply)


def test_the_text_of_parts_is_read() -> None:
    parts = [{"type": "text", "text": "Weather in"}, {"type": "image_url", "image_url": {"url": "ms://a"}}]
    assert called(ask([*parts, {"type": "text", "text": "Oslo"}], WEATHER)) == [("get_weather", {"city": "Oslo"})]


def test_the_answer_contains_what_the_tool_said() -> None:
    assert "391" in played("what is 17 * 23?", {"calculate": "391"}, CALCULATE)
    assert "wrong on purpose" in played("what is 17 * 23?", {"calculate": "wrong on purpose"}, CALCULATE)


def test_the_answer_tells_several_results_apart() -> None:
    text = played("Oslo or Bergen?", {"get_weather": "4 degrees"}, WEATHER)
    assert text.splitlines() == [
        "get_weather (Oslo) says: 4 degrees",
        "get_weather (Bergen) says: 4 degrees",
    ]


def test_a_result_without_its_call_is_told_too() -> None:
    assert "4" in persona({"messages": [{"role": "tool", "tool_call_id": "a", "content": "4"}]}).text


def test_after_an_answer_the_next_question_is_looked_at() -> None:
    messages = [
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", "content": "Four degrees."},
        {"role": "user", "content": "And in Bergen?"},
    ]
    assert called(persona({"messages": messages, "tools": [WEATHER]})) == [("get_weather", {"city": "Bergen"})]


def test_a_conversation_without_a_question_gets_a_greeting() -> None:
    reply = persona({"messages": [{"role": "system", "content": "Be terse."}], "tools": ALL})
    assert "offline stand-in" in reply.text


def test_a_very_long_question_is_answered_at_once() -> None:
    assert isinstance(ask("A1 (" * 500_000, *ALL), Reply)


SCHEMAS = st.recursive(
    st.sampled_from(
        [TEXT, NUMBER, {"type": "integer"}, {"type": "boolean"}, {"enum": ["c", 1, None]}, {}, {"const": 3}]
    ),
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items}, inner),
        st.builds(lambda one: {"anyOf": [{"type": "null"}, one]}, inner),
        st.builds(lambda one: {"type": "object", "properties": {"a": one}, "required": ["a", "b"]}, inner),
    ),
    max_leaves=4,
)
QUESTIONS = st.text(max_size=40) | st.lists(
    st.sampled_from(["Oslo", "17", "*", "23", "(", ")", "weather", '"x y"', "in", "is", "?", "add", "-", "."]),
    max_size=9,
).map(" ".join)


@given(
    QUESTIONS,
    st.lists(st.dictionaries(st.sampled_from(["city", "a", "count"]), SCHEMAS), max_size=3),
    st.sampled_from([None, "auto", "required"]),
)
def test_any_question_gets_a_reply_whose_calls_have_the_required_arguments(
    question: str, schemas: list[Body], choice: str | None
) -> None:
    tools = [tool(f"add_weather_{n}", "", properties) for n, properties in enumerate(schemas)]
    reply = ask(question, *tools, tool_choice=choice)
    assert reply == ask(question, *tools, tool_choice=choice)
    assert bool(reply.text) != bool(reply.tool_calls)
    for name, arguments in called(reply):
        assert arguments.keys() >= schemas[int(name[-1])].keys()

"""What requests cost exactly: as Kimi reports it, as the sum of their parts, and never a silent wrong number."""

import base64
import json
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kimi_agent.errors import InvalidRequestError
from kimi_agent.kimi.wire import Dialect, messages_json
from kimi_agent.message import (
    AudioURLPart,
    ImageURLPart,
    MediaURL,
    Message,
    TextPart,
    ThinkPart,
    ToolCall,
    UnknownPart,
    VideoURLPart,
)
from kimi_agent.prompt.exact import KimiTokenCounter
from kimi_agent.prompt.typescript import Unsayable, namespace
from kimi_agent.tools.base import Tool, ToolsPart

EFFORT = 67
HEADER = 7
Body = dict[str, Any]


@pytest.fixture(scope="session")
def file(data: Path) -> Path:
    return data / "tiktoken.model"


@pytest.fixture(scope="session")
def k3(file: Path) -> KimiTokenCounter:
    return KimiTokenCounter.from_file(file)


@pytest.fixture(scope="session")
def k2_6(file: Path) -> KimiTokenCounter:
    return KimiTokenCounter.from_file(file, "kimi-k2.6")


@pytest.fixture(scope="session")
def k2(file: Path) -> KimiTokenCounter:
    return KimiTokenCounter.from_file(file, "kimi-k2-0905-preview")


def user(text: Any = "hello") -> Body:
    return {"role": "user", "content": text}


def assistant(text: Any = "world", **fields: Any) -> Body:
    return {"role": "assistant", "content": text, **fields}


def calling(*calls: tuple[str, str, str], **fields: Any) -> Body:
    listed = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name, arguments in calls
    ]
    return {"role": "assistant", "content": "", "tool_calls": listed, **fields}


def result(call_id: str, text: str = "Done.", **fields: Any) -> Body:
    return {"role": "tool", "tool_call_id": call_id, "content": text, **fields}


def function(name: str = "ping", **fields: Any) -> Body:
    empty = {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": name, "parameters": empty, **fields}}


def picture(width: int, height: int) -> Body:
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(header).decode()}}


def of(*messages: Body, **fields: Any) -> Body:
    return {"messages": list(messages), **fields}


# ==== what Kimi reports ====


def test_every_recorded_request_has_the_count_that_kimi_reports(k3: KimiTokenCounter, data: Path):
    cases = [json.loads(line) for line in (data / "prompt_token_cases.jsonl").read_text("utf-8").splitlines()]
    counted = {case["id"]: k3.count_request(case["request"]) for case in cases}
    assert len(cases) == 26
    assert counted == {case["id"]: case["expected_prompt_tokens"] for case in cases}


def test_the_smallest_request_is_the_one_seen_live(k3: KimiTokenCounter):
    assert k3.count_request(of(user("Reply with exactly OK"))) == 85 + 4 == 89


@pytest.mark.parametrize(
    "model", ["kimi-k3", "kimi-k3.1-pro", "kimi-k3.1-pro-highspeed", "k3-256k", "moonshotai/Kimi-K3"]
)
def test_all_of_the_k3_family_count_alike(file: Path, model: str):
    assert KimiTokenCounter.from_file(file, model).count_request(of(user(), model=model)) == 86


@pytest.mark.parametrize("model", ["kimi-k2.6", "kimi-k2.7-code", "kimi-k2.7-code-highspeed", "moonshotai/Kimi-K2.5"])
def test_k2_with_one_tool_is_what_was_seen_live(file: Path, model: str):
    """29 for the tool, 9 for a message of five tokens, 3 for the header of the answer."""
    body = of(user("Call the ping tool."), tools=[function(description="Returns pong")])
    counter = KimiTokenCounter.from_file(file, model)
    assert counter.count_overhead(body) == 29 + 3
    assert counter.count_request(body) == 29 + 9 + 3 == 41


def test_k2_with_a_picture_is_what_was_seen_live(k2_6: KimiTokenCounter):
    """The picture is five tokens; the line break behind it belongs to the text."""
    text = "What is this picture?"
    told = k2_6.count_request(of(user([picture(1, 1), {"type": "text", "text": text}])))
    assert told == 3 + 5 + k2_6.count_text(f"\n{text}") + 1 + 3 == 18


@pytest.mark.parametrize("model", ["moonshot-v1-8k", "kimi-k2.6"])
def test_a_short_message_without_tools_is_eleven_tokens(file: Path, model: str):
    assert KimiTokenCounter.from_file(file, model).count_request(of(user("Reply with exactly OK"))) == 11


# ==== kimi k3, field by field ====


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({}, 0),
        ({"reasoning_effort": None, "thinking": None, "tool_choice": None, "response_format": None, "tools": None}, 0),
        ({"reasoning_effort": "max"}, 0),
        ({"reasoning_effort": "low"}, 1),
        ({"reasoning_effort": "high"}, 1),
        ({"reasoning_effort": "none"}, -67),
        ({"thinking": {"type": "disabled", "effort": "high", "keep": "all"}}, -67),
        ({"thinking": {"type": "enabled", "keep": "all"}}, 0),
        ({"thinking": {"effort": "low"}, "reasoning_effort": "none"}, 1),
        ({"thinking": {}}, 0),
        ({"tool_choice": "auto"}, 0),
        ({"tool_choice": "required"}, 36),
        ({"tool_choice": "none"}, 38),
        ({"response_format": {"type": "text"}}, 0),
        ({"response_format": {"type": "json_object"}}, 47),
        ({"tools": []}, 0),
        ({"temperature": 1, "stream": True, "max_completion_tokens": 5, "prompt_cache_key": "a"}, 0),
    ],
)
def test_a_field_costs_its_note(k3: KimiTokenCounter, fields: Body, more: int):
    assert k3.count_request(of(user(), **fields)) == 86 + more
    assert k3.count_overhead(fields) == EFFORT + HEADER + more


def test_tools_and_schemas_cost_their_json_with_sorted_keys(k3: KimiTokenCounter):
    text = '[{"function":{"description":"天气","name":"get_weather","parameters":{"type":"object"}},"type":"function"}]'
    tool = {
        "type": "function",
        "function": {"parameters": {"type": "object"}, "name": "get_weather", "description": "天气"},
    }
    overhead = k3.count_overhead({"tools": [tool]})
    assert overhead == EFFORT + HEADER + 35 + k3.count_text(text)
    declared = k3.count_request(of({"role": "system", "tools": [tool]}))
    assert declared == EFFORT + HEADER + 56 + k3.count_text(text)
    schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    shown = '{"properties":{"a":{"type":"string"},"b":{"type":"string"}},"type":"object"}'
    assert k3.count_overhead({"response_format": wanted}) == EFFORT + HEADER + 60 + k3.count_text(shown)


@pytest.mark.parametrize("extra", [{"strict": True}, {"title": "Ping"}])
def test_every_further_key_of_a_tool_costs(k3: KimiTokenCounter, extra: Body):
    assert k3.count_overhead({"tools": [function(**extra)]}) > k3.count_overhead({"tools": [function()]})


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_name_costs_three_and_its_own(k3: KimiTokenCounter, role: str):
    plain = k3.count_request(of({"role": role, "content": "hello"}))
    named = k3.count_request(of({"role": role, "content": "hello", "name": 'Ada & "Bo"'}))
    assert named == plain + 3 + k3.count_text("Ada &amp; &quot;Bo&quot;")


def test_parts_are_encoded_each_alone(k3: KimiTokenCounter):
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    assert k3.count_request(of(user(parts))) == 85 + k3.count_text("hel") + k3.count_text("lo")


def test_an_answer_in_the_history_has_a_place_for_reasoning_while_the_model_thinks(k3: KimiTokenCounter):
    assert k3.count_request(of(assistant())) == EFFORT + HEADER + 23 + 1
    assert k3.count_request(of(assistant(reasoning_content=" \n"))) == EFFORT + HEADER + 23 + 1
    assert k3.count_request(of(assistant(reasoning_content="Thinking about it"))) == EFFORT + HEADER + 23 + 1 + 3
    told = of(assistant(reasoning_content="Thinking about it"), reasoning_effort="none")
    assert k3.count_request(told) == HEADER + 17 + 1


@pytest.mark.parametrize(
    "reasoning",
    [
        {"reasoning": "why"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "wh"}, {"text": "y"}]},
        {"reasoning_content": "why", "reasoning": "something else"},
    ],
)
def test_reasoning_counts_under_every_key(k3: KimiTokenCounter, reasoning: Body):
    assert k3.count_request(of(assistant(**reasoning))) == k3.count_request(of(assistant(reasoning_content="why")))


@pytest.mark.parametrize(
    ("arguments", "cost"),
    [
        ("{}", []),
        ('{"city": "北京"}', ["city", "北京"]),
        (
            '{"n":1,"deep":{"a":[1,2]},"on":true,"x":null}',
            ["n", "1", "deep", '{"a": [1, 2]}', "on", "true", "x", "null"],
        ),
        ('{"b":"é","a":{"é":"é"}}', ["b", "é", "a", '{"é": "é"}']),
        ('{"a":NaN}', ["a", "NaN"]),
    ],
)
def test_arguments_cost_thirteen_each_and_their_texts(k3: KimiTokenCounter, arguments: str, cost: list[str]):
    counted = k3.count_request(of(calling(("a", "look", arguments))))
    base = EFFORT + HEADER + 23 + 19 + k3.count_text("look")
    assert counted == base + 13 * (len(cost) // 2) + sum(map(k3.count_text, cost))


@pytest.mark.parametrize("arguments", ["", "{", "[1]", "null", '"text"', "{'a': 1}", "[" * 100_000])
def test_arguments_that_are_no_object_are_shown_as_they_are(k3: KimiTokenCounter, arguments: str):
    counted = k3.count_request(of(calling(("a", "look", arguments))))
    assert counted == EFFORT + HEADER + 23 + 19 + 1 + 10 + k3.count_text(arguments)


def test_results_cost_alike_in_any_order(k3: KimiTokenCounter):
    asked = calling(("a", "get_weather", "{}"), ("b", "get_time", "{}"))
    first, second = result("a", "Sunny."), result("b", "It is nine.")
    assert k3.count_request(of(asked, first, second)) == k3.count_request(of(asked, second, first))


def test_a_result_has_the_name_and_the_place_of_its_call(k3: KimiTokenCounter):
    asked = calling(*((f"id{number}", f"look_{number}", "{}") for number in range(1, 1001)))
    alone = k3.count_request(of(asked))
    last = k3.count_request(of(asked, result("id1000", "Done.")))
    assert last - alone == 17 + k3.count_text("look_1000") + k3.count_text("1000") + 2
    assert k3.count_text("1000") == 2


def test_an_id_that_comes_back_belongs_to_the_nearest_call(k3: KimiTokenCounter):
    body = of(calling(("x", "look", "{}")), result("x"), calling(("x", "look_up_everything", "{}")), result("x"))
    results = 2 * 18 + k3.count_text("look") + k3.count_text("look_up_everything") + 2 * 2
    asked = [k3.count_request(of(body["messages"][number])) - EFFORT - HEADER for number in (0, 2)]
    assert k3.count_request(body) == EFFORT + HEADER + sum(asked) + results


def test_among_equal_ids_the_first_result_answers_the_first_call(k3: KimiTokenCounter):
    asked = calling(("x", "look", "{}"), ("x", "look_up_everything", "{}"))
    results = 2 * 18 + k3.count_text("look") + k3.count_text("look_up_everything") + 2 * 2
    assert k3.count_request(of(asked, result("x"), result("x"))) == k3.count_request(of(asked)) + results


@pytest.mark.parametrize(
    ("begun", "cost"),
    [
        ({"content": "incomplete"}, 3 + 2),
        ({"content": ""}, 3),
        ({"reasoning_content": "你"}, 3 + 1),
        ({"reasoning_content": "reasoning", "content": "answer"}, 3 + 2 + 3 + 3 + 1),
        ({"reasoning_content": " ", "content": "answer"}, 3 + 1),
        ({"content": "incomplete", "name": "Ada"}, 3 + 2 + 3 + 1),
    ],
)
def test_a_begun_answer_stands_in_the_place_of_the_header(k3: KimiTokenCounter, begun: Body, cost: int):
    assert k3.count_text("reasoning") == 2
    body = of(user(), {"role": "assistant", "partial": True, **begun})
    assert k3.count_request(body) == 86 + cost


def test_a_begun_answer_without_thinking_has_no_place_for_reasoning(k3: KimiTokenCounter):
    begun = assistant("incomplete", reasoning_content="Thinking", partial=True)
    assert k3.count_request(of(user(), begun, reasoning_effort="none")) == 12 + HEADER + 3 + 2


def test_a_picture_costs_its_label_and_its_size(k3: KimiTokenCounter):
    plain = k3.count_request(of(user([])))
    assert k3.count_request(of(user([picture(640, 480)]))) == plain + 3 + 5 + 414
    assert k3.count_request(of(user([picture(1920, 1080)]))) == plain + 3 + 7 + 2691
    bare = {"type": "image_url", "image_url": picture(640, 480)["image_url"]["url"]}
    assert k3.count_request(of(user([bare]))) == plain + 3 + 5 + 414


@pytest.mark.parametrize("kind", ["image_url", "video_url", "audio_url"])
@pytest.mark.parametrize("url", ["ms://file_1", "https://example.com/a.png"])
def test_what_cannot_be_measured_here_is_assumed_to_be_two_thousand(k3: KimiTokenCounter, kind: str, url: str):
    assert k3.count_request(of(user([{"type": kind, kind: {"url": url}}]))) == 85 + 2000


def test_lone_surrogates_are_counted(k3: KimiTokenCounter, k2_6: KimiTokenCounter):
    for counter in (k3, k2_6):
        body = of(user("a\ud800b"), calling(("x", "look", '{"a": "\\ud800"}')), tools=[function(description="\udfff")])
        assert counter.count_request(body) > counter.count_request(of(user("")))


# ==== the sum of the parts ====

TEXTS = st.text(max_size=30) | st.sampled_from(["你好", "", " ", "<|open|>", "Reply with exactly OK", '{"a": [1]}'])
NAMES = st.sampled_from(["look", "get_weather", "f_1"])
ARGUMENTS = st.sampled_from(["{}", "", '{"city": "Oslo"}', '{"n": [1, 2.5, null]}', "[", "3"])
TOOLS = st.builds(
    Tool,
    name=NAMES,
    description=TEXTS,
    parameters=st.sampled_from([{"type": "object", "properties": {"city": {"type": "string"}}}, {"type": "object"}]),
)


def calls(draw: st.DrawFn) -> list[ToolCall]:
    drawn = draw(st.lists(st.tuples(NAMES, ARGUMENTS), min_size=1, max_size=3))
    return [
        ToolCall(id=f"{name}_{number}", function=ToolCall.FunctionBody(name=name, arguments=arguments))
        for number, (name, arguments) in enumerate(drawn)
    ]


@st.composite
def exchanges(draw: st.DrawFn) -> list[Message]:
    """A turn of the conversation: something that is said, or calls with their results in any order."""
    kind = draw(st.sampled_from(["system", "user", "answer", "calls", "tools", "pictures"]))
    text = draw(TEXTS)
    thought = [ThinkPart(think=draw(TEXTS))] if draw(st.booleans()) else []
    name = draw(st.none() | NAMES)
    if kind == "tools":
        return [Message.system(ToolsPart(tools=[draw(TOOLS)]))]
    if kind == "pictures":
        url = draw(st.sampled_from(["ms://f", picture(64, 48)["image_url"]["url"]]))
        return [Message.user([text or "x", ImageURLPart(image_url=MediaURL(url=url))], name=name)]
    if kind == "answer":
        return [Message.assistant([*thought, TextPart(text=text)], name=name)]
    if kind != "calls":
        return [Message(role="user" if kind == "user" else "system", content=text, name=name)]
    asked = calls(draw)
    results = [Message.tool(draw(TEXTS), call.id, name=call.name) for call in asked]
    return [Message.assistant([*thought, text], tool_calls=asked), *draw(st.permutations(results))]


CONVERSATIONS = st.lists(exchanges(), min_size=1, max_size=5).map(lambda turns: list(chain(*turns)))
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "tools": st.just([function(description="Answers.")]),
        "tool_choice": st.sampled_from(["auto", "none", "required"]),
        "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
        "reasoning_effort": st.sampled_from(["low", "high", "max"]),
    },
)


def wired(messages: list[Message], **fields: Any) -> Body:
    """The body as it is sent."""
    return {"messages": [json.loads(sent) for sent in messages_json(Dialect(), "", messages)], **fields}


QUICK = settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])


@given(messages=CONVERSATIONS, fields=FIELDS)
@QUICK
def test_a_request_costs_the_sum_of_its_parts(k3: KimiTokenCounter, messages: list[Message], fields: Body):
    parts = sum(map(k3.count_message, messages))
    assert k3.count_messages(messages) == parts
    assert k3.count_request(wired(messages, **fields)) == k3.count_overhead(fields) + parts


@given(before=CONVERSATIONS, answer=exchanges(), new=CONVERSATIONS, fields=FIELDS)
@QUICK
def test_a_prompt_grows_by_the_answer_the_new_messages_and_seven(
    k3: KimiTokenCounter, before: list[Message], answer: list[Message], new: list[Message], fields: Body
):
    """`usage` of the last turn is enough to know the next prompt, without counting the old messages again."""
    said = answer[0] if answer[0].role == "assistant" else Message.assistant("Yes.")
    said = said.copy_with(name=None)
    results = [message for message in answer[1:] if said.tool_calls]
    prompt, completion = k3.count_request(wired(before, **fields)), k3.count_completion(said)
    after = k3.count_request(wired([*before, said, *results, *new], **fields))
    assert after == prompt + completion + k3.count_messages([*results, *new]) + 7


@given(messages=CONVERSATIONS)
@QUICK
def test_the_name_of_a_result_is_found_at_its_call(k3: KimiTokenCounter, messages: list[Message]):
    nameless = [message.copy_with(name=None) if message.role == "tool" else message for message in messages]
    assert k3.count_messages(nameless) == k3.count_messages(messages)
    assert k3.count_request(wired(nameless)) == k3.count_request(wired(messages))


def test_an_answer_costs_its_channels(k3: KimiTokenCounter):
    assert k3.count_completion(Message.assistant("world")) == 16 + 1
    assert k3.count_completion(Message.assistant([ThinkPart(think="Thinking"), "world"])) == 16 + 1 + k3.count_text(
        "Thinking"
    )
    with pytest.raises(ValueError, match="assistant"):
        k3.count_completion(Message.user("world"))


def test_a_message_keeps_its_cost_for_each_family(k3: KimiTokenCounter, k2_6: KimiTokenCounter, file: Path):
    message = Message.user("hello")
    assert (k3.count_message(message), k2_6.count_message(message)) == (12, 5)
    assert (message.__dict__[k3.cost_key], message.__dict__[k2_6.cost_key]) == (12, 5)
    assert KimiTokenCounter.from_file(file, "kimi-k3.1-pro").cost_key == k3.cost_key
    assert message == Message.user("hello")
    assert k3.cost_key not in message.copy_with(name="Ada").__dict__


def test_a_result_that_does_not_name_its_function_cannot_be_counted_alone(k3: KimiTokenCounter, k2_6: KimiTokenCounter):
    nameless = Message.tool("Done.", "look_0")
    for count in (k3.count_message, lambda message: k3.count_messages([message])):
        with pytest.raises(ValueError, match="name"):
            count(nameless)
    assert k2_6.count_message(nameless) == 4 + k2_6.count_text("## Return of look_0\nDone.")


def test_a_begun_message_costs_what_it_adds(k3: KimiTokenCounter):
    assert k3.count_message(Message.assistant("incomplete", partial=True)) == 3 + 2


@pytest.mark.parametrize("part", [VideoURLPart, AudioURLPart])
def test_films_and_sounds_in_messages_have_the_flat_cost(k3: KimiTokenCounter, part: Any):
    message = Message.user([part(**{part.model_fields["type"].default: MediaURL(url="ms://f")})])
    assert k3.count_message(message) == 11 + 2000


def test_a_part_of_which_nothing_is_known_is_refused(k3: KimiTokenCounter):
    with pytest.raises(ValueError, match=r"content\[0\].type"):
        k3.count_message(Message.user([UnknownPart(type="hologram", data={})]))


# ==== kimi k2 ====

LOOP = (
    user(),
    calling(("look:0", "look", "{}"), reasoning_content="one two three"),
    result("look:0"),
)
REASONING = 3


def test_k2_shows_the_reasoning_of_the_calls_since_the_last_plain_answer(k2_6: KimiTokenCounter):
    bare = [{key: value for key, value in message.items() if key != "reasoning_content"} for message in LOOP]
    assert k2_6.count_text("one two three") == REASONING
    assert k2_6.count_request(of(*LOOP)) == k2_6.count_request(of(*bare)) + REASONING
    assert k2_6.count_request(of(*LOOP, assistant(), user())) == k2_6.count_request(of(*bare, assistant(), user()))
    told = assistant(reasoning_content="one two three")
    assert k2_6.count_request(of(user(), told)) == k2_6.count_request(of(user(), assistant()))


def test_k2_keeps_all_reasoning_where_it_is_told_to_or_always_does(k2_6: KimiTokenCounter, file: Path):
    body = of(*LOOP, assistant(), user())
    kept = {**body, "thinking": {"type": "enabled", "keep": "all"}}
    k2_7 = KimiTokenCounter.from_file(file, "kimi-k2.7-code")
    assert k2_6.count_request(kept) == k2_6.count_request(body) + REASONING == k2_7.count_request(body)


def test_k2_without_thinking_shows_none(k2_6: KimiTokenCounter):
    body = of(*LOOP)
    assert k2_6.count_request({**body, "thinking": {"type": "disabled"}}) == k2_6.count_request(body) - REASONING


def test_a_message_of_k2_has_marks_and_one_text(k2_6: KimiTokenCounter):
    base = 3
    assert k2_6.count_request(of(user("a b"))) == base + 4 + 2
    assert (
        k2_6.count_request(of({**user("a b"), "name": "Ada Lovelace"}))
        == base + 3 + k2_6.count_text("Ada Lovelace") + 2
    )
    assert k2_6.count_request(of(assistant("a b"))) == base + 4 + 2 + 2
    joined = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    assert k2_6.count_request(of(user(joined))) == base + 4 + k2_6.count_text("hello")


def test_the_ids_of_calls_are_in_the_prompt_of_k2(k2_6: KimiTokenCounter):
    call_id = "functions.get_weather:0"
    asked = k2_6.count_request(of(calling((call_id, "get_weather", '{"city": "Oslo"}'))))
    inside = 1 + 1 + k2_6.count_text(call_id) + 1 + k2_6.count_text('{"city": "Oslo"}') + 1 + 1
    assert asked == 3 + 4 + 2 + inside
    body = of(calling((call_id, "get_weather", "{}")), result(call_id, "Sunny."))
    told = k2_6.count_request(body) - k2_6.count_request(of(body["messages"][0]))
    assert told == 4 + k2_6.count_text(f"## Return of {call_id}\nSunny.")


def test_k2_on_hosts_has_a_greeting_and_tools_as_json(k2: KimiTokenCounter):
    greeting = "You are Kimi, an AI assistant created by Moonshot AI."
    system = {"role": "system", "content": "Be terse."}
    assert k2.count_request(of(user())) == 3 + 5 + 4 + k2.count_text(greeting)
    assert k2.count_request(of(system, user())) == 3 + 5 + 4 + k2.count_text("Be terse.")
    text = json.dumps([function()])
    shown = 3 + k2.count_text("tool_declare") - 1 + k2.count_text(text) + 1
    assert k2.count_request(of(system, user(), tools=[function()])) == 3 + 5 + 4 + k2.count_text("Be terse.") + shown


def test_only_the_thinking_k2_has_a_place_for_reasoning(k2: KimiTokenCounter, file: Path):
    thinking = KimiTokenCounter.from_file(file, "moonshotai/Kimi-K2-Thinking")
    assert thinking.count_request(of(*LOOP)) == k2.count_request(of(*LOOP)) + 2 + REASONING


@pytest.mark.parametrize(
    ("begun", "cost"),
    [
        ({"content": "incomplete"}, 2),
        ({"reasoning_content": "one two three"}, 1 + 3),
        ({"reasoning_content": "one two three", "content": "incomplete"}, 1 + 3 + 1 + 2),
        ({"content": "incomplete", "name": "Ada Lovelace"}, 2 + 4 - 1),
    ],
)
def test_a_begun_answer_of_k2_stays_open(k2_6: KimiTokenCounter, begun: Body, cost: int):
    assert k2_6.count_text("Ada Lovelace") == 4
    assert k2_6.count_request(of(user(), {"role": "assistant", "partial": True, **begun})) == 3 + 5 + cost


def test_the_cost_of_a_message_of_k2_is_that_of_the_newest_one(k2_6: KimiTokenCounter):
    told = Message.assistant([ThinkPart(think="one two three"), "world"])
    assert k2_6.count_message(told) == 4 + 2 + 1
    assert k2_6.count_completion(told) == 3 + 1 + 3 + 1 - 1 + 1 - 1
    body = of(user(), assistant())
    messages = [Message.user("hello"), Message.assistant("world")]
    assert k2_6.count_request(body) == 3 + k2_6.count_messages(messages)


@pytest.mark.parametrize(
    ("message", "what"),
    [({"role": "system", "tools": [function()]}, "tools"), (user([picture(8, 8)]), "pictures")],
)
def test_what_k2_on_hosts_does_not_know_is_refused(k2: KimiTokenCounter, message: Body, what: str):
    with pytest.raises(ValueError, match=what):
        k2.count_request(of(message))


# ==== tools as kimi k2.5 reads them ====


def typescript(**parameters: Any) -> str:
    text = namespace([function("f", parameters={"type": "object", **parameters})])
    head, tail = "# Tools\n\n## functions\nnamespace functions {\n", "\n}\n"
    assert text.startswith(head)
    assert text.endswith(tail)
    return text[len(head) : -len(tail)]


def test_a_tool_without_parameters_is_one_line():
    assert typescript() == typescript(properties={}) == "type f = (_: {}) => any;"


def test_a_description_is_lines_above():
    text = namespace([function("f", description="One.\n\nTwo."), function("g")])
    assert "{\n// One.\n\n// Two.\ntype f = (_: {}) => any;\ntype g = (_: {}) => any;\n}\n" in text


def test_required_properties_come_first_each_group_by_name():
    schema = {"type": "boolean"}
    told = typescript(properties={"d": schema, "c": schema, "b": schema, "a": schema}, required=["d", "b"])
    assert told == "type f = (_: {\n  b: boolean,\n  d: boolean,\n  a?: boolean,\n  c?: boolean\n}) => any;"


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "integer"}, "  a?: number"),
        ({"type": "string", "description": "City."}, "  // City.\n  a?: string"),
        ({"type": "string", "minLength": 1, "maxLength": 9}, "  // maxLength: 9, minLength: 1\n  a?: string"),
        ({"type": "string", "pattern": "^a", "default": "x"}, '  // pattern: ^a\n  // Default: "x"\n  a?: string'),
        ({"type": "number", "minimum": 0.5, "default": 1}, "  // minimum: 0.5\n  // Default: 1\n  a?: number"),
        ({"type": "array"}, "  a?: Array<any>"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 1}, "  // minItems: 1\n  a?: Array<number>"),
        (
            {"type": "array", "items": {"type": "string", "description": "One."}},
            "  a?: Array<\n    // One.\n    string\n  >",
        ),
        ({"type": "string", "enum": ["a", "b"]}, '  a?: "a" | "b"'),
        ({"type": ["null", "integer"], "enum": [1, None]}, "  a?: 1 | None"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "description": "D."}, "  // D.\n  a?: string | null"),
        ({"type": ["string", "object", "array"]}, "  a?: string | {} | Array<any>"),
        ({"type": "object", "additionalProperties": True}, "  a?: {\n    [k: string]: any\n  }"),
        ({"type": "object", "additionalProperties": False}, "  a?: {\n    [k: string]: never\n  }"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "  a?: {\n    [k: string]: number\n  }"),
        (
            {"type": "object", "properties": {"b": {"type": "string", "description": "B."}}},
            "  a?: {\n    // B.\n    b?: string\n  }",
        ),
        (True, "  a?: any"),
        ({}, "  a?: any"),
    ],
)
def test_a_property_is_told_as(schema: Any, told: str):
    assert typescript(properties={"a": schema}) == f"type f = (_: {{\n{told}\n}}) => any;"


def test_definitions_are_interfaces_before_the_tool():
    node = {"type": "object", "description": "A node.", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    told = typescript(properties={"n": {"$ref": "#/$defs/Node"}}, **{"$defs": {"Node": node}})
    assert told == "// A node.\ninterface Node {\n  next?: Node\n}\ntype f = (_: {\n  n?: Node\n}) => any;"


def test_a_schema_that_refers_to_itself_is_an_interface():
    told = typescript(properties={"child": {"$ref": "#"}})
    assert told == "interface parameters {\n  child?: parameters\n}\ntype f = (_: parameters) => any;"


UNSAYABLE = [
    {"$ref": "#/$defs/A/properties/b"},
    {"$ref": "#/$defs/None"},
    {"$ref": "elsewhere.json"},
    {"description": "no type"},
    {"type": ["string", "alien"]},
    {"type": "string", "enum": [1]},
    {"type": ["string", "integer"], "enum": [1]},
    {"type": 3},
    3,
]


@pytest.mark.parametrize("schema", UNSAYABLE)
def test_what_the_form_cannot_say_is_json(k2_6: KimiTokenCounter, schema: Any):
    tool = function(parameters={"type": "object", "properties": {"a": schema}})
    with pytest.raises(Unsayable):
        namespace([tool])
    listed = json.dumps([tool], sort_keys=True, separators=(",", ":"))
    assert k2_6.count_overhead({"tools": [tool]}) == 3 + 2 + 3 + k2_6.count_text(listed) + 1


def test_tools_of_the_platform_alone_are_json(k2_6: KimiTokenCounter):
    tool = {"type": "builtin_function", "function": {"name": "$web_search"}}
    assert k2_6.count_overhead({"tools": [tool]}) > 3 + 6
    both = k2_6.count_overhead({"tools": [tool, function()]})
    assert both == k2_6.count_overhead({"tools": [function()]}) == 3 + 25


def test_the_order_of_keys_in_a_tool_does_not_matter(k2_6: KimiTokenCounter):
    one = function(parameters={"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}})
    two = function(parameters={"properties": {"b": {"type": "string"}, "a": {"type": "string"}}, "type": "object"})
    assert k2_6.count_overhead({"tools": [one]}) == k2_6.count_overhead({"tools": [two]})


# ==== hostile bodies ====

CALL = calling(("a", "look", "{}"))
WRONG: list[tuple[Any, str]] = [
    (None, "the body"),
    ([], "the body"),
    ({}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": {"0": user()}}, "messages"),
    (of(None), r"messages\[0\]"),
    (of("hello"), r"messages\[0\]"),
    (of({}), r"messages\[0\].role"),
    (of({"role": "ghost", "content": ""}), r"messages\[0\].role"),
    (of({"role": ["user"], "content": ""}), r"messages\[0\].role"),
    (of({"role": "user"}), r"messages\[0\].content"),
    (of(user(), user(None)), r"messages\[1\].content"),
    (of(user(5)), r"messages\[0\].content"),
    (of(user({"type": "text", "text": "a"})), r"messages\[0\].content"),
    (of(user(["a"])), r"messages\[0\].content\[0\]"),
    (of(user([{"text": "a"}])), r"messages\[0\].content\[0\].type"),
    (of(user([{"type": "text"}])), r"messages\[0\].content\[0\].text"),
    (of(user([{"type": "text", "text": None}])), r"messages\[0\].content\[0\].text"),
    (of(user([{"type": "hologram"}])), r"messages\[0\].content\[0\].type"),
    (of(user([{"type": "image_url"}])), r"messages\[0\].content\[0\].image_url"),
    (of(user([{"type": "image_url", "image_url": {"url": 5}}])), r"messages\[0\].content\[0\].image_url.url"),
    (
        of(user([{"type": "image_url", "image_url": "data:image/png;base64,?"}])),
        r"messages\[0\].content\[0\].image_url",
    ),
    (of(user([{"type": "video_url", "video_url": {}}])), r"messages\[0\].content\[0\].video_url.url"),
    (of({**user(), "name": 5}), r"messages\[0\].name"),
    (of({**user(), "tools": [function()]}), r"messages\[0\].tools"),
    (of({**user(), "tool_calls": CALL["tool_calls"]}), r"messages\[0\].tool_calls"),
    (of({**user(), "partial": True}), r"messages\[0\].partial"),
    (of({"role": "system", "content": "a", "tools": [function()]}), r"messages\[0\].content"),
    (of({"role": "system", "tools": [{}]}), r"messages\[0\].tools\[0\].type"),
    (of({"role": "system", "tools": "all"}), r"messages\[0\].tools"),
    (of(assistant(reasoning_content=5)), r"messages\[0\].reasoning_content"),
    (of(assistant(reasoning_details=[5])), r"messages\[0\].reasoning_details\[0\]"),
    (of(assistant(partial="yes")), r"messages\[0\].partial"),
    (of(assistant(partial=True), user()), r"messages\[0\].partial"),
    (of({**CALL, "partial": True}), r"messages\[0\].partial"),
    (of(assistant(tool_calls={})), r"messages\[0\].tool_calls"),
    (of(assistant(tool_calls=[5])), r"messages\[0\].tool_calls\[0\]"),
    (of(assistant(tool_calls=[{"id": "a"}])), r"messages\[0\].tool_calls\[0\].function"),
    (of(calling((None, "look", "{}"))), r"messages\[0\].tool_calls\[0\].id"),  # pyright: ignore[reportArgumentType]
    (of(calling(("a", None, "{}"))), r"tool_calls\[0\].function.name"),  # pyright: ignore[reportArgumentType]
    (of(calling(("a", "look", {}))), r"tool_calls\[0\].function.arguments"),  # pyright: ignore[reportArgumentType]
    (of(CALL, {"role": "tool", "content": "x"}), r"messages\[1\].tool_call_id"),
    (of(CALL, result("b")), r"messages\[1\].tool_call_id"),
    (of(CALL, result("a"), result("a")), r"messages\[2\].tool_call_id"),
    (of(CALL, result("a"), assistant(), result("a")), r"messages\[3\].tool_call_id"),
    (of(user(), tools={}), "tools"),
    (of(user(), tools=[None]), r"tools\[0\]"),
    (of(user(), tools=[{"type": "function"}]), r"tools\[0\].function"),
    (of(user(), tools=[{"type": "function", "function": {}}]), r"tools\[0\].function.name"),
    (of(user(), tools=[function(parameters={"x": {1, 2}})]), "tools"),
    (of(user(), tools=[function(parameters={"x": float("nan")})]), "tools"),
    (of(user(), tool_choice="maybe"), "tool_choice"),
    (of(user(), tool_choice={"type": "function", "function": {"name": "f"}}), "tool_choice"),
    (of(user(), response_format="json"), "response_format"),
    (of(user(), response_format={"type": "xml"}), "response_format.type"),
    (of(user(), response_format={"type": "json_schema"}), "response_format.json_schema"),
    (of(user(), response_format={"type": "json_schema", "json_schema": {"schema": []}}), "json_schema.schema"),
    (of(user(), reasoning_effort="medium"), "reasoning_effort"),
    (of(user(), reasoning_effort={"effort": "low"}), "reasoning_effort"),
    (of(user(), thinking="on"), "thinking"),
    (of(user(), thinking={"type": "maybe"}), "thinking.type"),
    (of(user(), thinking={"effort": 3}), "thinking.effort"),
    (of(user(), thinking={"keep": "some"}), "thinking.keep"),
    (of(user(), model=3), "model"),
    (of(user(), model="kimi-k2-thinking"), "model"),
]


@pytest.mark.parametrize(("body", "field"), WRONG)
@pytest.mark.parametrize("model", ["kimi-k3", "kimi-k2.6"])
def test_a_wrong_field_is_named(file: Path, model: str, body: Any, field: str):
    with pytest.raises(ValueError, match=rf"\b{field}\b|{field} ") as raised:
        KimiTokenCounter.from_file(file, model).count_request(body)
    assert isinstance(raised.value, InvalidRequestError)
    assert len(str(raised.value)) < 300


HOSTILE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 1) | st.text(max_size=3) | st.floats(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
WHOLE = of(
    {"role": "system", "content": "a", "name": "b"},
    user([{"type": "text", "text": "a"}, picture(8, 8)]),
    calling(("a", "look", '{"a": 1}'), reasoning_content="why"),
    result("a", name="look"),
    tools=[function(description="d", parameters={"type": "object", "properties": {"a": {"type": "string"}}})],
    tool_choice="auto",
    thinking={"type": "enabled", "keep": "all"},
    response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    copy = dict(value) if isinstance(value, Mapping) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], other)
    return copy


@given(path=st.sampled_from(places(WHOLE)), other=HOSTILE, model=st.sampled_from(["kimi-k3", "kimi-k2.6"]))
@settings(max_examples=100)
def test_anything_in_any_place_is_counted_or_refused(
    k3: KimiTokenCounter, k2_6: KimiTokenCounter, path: tuple[Any, ...], other: Any, model: str
):
    counter = {"kimi-k3": k3, "kimi-k2.6": k2_6}[model]
    with suppress(InvalidRequestError):
        assert counter.count_request(put(WHOLE, path, other)) > 0


@pytest.mark.parametrize("model", ["", "gpt-4", "kimi-latest", "kimi-for-coding", "kimi-k2.8", "k4"])
def test_a_model_of_which_nothing_is_known_is_refused(file: Path, model: str):
    with pytest.raises(ValueError, match="kimi-k3"):
        KimiTokenCounter.from_file(file, model)


def test_a_host_may_have_a_name_of_its_own_for_the_model(k3: KimiTokenCounter):
    assert k3.count_request(of(user(), model="my-own-kimi")) == 86


def test_frozen_mappings_are_read_like_dicts(k3: KimiTokenCounter):
    from types import MappingProxyType as Frozen

    plain = of(user(), tools=[function()])
    frozen = Frozen({"messages": (Frozen(user()),), "tools": (Frozen({**function()}),)})
    assert k3.count_request(frozen) == k3.count_request(plain)


def test_counting_changes_nothing(k3: KimiTokenCounter, k2_6: KimiTokenCounter):
    before = json.dumps(WHOLE)
    counts: list[Callable[[Any], int]] = [k3.count_request, k2_6.count_request]
    assert [count(WHOLE) for count in counts] == [count(WHOLE) for count in counts]
    assert json.dumps(WHOLE) == before


def test_the_figures_of_the_documentation_are_true(k3: KimiTokenCounter):
    text = "Reply with exactly OK"
    assert (k3.count_text(text), k3.count_request(of(user(text))), k3.count_overhead(of(user(text)))) == (4, 89, 74)
    assert (k3.count_message(Message.user(text)), k3.count_completion(Message.assistant("OK"))) == (15, 17)


def test_where_all_reasoning_is_kept_a_prompt_of_k2_grows_by_the_answer_and_three(file: Path):
    counter = KimiTokenCounter.from_file(file, "kimi-k2.7-code")
    said = Message.assistant([ThinkPart(think="Thinking"), "world"])
    before = [Message.user("hello")]
    new = [Message.user("Thanks.")]
    grown = counter.count_request(wired(before)) + counter.count_completion(said) + counter.count_messages(new) + 3
    assert counter.count_request(wired([*before, said, *new])) == grown


@pytest.mark.parametrize("value", [10**5000, "x" * 10_000, [[]] * 10_000], ids=["number", "text", "array"])
def test_an_error_is_short_whatever_was_sent(k3: KimiTokenCounter, value: Any):
    with pytest.raises(ValueError, match=r"messages\[0\].role") as raised:
        k3.count_request(of({"role": value, "content": ""}))
    assert len(str(raised.value)) < 200

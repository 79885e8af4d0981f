"""Raw text of models: however it is cut, it says the same, and nothing of it is lost.

`KIMI_AGENT_FUZZ` is twenty times the number of random texts for each parser.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_agent.events import Append, Reasoning, StreamFrame, ToolCallDelta
from kimi_agent.raw.base import BaseParser
from kimi_agent.raw.deepseek import DeepSeekR1Parser
from kimi_agent.raw.harmony import HarmonyParser
from kimi_agent.raw.kimi_k2 import KimiK2Parser
from kimi_agent.raw.kimi_k3 import KimiK3Parser
from kimi_agent.raw.llama3 import Llama3Parser
from kimi_agent.raw.mistral import MistralParser
from kimi_agent.raw.naive import NaiveJSONParser
from kimi_agent.raw.qwen3 import Qwen3Parser

EXAMPLES = int(os.environ.get("KIMI_AGENT_FUZZ", "2000")) // 20

Make: TypeAlias = Callable[[], BaseParser]
Expected: TypeAlias = tuple[str | None, str, list[tuple[str, Any]], int]
"""Reasoning, text, calls with their arguments, and the number of problems."""

NASTY = {"q": 'a "quoted" {brace} [x] \\ \n </tool_call> ünïcödé 日本 🎈', "deep": {"a": [1, {"b": [None, True, 1.5]}]}}
NASTY_JSON = json.dumps(NASTY, ensure_ascii=False)
OSLO = '{"city": "Oslo"}'


def k2(*calls: tuple[str, str]) -> str:
    inner = "".join(f"<|tool_call_begin|>{i}<|tool_call_argument_begin|>{a}<|tool_call_end|>" for i, a in calls)
    return f"<|tool_calls_section_begin|>{inner}<|tool_calls_section_end|>"


K2: dict[str, Expected] = {
    "Hello, 世界 🎈": (None, "Hello, 世界 🎈", [], 0),
    "<think>Hm.</think>Four degrees.<|im_end|>": ("Hm.", "Four degrees.", [], 0),
    "No opening mark.</think>\nYes.": ("No opening mark.", "\nYes.", [], 0),
    "<think></think>Yes": ("", "Yes", [], 0),
    "Look: " + k2(("functions.get_weather:0", OSLO)) + "<|im_end|>": (
        None,
        "Look: ",
        [("get_weather", {"city": "Oslo"})],
        0,
    ),
    "<think>a</think>" + k2(("functions.f:3", NASTY_JSON), ("g:4", "")): ("a", "", [("f", NASTY), ("g", {})], 0),
    "<think>never closed" + k2(("functions.f:0", OSLO)): ("never closed", "", [("f", {"city": "Oslo"})], 0),
    "<think>I write <|tool_call_begin|> here</think>ok": ("I write <|tool_call_begin|> here", "ok", [], 0),
    "a<|tool_call_begin|> functions.f:12 <|tool_call_argument_begin|> {} ": (None, "a", [("f", {})], 0),
    "<|tool_call_section_begin|>\n<|tool_call_begin|>f:0<|tool_call_argument_begin|>{}<|tool_call_end|>\n"
    "<|tool_call_section_end|>": (None, "", [("f", {})], 0),
    k2(("functions.f:0", '{"city": ')) + " after": (
        None,
        '<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"city": <|tool_call_end|> after',
        [],
        1,
    ),
    k2(("f:0", '{"a": "<|tool_call_end|>"}')): (None, "", [("f", {"a": "<|tool_call_end|>"})], 0),
    k2(("f:0", '{"a": "x}'), ("g:1", "{}")): (
        None,
        '<|tool_call_begin|>f:0<|tool_call_argument_begin|>{"a": "x}<|tool_call_end|>',
        [("g", {})],
        1,
    ),
    "1 <| 2 <|tool 3 <|im_end|> 4": (None, "1 <| 2 <|tool 3 <|im_end|> 4", [], 0),
    "<thin <think> </thin": (None, "<thin <think> </thin", [], 0),
    "<|tool_call_begin|>f:0<|tool_call_argument_begin|>{}<|tool_call_begin|>g:1<|tool_call_argument_begin|>{}": (
        None,
        "",
        [("f", {}), ("g", {})],
        0,
    ),
}


def k3(name: str, *arguments: tuple[str, str, str]) -> str:
    inner = "".join(
        f'<|open|>argument key="{key}" type="{kind}"<|sep|>{value}<|close|>argument<|sep|>'
        for key, kind, value in arguments
    )
    return f'<|open|>call tool="{name}" index="1"<|sep|>{inner}<|close|>call<|sep|>'


def k3_tools(*calls: str) -> str:
    return f"<|open|>tools<|sep|>{''.join(calls)}<|close|>tools<|sep|>"


K3_END = "<|close|>message<|sep|><|end_of_msg|>"
K3_OPEN = "<|close|>think<|sep|><|open|>response<|sep|>"
K3: dict[str, Expected] = {
    "Hm." + K3_OPEN + "Yes, 日本.<|close|>response<|sep|>" + K3_END: ("Hm.", "Yes, 日本.", [], 0),
    "<|open|>think<|sep|>Hm." + K3_OPEN + "Yes": ("Hm.", "Yes", [], 0),
    "cut off here": ("cut off here", "", [], 0),
    "a" + K3_OPEN + "<|close|>response<|sep|>" + k3_tools(k3("f", ("city", "string", 'Os"lo\n<b>'))) + K3_END: (
        "a",
        "",
        [("f", {"city": 'Os"lo\n<b>'})],
        0,
    ),
    "a<|close|>think<|sep|>"
    + k3_tools(
        k3(
            "f",
            ("n", "number", "4.5"),
            ("b", "boolean", "true"),
            ("z", "null", "null"),
            ("o", "object", NASTY_JSON),
            ("l", "array", "[1]"),
        ),
        k3("g"),
    ): ("a", "", [("f", {"n": 4.5, "b": True, "z": None, "o": NASTY, "l": [1]}), ("g", {})], 0),
    "a<|close|>think<|sep|>"
    + k3_tools('<|open|>call tool="f" index="1"<|sep|><|open|>json type="object"<|sep|>{"a": '
               '"<|close|>argument<|sep|>"}<|close|>json<|sep|><|close|>call<|sep|>'): (
        "a", "", [("f", {"a": "<|close|>argument<|sep|>"})], 0),
    "a" + K3_OPEN + "b" + k3_tools(k3("f", ("k &quot;&amp;", "string", "<|close|>call<|sep|>")))[:-21]: (
        "a", "b", [("f", {'k "&': "<|close|>call<|sep|>"})], 0),
    "a" + K3_OPEN + "b" + k3("f", ("x", "number", "1, \"y\": 2")): (
        "a", "b" + k3("f", ("x", "number", "1, \"y\": 2")), [], 1),
    "a" + K3_OPEN + '<|open|>call tool="f"<|sep|><|open|>argument key="p" type="string"<|sep|>/ho': (
        "a", '<|open|>call tool="f"<|sep|><|open|>argument key="p" type="string"<|sep|>/ho', [], 1),
    "a" + K3_OPEN + "<|open|>b <|close|> <|sep|> c": ("a", "<|open|>b <|close|> <|sep|> c", [], 0),
    K3_OPEN + "x": ("", "x", [], 0),
}  # fmt: skip

HARMONY: dict[str, Expected] = {
    "plain text": (None, "plain text", [], 0),
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes, 日本.<|return|>": (
        "Hm.",
        "Yes, 日本.",
        [],
        0,
    ),
    f"<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>commentary to=functions.f "
    f"<|constrain|>json<|message|>{OSLO}<|call|>": ("Hm", "", [("f", {"city": "Oslo"})], 0),
    f"<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{NASTY_JSON}": (
        None,
        "",
        [("f", NASTY)],
        0,
    ),
    " to=functions.f<|channel|>commentary<|message|>{}<|call|>": (None, "", [("f", {})], 0),
    "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant<|channel|>commentary "
    "to=functions.f<|message|>{}<|call|>": (None, "I will look.", [("f", {})], 0),
    "<|channel|>analysis<|message|>cut <|en": ("cut <|en", "", [], 0),
    "<|channel|>nowhere<|message|>x": (None, "<|channel|>nowhere<|message|>x", [], 1),
    "<|channel|>final<|message|>a<|start|>assistant": (None, "a<|start|>assistant", [], 1),
    "<|channel|>final<|message|>a <|ret <|return|> b": (None, "a <|ret <|return|> b", [], 0),
    "<|channel|>commentary to=functions.f<|message|>{oops<|call|>": (
        None,
        "<|channel|>commentary to=functions.f<|message|>{oops<|call|>",
        [],
        1,
    ),
    '<|channel|>commentary to=browser.search<|message|>{"q": "<|call|>"}<|end|>': (
        None,
        "",
        [("browser.search", {"q": "<|call|>"})],
        0,
    ),
}


def r1(*calls: tuple[str, str]) -> str:
    inner = "\n".join(
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>"
        for name, arguments in calls
    )
    return f"<｜tool▁calls▁begin｜>{inner}<｜tool▁calls▁end｜>"


R1: dict[str, Expected] = {
    "<think>\nHm.\n</think>\n\nYes, 日本 🎈.<｜end▁of▁sentence｜>": ("Hm.", "Yes, 日本 🎈.", [], 0),
    "\nHm.\n</think>\n\nYes.": ("Hm.", "Yes.", [], 0),
    "<think>\n\n</think>\n\nYes.": ("", "Yes.", [], 0),
    "cut off": ("cut off", "", [], 0),
    "a</think>Look.\n\n" + r1(("f", OSLO), ("g", NASTY_JSON)) + "<｜end▁of▁sentence｜>": (
        "a",
        "Look.",
        [("f", {"city": "Oslo"}), ("g", NASTY)],
        0,
    ),
    "a" + r1(("f", "{}")): ("a", "", [("f", {})], 0),
    "a <｜tool▁calls▁begin｜> b</think>c": ("a <｜tool▁calls▁begin｜> b", "c", [], 0),
    "a</think>b <｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>": ("a", "b", [("f", {})], 0),
    "a</think>b <｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}": ("a", "b", [("f", {})], 0),
    "a</think>b <｜tool▁call▁begin｜>f{}<｜tool▁call▁end｜> c": (
        "a",
        "b <｜tool▁call▁begin｜>f{}<｜tool▁call▁end｜> c",
        [],
        1,
    ),
    "a</think> b <｜tool▁ <｜end▁of x </think> ": ("a", "b <｜tool▁ <｜end▁of x </think> ", [], 0),
    "a</think>" + r1(("f", '{"x": "<｜tool▁call▁end｜>"}')): ("a", "", [("f", {"x": "<｜tool▁call▁end｜>"})], 0),
}


def qwen(*objects: str) -> str:
    return "\n".join(f"<tool_call>\n{item}\n</tool_call>" for item in objects)


def named(name: str, arguments: str, key: str = "arguments") -> str:
    return f'{{"name": "{name}", "{key}": {arguments}}}'


QWEN: dict[str, Expected] = {
    "Hello 世界 🎈\n": (None, "Hello 世界 🎈\n", [], 0),
    "<think>\nHm.\n</think>\n\nYes.<|im_end|>\n": ("Hm.", "Yes.", [], 0),
    "Hm.\n</think>\n\nYes.": ("Hm.", "Yes.", [], 0),
    "<think>\n\n</think>\n\nYes.": ("", "Yes.", [], 0),
    "Look.\n" + qwen(named("f", OSLO), named("g", NASTY_JSON)) + "<|im_end|>": (
        None,
        "Look.",
        [("f", {"city": "Oslo"}), ("g", NASTY)],
        0,
    ),
    "<think>a" + qwen(named("f", "{}")): ("a", "", [("f", {})], 0),
    "<think>I use <tool_call> now</think>b": ("I use <tool_call> now", "b", [], 0),
    "The mark <tool_call> opens a call, </tool_call> ends it.": (
        None,
        "The mark <tool_call> opens a call, </tool_call> ends it.",
        [],
        1,
    ),
    "<tool_call>" + named("f", "{}"): (None, "", [("f", {})], 0),
    "a\n" + qwen('{"name": "f"}', named("g", "{}")): (
        None, 'a\n<tool_call>\n{"name": "f"}\n</tool_call>', [("g", {})], 1),
    qwen('{"name": "f, "arguments": {}}') + "\n" + qwen(named("g", "{}")): (
        None,
        '<tool_call>\n{"name": "f, "arguments": {}}\n</tool_call>',
        [("g", {})],
        1,
    ),
    qwen(named("f", '"{\\"a\\": 1}"')): (None, "", [("f", {"a": 1})], 0),
    "<tool_cal <tool_call </think> <|im_end|> x": ("<tool_cal <tool_call", "<|im_end|> x", [], 0),
    "x < y <tool_cal> <|im_en": (None, "x < y <tool_cal> <|im_en", [], 0),
}  # fmt: skip

MISTRAL: dict[str, Expected] = {
    "Hello 世界 🎈": (None, "Hello 世界 🎈", [], 0),
    "Hello</s>": (None, "Hello", [], 0),
    "<s>a</s> is struck": (None, "<s>a</s> is struck", [], 0),
    '[TOOL_CALLS] [{"name": "f", "arguments": {"city": "Oslo"}, "id": "VvvODy9mT"}]</s>': (
        None,
        "",
        [("f", {"city": "Oslo"})],
        0,
    ),
    f"Look.\n[TOOL_CALLS][{named('f', NASTY_JSON)}, {named('g', '{}')}]": (None, "Look.", [("f", NASTY), ("g", {})], 0),
    f"[TOOL_CALLS]f[ARGS]{OSLO}[TOOL_CALLS]g[CALL_ID]abcdefghi[ARGS]{{}}</s>": (
        None,
        "",
        [("f", {"city": "Oslo"}), ("g", {})],
        0,
    ),
    "[THINK]Hm.[/THINK]Yes.": ("Hm.", "Yes.", [], 0),
    f"[TOOL_CALLS] [{named('f', '{}')}]\n\nI called.": (None, "I called.", [("f", {})], 0),
    "[TOOL_CALLS] [oops]</s>": (None, "[TOOL_CALLS] [oops]</s>", [], 1),
    f"[TOOL_CALLS] [{named('f', json.dumps({'x': '</s>[TOOL_CALLS]'}))}]": (
        None,
        "",
        [("f", {"x": "</s>[TOOL_CALLS]"})],
        0,
    ),
    "[TOOL [TOOL_CALL] [1, 2] </": (None, "[TOOL [TOOL_CALL] [1, 2] </", [], 0),
    "[TOOL_CALLS]": (None, "[TOOL_CALLS]", [], 1),
}

LLAMA: dict[str, Expected] = {
    "Hello 世界 🎈<|eot_id|>": (None, "Hello 世界 🎈", [], 0),
    named("f", NASTY_JSON, "parameters") + "<|eot_id|>": (None, "", [("f", NASTY)], 0),
    "<|python_tag|>" + named("f", OSLO, "parameters") + "<|eom_id|>": (None, "", [("f", {"city": "Oslo"})], 0),
    named("f", "{}") + "; " + named("g", "{}") + "\n" + named("h", "{}"): (
        None, "", [("f", {}), ("g", {}), ("h", {})], 0),
    "Look.\n<|python_tag|>" + named("f", "{}"): (None, "Look.", [("f", {})], 0),
    '{"temperature": 4}': (None, '{"temperature": 4}', [], 0),
    '{"a": not json} and more': (None, '{"a": not json} and more', [], 0),
    "  {open": (None, "  {open", [], 0),
    '<|python_tag|>brave_search.call(query="x")<|eom_id|>': (None, '<|python_tag|>brave_search.call(query="x")', [], 1),
    "a {" + named("f", "{}") + "}": (None, "a {" + named("f", "{}") + "}", [], 0),
    named("f", '{"x": "<|eot_id|>"}'): (None, "", [("f", {"x": "<|eot_id|>"})], 0),
    "<|python_ta <|eot_id|> x": (None, "<|python_ta <|eot_id|> x", [], 0),
}  # fmt: skip

NAIVE: dict[str, Expected] = {
    "Hello 世界 🎈\n": (None, "Hello 世界 🎈\n", [], 0),
    named("f", NASTY_JSON): (None, "", [("f", NASTY)], 0),
    f"\n [{named('f', '{}')}, {named('g', OSLO, 'parameters')}] ": (None, "", [("f", {}), ("g", {"city": "Oslo"})], 0),
    f"```json\n{named('f', '{}')}\n```\n": (None, "", [("f", {})], 0),
    named("f", "{}") + " and text": (None, named("f", "{}") + " and text", [], 0),
    "Here: " + named("f", "{}"): (None, "Here: " + named("f", "{}"), [], 0),
    "[1, 2]": (None, "[1, 2]", [], 0),
    '{"name": 1, "arguments": {}}': (None, '{"name": 1, "arguments": {}}', [], 0),
    '{"name": "f", "arguments": [1]}': (None, '{"name": "f", "arguments": [1]}', [], 0),
    " {": (None, " {", [], 0),
    "```python\nprint()\n```": (None, "```python\nprint()\n```", [], 0),
    '{"function": {"name": "f", "arguments": "{}"}}': (None, "", [("f", {})], 0),
}

CORPORA: dict[Make, dict[str, Expected]] = {
    KimiK2Parser: K2,
    KimiK3Parser: K3,
    HarmonyParser: HARMONY,
    DeepSeekR1Parser: R1,
    Qwen3Parser: QWEN,
    MistralParser: MISTRAL,
    Llama3Parser: LLAMA,
    NaiveJSONParser: NAIVE,
}
CASES = [
    pytest.param(make, text, expected, id=f"{make.__name__}-{number}")
    for make, corpus in CORPORA.items()
    for number, (text, expected) in enumerate(corpus.items())
]
EVERY = pytest.mark.parametrize("make", [*CORPORA], ids=lambda make: make.__name__)


def read(parser: BaseParser, pieces: Iterable[str]) -> list[StreamFrame]:
    return [frame for piece in pieces for frame in parser.feed(piece)] + parser.close()


def merged(frames: Sequence[StreamFrame]) -> list[tuple[str, Any]]:
    """What frames say, in its order, whatever pieces it came in."""
    said: list[tuple[str, Any]] = []
    for frame in frames:
        match frame:
            case Append(text) | Reasoning(text):
                kind = type(frame).__name__
                if said and said[-1][0] == kind:
                    said[-1] = (kind, said[-1][1] + text)
                else:
                    said.append((kind, text))
            case _:
                said.append(("call", frame))
    return said


@pytest.mark.parametrize(("make", "text", "expected"), CASES)
def test_an_answer_is_what_the_model_meant(make: Make, text: str, expected: Expected):
    parser = make()
    message = parser.parse(text)
    calls = [(call.name, call.args) for call in message.tool_calls or ()]
    assert (message.reasoning, message.text, calls, len(parser.problems)) == expected


@pytest.mark.parametrize(("make", "text", "expected"), CASES)
def test_wherever_an_answer_is_cut_it_says_the_same(make: Make, text: str, expected: Expected):
    parser = make()
    whole, problems = merged(read(parser, [text])), parser.problems
    for cut in range(len(text) + 1):
        other = make()
        assert merged(read(other, [text[:cut], "", text[cut:]])) == whole
        assert other.problems == problems
    assert merged(read(make(), text)) == whole
    for size in (2, 3, 7):
        assert merged(read(make(), [text[at : at + size] for at in range(0, len(text), size)])) == whole


@pytest.mark.parametrize(("make", "text", "expected"), CASES)
def test_an_answer_that_ends_anywhere_is_read_as_far_as_it_came(make: Make, text: str, expected: Expected):
    for end in range(len(text)):
        parser = make()
        frames = read(parser, [text[:end]])
        assert merged(frames) == merged(read(make(), text[:end]))
        for call in parser.calls:
            assert isinstance(call.args, dict)


# ==== nothing is lost ====

JUNK = "0123456789äπ日🎈"


def marks_of(make: Make) -> list[str]:
    parser = make()
    return sorted({mark for scanner in parser._unsure.values() for mark in scanner.marks})


def junk_in(text: str) -> str:
    return "".join(character for character in text if character in JUNK)


def texts_for(make: Make) -> st.SearchStrategy[str]:
    marks = marks_of(make)
    pieces = st.one_of(
        st.sampled_from(marks),
        st.sampled_from(marks).flatmap(lambda mark: st.integers(0, len(mark)).map(lambda size: mark[:size])),
        st.text(JUNK + ' \n{}[]":,\\<|', max_size=6),
        st.sampled_from(['{"name": "f", "arguments": {}}', "<|sep|>", "```", "to=", "{}", ": ", "analysis", '"', "\\"]),
    )
    return st.lists(pieces, max_size=14).map("".join)


@EVERY
def test_random_text_never_raises_and_loses_no_character(make: Make):
    thinks = [None, True, False] if make in (KimiK2Parser, KimiK3Parser, DeepSeekR1Parser, Qwen3Parser) else ["-"]

    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(texts_for(make), st.lists(st.integers(0, 80), max_size=6), st.sampled_from(thinks))
    def check(text: str, cuts: list[int], thinking: Any):
        one, other = (make() if thinking == "-" else make(thinking=thinking) for _ in range(2))  # type: ignore[call-arg]
        whole = read(one, [text])
        places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
        pieces = [text[start:end] for start, end in zip(places, [*places[1:], None], strict=True)]
        assert merged(read(other, pieces)) == merged(whole)
        assert other.problems == one.problems
        said = [
            f"{frame.name}{frame.arguments}" if isinstance(frame, ToolCallDelta) else frame.text  # type: ignore[union-attr]
            for frame in whole
        ]
        assert junk_in("".join(said)) == junk_in(text)

    check()


@EVERY
def test_text_without_marks_is_the_text(make: Make):
    @settings(max_examples=100, deadline=None, database=None)
    @given(st.text(max_size=60).filter(lambda text: not set("<[{`=") & set(text)))
    def check(text: str):
        message = make().parse(text)
        said = (message.reasoning or "") + message.text
        assert said == text or (said.strip() == text.strip() and message.reasoning is not None)

    check()


@EVERY
def test_no_mark_begins_with_another_one_of_its_mode(make: Make):
    for scanner in [*make()._sure.values(), *make()._unsure.values()]:
        marks = scanner.marks
        assert not [(one, other) for one in marks for other in marks if one != other and other.startswith(one)]


# ==== time ====

K3_ENDS = '<|close|>response<|sep|><|close|>think<|sep|>{"a"'
"""The one mark counts in text, the other one does not, and neither of them between marks."""
LONG = {
    "text": "word and < more | [ text, ",
    "strings": '{"a": "b',
    "spaces": " \n",
    "beginnings": "<|tool_cal",
}


@EVERY
@pytest.mark.parametrize("kind", [*LONG, "marks", "ends", "calls"])
def test_a_long_answer_takes_time_in_proportion(make: Make, kind: str):
    marks = marks_of(make)
    units = {"marks": "".join(marks), "ends": K3_ENDS, "calls": max(CORPORA[make], key=len)}
    unit = units.get(kind) or LONG[kind]

    def seconds(size: int, piece: int) -> float:
        text = (unit * (size // len(unit) + 1))[:size]
        pieces = [text[at : at + piece] for at in range(0, size, piece)]
        parser = make()
        began = time.process_time()
        read(parser, pieces)
        return time.process_time() - began

    def is_in_proportion(size: int, piece: int) -> bool:
        return seconds(8 * size, piece) < 24 * seconds(size, piece) + 0.02

    for size, piece in ((2_500, 1), (10_000, 80_000)):  # eight times the text would take 64 times as long
        assert any(is_in_proportion(size, piece) for _ in range(5))


@EVERY
def test_a_long_answer_of_single_characters_is_read_in_seconds(make: Make):
    text = "A sentence with < and { and [ in it. " * 1_000
    began = time.process_time()
    parser = make()
    assert sum(len(frame.text) for frame in read(parser, text)) == len(text)  # type: ignore[union-attr]
    assert time.process_time() - began < 4


# ==== a parser ====


def test_ids_of_k2_count_over_the_conversation():
    parser = KimiK2Parser()
    parser.calls_before = 5
    parser.parse(k2(("functions.f:0", "{}"), ("functions.g:1", "{}")))
    assert [call.id for call in parser.calls] == ["functions.f:5", "functions.g:6"]


def test_ids_of_others_are_the_name_and_a_number():
    parser = Qwen3Parser()
    parser.calls_before = 2
    assert [call.id for call in parser.parse(qwen(named("f", "{}"))).tool_calls or ()] == ["f_2"]


def test_ids_of_mistral_have_nine_characters():
    parser = MistralParser()
    parser.calls_before = 3
    parser.parse(
        '[TOOL_CALLS][{"name": "f", "arguments": {}, "id": "VvvODy9mT"}, {"name": "f", "arguments": {}, "id": 4}]'
    )
    assert [call.id for call in parser.calls] == ["VvvODy9mT", "000000004"]


def test_a_call_is_told_as_soon_as_it_is_whole():
    parser = Qwen3Parser(thinking=False)
    assert parser.feed("Look. <tool_call>" + named("f", OSLO)) == [Append("Look.")]
    assert parser.feed("</tool_call>") == [ToolCallDelta(0, "f_0", "f", OSLO)]
    assert parser.close() == []


def test_text_is_told_as_it_comes_where_it_is_known_to_be_text():
    parser = KimiK2Parser(thinking=False)
    assert parser.feed("Hello <") == [Append("Hello ")]
    assert parser.feed("b") == [Append("<b")]


def test_reasoning_is_told_as_it_comes_where_the_model_thinks():
    parser = DeepSeekR1Parser()
    assert parser.feed("Hm") == [Reasoning("Hm")]
    assert parser.feed("</think>\n") == []
    assert parser.feed("\nYes") == [Append("Yes")]


def test_a_host_that_gives_the_reasoning_apart_leaves_the_answer():
    parser = DeepSeekR1Parser()
    parser.expect_no_reasoning()
    assert parser.parse("Yes").text == "Yes"


def test_a_problem_names_the_text_and_what_is_wrong_with_it():
    parser = Qwen3Parser()
    parser.parse(qwen('{"name": "f"}'))
    assert parser.problems[0].startswith("no call could be read out of '<tool_call>")
    assert parser.problems[0].endswith("it has no arguments")


def test_deep_nesting_is_a_malformed_call():
    parser = Qwen3Parser(thinking=False)
    text = "<tool_call>" + named("f", "[" * 100_000)
    assert parser.parse(text).text == text
    assert len(parser.problems) == 1


def test_a_parser_is_for_one_answer():
    parser = KimiK2Parser()
    parser.parse("x")
    assert parser.close() == []
    with pytest.raises(ValueError, match="new one"):
        parser.feed("y")

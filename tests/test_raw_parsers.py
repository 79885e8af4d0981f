"""Raw text of models: however it is cut, it says the same, and nothing of it is lost.

`KIMI_AGENT_FUZZ` is twenty times the number of random texts for each parser.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import takes_at_most

from kimi_agent.events import Append, Reasoning, StreamFrame, ToolCallDelta
from kimi_agent.raw.base import BaseParser, Found
from kimi_agent.raw.deepseek import DeepSeekR1Parser
from kimi_agent.raw.harmony import HarmonyParser
from kimi_agent.raw.harmony import _head as head_of
from kimi_agent.raw.kimi_k2 import KimiK2Parser
from kimi_agent.raw.kimi_k3 import KimiK3Parser
from kimi_agent.raw.llama3 import Llama3Parser
from kimi_agent.raw.marks import HELD, PENDING, Mode
from kimi_agent.raw.mistral import MistralParser
from kimi_agent.raw.naive import NaiveJSONParser
from kimi_agent.raw.qwen3 import Qwen3Parser

EXAMPLES = int(os.environ.get("KIMI_AGENT_FUZZ", "1200")) // 20

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
    " \n Hm.</think>Yes": (" \n Hm.", "Yes", [], 0),
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
    k2(("f:0", '{"a": "x </think> y"}')): (None, "", [("f", {"a": "x </think> y"})], 0),
    "<think>hm" + k2(("f:0", '{"a": "</think>"}')): ("hm", "", [("f", {"a": "</think>"})], 0),
    "a<|tool_call_begin|>f:0<|tool_call_argument_begin|>": (
        None, "a<|tool_call_begin|>f:0<|tool_call_argument_begin|>", [], 1),
    "<|tool_call_begin|>f:0<|tool_call_argument_begin|>null": (
        None, "<|tool_call_begin|>f:0<|tool_call_argument_begin|>null", [], 1),
    "<|tool_call_begin|>f:0<|tool_call_argument_begin|><|im_end|>": (
        None, "<|tool_call_begin|>f:0<|tool_call_argument_begin|><|im_end|>", [], 1),
    "It writes `<|tool_calls_section_begin|>` before": (None, "It writes `<|tool_calls_section_begin|>` before", [], 0),
    "a <|tool_calls_section_begin|> ": (None, "a <|tool_calls_section_begin|> ", [], 0),
    "a<|tool_calls_section_begin|><|im_end|>": (None, "a<|tool_calls_section_begin|>", [], 0),
    "a <|tool_call_begin|> in <|im_end|>": (None, "a <|tool_call_begin|> in <|im_end|>", [], 1),
    "a <|tool_call_begin|>`, <|im_end|>": (None, "a <|tool_call_begin|>`, ", [], 1),
}  # fmt: skip


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
    K3_OPEN + k3("f", ("p", "string", "/data"))[:-21]: ("", k3("f", ("p", "string", "/data"))[:-21], [], 1),
    K3_OPEN + '<|open|>call tool="f"<|sep|>': ("", '<|open|>call tool="f"<|sep|>', [], 1),
    K3_OPEN + "`<|open|>tools<|sep|>`<|open|>tools<|sep|>": (
        "", "`<|open|>tools<|sep|>`<|open|>tools<|sep|>", [], 0),
    K3_OPEN + "a<|close|>response<|sep|> b<|close|>response<|sep|>": ("", "a<|close|>response<|sep|> b", [], 0),
    K3_OPEN + "<|open|>call me <|open|>call a=b<|open|>call": (
        "", "<|open|>call me <|open|>call a=b<|open|>call", [], 2),
    K3_OPEN + '<|open|>call tool="f"<|sep|><|open|>json type="object"<|sep|>{"a": "<|close|>argument<|sep|>'
    '<|close|>call<|sep|>"}<|close|>json<|sep|><|close|>call<|sep|>': (
        "", "", [("f", {"a": "<|close|>argument<|sep|><|close|>call<|sep|>"})], 0),
    K3_OPEN + k3("f", ("a", "string", "<|close|>json<|sep|><|close|>call<|sep|>")): (
        "", "", [("f", {"a": "<|close|>json<|sep|><|close|>call<|sep|>"})], 0),
    "a" + k3("f") + "<|close|>tools<|sep|>b": ("a", "<|close|>tools<|sep|>b", [("f", {})], 0),
    K3_OPEN + "a<|close|>response<|sep|><|open|>tools<|sep|>b": ("", "a<|open|>tools<|sep|>b", [], 0),
    "<|close|>think<|sep|><|open|>tools<|sep|>" + k3("f") + " <|close|>tools<|sep|>b": (
        "", " <|close|>tools<|sep|>b", [("f", {})], 0),
}  # fmt: skip

ANALYSIS = "<|start|>assistant<|channel|>analysis<|message|>"
FINAL = "<|end|><|start|>assistant<|channel|>final<|message|>"
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
    f"<|channel|>??<|end|>{ANALYSIS}Hm{FINAL}Yes<|return|>": ("Hm", "<|channel|>??Yes", [], 1),
    f"<|channel|>commentary?<|end|>{ANALYSIS}Hm{FINAL}Yes": ("Hm", "<|channel|>commentary?Yes", [], 1),
    f"<|channel|>analysis<|message|>The mark <|channel|> or <|start|> starts it.{FINAL}Yes": (
        "The mark <|channel|> or <|start|> starts it.", "Yes", [], 2),
    f"<|channel|>analysis <|start|>assistant{FINAL[7:]}Yes": (
        None, "<|channel|>analysis <|start|>assistantYes", [], 2),
    f"<|channel|>final {FINAL}a": (None, "<|channel|>final a", [], 1),
    "<|channel|>final<|message|>Write `<|end|>` and<|end|>": (None, "Write `<|end|>` and", [], 0),
    "<|channel|>analysis<|message|>a <|end|> b": ("a <|end|> b", "", [], 0),
    "<|channel|>analysis<|message|>a<|end|>": ("a", "", [], 0),
    "<|channel|>analysis<|message|><|end|>": ("", "", [], 0),
    "<|channel|>final <|constrain|>WeatherReport<|message|>{}<|return|>": (None, "{}", [], 0),
    "<|channel|>commentary <|constrain|>JSON<|message|>a": (None, "a", [], 0),
    "<|channel|>commentary to=assistant<|message|>a<|end|>": (None, "a", [], 0),
    "<|channel|>analysis to=user code<|message|>a<|end|>": ("a", "", [], 0),
    "<|channel|>commentary<|channel|>commentary to=functions.f<|message|>{}<|call|>": (None, "", [("f", {})], 0),
    "<|channel|>commentary to=functions.f<|channel|>commentary json<|message|>{}<|call|>": (
        None, "", [("f", {})], 0),
    "<|channel|>final<|channel|>final<|channel|>final<|channel|>final<|message|>a": (
        None, "<|channel|>final<|channel|>final<|channel|>finala", [], 1),
    "<|start|>to=f<|message|>{}": (None, "", [("f", {})], 0),
    "<|channel|>analysis to=python code<|message|>print(1)<|call|>": (
        None, "<|channel|>analysis to=python code<|message|>print(1)<|call|>", [], 1),
    "to=functions.f<|message|>": (None, "to=functions.f<|message|>", [], 1),
    "to=functions.f<|message|><|end|>": (None, "to=functions.f<|message|><|end|>", [], 1),
    "to=functions.f<|message|><|call|>": (None, "", [("f", {})], 0),
}  # fmt: skip


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
    "</think><｜tool▁call▁begin｜>function<｜tool▁sep｜>f": (
        "", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f", [], 1),
    "</think><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n": (
        "", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n", [], 1),
    "</think><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n``": ("", "", [("f", {})], 0),
    f"</think><｜tool▁call▁begin｜>function<｜tool▁sep｜>f{OSLO}": ("", "", [("f", {"city": "Oslo"})], 0),
    "</think><｜tool▁call▁begin｜>f?<｜tool▁sep｜>{}<｜tool▁call▁end｜>": (
        "", "<｜tool▁call▁begin｜>f?<｜tool▁sep｜>{}<｜tool▁call▁end｜>", [], 1),
    "</think><｜tool▁call▁begin｜>function<｜tool▁sep｜>{}<｜tool▁call▁end｜>": ("", "", [("function", {})], 0),
    "</think>The <｜tool▁calls▁begin｜> mark": ("", "The <｜tool▁calls▁begin｜> mark", [], 0),
    "</think>a <｜tool▁calls▁begin｜> <｜tool▁calls▁end｜> b": ("", "a  b", [], 0),
}  # fmt: skip


def qwen(*objects: str) -> str:
    return "\n".join(f"<tool_call>\n{item}\n</tool_call>" for item in objects)


def named(name: str, arguments: str, key: str = "arguments") -> str:
    return f'{{"name": "{name}", "{key}": {arguments}}}'


def tags(name: str, **values: str) -> str:
    inner = "".join(f"<parameter={key}>{value}</parameter>\n" for key, value in values.items())
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


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
    qwen(named("f", '{"a": "x </think> y"}')): (None, "", [("f", {"a": "x </think> y"})], 0),
    "<think>hm \n" + qwen(named("f", '{"a": "</think>"}')): ("hm", "", [("f", {"a": "</think>"})], 0),
    "<think>hm \n" + qwen(named("f", '{"a": "</think>"}')) + " hm </think>b": (
        "hm \n" + qwen(named("f", '{"a": "</think>"}')) + " hm", "b", [], 0),
    '<tool_call>{"name": "f, </think>}</tool_call>': ('<tool_call>{"name": "f,', "}</tool_call>", [], 0),
    "<think>hm \n<tool_call>no": ("hm", "<tool_call>no", [], 1),
    '<tool_call>{"name": "f, </think>' + qwen(named("f", '{"a": "</tool_call>"}')): (
        '<tool_call>{"name": "f,', "", [("f", {"a": "</tool_call>"})], 0),
    "Use <tool_call>{oops, or </think>b": ("Use <tool_call>{oops, or", "b", [], 0),
    "a\n" + tags("f", city='\nOslo "x\n', n="\n4\n", t="</tool_call> <tool_call> </think>") + "\n<|im_end|>": (
        None, "a", [("f", {"city": 'Oslo "x', "n": 4, "t": "</tool_call> <tool_call> </think>"})], 0),
    tags("f", i="1e999", n="NaN"): (None, "", [("f", {"i": "1e999", "n": "NaN"})], 0),
    tags("f", s='"a"', o='{"a": [1]}', b="true", z="null", t="1 2", e=""): (
        None, "", [("f", {"s": '"a"', "o": {"a": [1]}, "b": True, "z": None, "t": "1 2", "e": ""})], 0),
    tags("f")[:-13]: (None, "", [("f", {})], 0),
    tags("f")[:-25]: (None, tags("f")[:-25], [], 1),
    tags("f").replace("</function>", ""): (None, "", [("f", {})], 0),
    "<tool_call><function=f><parameter=a> </tool_call>b <tool_call><function=f><parameter=a> </tool_call>"
    + qwen(named("f", "{}")): (
        None,
        "<tool_call><function=f><parameter=a> </tool_call>b <tool_call><function=f><parameter=a> </tool_call>",
        [("f", {})],
        2,
    ),
    qwen(named("f", "{}") + "\n" + named("g", "{}")): (None, "", [("f", {}), ("g", {})], 0),
    qwen(named("f", "{}") + ", " + named("g", "{}")): (None, "", [("f", {}), ("g", {})], 0),
    qwen(f"```json\n{named('f', '{}')}\n```"): (None, "", [("f", {})], 0),
    qwen(named("f", '{"a": "b\nc\t"}')): (None, "", [("f", {"a": "b\nc\t"})], 0),
    qwen(named("f g", "{}")): (None, qwen(named("f g", "{}")), [], 1),
    qwen('{"name": "\\""}', named("f", '{"a": "</tool_call>"}')): (
        None, qwen('{"name": "\\""}'), [("f", {"a": "</tool_call>"})], 1),
    "a<tool_call>\nNo": (None, "a<tool_call>\nNo", [], 1),
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
    f"[TOOL_CALLS]f{OSLO}[TOOL_CALLS]g {{}}</s>": (None, "", [("f", {"city": "Oslo"}), ("g", {})], 0),
    "[TOOL_CALLS]f": (None, "[TOOL_CALLS]f", [], 1),
    "[TOOL_CALLS]f[ARGS]": (None, "[TOOL_CALLS]f[ARGS]", [], 1),
    "a [TOOL_CALLS] in b": (None, "a [TOOL_CALLS] in b", [], 1),
    "[THINK]a[TOOL_CALLS]f[ARGS]" + '{"a": "[/THINK]"}': ("a", "", [("f", {"a": "[/THINK]"})], 0),
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
    '{"type": "function", "function": "f", "parameters": {}}': (None, "", [("f", {})], 0),
    f"[{named('f', '{}', 'parameters')}]<|eot_id|>": (None, "", [("f", {})], 0),
    'a <function=f>{"x": "</function>"}</function> <function=g>{}</function><|eom_id|>': (
        None, "a", [("f", {"x": "</function>"}), ("g", {})], 0),
    "<function=f></function>": (None, "", [("f", {})], 0),
    "<function=f>": (None, "<function=f>", [], 1),
    "<function=f> of x": (None, "<function=f> of x", [], 1),
    "<|start_header_id|>assistant<|end_header_id|>\n\n" + named("f", "{}"): (None, "", [("f", {})], 0),
    "[f(x=1)]": (None, "[f(x=1)]", [], 0),
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
    "```\n" + named("f", "{}") + "\n": (None, "", [("f", {})], 0),
    "{}": (None, "{}", [], 0),
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
    for size in (1, 2, 3, 7):
        other = make()
        assert merged(read(other, [text[at : at + size] for at in range(0, len(text), size)])) == whole
        assert other.problems == problems


@pytest.mark.parametrize(("make", "text", "expected"), CASES)
def test_an_answer_that_ends_anywhere_is_read_as_far_as_it_came(make: Make, text: str, expected: Expected):
    by_character = make()
    told: list[StreamFrame] = []
    for end, character in enumerate(text):
        parser = make()
        assert merged(read(parser, [text[:end]])) == merged(told + deepcopy(by_character).close())
        for call in parser.calls:
            assert isinstance(call.args, dict)
        told += by_character.feed(character)


# ==== nothing is lost ====

JUNK = "0123456789äπ日🎈"


def marks_of(make: Make) -> list[str]:
    parser = make()
    return sorted({mark for scanner in parser._unsure.values() for mark in scanner.marks})


def dropped_marks(make: Make) -> list[str]:
    """The marks that may be missing in what was said of an answer without calls: not those of calls."""
    outside = [scanner.marks for mode, scanner in make()._sure.items() if mode not in HELD]
    return [mark for marks in outside for mark, after in marks.items() if after not in (*HELD, Mode.UNSURE)]


def pending_marks(make: Make) -> list[str]:
    return [mark for mark, after in make()._sure[Mode.TEXT].marks.items() if after in PENDING]


def heads_at(make: Make, text: str, start: int) -> list[int]:
    """Where the head of a message that begins here may end."""
    if make is not HarmonyParser or not text.startswith(("to=", "<|start|>", "<|channel|>"), start):
        return []
    ends = [found.start() for found in re.finditer(r"<\|message\|>", text)]
    return [end + len("<|message|>") for end in ends if end > start and head_of(text[start:end]) is not None]


def is_all_of(make: Make, said: str, text: str) -> bool:
    """Whether what was said is the text without marks, heads and spaces."""
    marks, places = dropped_marks(make), {0}
    waiting: dict[int, set[int]] = {}
    for at, character in enumerate(text):
        places |= waiting.pop(at, set())
        for end in (*(at + len(mark) for mark in marks if text.startswith(mark, at)), *heads_at(make, text, at)):
            waiting.setdefault(end, set()).update(places)
        same = {place + 1 for place in places if said[place : place + 1] == character}
        places = same | places if character.isspace() else same
    return len(said) in places | waiting.get(len(text), set())


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

    @settings(max_examples=EXAMPLES, database=None)
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
        if not one.calls:
            assert is_all_of(make, "".join(said), text)
            for mark in pending_marks(make):
                for junk in JUNK:
                    assert "".join(said).count(mark + junk) >= text.count(mark + junk)

    check()


@EVERY
def test_text_without_marks_is_the_text(make: Make):
    @settings(max_examples=EXAMPLES, database=None)
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

    def reading(size: int, piece: int) -> Callable[[], object]:
        text = (unit * (size // len(unit) + 1))[:size]
        pieces = [text[at : at + piece] for at in range(0, size, piece)]
        return lambda: read(make(), pieces)

    for size, piece in ((1_200, 1), (5_000, 40_000)):
        assert takes_at_most(24, reading(size, piece), reading(8 * size, piece))


@EVERY
def test_a_long_answer_of_single_characters_is_read_in_seconds(make: Make):
    text = "A sentence with < and { and [ in it. " * 250
    began = time.process_time()
    parser = make()
    assert sum(len(frame.text) for frame in read(parser, text)) == len(text)  # type: ignore[union-attr]
    assert time.process_time() - began < 1


STUCK = {
    KimiK2Parser: '<|tool_call_begin|>f:0<|tool_call_argument_begin|>{"": \\"<|tool_call_end|>',
    HarmonyParser: '<|channel|>commentary to=f<|message|>{"": \\"<|call|>',
    DeepSeekR1Parser: '<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"": \\"<｜tool▁call▁end｜>',
    Qwen3Parser: '<tool_call>{"": \\"</tool_call>',
    MistralParser: '[TOOL_CALLS]f[ARGS]{"": \\"',
    Llama3Parser: '<|python_tag|>{"": \\"<|eom_id|>',
    partial(Qwen3Parser, thinking=False): "<tool_call><function=f><parameter=a></tool_call>",
}
"""A call with a string or a value that does not end, however many of them there are."""


@pytest.mark.parametrize(("make", "unit"), STUCK.items())
def test_what_does_not_end_is_looked_for_once(make: Make, unit: str):
    few, many = "</think>" + unit * 200, "</think>" + unit * 1_600
    assert takes_at_most(24, lambda: make().parse(few), lambda: make().parse(many))


PROSE = {
    KimiK2Parser: "</think>Write <|tool_call_begin|> in",
    HarmonyParser: "<|channel|> is",
    DeepSeekR1Parser: "</think>The <｜tool▁call▁begin｜> mark",
    KimiK3Parser: K3_OPEN + "The <|open|>call mark",
    Qwen3Parser: "</think>```<tool_call>\n[...]",
    MistralParser: "[TOOL_CALLS] in",
    Llama3Parser: "{not json at all",
    NaiveJSONParser: "```python\n",
}


@pytest.mark.parametrize(("make", "text"), PROSE.items())
def test_what_goes_on_like_prose_is_told_as_it_comes(make: Make, text: str):
    parser = make()
    told = parser.feed(text) + [frame for _ in range(100) for frame in parser.feed(" word")]
    assert "".join(frame.text for frame in told if isinstance(frame, Append)).count(" word") >= 99


# ==== ids ====


def ids_of(parser: BaseParser, text: str) -> list[str]:
    return [call.id for call in parser.parse(text).tool_calls or ()]


def with_ids(*ids: str | None) -> str:
    calls = [{"name": "f", "arguments": {}, **({"id": call_id} if call_id else {})} for call_id in ids]
    return f"[TOOL_CALLS]{json.dumps(calls)}"


def test_an_id_that_another_call_of_the_answer_has_is_not_kept():
    assert ids_of(MistralParser(), with_ids("VvvODy9mT", "VvvODy9mT")) == ["VvvODy9mT", "000000001"]


def test_a_numbered_id_is_one_that_no_call_has():
    assert ids_of(MistralParser(), with_ids("000000001", None, None)) == ["000000001", "000000002", "000000003"]


def test_an_id_that_a_call_before_has_is_not_given_again():
    parser = Qwen3Parser()
    parser.calls_before, parser.ids_before = 1, {"call_1", "f_1"}
    call = '{"name": "f", "arguments": {}, "id": "call_1"}'
    assert ids_of(parser, qwen(call, call.replace("_1", "_2"))) == ["f_2", "call_2"]


def test_ids_of_a_call_that_was_only_thought_of_are_free_again():
    call = qwen('{"name": "f", "arguments": {}, "id": "a"}')
    assert ids_of(Qwen3Parser(), f"{call}</think>{call}{call}") == ["a", "f_1"]


def test_calls_have_ids_of_their_own_even_where_a_parser_gives_them_one():
    class Same(Qwen3Parser):
        def call_id(self, name: str, number: int) -> str:
            return "same"

    assert ids_of(Same(), qwen(*[named("f", "{}")] * 3)) == ["same", "same_1", "same_2"]


# ==== a parser ====


def test_what_comes_late_in_a_call_is_not_looked_at_before_its_end_however_it_is_cut():
    text = f"<|tool_call_begin|>{'a' * 250} b c"
    one, other = KimiK2Parser(thinking=False), KimiK2Parser(thinking=False)
    assert merged(read(one, text)) == merged(read(other, [text]))
    assert one.problems == other.problems


def test_calls_are_listed_when_they_are_told():
    parser = Qwen3Parser()
    assert parser.feed(qwen(named("f", "{}"))) == []
    assert parser.calls == []
    assert parser.close() == [ToolCallDelta(0, "f_0", "f", "{}")]
    assert [call.name for call in parser.calls] == ["f"]


def test_what_was_told_before_a_call_in_open_reasoning_stays_told():
    parser = Qwen3Parser()
    assert parser.feed("<think>Hm. <tool_call>") == [Reasoning("Hm.")]
    assert parser.feed("{oops</think>") == [Reasoning(" <tool_call>{oops")]
    assert parser.problems == []


def test_marks_of_the_answer_end_the_doubt_whether_k3_thought():
    parser = KimiK3Parser(thinking=None)
    assert parser.feed("Yes") == []
    assert parser.feed("<|close|>response<|sep|>") == [Append("Yes")]


def test_a_parser_without_reasoning_reads_all_as_the_answer():
    class Plain(BaseParser):
        MACHINE = {Mode.TEXT: {"<call>": Mode.CALL}, Mode.CALL: {"</call>": Mode.TEXT}}

        def found(self, raw: str, closed: bool) -> tuple[list[Found], str]:
            return [Found("f", "{}")], ""

    assert Plain(thinking=None).parse("a <call> b </call>").text == "a"


@pytest.mark.parametrize("name", ["f", "get_weather", "a.b-c:d/e", "f2", "天気"])
def test_a_name_is_made_of_letters_digits_and_some_signs(name: str):
    assert [call.name for call in Qwen3Parser().parse(qwen(named(name, "{}"))).tool_calls or ()] == [name]


@pytest.mark.parametrize("name", ["", " ", "f g", "f{", "f()", "<f>", "f;g", "f\\ng"])
def test_what_has_other_signs_is_no_name(name: str):
    parser = Qwen3Parser()
    assert not parser.parse(qwen(named(name, "{}"))).tool_calls
    assert parser.problems[0].endswith("is no name of a function")


def test_a_problem_says_that_a_call_may_have_been_cut_off():
    parser = KimiK2Parser()
    parser.parse("<|tool_call_begin|>f:0<|tool_call_argument_begin|>")
    assert parser.problems[0].endswith("does not end; it may have been cut off")


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


# ==== what stands on both sides of a call ====

CALLED = qwen(named("f", "{}"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"First.\n{CALLED}\nNow the other.\n{CALLED}", "First.\n\nNow the other."),
        (f"It is 4 °C. {CALLED} I will tell you.", "It is 4 °C.  I will tell you."),
        (f"One{CALLED}two{CALLED}\n{CALLED} three", "Onetwo\n three"),
        (f"<think>Well. </think> Yes. {CALLED}", "Yes."),
        (f"{CALLED}\nYes.", "Yes."),
    ],
)
def test_text_before_a_call_and_behind_it_stays_apart(text: str, said: str):
    for thinking in (False, None):
        whole = Qwen3Parser(thinking=thinking)
        assert whole.parse(text).text == said
        assert merged(read(Qwen3Parser(thinking=thinking), text)) == merged(
            read(Qwen3Parser(thinking=thinking), [text])
        )


def test_what_was_taken_for_the_answer_leaves_no_gap():
    message = Qwen3Parser(thinking=None).parse(f"Draft. {CALLED} More.</think> Yes.")
    assert message.text == "Yes."


def test_half_a_surrogate_in_arguments_stays_what_can_be_written():
    call, *_ = Qwen3Parser().parse(qwen(named("f", r'{"x": "\ud800", "y": "é"}'))).tool_calls or ()
    assert call.arguments.isascii()
    assert call.args == {"x": "\ud800", "y": "é"}

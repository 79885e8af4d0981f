"""Placeholders take what stands in their places, whatever stands there.

`KIMI_AGENT_FUZZ` is ten times the number of examples.
"""

import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import takes_at_most

from kimi_agent.structured.placeholders import Pattern, Text, without_doubled_braces

EXAMPLES = int(os.environ.get("KIMI_AGENT_FUZZ", "2000")) // 10


def found(template: str, text: str, *, exact: bool = False) -> list[str] | None:
    values = Pattern.read(template, exact=exact).values_in(Text(text))
    return None if values is None else list(values.values())


@pytest.mark.parametrize(
    ("template", "text", "expected"),
    [
        ("{a}", "  x y \t", ["x y"]),
        ("{a}", "", [""]),
        ("words", " **WORDS** ", []),
        ("words", "word s", None),
        ("", "", []),
        ("", "x", None),
        ("Name: {a}", "name:   x", ["x"]),
        ("Name: {a}", "Name:", [""]),
        ("Name: {a}", "Names: x", None),
        ("Name:{a}", "Name: x", ["x"]),
        ("Two  words:\n{a}", "two\twords: x", ["x"]),
        ("{a} pages", "10 Pages", ["10"]),
        ("{a} pages", "10pages", None),
        ("({a})", "(x)", ["x"]),
        ("ab{x}ba", "aba", None),
        ("{a}, {b}, {c}", "1, 2, 3, 4", ["1", "2", "3, 4"]),
        ("{a}, {b}", "1,000, 2", ["1,000", "2"]),
        ("{a} ({b}) [{c}]", "x (y) (1) [2]", ["x (y)", "1", "2"]),
        ("{a}（{b}）", "三体（小说）（2008）", ["三体（小说）", "2008"]),
        ("{a} -> {b}", "x->y->z", ["x", "y->z"]),
        ("Straße {a}", "STRASSE 7", ["7"]),
        ("STRASSE {a}", "straße 7", ["7"]),
        ("İ {a}", "İ é", ["é"]),
        ("**{a}** ({b})", "**_x_** (y)", ["_x_", "y"]),
        ("**{a}**", "**x** and **y**", ["**x** and **y**"]),
        ("*{a}*", "*", ["*"]),
        ("{a}: {b}", "**x:** y", ["x", "y"]),
        ("{a}: {b}", "**x: y**", ["x", "y"]),
        ("{a}: {b}", "**x**: **y**", ["**x**", "**y**"]),
        ("{a} ({b})", "**x (y)**", ["x", "y"]),
        ("Name: {a}", "  name: x", ["x"]),
        ("Name: {a}", "**Name: ** x", ["x"]),
        ("{a}: {b}", "**x: y** ", ["x", "y"]),
        ("**{a}**", "** x **", ["x"]),
        ("**Name:**{a}", "Name: *y*", ["*y*"]),
        ("{a}: {b}", ": x", ["", "x"]),
        ("{a} ({b})", "(x)", ["", "x"]),
        ("`{a}` - {b}", "`x` - `y` z", ["x", "`y` z"]),
    ],
)
def test_words_are_found_and_what_stands_between_them_is_taken(template: str, text: str, expected: list[str] | None):
    assert found(template, text) == expected


@pytest.mark.parametrize(
    ("template", "text", "expected"),
    [
        ("{a}", "  x\n\n", ["  x\n\n"]),
        ("x = {a}", "x =  1 ", [" 1 "]),
        ("x = {a}", "X = 1", None),
        ("f({a})\n{b}", "f(1)\n\ty", ["1", "\ty"]),
        ("*{a}*", "*x*", ["x"]),
        ("same", "same", []),
        ("same", "same ", None),
    ],
)
def test_in_code_every_character_counts(template: str, text: str, expected: list[str] | None):
    assert found(template, text, exact=True) == expected


def test_doubled_braces_are_single_ones():
    assert found('{{"a": {a}, "b": {{}}}}', '{"a": 1, "b": {}}') == ["1"]
    assert found("{{{a}}}", "{x}") == ["x"]
    assert without_doubled_braces("{{{a}}} {b} {{}}") == "{{a}} {b} {}"


TEXTS = st.text(alphabet=st.sampled_from("ab :(),-*_`ßİ\t\n\u2028🌦{}"), max_size=30)
TEMPLATES = ["{a}", "{a}: {b}", "**{a}** ({b})", "a {b} b", "*a*: {b} - {c}", "{a}, b {c}", "`{a}`:{b}"]


@given(st.sampled_from(TEMPLATES), TEXTS, st.booleans())
@settings(max_examples=EXAMPLES)
def test_what_is_taken_stands_in_the_text_in_that_order(template: str, text: str, exact: bool):
    place = 0
    for value in found(template, text, exact=exact) or []:
        place = text.index(value, place) + len(value)


WORDS = st.text(alphabet="abcß天 é", min_size=1, max_size=8).map(lambda text: " ".join(text.split())).filter(bool)
BETWEEN = st.sampled_from([": ", " (", ") ", " | ", ":**", "** = ", "; "])


@given(st.lists(WORDS, min_size=1, max_size=5), st.data())
@settings(max_examples=EXAMPLES)
def test_what_is_put_in_is_taken_out(values: list[str], data: st.DataObject):
    words = [data.draw(BETWEEN) for _ in values[1:]]
    write = [data.draw(st.sampled_from([str.upper, str.lower, str, "*{}*".format])) for _ in words]
    template = "Of " + "".join(
        itertools.chain(*zip([f"{{v{n}}}" for n in range(len(values))], [*words, "."], strict=True))
    )
    text = "oF  " + "".join(
        itertools.chain(
            *zip(values, [change(word) for change, word in zip(write, words, strict=True)] + ["."], strict=True)
        )
    )
    taken = found(template, text)
    assert taken is not None
    assert [value.strip("* ") for value in taken] == values


@pytest.mark.parametrize("piece", ["a", "a: ", "(", ")", "*", "_a_ ", " ", "ß"])
@pytest.mark.parametrize("template", [*TEMPLATES, "{a} ({b}) ({c})", "x{a}x"])
def test_a_hostile_text_takes_linear_time(template: str, piece: str):
    few, many = (piece * (size // len(piece)) for size in (2_500, 20_000))
    assert takes_at_most(24, lambda: found(template, few), lambda: found(template, many))

"""Markdown falls into sections by its headings, each as soon as it is whole.

`KIMI_AGENT_FUZZ` is ten times the number of examples.
"""

import os
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import takes_at_most

from kimi_agent.structured.markdown import CodeBlock, Heading, ListItem, Paragraph, TableRow
from kimi_agent.structured.sections import Section, SectionParser, sections

EXAMPLES = int(os.environ.get("KIMI_AGENT_FUZZ", "1500")) // 10


def read(pieces: Iterable[str], level: int = 1) -> list[Section]:
    parser = SectionParser(level)
    return [section for piece in pieces for section in parser.feed(piece)] + parser.close()


BOOKS = "# The Great Gatsby\n- F. Scott Fitzgerald\n- Jay loves Daisy.\n# Dune\n- Frank Herbert\n- Sand.\n"


async def test_the_list_of_books_without_writing_the_last_one_twice():
    found = [(section.title, section.items[0].text, section.items[1].text) async for section in sections(list(BOOKS))]
    assert found == [
        ("The Great Gatsby", "F. Scott Fitzgerald", "Jay loves Daisy."),
        ("Dune", "Frank Herbert", "Sand."),
    ]


async def test_a_section_is_out_when_the_next_one_begins():
    read_so_far: list[str] = []

    def pieces() -> Iterator[str]:
        for piece in ("# A\n", "- x\n", "# B\n", "- y\n"):
            read_so_far.append(piece)
            yield piece

    found = sections(pieces())
    assert (await anext(found)).title == "A"
    assert len(read_so_far) == 3
    assert [section.title async for section in found] == ["B"]


def test_a_section_has_what_stands_below_its_heading():
    text = "# A\n\none\n\n- x\n- [x] y\n\ntwo\n\n```py\nz\n```\n\n| k | v |\n|---|---|\n| 1 | 2 |\n"
    [section] = read([text])
    assert (section.title, section.level, section.line) == ("A", 1, 1)
    assert section.paragraphs == ("one", "two")
    assert section.items == (ListItem("x"), ListItem("y", checked=True))
    assert section.code_blocks == (CodeBlock("z\n", "py", "py"),)
    assert section.rows == (TableRow(("k", "v"), header=True), TableRow(("1", "2")))
    assert len(section.events) == 7
    assert section.children == ()


def test_deeper_headings_are_sections_within():
    text = "# A\n- a\n### A1\n- a1\n## A2\n- a2\n### A2a\n- a2a\n#### A2a1\n## A3\n# B"
    leaf = Section("A2a1", 4)
    assert read([text]) == [
        Section(
            "A",
            1,
            (ListItem("a"),),
            (
                Section("A1", 3, (ListItem("a1"),)),
                Section("A2", 2, (ListItem("a2"),), (Section("A2a", 3, (ListItem("a2a"),), (leaf,)),)),
                Section("A3", 2),
            ),
        ),
        Section("B", 1),
    ]


def test_what_is_not_below_a_heading_of_the_level_is_passed_over():
    text = "Sure!\n\n### no\n- no\n## A\n- a\n# Part\n- no\n### no\n\n## B\n- b\n"
    assert read([text], 2) == [Section("A", 2, (ListItem("a"),)), Section("B", 2, (ListItem("b"),))]


def test_a_heading_in_code_or_in_a_quote_is_none():
    [section] = read(["# A\n```\n# no\n```\n> # no\n"])
    assert [type(event).__name__ for event in section.events] == ["CodeBlock", "Quote"]


@pytest.mark.parametrize("text", ["", " \n\n", "no heading\n- x\n", "## deeper\n"])
def test_a_text_without_such_a_heading_has_no_sections(text: str):
    assert read([text]) == []


async def test_a_text_in_place_of_a_stream_is_refused():
    with pytest.raises(TypeError, match="pieces"):
        sections("# A")


@pytest.mark.parametrize("level", [0, 7, -1, "1", None])
def test_there_are_six_levels(level: int):
    with pytest.raises(ValueError, match="1 to 6"):
        sections([], level)


MARKDOWN = st.lists(
    st.sampled_from(["# ", "## ", "### ", "- ", "\n", "\n\n", "\r\n", "```\n", "> ", "===\n", "a", " b"]), max_size=40
).map("".join)


@given(MARKDOWN, st.integers(1, 4))
@settings(max_examples=EXAMPLES)
def test_it_does_not_matter_how_the_text_is_cut(text: str, level: int):
    assert read(text, level) == read([text], level)


@given(MARKDOWN, st.integers(1, 4))
@settings(max_examples=EXAMPLES)
def test_sections_and_those_within_have_deeper_and_deeper_headings(text: str, level: int):
    def check(section: Section) -> None:
        assert not any(isinstance(event, Heading) for event in section.events)
        for child in section.children:
            assert child.level > section.level
            assert child.line > section.line
            check(child)

    found = read([text], level)
    assert [section.level for section in found] == [level] * len(found)
    for section in found:
        check(section)


def test_thousands_of_sections_take_linear_time():
    few, many = (["# A\n- x\n## B\n\ny\n\n"] * number for number in (500, 4000))
    assert len(read(many)) == 4000
    assert takes_at_most(24, lambda: read(few), lambda: read(many))


def test_equal_sections_are_equal_wherever_they_stand():
    first, second = read(["# A\n- x\n\n# A\n- x"])
    assert first == second
    assert hash(first) == hash(second)
    assert (first.line, second.line) == (1, 4)
    assert first != Section("A", 1, (Paragraph("x"),))

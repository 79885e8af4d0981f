"""Objects come out of markdown as their sections close, by the placeholders of a format.

`KIMI_AGENT_FUZZ` is eight times the number of examples.
"""

import gc
import itertools
import os
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, create_model
from timing import takes_at_most

from kimi_agent.errors import StructuredOutputError
from kimi_agent.events import Append, End, Reasoning, StreamFrame
from kimi_agent.message import Message
from kimi_agent.structured.format import MarkdownFormat
from kimi_agent.structured.records import RecordParser, Records, records

EXAMPLES = int(os.environ.get("KIMI_AGENT_FUZZ", "1000")) // 8


class Book(BaseModel):
    title: str
    author: str
    description: str = ""


BOOKS = MarkdownFormat(
    "book_list",
    "# {title}\n- {author}\n- {description}",
    "# The Great Gatsby\n- F. Scott Fitzgerald\n- A novel set in the Jazz Age.",
)


def read(schema: str, text: str, **fields: Any) -> list[dict[str, Any]]:
    """What is in a text, by a format and the types of its fields; all are text where none is given."""
    format = MarkdownFormat("f", schema)
    given = {name: (fields[name], ...) if name in fields else (str | None, None) for name in format.placeholders}
    model = create_model("Record", **given)
    parser = RecordParser(model, format)
    found = [*parser.feed(text), *parser.close()]
    for one in found:
        if isinstance(one, StructuredOutputError):
            raise one
    return [one.model_dump(exclude_none=True) for one in found if isinstance(one, BaseModel)]


async def collect(found: AsyncIterator[Any]) -> list[Any]:
    return [one async for one in found]


# ==== the list of books ====


async def test_books_come_out_of_their_markdown():
    text = "# The Great Gatsby\n- F. Scott Fitzgerald\n- Jay loves Daisy.\n# Dune\n- Frank Herbert\n- Sand.\n"
    assert await collect(records([text], Book, BOOKS)) == [
        Book(title="The Great Gatsby", author="F. Scott Fitzgerald", description="Jay loves Daisy."),
        Book(title="Dune", author="Frank Herbert", description="Sand."),
    ]


async def test_a_book_is_there_before_the_next_one_is_whole():
    given_out: list[str] = []

    def pieces() -> Iterator[str]:
        for piece in ("# A\n- x\n", "- y\n# B\n", "- z\n"):
            given_out.append(piece)
            yield piece

    assert (await anext(records(pieces(), Book, BOOKS))).title == "A"
    assert len(given_out) == 2


async def test_what_stands_around_the_books_is_in_none_of_them():
    text = "Sure! Here are some:\n\n- first a list\n\n# A\n- x\n- y\n- z\n\nHope that helps!"
    assert await collect(records([text], Book, BOOKS)) == [Book(title="A", author="x", description="y")]


async def test_a_stream_may_be_async():
    async def pieces() -> AsyncIterator[str]:
        for char in "# A\n- x\n":
            yield char

    assert await collect(records(pieces(), Book, BOOKS)) == [Book(title="A", author="x")]


async def test_a_text_of_nothing_has_no_records():
    assert await collect(records([], Book, BOOKS)) == []
    assert await collect(records(["", " \n", "\n"], Book, BOOKS)) == []


async def test_a_text_in_place_of_a_stream_is_refused():
    with pytest.raises(TypeError, match="pieces"):
        records("# A", Book, BOOKS)


async def test_iterating_twice_goes_on_where_it_was():
    found = records(["# A\n- x\n# B\n- y"], Book, BOOKS)
    assert isinstance(found, Records)
    assert aiter(found) is found
    assert (await anext(found)).title == "A"
    assert [book.title async for book in found] == ["B"]
    assert [book.title async for book in found] == []


# ==== where things are looked for ====

CASES: dict[str, tuple[str, str, list[dict[str, str]]]] = {
    "words around a placeholder": (
        "# {t}\n- Author: {a}\n- Year: {y}",
        "# T\n- Year: 1\n- Author: A",
        [{"t": "T", "a": "A", "y": "1"}],
    ),
    "an item with other words is none of them": (
        "# {t}\n- Author: {a}\n- Year: {y}",
        "# T\n- Note: n\n- Year: 1",
        [{"t": "T", "y": "1"}],
    ),
    "words are looked for before places without any": (
        "# {t}\n- {s}\n- Author: {a}",
        "# T\n- author: A\n- S",
        [{"t": "T", "a": "A", "s": "S"}],
    ),
    "decoration in the template": ("# {t}\n- **Author:** {a}", "# T\n- AUTHOR:   A", [{"t": "T", "a": "A"}]),
    "decoration in the text": ("# {t}\n- Author: {a}", "# T\n- **Author**: A", [{"t": "T", "a": "A"}]),
    "decoration with the colon in it": ("# {t}\n- Author: {a}", "# T\n- **Author:** A", [{"t": "T", "a": "A"}]),
    "decoration around all of it": ("# {t}\n- Author: {a}", "# T\n- __Author: A__", [{"t": "T", "a": "A"}]),
    "decoration without a space": ("# {t}\n- 作者：{a}", "# T\n- **作者：**鲁迅", [{"t": "T", "a": "鲁迅"}]),
    "decoration of a value stays": (
        "# {t}\n- Author: {a}",
        "# **T**\n- Author: **A** and _B_",
        [{"t": "**T**", "a": "**A** and _B_"}],
    ),
    "decoration that the template has around a value goes": (
        "# **{t}**\n- `{c}`: {a}",
        "# **T**\n- `x_y`: A",
        [{"t": "T", "c": "x_y", "a": "A"}],
    ),
    "it need not be there": ("# **{t}**\n- `{c}`: {a}", "# T\n- x_y: A", [{"t": "T", "c": "x_y", "a": "A"}]),
    "names with underscores stay": ("# {t}\n- Name: {n}", "# __init__\n- Name: foo_", [{"t": "__init__", "n": "foo_"}]),
    "several in an item": (
        "# {t}\n- {a} by {b}",
        "# T\n- Ruby by BY by Way",
        [{"t": "T", "a": "Ruby", "b": "BY by Way"}],
    ),
    "words are whole words": ("# {t}\n- Part {a}", "# T\n- Parthenon\n- part 2", [{"t": "T", "a": "2"}]),
    "the last bracket is the one": (
        "- {a} ({y})",
        "- Dune (novel) (1965)\n- It(1986)",
        [{"a": "Dune (novel)", "y": "1965"}, {"a": "It", "y": "1986"}],
    ),
    "a link": ("- [{a}]({u})", "- [Dune [1]](http://x/(y))", [{"a": "Dune [1]", "u": "http://x/(y)"}]),
    "a hyphen within a word separates nothing": (
        "- {a} - {b}",
        "- Spider-Man - Stan\n- X-Men",
        [{"a": "Spider-Man", "b": "Stan"}],
    ),
    "space around a sign does not matter": (
        "- {a}: {b}",
        "- x:1\n- y  :  2",
        [{"a": "x", "b": "1"}, {"a": "y", "b": "2"}],
    ),
    "the colon that comes first": ("- {a}: {b}", "- x: 10:30: z", [{"a": "x", "b": "10:30: z"}]),
    "quotes": ("# {t}\n> {q}", "# T\n> said\n> so\n", [{"t": "T", "q": "said\nso"}]),
    "code": ("# {t}\n```python\n{c}\n```", "# T\n~~~py\n  x = 1\n\ny\n~~~\n", [{"t": "T", "c": "  x = 1\n\ny"}]),
    "code and its language": (
        "```{lang}\n{c}\n```",
        "```js\na\n```\n```\nb\n```",
        [{"lang": "js", "c": "a"}, {"c": "b"}],
    ),
    "code that is never closed": ("# {t}\n```\n{c}\n```", "# T\n```\na\n# b", [{"t": "T", "c": "a\n# b"}]),
    "code in two languages": (
        "# {t}\n```python\n{p}\n```\n```bash\n{b}\n```",
        "# T\n```bash\nls\n```\n# U\n```python\nx\n```\n```sh\ny\n```",
        [{"t": "T", "b": "ls"}, {"t": "U", "p": "x", "b": "y"}],
    ),
    "code with words in it": ("```\nimport x\n{c}\n```", "```\nimport x\nA\n```\n```\nIMPORT x\nB\n```", [{"c": "A"}]),
    "braces that are text": ('```\n{{"a": {a}}}\n```', '```\n{"a": 1}\n```', [{"a": "1"}]),
    "tables": (
        "| Name | Price |\n|---|---|\n| {n} | {p} |",
        "Prices:\n\n| name | price |\n|:-|-:|\n| a | 1 |\n| b |\n\nEnd",
        [{"n": "a", "p": "1"}, {"n": "b"}],
    ),
    "a table with words in its cells": (
        "| K | V |\n|-|-|\n| Name | {n} |\n| Age | {a} |",
        "|K|V|\n|-|-|\n|name|x|\n|age|9|\n|name|y|",
        [{"n": "x", "a": "9"}, {"n": "y"}],
    ),
    "a table with more columns": ("| N |\n|---|\n| {n} |", "| N | M |\n|-|-|\n| a | b |", [{"n": "a"}]),
    "a paragraph goes on": (
        "# {t}\n{d}",
        "# T\none\nmore\n\ntwo\n\n- no\n\nthree\n",
        [{"t": "T", "d": "one\nmore\n\ntwo\n\nthree"}],
    ),
    "a paragraph does not go on behind a break": ("# {t}\n{d}", "# T\none\n\n---\nBye!", [{"t": "T", "d": "one"}]),
    "two paragraphs": ("# {t}\n{d}\n\n{e}", "# T\none\n\ntwo\n\nthree", [{"t": "T", "d": "one", "e": "two\n\nthree"}]),
    "a paragraph with words does not go on": ("# {t}\nAbout: {d}", "# T\nabout: one\n\ntwo", [{"t": "T", "d": "one"}]),
    "words alone are passed over": ("# {t}\nSummary:\n\n{d}", "# T\n**summary:**\n\none", [{"t": "T", "d": "one"}]),
    "lines of a paragraph": (
        "# {t}\nAuthor: {a}\nYear: {y}\n\n{d}",
        "# T\nYear: 1\nAuthor: A\n\none\nmore\n\ntwo\n\n# U\nAuthor: B\nfree\n",
        [{"t": "T", "y": "1", "a": "A", "d": "one\nmore\n\ntwo"}, {"t": "U", "a": "B", "d": "free"}],
    ),
    "numbers and boxes do not matter": ("# {t}\n- {a}\n- {b}", "# T\n1. A\n2. [x] B", [{"t": "T", "a": "A", "b": "B"}]),
    "items of items have no place": ("# {t}\n- {a}\n- {b}", "# T\n- A\n  - no\n- B", [{"t": "T", "a": "A", "b": "B"}]),
    "items of items in the template": (
        "- {a}\n  - {b}\n  - {c}",
        "- A\n  - B\n    - no\n  - C\n  - no\n- D\n  - E",
        [{"a": "A", "b": "B", "c": "C"}, {"a": "D", "b": "E"}],
    ),
    "deeper than in the template": (
        "# {t}\n- x: {a}\n- y: {b}",
        "# T\n- Facts\n  - x: A\n  - y: B",
        [{"t": "T", "a": "A", "b": "B"}],
    ),
    "one kind for all": (
        "- {a}\n- {b}\n- {c}",
        "- 1\n- 2\n- 3\n- 4\n- 5",
        [{"a": "1", "b": "2", "c": "3"}, {"a": "4", "b": "5"}],
    ),
    "an anchor with words goes before a place without": (
        "- Name: {a}\n- {b}",
        "- Name: 1\n- Name: 2\n- x",
        [{"a": "1"}, {"a": "2", "b": "x"}],
    ),
    "paragraphs as records": ("Q: {q}\n\nA: {a}", "Q: 1\n\nA: 2\n\nQ: 3", [{"q": "1", "a": "2"}, {"q": "3"}]),
    "a heading with words": (
        "## Book: {t}\n- {a}",
        "## Book: T\n- A\n## Notes\n- no\n## book: U\n- B",
        [{"t": "T", "a": "A"}, {"t": "U", "a": "B"}],
    ),
    "a heading above": (
        "# Books\n## {t}\n- {a}",
        "# Books\n## T\n# More\n- no\n## U\n- B",
        [{"t": "T"}, {"t": "U", "a": "B"}],
    ),
    "a deeper heading changes nothing": (
        "# {t}\n- {a}\n- {b}",
        "# T\n- A\n## More\n- B",
        [{"t": "T", "a": "A", "b": "B"}],
    ),
    "headings steer": (
        "# {t}\n- {a}\n## Pro\n- {p}\n## Con\n- {c}",
        "# T\n## con\n- C\n- no\n## **Pro**\n- P\n## Verdict\n- no",
        [{"t": "T", "c": "C", "p": "P"}],
    ),
    "a heading of the same level within": (
        "# {t}\n# Notes\n- {n}",
        "# T\n# Notes\n- N\n# U\n# Notes\n- M",
        [{"t": "T", "n": "N"}, {"t": "U", "n": "M"}],
    ),
    "a heading of the template below the anchor": (
        "{i}\n\n## Pro\n- {p}",
        "I\n\n## Pro\n- P\n\n# Other\n- no",
        [{"i": "I", "p": "P"}],
    ),
    "another item ends a nested one": (
        "1. {a} ({y})\n   - {b}",
        "1. A (1)\n2. What?\n   - no\n3. B (2)\n   - x",
        [{"a": "A", "y": "1"}, {"a": "B", "y": "2", "b": "x"}],
    ),
    "nor where some are deeper": (
        "- Name: {a}\n  - {b}\n- Year: {y}",
        "- Name: A\n- no\n- Year: 1",
        [{"a": "A", "y": "1"}],
    ),
    "nor where the anchor is deeper": (
        "- Facts\n  - Name: {a}\n- Year: {y}",
        "- Facts\n  - Name: A\n  - no\n- Year: 1",
        [{"a": "A", "y": "1"}],
    ),
    "another item ends nothing where items stand side by side": (
        "- Name: {a}\n- Year: {y}",
        "- Name: A\n- Note: no\n- Year: 1",
        [{"a": "A", "y": "1"}],
    ),
    "wide signs": ("# {t}\n- 作者: {a} ({y})", "# T\n- **作者**：鲁迅（1923）", [{"t": "T", "a": "鲁迅", "y": "1923"}]),
    "lines as records": (
        "**{a}**: {b}",
        "Hm.\n\n**A**: 1\n**B**: 2\nmore\n\nC: 3\n\nno",
        [{"a": "A", "b": "1"}, {"a": "B", "b": "2\nmore"}, {"a": "C", "b": "3"}],
    ),
    "a line goes on below its words": (
        "# {t}\nAuthor: {a}\nYear {y} AD",
        "# T\nAuthor:\nA\n and B\n\nno\n\nyear 1 AD\nno",
        [{"t": "T", "a": "A\nand B", "y": "1"}],
    ),
    "words are found in the middle of a paragraph": (
        "# {t}\n{d}\n\nYear: {y}",
        "# T\none\nyear: 1\n\ntwo",
        [{"t": "T", "d": "one", "y": "1"}],
    ),
    "a paragraph is not parted between two places": (
        "{d}\n\n{e}",
        "one\nmore\n\ntwo\nmore\n\nthree",
        [{"d": "one\nmore", "e": "two\nmore"}, {"d": "three"}],
    ),
    "any heading ends what has none": ("- {a}\n\n{b}", "- A\n\n###### X\n\nno", [{"a": "A"}]),
    "another heading is passed where the anchor is none": (
        "{i}\n\n## Pro\n- {p}\n### More\n- {m}",
        "I\n\n## X\n- no\n### More\n- M\n## Pro\n- P",
        [{"i": "I", "m": "M", "p": "P"}],
    ),
    "a paragraph does not go on below another heading": (
        "# {t}\n## About\n{d}",
        "# T\n## About\none\n\n### More\n\ntwo\n\n## Bye\n\nno",
        [{"t": "T", "d": "one\n\ntwo"}],
    ),
    "a heading without the words of the anchor": (
        "## Book: {t}\n- {a}\n- {b}",
        "## Book: T\n- A\n## Notes\n- no",
        [{"t": "T", "a": "A"}],
    ),
    "lines that go on": (
        "# {t}\nYear: {y}\n{d}",
        "# T\none\nmore  \nagain  \n\ntwo\nmore",
        [{"t": "T", "d": "one\nmore\nagain\n\ntwo\nmore"}],
    ),
    "a line of words parts two lists": (
        "# {t}\n**Pros:**\n\n- {a}\n\n**Cons:**\n\n- {b}",
        "# T\nCons:\n\n- B\n- A",
        [{"t": "T", "b": "B", "a": "A"}],
    ),
    "an empty value is none": ("# {t}\n- Author: {a}", "#\n- Author:\n# T", [{}, {"t": "T"}]),
    "CRLF": ("# {t}\r\n- {a}\r\n", "# T\r\n- A\r\n", [{"t": "T", "a": "A"}]),
    "separators that end no line": ("# {t}\n- {a}", "# T\u2028U\n- A\x85B", [{"t": "T\u2028U", "a": "A\x85B"}]),
}


@pytest.mark.parametrize("name", CASES)
def test_things_are_found_in_their_places(name: str):
    schema, text, expected = CASES[name]
    assert read(schema, text) == expected


LISTS: dict[str, tuple[str, str, list[dict[str, list[str]]]]] = {
    "below headings": (
        "## Pros\n- {p}\n## Cons\n- {c}",
        "## Pros\n- a\n- b\n\n## Cons\n- c\n- d",
        [{"p": ["a", "b"], "c": ["c", "d"]}],
    ),
    "the first heading begins the next record": (
        "## Pros\n- {p}\n## Cons\n- {c}",
        "## Pros\n- a\n## Cons\n- b\n## Pros\n- c\n## Cons\n- d",
        [{"p": ["a"], "c": ["b"]}, {"p": ["c"], "c": ["d"]}],
    ),
    "in another order": (
        "## Pros\n- {p}\n## Cons\n- {c}",
        "Hm.\n\n- no\n\n## Cons\n- c\n## Pros\n- a\n",
        [{"c": ["c"], "p": ["a"]}],
    ),
    "below a title": (
        "# Review\n## Pros\n- {p}\n## Cons\n- {c}",
        "# Review\n## Pros\n- a\n## Cons\n- c\n# Review\n## Pros\n- b\n## Cons\n- d",
        [{"p": ["a"], "c": ["c"]}, {"p": ["b"], "c": ["d"]}],
    ),
    "items alone": ("- {p}", "- a\n- b\n\nand\n\n- c\n", [{"p": ["a", "b", "c"]}]),
    "headings": (
        "# {t}\n## {p}\n- {c}",
        "# A\n## one\n- 1\n## two\n- 2\n# B\n## three",
        [{"t": ["A", "B"], "p": ["one", "two", "three"], "c": ["1", "2"]}],
    ),
    "items of items with words": (
        "- Pros:\n  - {p}\n- Cons:\n  - {c}",
        "- pros:\n  - a\n  - b\n- **Cons**:\n  - c\n  - d",
        [{"p": ["a", "b"], "c": ["c", "d"]}],
    ),
    "below lines of words": (
        "Pros:\n\n- {p}\n\nCons:\n\n- {c}",
        "Pros:\n\n- a\n- b\n\n**Cons:**\n\n- c\n- d",
        [{"p": ["a", "b"], "c": ["c", "d"]}],
    ),
    "another item ends nothing": ("- Tag: {p}", "- tag: a\n- b\n- tag: c", [{"p": ["a", "c"]}]),
    "nor below a heading": ("# Tags\n- Tag: {p}", "# Tags\n- tag: a\n- b\n- tag: c", [{"p": ["a", "c"]}]),
    "another heading ends what stands below one": (
        "# {t}\n## Con\n- {c}",
        "# T\n## Con\n- a\n### More\n- b\n## Verdict\n- no\n### Con\n- no",
        [{"t": ["T"], "c": ["a", "b"]}],
    ),
    "paragraphs": ("{p}", "a\n\nb\n", [{"p": ["a", "b"]}]),
    "rows": (
        "| A | B |\n|--|--|\n| {a} | {b} |",
        "| A | B |\n|--|--|\n| 1 | 2 |\n| 3 |",
        [{"a": ["1", "3"], "b": ["2", ""]}],
    ),
    "code": ("```\n{c}\n```", "```\na\n```\n```\n```\n```\nb\n```\n", [{"c": ["a", "b"]}]),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_take_all_that_comes(name: str):
    schema, text, expected = LISTS[name]
    names = MarkdownFormat("f", schema).placeholders
    assert read(schema, text, **dict.fromkeys(names, list[str])) == expected


class Notes(BaseModel):
    title: str
    pros: list[str] = []
    cons: tuple[str, ...] | None = None
    tags: Annotated[set[str], "unordered"] = set()


async def test_every_kind_of_collection_takes_all_that_comes():
    format = MarkdownFormat("notes", "# {title}\n- Tag: {tags}\n## Pros\n- {pros}\n## Cons\n- {cons}")
    text = "# T\n- tag: x\n- tag: y\n## Pros\n- a\n- b\n## Cons\n- c\n- d\n# U\n"
    assert await collect(records([text], Notes, format)) == [
        Notes(title="T", pros=["a", "b"], cons=("c", "d"), tags={"x", "y"}),
        Notes(title="U"),
    ]


async def test_values_become_what_the_fields_are():
    class Film(BaseModel):
        title: str
        year: int
        seen: bool = False

    format = MarkdownFormat("films", "- {title} ({year})\n  - Seen: {seen}")
    text = "- Alien (1979)\n  - seen: yes\n- Brazil (1985)"
    assert await collect(records([text], Film, format)) == [
        Film(title="Alien", year=1979, seen=True),
        Film(title="Brazil", year=1985),
    ]


# ==== what is not valid ====


class Film(BaseModel):
    title: str
    year: int


FILMS = MarkdownFormat("films", "# {title}\n- {year}")
GOOD_BAD_GOOD = "# A\n- 1979\n# B\n\n- soon\n\n# C\n- 1985"


async def test_an_invalid_section_is_an_error_with_its_markdown_and_iterating_goes_on():
    found = records([GOOD_BAD_GOOD], Film, FILMS)
    assert (await anext(found)).title == "A"
    with pytest.raises(StructuredOutputError, match=r"year.*integer") as caught:
        await anext(found)
    assert caught.value.raw == "# B\n\n- soon"
    assert isinstance(caught.value.__cause__, ValidationError)
    assert "line 3" in str(caught.value)
    assert [film.title async for film in found] == ["C"]


async def test_the_markdown_of_a_section_ends_where_the_section_does():
    format = MarkdownFormat("films", "## Film: {title}\n- {year}")
    text = "## Film: A\r\n- x\r\n\r\n  - y \r\n\r\n\r\n## Notes\n- z\n## Film: B\n- x\n# End\n"
    errors: list[StructuredOutputError] = []
    await collect(records(list(text), Film, format, on_invalid=errors.append))
    assert [error.raw for error in errors] == ["## Film: A\n- x\n\n  - y ", "## Film: B\n- x"]


async def test_what_is_missing_is_named():
    with pytest.raises(StructuredOutputError, match=r"Film.*year: Field required"):
        await anext(records(["# A\n"], Film, FILMS))


async def test_skip_goes_on_and_says_so_in_the_log():
    lines: list[str] = []
    logger.enable("kimi_agent")
    sink = logger.add(lines.append, level="DEBUG", format="{level} {message}")
    try:
        found = await collect(records([GOOD_BAD_GOOD], Film, FILMS, on_invalid="skip"))
    finally:
        logger.disable("kimi_agent")
        logger.remove(sink)
    assert [film.title for film in found] == ["A", "C"]
    assert len(lines) == 1
    assert lines[0].startswith("DEBUG skipped: The section in line 3")


async def test_a_function_may_mend_a_section():
    def mend(error: StructuredOutputError) -> Film:
        return Film(title=error.raw.splitlines()[0], year=0)

    found = await collect(records([GOOD_BAD_GOOD], Film, FILMS, on_invalid=mend))
    assert [film.title for film in found] == ["A", "# B", "C"]


async def test_an_async_function_may_give_up_a_section():
    seen: list[str] = []

    async def look(error: StructuredOutputError) -> None:
        seen.append(error.raw)

    found = await collect(records([GOOD_BAD_GOOD], Film, FILMS, on_invalid=look))
    assert [film.title for film in found] == ["A", "C"]
    assert seen == ["# B\n\n- soon"]


async def test_a_function_that_gives_something_else_is_a_type_error():
    with pytest.raises(TypeError, match="Film or None, not dict"):
        await collect(records([GOOD_BAD_GOOD], Film, FILMS, on_invalid=lambda error: {}))  # pyright: ignore


async def test_what_the_function_raises_goes_through():
    def fail(error: StructuredOutputError) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await collect(records([GOOD_BAD_GOOD], Film, FILMS, on_invalid=fail))


async def test_a_refusal_is_not_an_empty_list():
    refusal = "I cannot help\nwith that.\r\n\r\n- Sorry"
    with pytest.raises(StructuredOutputError, match="films") as caught:
        await collect(records([refusal], Film, FILMS))
    assert caught.value.raw == "I cannot help\nwith that.\n\n- Sorry"
    assert await collect(records([refusal], Film, FILMS, on_invalid="skip")) == []
    errors: list[StructuredOutputError] = []
    assert await collect(records([refusal], Film, FILMS, on_invalid=errors.append)) == []
    assert [error.raw for error in errors] == [caught.value.raw]


@pytest.mark.parametrize("on_invalid", ["ignore", None, 3, []])
def test_another_value_of_on_invalid_is_refused(on_invalid: Any):
    with pytest.raises(ValueError, match="on_invalid"):
        records([], Film, FILMS, on_invalid=on_invalid)


async def test_an_error_of_the_stream_comes_after_what_was_whole():
    async def pieces() -> AsyncIterator[str]:
        yield "# A\n- 1\n# B\n- 2\n"
        raise ConnectionError("cut")

    found = records(pieces(), Film, FILMS)
    assert (await anext(found)).title == "A"
    with pytest.raises(ConnectionError, match="cut"):
        await anext(found)


async def test_after_an_error_of_the_stream_nothing_comes_that_was_not_whole():
    async def pieces() -> AsyncIterator[str]:
        yield "# A\n- 1\n# B\n- 19"
        raise ConnectionError("cut")

    found = records(pieces(), Film, FILMS)
    assert (await anext(found)).title == "A"
    with pytest.raises(ConnectionError):
        await anext(found)
    assert await collect(found) == []


async def test_a_chapter_list_within_each_record():
    class Play(BaseModel):
        title: str
        acts: list[str]
        scenes: list[str] = []

    format = MarkdownFormat("plays", "# {title}\n## {acts}\n- {scenes}")
    text = "# A\n## one\n- 1\n- 2\n## two\n- 3\n# B\n## three"
    assert await collect(records([text], Play, format)) == [
        Play(title="A", acts=["one", "two"], scenes=["1", "2", "3"]),
        Play(title="B", acts=["three"]),
    ]


async def test_pieces_that_are_no_text_are_refused():
    with pytest.raises(TypeError, match="stream of text or of frames"):
        await anext(records([b"# A"], Film, FILMS))  # pyright: ignore[reportArgumentType]


def frames(text: str, finish_reason: str) -> list[StreamFrame]:
    return [Reasoning("Hm."), *map(Append, text), End(finish_reason, None, Message.assistant(text))]


async def test_a_stream_of_frames_will_do():
    found = await collect(records(frames(GOOD_BAD_GOOD, "stop"), Film, FILMS, on_invalid="skip"))
    assert [film.title for film in found] == ["A", "C"]


async def test_the_last_record_of_an_answer_that_was_cut_off_is_not_whole():
    found = records(frames("# A\n- 1979\n# B\n- 19", "length"), Film, FILMS)
    assert await anext(found) == Film(title="A", year=1979)
    with pytest.raises(StructuredOutputError, match=r"line 3.*cut off \(length\)") as caught:
        await anext(found)
    assert caught.value.raw == "# B\n- 19"
    assert await collect(found) == []


async def test_a_record_that_was_cut_off_can_be_skipped_or_mended():
    text = "# A\n- 1979\n# B\n- 19"
    skipped = await collect(records(frames(text, "length"), Film, FILMS, on_invalid="skip"))
    assert [film.title for film in skipped] == ["A"]
    mended = records(frames(text, "length"), Film, FILMS, on_invalid=lambda error: Film(title=error.raw, year=0))
    assert [film.title for film in await collect(mended)] == ["A", "# B\n- 19"]


async def test_closing_the_iterator_closes_the_stream():
    closed: list[bool] = []

    async def pieces() -> AsyncIterator[str]:
        try:
            for piece in ("# A\n- 1\n# B\n", "- 2\n# C\n"):
                yield piece
        finally:
            closed.append(True)

    async with records(pieces(), Film, FILMS) as found:
        assert (await anext(found)).title == "A"
        assert closed == []
    assert closed == [True]
    assert await collect(found) == []


async def test_dropping_the_iterator_leaves_nothing_behind():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async for _ in records([GOOD_BAD_GOOD], Film, FILMS):
            break
        gc.collect()


# ==== at the call ====


def test_a_format_without_placeholders_has_no_records():
    with pytest.raises(ValueError, match="'plain' has no placeholders"):
        records([], Film, MarkdownFormat("plain", "# Title"))


def test_a_required_field_needs_a_place():
    with pytest.raises(ValueError, match=r"\{year\}.*Film"):
        records([], Film, MarkdownFormat("f", "# {title}"))


def test_a_placeholder_needs_a_field():
    with pytest.raises(ValueError, match="Film has no field director"):
        records([], Film, MarkdownFormat("f", "# {title}\n- {year}\n- {director}"))


async def test_a_field_goes_by_its_name_and_by_its_aliases():
    class Aliased(BaseModel):
        model_config = ConfigDict(extra="forbid")
        one: str = Field(alias="first")
        two: list[str] = Field(validation_alias=AliasChoices("second", "zweites"))

    for schema in ("# {one}\n- {two}", "# {first}\n- {second}", "# {first}\n- {zweites}"):
        found = await collect(records(["# a\n- b\n- c"], Aliased, MarkdownFormat("f", schema)))
        assert [(record.one, record.two) for record in found] == [("a", ["b", "c"])]


# ==== properties ====

WORDS = (
    st.text(alphabet="abcXYZ019 éß天气🌦", min_size=1, max_size=12).map(lambda text: " ".join(text.split())).filter(bool)
)

BLOCKS: dict[str, str] = {
    "item": "- {{{name}}}",
    "labelled item": "- **Label {name}:** {{{name}}}",
    "item of two": "- {{{name}}} | {{{name}b}}",
    "paragraph": "{{{name}}}",
    "labelled paragraph": "Label {name}: {{{name}}}",
    "quote": "> {{{name}}}",
    "code": "```python\n{{{name}}}\n```",
}
LISTED = {"item": "- {{{name}}}", "quote": "> {{{name}}}", "code": "```\n{{{name}}}\n```"}


@st.composite
def templates(draw: st.DrawFn) -> tuple[list[str], set[str]]:
    """The blocks of a template in which everything has one place, and the names that take more than one value."""
    blocks, lists = ["# {title}"], set[str]()
    for part in range(draw(st.integers(1, 3))):
        if part:
            blocks.append(f"## Part {part}")
        kinds = draw(st.lists(st.sampled_from(list(BLOCKS)), max_size=4))
        blocks += [BLOCKS[kind].format(name=f"f{part}{number}") for number, kind in enumerate(kinds)]
        if kind := draw(st.sampled_from([None, *LISTED])):
            lists.add(f"l{part}")
            blocks.append(LISTED[kind].format(name=f"l{part}"))
    return blocks, lists


def rendered(block: str, values: dict[str, Any]) -> Iterable[str]:
    """A block for each value of a list, else one."""
    for name, value in values.items():
        if f"{{{name}}}" in block and isinstance(value, list):
            return [block.replace(f"{{{name}}}", one) for one in value]
    for name, value in values.items():
        block = block.replace(f"{{{name}}}", str(value))
    return [block]


def cut(text: str, places: Iterable[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


@given(templates(), st.data(), st.lists(st.integers(0, 5000), max_size=20))
@settings(max_examples=EXAMPLES)
def test_what_is_written_by_a_template_is_read_back_by_it(
    template: tuple[list[str], set[str]], data: st.DataObject, places: list[int]
):
    blocks, lists = template
    format = MarkdownFormat("f", "\n\n".join(blocks))
    kinds = {name: list[str] if name in lists else str for name in format.placeholders}
    model = create_model("Record", **{name: (kind, ...) for name, kind in kinds.items()})  # pyright: ignore
    drawn = {name: st.lists(WORDS, min_size=1, max_size=3) if name in lists else WORDS for name in kinds}
    expected = [model(**values) for values in data.draw(st.lists(st.fixed_dictionaries(drawn), min_size=1, max_size=3))]
    text = "\n\n".join(one for record in expected for block in blocks for one in rendered(block, record.model_dump()))
    parser = RecordParser(model, format)
    found = [record for piece in cut(text, places) for record in parser.feed(piece)] + parser.close()
    assert found == expected


def told(parser: RecordParser[Any], pieces: Iterable[str]) -> list[Any]:
    """What comes out, comparable."""
    found = [one for piece in pieces for one in parser.feed(piece)] + parser.close()
    return [(str(one), one.raw) if isinstance(one, StructuredOutputError) else one for one in found]


MARKDOWN = st.lists(
    st.sampled_from(
        [
            "# ",
            "## ",
            "- ",
            "  - ",
            "> ",
            "```",
            "\n",
            "\n\n",
            "\r\n",
            "|",
            "---",
            "a",
            "x: ",
            "(1)",
            "**",
            " ",
            "Pros",
            "1. ",
        ]
    ),
    max_size=40,
).map("".join)

SCHEMAS = [
    "# {a}\n- {b}\n- {c}",
    "## Pros\n- {many}\n## Cons\n- {c}",
    "- **x:** {a} ({b})\n  - {c}",
    "# {a}\nx: {b}\n{c}\n\n> {many}",
    "| a | b |\n|---|---|\n| {a} | {b} |",
]


class Anything(BaseModel):
    a: str | None = None
    b: int | None = None
    c: str = ""
    many: list[str] = []


@given(st.sampled_from(SCHEMAS), MARKDOWN, st.lists(st.integers(0, 200), max_size=12))
@settings(max_examples=EXAMPLES)
def test_it_does_not_matter_how_the_text_is_cut(schema: str, text: str, places: list[int]):
    format = MarkdownFormat("f", schema)
    whole = told(RecordParser(Anything, format), [text])
    assert told(RecordParser(Anything, format), cut(text, places)) == whole
    assert told(RecordParser(Anything, format), text) == whole


# ==== time and memory ====


def reading(schema: str, text: str) -> Callable[[], object]:
    def read() -> None:
        parser = RecordParser(Anything, MarkdownFormat("f", schema))
        for place in range(0, len(text), 4096):
            parser.feed(text[place : place + 4096])
        parser.close()

    return read


def takes_linear_time(schema: str, text: Callable[[int], str], size: int) -> bool:
    """Whether eight times a text takes about eight times as long; it would take 64 times as long."""
    return takes_at_most(24, reading(schema, text(size)), reading(schema, text(8 * size)))


def test_thousands_of_records_take_linear_time():
    assert takes_linear_time(SCHEMAS[0], lambda size: "# t\n- 1\n- d\n" * size, 500)


def test_closed_records_are_forgotten():
    parser = RecordParser(Anything, MarkdownFormat("f", SCHEMAS[0]))
    for _ in range(1000):
        parser.feed("# t\n- 1\n- d\n\ntext\n\n")
    assert len(parser._entries.unread) < 100


def test_a_record_of_very_many_paragraphs_takes_linear_time():
    assert takes_linear_time("# {a}\n{c}", lambda size: "# t\n" + "one more paragraph\n\n" * size, 1000)


HOSTILE = ["a - ", "(", "x: **", "] (", "`_* ", "ß"]


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize(
    "schema", ["- {a} - {c} ({b})", "**x:** {a} ({c})", "- [{a}]({c})", "- x: {a}: {c} - {many}", "`{a}` by {c}."]
)
def test_a_hostile_line_is_read_in_linear_time(schema: str, piece: str):
    start = schema[:2] if schema.startswith("- ") else ""
    assert takes_linear_time(schema, lambda size: start + piece * (size // len(piece)), 5000)

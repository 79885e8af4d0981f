"""Functions are called for the blocks of markdown as they come, and once at the end, however it ends.

`KIMI_AGENT_FUZZ` is ten times the number of examples.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import takes_at_most

from kimi_agent.structured.handlers import MarkdownEnd, MarkdownHandlers
from kimi_agent.structured.markdown import CodeBlock

EXAMPLES = int(os.environ.get("KIMI_AGENT_FUZZ", "1500")) // 10


def recorder() -> tuple[MarkdownHandlers, list[Any]]:
    """Handlers for everything, and what they are called with."""
    handlers, calls = MarkdownHandlers(), list[Any]()
    for level in range(1, 7):
        handlers.on_header(level)(lambda text, level=level: calls.append((f"h{level}", text)))
    handlers.on_bullet(lambda text: calls.append(("bullet", text)))
    handlers.on_code_block(lambda block: calls.append(("code", block)))
    handlers.on_line()(lambda line: calls.append(("line", line)))
    handlers.on_finish(lambda end: calls.append(end))
    return handlers, calls


async def calls_for(pieces: Iterable[str]) -> list[Any]:
    handlers, calls = recorder()
    await handlers.run(pieces)
    return calls


# ==== the list of books ====


async def test_the_list_of_books():
    books: list[tuple[str, ...]] = []
    parser = MarkdownHandlers()

    @parser.on_header(1)
    async def title(text: str) -> None:
        books.append((text,))

    @parser.on_bullet
    def fact(text: str) -> None:
        books[-1] += (text,)

    async def stream() -> AsyncIterator[str]:
        for char in "# The Great Gatsby\n- F. Scott Fitzgerald\n- Jay loves Daisy.\n# Dune\n- Frank Herbert":
            yield char

    await parser.run(stream())
    assert books == [("The Great Gatsby", "F. Scott Fitzgerald", "Jay loves Daisy."), ("Dune", "Frank Herbert")]


# ==== who is called, and when ====


async def test_each_block_and_each_line_outside_of_code_is_told():
    text = "# A\n\ntwo\n  lines\n- x\n  - y\n\n```py\n# no\n```\n| a |\n|---|\n| 1 |\n\n### B ###\nend\n"
    calls = await calls_for([text])
    assert calls == [
        ("h1", "A"),
        ("line", "# A"),
        ("line", "two"),
        ("line", "lines"),
        ("bullet", "x"),
        ("line", "- x"),
        ("bullet", "y"),
        ("line", "- y"),
        ("code", CodeBlock("# no\n", "py", "py")),
        ("line", "| a |"),
        ("line", "|---|"),
        ("line", "| 1 |"),
        ("h3", "B"),
        ("line", "### B ###"),
        ("line", "end"),
        MarkdownEnd("", None, None),
    ]


async def test_a_header_is_told_before_the_next_line_has_come():
    titles: list[str] = []
    handlers = MarkdownHandlers()
    handlers.on_header(1)(titles.append)

    def pieces() -> Iterator[str]:
        yield "# A"
        assert titles == []
        yield "\n"
        assert titles == ["A"]

    await handlers.run(pieces())


async def test_several_handlers_of_a_kind_are_called_in_order_sync_or_async():
    calls: list[str] = []
    handlers = MarkdownHandlers()

    @handlers.on_bullet
    async def first(text: str) -> None:
        await asyncio.sleep(0)
        calls.append(f"first {text}")

    @handlers.on_bullet
    def second(text: str) -> None:
        calls.append(f"second {text}")

    await handlers.run(["- a\n- b"])
    assert calls == ["first a", "second a", "first b", "second b"]


def test_decorators_give_the_function_back():
    handlers = MarkdownHandlers()

    def handler(_: object) -> None: ...

    assert handlers.on_header(1)(handler) is handler
    assert handlers.on_bullet(handler) is handler
    assert handlers.on_code_block(handler) is handler
    assert handlers.on_line("x")(handler) is handler
    assert handlers.on_finish(handler) is handler


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"Feature:.*", ["Feature: b"]),
        (re.compile("feature: .", re.IGNORECASE), ["Feature: b"]),
        ("Feature:", []),
        ("", []),
        (None, ["a Feature: a", "Feature: b", "\u2028 c"]),
    ],
)
async def test_a_pattern_matches_a_whole_line(pattern: str | re.Pattern[str] | None, expected: list[str]):
    lines: list[str] = []
    handlers = MarkdownHandlers()
    handlers.on_line(pattern)(lines.append)
    await handlers.run(["a Feature: a\n\n \t Feature: b \t\n\n```\nFeature: c\n```\n\n\u2028 c"])
    assert lines == expected


@pytest.mark.parametrize("level", [0, 7, "1"])
def test_there_are_six_levels(level: int):
    with pytest.raises(ValueError, match="1 to 6"):
        MarkdownHandlers().on_header(level)


@pytest.mark.parametrize(("lenient", "titles"), [(False, ["B"]), (True, ["A", "B"])])
async def test_headings_without_a_space_are_headings_when_asked_for(lenient: bool, titles: list[str]):
    found: list[str] = []
    handlers = MarkdownHandlers(lenient_headings=lenient)
    handlers.on_header(1)(found.append)
    await handlers.run(["#A\n# B\n"])
    assert found == titles


# ==== the end ====


@pytest.mark.parametrize(
    ("text", "tail", "open_block"),
    [
        ("", "", None),
        (" \n\n", "", None),
        ("# A\n- b", "- b", None),
        ("# A\n- b\n", "", None),
        ("a\r\nb  ", "b  ", None),
        ("```py\nx\ny", "y", CodeBlock("x\ny\n", "py", "py", closed=False)),
        ("```\nx\n```", "```", None),
        ("- ```\n  x\n\nend\n", "", None),
    ],
)
async def test_the_end_has_what_was_not_finished(text: str, tail: str, open_block: CodeBlock | None):
    ends = [call for call in await calls_for([text]) if isinstance(call, MarkdownEnd)]
    assert ends == [MarkdownEnd(tail, open_block, None)]


async def test_code_that_was_never_closed_is_told_as_code_too():
    calls = await calls_for(["```py\nx"])
    assert calls[0] == ("code", CodeBlock("x\n", "py", "py", closed=False))


async def test_no_pieces_have_an_end():
    assert await calls_for([]) == [MarkdownEnd("", None, None)]


async def test_a_handler_that_raises_ends_the_run():
    error = RuntimeError("second")
    titles: list[str] = []
    ends: list[MarkdownEnd] = []
    fed: list[str] = []
    handlers = MarkdownHandlers()
    handlers.on_finish(ends.append)

    @handlers.on_header(1)
    def title(text: str) -> None:
        titles.append(text)
        if len(titles) == 2:
            raise error

    def pieces() -> Iterator[str]:
        for piece in ("# A\n", "# B\n# C\n", "# D\n"):
            fed.append(piece)
            yield piece

    with pytest.raises(RuntimeError) as caught:
        await handlers.run(pieces())
    assert caught.value is error
    assert titles == ["A", "B"]
    assert len(fed) == 2
    assert [end.error for end in ends] == [error]


async def test_an_error_of_the_stream_ends_the_run_with_what_was_open():
    async def pieces() -> AsyncIterator[str]:
        yield "# A\n```py\nx = "
        raise ConnectionError("cut")

    handlers, calls = recorder()
    with pytest.raises(ConnectionError, match="cut") as caught:
        await handlers.run(pieces())
    block = CodeBlock("x = \n", "py", "py", closed=False)
    assert calls == [("h1", "A"), ("line", "# A"), MarkdownEnd("x = ", block, caught.value)]


async def test_a_cancelled_run_ends_as_cancelled():
    async def pieces() -> AsyncIterator[str]:
        yield "# A\n- b"
        reached.set()
        await asyncio.Event().wait()

    reached = asyncio.Event()
    ends: list[MarkdownEnd] = []
    handlers = MarkdownHandlers()

    @handlers.on_finish
    async def end(end: MarkdownEnd) -> None:
        await asyncio.sleep(0)
        ends.append(end)

    task = asyncio.create_task(handlers.run(pieces()))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(end.tail, type(end.error)) for end in ends] == [("- b", asyncio.CancelledError)]


async def test_an_error_at_the_end_of_a_good_run_is_raised_after_the_other_handlers():
    ends: list[MarkdownEnd] = []
    handlers = MarkdownHandlers()

    @handlers.on_finish
    def fail(end: MarkdownEnd) -> None:
        raise KeyError("end")

    handlers.on_finish(ends.append)
    with pytest.raises(KeyError, match="end"):
        await handlers.run(["# A"])
    assert ends == [MarkdownEnd("# A", None, None)]


async def test_the_first_error_wins_over_one_at_the_end():
    first, second = ValueError("first"), KeyError("second")
    handlers = MarkdownHandlers()

    @handlers.on_bullet
    def bullet(text: str) -> None:
        raise first

    @handlers.on_finish
    def end(end: MarkdownEnd) -> None:
        raise second

    with pytest.raises(ValueError, match="first") as caught:
        await handlers.run(["- a\n- b\n"])
    assert caught.value is first
    assert first.__context__ is second


async def test_a_text_in_place_of_a_stream_is_refused():
    with pytest.raises(TypeError, match="pieces"):
        await MarkdownHandlers().run("# A")


# ==== many runs ====


async def test_runs_do_not_know_of_each_other():
    handlers, calls = recorder()
    await handlers.run(["# A\n```\nx"])
    first = list(calls)
    calls.clear()
    await handlers.run(["# A\n```\nx"])
    assert calls == first


async def test_a_handler_may_begin_another_run():
    handlers = MarkdownHandlers()
    calls: list[str] = []

    @handlers.on_header(1)
    async def title(text: str) -> None:
        calls.append(text)
        if text == "A":
            await handlers.run(["# inner\n"])

    await handlers.run(["# A\n", "# B\n"])
    assert calls == ["A", "inner", "B"]


# ==== properties ====

MARKDOWN = st.lists(
    st.sampled_from(
        ["# ", "## ", "- ", "  ", "> ", "```", "~~~\n", "\n", "\n\n", "\r\n", "\r", "|", "---", "a", "1. ", "<b>"]
    ),
    max_size=40,
).map("".join)


@given(MARKDOWN, st.lists(st.integers(1, 7), min_size=1, max_size=5))
@settings(max_examples=EXAMPLES)
def test_it_does_not_matter_how_the_text_is_cut(text: str, sizes: list[int]):
    pieces: list[str] = []
    place = 0
    while place < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[place : place + size])
        place += size
    assert asyncio.run(calls_for(pieces)) == asyncio.run(calls_for([text]))


@given(MARKDOWN)
@settings(max_examples=EXAMPLES)
def test_every_line_is_told_in_order_but_those_of_code(text: str):
    calls = asyncio.run(calls_for([text]))
    lines = [stripped for line in re.split("\r\n|\r|\n", text) if (stripped := line.strip(" \t"))]
    told = iter(lines)
    assert all(call[1] in told for call in calls[:-1] if call[0] == "line")
    if "```" not in text and "~~~" not in text:
        assert [call[1] for call in calls[:-1] if call[0] == "line"] == lines


def test_many_blocks_take_linear_time():
    few, many = (["# A\n- x\n\ny\n\n"] * number for number in (500, 4000))
    assert len(asyncio.run(calls_for(many))) == 20_001
    assert takes_at_most(24, lambda: asyncio.run(calls_for(few)), lambda: asyncio.run(calls_for(many)))

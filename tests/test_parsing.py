"""Streams through push parsers: what may be given, what a cut means, and what closing does."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from kimi_agent import (
    Agent,
    Heading,
    MarkdownFormat,
    MarkdownHandlers,
    Paragraph,
    StreamCancelled,
    StreamInterruptedError,
    StructuredOutputError,
    ai_function,
    parse_markdown,
    records,
    sections,
    text_only,
)
from kimi_agent.testing import Delivery, Gate, Reply, ScriptedKimi, call, say


class Book(BaseModel):
    title: str
    author: str = ""


BOOKS = MarkdownFormat("books", "# {title}\n- {author}")
EMMA, GATSBY = Book(title="Emma", author="Austen"), Book(title="Gatsby", author="Fitz")
TEXT = "# Emma\n- Austen\n# Gatsby\n- Fitz\n"


class Looking(Agent):
    @ai_function()
    async def look(self, n: int) -> str:
        """Look."""
        return str(n)


def looking() -> Looking:
    return Looking(ScriptedKimi([Reply("Let me look.", tool_calls=[call("look", n=1)]), say(TEXT)]))


async def all_of(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def test_a_whole_round_of_frames_is_a_text_with_a_border_between_its_answers():
    assert await all_of(records(looking().full_round_frames("q", format=BOOKS), Book, BOOKS)) == [EMMA, GATSBY]
    events = await all_of(parse_markdown(looking().full_round_frames("q")))
    assert events[:2] == [Paragraph("Let me look."), Heading(1, "Emma")]
    titles = [section.title for section in await all_of(sections(looking().full_round_frames("q")))]
    assert titles == ["Emma", "Gatsby"]


async def test_handlers_take_frames_as_well():
    handlers, titles = MarkdownHandlers(), []
    handlers.on_header(1)(titles.append)
    await handlers.run(looking().full_round_frames("q"))
    assert titles == ["Emma", "Gatsby"]


@pytest.mark.parametrize("give", ["stream", "frames", "list of frames"])
@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_the_last_record_of_an_answer_that_was_cut_off_is_not_whole(reason: Any, give: str):
    stream = Agent(ScriptedKimi([Reply(TEXT[:-2], finish_reason=reason)])).chat_round_stream("q", format=BOOKS)
    pieces: Any = stream if give == "stream" else stream.frames()
    pieces = await all_of(pieces) if give == "list of frames" else pieces
    found, wrong = [], []
    async for book in records(pieces, Book, BOOKS, on_invalid=wrong.append):
        found.append(book)
    assert found == [EMMA]
    assert [(str(error), error.raw) for error in wrong] == [
        (f"The section in line 3 is not whole: the answer was cut off ({reason}).", "# Gatsby\n- Fit")
    ]


async def test_a_whole_answer_in_a_fence_is_read_without_it():
    for opening in ("```markdown\n", "\n```md\n", "```\n", "````\n"):
        for size in (1, 3, 100):
            text = f"{opening}{TEXT}```"
            pieces = [text[start : start + size] for start in range(0, len(text), size)]
            assert await all_of(records(pieces, Book, BOOKS)) == [EMMA, GATSBY]
    with pytest.raises(StructuredOutputError, match="nothing in the format"):
        await all_of(records(["```python\n", TEXT, "```"], Book, BOOKS))
    with pytest.raises(StructuredOutputError):
        await all_of(records(["``"], Book, BOOKS))


async def test_code_that_belongs_to_the_format_is_not_taken_away():
    class Snippet(BaseModel):
        code: str

    snippets = MarkdownFormat("snippets", "```\n{code}\n```")
    assert await all_of(records(["```\nx = 1\n```\n"], Snippet, snippets)) == [Snippet(code="x = 1")]


@pytest.mark.parametrize(
    "make", [lambda s: parse_markdown(s), lambda s: records(s, Book, BOOKS)], ids=["blocks", "records"]
)
async def test_closing_closes_the_stream_and_its_request(make: Any):
    gate = Gate(40)
    kimi = ScriptedKimi([say(TEXT * 50)], delivery=Delivery(gate=gate))
    agent = Agent(kimi)
    cancelled: list[StreamCancelled] = []
    agent.on(StreamCancelled, cancelled.append)
    items = make(agent.chat_round_stream("q"))
    async with items:
        await anext(items)
    assert len(cancelled) == 1
    with pytest.raises(StopAsyncIteration):
        await anext(items)
    assert [message.role for message in agent.chat_history] == ["user"]


async def test_leaving_map_tool_closes_the_stream_behind_the_records():
    class Shelving(Agent):
        @ai_function()
        async def shelve(self, title: str, author: str) -> str:
            """Shelve."""
            return title

    gate = Gate(40)
    agent = Shelving(ScriptedKimi([say(TEXT * 50)], delivery=Delivery(gate=gate)))
    cancelled: list[StreamCancelled] = []
    agent.on(StreamCancelled, cancelled.append)
    books = records(agent.chat_round_stream("q", format=BOOKS), Book, BOOKS)
    async with agent.map_tool("shelve", books) as calls:
        async for _ in calls:
            break
    assert len(cancelled) == 1


async def test_a_cancelled_reader_may_ask_again():
    gate = Gate()
    agent = Agent(ScriptedKimi([say(TEXT)], delivery=Delivery(gate=gate)))
    books = records(agent.chat_round_stream("q"), Book, BOOKS)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(books)
    gate.open()
    assert await all_of(books) == [EMMA, GATSBY]


async def test_a_generator_that_a_cancellation_has_ended_is_no_whole_text():
    async def slow() -> AsyncIterator[str]:
        yield "# Emma\n- Aus"
        await asyncio.get_running_loop().create_future()
        yield "ten\n"

    books = records(slow(), Book, BOOKS)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(books)
    with pytest.raises(StreamInterruptedError):
        await anext(books)
    assert await all_of(books) == []


async def test_two_tasks_cannot_read_one_stream_of_items():
    async def slow() -> AsyncIterator[str]:
        yield TEXT
        await asyncio.sleep(0)
        yield TEXT

    events = parse_markdown(slow())
    first = asyncio.create_task(all_of(events))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="one reader"):
        await anext(events)
    assert len(await first) == 8


@pytest.mark.parametrize("wrong", [[5], [None], [b"# A"]], ids=str)
async def test_what_is_neither_text_nor_frames_is_refused(wrong: Any):
    with pytest.raises(TypeError, match="stream of text or of frames"):
        await all_of(parse_markdown(wrong))
    with pytest.raises(TypeError, match="put a whole text into a list"):
        parse_markdown("# A")  # pyright: ignore[reportArgumentType]


async def test_a_table_with_another_header_has_no_records():
    class Price(BaseModel):
        name: str
        price: str

    prices = MarkdownFormat("prices", "| Name | Price |\n|---|---|\n| {name} | {price} |")
    text = "| Key | Meaning |\n|---|---|\n| EUR | euro |\n\n| **Name** | Price (EUR) |\n|---|---|\n| Tea | 3 |\n"
    assert await all_of(records([text], Price, prices)) == [Price(name="Tea", price="3")]


async def test_a_validator_that_breaks_hides_no_neighbour():
    from pydantic import field_validator

    class Numbered(Book):
        @field_validator("author")
        @classmethod
        def look(cls, value: str) -> str:
            return {"Austen": "A", "Fitz": "F"}[value]

    text = "# Emma\n- Austen\n# Nobody\n- Nobody\n# Gatsby\n- Fitz\n"
    for pieces in ([text], list(text)):
        wrong: list[StructuredOutputError] = []
        found = await all_of(records(pieces, Numbered, BOOKS, on_invalid=wrong.append))
        assert [book.title for book in found] == ["Emma", "Gatsby"]
        assert "KeyError" in str(wrong[0])


async def test_a_line_of_wide_blanks_is_no_text():
    class Chapter(BaseModel):
        title: str
        text: str = ""

    chapters = MarkdownFormat("chapters", "# {title}\n\n{text}", examples="# A\n\n\u00a0\n\nb")
    found = await all_of(records(["# 沙丘\n\n\u3000\n\n正文\n\n# B\n\nx\n"], Chapter, chapters))
    assert [chapter.text.strip() for chapter in found] == ["正文", "x"]


async def test_a_shared_text_is_read_once_by_its_readers():
    text = Agent(ScriptedKimi([say("abcdefgh" * 4)])).chat_round_stream("q").text()
    one, other = await asyncio.gather(all_of(text), all_of(text))
    assert sorted("".join(one + other)) == sorted("abcdefgh" * 4)


async def test_text_only_of_a_stream_can_be_parsed():
    agent = Agent(ScriptedKimi([say(TEXT)]))
    assert await all_of(records(text_only(agent.chat_round_stream("q")), Book, BOOKS)) == [EMMA, GATSBY]


async def test_records_are_models():
    with pytest.raises(TypeError, match="records are pydantic models"):
        records([TEXT], dict, BOOKS)  # pyright: ignore[reportArgumentType]


async def test_a_handler_has_to_be_one():
    handlers = MarkdownHandlers()
    with pytest.raises(TypeError, match="with brackets"):
        handlers.on_line(lambda line: None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="a handler is a function"):
        handlers.on_finish(1)  # pyright: ignore[reportArgumentType]


async def test_lenient_headings_are_passed_through():
    assert (await all_of(sections(["#Emma\n"], lenient_headings=True)))[0].title == "Emma"
    assert await all_of(parse_markdown(["#Emma\n"], lenient_headings=True)) == [Heading(1, "Emma")]

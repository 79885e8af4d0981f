"""What a type checker makes of programs that use the package. Not run: type checkers read it."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, assert_type

from pydantic import BaseModel

from kimi_agent import (
    Agent,
    Append,
    Kimi,
    MappedCall,
    MarkdownFormat,
    MarkdownHandlers,
    Message,
    Section,
    Snapshot,
    StreamCompleted,
    StreamFrame,
    ToolResult,
    collect_text,
    parse_markdown,
    records,
    sections,
    text_only,
    to_messages,
)


class Book(BaseModel):
    title: str


@dataclass
class Place:
    name: str


async def streams(agent: Agent, frames: list[StreamFrame]) -> None:
    books = MarkdownFormat("books", "# {title}")
    assert_type(await agent.chat_round("q", format=books), Message)
    stream = agent.chat_round_stream("q", format=books)
    async for book in records(stream, Book, books):
        assert_type(book, Book)
    async for frame in agent.full_round_frames("q", format=books):
        match frame:
            case Append(text):
                assert_type(text, str)
            case _:
                pass
    async for section in sections(stream.text(), level=2):
        assert_type(section, Section)
    async for event in parse_markdown(["# A"]):
        print(event.line)
    records(agent.full_round_frames("q"), Book, books, on_invalid=lambda error: Book(title=error.raw))
    assert_type(text_only(frames), Iterator[str])
    assert_type(text_only(agent.full_round_frames("q")), AsyncIterator[str])
    assert_type(text_only(stream), AsyncIterator[str])
    assert_type(collect_text(frames), str)
    assert_type(await collect_text(stream), str)
    assert_type(await to_messages(agent.full_round_frames("q")), list[Message])


async def structured(agent: Agent) -> None:
    assert_type(await agent.structured(Book, "q"), Book)
    assert_type(await agent.structured(list[Book], "q"), list[Book])
    assert_type(await agent.structured(Book | Place, "q"), Any)  # type: ignore[assert-type]
    async for found in agent.structured_stream(Book, "q"):
        assert_type(found, Book | Snapshot)


async def calls(agent: Agent) -> None:
    assert_type(await agent.call_tool("shelve", Book(title="Emma")), ToolResult)
    await agent.call_tool("shelve", {"title": "Emma"})
    await agent.call_tool("shelve", Place("Oslo"))
    await agent.call_tool("shelve", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async for done in agent.map_tool("shelve", [Book(title="Emma")]):
        assert_type(done, MappedCall[Book])
        assert_type(done.args.title, str)
    agent.map_tool("shelve", [1, 2])  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


def handlers(agent: Agent, heard: list[str | None]) -> None:
    agent.on(StreamCompleted, lambda event: heard.append(event.finish_reason))
    agent.on(StreamCompleted, lambda event: event.finish_reason)
    agent.on(StreamCompleted, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    markdown = MarkdownHandlers()

    @markdown.on_header(1)
    def title(text: str) -> bool:
        return bool(text)

    @markdown.on_bullet
    async def bullet(text: str) -> None:
        print(text)

    print(title, bullet)


async def enters() -> None:
    async with Agent(Kimi()) as agent:
        assert_type(agent, Agent)

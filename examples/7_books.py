"""A list of books that becomes objects while the model writes it, and calls of a function as soon as each is there.

With KIMI_API_KEY set: `python examples/7_books.py`
Without a key:         `python examples/offline.py examples/7_books.py`
"""

import asyncio

from pydantic import BaseModel

from kimi_agent import Agent, Kimi, MarkdownFormat, ai_function, records


class Book(BaseModel):
    title: str
    author: str
    description: str = ""


# One definition tells the model how to write, and reads what it wrote.
BOOK_LIST = MarkdownFormat(
    "book_list",
    schema="# {title}\n- {author}\n- {description}",
    examples=[
        "# The Great Gatsby\n- F. Scott Fitzgerald\n- A novel of the Jazz Age, told by a neighbour.",
        "# Middlemarch\n- George Eliot\n- Marriages, money and medicine in a provincial town.",
    ],
)


class Librarian(Agent):
    @ai_function()
    async def shelve(self, title: str, author: str, description: str = "") -> str:
        """Put a book on its shelf."""
        if not description:
            raise ValueError(f"nobody says what {title} is about")
        return f"shelf {author.split()[-1][0]}"


async def main() -> None:
    async with Librarian(Kimi(), "You know your books.") as agent:
        stream = agent.chat_round_stream("Recommend ten classics.", format=BOOK_LIST)
        books = records(stream, Book, BOOK_LIST)
        # Up to four calls at a time; the stream waits when they cannot keep up.
        async with agent.map_tool("shelve", books, concurrency=4, ordered=True) as calls:
            async for done in calls:
                print(f"{done.index + 1}. {done.args.title} by {done.args.author}: {done.content}")
        print("in the history:", [message.role for message in agent.chat_history])


if __name__ == "__main__":
    asyncio.run(main())

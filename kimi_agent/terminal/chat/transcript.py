"""A conversation as a file that a person reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ...message import Message
from ...session.keeping import state_of
from ..disk import write_for_its_owner
from ..text import on_one_line, visible

if TYPE_CHECKING:
    from ...agent import Agent

__all__ = ["KINDS", "export", "markdown", "title_of"]


def export(agent: Agent, path: Path) -> None:
    """Write the conversation of an agent to a file, whole or not at all. Its suffix says what is written.

    A new file is for its owner alone.

    Raises:
        ValueError: there is no such suffix, or it is no path.
        SessionError: the file cannot be written, or something cannot be said in JSON.
    """
    write = KINDS.get(path.suffix.lower())
    if write is None:
        raise ValueError(f"the name of the file has to end in {', '.join(KINDS)}")
    write(agent, path)


def _write_markdown(agent: Agent, path: Path) -> None:
    write_for_its_owner(path, markdown([*agent.always_included_messages, *agent.chat_history], title_of(agent)))


def _write_page(agent: Agent, path: Path) -> None:
    from ..page.view import page

    write_for_its_owner(path, page(state_of(agent), title_of(agent)))


def _save(agent: Agent, path: Path) -> None:
    agent.save(path)


KINDS: Final[Mapping[str, Callable[[Agent, Path], None]]] = MappingProxyType(
    {".md": _write_markdown, ".html": _write_page, ".json": _save}
)
"""What can be written, by the end of the name."""


def title_of(agent: Agent) -> str:
    """The beginning of what the user said first."""
    said = (message.text for message in agent.chat_history if message.role == "user")
    return " ".join(next(filter(None, said), "A conversation").split())[:80]


# ==== Markdown ====


def markdown(messages: list[Message], title: str) -> str:
    """Messages as Markdown, made visible.

    Only who speaks stands at the margin. What was said is quoted, and fenced where it has what may be HTML, so that
    nobody can speak for another.

    Args:
        messages: what was said.
        title: of the page.
    """
    blocks = [f"# {_plain(title)}", *(block for message in messages for block in _blocks(message))]
    return visible("\n\n".join(blocks) + "\n")


def _blocks(message: Message) -> Iterator[str]:
    """The pieces of a message: who speaks, what he thinks, says and calls."""
    yield f"## {message.role}{f' ({_plain(message.name)})' if message.name else ''}"
    if message.reasoning:
        yield f"thinks\n\n{_quoted(message.reasoning)}"
    if message.text.strip():
        if message.reasoning:
            yield "says"
        yield _fenced(message.text) if message.role == "tool" else _quoted(message.text)
    for part in message.parts:
        if part.type not in ("text", "think"):
            yield f"({_plain(part.type)})"
    for call in message.tool_calls or ():
        yield f"calls {_plain(call.name)}\n\n{_fenced(call.arguments, 'json')}"


_MARKUP: Final = re.compile(r"[\\`*<>\[\]!&]")
_HTML: Final = re.compile(r"<[A-Za-z/!?]")


def _plain(text: str) -> str:
    """A text on one line that is nothing but text."""
    return _MARKUP.sub(r"\\\g<0>", on_one_line(text))


def _quoted(text: str) -> str:
    """A text of which nothing gets out."""
    if _HTML.search(text):
        return _fenced(text, "markdown")
    return "\n".join(f"> {line}".rstrip() for line in visible(text).strip("\n").split("\n"))


def _fenced(text: str, language: str = "") -> str:
    """A text as a block of code, whatever is in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"

"""What a person can tell a chat to do, such as `/undo`: a table, and a short function for each row.

A command is a line that begins with `/` and a word of letters; any unambiguous beginning of a name will do. `//text`
says `/text` to the model. What goes wrong is one line, and the chat goes on.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from ..columns import described
from ..screen.reading import Left, PlainReader
from .choosing import model, thinking
from .outcome import CommandError, Did
from .rewriting import clear, compact, retry, undo, waits_for_an_answer
from .saving import export, load, save
from .showing import system, tools, usage
from .switching import fork, sessions

if TYPE_CHECKING:
    from .chat import Chat

__all__ = [
    "COMMANDS",
    "Command",
    "CommandError",
    "Did",
    "Typed",
    "command_in",
    "found",
    "run",
    "unescaped",
    "waits_for_an_answer",
]


class Typed(NamedTuple):
    """A line that is a command."""

    name: str
    argument: str


Run: TypeAlias = "Callable[[Chat, str], Awaitable[Did]]"


@dataclass(frozen=True)
class Command:
    """One row of the table.

    Args:
        name: with its `/`.
        arguments: as the help shows them: `NAME` has to be there, `[NAME]` may be.
        help: in a few words.
        run: does it, with what stands behind the name.
        others: names that people know it by elsewhere.
    """

    name: str
    arguments: str
    help: str
    run: Run
    others: tuple[str, ...] = ()

    @property
    def usage(self) -> str:
        """How it is written."""
        return f"{self.name} {self.arguments}".rstrip()

    def takes(self, argument: str) -> bool:
        """Whether there may be, or is, what has to be there."""
        if not self.arguments:
            return not argument
        return bool(argument) or self.arguments.startswith("[")


# ==== lines ====

_LINE: Final = re.compile(r"/([A-Za-z]*)(?:\s+(.*))?", re.DOTALL)


def command_in(line: str) -> Typed | None:
    """The command that a line is, if it is one. A path such as `/etc/hosts` is none."""
    match = _LINE.fullmatch(line)
    return Typed(match[1].lower(), (match[2] or "").strip()) if match else None


def unescaped(line: str) -> str:
    """What a line says to the model."""
    return line[1:] if line.startswith("//") else line


async def run(chat: Chat, typed: Typed) -> Did:
    """Do what a line says.

    Raises:
        Left: the user wants to leave.
        KimiAgentError: as of the command.
        OSError: as of the command.
        ValueError: as of the command.
    """
    try:
        command = found(typed.name)
        if not command.takes(typed.argument):
            return Did(f"usage: {command.usage}")
        return await command.run(chat, typed.argument)
    except CommandError as error:
        return Did(str(error))


def found(name: str) -> Command:
    """The command of a name, or of its beginning.

    Raises:
        CommandError: there is none, or there are several.
    """
    exact = [command for command in COMMANDS if f"/{name}" in (command.name, *command.others)]
    begun = exact or [command for command in COMMANDS if name and command.name.startswith(f"/{name}")]
    if len(begun) == 1:
        return begun[0]
    near = begun or _like(name)
    hint = f"did you mean {' or '.join(command.name for command in near)}? " if near else ""
    raise CommandError(f"there is no command /{name}; {hint}/help lists them, and //{name} says /{name} to the model")


def _like(name: str) -> list[Command]:
    names = get_close_matches(f"/{name}", [command.name for command in COMMANDS], 1)
    return [command for command in COMMANDS if command.name in names]


# ==== about the chat ====

KEYS: Final = (
    ("Ctrl-C", "stops the answer, or clears the line; twice it leaves"),
    ("Ctrl-D", "leaves"),
)
EDITOR_KEYS: Final = (
    ("Alt-Enter", "a new line; so does a backslash at the end of one"),
    ("Tab", "how a command goes on"),
    ("Up, Ctrl-R", "what you typed before, and a search in it"),
)


async def _help(chat: Chat, argument: str) -> Did:
    keys = KEYS if isinstance(chat.reader, PlainReader) else (*EDITOR_KEYS, *KEYS)
    rows = [*((command.usage, command.help) for command in COMMANDS), *keys]
    return Did(
        f"{described(rows, chat.display.columns)}\nThe beginning of a name will do. //text says /text to the model."
    )


async def _quit(chat: Chat, argument: str) -> Did:
    raise Left


# ==== the table ====

COMMANDS: Final[tuple[Command, ...]] = (
    Command("/help", "", "what you can type", _help),
    Command("/clear", "", "forget what was said", clear),
    Command("/undo", "", "take back what you said last, and the answer", undo),
    Command("/retry", "", "have it answered again", retry),
    Command("/save", "FILE", "write a .json or .kimi file, which /load reads", save),
    Command("/load", "FILE", "go on with a file that /save wrote", load),
    Command("/sessions", "[ID]", "the sessions, or go on with one; - is the one before", sessions),
    Command("/fork", "", "go on in a copy", fork),
    Command("/model", "[NAME]", "the models, or ask another one", model),
    Command("/thinking", "[EFFORT]", "the last reasoning, or think as hard as that", thinking),
    Command("/tools", "", "what the model may call", tools),
    Command("/system", "[TEXT]", "the system prompt, or another one", system),
    Command("/usage", "", "tokens, requests and cost", usage),
    Command("/compact", "", "put a summary in the place of what is old", compact),
    Command("/export", "FILE", "write a .md, .html or .json file to read", export),
    Command("/quit", "", "leave, like /exit and /q", _quit, others=("/exit", "/q")),
)

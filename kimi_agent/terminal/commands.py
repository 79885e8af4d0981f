"""What a person can tell a chat to do, such as `/undo`: a table, and a short function for each row.

A command is a line that begins with `/` and a word of letters; any unambiguous beginning of a name will do. `//text`
says `/text` to the model. What goes wrong is one line, and the chat goes on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, cast, get_args

from ..events import HistoryCompacted
from ..history import repair
from ..kimi.client import Kimi
from ..kimi.models import MODELS, TODAY, ModelInfo, ThinkingEffort
from ..limits import as_spent
from ..message import Message
from ..prompt.compaction import is_compacted
from ..prompt.window import Window
from ..turns import Turn
from . import transcript
from .conversations import session_of
from .reading import Left
from .status import model_line, money, on_one_line, percent, tokens_line

if TYPE_CHECKING:
    from ..agent import Agent
    from ..session.sqlite import SessionInfo
    from ..tools.base import ToolLike
    from .chat import Chat

__all__ = [
    "COMMANDS",
    "Command",
    "CommandError",
    "Did",
    "Typed",
    "command_in",
    "found",
    "models",
    "run",
    "unescaped",
    "waits_for_an_answer",
]


class CommandError(Exception):
    """A command cannot do what it was told to; the text says why."""


@dataclass(frozen=True)
class Did:
    """What a command has done.

    Args:
        notice: what there is to tell.
        asks: whether the model is to answer what was said.
        agent: who goes on from now on.
    """

    notice: str = ""
    asks: bool = False
    agent: Agent | None = None


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
    """

    name: str
    arguments: str
    help: str
    run: Run

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
    exact = [command for command in COMMANDS if command.name == f"/{name}"]
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


async def _help(chat: Chat, argument: str) -> Did:
    width = max(len(command.usage) for command in COMMANDS)
    lines = [f"{command.usage:<{width}}  {command.help}" for command in COMMANDS]
    return Did("\n".join([*lines, "The beginning of a name will do. //text says /text to the model."]))


async def _quit(chat: Chat, argument: str) -> Did:
    raise Left


# ==== what was said ====


def waits_for_an_answer(agent: Agent) -> bool:
    """Whether the model has not answered what was said last."""
    return bool(agent.chat_history) and agent.chat_history[-1].role in ("user", "tool")


async def _clear(chat: Chat, argument: str) -> Did:
    removed = await _cut(chat.agent, lambda history: 0, "clear")
    return Did(f"({_count(len(removed), 'message')} removed; pinned messages stay)")


async def _undo(chat: Chat, argument: str) -> Did:
    removed = await _cut(chat.agent, _last_question, "undo")
    said = on_one_line(removed[0].text or "what you said", 60)
    return Did(f'(took back "{said}", {_count(len(removed), "message")})')


async def _retry(chat: Chat, argument: str) -> Did:
    await _cut(chat.agent, lambda history: _last_question(history) + 1, "retry")
    return Did(asks=True)


def _last_question(history: Sequence[Message]) -> int:
    """Where the user spoke last.

    Raises:
        CommandError: nowhere. A summary of what he once said cannot be taken back.
    """
    for place in range(len(history) - 1, -1, -1):
        if history[place].role == "user" and not is_compacted(history[place]):
            return place
    raise CommandError("nothing was said yet")


async def _cut(agent: Agent, place: Callable[[Sequence[Message]], int], reason: str) -> list[Message]:
    """Let the history end at a place, here and in the session. What stood behind it.

    Raises:
        CommandError: as of `place`.
        SessionError: the session could not be written; the next write brings it up to date.
    """
    async with Turn(agent, agent._turns).whole(is_round=False):
        await agent._keeper.begin(agent)
        end = place(agent.chat_history)
        removed = agent.chat_history[end:]
        agent.chat_history[:] = repair(agent.chat_history[:end], interrupted=agent.texts.interrupted())
        await agent._keep_up(reason)
    return removed


async def _compact(chat: Chat, argument: str) -> Did:
    told: list[HistoryCompacted] = []
    forget = chat.agent.on(HistoryCompacted, told.append)
    try:
        await chat.agent.compact()
    finally:
        forget()
    if not told:
        return Did("(the history is short enough)")
    before, after = told[-1].tokens_before, told[-1].tokens_after
    return Did(f"(the history had {before:,} tokens, and has {after:,} now)")


# ==== files ====


async def _save(chat: Chat, argument: str) -> Did:
    chat.agent.save(_path(argument))
    return Did(f"(saved to {on_one_line(argument)})")


async def _load(chat: Chat, argument: str) -> Did:
    agent = chat.agent
    await agent._keeper.begin(agent)
    agent.load(_path(argument))
    await agent._keep_up("load")
    return Did(f"({_count(len(agent.chat_history), 'message')} from {on_one_line(argument)})")


async def _export(chat: Chat, argument: str) -> Did:
    path = _path(argument)
    transcript.export(chat.agent, path)
    return Did(f"(exported to {on_one_line(argument)})")


def _path(argument: str) -> Path:
    return Path(os.path.expanduser(argument))  # Path.expanduser raises when there is no such user


# ==== other conversations ====


async def _sessions(chat: Chat, argument: str) -> Did:
    if not argument:
        return await _list_sessions(chat)
    conversations = chat.conversations
    if argument != "-":
        agent = await conversations.opened(argument)
    elif (before := conversations.before) is not None:
        agent = before
    else:
        raise CommandError("there was no conversation before this one")
    return Did(f"(you are in {_named(agent)}; /sessions - returns)", agent=agent)


async def _list_sessions(chat: Chat) -> Did:
    here = session_of(chat.agent)
    lines = [_row(info, here is not None and here.id == info.id) for info in await chat.conversations.look_up()]
    return Did("\n".join(lines) or "(there are no sessions)")


def _row(info: SessionInfo, is_here: bool) -> str:
    changed = f"{info.updated.astimezone():%Y-%m-%d %H:%M}"
    mark = "*" if is_here else " "
    return f"{mark} {info.id}  {changed}  {info.messages:>4}  {on_one_line(info.title)}".rstrip()


def _named(agent: Agent) -> str:
    session = session_of(agent)
    return "a conversation that no store has" if session is None else f"session {on_one_line(session.id)}"


async def _fork(chat: Chat, argument: str) -> Did:
    agent = await chat.conversations.forked()
    kept = "which no session keeps" if session_of(agent) is None else _named(agent)
    return Did(f"(you are in a copy, {kept}; /sessions - returns)", agent=agent)


# ==== the model ====


async def _model(chat: Chat, argument: str) -> Did:
    if not argument:
        return Did(f"{model_line(chat.agent)}; known are {', '.join(info.name for info in models(chat.agent))}")
    provider = _kimi(chat.agent)
    if any(character.isspace() for character in argument):
        return Did("usage: /model [NAME]")
    _ask(chat.agent, provider.with_model(argument))
    chat.agent._window = Window()  # what was learnt of the other model does not hold for this one
    return Did(f"({model_line(chat.agent)} answers from now on)")


def models(agent: Agent) -> list[ModelInfo]:
    """The models that can be asked, as far as that is known."""
    told = agent.provider._learnt.models if isinstance(agent.provider, Kimi) else {}
    return list(told.values()) or [info for info in MODELS.values() if info.last_seen == TODAY]


async def _thinking(chat: Chat, argument: str) -> Did:
    if not argument:
        return Did(_last_reasoning(chat.agent))
    provider, efforts = _kimi(chat.agent), get_args(ThinkingEffort)
    if argument not in efforts:
        raise CommandError(f"usage: /thinking [EFFORT], one of {', '.join(efforts)}")
    _ask(chat.agent, provider.with_thinking(cast(ThinkingEffort, argument)))
    return Did(f"({model_line(chat.agent)} answers from now on)")


def _last_reasoning(agent: Agent) -> str:
    reasoned = (message.reasoning for message in reversed(agent.chat_history) if message.role == "assistant")
    thought = next(filter(None, reasoned), None)
    return f"{model_line(agent)}\n{thought or '(there is no reasoning)'}"


def _kimi(agent: Agent) -> Kimi:
    """The provider of an agent.

    Raises:
        CommandError: it is something else.
    """
    if isinstance(agent.provider, Kimi):
        return agent.provider
    raise CommandError(f"{type(agent.provider).__name__} is no Kimi, and cannot be changed here")


def _ask(agent: Agent, provider: Kimi) -> None:
    agent.provider = provider


async def _system(chat: Chat, argument: str) -> Did:
    agent = chat.agent
    if not argument:
        return Did("".join(message.text for message in _system_prompt(agent)) or "(there is no system prompt)")
    async with Turn(agent, agent._turns).whole(is_round=False):
        await agent._keeper.begin(agent)
        agent.always_included_messages[: len(_system_prompt(agent))] = [Message.system(argument)]
        await agent._keep_up("system prompt")
    return Did("(this is the system prompt from now on)")


def _system_prompt(agent: Agent) -> list[Message]:
    """The first pinned message, if that is one."""
    return [message for message in agent.always_included_messages[:1] if message.role == "system" and message.text]


async def _tools(chat: Chat, argument: str) -> Did:
    functions = await chat.agent.get_enabled_functions()
    return Did("\n".join(map(_tool_line, functions)) or "(there are no functions)")


def _tool_line(tool: ToolLike) -> str:
    rule = getattr(tool, "approval", False)
    asks = "" if rule is False else " (asks for approval)" if rule is True else " (may ask for approval)"
    described = on_one_line(tool.base.description.strip().partition("\n")[0], 100)
    return f"{on_one_line(tool.base.name)}{asks}: {described}".removesuffix(": ")


async def _usage(chat: Chat, argument: str) -> Did:
    usage = as_spent(chat.agent.usage)
    cached = f" ({usage.cached:,} of them cached, {percent(usage.prompt_cache_hit)})" if usage.input else ""
    reasoning = f" ({usage.reasoning:,} of them reasoning)" if usage.reasoning else ""
    lines = [
        f"model:    {model_line(chat.agent)}",
        f"context:  {tokens_line(chat.agent)}",
        f"input:    {usage.input:,} tokens{cached}",
        f"output:   {usage.output:,} tokens{reasoning}",
        f"requests: {usage.requests:,}",
        f"calls:    {usage.tool_calls:,}",
        f"cost:     {money(usage.cost) or 'not known'}",
    ]
    return Did("\n".join(lines))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# ==== the table ====

COMMANDS: Final[tuple[Command, ...]] = (
    Command("/help", "", "what you can type", _help),
    Command("/clear", "", "forget what was said", _clear),
    Command("/undo", "", "take back what you said last, and the answer", _undo),
    Command("/retry", "", "have it answered again", _retry),
    Command("/save", "FILE", "write the conversation to a .json or .kimi file", _save),
    Command("/load", "FILE", "go on with a saved conversation", _load),
    Command("/sessions", "[ID]", "the sessions, or go on with one; - is the one before", _sessions),
    Command("/fork", "", "go on in a copy", _fork),
    Command("/model", "[NAME]", "the model, or ask another one", _model),
    Command("/thinking", "[EFFORT]", "the last reasoning, or think as hard as that", _thinking),
    Command("/tools", "", "what the model may call", _tools),
    Command("/system", "[TEXT]", "the system prompt, or another one", _system),
    Command("/usage", "", "tokens, requests and cost", _usage),
    Command("/compact", "", "make the history shorter", _compact),
    Command("/export", "FILE", "write a .md, .html or .json file to read", _export),
    Command("/quit", "", "leave", _quit),
)

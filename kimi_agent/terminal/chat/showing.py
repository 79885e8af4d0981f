"""What of an agent a person may look at: `/system`, `/tools` and `/usage`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...limits import as_spent
from ...message import Message
from ..columns import described
from ..text import on_one_line
from .conversations import changing
from .outcome import Did
from .status import cost_line, model_line, percent, tokens_line

if TYPE_CHECKING:
    from ...agent import Agent
    from ...tools.base import ToolLike
    from .chat import Chat

__all__ = ["pin_system_prompt", "system", "tools", "usage"]


async def system(chat: Chat, argument: str) -> Did:
    """Tell the system prompt, or put another one in its place."""
    agent = chat.agent
    if not argument:
        return Did("".join(message.text for message in _system_prompt(agent)) or "(there is no system prompt)")
    async with changing(agent, "system prompt"):
        pin_system_prompt(agent, argument)
    return Did("(this is the system prompt from now on)")


def pin_system_prompt(agent: Agent, text: str) -> None:
    """Put a system prompt in the place of the one that is pinned; `""` for none."""
    agent.always_included_messages[: len(_system_prompt(agent))] = [Message.system(text)] if text else []


def _system_prompt(agent: Agent) -> list[Message]:
    """The first pinned message, if that is one."""
    return [message for message in agent.always_included_messages[:1] if message.role == "system"]


async def tools(chat: Chat, argument: str) -> Did:
    """Tell what the model may call."""
    functions = await chat.agent.get_enabled_functions()
    return Did(described([_tool(tool) for tool in functions], chat.display.columns) or "(there are no functions)")


def _tool(tool: ToolLike) -> tuple[str, str]:
    rule = getattr(tool, "approval", False)
    asks = "" if rule is False else "(asks for approval) " if rule is True else "(may ask for approval) "
    text = on_one_line(tool.base.description.strip().partition("\n")[0], 200)
    return on_one_line(tool.base.name), f"{asks}{text}".strip()


async def usage(chat: Chat, argument: str) -> Did:
    """Tell what was spent."""
    spent = as_spent(chat.agent.usage)
    cached = f" ({spent.cached:,} of them cached, {percent(spent.prompt_cache_hit)})" if spent.input else ""
    reasoning = f" ({spent.reasoning:,} of them reasoning)" if spent.reasoning else ""
    stopped = f" ({spent.stopped:,} more were stopped)" if spent.stopped else ""
    lines = [
        f"model:    {model_line(chat.agent)}",
        f"context:  {tokens_line(chat.agent)}",
        f"input:    {spent.input:,} tokens{cached}",
        f"output:   {spent.output:,} tokens{reasoning}",
        f"requests: {spent.requests:,}{stopped}",
        f"calls:    {spent.tool_calls:,}",
        f"cost:     {cost_line(spent) or 'not known'}",
    ]
    return Did("\n".join(lines))

"""Who answers, and how hard it thinks: `/model` and `/thinking`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ...kimi.client import Kimi
from ...kimi.models import MODELS, TODAY, ModelInfo
from ...prompt.window import Window
from ..columns import aligned
from ..text import on_one_line
from .efforts import ON, asked_effort, efforts, refusal
from .outcome import CommandError, Did
from .status import model_line

if TYPE_CHECKING:
    from ...agent import Agent
    from .chat import Chat

__all__ = ["model", "models", "thinking"]


def _kimi(agent: Agent) -> Kimi:
    """The provider of an agent.

    Raises:
        CommandError: it is something else.
    """
    if isinstance(agent.provider, Kimi):
        return agent.provider
    raise CommandError(f"{type(agent.provider).__name__} is no Kimi, and cannot be changed here")


# ==== the model ====


async def model(chat: Chat, argument: str) -> Did:
    """Tell the models, or let another one answer."""
    if not argument:
        return Did(_list(chat.agent))
    if any(character.isspace() for character in argument):
        return Did("usage: /model [NAME]")
    before = _kimi(chat.agent)
    after = before.with_model(argument)
    chat.agent.provider = after
    chat.agent._window = Window()  # what was learnt of the other model does not hold for this one
    return Did("\n".join([f"({model_line(chat.agent)} answers from now on)", *_remarks(before, after)]))


def _remarks(before: Kimi, after: Kimi) -> list[str]:
    """What is different with another model, and nobody has asked for."""
    info, remarks = after.model_info, list[str]()
    if info.name not in MODELS and info.name not in after._learnt.models:
        remarks.append(f"nobody knows {info.name}; its window is assumed to be {info.context_window:,} tokens")
    effort = asked_effort(before)
    if effort not in ("", ON, asked_effort(after)):
        remarks.append(refusal(info, effort))
    return remarks


def models(agent: Agent) -> list[ModelInfo]:
    """The models that can be asked, as far as that is known."""
    told = agent.provider._learnt.models if isinstance(agent.provider, Kimi) else {}
    return list(told.values()) or [info for info in MODELS.values() if info.last_seen == TODAY]


def _list(agent: Agent) -> str:
    if not isinstance(agent.provider, Kimi):
        return f"{model_line(agent)} answers"
    here, known = agent.provider.model_info, models(agent)
    listed = known if here.name in [info.name for info in known] else [here, *known]
    rows = [_HEAD, *(_row(info, "*" if info.name == here.name else " ") for info in listed)]
    return "\n".join([f"{model_line(agent)} answers", *aligned(rows, right=range(1, 5)), _UNITS])


_HEAD: Final = ("  model", "window", "input", "cached", "output")
_UNITS: Final = "window in tokens, prices in USD per million tokens"


def _row(info: ModelInfo, mark: str) -> tuple[str, ...]:
    prices = info.prices
    amounts = (prices.input, prices.cached_input, prices.output) if prices else ()
    costs = [f"{amount:.2f}" for amount in amounts] or ["-"] * 3
    return (f"{mark} {on_one_line(info.name, 40)}", f"{info.context_window:,}", *costs)


# ==== how hard it thinks ====


async def thinking(chat: Chat, argument: str) -> Did:
    """Tell how hard it thinks, and what it thought last; or let it think as hard as that."""
    if not argument:
        return Did("\n".join([*_effort(chat.agent), _last_reasoning(chat.agent)]))
    provider, word = _kimi(chat.agent), argument.lower()
    effort = efforts(provider.model_info).get(word)
    if effort is None:
        raise CommandError(refusal(provider.model_info, word))
    chat.agent.provider = provider.with_thinking(effort)
    return Did(f"({model_line(chat.agent)} answers from now on)")


def _effort(agent: Agent) -> list[str]:
    if not isinstance(agent.provider, Kimi):
        return []
    info = agent.provider.model_info
    possible = " ".join(efforts(info))
    asked = asked_effort(agent.provider) or "not set"
    return [f"effort: {asked}; possible: {possible}" if possible else refusal(info, "")]


def _last_reasoning(agent: Agent) -> str:
    reasoned = (message.reasoning for message in reversed(agent.chat_history) if message.role == "assistant")
    thought = next(filter(None, reasoned), None)
    return f"the last reasoning:\n{thought}" if thought else "(there is no reasoning)"

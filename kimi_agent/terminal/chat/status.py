"""What of an agent a person wants to see all the time, and its parts for who asks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ...errors import FunctionSpecError
from ...limits import Spent, as_spent
from ...tools.toolset import offered
from ..text import on_one_line
from .efforts import asked_effort

if TYPE_CHECKING:
    from ...agent import Agent

__all__ = ["context_tokens", "cost_line", "model_line", "percent", "status_line", "tokens_line"]


def status_line(agent: Agent) -> str:
    """`kimi-k3 · 12,345 of 1,048,576 tokens (1 %) · 78 % cached · $0.0123`, without what is not known."""
    usage = as_spent(agent.usage)
    parts = [
        model_line(agent),
        tokens_line(agent) if agent.chat_history else "",
        f"{percent(usage.prompt_cache_hit)} cached" if usage.input else "",
        cost_line(usage) if usage.requests else "",
    ]
    return " · ".join(filter(None, parts))


def model_line(agent: Agent) -> str:
    """`kimi-k3 (low)`: who answers, and how hard it was told to think."""
    effort = asked_effort(agent.provider)
    return on_one_line(f"{agent.provider.model_name} ({effort})" if effort else agent.provider.model_name)


def tokens_line(agent: Agent) -> str:
    """`12,345 of 1,048,576 tokens (1 %)`: how much of the window the next prompt takes."""
    window = agent.provider.context_window
    tokens = min(context_tokens(agent), window or sys.maxsize)  # what does not fit is left out of the prompt
    share = f" ({percent(tokens / window)})" if window else ""
    return f"{tokens:,} of {window:,} tokens{share}"


def context_tokens(agent: Agent) -> int:
    """The tokens of the next prompt, without what is said next: counted by the server as far as it has counted."""
    window, history = agent._window, agent.chat_history
    kept = history[window.start_in(history) :]
    overhead = window.running.anchor.overhead if window.running.anchor else _overhead(agent)
    return window.running.of(window.counter, [*agent.always_included_messages, *kept], overhead, window.scale)


def _overhead(agent: Agent) -> int:
    try:
        tools = [tool.base for tool in offered(agent.functions)]
    except FunctionSpecError:  # who put it there hears of it with the next round
        tools = []
    return agent._window.counter.overhead(tools, {})


def percent(share: float) -> str:
    """`78 %`, and `<1 %` for what is more than nothing."""
    return "<1 %" if 0 < share < 0.01 else f"{share:.0%}".replace("%", " %")


def cost_line(spent: Spent) -> str:
    """`$0.0123`, `at least $0.0123` where that is not all; `""` where nothing is known."""
    known = f"${spent.known_cost:.4f}"
    return known if spent.is_known else f"at least {known}" if spent.known_cost else ""

"""How hard a model can be told to think, in its own words."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from ...kimi.models import EFFORTS, ModelInfo, Thinking, ThinkingEffort

if TYPE_CHECKING:
    from ...provider import ChatProvider

__all__ = ["ON", "asked_effort", "efforts", "refusal"]

ON: Final = "on"
"""What a model that only thinks or does not is told."""


def efforts(info: ModelInfo) -> dict[str, ThinkingEffort]:
    """The words for it, and what the client is told; empty where nothing can be changed."""
    levels: dict[str, ThinkingEffort] = {word: cast("ThinkingEffort", word) for word in info.efforts if word in EFFORTS}
    if info.thinking == "switch":
        levels = levels or {ON: "high"}
        return {**levels, "off": "off"}
    return levels if info.thinking == "always" else {}


def asked_effort(provider: ChatProvider) -> str:
    """What a provider tells its model, if it tells it anything that this one knows."""
    effort, info = getattr(provider, "thinking_effort", None), getattr(provider, "model_info", None)
    if effort is None or not isinstance(info, ModelInfo):
        return effort or ""
    words = efforts(info)
    meant = (effort, EFFORTS.get(effort, effort), ON if effort != "off" else "")
    return next((word for word in meant if word in words), "")


def refusal(info: ModelInfo, word: str) -> str:
    """Why a model cannot be told this, and what it can be told."""
    possible = " ".join(efforts(info))
    if not possible:
        return _FIXED[info.thinking].format(info.name)
    if word == "off":
        return f"{info.name} always thinks; possible: {possible}"
    return f"{info.name} has no effort {word}; possible: {possible}"


_FIXED: Final[Mapping[Thinking, str]] = MappingProxyType(
    {
        "unknown": "nobody knows how {} thinks, and how to change it",
        "never": "{} does not think",
        "always": "{} always thinks, as hard as it wants",
    }
)

"""What is known of Kimi's models, as data."""

from __future__ import annotations

from typing import Final

__all__ = ["context_window"]

WINDOWS: Final = {"kimi-k3": 1_048_576, "k3-256k": 262_144, "k3": 1_048_576, "kimi-k2": 262_144}
"""Tokens of prompt and completion together, by the beginning of the model's name; the longest that fits counts."""

UNKNOWN_WINDOW: Final = 262_144
"""For a model that nobody has heard of: the smallest window of any model that Kimi serves today."""


def context_window(model: str) -> int:
    """How many tokens prompt and completion of `model` may have together."""
    fitting = [prefix for prefix in WINDOWS if model.startswith(prefix)]
    return WINDOWS[max(fitting, key=len)] if fitting else UNKNOWN_WINDOW

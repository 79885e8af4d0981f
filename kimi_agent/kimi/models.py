"""What is known of Kimi's models, as data.

The rows are those of platform.kimi.ai's pages on models and prices, and of the models that left. A name that has no row
gets what its family has; a name of no family is an unknown model, of which nothing is assumed. `Kimi.models()` asks the
server, which knows better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, TypeGuard, cast

from ..errors import InvalidRequestError

__all__ = ["ModelInfo", "Prices", "ThinkingEffort", "model_info", "refreshed", "thinking_fields"]

ThinkingEffort: TypeAlias = Literal["off", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How hard a model is to think, in words that mean something for every model."""

Thinking: TypeAlias = Literal["unknown", "never", "always", "switch"]
"""Whether a model thinks; one with a `switch` does, unless it is told not to."""


@dataclass(frozen=True, slots=True)
class Prices:
    """USD per million tokens, tax excluded.

    Args:
        input: prompt tokens that the cache does not have.
        cached_input: prompt tokens that it has.
        output: completion tokens, reasoning included.
        cache_write: prompt tokens written to the cache for five minutes; `None` where writing is free.
        cache_write_hour: the same for an hour.
    """

    input: float
    cached_input: float
    output: float
    cache_write: float | None = None
    cache_write_hour: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a model can do. `None` is "not known".

    Args:
        name: of the model.
        context_window: tokens of prompt and completion together.
        default_completion: the completion limit that the model has when a request names none, in tokens.
        max_completion: the highest completion limit, in tokens.
        thinking: whether it thinks, and whether that can be changed.
        efforts: the values of `reasoning_effort`, the least first; empty when it has no levels.
        tool_choices: what `tool_choice` may be while it thinks.
        sampling: the sampling fields that are pinned, each with its only value while the model thinks; `None` when they
            are free, or nothing is known.
        images: whether it sees pictures.
        videos: whether it sees films.
        dynamic_tools: whether a system message may declare tools.
        prices: what it costs.
        last_seen: when it was last known to be served.
    """

    name: str
    context_window: int = 262_144
    default_completion: int | None = None
    max_completion: int | None = None
    thinking: Thinking = "unknown"
    efforts: tuple[str, ...] = ()
    tool_choices: frozenset[str] | None = None
    sampling: Mapping[str, float] | None = None
    images: bool | None = None
    videos: bool | None = None
    dynamic_tools: bool | None = None
    prices: Prices | None = None
    last_seen: date | None = None

    @property
    def is_known(self) -> bool:
        """Whether it belongs to a family whose rules are known: its requests are checked before they are sent."""
        return self.sampling is not None


# ==== families ====

PINNED: Final = MappingProxyType(
    {"temperature": 1.0, "top_p": 0.95, "n": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
)
"""Since kimi-k2.5 sampling cannot be changed: another value is refused."""

TEMPERATURE_WITHOUT_THINKING: Final = 0.6

K3: Final = ModelInfo(
    name="kimi-k3",
    context_window=1_048_576,
    default_completion=131_072,
    max_completion=1_048_576,
    thinking="always",
    efforts=("low", "high", "max"),
    tool_choices=frozenset({"auto", "none", "required"}),
    sampling=PINNED,
    images=True,
    videos=True,
    dynamic_tools=True,
)
K2_7: Final = ModelInfo(
    name="kimi-k2.7",
    default_completion=32_768,
    max_completion=262_144,
    thinking="always",
    tool_choices=frozenset({"auto", "none"}),
    sampling=PINNED,
    images=True,
    videos=True,
    dynamic_tools=False,
)
HYBRID: Final = replace(K2_7, name="kimi-k2.6", thinking="switch")
K2: Final = ModelInfo(name="kimi-k2", thinking="never", images=False, videos=False, dynamic_tools=False)
K2_THINKING: Final = replace(K2, thinking="always")
UNKNOWN: Final = ModelInfo(name="")

FAMILIES: Final = {"kimi-k3": K3, "k3": K3, "kimi-k2.7": K2_7, "kimi-k2.6": HYBRID, "kimi-k2.5": HYBRID}
"""By the beginning of the name. No beginning is the beginning of another."""

# ==== models ====

TODAY: Final = date(2026, 11, 20)
_SUMMER, _SPRING = date(2026, 8, 31), date(2026, 5, 25)
_K3_PRICES: Final = Prices(3.00, 0.30, 15.00, 3.00, 6.00)
_K3_1_PRICES: Final = Prices(2.00, 0.20, 10.00, 2.00, 4.00)

_ROWS: Final[tuple[tuple[str, ModelInfo, int, Prices | None, date], ...]] = (
    # name, family, window, prices, last seen
    ("kimi-k3.1-pro", K3, 1_048_576, _K3_1_PRICES, TODAY),
    ("kimi-k3.1-pro-highspeed", K3, 1_048_576, Prices(4.00, 0.20, 20.00), TODAY),
    ("kimi-k3", K3, 1_048_576, _K3_PRICES, TODAY),
    ("kimi-k2.7-code", K2_7, 262_144, Prices(0.95, 0.19, 4.00), TODAY),
    ("kimi-k2.7-code-highspeed", K2_7, 262_144, Prices(1.90, 0.38, 8.00), TODAY),
    ("kimi-k2.6", HYBRID, 262_144, Prices(0.95, 0.16, 4.00), TODAY),
    # the membership host, which has no prices per token
    ("kimi-for-coding", UNKNOWN, 262_144, None, TODAY),
    ("kimi-for-coding-highspeed", UNKNOWN, 262_144, None, TODAY),
    ("k3", K3, 1_048_576, None, TODAY),
    ("k3-256k", K3, 262_144, None, TODAY),
    ("k3.1-pro", K3, 262_144, None, TODAY),
    # gone; others still serve some of them
    ("kimi-k2.5", HYBRID, 262_144, None, _SUMMER),
    ("moonshot-v1-8k", UNKNOWN, 8_192, None, _SUMMER),
    ("moonshot-v1-32k", UNKNOWN, 32_768, None, _SUMMER),
    ("moonshot-v1-128k", UNKNOWN, 131_072, None, _SUMMER),
    ("kimi-k2-0711-preview", K2, 131_072, None, _SPRING),
    ("kimi-k2-0905-preview", K2, 262_144, None, _SPRING),
    ("kimi-k2-turbo-preview", K2, 262_144, None, _SPRING),
    ("kimi-k2-thinking", K2_THINKING, 262_144, None, _SPRING),
    ("kimi-k2-thinking-turbo", K2_THINKING, 262_144, None, _SPRING),
)


def _with_window(info: ModelInfo, window: int) -> ModelInfo:
    """The same with another window, and limits that fit it: an answer takes an eighth of it by default, as with all."""
    most = None if info.max_completion is None else min(info.max_completion, window)
    usual = None if info.default_completion is None else min(info.default_completion, max(window // 8, 1))
    return replace(info, context_window=window, max_completion=most, default_completion=usual)


MODELS: Final = {
    name: replace(_with_window(family, window), name=name, prices=prices, last_seen=seen)
    for name, family, window, prices, seen in _ROWS
}
"""Every model that is known by name."""


def model_info(name: str) -> ModelInfo:
    """What is known of a model. An unknown one is no error: little is known of it."""
    if name in MODELS:
        return MODELS[name]
    family = next((info for beginning, info in FAMILIES.items() if name.startswith(beginning)), UNKNOWN)
    return replace(family, name=name)


# ==== thinking ====

EFFORTS: Final[Mapping[str, str]] = MappingProxyType(
    {"minimal": "low", "low": "low", "medium": "high", "high": "high", "xhigh": "max", "max": "max"}
)
"""Generic efforts to those of Kimi K3, which knows no medium."""


def thinking_fields(info: ModelInfo, effort: ThinkingEffort) -> dict[str, Any]:
    """The fields of a request that make the model think that hard.

    Raises:
        InvalidRequestError: it cannot.
    """
    if effort != "off" and effort not in EFFORTS:
        raise InvalidRequestError(f"{effort!r} is no thinking effort; there are off, {', '.join(EFFORTS)}")
    if info.thinking == "unknown":
        raise InvalidRequestError(
            f"nothing is known of how {info.name} thinks: send the host's own fields with with_extra_body(...); some"
            " hosts tell more with `await kimi.models()`"
        )
    return _without_thinking(info) if effort == "off" else _with_thinking(info, effort)


def _without_thinking(info: ModelInfo) -> dict[str, Any]:
    if info.thinking == "always":
        least = f"; its least effort is {info.efforts[0]!r}" if info.efforts else ""
        raise InvalidRequestError(f"{info.name} always thinks{least}")
    return {"thinking": {"type": "disabled"}} if info.thinking == "switch" else {}


def _with_thinking(info: ModelInfo, effort: str) -> dict[str, Any]:
    if info.thinking == "never":
        raise InvalidRequestError(f"{info.name} does not think; leave with_thinking({effort!r}) out")
    fields: dict[str, Any] = {"thinking": {"type": "enabled"}} if info.thinking == "switch" else {}
    if info.efforts:
        fields["reasoning_effort"] = _effort_of(info, effort)
    return fields


def _effort_of(info: ModelInfo, effort: str) -> str:
    """The effort in the model's own words, if it has any for it."""
    for word in (effort, EFFORTS[effort]):
        if word in info.efforts:
            return word
    raise InvalidRequestError(f"{info.name} has no effort {effort!r}; it has {', '.join(info.efforts)}")


# ==== what the server says ====


def refreshed(info: ModelInfo, served: Mapping[str, Any], today: date) -> ModelInfo:
    """What is known of a model after the server has listed it. Keys that are absent, or make no sense, change nothing.

    Args:
        info: what was known before.
        served: the model's entry of `GET /models`.
        today: when that was.
    """
    window, row = served.get("context_length") or served.get("max_model_len"), model_info(info.name)  # vLLM, SGLang
    limits = replace(info, max_completion=row.max_completion, default_completion=row.default_completion)
    return replace(
        _with_window(limits, window) if _is_count(window) else info,
        images=_flag(served.get("supports_image_in"), info.images),
        videos=_flag(served.get("supports_video_in"), info.videos),
        thinking=_thinking_of(info, served),
        efforts=_efforts_of(info, served),
        last_seen=today,
    )


_BY_TYPE: Final[Mapping[Any, Thinking]] = MappingProxyType({"only": "always", "no": "never", "both": "switch"})


def _thinking_of(info: ModelInfo, served: Mapping[str, Any]) -> Thinking:
    said = served.get("supports_thinking_type")
    if isinstance(said, str) and said in _BY_TYPE:
        return _BY_TYPE[said]
    if served.get("supports_reasoning") is False:
        return "never"
    return "always" if info.thinking == "unknown" and _efforts_of(info, served) else info.thinking


def _efforts_of(info: ModelInfo, served: Mapping[str, Any]) -> tuple[str, ...]:
    said: Any = served.get("think_efforts")
    if not isinstance(said, Mapping):
        return info.efforts
    efforts = cast("Mapping[str, Any]", said)
    if efforts.get("support") is False:
        return ()
    valid: Any = efforts.get("valid_efforts")
    words = cast("list[Any]", valid) if isinstance(valid, list) else []
    return tuple(word for word in words if isinstance(word, str)) or info.efforts


def _flag(said: Any, known: bool | None) -> bool | None:
    return said if isinstance(said, bool) else known


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 < value < 1_000_000_000

"""Prompts that are written as the model reads them, for servers of one's own: a text, or messages as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from ..errors import InvalidRequestError
from .models import ModelInfo
from .request import merged, renamed
from .wire import encode

__all__ = ["Prompt", "prompt_request"]

Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A text, which goes to `/completions` as it is, or messages as JSON, which go to `/chat/completions`."""

TEXT_COMPLETION: Final = 4_096
"""Tokens of an answer to a text, where nothing is said of it. Left alone, servers stop after 16."""
MOST_OF_WINDOW: Final = 8
"""It takes no more than one part in so many of the window: servers refuse what may not fit."""
_OF_TEXT: Final = frozenset({"temperature", "top_p", "n", "presence_penalty", "frequency_penalty", "stop"})
_OF_CHAT_ALONE: Final = frozenset({"tool_choice", "prompt_cache_key", "safety_identifier"})
"""What an agent asks for by itself, and means nothing here."""


def prompt_request(model: ModelInfo, prompt: Prompt, asked: Mapping[str, Any], *, stream: bool) -> tuple[str, bytes]:
    """Where a request goes, and its JSON.

    Raises:
        InvalidRequestError: there is no prompt, or it asks for what a text completion does not have.
    """
    if not prompt:
        raise InvalidRequestError("a request needs a prompt")
    named = renamed(asked)
    extra: Mapping[str, Any] = named.pop("extra_body", None) or {}
    head: dict[str, Any] = {"model": model.name, "stream": stream}
    if stream:
        head["stream_options"] = {"include_usage": True}
    if isinstance(prompt, str):
        path, body = "/completions", {"prompt": prompt, **head, **_of_text(model, named)}
    else:
        limit = named.pop("max_completion_tokens", None)  # under the name that all such servers know
        path, body = "/chat/completions", {"messages": list(prompt), **head, **named, "max_tokens": limit}
    return path, encode({name: value for name, value in merged(body, extra).items() if value is not None})


def _of_text(model: ModelInfo, named: dict[str, Any]) -> dict[str, Any]:
    usual = model.default_completion or min(TEXT_COMPLETION, model.context_window // MOST_OF_WINDOW)
    limit = named.pop("max_completion_tokens", usual)
    fields = {name: value for name, value in named.items() if name not in _OF_CHAT_ALONE and value is not None}
    if unknown := fields.keys() - _OF_TEXT:
        raise InvalidRequestError(
            f"a text completion has no {', '.join(sorted(unknown))}; extra_body is sent unchecked"
        )
    return {"max_tokens": limit, **fields}

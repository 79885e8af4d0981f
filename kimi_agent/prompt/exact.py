"""What a prompt costs, exactly: the `usage.prompt_tokens` that Kimi will report, before the request is sent.

`RENDERINGS` tells which model shows a request how. All calls here are plain ones: loading the ranks takes about 0.3 s,
and counting goes at some million tokens a second, so both belong in a thread where an event loop runs.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol, Self

from ..errors import InvalidRequestError
from ..history import calls_of, is_begun
from ..kimi import wire
from ..message import Message, once_per_value
from .body import Request, Said, message_of, request_of
from .k2 import K2_5, K2_7, K2_INSTRUCT, K2_THINKING, MOONSHOT_V1
from .k3 import K3
from .ranks import Ranks, load

__all__ = ["KimiTokenCounter"]


class Rendering(Protocol):
    """How a family of models shows a request to the model, in tokens."""

    @property
    def name(self) -> str:
        """Of the family."""
        ...

    @property
    def dialect(self) -> wire.Dialect:
        """How its messages are sent."""
        ...

    @property
    def names_results(self) -> bool:
        """Whether a result is shown with the name of its function."""
        ...

    @property
    def header(self) -> int:
        """Tokens that begin an answer, and are counted with the prompt."""
        ...

    @property
    def grows(self) -> bool:
        """Whether a prompt goes on as the last one and its answer ended."""
        ...

    def messages(self, count: Callable[[str], int], request: Request) -> int:
        """Tokens of all messages."""
        ...

    def overhead(self, count: Callable[[str], int], request: Request) -> int:
        """Tokens of everything but the messages."""
        ...

    def message(self, count: Callable[[str], int], said: Said) -> int:
        """Tokens of a message in the prompt."""
        ...

    def completion(self, count: Callable[[str], int], said: Said) -> int:
        """Tokens that the answer was billed with."""
        ...


RENDERINGS: Final[tuple[tuple[str, Rendering], ...]] = (
    ("kimi-k3", K3()),
    ("k3", K3()),
    ("kimi-k2.7-", K2_7),
    ("kimi-k2.6-", K2_5),
    ("kimi-k2.5-", K2_5),
    ("kimi-k2-thinking-", K2_THINKING),
    ("kimi-k2-", K2_INSTRUCT),
    ("moonshot-v1-", MOONSHOT_V1),
)
"""By the beginning of the name, with a hyphen behind it; the first that fits. Nothing is assumed of other names."""


def rendering_of(model: str) -> Rendering | None:
    """How a model shows a request; `None` when nothing is known of it. The owner before a slash does not matter."""
    name = f"{model.rpartition('/')[2].lower()}-"
    return next((rendering for beginning, rendering in RENDERINGS if name.startswith(beginning)), None)


class KimiTokenCounter:
    """Counts what a prompt will cost, exactly. Make one with `from_file`; it may be used from any thread.

    Args:
        ranks: of Kimi's rank file.
        model: that is asked.

    Raises:
        InvalidRequestError: nothing is known of how the model shows a request.
    """

    def __init__(self, ranks: Ranks, model: str = "kimi-k3") -> None:
        rendering = rendering_of(model)
        if rendering is None:
            known = ", ".join(beginning.strip("-") for beginning, _ in RENDERINGS)
            raise InvalidRequestError(f"there is no exact count for the model {model!r}; there is for {known}")
        self.model = model
        self._rendering = rendering
        self.header: int = rendering.header
        """Tokens that begin an answer, and are counted with the prompt."""
        self.grows: bool = rendering.grows
        """Whether a prompt goes on as the last one and its answer ended: next = last + answer + new + `header`."""
        self._count = ranks.count
        self._count_once = functools.lru_cache(maxsize=32)(ranks.count)  # tools are the same in every request
        self._message_cost = _kept_cost(ranks, rendering)
        self.cost_key: str = self._message_cost.key  # pyright: ignore[reportFunctionMemberAccess]
        """Under which key of its `__dict__` a counted message keeps its cost, for loops over many messages."""

    @classmethod
    def from_file(cls, path: str | os.PathLike[str] | None = None, model: str = "kimi-k3") -> Self:
        """A counter with the ranks of a file, which is read once per process.

        Args:
            path: of the file; where `kimi-agent tokenizer path` says unless given.
            model: that is asked.

        Raises:
            RanksError: the file is missing, or is another one.
            InvalidRequestError: nothing is known of how the model shows a request.
        """
        return cls(load(path), model)

    def count_text(self, text: str) -> int:
        """Tokens of a text on its own."""
        return self._count(text)

    def count_message(self, message: Message) -> int:
        """Tokens that a message adds to a prompt as the newest one, while the model thinks. Worked out once.

        A begun answer (`partial`) stands in the place of the answer's header: it costs what it has beyond that.

        Raises:
            InvalidRequestError: it has a part of which nothing is known, or it is a result that does not name its
                function, which Kimi K3 is shown; `count_messages` finds the name.
        """
        return self._message_cost(message)

    def count_messages(self, messages: Iterable[Message]) -> int:
        """The sum of `count_message`. A result may leave its function's name out when its call stands before it.

        Raises:
            InvalidRequestError: as `count_message`.
        """
        total, names = 0, dict[str, str]()
        for message in messages:
            if message.role == "assistant":
                names = {call.id: call.name for call in calls_of(message)}
            total += self._message_cost(_named(message, names) if self._rendering.names_results else message)
        return total

    def count_overhead(self, body: Mapping[str, Any]) -> int:
        """Tokens of a request beside its messages: tools, notes about effort, choice and format, the answer's header.

        Args:
            body: as `count_request` takes it; `messages` may be missing.

        Raises:
            InvalidRequestError: as `count_request`.
        """
        return self._rendering.overhead(self._count_once, self._read(body, needs_messages=False))

    def count_request(self, body: Mapping[str, Any]) -> int:
        """The `usage.prompt_tokens` that Kimi will report for a chat-completions body.

        Raises:
            InvalidRequestError: a field is missing or has another type than Kimi takes, or the body is for a model that
                shows requests differently; the text names the field. It is a `ValueError`.
        """
        request = self._read(body)
        costs = self._rendering.messages(self._count, request)
        return self._rendering.overhead(self._count_once, request) + costs

    def count_completion(self, message: Message) -> int:
        """The `usage.completion_tokens` that Kimi reports for an answer that was not cut off.

        Raises:
            InvalidRequestError: it is no assistant message.
        """
        if message.role != "assistant":
            raise InvalidRequestError(f"an answer is an assistant message, not one of the role {message.role!r}")
        said = replace(_said(message, self._rendering.dialect), begun=False)
        return self._rendering.completion(self._count, said)

    def _read(self, body: Mapping[str, Any], *, needs_messages: bool = True) -> Request:
        request = request_of(body, needs_messages=needs_messages)
        other = rendering_of(request.model) if request.model else None
        if other is not None and other != self._rendering:
            raise InvalidRequestError(
                f"cannot count the request: its model is {request.model!r}, and this counter is for {self.model!r}"
            )
        return request


def _named(message: Message, names: Mapping[str, str]) -> Message:
    if message.role != "tool" or message.name:
        return message
    return message.copy_with(name=names.get(message.tool_call_id or ""))


def _said(message: Message, dialect: wire.Dialect) -> Said:
    """A message as it is read from its JSON."""
    fields = wire.message_fields(message, dialect)
    if is_begun(message):
        fields["partial"] = True
    return message_of(fields, "the message")


@functools.cache
def _kept_cost(ranks: Ranks, rendering: Rendering) -> Callable[[Message], int]:
    """What counts messages for a family; each family keeps a cost of its own with a message."""

    def exact_cost(message: Message) -> int:
        return rendering.message(ranks.count, _said(message, rendering.dialect))

    exact_cost.__qualname__ = f"exact_cost({rendering.name})"
    return once_per_value(exact_cost)

"""`ScriptedKimi`: the double without HTTP. The bytes of an answer go through Kimi's own decoder and assembler.

It refuses what `KimiServer` refuses, with the errors that `Kimi` would raise, and streams what `KimiServer` streams.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from typing import cast

from ..errors import APIConnectionError
from ..events import RequestSent
from ..kimi.client import KimiStreamedMessage
from ..kimi.http import HttpResponse, status_error
from ..kimi.wire import request_body
from ..message import Message
from ..provider import GenerationKwargs, OnEvent
from ..tools.base import Tool
from .chunks import Envelope, to_json
from .double import Double, headers
from .script import Answer, Body, Delivery, Failure, RawBody, ScriptSource

__all__ = ["ScriptedKimi", "ScriptedRequest"]


@dataclass(frozen=True, slots=True)
class ScriptedRequest:
    """What a `ScriptedKimi` was asked.

    Args:
        system_prompt: as it was given.
        tools: as they were given.
        history: as it was given.
        overrides: as they were given; empty for none.
        body: the request that `Kimi` would have sent.
    """

    system_prompt: str
    tools: tuple[Tool, ...]
    history: tuple[Message, ...]
    overrides: GenerationKwargs
    body: Body


class ScriptedKimi(Double):
    """A `ChatProvider` that answers by script, in the same process.

    Args:
        script: one step for each request, or a function for all of them; without one the persona answers.
        model: the name that it goes by.
        context_window: in tokens.
        delivery: how answers travel that do not say it themselves; each write is one batch of frames.
        check: refuse what Kimi refuses. A refused request uses up no step.
    """

    name = "kimi"

    def __init__(
        self,
        script: ScriptSource | None = None,
        *,
        model: str = "kimi-k3",
        context_window: int = 262_144,
        delivery: Delivery | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(script, delivery or Delivery(), check)
        self.model_name = model
        self.context_window = context_window
        self.requests: list[ScriptedRequest] = []
        """Every request, refused or not."""

    async def generate(
        self,
        system_prompt: str,
        tools: Sequence[Tool],
        history: Sequence[Message],
        *,
        generation_overrides: GenerationKwargs | None = None,
        on_event: OnEvent | None = None,
    ) -> KimiStreamedMessage:
        """Answer by script.

        Args:
            system_prompt: goes before the history; `""` for none.
            tools: what the double may call.
            history: the messages; they are not changed.
            generation_overrides: for this request only.
            on_event: gets `RequestSent`, and is awaited if it is async.

        Raises:
            APIStatusError: the double refuses the request, or the script says so.
        """
        overrides = GenerationKwargs(**(generation_overrides or {}))
        raw = request_body(self.model_name, system_prompt, tools, history, overrides)
        body = cast(Body, json.loads(raw))  # takes the lone surrogates that a faster decoder refuses
        self.requests.append(ScriptedRequest(system_prompt, tuple(tools), tuple(history), overrides, body))
        if on_event is not None and isawaitable(told := on_event(RequestSent(raw.decode()))):
            await told
        answer, envelope = await self._answer(body)
        return KimiStreamedMessage(cast(HttpResponse, self._response(answer, envelope)))

    def _response(self, answer: Answer, envelope: Envelope) -> _Response:
        beside = headers(answer, envelope)
        if isinstance(answer, Failure):
            raise status_error(answer.status, to_json(answer.body), beside)
        if not isinstance(answer, RawBody):
            return _Response(beside, *self._events(answer, envelope))
        if answer.status != 200:
            raise status_error(answer.status, answer.body, beside)
        beside["content-type"] = answer.content_type
        return _Response(beside, [answer.body], answer.delivery or self._delivery)


class _Response:
    """What `KimiStreamedMessage` needs of an `HttpResponse`: the body comes in the writes of its delivery."""

    def __init__(self, headers: Mapping[str, str], events: list[bytes], delivery: Delivery) -> None:
        self.headers = headers
        self._delivery = delivery
        self._writes = enumerate(delivery.writes(events))
        self._closed = False

    async def read(self) -> bytes | None:
        """The next write; `None` at the end. Gives way to other tasks, as a network would."""
        await asyncio.sleep(0)
        number, piece = next(self._writes, (0, None))
        if piece is None or self._closed:
            return self._end()
        if self._delivery.gate is not None:
            await self._delivery.gate(number)
        return piece

    async def read_near_end(self) -> bytes | None:
        """The same: there is no connection to lose."""
        return await self.read()

    def _end(self) -> None:
        if self._delivery.stop_after is not None and self._delivery.stop != "end":
            raise APIConnectionError("the connection broke")

    async def aclose(self) -> None:
        self._closed = True

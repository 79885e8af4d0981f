"""`ScriptedKimi`: the double without HTTP. The bytes of an answer go through Kimi's own decoder and assembler.

It refuses what `KimiServer` refuses, with the errors that `Kimi` would raise, and streams what `KimiServer` streams.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from ..errors import APIConnectionError, APITimeoutError
from ..events import RequestSent, tell
from ..history import is_begun
from ..kimi.answer import KimiStreamedMessage
from ..kimi.models import model_info
from ..kimi.request import ChatRequest
from ..kimi.status import status_error
from ..message import Message
from ..provider import GenerationKwargs, OnEvent, checked
from ..tools.base import Tool
from .chunks import Envelope, to_json
from .double import Double, headers
from .language import Written
from .script import Answer, Body, Delivery, Failure, HangUp, RawBody, ScriptSource

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
        """Answer by script. Returns when the first piece of the answer is there. Nothing is tried again.

        Args:
            system_prompt: goes before the history; `""` for none.
            tools: what the double may call.
            history: the messages; they are neither changed nor mended: what `Kimi` would have to mend is refused.
            generation_overrides: for this request only.
            on_event: gets `RequestSent`, and is awaited if it is async.

        Raises:
            InvalidRequestError: Kimi would refuse the request; it was not sent.
            APIStatusError: the double refuses the request, or the script says so.
            APIConnectionError: the script says `HangUp`.
            APITimeoutError: the script says that nothing ever comes. It is raised at once.
            TypeError: an override that no request knows.
        """
        overrides = GenerationKwargs(**checked(generation_overrides or {}, GenerationKwargs))
        raw = ChatRequest(model_info(self.model_name), system_prompt, tools, history, overrides).body()
        body = cast(Body, json.loads(raw))  # takes the lone surrogates that a faster decoder refuses
        self.requests.append(ScriptedRequest(system_prompt, tuple(tools), tuple(history), overrides, body))
        if on_event is not None:
            await tell(on_event, RequestSent(raw.decode()))
        answer, envelope = await self._answer(body)
        streamed = KimiStreamedMessage(self._response(answer, envelope))
        await streamed.begin(may_be_empty=bool(history) and is_begun(history[-1]))
        return streamed

    def _response(self, answer: Answer | Written, envelope: Envelope) -> _Response:
        beside = headers(answer, envelope)
        match answer:
            case HangUp("stall"):
                raise APITimeoutError("no answer in time")
            case HangUp():
                raise APIConnectionError("the connection broke before an answer began")
            case Failure():
                raise status_error(answer.status, to_json(answer.body), beside)
            case RawBody(status=200):
                beside = {"content-type": answer.content_type} | beside
                return _Response(beside, [answer.body], answer.delivery or self._delivery)
            case RawBody():
                raise status_error(answer.status, _decoder(beside)(answer.body), beside)
            case _:
                return _Response(beside, *self._events(answer, envelope))


class _Response:
    """What `KimiStreamedMessage` needs of an `HttpResponse`: the body comes in the writes of its delivery."""

    def __init__(self, headers: Mapping[str, str], events: list[bytes], delivery: Delivery) -> None:
        self.headers = headers
        self._delivery = delivery
        self._decode = _decoder(headers)
        self._writes = deque(delivery.writes(events))
        self._number = 0
        self._closed = False

    async def read(self) -> bytes | None:
        """The next write; `None` at the end. Gives way to other tasks, as a network would."""
        await asyncio.sleep(0)
        if self._closed:
            return self._end()
        if self._delivery.gate is not None and (self._writes or self._delivery.stop_after is not None):
            await self._delivery.gate(self._number)
        self._number += 1
        return self._decode(self._writes.popleft()) if self._writes else self._end()

    async def read_near_end(self) -> bytes | None:
        """The same: there is no connection to lose."""
        return await self.read()

    def _end(self) -> None:
        delivery = self._delivery
        if delivery.stop_after is None or delivery.stop == "end":
            return
        if delivery.stop == "stall":
            raise APITimeoutError("the server was silent for too long")
        raise APIConnectionError("the connection broke")

    async def aclose(self) -> None:
        self._closed = True


ZIPPED: Final = ("gzip", "deflate")
DETECT_FORMAT: Final = zlib.MAX_WBITS | 32
"""Tells zlib to look at the first bytes: gzip and deflate begin differently."""


def _decoder(headers: Mapping[str, str]) -> Callable[[bytes], bytes]:
    """Undoes the content encoding of a body, piece by piece."""
    if headers.get("content-encoding") not in ZIPPED:
        return bytes
    unzip = zlib.decompressobj(DETECT_FORMAT).decompress

    def decode(piece: bytes) -> bytes:
        try:
            return unzip(piece)
        except zlib.error as error:
            raise APIConnectionError(f"the connection broke: {error}") from error

    return decode

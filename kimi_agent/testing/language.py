"""A small language for answers: one instruction a line, in the order in which the answer goes out.

    think: Two and two
    text: Let me add.
    tool_call: {"name": "add", "arguments": "{\\"a\\": 2,"}
    delay: 0.5
    tool_call_part: "b": 2}
    usage: {"input_other": 10, "output": 2}

A line of `text`, `think`, `tool_call` or `tool_call_part` is one delta. `error: 503`, `error: connection` or
`error: timeout` ends an answer before its end; as the only instruction it stands in place of one. Blank lines and lines
that begin with `#` are skipped, and so is what a line is indented by.

Reading is pure. Only the pauses of an answer have a clock.
"""

from __future__ import annotations

import json
from asyncio import sleep
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from itertools import accumulate
from math import isfinite
from typing import Any, Final, TypeAlias, cast

from ..kimi.status import BY_STATUS
from ..message import TokenUsage
from .chunks import Envelope, as_events, call_json, ending, to_json, wrapped
from .script import Body, Call, Delivery, Failure, HangUp, Reply

__all__ = ["Written", "failure", "read", "said_at_once", "streamed"]


@dataclass(frozen=True, slots=True)
class Written:
    """An answer that was written delta by delta.

    Args:
        deltas: in the order in which they go out.
        pauses: by the number of a delta, from 0, how many seconds it waits; the number after the last one is the end's.
        usage: estimated, unless given.
        fault: what the answer breaks off with; `None` for one that ends well.
    """

    deltas: Sequence[Body]
    pauses: Mapping[int, float]
    usage: TokenUsage | None = None
    fault: Failure | HangUp | None = None

    @property
    def reply(self) -> Reply:
        """What the deltas say together."""
        thoughts = [delta["reasoning_content"] for delta in self.deltas if "reasoning_content" in delta]
        return Reply(
            "".join(delta.get("content", "") for delta in self.deltas),
            "".join(thoughts) if thoughts else None,
            _calls(self.deltas),
            usage=self.usage,
        )


def _calls(deltas: Sequence[Body]) -> list[Call]:
    calls: list[Call] = []
    places: dict[int, int] = {}
    for piece in (piece for delta in deltas for piece in delta.get("tool_calls", ())):
        function = piece["function"]
        if "name" in function:
            places[piece["index"]] = len(calls)
            calls.append(Call(function["name"], function["arguments"], piece["id"]))
        else:
            place = places[piece["index"]]
            calls[place] = replace(calls[place], arguments=calls[place].arguments + function["arguments"])
    return calls


def failure(status: int, message: str = "") -> Failure:
    """The error that Kimi most often gives this status to. Without a message it says what the status means."""
    rule = BY_STATUS.get(status)
    return Failure(status, rule.type if rule else None, message or MEANINGS.get(status, ""))


MEANINGS: Final = {status.value: status.phrase for status in HTTPStatus}


# ==== text in, answers out ====


def read(text: str) -> Written | Failure | HangUp:
    """The answer that a text says.

    Raises:
        ValueError: naming the line with the mistake, and what is allowed there.
    """
    reader = _Reader()
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.removesuffix("\r").lstrip()
        if line and not line.startswith("#"):
            try:
                reader.take(line)
            except ValueError as error:
                raise ValueError(f"line {number}, {line!r}: {error}") from None
    return reader.answer()


class _Reader:
    """Takes the instructions of a text one by one. Mistakes are ValueErrors that say what is allowed."""

    def __init__(self) -> None:
        self._deltas: list[Body] = []
        self._pauses: dict[int, float] = {}
        self._usage: TokenUsage | None = None
        self._fault: Failure | HangUp | None = None
        self._taken = 0
        self._indices: list[int] = []

    def take(self, line: str) -> None:
        """The next instruction."""
        kind, colon, payload = line.partition(":")
        instruction = INSTRUCTIONS.get(kind) if colon else None
        if instruction is None:
            raise ValueError(f"this is no instruction; {ALLOWED}")
        if self._fault is not None:
            raise ValueError("nothing comes after an error")
        self._taken += 1
        instruction(self, payload.removeprefix(" "))

    def answer(self) -> Written | Failure | HangUp:
        """What they say together."""
        if not self._taken:
            raise ValueError(f"the text has no instruction; {ALLOWED}")
        if self._fault is not None and self._taken == 1:
            return self._fault
        return Written(tuple(self._deltas), dict(self._pauses), self._usage, self._fault)

    # ---- an instruction each ----

    def text(self, payload: str) -> None:
        self._deltas.append({"content": _unquoted(payload)})

    def think(self, payload: str) -> None:
        self._deltas.append({"reasoning_content": _unquoted(payload)})

    def tool_call(self, payload: str) -> None:
        fields = _object(payload, "name", "id", "index", "arguments")
        name, call_id = fields.get("name"), fields.get("id")
        if not isinstance(name, str) or not name:
            raise ValueError("a call has to have a name, which is a text")
        if "id" in fields and not isinstance(call_id, str):
            raise ValueError("the id of a call is a text")
        index = _index(fields, max(self._indices, default=-1) + 1)
        call = Call(name, _arguments(fields.get("arguments", "")), call_id)
        self._indices.append(index)
        self._deltas.append({"tool_calls": [{"index": index, **call_json(call, index, call.arguments)}]})

    def tool_call_part(self, payload: str) -> None:
        if not self._indices:
            raise ValueError("no call has begun; begin one with tool_call")
        fields = _part(payload)
        piece, index = fields.get("arguments_part"), _index(fields, self._indices[-1])
        if not isinstance(piece, str):
            raise ValueError("arguments_part has to be there, and is a text")
        if index not in self._indices:
            begun = ", ".join(map(str, sorted(set(self._indices))))
            raise ValueError(f"no call with the index {index} has begun; there are {begun}")
        self._deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})

    def usage(self, payload: str) -> None:
        fields = _object(payload, *USAGE)
        if missing := [name for name in ("input_other", "output") if name not in fields]:
            raise ValueError(f"the usage has no {' and no '.join(missing)}; its fields are {', '.join(USAGE)}")
        if wrong := [name for name, tokens in fields.items() if not _is_count(tokens)]:
            raise ValueError(f"{wrong[0]} is a number of tokens, a whole one from 0")
        if self._usage is not None:
            raise ValueError("the usage has been said")
        self._usage = TokenUsage(**fields)

    def error(self, payload: str) -> None:
        said = payload.strip()
        self._fault = BREAKS.get(said) or _failure(said)

    def delay(self, payload: str) -> None:
        try:
            seconds = float(payload)
        except ValueError:
            seconds = -1.0
        if not (isfinite(seconds) and seconds >= 0):
            raise ValueError("a delay is a number of seconds from 0")
        number = len(self._deltas)
        self._pauses[number] = self._pauses.get(number, 0.0) + seconds


INSTRUCTIONS: Final[Mapping[str, Callable[[_Reader, str], None]]] = {
    "text": _Reader.text,
    "think": _Reader.think,
    "tool_call": _Reader.tool_call,
    "tool_call_part": _Reader.tool_call_part,
    "usage": _Reader.usage,
    "error": _Reader.error,
    "delay": _Reader.delay,
}
ALLOWED: Final = f"the instructions are {', '.join(f'{kind}:' for kind in INSTRUCTIONS)}"
USAGE: Final = ("input_other", "output", "input_cache_read", "input_cache_creation")
BREAKS: Final = {"connection": HangUp("close"), "timeout": HangUp("stall")}


def _unquoted(payload: str) -> str:
    """A payload as it is, or what the JSON string in it says."""
    if not payload.startswith('"'):
        return payload
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return payload


def _object(payload: str, *allowed: str) -> Body:
    """The JSON object of a payload."""
    try:
        value: Any = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is no JSON: {error}; a JSON object with {', '.join(allowed)} is wanted") from None
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object with {', '.join(allowed)} is wanted")
    fields = cast(Body, value)
    if unknown := fields.keys() - set(allowed):
        raise ValueError(f"{', '.join(sorted(unknown))} is no field; the fields are {', '.join(allowed)}")
    return fields


def _part(payload: str) -> Body:
    """A piece of arguments with its index, or alone."""
    try:
        value: Any = json.loads(payload)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return {"arguments_part": payload}
    if "arguments_part" not in value:
        written = json.dumps({"arguments_part": payload})
        raise ValueError(
            "arguments_part has to be there, and is a text; the fields are index, arguments_part; "
            f"a piece that is an object itself is written {written}"
        )
    return _object(payload, "index", "arguments_part")


def _index(fields: Body, default: int) -> int:
    index = fields.get("index", default)
    if not _is_count(index):
        raise ValueError("the index of a call is a whole number from 0")
    return index


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _arguments(value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, dict | list):
        raise ValueError("arguments are a text, or an object or array that is sent as JSON")
    return json.dumps(value, ensure_ascii=False)


def _failure(said: str) -> Failure:
    status, _, message = said.partition(" ")
    if not (status.isascii() and status.isdigit() and 400 <= int(status) < 600):
        raise ValueError(f"an error is a status from 400 to 599 and a message, or {' or '.join(BREAKS)}")
    return failure(int(status), message.strip())


# ==== how it goes out ====


async def said_at_once(written: Written) -> Reply | Failure | HangUp:
    """What somebody is answered who wants no stream, after all the pauses."""
    await sleep(sum(written.pauses.values()))
    return written.fault or written.reply


def streamed(written: Written, envelope: Envelope, delivery: Delivery) -> tuple[list[bytes], Delivery]:
    """The events of a written answer, and the delivery with its pauses and its break."""
    chunks = list(wrapped(written.deltas, envelope))
    match written.fault:
        case None:
            chunks += ending(written.reply, envelope, finish=delivery.finish)
        case Failure():
            chunks.append(_error_chunk(written.fault))
        case HangUp():
            pass
    events = as_events(map(to_json, chunks), done=delivery.done and written.fault is None)
    if isinstance(written.fault, HangUp):
        delivery = _broken_off(delivery, sum(map(len, events)), written.fault)
    return events, _paused(delivery, events, written.pauses)


def _error_chunk(error: Failure) -> Body:
    """The error as an event. Where no type tells the status, `code` does."""
    body = error.body
    return body if error.type else {"error": body["error"] | {"code": error.status}}


def _broken_off(delivery: Delivery, size: int, fault: HangUp) -> Delivery:
    """The delivery with a break after so many bytes, unless it has one before."""
    if delivery.stop_after is not None and delivery.stop_after < size:
        return delivery
    return replace(delivery, stop_after=size, stop=fault.stop)


Wait: TypeAlias = Callable[[int], Awaitable[object]]


def _paused(delivery: Delivery, events: Sequence[bytes], pauses: Mapping[int, float]) -> Delivery:
    """The delivery with the pauses in its gate."""
    if not pauses:
        return delivery
    numbers = _writes_of(events, delivery.writes(events))
    seconds: dict[int, float] = {}
    for delta, pause in pauses.items():
        if (number := numbers.get(delta + 1)) is not None:  # event 0 tells whose answer it is
            seconds[number] = seconds.get(number, 0.0) + pause
    return replace(delivery, gate=_gate(seconds, delivery.gate))


def _writes_of(events: Sequence[bytes], writes: Sequence[bytes]) -> dict[int, int]:
    """By the number of an event, and of the end, the number of the write that it begins in; without those not sent."""
    starts = list(accumulate(map(len, writes), initial=0))
    places = accumulate(map(len, events), initial=0)
    return {number: bisect_right(starts, place) - 1 for number, place in enumerate(places) if place <= starts[-1]}


def _gate(seconds: Mapping[int, float], then: Wait | None) -> Wait:
    async def wait(number: int) -> None:
        if number in seconds:
            await sleep(seconds[number])
        if then is not None:
            await then(number)

    return wait

"""Deltas in, frames and one message out. No I/O. The only place where deltas are folded.

How a piece of a tool call finds its call:

| the piece has                 | it belongs to                                              |
|-------------------------------|------------------------------------------------------------|
| an `index`                    | the newest call with that index; 0 and "a" are keys alike; |
|                               | or the call with that index and its id, if that is earlier |
| no index, an `id`             | the call with that id                                      |
| neither, in a list of several | the call at its place in the list                          |
| neither, alone                | the only call; with none or several: `StreamProtocolError` |

A piece starts a call when its index or id is new, or when it has another id than the call that it would belong to.
Where it has no id, a name starts one if the arguments collected so far are a whole JSON object: another name always,
the same one if the call has no id either, because hosts repeat names. Blank ids
and names are absent. Late ones fill in. Calls stand in the order in which they were first seen; in the end every id
is unique.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final, TypeAlias, cast

from ..errors import StreamInterruptedError, StreamProtocolError
from ..events import CUT_OFF, Append, End, Reasoning, StreamFrame, ToolCallDelta
from ..message import (
    ContentPart,
    Message,
    StreamedMessagePart,
    TextPart,
    ThinkPart,
    TokenUsage,
    ToolCall,
    ToolCallPart,
)

__all__ = ["Assembler", "Parts", "fold", "part_of", "parts_in", "usage_of"]

JSON: TypeAlias = dict[str, Any]
Index: TypeAlias = int | str


REASONING_KEYS: Final = ("reasoning_content", "reasoning", "reasoning_details")
"""Where servers put the reasoning: Kimi and older vLLM, newer vLLM, OpenRouter. The first one that has any counts."""
_OTHER_KEYS: Final = frozenset(REASONING_KEYS[1:])


class Assembler:
    """Folds the chunks of one streamed answer.

    Feed it decoded chunks (`feed`) or the parts of another provider (`feed_part`); `close` gives the last frames.
    """

    def __init__(self) -> None:
        self.id: str | None = None
        self.finish_reason: str | None = None
        self.done = False
        """The stream said `[DONE]`."""
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._closed: list[ContentPart] = []
        """Parts of another provider that nothing goes on with any more."""
        self._calls: list[_Call] = []
        self._by_index: dict[Index, _Call] = {}
        self._taken: set[Index] = set()
        self._usage: TokenUsage | JSON | None = None
        self.reasoning_key: str | None = None
        """Under which key the reasoning came."""
        self._reasoning_key = REASONING_KEYS[0]
        self._hollow = False
        """Reasoning has begun with nothing, and nobody was told: more of it may come."""
        self.logprobs: list[JSON] = []
        """An entry per token of the text, if the request asked for them."""

    @property
    def started(self) -> bool:
        """Whether anything of the answer is there."""
        return bool(self._text or self._reasoning or self._calls or self._closed)

    @property
    def finished(self) -> bool:
        """Whether the answer is known to be whole."""
        return self.done or self.finish_reason is not None

    @property
    def usage(self) -> TokenUsage | None:
        """The latest usage that came."""
        return usage_of(self._usage) if isinstance(self._usage, dict) else self._usage

    @property
    def message(self) -> Message:
        """The answer as far as it came. Its buffers are joined here."""
        calls = [call for call in self._calls if call.name]
        ids = _Ids()
        made = tuple(call.made(ids.unique(call.id or f"{call.name}_{place}")) for place, call in enumerate(calls))
        return Message(role="assistant", content=(*self._closed, *self._open_parts()), tool_calls=made)

    def _open_parts(self) -> list[ContentPart]:
        """What is being written: reasoning, then text."""
        parts: list[ContentPart] = []
        if self._reasoning and not self._hollow:
            parts.append(ThinkPart(think=_joined(self._reasoning)))
        if any(self._text):
            parts.append(TextPart(text=_joined(self._text)))
        return parts

    # ---- chunks of Kimi ----

    def feed(self, chunk: Any, frames: list[StreamFrame]) -> None:
        """Fold one chunk of `chat.completion.chunk` and append its frames to `frames`.

        A whole `chat.completion` is folded just the same. Of several choices only the first one counts.

        Raises:
            StreamProtocolError: the chunk is none, or a piece belongs to no call.
        """
        try:
            if chunk_id := chunk.get("id"):
                self.id = chunk_id
            if choices := chunk.get("choices"):
                self._choice(choices, frames)
            if type(usage := chunk.get("usage")) is dict and usage:
                self._usage = usage
        except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
            raise StreamProtocolError(f"this is no chunk of an answer: {reprlib.repr(chunk)}") from error

    def _choice(self, choices: Sequence[JSON], frames: list[StreamFrame]) -> None:
        choice = choices[0]
        if choice.get("index"):
            choice = _first_choice(choices)
        if delta := choice.get("delta") or choice.get("message"):
            if (
                len(delta) == 1 and type(text := delta.get("content")) is str and text and not self._hollow
            ):  # by far most
                self._text.append(text)
                frames.append(Append(text))
            else:
                self._delta(delta, frames)
        elif text := choice.get("text"):  # of a text completion
            self._delta({"content": text}, frames)
        if reason := choice.get("finish_reason"):
            self.finish_reason = str(reason)
        if type(usage := choice.get("usage")) is dict and usage:
            self._usage = usage
        if logprobs := choice.get("logprobs"):
            self.logprobs += logprobs.get("content") or ()

    def _delta(self, delta: JSON, frames: list[StreamFrame]) -> None:
        """Reasoning, then text, then calls."""
        reasoning = delta.get(self._reasoning_key)
        if not reasoning and self.reasoning_key is None and not _OTHER_KEYS.isdisjoint(delta):
            reasoning = self._reasoning_elsewhere(delta) or reasoning
        if reasoning is not None:
            self._add_reasoning(reasoning, frames)
        if text := delta.get("content"):
            if type(text) is not str:
                raise TypeError("content is no string")
            self.tell_hollow(frames)
            self._text.append(text)
            frames.append(Append(text))
        if calls := delta.get("tool_calls"):
            self.tell_hollow(frames)
            for place, piece in enumerate(calls):
                self._add_piece(piece, place if len(calls) > 1 else None, frames)

    def _reasoning_elsewhere(self, delta: JSON) -> Any:
        """Reasoning under one of the other keys, which is then the key of this answer."""
        for key in REASONING_KEYS:
            if reasoning := delta.get(key):
                self._reasoning_key = key
                return reasoning
        return None

    def _add_reasoning(self, reasoning: Any, frames: list[StreamFrame]) -> None:
        """The empty string counts once: reasoned about nothing is not the same as did not reason."""
        if self._reasoning_key == "reasoning_details" and type(reasoning) is list:
            details = cast("list[JSON]", reasoning)
            reasoning = "".join([str(detail.get("text") or detail.get("summary") or "") for detail in details])
        if type(reasoning) is not str:
            raise TypeError("reasoning is no string")
        if reasoning:
            self.reasoning_key = self._reasoning_key
            self._hollow = False
            self._reasoning.append(reasoning)
            frames.append(Reasoning(reasoning))
        elif not self._reasoning:
            self._hollow = True
            self._reasoning.append("")

    def tell_hollow(self, frames: list[StreamFrame]) -> None:
        """Something else comes: the reasoning that began with nothing was all."""
        if self._hollow:
            self._hollow = False
            frames.append(Reasoning(""))

    # ---- tool calls ----

    def _add_piece(self, piece: JSON, place: int | None, frames: list[StreamFrame]) -> None:
        function: JSON = piece.get("function") or {}
        call_id, name = _present(piece.get("id")), _present(function.get("name"))
        arguments = function.get("arguments")
        if arguments is not None and type(arguments) is not str:
            raise TypeError("arguments are no string")
        call = self._call_for(piece.get("index"), call_id, place)
        if call is None or call.is_another(call_id, name):
            call = self._open(piece.get("index"))
        self._append(call, call_id, name, arguments or "", frames)

    def _call_for(self, index: Any, call_id: str | None, place: int | None) -> _Call | None:
        """The call that a piece belongs to; `None` when it starts one."""
        if index is not None:
            return self._at(_key(index), call_id)
        if call_id is not None:
            return next((call for call in reversed(self._calls) if call.id == call_id), None)
        if place is not None:
            return self._calls[place] if place < len(self._calls) else None
        if len(self._calls) == 1:
            return self._calls[0]
        raise StreamProtocolError(
            f"a piece of a tool call has neither index nor id, and there are {len(self._calls)} calls it may belong to"
        )

    def _at(self, index: Index, call_id: str | None) -> _Call | None:
        """The newest call with this index, or an earlier one with this index and the same id."""
        newest = self._by_index.get(index)
        if newest is None or call_id is None or newest.id is None or newest.id == call_id:
            return newest
        return next((call for call in self._calls if call.key == index and call.id == call_id), newest)

    def _open(self, index: Any) -> _Call:
        """A new call. Its index in the frames is its own, also where a host uses one index for two calls."""
        place = len(self._calls)
        key = place if index is None else _key(index)
        call = _Call(key, self._free(key, place))
        self._calls.append(call)
        self._by_index[key] = call
        return call

    def _free(self, index: Index, place: int) -> Index:
        while index in self._taken:
            index, place = place, place + 1
        self._taken.add(index)
        return index

    def _append(
        self, call: _Call, call_id: str | None, name: str | None, arguments: str, frames: list[StreamFrame]
    ) -> None:
        new_id = call_id if call.id is None else None
        new_name = name if call.name is None else None
        call.id, call.name = call.id or call_id, call.name or name
        if arguments:
            call.pieces.append(arguments)
        if arguments or new_id or new_name:
            frames.append(ToolCallDelta(call.index, new_id, new_name, arguments))

    # ---- parts of other providers ----

    def feed_part(self, part: StreamedMessagePart, frames: list[StreamFrame]) -> None:
        """Fold one part: a `ToolCall` starts a call, a `ToolCallPart` without an index continues the newest one.

        Content keeps its order. Reasoning, text and whatever else there is end each other.

        Raises:
            StreamProtocolError: a `ToolCallPart` belongs to no call.
        """
        if not isinstance(part, ThinkPart):
            self.tell_hollow(frames)
        match part:
            case TextPart() | ThinkPart() if part.extra or type(part) not in (TextPart, ThinkPart):
                self._keep(part, frames)
            case TextPart(text=text):
                self._delta({"content": text}, frames)
            case ThinkPart():
                self._add_thought(part, frames)
            case ToolCall():
                call = self._open(None)
                call.beside = {"extra": part.extra, "extras": part.extras}
                self._append(call, _present(part.id), _present(part.name), part.arguments, frames)
            case ToolCallPart(arguments_part=arguments, index=index):
                call = self._by_index.get(index) if index is not None else (self._calls or [None])[-1]
                if call is None:
                    raise StreamProtocolError("a piece of a tool call came before the call")
                self._append(call, None, None, arguments or "", frames)
            case _:
                self._close_parts()
                self._closed.append(part)

    def _keep(self, part: TextPart | ThinkPart, frames: list[StreamFrame]) -> None:
        """A part that is more than its text."""
        self._close_parts()
        frames.append(Append(part.text) if isinstance(part, TextPart) else Reasoning(part.think))
        merged = self._closed[-1].merged_with(part) if self._closed else None
        self._closed[-1 if merged else len(self._closed) :] = [merged or part]

    def _add_thought(self, part: ThinkPart, frames: list[StreamFrame]) -> None:
        if any(self._text) and (part.think or part.encrypted or not self._has_reasoned()):
            self._close_parts()
        elif not part.think and self._has_reasoned() and not part.encrypted:
            return
        self._add_reasoning(part.think, frames)
        if part.encrypted:  # a signature is of all that was thought before it
            self._closed.append(ThinkPart(think=_joined(self._reasoning), encrypted=part.encrypted))
            self._reasoning = []

    def _has_reasoned(self) -> bool:
        return bool(self._reasoning) or any(isinstance(part, ThinkPart) for part in self._closed)

    def _close_parts(self) -> None:
        self._closed += self._open_parts()
        self._text, self._reasoning = [], []

    def end(self, finish_reason: str | None, usage: TokenUsage | None) -> None:
        """Say how a stream of parts ended."""
        self.done = True
        self.finish_reason, self._usage = finish_reason, usage

    # ---- the end ----

    def close(self) -> list[StreamFrame]:
        """The last frames: each whole call, then `End`. Calls that were cut off come as no frame.

        Raises:
            StreamInterruptedError: the answer is not whole.
            StreamProtocolError: a call never got a name.
        """
        if not self.finished:
            raise StreamInterruptedError("the answer ended without a finish_reason and without [DONE]", self.message)
        if any(call.name is None for call in self._calls) and self.finish_reason not in CUT_OFF:
            raise StreamProtocolError("a tool call came without the name of its function")
        frames: list[StreamFrame] = []
        self.tell_hollow(frames)
        message = self.message
        whole = () if self.finish_reason in CUT_OFF else message.tool_calls or ()
        return [*frames, *whole, End(self.finish_reason, self.usage, message)]


class _Call:
    """A call that is being written."""

    __slots__ = (
        *("_depth", "_ended", "_escaped", "_in_string", "_scanned"),
        *("beside", "id", "index", "key", "name", "pieces"),
    )

    def __init__(self, key: Index, index: Index) -> None:
        self.key = key
        """The index that the provider uses."""
        self.index = index
        """The index that the frames use."""
        self.id: str | None = None
        self.name: str | None = None
        self.pieces: list[str] = []
        self.beside: dict[str, Any] = {}
        """What the call has beside that, for its owner or its provider."""
        self._scanned = self._depth = 0
        self._in_string = self._escaped = self._ended = False

    def is_another(self, call_id: str | None, name: str | None) -> bool:
        """Whether a piece with this id and name starts a new call instead of going on with this one."""
        if call_id is not None:
            return self.id is not None and call_id != self.id
        if name is None or self.name is None:  # the name of this call may come last
            return False
        return (self.id is None or name != self.name) and self._is_whole()

    def made(self, call_id: str) -> ToolCall:
        body = ToolCall.FunctionBody(name=self.name or "", arguments=_joined(self.pieces))
        return ToolCall(id=call_id, function=body, **self.beside)

    def _is_whole(self) -> bool:
        """Whether the arguments are a whole JSON object. Looks at each piece once, however often it is asked."""
        for piece in self.pieces[self._scanned :]:
            self._scan(piece)
        self._scanned = len(self.pieces)
        return self._ended

    def _scan(self, piece: str) -> None:
        marks = _MARKS.findall(piece, 1 if self._escaped else 0)
        self._escaped = bool(marks) and marks[-1] == "\\"
        for mark in marks:
            if mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string and mark in "{[":
                self._depth += 1
            elif not self._in_string and mark in "}]":
                self._depth -= 1
                self._ended = self._depth == 0


_MARKS: Final = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)
"""What the nesting of JSON hangs on. An escaped character is one mark, so that `\\"` ends no string; a backslash at the
end of a piece escapes the first character of the next one."""


def _key(index: Any) -> Index:
    if isinstance(index, int | str):
        return index
    raise TypeError("the index of a tool call is neither a number nor a string")


def _present(value: Any) -> str | None:
    """An id or a name; blank ones are absent."""
    return value if isinstance(value, str) and value.strip() else None


def _first_choice(choices: Sequence[JSON]) -> JSON:
    return next((choice for choice in choices if not choice.get("index")), cast(JSON, {}))


class _Ids:
    """Gives each call of a message an id of its own: with a suffix where one was there before."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def unique(self, wanted: str) -> str:
        call_id, number = wanted, self._taken.get(wanted, 0)
        while call_id in self._taken:
            number += 1
            call_id = f"{wanted}_{number + 1}"
        self._taken[wanted] = number
        self._taken.setdefault(call_id, 0)
        return call_id


def _joined(pieces: list[str]) -> str:
    """The pieces as one text. A surrogate pair that was cut in two becomes one character again."""
    text = "".join(pieces)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text


# ==== usage ====


def usage_of(usage: JSON) -> TokenUsage:
    """Kimi's usage. Cached tokens stand at the top level or in `prompt_tokens_details`; nowhere when there are none."""
    details = usage.get("prompt_tokens_details")
    nested = cast(JSON, details).get("cached_tokens") if isinstance(details, dict) else None
    prompt = _count(usage.get("prompt_tokens"))
    cached = min(_count(usage.get("cached_tokens")) or _count(nested), prompt)
    output = _count(usage.get("completion_tokens"))
    details = usage.get("completion_tokens_details")
    thought = _count(cast(JSON, details).get("reasoning_tokens")) if isinstance(details, dict) else 0
    return TokenUsage(
        input_other=prompt - cached, output=output, input_cache_read=cached, reasoning=min(thought, output)
    )


def _count(value: Any) -> int:
    """A number of tokens; 0 for what can be none."""
    number = value if isinstance(value, int | float) else 0
    return int(number) if 0 < number < _MOST_TOKENS else 0


_MOST_TOKENS: Final = 1_000_000_000_000
"""No answer costs that many; a host that says so says nothing."""


# ==== frames and parts ====


class Parts:
    """Frames as the parts that kosong's callbacks know. A call is held back until its name is known.

    Calls have the ids of the whole message, unless names come in another order than their calls.
    """

    def __init__(self) -> None:
        self._ids = _Ids()
        self._named: dict[Index, int] = {}
        """By the index of the frames, the place of each call that was begun."""
        self._held: dict[Index, list[ToolCallDelta]] = {}

    def of(self, frame: StreamFrame) -> StreamedMessagePart | None:
        """The part that `frame` is; `None` for what is no part, or not yet."""
        if not isinstance(frame, ToolCallDelta):
            return part_of(frame)
        if frame.index in self._named:
            return ToolCallPart(arguments_part=frame.arguments, index=self._named[frame.index])
        held = self._held.setdefault(frame.index, [])
        held.append(frame)
        if frame.name is None:
            return None
        place = self._named[frame.index] = len(self._named)
        call_id = self._ids.unique(next((delta.id for delta in held if delta.id), None) or f"{frame.name}_{place}")
        return part_of(ToolCallDelta(frame.index, call_id, frame.name, "".join([delta.arguments for delta in held])))


async def parts_in(batches: AsyncIterator[list[StreamFrame]]) -> AsyncIterator[StreamedMessagePart]:
    """The parts that batches of frames tell of."""
    parts = Parts()
    async for frames in batches:
        for frame in frames:
            if (part := parts.of(frame)) is not None:
                yield part


def part_of(frame: StreamFrame) -> StreamedMessagePart | None:
    """A frame as a part, by itself: a `ToolCallDelta` with a name starts a call; `None` for what is no part."""
    match frame:
        case Append(text):
            return TextPart(text=text)
        case Reasoning(text):
            return ThinkPart(think=text)
        case ToolCallDelta(index, call_id, name, arguments) if name:
            body = ToolCall.FunctionBody(name=name, arguments=arguments or None)
            return ToolCall(id=call_id or f"{name}_{index}", function=body)
        case ToolCallDelta(index, _, _, arguments):
            return ToolCallPart(arguments_part=arguments, index=index)
        case _:
            return None


def fold(frames: Iterable[StreamFrame]) -> Message:
    """The message that frames tell of, whole or not."""
    assembler = Assembler()
    whole: list[ToolCall] = []
    for frame in frames:
        match frame:
            case End(message=message):
                return message
            case Append(text):
                assembler.feed(_chunk(content=text), [])
            case Reasoning(text):
                assembler.feed(_chunk(reasoning_content=text), [])
            case ToolCallDelta(index, call_id, name, arguments):
                piece = {"index": index, "id": call_id, "function": {"name": name, "arguments": arguments}}
                assembler.feed(_chunk(tool_calls=[piece]), [])
            case ToolCall():
                whole.append(frame)
            case _:
                pass
    assembler.tell_hollow([])
    message = assembler.message
    return message.copy_with(tool_calls=whole) if whole else message


def _chunk(**delta: Any) -> JSON:
    return {"choices": [{"delta": delta}]}

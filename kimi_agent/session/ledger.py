"""A conversation as a list of records: what a session writes, and how it is read again. No I/O, no clock.

Every message gets a serial number, from 1. A record is a JSON object; what it says holds from then on:

    {"type": "begin", "format": "kimi_agent journal", "version": "1.0"}
    {"type": "append", "first": 17, "messages": [...]}            each takes its place: results among their calls
    {"type": "replace", "first": 18, "messages": [new ones], "order": [[1, 12], [18, 18], [15, 17]], "reason": "..."}
    {"type": "settings"}                                          everything but the history has changed
    {"type": "checkpoint", "label": "x"}
    {"type": "rollback", "label": "x", "order": [[1, 12]]}

`order` is the whole history as inclusive ranges of serial numbers. Any of them can have

    "usage": {...}                                                what the conversation has cost so far
    "window": {"cut": 15, "scale": 1.0, "counted": {"answer": 17, ...}}         both are serial numbers; 0 is no cut
    "settings": {"always_included_messages": [...], "prompt_cache_key": "..."}  all of them

A record names all that it needs but messages, so one that is lost takes along its own messages and nothing else. What
was spent stays spent in a rollback. Types and fields of a newer minor version are passed over, but for those of the
settings and of the window, which are kept (`SessionState.unknown`). A newer major version is refused.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import ChainMap, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Annotated, Any, Final, NamedTuple, NotRequired, Required, cast

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from ..history import calls_of, placed
from ..limits import Spent, as_spent, nothing_spent
from ..message import KEEP_UNKNOWN, KeepUnknown, Message, freeze
from .codec import _has_constant, _may_overflow, decode_messages, encode, parse, reason_of
from .state import Damage, SessionState, WindowState

__all__ = ["BEGIN", "LOST", "Ledger", "Record", "Unusable", "everything_said", "without_lost"]

FORMAT: Final = "kimi_agent journal"
VERSION: Final = (1, 0)


# ==== records ====

Count = Annotated[int, Field(ge=0, lt=2**63)]
Serial = Annotated[int, Field(gt=0, lt=2**63)]


@with_config(ConfigDict(extra="allow"))
class CountedFields(TypedDict):
    """What the server counted last. `answer` is the serial number of the answer."""

    tokens: Count
    overhead: Count
    by: str
    answer: Serial


@with_config(ConfigDict(extra="allow"))
class WindowFields(TypedDict):
    """`WindowState` with serial numbers in place of indices, and what a newer version knows of it."""

    cut: Count
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    counted: NotRequired[CountedFields | None]


@with_config(ConfigDict(extra="allow"))
class Settings(TypedDict):
    """What of a conversation changes rarely, and what only a newer version knows."""

    always_included_messages: list[Message]
    prompt_cache_key: NotRequired[str | None]


class Fields(TypedDict, total=False):
    """A record."""

    type: Required[str]
    format: str
    version: str
    first: Serial
    messages: list[Message]
    order: list[tuple[Serial, Serial]]
    label: str
    reason: str
    settings: Settings
    usage: Spent
    window: WindowFields


@dataclass(frozen=True, slots=True)
class Record:
    """A record that is to be written: its JSON, and what that says."""

    body: bytes
    fields: Fields


class Unusable(NamedTuple):
    """A record that does not say what it should.

    Args:
        position: of the record among those that were read, from 0.
        reason: what is wrong with it.
    """

    position: int
    reason: str


def _recorded(fields: Fields, context: KeepUnknown | None = None) -> Record:
    """The record with these fields.

    Raises:
        ValueError: JSON cannot say it; the text tells what of it.
    """
    try:
        return Record(encode(fields, context), fields)
    except OSError:  # of a serialiser that stores bytes
        raise
    except Exception as error:  # a serialiser of the caller's own types may raise anything
        raise ValueError(f"{_to_blame(fields, context)} is not JSON: {error}. Keep only what JSON can say") from error


def _to_blame(fields: Fields, context: KeepUnknown | None) -> str:
    for index, message in enumerate(fields.get("messages", ())):
        try:
            decode_messages(b"[" + encode(message, context) + b"]", context or KEEP_UNKNOWN)
        except Exception:
            return f"message {index} of those that are new"
    return "what is to be kept with the messages"


BEGIN: Final = _recorded({"type": "begin", "format": FORMAT, "version": "{}.{}".format(*VERSION)})
"""The first record of every session."""


# ==== reading records ====


@cache
def _one() -> TypeAdapter[Fields]:
    return TypeAdapter(Fields)


@cache
def _many() -> TypeAdapter[list[Fields]]:
    return TypeAdapter(list[Fields])


def decoded(bodies: Iterable[bytes], context: KeepUnknown = KEEP_UNKNOWN) -> Iterator[Fields | str]:
    """What records say, or what is wrong with them. Many are read together, and one by one only if that fails."""
    for some in _batches(bodies):
        yield from _decoded_together(some, context)


def _batches(bodies: Iterable[bytes]) -> Iterator[list[bytes]]:
    some: list[bytes] = []
    length = 0
    for body in bodies:
        some.append(body)
        length += len(body)
        if len(some) == _TOGETHER or length > _LONG:
            yield some
            some, length = [], 0
    if some:
        yield some


_TOGETHER: Final = 512
"""In records. So many of them are read at a time that what is only needed meanwhile is soon gone."""

_LONG: Final = 2**24
"""In bytes. If they are longer, fewer."""


def _decoded_together(bodies: Sequence[bytes], context: KeepUnknown) -> Sequence[Fields | str]:
    try:
        together = _many().validate_json(_finite(b"[" + b",".join(bodies) + b"]"), context=context)
    except Exception:  # a validator of the caller's own parts may raise anything
        together = []
    if len(together) == len(bodies):
        return together
    return [_decoded_alone(body, context) for body in bodies]


def _finite(content: bytes) -> bytes:
    """JSON in which no number is infinite and none is no number, for pydantic takes both.

    Raises:
        ValueError: it is none.
    """
    if _has_constant(content) or _may_overflow(content):
        parse(content)
    return content


def _decoded_alone(body: bytes, context: KeepUnknown) -> Fields | str:
    try:
        return _one().validate_json(_finite(body), context=context)
    except Exception:
        pass  # the reason is looked for below, where a lone surrogate is none
    try:
        return _one().validate_python(parse(body), context=context)
    except RecursionError:
        return "it is nested too deeply"
    except Exception as error:
        return f"it is no record{reason_of(error)}"


LOST: Final = b"data:,lost"
"""What stands where a blob was."""


def without_lost(body: bytes) -> bytes:
    """A record with a text in the place of each part that has `LOST` in it: one that can be read, and sent.

    Raises:
        ValueError: it is no record.
    """
    fields = parse(body)
    try:
        messages: list[Any] = [*fields.get("messages", ())]
        messages += fields.get("settings", {}).get("always_included_messages", ())
        for message in messages:
            if isinstance(parts := message.get("content"), list):
                message["content"] = [_told(part) for part in cast(list[Any], parts)]
    except (AttributeError, TypeError) as error:
        raise ValueError("it is no record") from error
    return encode(fields)


def _told(part: Any) -> Any:
    is_lost = b'"%b"' % LOST in encode(part)
    return {"type": "text", "text": f"[{part.get('type')} is lost]"} if is_lost else part


def everything_said(records: Iterable[Fields | str]) -> Iterator[Message]:
    """Every message of the records in the order in which they were said, also those that were replaced since."""
    for fields in records:
        if not isinstance(fields, str):
            yield from fields.get("messages", ())


# ==== the ledger ====


class _Line:
    """A history as serial numbers. What a checkpoint has of it stays as it is: it grows only behind that."""

    def __init__(self, serials: list[int], caller: int | None = None) -> None:
        self.serials = serials
        self.caller = caller
        """Where the newest message with calls is."""
        self.held = 0
        """How many of them a checkpoint holds."""

    def add(self, serial: int, messages: Mapping[int, Message]) -> _Line:
        """Let a message take its place. The line that has it is another one when a checkpoint holds the place."""
        message = messages[serial]
        if message.tool_calls and calls_of(message):
            self.caller = len(self.serials)
        place = self._place_of(message, messages) if message.role == "tool" else len(self.serials)
        line = self if place >= self.held else _Line(self.serials.copy(), self.caller)
        line.serials.insert(place, serial)
        return line

    def _place_of(self, result: Message, messages: Mapping[int, Message]) -> int:
        if self.caller is None:
            return len(self.serials)
        exchange = self.serials[self.caller :]
        if len(exchange) == 1:  # as it is with most: there is no other result yet
            return len(self.serials)
        return self.caller + placed([messages[serial] for serial in exchange], result)


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    line: _Line
    length: int
    settings: Settings
    window: WindowFields

    @property
    def serials(self) -> list[int]:
        return self.line.serials[: self.length]


_NO_SETTINGS: Final = Settings(always_included_messages=[])
_NO_WINDOW: Final = WindowFields(cut=0, scale=1.0)


class Ledger:
    """A conversation that is made of records.

    To change it, have a record made, write its `body`, and then `apply` it. What was not written has not happened.

    Args:
        context: for the serialisers and validators of a user's own parts.
    """

    def __init__(self, context: KeepUnknown = KEEP_UNKNOWN) -> None:
        self._context = context
        self._messages: dict[int, Message] = {}
        self._last = 0
        self._line = _Line([])
        self._settings = _NO_SETTINGS
        self._window = _NO_WINDOW
        self._usage = nothing_spent()
        self._checkpoints: dict[str, _Checkpoint] = {}
        self.newer: set[str] = set()
        """The types of the records that only a newer version knows."""

    # ---- what it says ----

    def state(self, damage: Sequence[Damage] = ()) -> SessionState:
        """The conversation as it is now.

        Args:
            damage: what could not be read; it goes into the state.
        """
        return self._state_of(self._line.serials, self._settings, self._window, tuple(damage))

    def _state_of(
        self, serials: Sequence[int], settings: Settings, window: WindowFields, damage: tuple[Damage, ...] = ()
    ) -> SessionState:
        messages = self._messages
        unknown = _without(settings, Settings)
        if newer := _without(window, WindowFields):
            unknown["window"] = newer
        return SessionState(
            always_included_messages=tuple(settings["always_included_messages"]),
            chat_history=tuple([messages[serial] for serial in serials]),
            usage=self._usage,
            cut=_index(serials, window["cut"]) or 0,
            scale=window["scale"],
            prompt_cache_key=settings.get("prompt_cache_key"),
            unknown=freeze(unknown),
            counted=_counted_in(serials, window),
            damage=damage,
        )

    # ---- records that are to be written ----

    def appending(
        self, messages: Sequence[Message], usage: Spent | None = None, window: WindowState | None = None
    ) -> Record:
        """The record that adds messages.

        Raises:
            ValueError: something of it is not JSON, or could not be read again.
        """
        fields = Fields(type="append", first=self._last + 1, messages=list(messages))
        if usage is not None:
            fields["usage"] = as_spent(usage)
        if window is not None:
            fields["window"] = self._window_fields(window, self._after(fields), _without(self._window, WindowFields))
        return self._recorded(fields)

    def replacing(self, state: SessionState, reason: str = "") -> Record:
        """The record that puts a state in the place of the present one. Messages that stay are known by identity.

        Raises:
            ValueError: something of it is not JSON, or could not be read again.
        """
        known = self._serials_of(state.chat_history)
        fresh = iter(range(self._last + 1, self._last + 1 + known.count(None)))
        serials = [next(fresh) if serial is None else serial for serial in known]
        fields = Fields(type="settings")
        if serials != self._line.serials:
            new = [message for message, serial in zip(state.chat_history, known, strict=True) if serial is None]
            fields = Fields(type="replace", first=self._last + 1, messages=new, order=_ranges(serials))
        if reason:
            fields["reason"] = reason
        if (settings := _settings_of(state)) != self._settings:
            fields["settings"] = settings
        fields["usage"] = as_spent(state.usage)
        fields["window"] = self._window_fields(state.window, serials, state.unknown.get("window", {}))
        return self._recorded(fields)

    @property
    def labels(self) -> tuple[str, ...]:
        """The checkpoints that can be gone back to."""
        return tuple(self._checkpoints)

    def checkpointing(self, label: str) -> Record:
        """The record that remembers the present state under a label."""
        return self._recorded(Fields(type="checkpoint", label=label))

    def rolling_back(self, label: str) -> Record:
        """The record that goes back to a checkpoint. What was spent since stays spent.

        Raises:
            ValueError: there is no checkpoint of this label.
        """
        checkpoint = self._checkpoints.get(label)
        if checkpoint is None:
            known = ", ".join(map(repr, self._checkpoints)) or "none at all"
            raise ValueError(f"there is no checkpoint {label!r}; there is {known}")
        fields = Fields(type="rollback", label=label, order=_ranges(checkpoint.serials), window=checkpoint.window)
        if checkpoint.settings != self._settings:
            fields["settings"] = checkpoint.settings
        return self._recorded(fields)

    def condensed(self) -> tuple[Ledger, list[Record]]:
        """The same as a new ledger, without what was replaced, and the records that make it.

        There is one for each message: what is damaged later is one message.
        """
        anew, records = Ledger(self._context), [BEGIN]
        for label, mark in self._checkpoints.items():
            records += anew._brought_to(self._state_of(mark.serials, mark.settings, mark.window))
            records.append(anew._applied(anew.checkpointing(label)))
        return anew, records + anew._brought_to(self.state())

    def _brought_to(self, state: SessionState) -> list[Record]:
        known = zip(state.chat_history, self._serials_of(state.chat_history), strict=True)
        new = [self._applied(self.appending([message])) for message, serial in known if serial is None]
        return [*new, self._applied(self.replacing(state))]

    def _applied(self, record: Record) -> Record:
        self.apply(record)
        return record

    def _recorded(self, fields: Fields) -> Record:
        """The record with these fields, if it can be read again: what was written must not be lost in reading."""
        record = _recorded(fields, self._context)
        for again in decoded([record.body], self._context):
            if isinstance(again, str):
                raise ValueError(f"{_to_blame(fields, self._context)} could not be read again: {again}")
        return record

    def _serials_of(self, messages: Sequence[Message]) -> list[int | None]:
        """The serial number of each that is known. The same one twice has two numbers."""
        present = self._line.serials
        others = self._messages.keys() - set(present)
        known: defaultdict[int, deque[int]] = defaultdict(deque)
        for serial in chain(present, sorted(others)):
            known[id(self._messages[serial])].append(serial)
        return [known[id(message)].popleft() if known.get(id(message)) else None for message in messages]

    def _after(self, fields: Fields) -> list[int]:
        """The serial numbers of the history once these messages are added."""
        if not fields.get("messages"):
            return self._line.serials
        new = dict(enumerate(fields.get("messages", ()), self._last + 1))
        line = _Line(self._line.serials.copy(), self._line.caller)
        for serial in new:
            line.add(serial, ChainMap(new, self._messages))
        return line.serials

    def _window_fields(self, window: WindowState, serials: Sequence[int], newer: Mapping[str, Any]) -> WindowFields:
        fields = {**newer, "cut": _serial_at(serials, window.cut), "scale": window.scale}
        if window.counted is not None and window.counted["answer"] < len(serials):
            fields["counted"] = {**window.counted, "answer": serials[window.counted["answer"]]}
        return cast(WindowFields, fields)

    # ---- records that were written ----

    def apply(self, record: Record) -> None:
        """A record of this ledger was written: what it says holds now."""
        self._apply(record.fields)
        if record.fields["type"] == "replace":
            self._forget_the_unreachable()

    def replay(self, bodies: Iterable[bytes]) -> list[Unusable]:
        """Apply records that were read; returns those that cannot be used, the others hold.

        Raises:
            ValueError: they belong to something else, or to a newer major version.
        """
        unusable: list[Unusable] = []
        for position, fields in enumerate(decoded(bodies, self._context)):
            reason = fields if isinstance(fields, str) else self._apply(fields)
            if reason is not None:
                unusable.append(Unusable(position, reason))
        self._forget_the_unreachable()
        return unusable

    def _apply(self, fields: Fields) -> str | None:
        """Let it hold, or say why it cannot."""
        try:
            if (change := _CHANGES.get(fields["type"])) is not None:
                change(self, fields)  # pyright: ignore[reportArgumentType]
            else:
                self.newer.add(fields["type"])
        except KeyError as error:
            return f"a record of type {fields['type']!r} without {error}"
        except _CannotHold as error:
            return str(error)
        if len(fields) > _PLAIN or fields["type"] != "append":
            self._usage = fields.get("usage", self._usage)
            self._window = fields.get("window", self._window)
            self._settings = fields.get("settings", self._settings)
        return None

    def _begin(self, fields: Mapping[str, Any]) -> None:
        _check_begin(fields)

    def _append(self, fields: Mapping[str, Any]) -> None:
        for serial, message in self._numbered(fields):
            self._messages[serial] = message
            self._line = self._line.add(serial, self._messages)

    def _numbered(self, fields: Mapping[str, Any]) -> Iterator[tuple[int, Message]]:
        first: int = fields["first"]
        messages: list[Message] = fields["messages"]
        if messages:
            if first <= self._last:
                raise _CannotHold(f"its messages have numbers from {first}, which are taken; it was written twice")
            if first > self._last + _MOST_LOST:
                raise _CannotHold(f"its messages have numbers from {first}, and those before it end at {self._last}")
            self._last = first + len(messages) - 1
        return enumerate(messages, first)

    def _replace(self, fields: Mapping[str, Any]) -> None:
        order = fields["order"]
        self._messages.update(self._numbered(fields))
        self._begin_with(order)

    def _rollback(self, fields: Mapping[str, Any]) -> None:
        self._begin_with(fields["order"])

    def _begin_with(self, order: Sequence[tuple[int, int]]) -> None:
        serials = self._within(order)
        calling = (place for place in range(len(serials) - 1, -1, -1) if calls_of(self._messages[serials[place]]))
        self._line = _Line(serials, next(calling, None))

    def _within(self, order: Sequence[tuple[int, int]]) -> list[int]:
        """The numbers in these ranges that are known. None is there twice, so they are no more than are known."""
        known = list(self._messages)  # in their order
        serials: list[int] = []
        for first, last in order:
            serials += known[bisect_left(known, first) : bisect_right(known, last)]
            if len(serials) > len(known):
                raise _CannotHold("its order has messages twice")
        return serials

    def _checkpoint(self, fields: Mapping[str, Any]) -> None:
        label = fields["label"]
        self._checkpoints.pop(label, None)
        self._line.held = len(self._line.serials)
        self._checkpoints[label] = _Checkpoint(self._line, self._line.held, self._settings, self._window)

    def _change_settings(self, fields: Mapping[str, Any]) -> None:
        pass

    def _forget_the_unreachable(self) -> None:
        """A message that is neither in the history nor in a checkpoint stays in what was written, not in memory."""
        lines = {id(line): line for line in (self._line, *[mark.line for mark in self._checkpoints.values()])}
        reachable = set(chain.from_iterable(line.serials for line in lines.values()))
        if len(reachable) < len(self._messages):
            self._messages = {serial: self._messages[serial] for serial in sorted(reachable)}


class _CannotHold(Exception):
    """What a record says contradicts those before it."""


_MOST_LOST: Final = 2**32
"""In messages. No more can be missing in one place: whoever counts on so fast would soon have no numbers left."""

_PLAIN: Final = 3
"""In fields: an `append` that is only messages, as most records are."""

_CHANGES: Final[Mapping[str, Callable[[Ledger, Mapping[str, Any]], None]]] = {
    "begin": Ledger._begin,
    "settings": Ledger._change_settings,
    "append": Ledger._append,
    "replace": Ledger._replace,
    "checkpoint": Ledger._checkpoint,
    "rollback": Ledger._rollback,
}


def _check_begin(fields: Mapping[str, Any]) -> None:
    if fields["format"] != FORMAT:
        raise ValueError("it is no session of kimi_agent")
    version = fields["version"]
    numbers = re.fullmatch(r"(\d{1,9})\.(\d{1,9})", version)
    if numbers is None or int(numbers[1]) != VERSION[0]:
        raise ValueError(
            f"its format has version {version[:20]}, this kimi_agent reads {VERSION[0]}.x; use the kimi_agent that "
            "wrote it"
        )


# ==== between indices and serial numbers ====


def _serial_at(serials: Sequence[int], index: int) -> int:
    """The number of the message there, or of the last one; 0 for the beginning."""
    return serials[min(index, len(serials) - 1)] if index > 0 and len(serials) > 1 else 0


def _index(serials: Sequence[int], serial: int) -> int | None:
    try:
        return serials.index(serial)
    except ValueError:
        return None


def _counted_in(serials: Sequence[int], window: WindowFields) -> Mapping[str, Any] | None:
    counted = window.get("counted")
    answer = None if counted is None else _index(serials, counted["answer"])
    return None if answer is None else {**cast(Mapping[str, Any], counted), "answer": answer}


def _ranges(serials: Sequence[int]) -> list[tuple[int, int]]:
    """The same numbers as inclusive ranges."""
    ranges: list[tuple[int, int]] = []
    for serial in serials:
        if ranges and serial == ranges[-1][1] + 1:
            ranges[-1] = ranges[-1][0], serial
        else:
            ranges.append((serial, serial))
    return ranges


def _settings_of(state: SessionState) -> Settings:
    fields = {"always_included_messages": list(state.always_included_messages), **state.unknown}
    fields.pop("window", None)
    if state.prompt_cache_key is not None:
        fields["prompt_cache_key"] = state.prompt_cache_key
    return cast(Settings, fields)


def _without(fields: Mapping[str, Any], known: type) -> dict[str, Any]:
    """What only a newer version knows."""
    return {name: value for name, value in fields.items() if name not in known.__annotations__}

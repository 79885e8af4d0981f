"""Records and what they make of a conversation: replayed, it is what it was in memory."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import field_serializer

from kimi_agent import history
from kimi_agent.limits import Spent
from kimi_agent.message import ContentPart, FrozenDict, Message, TextPart, ToolCall, UnknownPart
from kimi_agent.session.ledger import BEGIN, Ledger, Record, decoded, everything_said, without_lost
from kimi_agent.session.state import SessionState, WindowState

COUNTED = {"tokens": 30, "overhead": 4, "by": "a counter"}


class Book:
    """A ledger and everything that was written of it."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.bodies = [BEGIN.body]

    def write(self, record: Record) -> None:
        self.bodies.append(record.body)
        self.ledger.apply(record)

    def append(self, *messages: Message, usage: Spent | None = None, window: WindowState | None = None) -> None:
        self.write(self.ledger.appending(messages, usage, window))

    def replace(self, *messages: Message, **fields: Any) -> None:
        self.write(self.ledger.replacing(SessionState(chat_history=messages, **fields)))

    def checkpoint(self, label: str) -> None:
        self.write(self.ledger.checkpointing(label))

    def roll_back(self, label: str) -> None:
        self.write(self.ledger.rolling_back(label))

    @property
    def texts(self) -> list[str]:
        return texts_of(self.ledger)

    def without(self, *positions: int) -> Ledger:
        """What is left when these records are lost."""
        return read([body for position, body in enumerate(self.bodies) if position not in positions])


def read(bodies: Sequence[bytes]) -> Ledger:
    ledger = Ledger()
    assert ledger.replay(bodies) == []
    return ledger


def texts_of(ledger: Ledger) -> list[str]:
    return [message.text for message in ledger.state().chat_history]


def said(text: str) -> Message:
    return Message.user(text)


def asking(*ids: str) -> Message:
    return Message.assistant(tool_calls=[ToolCall.from_function("look", call_id_=call_id) for call_id in ids])


def fields_of(body: bytes) -> dict[str, Any]:
    return json.loads(body)


def record(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


# ==== any sequence of changes ====


@dataclass
class Model:
    """What a conversation should be, in a few lines."""

    said: list[Message] = field(default_factory=list)
    cut: Message | None = None
    answer: Message | None = None
    scale: float = 1.0
    pinned: tuple[Message, ...] = ()
    key: str | None = None
    unknown: FrozenDict = field(default_factory=FrozenDict)
    usage: Spent = field(default_factory=Spent)
    checkpoints: dict[str, "Model"] = field(default_factory=dict)

    def add(self, messages: Sequence[Message]) -> None:
        for message in messages:
            place = history.placed(self.said, message) if message.role == "tool" else len(self.said)
            self.said.insert(place, message)

    def look_through(self, window: WindowState) -> None:
        last = len(self.said) - 1
        self.cut = self.said[min(window.cut, last)] if window.cut and last >= 0 else None
        self.answer = self.said[window.counted["answer"]] if window.counted else None
        self.scale = window.scale

    def place_of(self, wanted: Message | None) -> int | None:
        return next((place for place, message in enumerate(self.said) if message is wanted), None)

    @property
    def state(self) -> SessionState:
        answer = self.place_of(self.answer)
        return SessionState(
            always_included_messages=self.pinned,
            chat_history=tuple(self.said),
            usage=self.usage,
            cut=self.place_of(self.cut) or 0,
            scale=self.scale,
            prompt_cache_key=self.key,
            unknown=self.unknown,
            counted=None if answer is None else {**COUNTED, "answer": answer},
        )


ids = st.sampled_from(["c0", "c1"])
new_messages = st.lists(
    st.one_of(
        st.builds(Message.user, st.text(max_size=4)),
        st.builds(lambda calls: asking(*calls), st.lists(ids, max_size=3)),
        st.builds(lambda text, call_id: Message.tool(text, call_id), st.text(max_size=4), ids),
    ),
    max_size=4,
)
usages = st.builds(Spent, input_other=st.integers(1, 9), requests=st.integers(0, 9), cost=st.none() | st.just(0.25))


@st.composite
def windows(draw: st.DrawFn, length: int) -> WindowState:
    answer = draw(st.none() | st.integers(0, length - 1)) if length else None
    counted = None if answer is None else {**COUNTED, "answer": answer}
    return WindowState(draw(st.integers(0, length)), draw(st.sampled_from([1.0, 0.7, 1 / 3])), counted)


class Changes:
    """Changes of a book and of the model, at random."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.book = Book()
        self.model = Model()

    def append(self) -> None:
        messages, usage = self.draw(new_messages), self.draw(st.none() | usages)
        self.model.add(messages)
        window = self.draw(st.none() | windows(len(self.model.said)))
        self.book.append(*messages, usage=usage, window=window)
        self.model.usage = usage or self.model.usage
        if window:
            self.model.look_through(window)

    def replace(self) -> None:
        kept = [message for message in self.model.said if self.draw(st.booleans())]
        self.model.said = [*self.draw(new_messages), *self.draw(st.permutations(kept))]
        self.model.look_through(self.draw(windows(len(self.model.said))))
        self.model.usage = self.draw(usages)
        if self.draw(st.booleans()):
            self.model.pinned = tuple(self.draw(new_messages))
            self.model.key = self.draw(st.none() | st.text(max_size=3))
            self.model.unknown = self.draw(st.sampled_from([FrozenDict(), FrozenDict(mood="good", type=1, label=None)]))
        self.book.write(self.book.ledger.replacing(self.model.state, "because"))

    def checkpoint(self) -> None:
        label = self.draw(st.sampled_from("ab"))
        self.model.checkpoints[label] = replace(self.model, said=self.model.said.copy())
        self.book.checkpoint(label)

    def roll_back(self) -> None:
        if known := sorted(self.model.checkpoints):
            label = self.draw(st.sampled_from(known))
            then = self.model.checkpoints[label]
            now = {"usage": self.model.usage, "checkpoints": self.model.checkpoints}
            self.model = replace(then, said=then.said.copy(), **now)
            self.book.roll_back(label)

    def reopen(self) -> None:
        self.book.ledger = read(self.book.bodies)
        known = {id(old): new for old, new in zip(self.model.said, self.book.ledger.state().chat_history, strict=True)}
        self.model.said = [known[id(message)] for message in self.model.said]
        self.model.cut = known.get(id(self.model.cut))
        self.model.answer = known.get(id(self.model.answer))

    def condense(self) -> None:
        self.book.ledger, records = self.book.ledger.condensed()
        self.book.bodies = [record.body for record in records]


@given(st.data())
def test_replayed_it_is_what_it_was_in_memory(data: st.DataObject):
    changes = Changes(data.draw)
    kinds = [changes.append] * 4 + [changes.replace, changes.checkpoint, changes.roll_back]
    for change in data.draw(st.lists(st.sampled_from([*kinds, changes.reopen, changes.condense]), max_size=12)):
        change()
        now = changes.book.ledger.state()
        assert now == changes.model.state
        again = read(changes.book.bodies)
        assert again.state() == now
        assert again.state().usage.model_dump() == changes.model.usage.model_dump()
        assert set(again._checkpoints) == changes.model.checkpoints.keys()


# ==== what records say ====


def test_a_record_is_the_json_that_the_format_names():
    book = Book()
    book.append(
        said("one"), asking("c"), usage=Spent(input_other=5), window=WindowState(1, 1.5, {**COUNTED, "answer": 1})
    )
    book.append(Message.tool("result", "c"))
    _, asked, result = book.ledger.state().chat_history
    book.replace(said("summary"), asked, result, cut=1)
    book.checkpoint("x")
    book.roll_back("x")
    begin, append, more, replaced, checkpoint, rollback = map(fields_of, book.bodies)
    assert begin == {"type": "begin", "format": "kimi_agent journal", "version": "1.0"}
    assert (append["first"], len(append["messages"]), append["usage"]["input_other"]) == (1, 2, 5)
    assert append["window"] == {"cut": 2, "scale": 1.5, "counted": {**COUNTED, "answer": 2}}
    assert more == {
        "type": "append",
        "first": 3,
        "messages": [{"role": "tool", "content": "result", "tool_call_id": "c"}],
    }
    assert (replaced["first"], replaced["order"], replaced["window"]["cut"]) == (4, [[4, 4], [2, 3]], 2)
    assert checkpoint == {"type": "checkpoint", "label": "x"}
    assert (rollback["label"], rollback["order"]) == ("x", [[4, 4], [2, 3]])
    assert "settings" not in rollback


def test_a_state_that_has_the_same_history_is_written_without_it():
    book = Book()
    book.append(said("one"), said("two"))
    book.replace(*book.ledger.state().chat_history, always_included_messages=(Message.system("be terse"),))
    assert fields_of(book.bodies[-1]).keys() == {"type", "settings", "usage", "window"}
    book.replace(*book.ledger.state().chat_history, always_included_messages=(Message.system("be terse"),))
    assert "settings" not in fields_of(book.bodies[-1])


def test_the_same_message_twice_stays_twice():
    book, twice = Book(), said("again")
    book.append(twice, said("else"), twice)
    book.replace(twice, twice, twice)
    assert read(book.bodies).state().chat_history == (twice, twice, twice)
    assert len(fields_of(book.bodies[-1])["messages"]) == 1


def test_results_take_the_place_of_their_calls_in_the_order_of_the_calls():
    book = Book()
    book.append(asking("a", "b", "c"))
    for call_id in ("c", "a", "b"):
        book.append(Message.tool(call_id, call_id))
        book.checkpoint(call_id)
    assert book.texts == ["", "a", "b", "c"]
    book.roll_back("a")
    assert book.texts == ["", "a", "c"] == texts_of(read(book.bodies))
    book.roll_back("c")
    assert book.texts == ["", "c"] == texts_of(read(book.bodies))


def test_a_rollback_to_what_is_not_there_names_what_is():
    book = Book()
    book.checkpoint("here")
    with pytest.raises(ValueError, match="no checkpoint 'there'; there is 'here'"):
        book.ledger.rolling_back("there")


def test_what_was_not_written_has_not_happened():
    book = Book()
    book.append(said("one"))
    before = book.ledger.state()
    book.ledger.appending([said("lost")])
    book.ledger.replacing(SessionState(chat_history=(said("lost"),)))
    assert book.ledger.state() == before
    book.append(said("two"))
    assert texts_of(read(book.bodies)) == ["one", "two"]


def test_everything_said_includes_what_was_replaced():
    book = Book()
    book.append(said("one"), said("two"))
    book.replace(said("summary"))
    book.append(said("three"))
    assert [message.text for message in everything_said(decoded(book.bodies))] == ["one", "two", "summary", "three"]


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), {"deep": [math.nan]}])
def test_what_json_cannot_say_is_refused_and_named(value: Any):
    messages = [said("fine"), Message.user("not", extra={"value": value})]
    with pytest.raises(ValueError, match="message 1"):
        Ledger().appending(messages)


def test_a_cost_that_is_not_known_is_not_known_afterwards():
    book = Book()
    book.append(said("one"), usage=Spent(requests=1, cost=None))
    assert read(book.bodies).state().usage.cost is None


class Odd(ContentPart):
    """A part that is written as what it cannot be read from."""

    type: str = "odd part of a ledger"
    number: int

    @field_serializer("number")
    def _in_words(self, number: int) -> str:
        return "a number"


def test_what_could_not_be_read_again_is_refused_and_named():
    with pytest.raises(ValueError, match=r"message 1 of .* could not be read again: .*number"):
        Ledger().appending([said("fine"), Message.user(Odd(number=1))])
    with pytest.raises(ValueError, match=r"could not be read again: .*scale"):
        Ledger().appending([said("fine")], window=WindowState(scale=0))


def test_however_deep_it_is_what_is_written_is_read():
    value: Any = 0
    with pytest.raises((ValueError, RecursionError)):
        while True:
            value = [[[value]]]
            body = Ledger().appending([Message.user("deep", extra={"value": value})]).body
            assert Ledger().replay([body]) == []
    assert len(body) > 300


# ==== what is lost, damaged or new ====


def test_a_lost_record_takes_along_its_own_messages_and_nothing_else():
    book = Book()
    book.append(said("one"))
    book.append(said("two"), said("three"))
    book.append(said("four"))
    book.checkpoint("x")
    book.append(said("five"))
    assert texts_of(book.without(2)) == ["one", "four", "five"]
    assert texts_of(book.without(0)) == book.texts
    book.roll_back("x")
    assert texts_of(book.without(4)) == ["one", "two", "three", "four"]
    one, two, *_ = book.ledger.state().chat_history
    book.replace(said("summary"), one, two)
    assert texts_of(book.without(1)) == ["summary", "two"]
    assert texts_of(book.without(4, 5, 6)) == book.texts


def test_a_cut_at_a_lost_message_is_none():
    book = Book()
    book.append(said("one"))
    book.append(said("two"))
    book.append(said("three"), window=WindowState(1, 1.0, {**COUNTED, "answer": 1}))
    assert book.ledger.state().cut == 1
    state = book.without(2).state()
    assert (state.cut, state.counted) == (0, None)
    assert book.without(1).state().counted == {**COUNTED, "answer": 0}


UNUSABLE = {
    "not json": b"{",
    "not an object": b"[]",
    "not utf-8": b'{"type":"append","first":7,"messages":[{"role":"user","content":"\xff"}]}',
    "without its fields": record(type="append"),
    "a message without a role": record(type="append", first=7, messages=[{}]),
    "numbers that are taken": record(type="append", first=1, messages=[{"role": "user"}]),
    "a message twice": record(type="rollback", label="x", order=[[1, 2], [1, 1]]),
    "a window that is none": record(type="append", first=7, messages=[], window={"cut": -1, "scale": 1}),
    "an endless scale": b'{"type":"settings","window":{"cut":0,"scale":1e999}}',
    "nested too deeply": b'{"type":"append","first":7,"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "two records": b'{"type":"settings"},{"type":"settings"}',
}


@pytest.mark.parametrize("body", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_record_that_is_none_is_left_out(body: bytes):
    book = Book()
    book.append(said("one"))
    book.append(said("two"))
    before = book.ledger.state()
    ledger = Ledger()
    (unusable,) = ledger.replay([*book.bodies[:3], body])
    assert unusable.position == 3
    assert unusable.reason
    assert ledger.state() == before
    ledger.apply(ledger.appending([said("three")]))
    assert texts_of(ledger) == ["one", "two", "three"]


def test_ranges_cost_no_more_than_there_are_messages():
    bodies = [record(type="append", first=2**32, messages=[{"role": "user", "content": "far"}])]
    bodies.append(record(type="rollback", label="x", order=[[1, 2**63 - 1], *[[1, 2**31]] * 10_000]))
    assert texts_of(read(bodies)) == ["far"]


@pytest.mark.parametrize("first", [2**32 + 2, 2**63 - 9, 2**63 - 1])
def test_a_record_whose_numbers_leave_none_for_those_to_come_is_left_out(first: int):
    far = record(type="append", first=first, messages=[{"role": "user", "content": "far"}])
    book = Book()
    book.append(said("one"))
    book.bodies += [far, record(type="append", first=2**32 + 1, messages=[{"role": "user", "content": "late"}])]
    ledger = Ledger()
    assert [position for position, _ in ledger.replay(book.bodies)] == [2]
    assert texts_of(ledger) == ["one", "late"]
    ledger.apply(ledger.appending([said("on")]))
    assert texts_of(ledger) == ["one", "late", "on"]


NO_NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1" + "0" * 400 + ".0"]


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_a_record_with_a_number_that_json_does_not_have_is_left_out(number: str):
    book = Book()
    book.append(said("NaN 1e999"))
    book.bodies.append(
        b'{"type":"append","first":2,"messages":[{"role":"user","content":"x","a":%s}]}' % number.encode()
    )
    book.bodies.append(b'{"type":"settings","settings":{"always_included_messages":[],"b":[%s]}}' % number.encode())
    book.bodies.append(b'{"type":"append","first":3,"messages":[{"role":"user","content":"NaN"}]}')
    ledger = Ledger()
    assert [position for position, _ in ledger.replay(book.bodies)] == [2, 3]
    assert texts_of(ledger) == ["NaN 1e999", "NaN"]
    _, records = ledger.condensed()
    assert read([record.body for record in records]).state() == ledger.state()


@pytest.mark.parametrize(
    "body", [b"[]", b'{"messages":1}', b'{"settings":[]}', b'{"messages":[{"content":["data:,lost"]}]}']
)
def test_what_is_no_record_has_no_lost_parts(body: bytes):
    with pytest.raises(ValueError, match="no record"):
        without_lost(body)


def test_a_lone_surrogate_is_kept():
    book = Book()
    book.append(said("half \ud83d"), Message.user("x", extra={"\udead": "\udead"}))
    assert read(book.bodies).state() == book.ledger.state()


def test_a_newer_minor_version_is_read_and_what_it_knows_is_kept():
    bodies = [
        record(type="begin", format="kimi_agent journal", version="1.9", mood="good"),
        record(type="vote", messages=[{"role": "user", "content": "no message"}]),
        record(
            type="append",
            first=1,
            messages=[{"role": "user", "content": {"type": "hologram", "size": 1}["type"], "tone": "warm"}],
            window={"cut": 0, "scale": 1.0, "zoom": 2},
            settings={"always_included_messages": [], "theme": {"dark": [True]}},
            later=1,
        ),
        record(type="append", first=2, messages=[{"role": "user", "content": [{"type": "hologram", "size": 1}]}]),
    ]
    ledger = read(bodies)
    state = ledger.state()
    assert state.chat_history[1].content == (UnknownPart(type="hologram", data={"size": 1}),)
    assert state.unknown == {"theme": {"dark": (True,)}, "window": {"zoom": 2}}
    again = Ledger()
    again.apply(again.replacing(state))
    again.apply(again.appending([said("on")], window=WindowState(1)))
    condensed, records = again.condensed()
    for other in (again, condensed, read([record.body for record in records])):
        assert other.state().unknown == state.unknown
        assert other.state().chat_history[0].model_dump()["tone"] == "warm"


@pytest.mark.parametrize("version", ["2.0", "0.1", "one", "1.0.0"])
def test_a_newer_major_version_is_refused(version: str):
    with pytest.raises(ValueError, match=r"reads 1\.x; use the kimi_agent that wrote it"):
        Ledger().replay([record(type="begin", format="kimi_agent journal", version=version)])


def test_another_format_is_refused():
    with pytest.raises(ValueError, match="no session"):
        Ledger().replay([record(type="begin", format="kimi_agent", version="1.0")])


# ==== what it costs ====


def test_memory_has_only_what_can_be_gone_back_to():
    book = Book()
    for number in range(10):
        book.append(said(f"{number} a"), said(f"{number} b"))
        book.replace(said(f"summary {number}"))
    book.checkpoint("x")
    book.replace(said("summary"))
    assert len(book.ledger._messages) == len(read(book.bodies)._messages) == 2


def test_many_checkpoints_share_their_history():
    book = Book()
    for number in range(500):
        book.append(said(str(number)))
        book.checkpoint(str(number))
    assert len({id(mark.line) for mark in book.ledger._checkpoints.values()}) == 1
    book.roll_back("99")
    assert len(book.texts) == 100


def test_condensed_there_is_a_record_for_each_message():
    book = Book()
    book.append(*[said(str(number)) for number in range(5)])
    book.replace(*book.ledger.state().chat_history[3:], said("more"))
    _, records = book.ledger.condensed()
    assert [record.fields["type"] for record in records] == ["begin", "append", "append", "append", "settings"]
    assert all(isinstance(part, TextPart) for message in records[1].fields["messages"] for part in message.content)

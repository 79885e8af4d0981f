"""Bytes become the same events wherever the network cuts them, in time that grows with the bytes and no faster."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timing import takes_at_most

from kimi_agent.errors import StreamProtocolError
from kimi_agent.kimi import sse
from kimi_agent.kimi.sse import Event, SSEDecoder


def decoded(pieces: Iterable[bytes]) -> list[Event]:
    decoder = SSEDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.close()


def cut(body: bytes, positions: Iterable[int]) -> list[bytes]:
    borders = [0, *sorted(positions), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(borders)]


def bytewise(body: bytes) -> list[bytes]:
    return [body[place : place + 1] for place in range(len(body))]


TWO: list[Event] = [(b"message", b"a"), (b"message", b"b")]

BODIES: dict[str, tuple[bytes, list[Event]]] = {
    "LF": (b"data: a\n\ndata: b\n\n", TWO),
    "CR": (b"data: a\r\rdata: b\r\r", TWO),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", TWO),
    "CRLF then LF": (b"data: a\r\n\ndata: b\r\n\n", TWO),
    "LF then CRLF": (b"data: a\n\r\ndata: b\n\r\n", TWO),
    "CR then CRLF": (b"data: a\r\r\ndata: b\r\r\n", TWO),
    "CRLF then CR": (b"data: a\r\n\rdata: b\r\n\r", TWO),
    "another line end in each line": (
        b"data: a\n\ndata: x\rdata: y\r\ndata: z\n\r\n",
        [TWO[0], (b"message", b"x\ny\nz")],
    ),
    "many blank lines": (b"\n\n\r\n\r\r\ndata: a\n\n\n\n\r\n\r\ndata: b\n\n\n", TWO),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\ndata: b\n\n", TWO),
    "byte order mark of one event": (b"\xef\xbb\xbfdata: a", TWO[:1]),
    "a second byte order mark is no data": (b"data: a\n\n\xef\xbb\xbfdata: x\n\ndata: b\n\n", TWO),
    "comments": (b": hi\n\ndata: a\n:\n\n:\n\n: data: x\ndata: b\n\n", TWO),
    "unknown fields": (b"id: 1\nretry: 5\ndata: a\n\nid\n\nnonsense\n\nDATA: x\n\ndata: b\n\n", TWO),
    "no space after the colon": (b"data:a\n\ndata:b\n\n", TWO),
    "only one space belongs to the colon": (b"data:  a \n\n", [(b"message", b" a ")]),
    "a colon inside data": (b"data: a: b\n\n", [(b"message", b"a: b")]),
    "data on several lines": (b"data: a\ndata:\ndata\ndata: b\n\n", [(b"message", b"a\n\n\nb")]),
    "a type of event": (b"event: error\ndata: a\n\ndata: b\nevent:ping\n\n", [(b"error", b"a"), (b"ping", b"b")]),
    "a blank type of event": (b"event\ndata: a\n\nevent: \ndata: b\n\n", TWO),
    "a type without data": (b"event: error\n\ndata: a\n\ndata: b\n\n", TWO),
    "no blank line at the end": (b"data: a\n\ndata: b\n", TWO),
    "no line end at the end": (b"data: a\n\ndata: b", TWO),
    "half a CRLF at the end": (b"data: a\r\n\r\ndata: b\r\n\r", TWO),
    "separators inside JSON": (
        'data: {"t":"a\u2028b\u2029c\u0085d\x0b\x0c\x1c\x1d\x1ee"}\n\n'.encode(),
        [(b"message", '{"t":"a\u2028b\u2029c\u0085d\x0b\x0c\x1c\x1d\x1ee"}'.encode())],
    ),
    "characters of many bytes": ("data: 天气 🌦️\r\n\r\n".encode(), [(b"message", "天气 🌦️".encode())]),
    "no UTF-8": (b"data: \xff\xfe\xc3\n\n", [(b"message", b"\xff\xfe\xc3")]),
    "nothing": (b"", []),
    "nothing but a byte order mark": (b"\xef\xbb\xbf", []),
}

by_name = pytest.mark.parametrize("name", BODIES)


@by_name
def test_a_body_gives_its_events(name: str) -> None:
    body, events = BODIES[name]
    assert decoded([body]) == events


@by_name
def test_a_body_gives_the_same_events_cut_at_any_place(name: str) -> None:
    body, events = BODIES[name]
    for place in range(len(body) + 1):
        assert decoded([body[:place], body[place:]]) == events, f"cut at {place}"


@by_name
def test_a_body_gives_the_same_events_cut_at_any_two_places(name: str) -> None:
    body, events = BODIES[name]
    for first in range(len(body) + 1):
        for second in range(first, min(first + 4, len(body) + 1)):
            assert decoded(cut(body, [first, second])) == events, f"cut at {first} and {second}"


@by_name
def test_a_body_gives_the_same_events_byte_by_byte(name: str) -> None:
    body, events = BODIES[name]
    assert decoded(bytewise(body)) == events


@by_name
def test_empty_reads_change_nothing(name: str) -> None:
    body, events = BODIES[name]
    assert decoded([piece for byte in bytewise(body) for piece in (b"", byte, b"")]) == events


lines = st.sampled_from(
    [b"data: x", b"data:y", b"data", b"data:", b": c", b"", b"", b"", b"event: e", b"event:", b"id: 1", b"\xef\xbb\xbf"]
)
bodies = st.lists(st.tuples(lines, st.sampled_from([b"\n", b"\r", b"\r\n"]))).map(
    lambda rows: b"".join(line + end for line, end in rows)
)


def expected(body: bytes) -> list[Event]:
    """The events by the letter of the standard, for a whole body, line by line."""
    text = body.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[Event] = []
    kind, data = b"", []
    for line in [*text.split(b"\n"), b""]:
        if not line:
            events += [(kind or b"message", b"\n".join(data))] if data else []
            kind, data = b"", []
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            kind = value
    return events


@given(bodies, st.data())
def test_any_body_in_any_cuts_gives_what_the_standard_says(body: bytes, draw: st.DataObject) -> None:
    positions = draw.draw(st.lists(st.integers(0, len(body)), max_size=30))
    assert decoded(cut(body, positions)) == expected(body)


@given(st.binary(max_size=300), st.data())
def test_any_bytes_in_any_cuts_give_the_same_events(body: bytes, draw: st.DataObject) -> None:
    positions = draw.draw(st.lists(st.integers(0, len(body)), max_size=30))
    assert decoded(cut(body, positions)) == decoded([body])


RECORDED = ["k3-text-live", "v1-text-live", "indexless-tools", "error-midstream"]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_stream_gives_its_chunks_cut_at_any_place(data: Path, name: str, end: bytes) -> None:
    chunks = (data / "streams" / f"{name}.jsonl").read_bytes().splitlines()
    body = b"".join(b"data: " + chunk + end + end for chunk in [*chunks, b"[DONE]"])
    events = [(b"message", chunk) for chunk in [*chunks, b"[DONE]"]]
    for place in range(len(body) + 1):
        assert decoded([body[:place], body[place:]]) == events, f"cut at {place}"
    assert decoded(bytewise(body)) == events


def test_an_event_is_given_as_soon_as_its_blank_line_has_begun() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r\n") == []
    assert decoder.feed(b"\r") == TWO[:1]
    assert decoder.feed(b"\ndata: b\n\n") == TWO[1:]


def test_a_line_of_50_kB_byte_by_byte_is_one_event() -> None:
    line = json.dumps({"t": "天" * 17_000}, ensure_ascii=False).encode()
    assert decoded(bytewise(b"data: " + line + b"\n\n")) == [(b"message", line)]


@pytest.mark.parametrize(
    "pieces",
    [
        lambda size: [b"data: ", *[b"xxxxxxxx"] * (size // 8), b"\n\n"],
        lambda size: [b"data: x\r\n"] * (size // 9) + [b"\r\n"],
        lambda size: [b"data: x\n\n"] * (size // 9),
        lambda size: [b"data: x\n\n" * (size // 9)],
        lambda size: [b"\n"] * (size // 4),
        lambda size: [b": \n"] * (size // 4),
    ],
    ids=["one long line", "one event of many lines", "many events", "many events at once", "blank lines", "comments"],
)
def test_eight_times_the_bytes_take_about_eight_times_as_long(pieces) -> None:
    small, large = pieces(100_000), pieces(800_000)
    assert takes_at_most(24, lambda: decoded(small), lambda: decoded(large))


def test_an_event_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LARGEST_EVENT", 1000)
    decoder = SSEDecoder()
    with pytest.raises(StreamProtocolError, match="larger than 1,000 bytes"):
        for _ in range(101):
            decoder.feed(b"0123456789")


def test_many_small_events_may_be_longer_together_than_one_event_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LARGEST_EVENT", 1000)
    assert len(decoded([b"data: 0123456789\n\n"] * 1000)) == 1000
    assert len(decoded([b"data: 0123456789\n\n" * 1000])) == 1000
    assert len(decoded([b"data: 0123456789\n", b"\n"] * 1000)) == 1000

"""What the model reads of what a function returned."""

import collections
import datetime
import enum
import json
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from naming import without_address
from pydantic import BaseModel, Field

from kimi_agent.message import ContentPart, ImageURLPart, Message, TextPart
from kimi_agent.tools.base import ToolError, ToolMessage, ToolOk, ToolReturnValue
from kimi_agent.tools.results import to_return_value, truncate
from kimi_agent.tools.texts import DEFAULT_TEXTS, ToolTexts

PICTURE = ImageURLPart.model_validate({"image_url": {"url": "ms://1"}})


class Colour(enum.Enum):
    RED = "red"


class Shade(enum.StrEnum):
    DARK = "dark"


class Place(BaseModel):
    name: str
    heat: float = 1.0
    kind: str = Field(default="town", alias="type")


@dataclass
class Visit:
    place: Place
    day: datetime.date
    colour: Colour = Colour.RED


class Pair(NamedTuple):
    a: int
    b: str


class Odd:
    def __str__(self) -> str:
        return "an odd thing"


def output(value: Any, limit: int | None = None) -> Any:
    result = to_return_value(value, DEFAULT_TEXTS, limit)
    assert not result.is_error
    return result.output


def texts_of(parts: Any) -> list[str]:
    return [part.text for part in parts if isinstance(part, TextPart)]


# ==== values that are results already ====


@pytest.mark.parametrize("value", [ToolOk(output="a"), ToolError(message="m", brief="b"), ToolOk(output=[PICTURE])])
def test_a_return_value_is_taken_as_it_is(value: ToolReturnValue):
    assert to_return_value(value, DEFAULT_TEXTS, 100) is value


@pytest.mark.parametrize(("flag", "is_error"), [(None, False), (False, False), (True, True)])
def test_a_message_is_the_whole_result(flag: bool | None, is_error: bool):
    message = Message.assistant("hello", is_tool_call_error=flag)
    result = to_return_value(message, DEFAULT_TEXTS)
    assert isinstance(result, ToolMessage)
    assert (result.written, result.is_error) == (message, is_error)


def test_parts_stay_parts_and_what_stands_beside_them_becomes_text():
    assert output(PICTURE) == (PICTURE,)
    assert output(("see", PICTURE)) == (TextPart(text="see"), PICTURE)
    mixed = output([PICTURE, 3, {"ä": None}, Place(name="Oslo"), None])
    assert mixed[0] == PICTURE
    assert texts_of(mixed) == ["3", '{"ä":null}', '{"name":"Oslo","heat":1.0,"type":"town"}', "null"]


def test_none_is_said_in_the_words_of_the_agent():
    class Terse(ToolTexts):
        def empty(self) -> str:
            return "-"

    assert to_return_value(None, Terse()).output == "-"


# ==== text and JSON ====

CONVERSIONS = [
    ("text", "text"),
    ("", ""),
    (391, "391"),
    (True, "True"),
    (Decimal("1.50"), "1.50"),
    (Colour.RED, "red"),
    (Shade.DARK, "dark"),
    (datetime.date(2026, 1, 2), "2026-01-02"),
    (b"gr\xc3\xbcn", "grün"),
    (bytearray(b"a"), "a"),
    (b"\xff\x00", "/wA="),
    ({"天气": "晴"}, '{"天气":"晴"}'),
    ([], "[]"),
    ([1, "a", None, True], '[1,"a",null,true]'),
    ((1, 2), "[1,2]"),
    ({1}, "[1]"),
    (frozenset({1}), "[1]"),
    (Pair(1, "b"), '[1,"b"]'),
    ({1: {(2, 3): "x"}}, '{"1":{"2,3":"x"}}'),
    (range(3), "[0,1,2]"),
    (collections.deque([1]), "[1]"),
    ({"a": 1}.keys(), '["a"]'),
    (types.MappingProxyType({"a": {1}}), '{"a":[1]}'),
    (collections.UserDict({"a": types.MappingProxyType({"b": 1})}), '{"a":{"b":1}}'),
    (Place(name="Øre"), '{"name":"Øre","heat":1.0,"type":"town"}'),
    ([Place(name="a")], '[{"name":"a","heat":1.0,"type":"town"}]'),
    (
        Visit(Place(name="a"), datetime.date(2026, 1, 2)),
        '{"place":{"name":"a","heat":1.0,"type":"town"},"day":"2026-01-02","colour":"red"}',
    ),
    ({"when": datetime.timedelta(minutes=1), "what": Shade.DARK}, '{"when":"PT1M","what":"dark"}'),
    ({"odd": Odd()}, '{"odd":"an odd thing"}'),
    (Odd(), "an odd thing"),
    ({"raw": b"\xff"}, '{"raw":"/w=="}'),
    ([float("nan"), float("inf"), {"x": float("-inf")}], '[null,null,{"x":null}]'),
    (Place(name="a", heat=float("nan")), '{"name":"a","heat":null,"type":"town"}'),
]


@pytest.mark.parametrize(("value", "expected"), CONVERSIONS, ids=lambda value: without_address(value)[:40])
def test_a_value_becomes_text_or_json(value: Any, expected: str):
    text = output(value)
    if expected.startswith(("[", "{")):
        assert json.loads(text) == json.loads(expected)
        assert "\\u" not in text
    else:
        assert text == expected
    assert type(text) is str


LONE = "\ud83d"


@pytest.mark.parametrize(
    "value",
    [
        LONE,
        {LONE: LONE},
        [Place(name=LONE, heat=float("inf"))],
        Visit(Place(name=LONE), datetime.date(2026, 1, 2)),
        {
            (1, LONE): {b"\xff": {LONE}},
            None: Shade.DARK,
            2: Decimal(1),
            "v": collections.deque([LONE, 1.5, Colour.RED]),
        },
    ],
    ids=ascii,
)
def test_lone_surrogates_survive(value: Any):
    text = output(value)
    assert LONE in text
    if not isinstance(value, str):
        json.loads(text)


def test_a_value_without_a_text_raises():
    circular: dict[str, Any] = {}
    circular["self"] = circular

    class Mute:
        def __str__(self) -> str:
            raise RuntimeError("mute")

    with pytest.raises(ValueError, match="Circular"):
        output(circular)
    with pytest.raises(ValueError, match=r"Circular|surrogates"):
        output({LONE: circular})
    for value in (Mute(), {"a": Mute()}, [PICTURE, Mute()]):
        with pytest.raises(Exception, match="mute"):
            output(value)


def test_an_iterator_is_refused_because_its_text_says_nothing():
    async def later() -> Any:
        yield 1

    for value in ((n for n in [1]), iter([1]), map(str, [1]), later()):
        with pytest.raises(TypeError, match="return a list"):
            output(value)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=()), max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.lists(JSON_VALUES, max_size=4) | st.dictionaries(st.text(), JSON_VALUES, max_size=4))
def test_containers_are_always_valid_json(value: Any):
    text = output(value)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    assert len(json.loads(text, parse_constant=refuse)) == len(value)


# ==== length ====


@given(st.text(alphabet="ab ,.\n。，", max_size=80), st.integers(0, 60))
def test_a_cut_text_is_never_longer_than_the_limit_and_begins_like_the_text(text: str, limit: int):
    cut = truncate(text, limit)
    assert len(cut) <= limit
    if len(text) <= limit:
        assert cut == text
    else:
        assert cut.endswith("..."[:limit])
        assert text.startswith(cut[:-3])


@pytest.mark.parametrize("limit", [0, 1, 2, 3])
def test_limits_below_the_mark_hold(limit: int):
    assert truncate("x" * 50, limit) == "..."[:limit]


def test_a_text_of_exactly_the_limit_is_untouched():
    assert truncate("12345", 5) == "12345"
    assert truncate("123456", 5) == "12..."


@pytest.mark.parametrize(
    ("text", "limit", "cut"),
    [
        ("First part.\n\nSecond one\nand. more, of it", 23, "First part...."),
        ("First line\nSecond one and. more, of it", 18, "First line..."),
        ("First sentence. Second one, of, it all", 24, "First sentence..."),
        ("First clause, and another one", 18, "First clause..."),
        ("First words and another one", 16, "First words..."),
        ("天气很好。我们去公园玩，好吗", 9, "天气很好..."),
        ("Unbreakable", 8, "Unbre..."),
        ("A\n\nlong paragraph without an end", 23, "A\n\nlong paragraph..."),
    ],
)
def test_a_text_is_cut_where_it_hurts_least(text: str, limit: int, cut: str):
    assert truncate(text, limit) == cut


@pytest.mark.parametrize("text", ["x" * 1_000_000, "word, and more. " * 62_500, ("a" * 48 + "\n\n") * 20_000])
def test_cutting_a_megabyte_takes_no_longer_than_a_few_copies_of_it(text: str):
    def seconds(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    cutting = min(seconds(lambda: truncate(text, 100_000)) for _ in range(5))
    assert cutting < 30 * min(seconds(lambda: text.encode().decode()) for _ in range(5))


def test_the_limit_holds_for_texts_json_and_return_values():
    assert output("x" * 20, 10) == "x" * 7 + "..."
    assert len(output({"a": "x" * 20}, 10)) == 10
    error = to_return_value(ToolError(message="m", brief="b", output="x" * 20), DEFAULT_TEXTS, 10)
    assert error.is_error
    assert (error.message, error.brief, error.output) == ("m", "b", "x" * 7 + "...")


def test_parts_share_one_limit_and_those_without_text_stay():
    parts = [TextPart(text="aaaa"), PICTURE, TextPart(text="bbbbbbbb"), PICTURE, TextPart(text="cccc")]
    assert output(parts, 10) == (TextPart(text="aaaa"), PICTURE, TextPart(text="bbb..."), PICTURE)
    assert output(parts, 7) == (TextPart(text="aaaa"), PICTURE, TextPart(text="..."), PICTURE)
    assert output(parts, 16) == tuple(parts)
    assert output(parts, 0) == (PICTURE, PICTURE)


def test_a_cut_part_keeps_what_its_owner_put_beside_the_text():
    assert output([TextPart(text="x" * 20, extra={"a": 1})], 10)[0].extra == {"a": 1}


@given(st.lists(st.text(alphabet="ab \n", max_size=10), min_size=1), st.integers(0, 40), st.booleans())
def test_the_text_of_all_parts_is_within_the_limit(pieces: list[str], limit: int, as_message: bool):
    parts: list[ContentPart] = [PICTURE, *(TextPart(text=piece) for piece in pieces), PICTURE]
    result = to_return_value(Message.assistant(parts) if as_message else parts, DEFAULT_TEXTS, limit)
    kept = result.written.content if isinstance(result, ToolMessage) else result.output
    text, whole = "".join(texts_of(kept)), "".join(pieces)
    assert len(text) <= limit
    assert text == truncate(whole, limit)
    assert [part for part in kept if not isinstance(part, TextPart)] == [PICTURE, PICTURE]


def test_a_message_without_content_has_nothing_to_cut():
    message = Message.assistant(None)
    assert to_return_value(message, DEFAULT_TEXTS, 0) == ToolMessage(is_error=False, written=message)


def test_a_long_message_is_cut_and_keeps_everything_else():
    message = Message.assistant("x" * 20, name="n", extra={"a": 1}, is_tool_call_error=True)
    result = to_return_value(message, DEFAULT_TEXTS, 10)
    assert isinstance(result, ToolMessage)
    assert result.is_error
    assert result.written == message.copy_with(content="x" * 7 + "...")

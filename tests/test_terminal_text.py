"""Text for a terminal: columns, control characters, lines."""

import asyncio
import re
import unicodedata
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_agent.terminal.text import (
    display_width,
    format_stream,
    format_width,
    print_stream,
    print_width,
    visible,
)

CURSED = st.text(
    st.sampled_from("ab \t\n\r\x1b\u0301\u200d\ufe0f\u202e，。「」、ー好ひ한각👩🏽🇯🇵❤é\u3000.(!") | st.characters()
)


async def tokens(pieces: Sequence[str]) -> AsyncIterator[str]:
    for piece in pieces:
        yield piece


async def collected(pieces: Sequence[str], width: int | None = None, prefix: str = "") -> str:
    return "".join([piece async for piece in format_stream(tokens(pieces), width, prefix)])


# ==== columns ====


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", 0),
        ("hello", 5),
        ("你好", 4),
        ("ｆｕｌｌ", 8),
        ("한국", 4),
        ("\u1112\u1161\u11ab", 2),  # one Korean syllable in three code points
        ("e\u0301", 1),
        ("a\u200bb", 2),
        ("🙂", 2),
        ("👍🏽", 2),
        ("👩\u200d👩\u200d👧\u200d👦", 2),
        ("❤", 1),
        ("❤\ufe0f", 2),
        ("1\ufe0f\u20e3", 2),
        ("🇯🇵", 2),
        ("🇯🇵🇫🇷", 4),
        ("\U0001fa77", 2),  # younger than Python 3.11
        ("क्ष", 2),
        ("\ta", 9),
        ("abc\ta", 9),
    ],
)
def test_display_width_is_what_a_terminal_needs(text: str, columns: int) -> None:
    assert display_width(text) == columns


@given(CURSED, CURSED)
def test_more_text_never_needs_fewer_columns(text: str, more: str) -> None:
    assert display_width(text + more) >= display_width(text)


# ==== control characters ====


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\x7f\x08b", r"a\x7f\x08b"),
        ("harmless\rEVIL", r"harmless\x0dEVIL"),
        ("one\r\ntwo\n\tthree", "one\ntwo\n\tthree"),
        ("\u202egnp.exe\u2069\u200f", r"\u202egnp.exe\u2069\u200f"),
        ("\ud83d", r"\ud83d"),
        ("naïve 你好 👩\u200d👧 \\x1b", "naïve 你好 👩\u200d👧 \\x1b"),
    ],
)
def test_visible_shows_control_characters(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(CURSED)
def test_no_control_character_leaves_a_formatter(text: str) -> None:
    for formatted in (visible(text), format_width(text), format_width(text, 10, "AI: ")):
        assert {c for c in formatted if unicodedata.category(c) in ("Cc", "Cs")} <= {"\n", "\t"}
        formatted.encode()


async def test_a_control_sequence_that_is_split_over_tokens_is_visible() -> None:
    assert await collected(["a\x1b", "[", "31", "mred\r", "x\r", "\ny\r"]) == "a\\x1b[31mred\\x0dx\ny\\x0d"


# ==== lines ====


def test_words_stay_whole() -> None:
    text = "The quick brown fox jumps over the lazy dog again and again."
    assert format_width(text, 20, "AI: ").split("\n") == [
        "AI: The quick brown",
        "    fox jumps over",
        "    the lazy dog",
        "    again and again.",
    ]


def test_wide_characters_count_two_columns() -> None:
    assert format_width("敏捷的棕色狐狸跳过了懒狗", 10) == "敏捷的棕色\n狐狸跳过了\n懒狗"


def test_a_line_does_not_begin_with_a_closing_mark_nor_end_with_an_opening_one() -> None:
    assert format_width("敏捷的棕，色", 8) == "敏捷的\n棕，色"
    assert format_width("敏捷的「色」", 8) == "敏捷的\n「色」"


def test_korean_words_stay_whole() -> None:
    assert format_width("안녕하세요 세계", 12) == "안녕하세요\n세계"


def test_words_longer_than_the_width_fill_lines_of_their_own() -> None:
    assert format_width("see 0123456789abcdefghijkl now", 10) == "see\n0123456789\nabcdefghij\nkl now"


def test_the_prefix_is_kept_when_the_text_starts_with_a_blank_line() -> None:
    assert format_width("\nhello", 20, "AI: ") == "AI: \n    hello"


def test_newlines_and_indentation_stay_and_blanks_at_line_ends_go() -> None:
    assert format_width("if x:\n    y  \n\n\tz ", 40, "AI: ") == "AI: if x:\n        y\n\n    \tz"


def test_an_emoji_sequence_is_never_torn() -> None:
    family = "👩\u200d👩\u200d👧\u200d👦"
    assert format_width(family * 5, 4) == f"{family * 2}\n{family * 2}\n{family}"


@pytest.mark.parametrize("width", [None, 0])
def test_without_a_width_the_text_stays_as_it_is(width: int | None) -> None:
    assert format_width("a  \n" + "b " * 50, width, "AI: ") == "AI: a  \n" + "b " * 50


def test_a_width_smaller_than_the_prefix_leaves_one_column() -> None:
    assert format_width("ab好", 2, "AI: ") == "AI: a\n    b\n    好"


def test_nothing_is_formatted_as_the_prefix_alone() -> None:
    assert format_width("", 20, "AI: ") == "AI: "


@given(CURSED, st.integers(6, 30), st.sampled_from(["", "AI: ", "機: "]))
def test_no_line_is_wider_than_the_width(text: str, width: int, prefix: str) -> None:
    assert all(display_width(line) <= width for line in format_width(text, width, prefix).split("\n"))


@given(CURSED, st.integers(6, 30))
def test_nothing_but_blanks_is_lost_or_added(text: str, width: int) -> None:
    def ink(some: str) -> str:
        return re.sub("[ \t\n\u3000]", "", some)

    assert ink(format_width(text, width, "AI: ")) == "AI:" + ink(visible(text))


@given(st.lists(st.text("abcdefgh", min_size=1, max_size=10)), st.integers(10, 20))
def test_words_that_fit_are_never_broken(words: list[str], width: int) -> None:
    assert format_width(" ".join(words), width).split() == words


@given(st.lists(CURSED), st.none() | st.integers(1, 30), st.sampled_from(["", "AI: "]))
def test_a_stream_is_formatted_like_its_whole_text(pieces: list[str], width: int | None, prefix: str) -> None:
    text = "".join(pieces)
    assert asyncio.run(collected(pieces, width, prefix)) == (format_width(text, width, prefix) if text else "")


@given(CURSED, st.none() | st.integers(1, 30))
def test_a_stream_of_single_characters_is_formatted_like_its_whole_text(text: str, width: int | None) -> None:
    assert asyncio.run(collected(list(text), width, "AI: ")) == (format_width(text, width, "AI: ") if text else "")


# ==== streams ====


async def test_words_come_as_soon_as_they_have_ended() -> None:
    came = [piece async for piece in format_stream(tokens(["Hel", "lo ", "wor", "ld"]), 20, "AI: ")]
    assert came == ["AI: ", "Hello", " world"]


async def test_without_a_width_tokens_come_at_once() -> None:
    came = [piece async for piece in format_stream(tokens(["Hel", "lo ", "wor", "ld"]), prefix="AI: ")]
    assert came == ["AI: Hel", "lo ", "wor", "ld"]


class Broken(Exception):
    pass


async def broken_after(*pieces: str) -> AsyncIterator[str]:
    for piece in pieces:
        yield piece
    raise Broken


async def test_a_stream_that_fails_has_shown_all_that_came(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Broken):
        await print_stream(broken_after("It is 2", "1"), 20, "AI: ")
    assert capsys.readouterr().out == "AI: It is 21\n"


async def test_a_stream_that_fails_before_its_first_token_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Broken):
        await print_stream(broken_after(), 20, "AI: ")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("width", [None, 20])
async def test_a_stream_without_text_shows_nothing(capsys: pytest.CaptureFixture[str], width: int | None) -> None:
    await print_stream(tokens([]), width, "AI: ")
    await print_stream(tokens([""]), width, "AI: ")
    assert capsys.readouterr().out == ""


async def test_printing_is_formatting_and_a_newline(capsys: pytest.CaptureFixture[str]) -> None:
    await print_stream(tokens(["Hello ", "world\x1b"]), 9, "AI: ")
    streamed = capsys.readouterr().out
    print_width("Hello world\x1b", 9, "AI: ")
    assert streamed == capsys.readouterr().out == "AI: Hello\n    world\n    \\x1b\n"

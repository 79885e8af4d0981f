"""Markdown on its way to a terminal: cut into blocks while it comes, and painted."""

import re
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rich", reason="the extra `cli` is not installed")

from rich.cells import cell_len

from kimi_agent.terminal.screen import painting
from kimi_agent.terminal.screen.blocks import MOST_OPEN, MOST_SHOWN, Block, Blocks, end_of
from kimi_agent.terminal.screen.painting import Painter
from kimi_agent.terminal.text import visible

COLOR = re.compile(r"\x1b\[[0-9;]*m")
MARKDOWN = st.text(st.sampled_from("ab |-=#>`~*_\n\n\t1.+[](<&\\\r\x1b漢\u0301"), max_size=200)


def lines_of(text: str, width: int = 40) -> list[str]:
    """What is painted of a text, without colors."""
    blocks = Blocks()
    painted = Painter().blocks(blocks.feed(text) + blocks.close(), width)
    return [line.rstrip() for line in COLOR.sub("", painted).splitlines()]


# ==== blocks ====


@given(MARKDOWN, st.lists(st.integers(0, 200), max_size=8))
def test_every_line_is_in_one_block_however_the_text_is_cut(text: str, cuts: list[int]) -> None:
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    blocks, whole = Blocks(), Blocks()
    cut: list[Block] = []
    for begin, end in pairwise(borders):
        cut += blocks.feed(text[begin:end])
        assert blocks.open == blocks.open  # who looks changes nothing
    cut += blocks.close()
    assert cut == whole.feed(text) + whole.close()
    assert (
        list(chain.from_iterable(block.lines for block in cut))
        == visible(text).removesuffix("\n").split("\n")[: None if text else 0]
    )


@given(MARKDOWN, st.integers(8, 40))
def test_what_is_painted_has_colors_and_no_other_control(text: str, width: int) -> None:
    blocks = Blocks()
    painted = Painter().blocks(blocks.feed(text) + blocks.close(), width)
    assert COLOR.sub("", painted) == visible(COLOR.sub("", painted))
    assert painted.endswith("\n") or not painted


def test_a_long_block_comes_in_parts() -> None:
    blocks = Blocks()
    ended = blocks.feed("```python\n" + "x = 1\n" * 100 + "```\nafter")
    assert [block.goes_on for block in ended] == [False, True, True, True]
    assert {(block.kind, block.language) for block in ended} == {("code", "python")}
    assert max(len(block.lines) for block in ended) <= MOST_OPEN
    assert blocks.close() == [Block("text", ("after",))]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("# A\ntext\n---\n---\ntext", "heading heading break text"),
        ("- a\n  b\n- c\n\n  d", "item item blank text"),
        ("a\n2. b\n1. c\n2. d", "text item item"),
        ("> a\nb\n\nc", "quote blank text"),
        ("a\n|b|\n|-|\n|c|\n\nd", "text table blank text"),
        ("a\n~~~\n```\n\n~~~\nb", "text code text"),
    ],
)
def test_lines_are_told_apart_as_in_markdown(text: str, kinds: str) -> None:
    blocks = Blocks()
    assert " ".join(block.kind for block in blocks.feed(text) + blocks.close()) == kinds


def test_marks_alone_are_not_drawn_before_it_is_known_what_they_mark() -> None:
    blocks = Blocks()
    blocks.feed("Options:\n-")
    assert blocks.open == [Block("text", ("Options:",))]
    blocks.feed(" one")
    assert blocks.open == [Block("text", ("Options:",)), Block("item", ("- one",))]


@pytest.mark.parametrize("begin", ["", "- ", "> ", "# ", "|", "```python\n"])
@pytest.mark.parametrize("unit", ["![", "x = foo(1) ", "word\nword ", "\x1b"])
def test_of_what_is_open_a_screen_is_looked_at_whatever_it_is(begin: str, unit: str) -> None:
    blocks = Blocks()
    blocks.feed(begin)
    for _ in range(200):
        blocks.feed(unit * 500)
    shown = [line for block in blocks.open for line in block.lines]
    assert 0 < sum(map(len, shown)) <= len(visible("\x1b")) * MOST_SHOWN
    if "\n" not in unit:
        assert [block.kind for block in blocks.open] == ["plain"]


@given(st.lists(st.text("ab", max_size=4)), st.integers(1, 12))
def test_the_end_of_a_text_is_what_it_is_in_one_piece(pieces: list[str], most: int) -> None:
    assert end_of(pieces, most) == "".join(pieces)[-most:]


# ==== painting ====


def test_a_block_that_cannot_be_painted_is_printed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(painting.PAINTERS, "heading", lambda block, width: 1 / 0)  # pyright: ignore[reportUnknownLambdaType]
    assert lines_of("# A *b*\nc") == ["# A *b*", "c"]


def test_the_columns_of_a_long_table_stay_where_they_are() -> None:
    rows = [f"|{'x' * (3 + number // 4)}|{number}|" for number in range(70)]
    lines = lines_of("|name|number|\n|-|-|\n" + "\n".join(rows))
    assert {line.index(digits[0]) for line in lines if (digits := re.search(r"\d+", line))} == {12}
    assert "".join(lines).count("x") == sum(row.count("x") for row in rows)


def test_wide_columns_share_the_room_and_a_table_without_room_is_lines() -> None:
    table = f"|a|b|c|\n|-|-|-|\n|{'word ' * 9}|short|{'b' * 60}|\n"
    lines = lines_of(table)
    assert max(map(len, lines)) <= 40
    assert ["".join(lines).count(text) for text in ("b", "word")] == [61, 9]
    assert "".join("".join(lines_of(table, 8)).split()) == "".join(table.split())


def test_the_cells_of_a_column_stand_where_its_delimiter_says() -> None:
    table = "|left|middle|number|\n|:-|:-:|-:|\n|a|b|1|\n|a|b|22|\n"
    assert [lines_of(table)[row] for row in (0, 2, 3)] == [
        "left   middle   number",
        "a        b           1",
        "a        b          22",
    ]


def test_of_a_long_call_the_arguments_are_cut_and_not_what_came_of_it() -> None:
    painter = Painter()
    assert painter.line(f"✓ f({'x' * 100})", 30, tail=" · 2.5 s") == "✓ f(xxxxxxxxxxxxxxxxx… · 2.5 s"
    assert painter.line(f"✗ f({'x' * 100})", 30, tail=f" · 2.5 s · {'no ' * 40}") == "✗ f(xxxxxxxxxxx… · 2.5 s · no…"
    assert painter.line("✗ f()", 30, tail=f" · 2.5 s · {'no ' * 40}") == "✗ f() · 2.5 s · no no no no n…"


@given(
    st.text(st.sampled_from("กำที่เป็นไทย 👩\u200d👧🏽🇳🇴❤\ufe0f漢字e\u0301\u200b ab*`-\n"), max_size=80),
    st.integers(12, 40),
)
def test_no_row_is_wider_than_the_terminal(text: str, width: int) -> None:
    painter = Painter()
    lines = [painter.line(text, width), painter.line(text, width, tail=text), painter.line("f()", width, tail=text)]
    rows = [*painter.wrapped(text, width), *lines, *lines_of(text, width)]
    assert all(cell_len(COLOR.sub("", row)) <= width for row in rows)


@given(st.text(st.sampled_from("\x1b]8;;x\x07\\[0mm2J\r\x0b\x9b\u202eab\x85\u2028")))
def test_a_printed_line_has_colors_and_no_other_control_and_all_its_text(text: str) -> None:
    shown = COLOR.sub("", Painter().colored(text))
    assert shown == visible(shown) == "".join(map(visible, COLOR.split(text.removesuffix("\r"))))


def test_a_link_hides_no_control_sequence() -> None:
    hidden = "\x1b]8;;x\x07\x1b]0;pwned\x07\x1b[2J\x1b[3J\x1b\\text"
    assert Painter().colored(hidden) == visible(hidden)
    assert Painter().colored("\x1b[1;31mred") == "\x1b[1;31mred\x1b[0m"

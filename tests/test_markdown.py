"""Markdown becomes the same events wherever it is cut, as CommonMark has it, in time that grows with the text.

The judge is markdown-it-py, on documents made of lines that are hard to tell apart. Where it and the stream differ on
purpose, the judge is corrected or the document left out, and it says so.
"""

import random
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, blockquote, fence, heading, hr, html_block, list_block, table
from markdown_it.token import Token
from timing import takes_at_most

from kimi_agent.structured import leaves
from kimi_agent.structured.markdown import (
    CodeBlock,
    Heading,
    HtmlBlock,
    Line,
    ListItem,
    MarkdownEvent,
    MarkdownStream,
    Paragraph,
    Quote,
    TableRow,
    ThematicBreak,
    parse_markdown,
)

H, P, B, C, Q, HR, Html = Heading, Paragraph, ListItem, CodeBlock, Quote, ThematicBreak(), HtmlBlock


def head(*cells: str) -> TableRow:
    return TableRow(cells, header=True)


def row(*cells: str) -> TableRow:
    return TableRow(cells)


def parsed(chunks: Iterable[str], **options: bool) -> list[MarkdownEvent]:
    stream = MarkdownStream(**options)
    events = [event for chunk in chunks for event in stream.feed(chunk)]
    return events + stream.close()


def places(events: Iterable[MarkdownEvent]) -> list[tuple[MarkdownEvent, int]]:
    """With the numbers of the lines, which `==` leaves out."""
    return [(event, event.line) for event in events]


def cut(text: str, chance: random.Random) -> list[str]:
    """A text in pieces, some of them empty, some single characters."""
    size = chance.choice((1, 2, 3, 8, 40))
    borders = sorted(chance.choices(range(len(text) + 1), k=len(text) // size + 1))
    return [text[start:end] for start, end in zip([0, *borders], [*borders, len(text)], strict=True)]


# ==== cases ====

F = "```"

CASES: dict[str, tuple[list[str], list[MarkdownEvent]]] = {
    "a heading in single characters": (
        ["#", " ", "T", "i", "\n", "#", "#", " D\n", "- ", "F"],
        [H(1, "Ti"), H(2, "D"), B("F")],
    ),
    "headings and bullets": (
        ["# A\n- x\n# B\n- y\n# C\n- z"],
        [H(1, "A"), B("x"), H(1, "B"), B("y"), H(1, "C"), B("z")],
    ),
    "text before the first heading": (["Sure! Here:\n\n# A\n"], [P("Sure! Here:"), H(1, "A")]),
    "a comment in code": (
        [f"# T\n{F}py", "thon\nx = 1\n# not a head", "ing\n- nor bullet\n``", "`\n# N\n"],
        [H(1, "T"), C("x = 1\n# not a heading\n- nor bullet\n", "python", "python"), H(1, "N")],
    ),
    "a fence in pieces": (["`", "`", "`js\nlet a", "=1\n`", "``\n"], [C("let a=1\n", "js", "js")]),
    "a longer fence around a shorter one": ([f"````md\n{F}\nx\n{F}\n````\n"], [C(f"{F}\nx\n{F}\n", "md", "md")]),
    "a fence of tildes": ([f"~~~\n# in\n{F}\n~~~\n"], [C(f"# in\n{F}\n")]),
    "code that nobody closes": (
        [f"{F}kotlin\nfun main() {{\n"],
        [C("fun main() {\n", "kotlin", "kotlin", closed=False)],
    ),
    "code of nothing": ([f"{F}\n{F}\n"], [C("")]),
    "inline code is no fence": ([f"{F}x=1{F} trailing\n- b\n"], [P(f"{F}x=1{F} trailing"), B("b")]),
    "CRLF cut in two": (
        ["# A\r", f"\n- x\r\n{F}py\r\nq\r\n{F}\r", "\n"],
        [H(1, "A"), B("x"), C("q\n", "py", "py")],
    ),
    "CR": (["# A\r# B\r\rx\ry"], [H(1, "A"), H(1, "B"), P("x\ny")]),
    "separators that end no line": (
        ["# A\u2028B\n- x\x85y\n\x0cz\x0b\x1c\n"],
        [H(1, "A\u2028B"), B("x\x85y\n\x0cz\x0b\x1c")],
    ),
    "a byte order mark": (["\ufeff", "# A"], [H(1, "A")]),
    "a second byte order mark is text": (["\ufeff\ufeff# A"], [P("\ufeff# A")]),
    "characters in pieces": (
        ["- e", "\u0301\n- \U0001f469\u200d", "\U0001f4bb\n"],
        [B("e\u0301"), B("\U0001f469\u200d\U0001f4bb")],
    ),
    "a heading needs its space": (["#NoSpace\n# Real\n"], [P("#NoSpace"), H(1, "Real")]),
    "hashes": (
        ["#\n####### seven\n## T ##\n### C#\n#### ##\n# a \\#\n#\tt\t#\t\n"],
        [H(1, ""), P("####### seven"), H(2, "T"), H(3, "C#"), H(4, ""), H(1, "a \\#"), H(1, "t")],
    ),
    "bullets below bullets": (["- a\n  - b\n", "    - c\n- d\n"], [B("a"), B("b", 1), B("c", 2), B("d")]),
    "numbers": (
        ["1. one\n2. two\n", "   - sub\n10) ten\n"],
        [B("one", 0, 1), B("two", 0, 2), B("sub", 1), B("ten", 0, 10)],
    ),
    "a bullet not far enough below a number": (["1. a\n  - b\n   - c\n"], [B("a", 0, 1), B("b"), B("c")]),
    "bullets indented too far are bullets": (
        ["- a\n        - b\n        - c\n\n            - d\n- e\n"],
        [B("a"), B("b", 1), B("c", 1), B("d", 2), B("e")],
    ),
    "boxes": (
        ["- [ ] todo\n- [x] done\n1. [X] one\n- [y] no\n- [ ]no\n- [ ]\n"],
        [
            B("todo", checked=False),
            B("done", checked=True),
            B("one", ordered=1, checked=True),
            B("[y] no"),
            B("[ ]no"),
            B("[ ]"),
        ],
    ),
    "underlines and breaks": (
        ["Title\n==", "=\n\nSub\n---\n\n---\n* * *\n___\ntwo\nlines\n-\n"],
        [H(1, "Title"), H(2, "Sub"), HR, HR, HR, H(2, "two\nlines")],
    ),
    "a table": (
        ["| a | b |\n|--", "-|:-:|\n| 1 | x\\|y |\n| 2 |\n3|4|5\n\nend"],
        [head("a", "b"), row("1", "x|y"), row("2", ""), row("3", "4"), P("end")],
    ),
    "a table below text": (["text\n a | b \n-|-\nc\n# H\n"], [P("text"), head("a", "b"), row("c", ""), H(1, "H")]),
    "a table's second line that does not fit": (["a | b\n---\nc | d\n-|-|-\n"], [H(2, "a | b"), P("c | d\n-|-|-")]),
    "a table in an item": (
        ["- | a |\n  |---|\n  | b |\n- t\n  x|y\n  -|-\n"],
        [B(""), head("a"), row("b"), B("t"), head("x", "y")],
    ),
    "HTML": (
        ["<details>\n<summary>x</summary>\n\n- item\n\n</details>\n"],
        [Html("<details>\n<summary>x</summary>"), B("item"), Html("</details>")],
    ),
    "HTML with blank lines": (
        ["<!-- a\n\n# b -->\n# c\n<script>\n\n</script> x\ny\n<b>\n\n<b>\nz\n"],
        [Html("<!-- a\n\n# b -->"), H(1, "c"), Html("<script>\n\n</script> x"), P("y\n<b>"), Html("<b>\nz")],
    ),
    "a quote": (["> # quoted\n> - q\n\ntext"], [Q("# quoted\n- q"), P("text")]),
    "a quote that goes on lazily": (
        ["> a\nb\n> > c\n  d\n# e\n> f\n\n>\n> g\n>\n>     h\n"],
        [Q("a\nb\n> c\nd"), H(1, "e"), Q("f"), Q("g\n\n    h")],
    ),
    "a quote with code does not go on lazily": ([f"> {F}\nb\n{F}\n"], [Q(F), P("b"), C("", closed=False)]),
    "a quote of nothing": ([">\n>  \n\n# a\n"], [H(1, "a")]),
    "what is in items": (
        [f"- a\n  b\n\n  c\n  # h\n  {F}py\n    x\n\n  y\n  {F}\n  > q\n- # i\n- {F}\n- - - l\n"],
        [
            B("a\nb"),
            P("c"),
            H(1, "h"),
            C("  x\n\ny\n", "py", "py"),
            Q("q"),
            B(""),
            H(1, "i"),
            B(""),
            C("", closed=False),
            B(""),
            B("", 1),
            B("l", 2),
        ],
    ),
    "items of nothing": (["-\n- a\n*\n  b\n1.\n\n   c\n\n-"], [B(""), B("a"), B("b"), B("", 0, 1), P("c"), B("")]),
    "numbers in text": (["In\n1986. A year\n1. one\n"], [P("In\n1986. A year"), B("one", 0, 1)]),
    "no bullets": (["-5 C\n-- x\n*bold*\n1.5 m\n1234567890. x\n"], [P("-5 C\n-- x\n*bold*\n1.5 m\n1234567890. x")]),
    "empty pieces": (["", "# A", "", "\n", ""], [H(1, "A")]),
    "nothing": ([], []),
    "nothing but space": ([" ", "\n\n", "\t\r\n", "  "], []),
    "indented code is text": (["    # code-ish\n\n\tx\n"], [P("# code-ish"), P("x")]),
    "a bullet in pieces": (["# A\n- x", " more", "\n"], [H(1, "A"), B("x more")]),
    "what is within a line stays": (
        ["# **Bold** `code`\na  \n*b*&amp;\\*\n"],
        [H(1, "**Bold** `code`"), P("a  \n*b*&amp;\\*")],
    ),
    "an info string": ([f'{F}python title="a.py"\nx\n{F}   \n'], [C("x\n", "python", 'python title="a.py"')]),
    "tabs": ([">\t\tx\n\n-\t-\ty\n\n\t\tz\n"], [Q("  \tx"), B(""), B("y", 1), P("z")]),
}

by_name = pytest.mark.parametrize("name", CASES)


@by_name
def test_a_text_gives_its_events(name: str) -> None:
    chunks, events = CASES[name]
    assert parsed(chunks) == events


@by_name
def test_a_text_gives_its_events_wherever_it_is_cut(name: str) -> None:
    chunks, _ = CASES[name]
    text, chance = "".join(chunks), random.Random(name)
    whole = places(parsed([text]))
    with_lines = places(parsed([text], _lines=True))
    assert places(parsed(text)) == whole
    for _ in range(200):
        pieces = cut(text, chance)
        assert places(parsed(pieces)) == whole
    assert places(parsed(text, _lines=True)) == with_lines


def test_lenient_headings_need_no_space() -> None:
    text = "#NoSpace\n# Real\n##x##\n#######seven\n"
    assert parsed([text], lenient_headings=True) == [H(1, "NoSpace"), H(1, "Real"), H(2, "x##"), P("#######seven")]


# ==== when ====


def out_after(lines: Iterable[str]) -> list[list[MarkdownEvent]]:
    stream = MarkdownStream()
    return [*(stream.feed(line) for line in lines), stream.close()]


def test_a_heading_is_out_with_its_newline() -> None:
    stream = MarkdownStream()
    assert stream.feed("# A") == []
    assert stream.feed("\n") == [H(1, "A")]


def test_a_heading_is_out_with_half_of_its_CRLF() -> None:
    assert out_after(["# A\r", "\n", "# B\r", "\n"]) == [[H(1, "A")], [], [H(1, "B")], [], []]


@pytest.mark.parametrize(
    ("lines", "events"),
    [
        (["- a\n", "- b\n", "\n"], [[], [B("a")], [B("b")], []]),
        (["- a\n", "  - b\n", "# c\n"], [[], [B("a")], [B("b", 1), H(1, "c")], []]),
        (["a\n", "b\n", "\n"], [[], [], [P("a\nb")], []]),
        (["a|b\n", "-|-\n", "c|d\n", "e|f\n"], [[], [head("a", "b")], [row("c", "d")], [row("e", "f")], []]),
        (["> a\n", "> b\n", "\n"], [[], [], [Q("a\nb")], []]),
        ([f"- {F}\n", "  x\n", f"  {F}\n"], [[B("")], [], [C("x\n")], []]),
        (["***\n", "a\n", "===\n"], [[HR], [], [H(1, "a")], []]),
        (["<div>\n", "\n", "<!-- -->\n"], [[], [Html("<div>")], [Html("<!-- -->")], []]),
    ],
)
def test_a_block_is_out_one_line_later_at_most(lines: list[str], events: list[list[MarkdownEvent]]) -> None:
    assert out_after(lines) == events


def test_an_event_knows_its_first_line() -> None:
    text = f"# a\n\nb\nc\n===\n- d\n  e\n\n{F}\n{F}\n> q\n\nx|y\n-|-\n1|2\n\np\n***\n<p>\n"
    assert [event.line for event in parsed([text])] == [1, 3, 6, 9, 11, 13, 15, 17, 18, 19]


def test_a_line_takes_no_part_in_equality() -> None:
    assert Heading(1, "a", line=3) == Heading(1, "a")


# ==== use ====


def test_a_closed_stream_takes_nothing() -> None:
    stream = MarkdownStream()
    stream.feed("# A")
    assert stream.close() == [H(1, "A")]
    assert stream.close() == []
    with pytest.raises(RuntimeError, match="closed"):
        stream.feed("x")


@pytest.mark.parametrize("chunk", [b"# A\n", None, 1, ["# A\n"]])
def test_what_is_no_text_is_refused(chunk: Any) -> None:
    with pytest.raises(TypeError, match=rf"takes text, not {type(chunk).__name__}"):
        MarkdownStream().feed(chunk)


async def test_a_stream_of_text_is_a_stream_of_events() -> None:
    async def pieces() -> AsyncIterator[str]:
        for piece in "# A\n- b":
            yield piece

    assert [event async for event in parse_markdown(pieces())] == [H(1, "A"), B("b")]
    assert [event async for event in parse_markdown(["# A\n- b"])] == [H(1, "A"), B("b")]


def test_a_text_is_no_stream() -> None:
    with pytest.raises(TypeError, match="stream"):
        parse_markdown("# A\n")


# ==== lines ====


def test_the_lines_outside_of_code_come_behind_their_event() -> None:
    text = (
        f" # a \nb\nc|d\n-|-\ne\n\n- f\n  g\n- - h\n- {F}\n  i\n  {F}\n> j\nk\n\n<p>\n\n-\n\n{F}\nl\n{F}\nm\n===\n>\n"
    )
    shown = [event.text if isinstance(event, Line) else type(event) for event in parsed([text], _lines=True)]
    assert shown == [
        *(Heading, "# a", Paragraph, "b", TableRow, "c|d", "-|-", TableRow, "e"),
        *(ListItem, "- f", "g", ListItem, ListItem, "- - h", ListItem, CodeBlock, Quote, "> j", "k"),
        *(HtmlBlock, "<p>", ListItem, "-", CodeBlock, Heading, "m", "===", ">"),
    ]


def test_lines_change_no_event() -> None:
    for chunks, events in CASES.values():
        assert [event for event in parsed(chunks, _lines=True) if not isinstance(event, Line)] == events


# ==== the judge ====


def plain_table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """The judge takes the line above `|---|` for a header even if it is a heading or an item; GitHub does not, and a
    stream cannot, since that line is an event already."""
    others = (fence, blockquote, hr, list_block, html_block, heading)
    if state.sCount[start] < state.blkIndent:  # a lazy line
        return False
    is_other = any(rule(state, start, end, True) for rule in others)
    return not is_other and table(state, start, end, silent)


JUDGE = MarkdownIt("commonmark").enable("table")
JUDGE.block.ruler.at("table", plain_table, {"alt": ["paragraph", "reference"]})

Seen = tuple[Any, ...]


def stripped(text: str) -> str:
    return "\n".join(line.strip(" \t") for line in text.split("\n"))


def row_of(tokens: list[Token], place: int) -> tuple[str, ...]:
    end = next(at for at in range(place, len(tokens)) if tokens[at].type == "tr_close")
    return tuple(token.content for token in tokens[place:end] if token.type == "inline")


JUDGED: dict[str, Callable[[list[Token], int], Seen]] = {
    "heading_open": lambda tokens, at: (Heading, int(tokens[at].tag[1]), stripped(tokens[at + 1].content)),
    "fence": lambda tokens, at: (CodeBlock, tokens[at].content, tokens[at].info.strip()),
    "list_item_open": lambda tokens, at: (ListItem, int(tokens[at].info) if tokens[at].info else None),
    "hr": lambda tokens, at: (ThematicBreak,),
    "html_block": lambda tokens, at: (HtmlBlock, tokens[at].content.rstrip("\n")),
    "tr_open": lambda tokens, at: (TableRow, row_of(tokens, at)),
}


def judged(text: str) -> list[Seen] | None:
    """What the judge sees outside of quotes; nothing where it sees indented code, or is wrong."""
    try:
        tokens = JUDGE.parse(text)
    except IndexError:  # it stumbles over some tabs in HTML
        return None
    if any(token.type == "code_block" for token in tokens) or GOES_ON_INDENTED.search(text):
        return None
    return list(_judged(tokens))


GOES_ON_INDENTED = re.compile(r"(?m)^.*(?: {4}|\t) *>")
"""The judge lets `    >` go on with a quote, which is indented code."""


def _judged(tokens: list[Token]) -> Iterator[Seen]:
    quotes = depth = 0
    for place, token in enumerate(tokens):
        quotes += token.nesting if token.type.startswith("blockquote") else 0
        depth += token.nesting if token.type.endswith("list_open") or token.type.endswith("list_close") else 0
        if token.type in JUDGED and not quotes:
            assert token.map is not None
            seen = JUDGED[token.type](tokens, place)
            yield (*seen, depth - 1, token.map[0] + 1) if seen[0] is ListItem else (*seen, token.map[0] + 1)


def seen(events: Iterable[MarkdownEvent]) -> Iterator[Seen]:
    for event in events:
        match event:
            case Heading(level, text):
                yield Heading, level, stripped(text), event.line
            case CodeBlock(code, _, info):
                yield CodeBlock, code, info, event.line
            case ListItem(_, depth, ordered):
                yield ListItem, ordered, depth, event.line
            case ThematicBreak():
                yield ThematicBreak, event.line
            case HtmlBlock(text):
                yield HtmlBlock, text.rstrip("\n"), event.line
            case TableRow(cells):
                yield TableRow, cells, event.line
            case _:
                pass


MARKS = ["", "", "", " ", "  ", "   ", "> ", ">", ">> ", "- ", "  - ", "1. ", "2) ", "* ", "+ ", "10. ", "\t", "     "]
TEXTS = [
    *(
        "",
        "",
        "text",
        "a b",
        "  text",
        "x  ",
        "é",
        "\tt",
        "- x",
        "* y",
        "1. n",
        "2. m",
        "10) k",
        "-",
        "1)",
        "+",
        "-   x",
    ),
    *("# H", "## H ##", "#", "#x", "####### s", "###\t", "===", "---", "--", "=", "   ===", "* * *", "***", "- - -"),
    *(
        "```",
        "```py",
        "````",
        "~~~",
        "~~~ a b",
        "``` x `",
        "> q",
        ">",
        "- [ ] t",
        "- [x] u",
        "-\tx",
        ">\tq",
        "-      x",
    ),
    *(
        "<div>",
        "</div>",
        "<!-- c",
        "-->",
        "<b>",
        "<a href='x'>",
        "<pre>",
        "</pre>",
        "<?p",
        "?>",
        "<!A",
        "<![CDATA[",
        "]]>",
    ),
    *("| a | b |", "|---|---|", "|-|", "a | b", "-|-", ":-:|---", "| x", "\\| e \\|"),
]
DEEP = re.compile(r"(?m)^.*(?: {4}|\t)[ \t]*(?:[-+*]|[0-9]+[.)])(?:[ \t]|$)")
"""A bullet that may be indented too far for CommonMark."""


def document(chance: random.Random) -> str:
    def line() -> str:
        return "".join(chance.choices(MARKS, k=chance.choice((0, 0, 1, 1, 2, 3)))) + chance.choice(TEXTS) + "\n"

    return "".join(line() for _ in range(chance.randint(1, 10)))


def agree(text: str, *kinds: type) -> bool:
    """Whether the judge sees the same, if it sees it right."""
    expected = judged(text)
    return expected is None or [one for one in expected if one[0] in kinds] == [
        one for one in seen(parsed([text])) if one[0] in kinds
    ]


def test_the_judge_sees_the_same_blocks() -> None:
    chance = random.Random(6)
    texts = [text for text in (document(chance) for _ in range(4000)) if not DEEP.search(text)]
    everything = (Heading, CodeBlock, ListItem, ThematicBreak, HtmlBlock, TableRow)
    assert [text for text in texts if not agree(text, *everything)] == []
    assert len(texts) > 2000


lines = st.builds("{}{}".format, st.lists(st.sampled_from(MARKS), max_size=3).map("".join), st.sampled_from(TEXTS))
documents = st.lists(lines, max_size=12).map("\n".join)


@settings(max_examples=150)
@given(documents)
def test_the_judge_sees_the_same_headings_and_fences(text: str) -> None:
    assert DEEP.search(text) or agree(text + "\n", Heading, CodeBlock)


@settings(max_examples=100)
@given(st.one_of(documents, st.text()), st.randoms(use_true_random=False))
def test_no_cut_changes_anything(text: str, chance: random.Random) -> None:
    whole = places(parsed([text]))
    assert places(parsed(text)) == whole
    assert places(parsed(cut(text, chance))) == whole


@settings(max_examples=100)
@given(documents, st.sampled_from(["\r", "\r\n"]))
def test_no_line_end_changes_anything(text: str, end: str) -> None:
    assert places(parsed([text.replace("\n", end)])) == places(parsed([text]))


@settings(max_examples=100)
@given(documents, st.booleans())
def test_a_text_begun_gives_the_first_events_of_the_whole(text: str, lenient: bool) -> None:
    stream = MarkdownStream(lenient_headings=lenient)
    whole = parsed([text], lenient_headings=lenient)
    begun = [event for line in text.splitlines(keepends=True) for event in stream.feed(line)]
    assert begun == whole[: len(begun)]


# ==== time ====

HOSTILE: dict[str, tuple[Callable[[int], str], int]] = {
    "one line": (lambda size: "a" * size + "\n# B\n", 100_000),
    "pipes": (lambda size: "|" * size + "\n" + "|-" * size + "\n" + "|" * size, 50_000),
    "a wide table with short rows": (lambda size: "|a" * size + "\n" + "|-" * size + "\n" + "x\n" * size, 2_000),
    "tables that are none": (lambda size: "a|b\n-|-|-\n" * size, 2_000),
    "quotes in quotes": (lambda size: ">" * size + "a\n" + "b\n" * size, 2_500),
    "items in items": (lambda size: "- " * size + "a\n" + "\n" * size + "b\n", 2_500),
    "lazy lines below items in items": (lambda size: "1. " * size + "a\n" + "b\n" * size, 2_500),
    "blank lines below items in items": (lambda size: "- " * size + "\n" + "\n \n" * size, 2_500),
    "quotes in items": (lambda size: "- > " * size + "a\n" + "\n" * size, 2_000),
    "tabs between bullets": (lambda size: "-\t" * size + "a\n", 2_500),
    "stars that are no break": (lambda size: "* " * size + "a *\n", 2_500),
    "blank code deep below": (lambda size: "- " * size + f"{F}\n" + "\n" * size, 2_500),
    "attributes": (lambda size: "<a" + " b" * size + "\n", 50_000),
    "attributes that do not end": (lambda size: "<a" + " b='" * size + "\n\n<a b" + " " * size + "\n", 50_000),
    "comments that do not end": (lambda size: "<!--\n" * size, 2_500),
    "space in a heading": (lambda size: "# a" + " " * size + "b" + " #" * size + "\n", 50_000),
    "backticks": (lambda size: "`" * size + "\n" + f"{F}a" * size + "\n", 50_000),
    "tabs in code": (lambda size: f"   {F}\n" + "\t" * size + "a\n", 20_000),
    "an underline that is none": (lambda size: "a\n" + "=" * size + "b\n" + "- " * size + "*\n", 2_500),
    "backslashes": (lambda size: "a|" + "\\" * size + "|\n|-|-|\n", 50_000),
    "fences": (lambda size: f"{F}\n" * size, 2_500),
}


def parsing(text: str, size: int) -> Callable[[], object]:
    """A run, in chunks of a size."""
    chunks = [text[place : place + size] for place in range(0, len(text), size)]
    return lambda: parsed(chunks)


@pytest.mark.parametrize("name", HOSTILE)
def test_four_times_a_hostile_text_takes_no_sixteen_times_as_long(name: str) -> None:
    text, size = HOSTILE[name]
    assert takes_at_most(9, parsing(text(size), 4096), parsing(text(4 * size), 4096), spare=0.02)


def test_single_characters_take_time_that_grows_with_their_number() -> None:
    assert parsed([*"a" * 100_000, "\n# B\n"]) == [P("a" * 100_000), H(1, "B")]
    assert takes_at_most(9, parsing("a" * 25_000 + "\n# B\n", 1), parsing("a" * 100_000 + "\n# B\n", 1))


def test_no_depth_is_too_deep() -> None:
    depth = 20_000
    assert parsed([">" * depth + "a"]) == [Q(">" * (depth - 1) + "a")]
    assert parsed(["- " * depth + "a"])[-1] == B("a", depth - 1)


def test_a_wide_table_does_not_make_every_line_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "MOST_FILLED_CELLS", 5)
    assert parsed(["|a|b|c|d|\n|-|-|-|-|\nx\n1|2\nno\n"]) == [
        head("a", "b", "c", "d"),
        row("x", "", "", ""),
        row("1", "2", "", ""),
        P("no"),
    ]

"""The page of a conversation: all of it, as text, with the right numbers, and nothing that loads or runs."""

import re
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_agent.limits import Spent
from kimi_agent.measured import KEY, MeasuredAnswer, MeasuredCall, Retry
from kimi_agent.message import (
    AudioURLPart,
    ImageURLPart,
    MediaURL,
    Message,
    TextPart,
    ThinkPart,
    ToolCall,
    UnknownPart,
    VideoURLPart,
)
from kimi_agent.session.state import Damage, SessionState
from kimi_agent.terminal.page import charts, drawing, prose, timeline, view
from kimi_agent.terminal.page.drawing import Answer, Call
from kimi_agent.terminal.page.view import page

PICTURE = "data:image/png;base64,iVBORw0KGgo="


class Element:
    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag, self.attributes = tag, attributes
        self.inside: list[Element | str] = []

    @property
    def kind(self) -> str:
        return self.attributes.get("class") or ""

    @property
    def text(self) -> str:
        return "".join(each if isinstance(each, str) else each.text for each in self.inside)

    def all(self, tag: str, kind: str | None = None) -> "Iterator[Element]":
        for each in self.inside:
            if isinstance(each, Element):
                if each.tag == tag and kind in (None, each.kind):
                    yield each
                yield from each.all(tag, kind)

    def one(self, tag: str, kind: str | None = None) -> "Element":
        (found,) = self.all(tag, kind)
        return found


class Reader(HTMLParser):
    """Reads a page, and refuses elements that are closed in another order than they were opened."""

    VOID = {"meta", "link", "img", "hr", "br"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open = [Element("", {})]
        self.feed(html)
        self.close()
        assert len(self.open) == 1, [each.tag for each in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.open[-1].inside.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].inside.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].inside.append(data)


def read(html: str) -> Element:
    return Reader(html).open[0]


def shown(*messages: Message, **fields: Any) -> Element:
    return read(page(SessionState(chat_history=messages, **fields), "A talk"))


def said(text: Any, **measured: Any) -> Message:
    return Message.assistant(text, extra={KEY: {"began": 100.0, "seconds": 2.0, **measured}})


# ==== the document ====


def test_a_conversation_of_nothing_has_a_page():
    tree = shown()
    assert tree.one("h1").text == "A talk"
    assert tree.one("title").text == "A talk"
    assert "Nothing was said yet." in tree.text
    assert not list(tree.all("figure"))


def test_the_policy_allows_the_style_of_the_page_and_pictures_in_it_and_nothing_else():
    html = page(SessionState(chat_history=(said("a", input=5, output=5),)), "t")
    tree = read(html)
    policies = [each for each in tree.all("meta") if each.attributes.get("http-equiv") == "Content-Security-Policy"]
    (policy,) = [each.attributes["content"] or "" for each in policies]
    digest = b64encode(sha256(tree.one("style").text.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert html.index("Content-Security-Policy") < html.index("<title>")
    assert "</" not in tree.one("style").text


def test_a_page_has_no_script_no_style_of_an_element_and_no_address_to_go_to():
    html = page(SessionState(chat_history=(Message.user("https://example.org"), said("[a](https://b.c)"))), "t")
    tree = read(html)
    assert not [*tree.all("script"), *tree.all("a"), *tree.all("iframe"), *tree.all("form"), *tree.all("object")]
    assert [each.attributes for each in tree.all("link")] == [{"rel": "icon", "href": "data:,"}]
    assert "style=" not in html
    assert not re.search(r"\son\w+=", html)
    assert "@import" not in html
    assert "url(" not in html


def test_the_same_conversation_gives_the_same_page():
    state = SessionState(chat_history=(Message.user("a"), said("b", input=5, output=5)))
    assert page(state, "t") == page(state, "t")


HOSTILE = [
    "<script>ran()</script>",
    "</style><script>ran()</script>",
    "</title></textarea></pre></svg><img src=x onerror=ran()>",
    '" onmouseover="ran()" x="',
    "' onmouseover='ran()",
    "<!-- --> ]]> <![CDATA[",
    "&lt;script&gt;&#60;",
    "javascript:ran()",
    "```\n</pre><script>\n```",
    "| <b>x</b> | a |\n|---|---|\n| `<i>` | **<u>y</u>** |",
    "# <h1>\n> <q>\n- <li>\n1. <ol>\n---\n<div onclick=ran()>\n</div>",
    "\x00\x1b[2J\x07\u202egnp.exe\u2066\ud800",
]


def hostile(text: str) -> SessionState:
    calls = [ToolCall(id=text, function=ToolCall.FunctionBody(name=text, arguments=text))]
    written = [ToolCall.from_function("f", call_id_="ok", key=text)]
    media = [
        ImageURLPart(image_url=MediaURL(url=text)),
        ImageURLPart(image_url=MediaURL(url=PICTURE + text)),
        AudioURLPart(audio_url=MediaURL(url=text)),
        VideoURLPart(video_url=MediaURL(url=text)),
        UnknownPart(type=text or "x", data={"deep": [text]}),
    ]
    took = {"began": 1, "seconds": 2, "model": text, "input": 5, "output": 5, "retries": [[0, 1, text]]}
    history = (
        Message.user([text, *media], name=text),
        Message.assistant([ThinkPart(think=text), text], tool_calls=calls, extra={KEY: took}),
        Message.tool([text, *media], text, name=text, extra={KEY: {"began": 3, "seconds": 1}}),
        Message.assistant(text, tool_calls=written),
        Message.tool(text, "nobody", name=text),
        Message.system(text),
    )
    return SessionState((Message.system(text),), history, damage=(Damage(1, 2, text),))


def attributes(tree: Element) -> set[str]:
    found: set[str] = set()
    for each in tree.inside:
        if isinstance(each, Element):
            found |= {f"{each.tag} {name}" for name in each.attributes} | attributes(each)
    return found


PLAIN = attributes(read(page(hostile("plain words"), "plain words")))
BLOCKS = attributes(read(page(hostile("# a\n- b\n\n```x\nc\n```\n> d\n\n|e|\n|-|\n|f|\n\n`g` **h**\n\n---"), "t")))


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_text_says_it_stays_text(text: str):
    html = page(hostile(text), text)
    tree = read(html)
    assert not list(tree.all("script"))
    assert attributes(tree) <= PLAIN | BLOCKS
    html.encode()  # no lone surrogate is left
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)


@settings(max_examples=60)
@given(st.text(st.characters(blacklist_categories=()), max_size=60))
def test_any_text_stays_text(text: str):
    html = page(hostile(text), text)
    html.encode()
    assert attributes(read(html)) <= PLAIN | BLOCKS


def test_control_characters_and_marks_that_turn_the_direction_are_shown():
    tree = shown(Message.user("a\x00b\x1b[31m\u202ec\ud800"))
    assert tree.one("article").one("div", "plain").text == "a\\x00b\\x1b[31m\\u202ec\\ud800"


# ==== the conversation ====


def test_each_message_says_who_and_what_in_order():
    tree = shown(Message.user("Hello\n  you", name="ada"), said("Hi."), Message.system("Be terse."))
    messages = list(tree.all("article"))
    assert [each.kind for each in messages] == ["message user", "message assistant", "message system"]
    assert messages[0].one("span", "who").text == "User · ada"
    assert messages[0].one("div", "plain").text == "Hello\n  you"
    assert "Hi." in messages[1].text


def test_an_answer_says_what_it_took():
    again = [[0.1, 1, "RateLimitError"], [1.2, 2, "RateLimitError"]]
    tree = shown(said("a"), said("b", input=1234, output=56, retries=again), Message.assistant("c"))
    assert [each.text for each in tree.all("span", "meta")] == [
        "answer 1 · 1970-01-01 00:01:40 · 2 s",
        "answer 2 · 00:01:40 · 2 s · 1,234 tokens in · 56 out · asked again 2 ×",
        "answer 3",
    ]


def test_an_answer_says_the_day_where_it_is_another_one():
    begans = [86_390.0, 86_395.0, 86_401.0, 86_500.0, 5.0]
    answers = [said("a", began=began) for began in begans]
    tree = shown(*answers[:2], Message.assistant("of nobody knows when"), *answers[2:])
    whens = [each.text.split(" · ")[1] for each in tree.all("span", "meta") if " · " in each.text]
    assert whens == ["1970-01-01 23:59:50", "23:59:55", "1970-01-02 00:00:01", "00:01:40", "1970-01-01 00:00:05"]


def test_reasoning_is_folded():
    (thought,) = shown(said([ThinkPart(think="I wonder."), "So."])).all("details", "thought")
    assert "open" not in thought.attributes
    assert thought.one("summary").text == "Reasoning · 9 characters"
    assert thought.one("div", "plain").text == "I wonder."
    assert not list(shown(said([ThinkPart(think=""), "So."])).all("details", "thought"))


def test_a_call_is_one_line_with_its_arguments_and_result_within():
    asking = Message.assistant(tool_calls=[ToolCall.from_function("look", call_id_="1", where="Köln")])
    result = Message.tool("sunny", "1", extra={KEY: {"began": 5, "seconds": 0.25}})
    tree = shown(asking, result)
    call = tree.one("details", "call")
    assert len(list(tree.all("article"))) == 1
    assert call.one("summary").text == 'look {"where": "Köln"}250 ms'
    assert [each.text for each in call.all("pre")] == ['{\n  "where": "Köln"\n}', "sunny"]


def test_calls_of_one_id_get_their_own_results_and_a_result_of_no_call_stands_alone():
    call = ToolCall.from_function("look", call_id_="same")
    asking = Message.assistant(tool_calls=[call, call])
    results = [Message.tool(text, "same") for text in ("first", "second")]
    tree = shown(asking, *results, asking, Message.tool("third", "same"), Message.tool("stray", "other"))
    calls = [[pre.text for pre in each.all("pre")] for each in tree.all("details", "call")]
    assert calls == [["{}", "first"], ["{}", "second"], ["{}", "third"], ["{}"]]
    assert [each.kind for each in tree.all("article")] == ["message assistant"] * 2 + ["message tool"]
    assert "no result" in [*tree.all("details", "call")][-1].one("summary").text


def test_a_call_that_went_wrong_says_so():
    asking = Message.assistant(tool_calls=[ToolCall.from_function("look", call_id_="1")])
    tree = shown(asking, Message.tool("no such town", "1", is_tool_call_error=True))
    assert "went wrong" in tree.one("details", "call wrong").one("summary").text


def test_arguments_that_are_no_json_are_shown_as_they_are():
    call = ToolCall(id="1", function=ToolCall.FunctionBody(name="f", arguments='{"a": '))
    deep = ToolCall(id="2", function=ToolCall.FunctionBody(name="f", arguments="[" * 100_000))
    nothing = ToolCall(id="3", function=ToolCall.FunctionBody(name="f", arguments=None))
    first, second, third = shown(Message.assistant(tool_calls=[call, deep, nothing])).all("details", "call")
    assert first.one("pre").text == '{"a": '
    assert "[[[" in second.text
    assert not list(third.all("pre"))


def test_answers_are_markdown_and_what_people_say_is_not():
    tree = shown(
        Message.user("# not *this*"), said("# Title\n\nText with `code` and **weight**.\n\n- one\n  - [x] two")
    )
    asked, answer = tree.all("article")
    assert asked.one("div", "plain").text == "# not *this*"
    assert answer.one("p", "heading h1").text == "Title"
    assert (answer.one("code").text, answer.one("strong").text) == ("code", "weight")
    assert [each.kind for each in answer.all("p") if "item" in each.kind] == ["item depth0", "item depth1"]
    assert "☑ two" in answer.text


def test_code_and_tables_are_shown_as_such():
    tree = shown(said("```python\nprint('<b>')\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> so\n\n---\n"))
    answer = tree.one("article")
    assert answer.one("pre").text == "print('<b>')\n"
    assert answer.one("span", "language").text == "python"
    assert [each.text for each in answer.all("th")] == ["a", "b"]
    assert [each.text for each in answer.all("td")] == ["1", "2"]
    assert answer.one("blockquote").text == "so"
    assert len(list(answer.all("hr"))) == 1


@pytest.mark.parametrize(("role", "tag"), [("user", "div"), ("assistant", "p"), ("tool", "pre")])
def test_what_is_long_is_folded_and_all_there(role: Any, tag: str):
    long = " ".join(f"{number:06}" for number in range(50_000))
    message = shown(Message(role=role, content=[TextPart(text=long)], tool_call_id="x")).one("article")
    assert message.one("details").one("summary").text == f"{len(long) - prose.MOST_SHOWN:,} more characters"
    pieces = [each.text for each in message.all(tag) if each.kind != "head"]
    assert "".join(pieces) == long
    assert len(pieces[0]) == prose.MOST_SHOWN


def test_long_markdown_keeps_its_form_and_is_folded_between_blocks():
    paragraph = "Some **bold** words.\n\n" + "w" * 980 + "\n\n- one\n- two\n\n| a |\n|---|\n| b |\n\n"
    tree = shown(said("# Title\n\n" + paragraph * 50)).one("article")
    rest = tree.one("details")
    assert tree.one("p", "heading h1").text == "Title"
    for kind, number in (("strong", 50), ("table", 50)):
        assert len(list(tree.all(kind))) == number
        assert 10 < len(list(rest.all(kind))) < 40
    assert {len(each.text) for each in tree.all("p", "")} == {len("Some bold words."), 980}


def test_long_code_stays_code_and_is_cut_between_lines():
    lines = "".join(f"    line **{number}**\n" for number in range(3000))
    answer, asking = said(f"Look:\n\n```python\n{lines}```\n\nSo it is."), Message.tool(lines, "x")
    for each in shown(answer, asking).all("article"):
        head, rest = (pre.text for pre in each.all("pre"))
        assert head + rest == lines
        assert prose.MOST_SHOWN - 100 < len(head) <= prose.MOST_SHOWN
        assert head.endswith("\n")
        assert each.one("details").one("pre").text == rest
        assert not list(each.all("strong"))
    (article, _) = shown(answer, asking).all("article")
    assert [each.text for each in article.all("span", "language")] == ["python"] * 2
    assert article.one("details").text.endswith("So it is.")


def test_markdown_that_nobody_will_read_is_not_parsed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prose, "MOST_FORMED", 50_000)
    rest = shown(said("- item\n" * 10_000)).one("article").one("details")
    assert rest.one("div", "plain").text == "- item\n" * (10_000 - 50_000 // 7)


def test_a_picture_in_the_session_is_shown_and_one_elsewhere_is_named():
    urls = [
        PICTURE,
        "https://example.org/a.png",
        "ms://file-1",
        "javascript:ran()",
        "data:text/html,<script>ran()</script>",
        "data:image/svg+xml;base64,PHN2Zz4=",
        'data:image/png;base64,AA==" onload="ran()',
    ]
    tree = shown(Message.user([ImageURLPart(image_url=MediaURL(url=url)) for url in urls]))
    assert [each.attributes["src"] for each in tree.all("img")] == [PICTURE]
    assert "picture: https://example.org/a.png" in tree.text
    assert "picture: ms://file-1" in tree.text


def test_sounds_films_and_parts_that_nobody_knows_are_named():
    parts = [
        AudioURLPart(audio_url=MediaURL(url="data:audio/wav;base64," + "A" * 5000)),
        VideoURLPart(video_url=MediaURL(url="ms://film")),
        UnknownPart(type="hologram", data={"depth": 3}),
    ]
    text = shown(Message.user(parts)).text
    assert "5,022 characters" in text
    assert "A" * 100 not in text
    assert "film: ms://film" in text
    assert "hologram" in text
    assert '"depth": 3' in text


def test_pinned_messages_stand_before_and_what_is_no_longer_sent_is_marked():
    state = SessionState(
        (Message.system("Be terse."),), (Message.user("old"), said("older"), Message.user("new")), cut=2
    )
    tree = read(page(state, "t"))
    assert "Be terse." in tree.one("details", "pinned").text
    words = tree.one("main").text
    assert words.index("older") < words.index("no longer sent") < words.index("new")
    assert "no longer sent" not in shown(Message.user("a")).text


def test_what_could_not_be_read_is_told():
    assert "7 bytes at 1,024: not JSON" in shown(damage=(Damage(1024, 7, "not JSON"),)).text


# ==== the summary ====


def facts(tree: Element) -> dict[str, str]:
    names, values = tree.all("dt"), tree.all("dd")
    return {name.text: value.text for name, value in zip(names, values, strict=True)}


def test_the_summary_has_what_is_known():
    usage = Spent(input_other=250, output=70, input_cache_read=750, requests=3, tool_calls=2, cost=0.0125)
    history = (said("a", model="kimi-k3"), Message.user("b"), said("c", model="kimi-k2.5"), said("d", model="kimi-k3"))
    assert facts(shown(*history, usage=usage)) == {
        "Model": "kimi-k3, kimi-k2.5",
        "Messages": "4",
        "Requests": "3",
        "Calls of functions": "2",
        "Prompt tokens": "1,000 (75% cached)",
        "Answer tokens": "70",
        "Cost": "$0.0125",
        "Began": "1970-01-01 00:01:40 UTC",
        "Time of work": "2 s",
    }


def test_a_cost_of_which_some_is_known_is_told_as_such():
    known = [
        (Spent(requests=2, input_other=1, cost=None, priced=0.0024), "at least $0.0024"),
        (Spent(requests=2, cost=0.5, stopped=1), "at least $0.5000"),
        (Spent(requests=2, cost=None), "not known"),
        (Spent(requests=2, cost=0.0), "$0.0000"),
    ]
    assert [facts(shown(usage=usage))["Cost"] for usage, _ in known] == [words for _, words in known]


COUNTED = ("Requests", "Calls of functions", "Prompt tokens", "Answer tokens", "Cost")


def test_answers_of_which_no_request_was_counted_have_taken_nobody_knows_what():
    known = facts(shown(Message.user("a"), Message.assistant("b")))
    assert {known[name] for name in COUNTED} == {"not known"}
    known = facts(shown(Message.user("a")))
    assert [known[name] for name in COUNTED] == ["0", "0", "0", "0", "$0.0000"]


def test_what_nobody_measured_is_not_known():
    tree = shown(Message.assistant("a"), Message.assistant("b"), usage=Spent(input_other=1, requests=1, cost=None))
    known = facts(tree)
    assert {known[name] for name in ("Model", "Cost", "Began", "Time of work")} == {"not known"}
    assert "None of the answers was measured" in tree.text
    assert "1 of 2 answers were not measured" in shown(Message.assistant("a"), said("b")).text


# ==== pictures ====


def answered(number: int, **fields: Any) -> Answer:
    return Answer(number, MeasuredAnswer(**{"began": 100.0 * number, "seconds": 2.0, **fields}))


def numbers(figure: drawing.Figure | None) -> list[list[str]]:
    assert figure is not None
    rows = read(figure.html).one("tbody").all("tr")
    return [[cell.text for cell in row.all("td")] for row in rows]


def bars(figure: drawing.Figure | None, kind: str) -> list[tuple[float, float]]:
    """Top and height of bars."""
    assert figure is not None
    return [(float(bar.attributes["y"] or ""), float(bar.attributes["height"] or "")) for bar in _bars(figure, kind)]


def places(figure: drawing.Figure | None, kind: str) -> list[tuple[float, float]]:
    """Where bars begin and how wide they are, in percent."""
    assert figure is not None
    sizes = [(bar.attributes["x"] or "", bar.attributes["width"] or "") for bar in _bars(figure, kind)]
    return [(float(x.rstrip("%")), float(width.rstrip("%"))) for x, width in sizes]


def _bars(figure: drawing.Figure, kind: str) -> Iterator[Element]:
    return read(figure.html).one("svg", "plot").all("rect", kind)


def titles(figure: drawing.Figure | None) -> list[str]:
    assert figure is not None
    return [each.text for each in read(figure.html).all("title")]


def test_tokens_of_an_answer_stand_on_each_other_in_proportion():
    figure = charts.tokens([answered(1, input=1000, cached=600, output=100), answered(2, input=2000, output=0)])
    assert numbers(figure) == [["1", "600", "400", "100", "1,100"], ["2", "0", "2,000", "0", "2,000"]]
    assert titles(figure) == [
        "answer 1: 600 from the cache",
        "answer 1: 400 new",
        "answer 1: 100 output",
        "answer 2: 2,000 new",
    ]
    (cached,), (new, other), (output,) = (bars(figure, kind) for kind in ("cached", "new", "output"))
    assert [cached[1] / 600, new[1] / 400, output[1] / 100] == pytest.approx([other[1] / 2000] * 3, rel=0.01)
    assert cached[0] == pytest.approx(new[0] + new[1])
    assert new[0] == pytest.approx(output[0] + output[1])
    assert [sum(each) for each in (cached, other)] == [drawing.TOP + charts.HIGH] * 2


@pytest.mark.parametrize(("count", "named"), [(3, [1, 2, 3]), (20, [*range(1, 21)]), (21, [1, 5, 10, 15, 20])])
def test_answers_are_numbered_where_there_is_room(count: int, named: list[int]):
    figure = charts.tokens([answered(number, input=5, output=5) for number in range(1, count + 1)])
    assert figure is not None
    assert [int(each.text) for each in read(figure.html).one("svg", "plot").all("text")] == named


def test_more_cached_tokens_than_there_were_are_not_drawn():
    assert numbers(charts.tokens([answered(1, input=10, cached=50, output=1)])) == [["1", "10", "0", "1", "11"]]


def test_answers_without_a_count_leave_their_place_empty():
    figure = charts.tokens([answered(1, input=5, output=5), answered(2), answered(3, input=5, output=5)])
    first, third = places(figure, "new")
    assert third[0] - first[0] == pytest.approx(2 * 100 / 8, rel=1e-3)
    assert charts.tokens([answered(1)]) is None
    assert charts.tokens([]) is None


def test_the_context_is_the_prompt_and_its_answer():
    figure = charts.context(
        [
            answered(1, input=100, output=20, window=1000),
            answered(2, prompt=300, window=1000),
            answered(3, input=500, output=0),
            answered(4),
        ]
    )
    assert numbers(figure) == [
        ["1", "120", "1,000", "12.0%"],
        ["2", "300", "1,000", "30.0%"],
        ["3", "500", "not known", "not known"],
    ]
    assert titles(figure) == [
        "answer 1: 120 tokens, 12.0% of the window",
        "answer 2: 300 tokens, 30.0% of the window",
        "answer 3: 500 tokens",
    ]
    assert figure is not None
    heights = [drawing.TOP + charts.HIGH - float(dot.attributes["cy"] or "") for dot in read(figure.html).all("circle")]
    assert heights == pytest.approx(
        [120 * charts.HIGH / 1000, 300 * charts.HIGH / 1000, 500 * charts.HIGH / 1000], abs=0.01
    )
    assert len(list(read(figure.html).all("line", "window"))) == 2
    assert charts.context([answered(1)]) is None


def test_a_window_that_is_far_above_is_told_and_not_drawn():
    figure = charts.context([answered(1, input=100, output=0, window=1_000_000)])
    assert figure is not None
    assert not list(read(figure.html).all("line", "window"))
    assert "filled: at most 100, at most 0.0% of the window" in read(figure.html).text


def test_each_answer_has_the_window_of_its_own_model():
    windows = [(120_000, 131_072), (200_000, 262_144), (5_000, 1_048_576)]
    figure = charts.context([answered(n, input=i, output=1000, window=w) for n, (i, w) in enumerate(windows, 1)])
    assert figure is not None
    tree = read(figure.html)
    assert [each.text for each in tree.one("ul").all("li")] == [
        "filled: at most 201,000, at most 92.3% of the window",
        "windows: 131,072 and 262,144",
    ]
    tops = [float(each.attributes["y1"] or "") for each in tree.all("line", "window")]
    assert len(tops) == 2
    assert drawing.TOP < tops[1] < tops[0]
    assert tree.one("svg", "plot").attributes["aria-label"] == (
        "Tokens in the window after 3 answers: at most 201,000, at most 92.3% of the window."
    )


def ran(began: float, seconds: float, name: str = "look", *, failed: bool = False, answer: int = 0) -> Call:
    return Call(name, MeasuredCall(began=began, seconds=seconds), failed, answer)


def test_the_time_line_has_everything_where_it_was():
    asked = answered(1, began=100.0, seconds=4.0, first=1.0, retries=[Retry(0.25, 0.5, "RateLimitError: busy")])
    figure = timeline.time_line([asked], [ran(104, 2), ran(104.5, 5.5, "find", failed=True)])
    assert places(figure, "waiting") == [(0, 10)]
    assert places(figure, "answering") == [(10, 30)]
    assert places(figure, "retry") == [(2.5, 5)]
    assert places(figure, "tool") == [(40, 20)]
    assert places(figure, "failed") == [(45, 55)]
    assert bars(figure, "tool")[0][0] < bars(figure, "failed")[0][0]
    assert numbers(figure) == [
        ["1970-01-01 00:01:40", "answer 1", "4 s", "1 s", "RateLimitError: busy, after 500 ms"],
        ["1970-01-01 00:01:44", "look", "2 s", "", ""],
        ["1970-01-01 00:01:44", "find (went wrong)", "5.5 s", "", ""],
    ]
    assert "answer 1: RateLimitError: busy, again after 500 ms" in titles(figure)
    assert timeline.time_line([], []) is None


def test_what_happened_in_one_millisecond_stands_in_the_order_of_the_conversation():
    asked = [answered(number, began=100.0, seconds=0.0) for number in (1, 2)]
    figure = timeline.time_line(asked, [ran(100.0, 0.0, "look", answer=1), ran(100.0, 0.0, "find", answer=2)])
    assert [row[1] for row in numbers(figure)] == ["answer 1", "look", "answer 2", "find"]


def labels(figure: drawing.Figure | None, line: int = 0) -> list[str]:
    """The words below a time line, from left to right: those of the clock, or the days below them."""
    return [words for _, _, words in _words(figure, 18 + 14 * line)]


def _words(figure: drawing.Figure | None, below: float) -> list[tuple[float, float, str]]:
    """Words so far below the rows with their ends, in pixels of the picture at its smallest."""
    assert figure is not None
    plot = read(figure.html).one("svg", "plot")
    rows = max(float(each.attributes["y2"] or "") for each in plot.all("line"))
    return sorted(
        _ends(each, figure.width) for each in plot.all("text") if float(each.attributes["y"] or "") == rows + below
    )


def _ends(words: Element, width: int) -> tuple[float, float, str]:
    x, long = float((words.attributes["x"] or "").rstrip("%")) / 100 * width, len(words.text) * 7.8
    begin = x - long * {"start": 0, "middle": 0.5, "end": 1}[words.attributes["text-anchor"] or ""]
    return begin, begin + long, words.text


def names(figure: drawing.Figure | None) -> list[str]:
    assert figure is not None
    return [each.text for each in read(figure.html).one("svg", "axis").all("text")]


def tops(figure: drawing.Figure | None, kind: str) -> list[float]:
    return [top for top, _ in bars(figure, kind)]


def test_calls_one_after_another_stand_in_one_row_and_those_at_the_same_time_in_many():
    one = timeline.time_line([], [ran(1, 1), ran(2, 1), ran(3, 1)])
    assert len(set(tops(one, "tool"))) == 1
    assert names(one) == ["Calls"]
    many = timeline.time_line([answered(1, began=0.0)], [ran(2, 3) for _ in range(12)])
    assert len(set(tops(many, "tool"))) == 12
    assert names(many) == ["Model", "Calls"]
    free = timeline.time_line([], [ran(1, 9), ran(1, 2), ran(1, 9), ran(4, 1)])
    assert tops(free, "tool")[3] == tops(free, "tool")[1]


def test_the_last_row_has_all_that_have_no_row_and_what_goes_wrong_is_seen_there():
    calls = [ran(1, 3, failed=number == 18) for number in range(22)]
    figure = timeline.time_line([], calls)
    assert len({*tops(figure, "tool")}) == timeline._MOST_ROWS
    assert names(figure) == ["Calls", "+7 more"]
    assert figure is not None
    drawn = [each.kind for each in read(figure.html).one("svg", "plot").all("rect")]
    assert (drawn.index("failed"), len(drawn)) == (21, 22)
    assert max(tops(figure, "tool")) == tops(figure, "failed")[0]


def test_answers_overlap_where_the_clock_was_set_back_and_stand_below_each_other():
    figure = timeline.time_line(
        [answered(n, began=began, seconds=5.0) for n, began in enumerate([10, 8, 15, 14.99], 1)], []
    )
    first, second, third, fourth = tops(figure, "answering")
    assert first < second
    assert {third, fourth} == {first, second}
    following = timeline.time_line([answered(1, began=10.0, seconds=5.0), answered(2, began=14.999, seconds=5.0)], [])
    assert len(set(tops(following, "answering"))) == 1


def test_short_requests_beside_long_calls_can_be_seen():
    asked = [
        answered(n, began=n * 3602.0, seconds=2.0 * (n > 1), first=0.5, retries=[Retry(0, 1, "x")])
        for n in range(1, 11)
    ]
    figure = timeline.time_line(asked, [ran(each.took.began + each.took.seconds, 3600) for each in asked])
    assert figure is not None
    waiting, answering = places(figure, "waiting"), places(figure, "answering")
    assert [round(width * figure.width / 100, 1) for _, width in answering] == [5] + [3.8] * 9
    assert [round(width * figure.width / 100, 1) for _, width in waiting] == [1.2] * 9
    for (x, width), (after, _) in zip(waiting, answering[1:], strict=True):
        assert x + width == pytest.approx(after, abs=1e-3)
    assert min(width for _, width in places(timeline.time_line(asked, [ran(0, 0)]), "tool")) > 0
    assert "#timeline .plot rect { stroke: var(--card)" in view._style()


def test_an_answer_whose_first_token_nobody_timed_is_all_answer():
    figure = timeline.time_line([answered(1), answered(2, first=0.5)], [])
    assert len(places(figure, "waiting")) == 1
    assert "answer 1: 2 s in all" in titles(figure)
    assert "answer 2: 500 ms until the first token, 2 s in all" in titles(figure)


def test_a_pause_takes_little_room_and_its_length_is_told():
    figure = timeline.time_line([answered(1, began=0.0, seconds=10.0), answered(2, began=80_000.0, seconds=10.0)], [])
    (first, width), (second, other) = places(figure, "answering")
    assert width == other == pytest.approx(10 / 20.6 * 100, abs=0.01)
    assert second - first - width == pytest.approx(0.6 / 20.6 * 100, abs=0.01)
    assert "nothing for 22 h 13 min" in titles(figure)
    assert figure is not None
    assert "22 h 13 min" in [each.text for each in read(figure.html).one("svg", "plot").all("text")]


@pytest.mark.parametrize(("count", "apart"), [(2, 0.5), (5, 31.7), (60, 3.0), (500, 3.0), (40, 90_000.0)])
def test_words_of_a_time_line_do_not_stand_on_each_other(count: int, apart: float):
    figure = timeline.time_line([answered(n, began=n * apart, seconds=apart / 40) for n in range(1, count)], [])
    assert figure is not None
    plot = read(figure.html).one("svg", "plot")
    rows = {each.attributes["y"] for each in plot.all("text")}
    for row in rows:
        ends = sorted(_ends(each, figure.width) for each in plot.all("text") if each.attributes["y"] == row)
        assert ends[0][0] >= -0.01
        assert ends[-1][1] <= figure.width + 0.01
        assert all(before[1] < after[0] for before, after in pairwise(ends))


def test_a_time_line_of_several_days_has_them_where_they_change():
    begans = [86_340.0, 86_390.0, 86_460.0, 400_000.0]
    figure = timeline.time_line([answered(n, began=began, seconds=1.0) for n, began in enumerate(begans, 1)], [])
    assert labels(figure, 1) == ["1970-01-01", "1970-01-02", "1970-01-05"]
    assert [label for label in labels(figure) if ":" in label] == ["23:59:00", "00:01:00", "15:06:40"]
    one_day = timeline.time_line([answered(1, began=80_000.0), answered(2, began=80_100.0)], [])
    assert labels(one_day, 1) == []


@pytest.mark.parametrize(
    ("seconds", "marks"),
    [
        (0.4, ["+200 ms", "+400 ms"]),
        (7, ["+5 s"]),
        (40, ["+15 s", "+30 s"]),
        (100, ["+1 min"]),
        (300, ["+2 min", "+4 min"]),
        (3000, ["+30 min"]),
        (36_020, ["+6 h"]),
        (86_400 * 2.5, ["+24 h", "+2 days"]),
        (86_400 * 30, ["+20 days"]),
    ],
)
def test_marks_of_a_time_line_are_round(seconds: float, marks: list[str]):
    figure = timeline.time_line([answered(1, began=0.0, seconds=seconds)], [])
    assert labels(figure)[1:] == marks


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 ms"),
        (0.0123, "12 ms"),
        (1.5, "1.5 s"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min"),
        (61, "1 min 01 s"),
        (3599.4, "59 min 59 s"),
        (3599.7, "1 h"),
        (3690, "1 h 02 min"),
        (172_799, "48 h"),
        (86_400 * 2.5, "2 days 12 h"),
        (86_400 * 9, "9 days"),
    ],
)
def test_time_spans_are_said_as_people_say_them(seconds: float, words: str):
    assert drawing.duration(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0"), (999, "999"), (1000, "1k"), (12_500, "12.5k"), (2_000_000, "2M"), (3e9, "3G"), (2**53, "9e+15")],
)
def test_an_axis_has_room_for_its_numbers(number: float, words: str):
    assert drawing.short(number) == words


FIELD = st.none() | st.integers(0, 2**53)


@settings(max_examples=60)
@given(
    st.lists(
        st.builds(
            MeasuredAnswer,
            began=st.floats(0, 3e10),
            seconds=st.floats(0, 3e7),
            first=st.none() | st.floats(0, 3e7),
            window=FIELD,
            prompt=FIELD,
            input=FIELD,
            cached=FIELD,
            output=FIELD,
            retries=st.lists(st.builds(Retry, st.floats(0, 3e7), st.floats(0, 3e7), st.text(max_size=5)), max_size=3),
        ),
        max_size=6,
    ),
    st.lists(st.builds(MeasuredCall, began=st.floats(0, 3e10), seconds=st.floats(0, 3e7)), max_size=6),
)
def test_whatever_was_measured_is_drawn_within_the_picture(answers: list[MeasuredAnswer], calls: list[MeasuredCall]):
    asking = [Message.assistant(tool_calls=[ToolCall.from_function("f", call_id_="1")])] * len(calls)
    results = [Message.tool("a", "1", extra={KEY: each.model_dump()}) for each in calls]
    history = [Message.assistant("a", extra={KEY: each.model_dump()}) for each in answers]
    history += [message for pair in zip(asking, results, strict=True) for message in pair]
    tree = shown(*history)
    for plot in tree.all("svg", "plot"):
        for bar in plot.all("rect"):
            x, width = (float((bar.attributes[name] or "").rstrip("%")) for name in ("x", "width"))
            top, height = (float(bar.attributes[name] or "") for name in ("y", "height"))
            assert -0.01 <= x <= x + width <= 100.01
            assert 0 <= top <= top + height <= float(plot.attributes["height"] or "")


def test_thousands_of_answers_have_a_page():
    took = {"began": 1.0, "seconds": 2.0, "input": 5000, "cached": 4000, "output": 50, "window": 10_000}
    history = [
        Message.assistant([TextPart(text="a")], extra={KEY: {**took, "began": number * 3.0}}) for number in range(3000)
    ]
    html = page(SessionState(chat_history=tuple(history)), "t")
    assert html.count('<rect class="cached"') == 3000 + 1  # and the legend's
    assert ".plot{min-width:30000px}" in html


# ==== colours and paper ====


def colours(scheme: int) -> dict[str, str]:
    """The colours of the style: light ones, and dark ones."""
    blocks = re.findall(r":root \{(.*?)\}", view._style(), re.DOTALL)
    return dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[scheme]))


def contrast(one: str, other: str) -> float:
    """As WCAG 2 has it, from 1 to 21."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(part * share for part, share in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_what_is_drawn_stands_out_from_the_card_and_words_do_so_more(scheme: int):
    known = colours(scheme)
    drawn = ("cached", "new", "output", "waiting", "retry", "tool", "bad")
    assert {
        name: contrast(known[name], known["card"]) for name in drawn if contrast(known[name], known["card"]) < 3
    } == {}
    assert min(contrast(known[name], known["card"]) for name in ("ink", "soft", "user", "model", "bad")) > 4.5
    assert min(contrast(known["new"], known[name]) for name in ("cached", "waiting")) > 2

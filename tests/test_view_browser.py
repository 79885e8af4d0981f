"""The page of a conversation in a real browser: its pictures have the right numbers, and a hostile one runs nothing."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser_path

from kimi_agent import Agent, Kimi, TokenUsage, ai_function
from kimi_agent.measured import KEY
from kimi_agent.message import ImageURLPart, MediaURL, Message, ThinkPart, ToolCall
from kimi_agent.session import JournalSession
from kimi_agent.session.state import Damage, SessionState
from kimi_agent.terminal.page.view import page
from kimi_agent.testing import Failure, KimiServer, Reply, call

PATH = browser_path()
pytestmark = [
    pytest.mark.skipif(PATH is None, reason="there is no browser here; Debian has one: apt-get install chromium"),
    pytest.mark.timeout(180),
]

PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PATH is not None
    with Browser(PATH, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def written(folder: Path, html: str) -> Path:
    path = folder / "page.html"
    path.write_text(html, "utf-8")
    return path


def answer(number: int, **fields: Any) -> Message:
    took = {"began": 1000.0 + 10 * number, "seconds": 4.0, "first": 1.0, "model": "kimi-k3", "window": 10_000}
    took |= {"input": 900 * number, "cached": 600 * number, "output": 100}
    return Message.assistant(f"Answer **{number}**.", extra={KEY: {**took, **fields}})


def talk(answers: int = 3) -> SessionState:
    said = [message for number in range(1, answers + 1) for message in (Message.user("And?"), answer(number))]
    return SessionState(chat_history=tuple(said))


BARS = """
[...document.querySelectorAll("#%s .plot rect")].map(bar => {
    const box = bar.getBoundingClientRect(), plot = bar.ownerSVGElement.getBoundingClientRect();
    return {kind: bar.getAttribute("class"), title: bar.querySelector("title").textContent, height: box.height,
            bottom: box.bottom - plot.top, left: (box.left - plot.left) / plot.width, width: box.width / plot.width};
})
"""
TICKS = """
[...document.querySelectorAll("#%s .axis text")].map(
    tick => [tick.textContent, tick.getBoundingClientRect().top - tick.ownerSVGElement.getBoundingClientRect().top])
"""
FACTS = """[...document.querySelectorAll(".facts div")].map(fact => [...fact.children].map(each => each.textContent))"""
CELLS = """[...document.querySelectorAll("#%s tbody tr")].map(row => [...row.cells].map(cell => cell.textContent))"""


# ==== the pictures ====


def test_the_bars_are_as_high_as_the_axis_says(browser: Browser, tmp_path: Path):
    browser.open(written(tmp_path, page(talk(), "A talk")))
    bars, ticks = browser.value(BARS % "tokens"), browser.value(TICKS % "tokens")
    assert [label for label, _ in ticks] == ["0", "1k", "2k", "3k"]
    pixels = (ticks[0][1] - ticks[-1][1]) / 3000
    assert [(bar["kind"], round(bar["height"] / pixels)) for bar in bars] == [
        *[("cached", 600), ("new", 300), ("output", 100)],
        *[("cached", 1200), ("new", 600), ("output", 100)],
        *[("cached", 1800), ("new", 900), ("output", 100)],
    ]
    for below, above in ((bars[0], bars[1]), (bars[1], bars[2])):
        assert below["bottom"] - below["height"] == pytest.approx(above["bottom"], abs=0.1)
    assert bars[7]["title"] == "answer 3: 900 new"
    assert browser.value(CELLS % "tokens")[2] == ["3", "1,800", "900", "100", "2,800"]
    assert browser.complaints == []


def test_the_points_of_the_context_are_where_the_axis_says(browser: Browser, tmp_path: Path):
    browser.open(written(tmp_path, page(talk(), "A talk")))
    ticks = browser.value(TICKS % "context")
    heights = browser.value(
        """[...document.querySelectorAll("#context circle")].map(
        dot => document.querySelector("#context .base").getBoundingClientRect().top
            - (dot.getBoundingClientRect().top + dot.getBoundingClientRect().bottom) / 2)"""
    )
    assert ticks[-1][0] == "10k"
    pixels = (ticks[0][1] - ticks[-1][1]) / 10_000
    assert [height / pixels for height in heights] == pytest.approx([1000, 1900, 2800], abs=50)
    line = browser.value("document.querySelector('#context polyline').getBoundingClientRect().height")
    assert line / pixels == pytest.approx(1800, abs=50)
    assert browser.value(CELLS % "context")[1] == ["2", "1,900", "10,000", "19.0%"]


def test_the_time_line_has_requests_retries_and_calls_in_proportion(browser: Browser, tmp_path: Path):
    asking = answer(0, retries=[[0.25, 0.5, "RateLimitError: busy"]]).copy_with(
        tool_calls=[ToolCall.from_function("look", call_id_="1")]
    )
    result = Message.tool("seen", "1", extra={KEY: {"began": 1004.0, "seconds": 6.0}})
    browser.open(written(tmp_path, page(SessionState(chat_history=(asking, result)), "A talk")))
    bars = [(bar["kind"], bar["left"], bar["width"]) for bar in browser.value(BARS % "timeline")]
    assert [kind for kind, _, _ in bars] == ["waiting", "answering", "retry", "tool"]
    places = [place for _, left, width in bars for place in (left, width)]
    assert places == pytest.approx([0, 0.1, 0.1, 0.3, 0.025, 0.05, 0.4, 0.6], abs=0.005)


async def test_the_numbers_are_those_of_the_conversation(browser: Browser, tmp_path: Path):
    class Looking(Agent):
        @ai_function()
        def look(self) -> str:
            """Look."""
            return "seen"

    busy = Failure(429, "engine_overloaded_error", "busy", retry_after=0)
    script = [
        busy,
        Reply(tool_calls=[call("look")], usage=TokenUsage(input_other=300, output=20)),
        Reply("So it is.", usage=TokenUsage(input_other=50, input_cache_read=300, output=30)),
    ]
    async with KimiServer(script) as server:
        kimi = Kimi("kimi-k3", api_key=server.api_key, base_url=server.base_url)
        session = JournalSession(tmp_path / "talk.jsonl")
        async with Looking(kimi, session=session) as agent:
            assert [message.role async for message in agent.full_round("Look.")] == ["assistant", "tool", "assistant"]
            state = await session.load()
    browser.open(written(tmp_path, page(state, "A talk")))
    assert browser.value(CELLS % "tokens") == [["1", "0", "300", "20", "320"], ["2", "300", "50", "30", "380"]]
    context = [row[:2] for row in browser.value(CELLS % "context")]
    assert context == [["1", "320"], ["2", "380"]]
    happened = browser.value(CELLS % "timeline")
    assert [row[1] for row in happened] == ["answer 1", "look", "answer 2"]
    assert "RateLimitError" in happened[0][4]
    facts = dict(browser.value(FACTS))
    assert (facts["Prompt tokens"], facts["Answer tokens"]) == ("650 (46% cached)", "50")
    assert (facts["Model"], facts["Requests"], facts["Calls of functions"]) == ("kimi-k3", "2", "1")
    assert browser.complaints == []


# ==== how it looks ====


WORDS = """
[...document.querySelectorAll(".plot text")].map(words => {
    const box = words.getBoundingClientRect();
    return [words.closest("figure").id, box.top, box.left, box.right];
})
"""


@pytest.mark.parametrize("answers", [1, 3, 200])
def test_a_phone_shows_it_without_scrolling_sideways(browser: Browser, tmp_path: Path, answers: int):
    wide = Message.user("w" * 3000 + " https://example.org/" + "a" * 500)
    code = Message.assistant("```\n" + "x" * 2000 + "\n```\n\n|" + "cell|" * 40 + "\n|" + "-|" * 40 + "\n")
    calling = Message.assistant(tool_calls=[ToolCall.from_function("f" * 60, a="b" * 500)])
    picture = Message.user(ImageURLPart(image_url=MediaURL(url=PIXEL)))
    state = SessionState(chat_history=(*talk(answers).chat_history, wide, code, calling, picture))
    browser.open(written(tmp_path, page(state, "A talk of " + "many" * 50 + " words")), width=360)
    browser.value("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.value("[innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    boxes = browser.value("[...document.querySelectorAll('.chart .scroll')].map(e => e.scrollWidth > e.clientWidth)")
    assert boxes[:2] == [answers == 200] * 2
    words = sorted(browser.value(WORDS))
    assert not [one for one, other in pairwise(words) if one[:2] == other[:2] and one[3] > other[2]]
    assert browser.complaints == []


def test_it_is_light_or_dark_as_the_reader_likes(browser: Browser, tmp_path: Path):
    colours = "['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name].match(/[0-9]+/g)[0] * 1)"
    browser.open(written(tmp_path, page(talk(), "A talk")))
    paper, ink = browser.value(colours)
    assert paper > 200 > 100 > ink
    browser.look(scheme="dark")
    paper, ink = browser.value(colours)
    assert paper < 60 < 200 < ink
    browser.look(scheme="dark", media="print")
    paper, ink = browser.value(colours)
    assert paper > 200 > 100 > ink


CLIPPED = """
[...document.querySelectorAll("pre, .scroll")].filter(
    box => box.scrollHeight > box.clientHeight + 1 || box.scrollWidth > box.clientWidth + 1).length
"""
HIDDEN = """[...document.querySelectorAll("article *")].filter(each => !each.checkVisibility()).length"""


def test_paper_has_all_of_it(browser: Browser, tmp_path: Path):
    code = Message.assistant([ThinkPart(think="I wonder."), "```\n" + ("wide " * 100 + "\n") * 100 + "```"])
    asking = Message.assistant(tool_calls=[ToolCall.from_function("look", call_id_="1", where="x" * 30_000)])
    history = (*talk(200).chat_history, code, asking, Message.tool("seen", "1"))
    browser.open(written(tmp_path, page(SessionState(chat_history=history), "A talk")), width=700)
    assert browser.value(CLIPPED) > 0
    assert browser.value(HIDDEN) > 0
    browser.look(width=700, media="print")
    assert (browser.value(CLIPPED), browser.value(HIDDEN)) == (0, 0)
    assert browser.value("[innerWidth, document.documentElement.scrollWidth]") == [700, 700]


def test_a_picture_of_the_session_is_shown(browser: Browser, tmp_path: Path):
    state = SessionState(chat_history=(Message.user(ImageURLPart(image_url=MediaURL(url=PIXEL))),))
    browser.open(written(tmp_path, page(state, "A talk")))
    assert browser.value("document.images[0].decode().then(() => document.images[0].naturalWidth)") == 1
    assert browser.complaints == []


# ==== hostile conversations ====

ATTACKS = """<script>ran = 1</script></style></title></textarea></pre></svg><script>ran = 1</script>
<img src=x onerror="ran = 1"><svg onload="ran = 1"><iframe src="javascript:ran = 1"></iframe>
" onmouseover="ran = 1" autofocus onfocus="ran = 1" x=" ' onclick='ran = 1
[click](javascript:ran=1) ![look](http://127.0.0.1:9/look.png) <https://127.0.0.1:9> <a href="javascript:ran = 1">a</a>
<link rel=stylesheet href=http://127.0.0.1:9/a.css><style>@import "http://127.0.0.1:9/b.css"</style>
<meta http-equiv=refresh content="0;url=http://127.0.0.1:9/"><base href=http://127.0.0.1:9/><form action=//127.0.0.1:9>
\x00\x1b[2J\x9b\u202etxt.exe\u2066\u2028\ud800\udfff {{ran = 1}} ${ran = 1} <!-- --> ]]>"""
URLS = (
    "javascript:ran=1",
    "http://127.0.0.1:9/a.png",
    "//127.0.0.1:9/a.png",
    "file:///etc/hostname",
    "data:text/html,<script>ran=1</script>",
    "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' onload='ran=1'/>",
    'data:image/png;base64,AA=="onerror="ran=1',
)


def hostile() -> SessionState:
    measured = {"began": 1.0, "seconds": 2.0, "model": ATTACKS, "input": 5, "output": 5, "retries": [[0, 1, ATTACKS]]}
    calls = [
        ToolCall(id="1", function=ToolCall.FunctionBody(name=ATTACKS, arguments=ATTACKS)),
        ToolCall.from_function("f", call_id_="2", a=ATTACKS),
    ]
    pictures = [ImageURLPart(image_url=MediaURL(url=url)) for url in URLS]
    fenced = (
        f"# {ATTACKS}\n\n- {ATTACKS}\n\n```{ATTACKS}\n{ATTACKS}\n```\n\n| `{ATTACKS}` |\n|---|\n| **{ATTACKS}** |\n"
    )
    history = (
        Message.user([ATTACKS, *pictures], name=ATTACKS),
        Message.assistant([ThinkPart(think=ATTACKS), ATTACKS], tool_calls=calls, extra={KEY: measured}),
        Message.tool([ATTACKS, *pictures], "1", extra={KEY: {"began": 3.0, "seconds": 1.0}}),
        Message.tool(ATTACKS, "2", is_tool_call_error=True),
        Message.assistant(fenced),
        Message.user((ATTACKS * (5_000_000 // len(ATTACKS) + 1))[:5_000_000]),
        Message.assistant("x" * 5_000_000),
    )
    return SessionState((Message.system(ATTACKS),), history, damage=(Damage(1, 2, ATTACKS),))


WITH_HANDLERS = """
[...document.querySelectorAll("*")].filter(each => [...each.attributes].some(one => /^on|^style$/.test(one.name)))
"""


def test_a_hostile_conversation_runs_nothing_and_loads_nothing(browser: Browser, tmp_path: Path):
    path = written(tmp_path, page(hostile(), ATTACKS))
    browser.open(path)
    browser.value("[...document.querySelectorAll('details')].slice(0, 20).forEach(each => each.open = true)")
    browser.value("document.querySelectorAll('*').forEach(e => e.dispatchEvent(new MouseEvent('mouseover')))")
    assert browser.value("typeof ran") == "undefined"
    assert browser.complaints == []
    assert browser.value("location.href") == path.as_uri()
    assert set(browser.requested) <= {path.as_uri()[:60], "data:,"}
    assert browser.value("document.querySelectorAll('script, iframe, form, base, a, object, embed, img').length") == 0
    assert browser.value("document.styleSheets.length") == 1
    assert browser.value(f"({WITH_HANDLERS}).length") == 0
    unseen = r"/[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffd]/u"
    assert browser.value(f"{unseen}.test(document.documentElement.textContent)") is False
    assert not browser.happened("Page.javascriptDialogOpening", "Page.frameAttached", "Target.targetCreated")


def test_the_policy_holds_where_the_page_itself_would_not(browser: Browser, tmp_path: Path):
    html = page(talk(), "A talk")
    smuggled = (
        "<script>ran = 1</script><img src=x onerror='ran = 1'><img src=http://127.0.0.1:9/a.png>"
        "<style>body{color:red}</style><p style='color:red'>a</p><iframe src='data:text/html,b'></iframe></main>"
    )
    browser.open(written(tmp_path, html.replace("</main>", smuggled)))
    assert browser.value("typeof ran") == "undefined"
    assert browser.value("getComputedStyle(document.querySelector('main > p')).color") != "rgb(255, 0, 0)"
    assert len(browser.complaints) >= 4
    assert not [each for each in browser.happened("Network.responseReceived") if "127.0.0.1" in each["response"]["url"]]
